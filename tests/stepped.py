"""A training script for overrides of optimizers: what it gives with a change written in, what was recorded of it."""

from __future__ import annotations

import contextlib
import io

import torch
import written
from overridden import Ran

from wellfit.catalogue import known_rules

SCRIPT = """
import copy
import math
import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(64, 6)
y = (x[:, 0] + x[:, 1] > 0).long()
model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 2))
weights, vectors = [p for p in model.parameters() if p.dim() > 1], [p for p in model.parameters() if p.dim() < 2]
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
# made
for step in range(12):
    rows = slice(step % 4 * 16, step % 4 * 16 + 16)
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
    loss.backward()
    # before
    optimizer.step()
    # after
    print(loss.item().hex())
print([float(p.detach().double().sum()).hex() for p in model.parameters()])
"""
SGD = "torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)"
ZERO = "    optimizer.zero_grad()\n"
STEP = "    optimizer.step()\n"
SET = "for g in optimizer.param_groups: g['lr'] = "


def changed(*pairs: tuple[str, str], script: str = SCRIPT) -> str:
    """As `written.changed`."""
    return written.changed(script, *pairs)


def by_hand(*pairs: tuple[str, str], script: str = SCRIPT) -> list[str]:
    """What the changed script prints, run in this process."""
    threads, out = torch.get_num_threads(), io.StringIO()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(), contextlib.redirect_stdout(out):
            exec(compile(changed(*pairs, script=script), "train.py", "exec"), {"__name__": "__main__"})
    finally:
        torch.set_num_threads(threads)
    return out.getvalue().splitlines()


def found(ran: Ran) -> set[str]:
    """The rules that find something in the record."""
    assert ran.record is not None, ran.err
    return {finding.rule for rule in known_rules()[0] for finding in rule().check(ran.record)}


def hyper(ran: Ran, name: str, steps: int = 12) -> list[float]:
    """An option of the first optimizer in each step, as recorded."""
    assert ran.record is not None, ran.err
    return [round(float(value), 7) for value in ran.record.hyper(name, 0).at(list(range(steps)))]
