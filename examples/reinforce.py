"""REINFORCE: a policy learns to balance a pole from nothing but the rewards of its own episodes.

    wellfit run examples/reinforce.py

A policy network pushes the cart left or right at random, by its own probabilities. After each batch of episodes the
actions that were followed by more reward than the baseline expected become more probable, the others less. The
baseline is a second network, taught to predict the return. An untrained policy drops the pole after some 22 steps,
500 is the most an episode can bring; the way there goes up and down. (R. J. Williams 1992, Simple statistical
gradient-following algorithms for connectionist reinforcement learning.)

Reaches: mean return 500.0 in 17 s.
"""

import torch
from torch import nn
from torch.distributions import Categorical

try:
    import gymnasium as gym
except ImportError:
    raise SystemExit('examples/reinforce.py needs gymnasium: pip install "wellfit[examples]"') from None

torch.manual_seed(0)
GAMMA = 0.99  # a reward a hundred steps ahead counts a third
EPISODES = 8  # played side by side for one update: the gradient of a single episode is mostly noise

policy = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 2))
baseline = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 1))
policy_optimizer = torch.optim.Adam(policy.parameters(), lr=0.005)
baseline_optimizer = torch.optim.Adam(baseline.parameters(), lr=0.005)


@torch.no_grad()
def play(envs, choose):
    """One episode in each environment. `alive` is False where an episode was over before the step."""
    observation, _ = envs.reset(seed=int(torch.randint(2**31, ())))
    now_alive = torch.ones(envs.num_envs, dtype=torch.bool)
    observations, actions, alive = [], [], []
    while now_alive.any():
        observations.append(torch.from_numpy(observation))
        actions.append(choose(policy(observations[-1])))
        alive.append(now_alive)
        observation, _, fallen, timeout, _ = envs.step(actions[-1].numpy())
        now_alive = now_alive & ~torch.from_numpy(fallen | timeout)
    return torch.stack(observations), torch.stack(actions), torch.stack(alive)


def draw(logits):
    return torch.multinomial(logits.softmax(1), 1).squeeze(1)


def best(logits):
    return logits.argmax(1)


envs = gym.make_vec("CartPole-v1", EPISODES, vectorization_mode="vector_entry_point")
for update in range(1, 101):
    observations, actions, alive = play(envs, draw)

    # The return G_t = r_t + GAMMA * r_(t+1) + GAMMA^2 * r_(t+2) + ..., with reward 1 for each step that the pole
    # stands. It is 1 / (1 - GAMMA) at most; in units of that the baseline's target lies in 0..1.
    t = torch.arange(len(alive))
    discount = (GAMMA ** (t - t[:, None])).triu()
    returns = (1 - GAMMA) * discount @ alive.float()
    observations, actions, returns = observations[alive], actions[alive], returns[alive]

    expected = baseline(observations).squeeze(1)
    baseline_loss = nn.functional.mse_loss(expected, returns)
    baseline_optimizer.zero_grad()
    baseline_loss.backward()
    baseline_optimizer.step()

    advantage = returns - expected.detach()
    advantage = (advantage - advantage.mean()) / advantage.std()  # the same step length early and late
    log_probability = Categorical(logits=policy(observations)).log_prob(actions)
    policy_loss = -(log_probability * advantage).mean()
    policy_optimizer.zero_grad()
    policy_loss.backward()
    policy_optimizer.step()

    if update % 10 == 0:
        print(
            f"update {update:3}  mean return {len(actions) / EPISODES:5.1f}  baseline loss {baseline_loss.item():.4f}"
        )

# The test: the policy no longer draws, it takes the more probable action.
_, _, alive = play(gym.make_vec("CartPole-v1", 20, vectorization_mode="vector_entry_point"), best)
print(f"mean return {alive.sum().item() / 20:.1f}")
