"""Products of matrices: the axes that are summed over belong together, the others pass into the result."""

from __future__ import annotations

from wellfit.slim.methods.coupled.trace import Axes, Call, Rule


def _product(call: Call, one: Axes, other: Axes) -> Axes:
    """[..., m, k] by [..., k, n]: the leading axes, which both have, belong together too."""
    call.unite(one[-1], other[-2])
    for left, right in zip(one[:-2], other[:-2]):
        call.unite(left, right)
    return [*one[:-1], other[-1]]


def _added(call: Call, extra: Axes, product: Axes) -> Axes:
    """A bias, broadcast over the product."""
    for mine, theirs in zip(reversed(extra), reversed(product)):
        if len(mine) == len(theirs):
            call.unite(theirs, mine)
        else:
            call.freeze(mine)
    return product


def _mm(call: Call) -> list[Axes]:
    return [_product(call, call.axes(call["self"]), call.axes(call["mat2"]))]


def _addmm(call: Call) -> list[Axes]:
    made = _product(call, call.axes(call["mat1"]), call.axes(call["mat2"]))
    return [_added(call, call.axes(call["self"]), made)]


def _baddbmm(call: Call) -> list[Axes]:
    made = _product(call, call.axes(call["batch1"]), call.axes(call["batch2"]))
    return [_added(call, call.axes(call["self"]), made)]


def _mv(call: Call) -> list[Axes]:
    one = call.axes(call["self"])
    call.unite(one[1], call.axes(call["vec"])[0])
    return [one[:1]]


def _dot(call: Call) -> list[Axes]:
    call.unite(call.axes(call["self"])[0], call.axes(call["tensor"])[0])
    return [[]]


def _linear(call: Call) -> list[Axes]:
    weight = call.axes(call["weight"])
    given = call.axes(call["input"])
    call.unite(given[-1], weight[1])
    made = [*given[:-1], weight[0]]
    return [made if call["bias"] is None else _added(call, call.axes(call["bias"]), made)]


CONTRACTIONS: dict[str, Rule] = {
    "mm": _mm, "bmm": _mm, "addmm": _addmm, "baddbmm": _baddbmm, "mv": _mv, "dot": _dot, "linear": _linear,
}  # fmt: skip
