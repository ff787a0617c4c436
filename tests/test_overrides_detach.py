"""Where a model can be cut in two, and where not."""

from __future__ import annotations

import pytest
from overridden import Run
from written import said, stopped

PARTS = """
import dataclasses
import torch
from torch import nn

@dataclasses.dataclass
class Output:
    hidden: torch.Tensor
class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)
    def forward(self, x):
        return Output(self.inner(x))
class Normal(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)
    def forward(self, x):
        return torch.distributions.Normal(self.inner(x), 1.0)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])
        self.unused, self.part, self.normal, self.head = nn.Linear(4, 4), Part(), Normal(), nn.Linear(4, 2)
    def forward(self, x):
        for layer in self.layers:
            x = layer(x).relu()
        return self.head(self.normal(self.part(x).hidden).mean)
net = Net()
optimizer = torch.optim.SGD([p for name, p in net.named_parameters() if "unused" not in name], lr=0.1)
for step in range(2):
    optimizer.zero_grad()
    net(torch.randn(8, 4)).square().mean().backward()
    optimizer.step()
print(sorted(name for name, p in net.named_parameters() if p.grad is None and name.endswith("weight")))
"""


@pytest.mark.parametrize(
    ("override", "cut", "left"),
    [
        ("detach=part", ["layers.0", "layers.1", "layers.2", "part.inner"], []),
        ("detach=layers.?", ["layers.0", "layers.1", "layers.2"], []),
        ("detach=*1", ["layers.0", "layers.1"], []),
        ("detach=*r*", ["layers.0", "layers.1", "layers.2", "part.inner", "normal.inner"],
         ["layers", "normal"]),
        ("detach", ["layers.0", "layers.1", "layers.2"], []),
    ],
)  # fmt: skip
def test_what_is_cut_off(run: Run, override: str, cut: list[str], left: list[str]) -> None:
    ran = run(PARTS, override)
    assert ran.lines == [str(sorted(f"{name}.weight" for name in [*cut, "unused"]))], ran.err
    assert [what for what, _ in said(ran, "detach")[1]] == [f"{name} of Net at train.py:34" for name in left]


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("detach=layers", "layers of Net at train.py:34: it is not called itself"),
        ("detach=unused", "it is not called itself"),
        ("detach=normal", "what it gives back holds no tensors that are known"),
        ("detach=head", "no layer follows it"),
        ("detach=nothing", "it has no layer nothing"),
    ],
)
def test_what_cannot_be_cut_off(run: Run, override: str, why: str) -> None:
    stopped(run(PARTS, override), why)
