"""Weights that look as they were drawn, and weights that were trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from wellfit.record import Record
from wellfit.rules.fresh import all_new
from wellfit.testing import MadeRun

DRAWN = {
    "torch": lambda weight: nn.Linear(weight.shape[1], weight.shape[0]).weight,
    "he normal": nn.init.kaiming_normal_,
    "he uniform": lambda weight: nn.init.kaiming_uniform_(weight, nonlinearity="relu"),
    "he by fan-out": lambda weight: nn.init.kaiming_normal_(weight, mode="fan_out"),
    "glorot normal": nn.init.xavier_normal_,
    "glorot uniform": nn.init.xavier_uniform_,
    "glorot for tanh": lambda weight: nn.init.xavier_normal_(weight, nn.init.calculate_gain("tanh")),
    "lecun": lambda weight: nn.init.normal_(weight, 0, weight.shape[1] ** -0.5),
    "gpt": lambda weight: nn.init.normal_(weight, 0, 0.02),
    "gpt, last of 12 blocks": lambda weight: nn.init.normal_(weight, 0, 0.02 / 24**0.5),
}


def trained(weight: torch.Tensor) -> torch.Tensor:
    """Heavy tails about a usual size."""
    return nn.init.kaiming_normal_(weight).mul_(torch.rand(weight.shape).mul_(2))


OTHER = {
    "trained": trained,
    "larger": lambda weight: nn.init.kaiming_normal_(weight).mul_(1.25),
    "shifted": lambda weight: nn.init.kaiming_normal_(weight).add_(0.03),
    "constant": lambda weight: nn.init.constant_(weight, 0.1),
    "few": lambda weight: nn.init.kaiming_normal_(weight[:2, :32]),
}


def of(folder: Path, *weights: torch.Tensor) -> Record:
    made = MadeRun(folder)
    for place, weight in enumerate(weights):
        initial = {"std": float(weight.std()), "rms": float(weight.square().mean().sqrt()),
                   "amax": float(weight.abs().max())}  # fmt: skip
        made.declare("parameter", name=f"{place}.weight", layer=str(place), shape=list(weight.shape),
                     requires_grad=True, optimizer=0, initial=initial, fan_in=weight.shape[1])  # fmt: skip
    made.step(2.3)
    return made.record()


@pytest.mark.parametrize("shape", [(64, 32), (256, 256)], ids=str)
@pytest.mark.parametrize("kind", [*DRAWN, *OTHER])
def test_weights_as_they_are_drawn(tmp_path: Path, kind: str, shape: tuple[int, int]) -> None:
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        record = of(tmp_path, *((DRAWN | OTHER)[kind](torch.empty(shape)) for _ in range(4)))
    assert all_new(record, list(record.parameters.values())) == (kind in DRAWN)


def test_of_no_weights_nothing_is_said(tmp_path: Path) -> None:
    assert not all_new(of(tmp_path), [])
