"""Cuts of networks drawn at random: sums, products, concatenations and slices of anything that came before."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from torch import nn

from wellfit.slim.changes._tree import tensor_of
from wellfit.slim.measure.inputs import Inputs
from wellfit.slim.methods.coupled import coupling
from wellfit.slim.methods.structured import checked_cuts

LAYERS = {
    "conv": lambda width, chance: nn.Conv2d(width, chance.choice([4, 6, 8]), 3, padding=1),
    "depthwise": lambda width, chance: nn.Conv2d(width, width, 3, padding=1, groups=width),
    "norm": lambda width, chance: nn.BatchNorm2d(width),
    "groups": lambda width, chance: nn.GroupNorm(chance.choice([g for g in (2, width) if width % g == 0]), width),
    "gate": lambda width, chance: nn.Conv2d(width, width, 1),
}
JOINS = ("add", "multiply", "concatenate", "relu", "slice", "halves", "pool", "flip")


class Drawn(nn.Module):
    """Each operation takes one earlier result, or two; the last result and one in the middle become outputs."""

    def __init__(self, seed):
        super().__init__()
        chance = random.Random(seed)
        self.operations, self.layers, widths = [], nn.ModuleList(), [3]
        for _ in range(chance.randint(3, 9)):
            kind, one = chance.choice([*LAYERS, "conv", *JOINS]), chance.randrange(len(widths))
            width, other = widths[one], None
            if kind in LAYERS:
                other = len(self.layers)
                self.layers.append(LAYERS[kind](width, chance))
                width = self.layers[-1].out_channels if kind == "conv" else width
            elif kind in ("add", "multiply"):
                other = chance.choice([place for place, size in enumerate(widths) if size == width])
            elif kind == "concatenate":
                other = chance.randrange(len(widths))
                width += widths[other]
            elif kind in ("slice", "halves"):
                width = width // 2 * 2
                kind, width = ("relu", widths[one]) if width == 0 else (kind, width // 2)
            self.operations.append((kind, one, other))
            widths.append(width)
        self.middle = len(widths) // 2
        self.head, self.side = nn.Linear(widths[-1] * 16, 3), nn.Linear(widths[self.middle], 2)

    def forward(self, x):
        results = [x]
        for kind, one, other in self.operations:
            a = results[one]
            if kind == "gate":
                a = a * torch.sigmoid(self.layers[other](a.mean((2, 3), keepdim=True)))
            elif kind in LAYERS:
                a = self.layers[other](a)
            elif kind == "add":
                a = a + results[other]
            elif kind == "multiply":
                a = a * results[other]
            elif kind == "concatenate":
                a = torch.cat([a, results[other]], 1)
            elif kind == "slice":
                a = a[:, : a.shape[1] // 2]
            elif kind == "halves":
                left, right = a[:, : a.shape[1] // 2 * 2].chunk(2, 1)
                a = left * torch.sigmoid(right)
            else:
                a = {"relu": torch.relu, "flip": lambda t: t.flip(1)}.get(kind, nn.AvgPool2d(3, 1, 1))(a)
            results.append(a)
        return self.head(results[-1].flatten(1)), self.side(results[self.middle].mean((2, 3)))


@pytest.mark.parametrize("start", range(0, 120, 30))
def test_drawn_networks(start):
    """Whatever is cut gives the outputs of the masked model, on other inputs than those of the check too."""
    cuts = channels = 0
    for seed in range(start, start + 30):
        torch.manual_seed(seed)
        model, chance = Drawn(seed).eval(), random.Random(seed)
        inputs = Inputs((torch.randn(2, 3, 4, 4),))
        found = coupling(model, inputs)
        kept = {g.name: chance.sample(range(g.channels), chance.randint(1, g.channels)) for g in found.groups}
        made = checked_cuts(model, inputs, found, kept)
        if made.cut is None:
            continue
        cuts += 1
        channels += sum(found.group(name).channels - len(left) for name, left in made.kept.items())
        smaller, masked = copy.deepcopy(model), copy.deepcopy(model)
        made.cut.apply(smaller)
        for name, axis, left in made.cut.slices:
            tensor = tensor_of(masked, name)
            gone = [index for index in range(tensor.shape[axis]) if index not in left]
            tensor.detach().movedim(axis, 0)[gone] = 0
        other = torch.randn(5, 3, 4, 4)
        with torch.no_grad():
            for one, two in zip(smaller(other), masked(other), strict=True):
                torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4 * float(two.abs().max()), msg=f"seed {seed}")
    assert cuts >= 8 and channels >= 40
