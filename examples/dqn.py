"""DQN: Q-learning with a neural network, a memory to replay and a target that stands still for a while.

    wellfit run examples/dqn.py

The network predicts for each action the discounted sum of rewards to come, Q(s, a); the only reward is -1 for the
fall. It learns from random batches of remembered steps, against a target r + gamma max Q(s', a') that an older copy of
itself provides. Actions are random with probability epsilon, which falls. The old copy values the action that the new
network would choose (Double DQN). As is usual the network is tested while it learns, because it also forgets: the best
weights are kept, and learning ends when the pole stands through all twenty tests.
(V. Mnih et al. 2015, Human-level control through deep reinforcement learning; H. van Hasselt et al. 2016, Deep
reinforcement learning with double Q-learning.)

Reaches: mean return 500.0 in 12 s.
"""

import copy

import torch
import torch.nn.functional as F
from torch import nn

try:
    import gymnasium as gym
except ImportError:
    raise SystemExit('examples/dqn.py needs gymnasium: pip install "wellfit[examples]"') from None

torch.manual_seed(0)
gamma = 0.98  # looks some fifty steps ahead
batch_size = 128
memory_size = 50_000
actors = 8  # environments side by side: each update has eight new steps in memory
updates = 1500  # at most
warm_up = 100  # rounds of chance before the first update, so that the first batches are not all alike
target_every = 100  # updates between two copies into the target network
epsilon_last, epsilon_rounds = 0.1, 1000


class QNetwork(nn.Module):
    def __init__(self, width=256):
        super().__init__()
        # Position, speed, angle and angular speed, each divided by the size it usually has: the angle, in radians,
        # would otherwise be ten times smaller than the rest.
        self.register_buffer("scale", torch.tensor([2.4, 2.0, 0.2, 2.0]))
        self.layer1 = nn.Linear(4, width)
        self.layer2 = nn.Linear(width, width)
        self.values = nn.Linear(width, 2)

    def forward(self, state):
        x = F.relu(self.layer1(state / self.scale))
        x = F.relu(self.layer2(x))
        return self.values(x)


class ReplayMemory:
    """A ring: when it is full, the newest step takes the place of the oldest."""

    def __init__(self, size):
        self.size, self.written = size, 0
        self.columns = [  # state, action, next state, 1 where the episode goes on and 0 where the pole fell
            torch.zeros(size, 4),
            torch.zeros(size, dtype=torch.long),
            torch.zeros(size, 4),
            torch.zeros(size),
        ]

    def add(self, *values):
        where = torch.arange(self.written, self.written + len(values[0])) % self.size
        for column, value in zip(self.columns, values):
            column[where] = value
        self.written += len(where)

    def sample(self, count):
        where = torch.randint(min(self.written, self.size), (count,))
        return [column[where] for column in self.columns]


def start(envs):
    states, _ = envs.reset(seed=int(torch.randint(2**31, ())))
    return torch.from_numpy(states)


def step(envs, actions):
    states, _, fallen, timeout, _ = envs.step(actions.numpy())
    return torch.from_numpy(states), torch.from_numpy(fallen), torch.from_numpy(timeout)


@torch.no_grad()
def test(envs):
    """The mean return of the greedy policy, one episode in each environment; each step is worth 1."""
    states, total = start(envs), 0
    playing = torch.ones(envs.num_envs, dtype=torch.bool)
    while playing.any():
        total += playing.sum().item()
        states, fallen, timeout = step(envs, online(states).argmax(1))
        playing &= ~(fallen | timeout)
    return total / envs.num_envs


envs = gym.make_vec("CartPole-v1", actors, vectorization_mode="vector_entry_point")
test_envs = gym.make_vec("CartPole-v1", 20, vectorization_mode="vector_entry_point")
online = QNetwork()
target = copy.deepcopy(online)
memory = ReplayMemory(memory_size)
optimizer = torch.optim.Adam(online.parameters(), lr=5e-4)
# Smaller steps towards the end: late noise undoes what is already good.
schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=updates)

best_score, best_weights = 0.0, None
states = start(envs)
over = torch.zeros(actors, dtype=torch.bool)
for round in range(warm_up + updates):
    epsilon = max(epsilon_last, 1 - round / epsilon_rounds)
    with torch.no_grad():
        greedy = online(states).argmax(1)
    actions = torch.where(torch.rand(actors) < epsilon, torch.randint(2, (actors,)), greedy)
    next_states, fallen, timeout = step(envs, actions)
    # The pole that stood until the timeout did not fall: its episode has a value beyond the last step. After either
    # end the environment starts anew, and the step that does so is not one of the game's.
    memory.add(states[~over], actions[~over], next_states[~over], 1 - fallen[~over].float())
    states, over = next_states, fallen | timeout
    if round < warm_up:
        continue

    s, a, s_next, goes_on = memory.sample(batch_size)
    with torch.no_grad():
        choice = online(s_next).argmax(1, keepdim=True)
        wanted = goes_on - 1 + gamma * goes_on * target(s_next).gather(1, choice).squeeze(1)
    predicted = online(s).gather(1, a.unsqueeze(1)).squeeze(1)
    loss = F.smooth_l1_loss(predicted, wanted)  # Huber: a large surprise pulls no harder than one of size 1
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()

    update = round - warm_up + 1
    if update % target_every == 0:
        target.load_state_dict(online.state_dict())
    if update % 100 == 0:
        score = test(test_envs)
        if score > best_score:
            best_score, best_weights = score, copy.deepcopy(online.state_dict())
            print(
                f"update {update:4}  epsilon {epsilon:.2f}  loss {loss.item():.4f}  mean return of 20 tests {score:.1f}"
            )
        if score == 500:
            break

online.load_state_dict(best_weights)
print(f"mean return {test(test_envs):.1f}")
