"""The adding problem: remember two numbers over thirty steps and give their sum.

    wellfit run examples/adding.py
    wellfit run examples/adding.py --cell gru

At each step the network sees a random number and a mark that is 1 at two steps and 0 elsewhere; after the last step
it must say the sum of the two marked numbers. Who always says 1 has an error of 1/6 = 0.167, and a network that cannot
carry a number through time stays there. The LSTM was invented for this (Hochreiter & Schmidhuber 1997, "Long
short-term memory"). Watch the plateau at 0.167, and how suddenly it is left.

The GRU (--cell gru) is there sooner, and even the plain recurrent network (--cell rnn) learns it, if it is made of
ReLUs that begin as a perfect memory: identity weights (Le, Jaitly & Hinton 2015, "A simple way to initialize recurrent
networks of rectified linear units"). With the tanh cell and random weights it would need far longer.

Reaches: test mean squared error 0.0004 in 16 s.
"""

import argparse

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--cell", choices=["rnn", "lstm", "gru"], default="lstm")
cell = parser.parse_args().cell

torch.manual_seed(0)
length, hidden = 30, 64


def adding_problem(count):
    """`count` sequences (count, length, 2) of numbers and marks, and their sums (count, 1)."""
    numbers = torch.rand(count, length)
    marks = torch.zeros(count, length)
    half = length // 2  # one mark in each half: the first number must be kept for 1 to 29 steps
    marks[torch.arange(count), torch.randint(half, (count,))] = 1
    marks[torch.arange(count), torch.randint(half, length, (count,))] = 1
    return torch.stack([numbers, marks], dim=2), (numbers * marks).sum(1, keepdim=True)


class Adder(nn.Module):
    def __init__(self):
        super().__init__()
        if cell == "lstm":
            self.recurrent = nn.LSTM(2, hidden, batch_first=True)
            # Gates are stacked as input, forget, cell, output. A forget gate that begins open (bias 1) remembers.
            nn.init.ones_(self.recurrent.bias_ih_l0.data[hidden : 2 * hidden])
        elif cell == "gru":
            self.recurrent = nn.GRU(2, hidden, batch_first=True)
        else:
            self.recurrent = nn.RNN(2, hidden, nonlinearity="relu", batch_first=True)
            nn.init.eye_(self.recurrent.weight_hh_l0)
            nn.init.normal_(self.recurrent.weight_ih_l0, std=0.1)
            nn.init.zeros_(self.recurrent.bias_ih_l0)
            nn.init.zeros_(self.recurrent.bias_hh_l0)
        self.head = nn.Linear(hidden, 1)

    def forward(self, x):
        states, _ = self.recurrent(x)
        return self.head(states[:, -1])


model = Adder()
# The plain network multiplies by the same matrix at every step: a step of the optimizer goes a long way in it.
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3 if cell == "rnn" else 5e-3)
x_test, y_test = adding_problem(1000)

for step in range(1, 1001):
    x, y = adding_problem(64)  # new ones at each step: nothing can be learned by heart
    loss = nn.functional.mse_loss(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    # Gradients through time explode now and then; cut to length 1, one such step does no harm.
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    if step % 100 == 0:
        print(f"step {step:4}  loss {loss.item():.4f}")

with torch.no_grad():
    error = nn.functional.mse_loss(model(x_test), y_test).item()
print(f"test mean squared error {error:.4f}")
