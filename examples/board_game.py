"""A board game learned from nothing but its rules: a policy-value network and Monte Carlo tree search.

    wellfit run examples/board_game.py

The game is Connect Four on a board of five columns and four rows. The network sees a position and says which moves
are good and how the game will end. A tree search, guided by the network, finds better moves than the network alone;
the network learns to play as the search did and to foresee how its games ended, and so the next search is better.
(D. Silver et al. 2017, Mastering the game of Go without human knowledge.)

The test is the network without search, against a player who looks one move ahead: wins if it can, prevents a loss if
it can, and moves at random otherwise. A draw counts half. The untrained network scores about 0.1.

Reaches: score 0.671 in 29 s.
"""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
ROWS, COLUMNS = 4, 5
GAMES = 64  # played side by side, so that the network judges 64 positions at once
SIMULATIONS = 24  # positions that the search visits for one move
ITERATIONS = 8
STEPS = 50  # of the optimizer, per iteration

# ---- The rules. Many games at once: boards has shape (games, 2, ROWS, COLUMNS), with the stones of the player to move
# in plane 0 and the other's in plane 1. Row 0 is the floor.

# The four lines of four: upright, level, and the two diagonals. A convolution with them counts stones in a row.
LINES = torch.zeros(4, 1, 4, 4)
LINES[0, 0, :, 0] = LINES[1, 0, 0, :] = 1
LINES[2, 0], LINES[3, 0] = torch.eye(4), torch.eye(4).flip(0)


def legal(boards):
    return boards[:, :, -1].sum(1) == 0


def put(boards, moves):
    """The boards after one more stone, seen by the player whose turn it is then."""
    games = torch.arange(len(boards))
    height = boards.sum((1, 2))[games, moves].long()
    boards = boards.clone()
    boards[games, 0, height, moves] = 1
    return boards.flip(1)


def last_move_won(boards):
    stones = F.pad(boards[:, 1:], (0, 3, 0, 3))  # room beyond the edge for the lines' empty sides
    return F.conv2d(stones, LINES).amax((1, 2, 3)) == 4


# ---- The network.


class PolicyValueNet(nn.Module):
    def __init__(self, channels=32):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.policy = nn.Linear(channels * ROWS * COLUMNS, COLUMNS)
        self.value = nn.Sequential(nn.Linear(channels * ROWS * COLUMNS, 32), nn.ReLU(), nn.Linear(32, 1), nn.Tanh())

    def forward(self, boards):
        features = self.body(boards)
        return self.policy(features), self.value(features).squeeze(1)


net = PolicyValueNet()
optimizer = torch.optim.Adam(net.parameters(), lr=0.002, weight_decay=1e-4)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=ITERATIONS * STEPS)


@torch.no_grad()
def judge(boards):
    """What the network makes of some boards: the probability of each legal move, and the value."""
    logits, value = net(boards)
    return logits.masked_fill(~legal(boards), -torch.inf).softmax(1), value


# ---- The search.


def search(boards):
    """From each board, the share of visits that each move got. The network must be in eval mode.

    Each game has a tree of its own; all grow side by side, by one position in a simulation. Node 1 is the board itself
    and node 0 stands for "not there yet". Values are those of the player to move: what is good for one is bad for the
    other, so the sign changes at each step up the tree.
    """
    games, nodes = torch.arange(len(boards)), SIMULATIONS + 2
    position = torch.zeros(len(boards), nodes, 2, ROWS, COLUMNS)
    prior = torch.zeros(len(boards), nodes, COLUMNS)
    child = torch.zeros(len(boards), nodes, COLUMNS, dtype=torch.long)
    parent = torch.zeros(len(boards), nodes, dtype=torch.long)
    over = torch.zeros(len(boards), nodes, dtype=torch.bool)
    visits = torch.zeros(len(boards), nodes)
    total = torch.zeros(len(boards), nodes)  # of the values found at a node and below it

    position[:, 1] = boards
    # Some noise at the root, so that the search also tries what the network thinks little of.
    noise = torch.distributions.Dirichlet(torch.ones(COLUMNS)).sample((len(boards),))
    prior[:, 1] = (0.75 * judge(boards)[0] + 0.25 * noise).masked_fill(~legal(boards), -torch.inf)  # never chosen

    for new in range(2, nodes):
        # Down the tree, to the move with the best sum of value and curiosity (PUCT), until it leads out of the tree or
        # ends the game. Where the way down has ended, the same move is found again until all games are there.
        node = torch.ones(len(boards), dtype=torch.long)
        while True:
            below = child[games, node]
            n = visits.gather(1, below)
            value = -total.gather(1, below) / n.clamp(min=1)
            curiosity = 1.5 * prior[games, node] * (n.sum(1, keepdim=True) + 1).sqrt() / (n + 1)
            move = (value + curiosity).argmax(1)
            following = child[games, node, move]
            inside = (following > 0) & ~over[games, following]
            if not inside.any():
                break
            node = torch.where(inside, following, node)

        # A new position, judged by the network, or by the rules if the game ends there.
        leaf = torch.where(following > 0, following, new)
        board = put(position[games, node], move)
        position[games, leaf], parent[games, leaf], child[games, node, move] = board, node, leaf
        allowed = legal(board)
        policy, value = judge(board)
        prior[games, leaf] = policy.masked_fill(~allowed, -torch.inf)
        lost, full = last_move_won(board), ~allowed.any(1)
        over[games, leaf] = lost | full
        value = torch.where(lost, -1.0, torch.where(full, 0.0, value))

        # Up the tree with its value.
        node = leaf
        while node.any():
            visits[games, node] += 1
            total[games, node] += value
            value, node = -value, parent[games, node]
        visits[:, 0], total[:, 0] = 0, 0

    n = visits.gather(1, child[:, 1])
    return n / n.sum(1, keepdim=True)


def self_play():
    """GAMES games of the search against itself: boards, the search's moves, and how each game ended for the mover."""
    net.eval()
    boards = torch.zeros(GAMES, 2, ROWS, COLUMNS)
    playing = torch.arange(GAMES)  # which games are not over
    result = torch.zeros(GAMES)  # 1 where the first player won, -1 where the second did
    history = []
    for turn in range(ROWS * COLUMNS):
        shares = search(boards)
        history.append((boards, shares, playing, turn))
        boards = put(boards, torch.multinomial(shares**2, 1).squeeze(1))  # squared: mostly the best move
        won = last_move_won(boards)
        result[playing[won]] = 1.0 if turn % 2 == 0 else -1.0
        boards, playing = boards[~won], playing[~won]
        if len(playing) == 0:
            break
    outcomes = [result[playing] * (-1) ** turn for _, _, playing, turn in history]
    return torch.cat([h[0] for h in history]), torch.cat([h[1] for h in history]), torch.cat(outcomes)


# ---- The test.


def one_move_ahead(boards):
    """Wins if it can, else prevents a loss if it can, else moves at random."""
    can = legal(boards)
    urge = torch.rand(len(boards), COLUMNS)
    for move in range(COLUMNS):
        here = boards[can[:, move]]
        urge[can[:, move], move] += 2.0 * last_move_won(put(here, move)) + 1.0 * last_move_won(put(here.flip(1), move))
    return urge.masked_fill(~can, -1).argmax(1)


def policy_alone(boards):
    return judge(boards)[0].argmax(1)


def score(games=400):
    """Share of points of the network without search; it begins in every other game."""
    net.eval()
    points = 0.0
    for mine in (0, 1):
        boards = torch.zeros(games // 2, 2, ROWS, COLUMNS)
        for turn in range(ROWS * COLUMNS):
            boards = put(boards, policy_alone(boards) if turn % 2 == mine else one_move_ahead(boards))
            won = last_move_won(boards)
            points += won.sum().item() if turn % 2 == mine else 0
            boards = boards[~won]
            if len(boards) == 0:
                break
        points += len(boards) / 2
    return points / games


# ---- Learning.

print(f"untrained: score {score():.3f}")
memory = []
for iteration in range(1, ITERATIONS + 1):
    memory = [*memory[-1:], self_play()]  # this iteration's games and the last one's: older ones were played worse
    boards, shares, outcomes = (torch.cat(column) for column in zip(*memory))
    net.train()
    for _ in range(STEPS):
        batch = torch.randint(len(boards), (128,))
        x, wanted_policy, wanted_value = boards[batch], shares[batch], outcomes[batch]
        if torch.rand(()) < 0.5:  # the mirror image is as good a position
            x, wanted_policy = x.flip(3), wanted_policy.flip(1)
        policy, value = net(x)
        policy_loss = F.cross_entropy(policy, wanted_policy)
        value_loss = F.mse_loss(value, wanted_value)
        optimizer.zero_grad()
        (policy_loss + value_loss).backward()
        optimizer.step()
        schedule.step()
    if iteration % 2 == 0:
        losses = f"policy loss {policy_loss.item():.3f}  value loss {value_loss.item():.3f}"
        print(f"iteration {iteration}  positions {len(boards):4}  {losses}  score {score():.3f}")

print(f"score {score():.3f}")
