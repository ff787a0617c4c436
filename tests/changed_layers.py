"""One layer as a model: changed, made anew from a list of changes, trained for a step."""

from __future__ import annotations

import copy

import torch
from hypothesis import strategies as st
from torch import nn

from wellfit.slim.changes import Change, as_json, from_json, redo_all


def changed(model: nn.Module, change: Change) -> nn.Module:
    other = copy.deepcopy(model)
    change.apply(other)
    return other


def redone(model: nn.Module, change: Change, slim: nn.Module) -> nn.Module:
    """A fresh model that has gone through JSON, `redo` and `load_state_dict`."""
    fresh = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.normal_()
    redo_all(fresh, from_json(as_json([change])))
    fresh.load_state_dict(slim.state_dict())
    return fresh


def train_one_step(model: nn.Module, x: torch.Tensor) -> None:
    """Every parameter that may change does."""
    model.train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    out = model(x)
    (out[0] if isinstance(out, tuple) else out).square().sum().backward()
    torch.optim.SGD(model.parameters(), 0.01).step()
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, before[name]), name


class Holder(nn.Module):
    """A model that is one layer, `layer`."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


def conv_settings():
    modes = st.sampled_from(["zeros", "reflect", "replicate", "circular"])
    return st.fixed_dictionaries(
        {
            "stride": st.integers(1, 2),
            "padding": st.integers(0, 2),
            "dilation": st.integers(1, 2),
            "padding_mode": modes,
        }
    )
