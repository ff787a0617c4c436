"""A training script whose model is made small, and what it prints of its weights."""

from __future__ import annotations

import ast

from overridden import Ran

SCRIPT = """
import copy
import torch
import torch.nn.functional as F
from torch import nn
torch.manual_seed(0)
x = torch.randn(256, 20)
y = (x @ torch.randn(20, 4)).argmax(1)
model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4))
weights = [p for p in model.parameters() if p.dim() > 1]
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
def look():
    zeros = [int((w == 0).sum()) for w in weights]
    print([zeros, [len(w[w != 0].unique()) for w in weights]])
# made
for step in range(40):
    rows = torch.randint(0, 256, (32,))
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x[rows]), y[rows])
    loss.backward()
    optimizer.step()
    look()
# after
"""
ADAM = "torch.optim.Adam(model.parameters(), lr=0.01)"
COUNTS = [640, 512, 64]
TOTAL = sum(COUNTS)


def looks(ran: Ran) -> list[tuple[list[int], list[int]]]:
    """What `look()` printed: zeros and distinct other values of each weight, step by step."""
    assert ran.code == 0, ran.err
    return [tuple(ast.literal_eval(line)) for line in ran.lines if line.startswith("[[")]
