"""The walk back from a loss that is not finite."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from wellfit.probe.fence import Fence
from wellfit.probe.layers import Layers
from wellfit.probe.nonfinite import autopsy
from wellfit.probe.statistics import Meter
from wellfit.probe.trace import Trace


@pytest.mark.parametrize("shape", [(5, 4), (2, 5, 4)], ids=["addmm", "batched"])
def test_the_autopsy_tells_bad_data_from_a_bad_operation(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    layers, trace = Layers(), Trace(Fence(), lambda: None)

    def found(x: torch.Tensor) -> dict:
        return autopsy(net(x).square().sum().grad_fn, layers, Meter(), trace, [])

    assert found(torch.randn(shape).index_fill(-1, torch.tensor([1]), math.nan))["where"] == "input"
    with torch.no_grad():
        net[0].weight.fill_(3e38)
    assert found(torch.ones(shape))["where"] == "forward"
    with torch.no_grad():
        net[0].weight.fill_(math.nan)
    assert found(torch.ones(shape))["where"] == "parameter"
