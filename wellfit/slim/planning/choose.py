"""From the options of each layer to steps for the whole model."""

from __future__ import annotations

import math
from collections.abc import Iterable

from wellfit.slim.planning.scan import Option, Scan
from wellfit.slim.planning.step import METHODS, Step

Steps = tuple[Step, ...]


def chosen(scan: Scan, price: float) -> Steps:
    """For each layer the option with the least cost + price * moved^2: of all choices with as much error in the sum of
    squares, that with the least cost (Lagrange), up to the gaps between options.

    Args:
        scan: what was found.
        price: of error, in bytes or milliseconds; inf: nothing is done but what changes no output.
    """
    layers = {name: _best(options, price) for name, options in scan.layers.items()}
    cuts = [
        _best(_weighed(options, layers) if scan.goal == "size" else options, price) for options in scan.cuts.values()
    ]
    steps = [*scan.folds, *(step for option in (*cuts, *layers.values()) for step in option.steps)]
    return ordered(steps)


def ordered(steps: Iterable[Step]) -> Steps:
    """Norms are folded first, then channels cut, then the rest layer by layer."""
    return tuple(sorted(steps, key=lambda step: min(METHODS[step.method].place, 2)))


def _best(options: list[Option], price: float) -> Option:
    finite = [option for option in options if math.isfinite(option.moved)]
    return min(finite, key=lambda option: option.cost + (price * option.moved**2 if option.moved else 0.0))


def _weighed(options: list[Option], layers: dict[str, Option]) -> list[Option]:
    """Cuts with the bytes that they save of layers which are made small as well."""
    found = []
    for option in options:
        saved = sum((1 - left) * layers[name].cost for name, left in option.left.items() if name in layers)
        found.append(Option(option.steps, -saved, option.moved))
    return found
