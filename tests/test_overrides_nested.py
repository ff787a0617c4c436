"""Tensors inside of what models and loaders hand around."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from wellfit.overrides.nested import mapped, reals_in, tensors_in

ONE, TWO, WHOLE = torch.ones(2), torch.full((3,), 2.0), torch.arange(3)
Pair = namedtuple("Pair", "left right")


class Strict(Pair):
    """A named tuple that wants to be made in a way of its own."""

    def __new__(cls, both: Any) -> Strict:
        return super().__new__(cls, both, both)


class Output(OrderedDict[str, Any]):
    """A dictionary whose items are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


@dataclass
class Held:
    """What some models give back."""

    value: Any


@dataclass(frozen=True)
class Node:
    """One that knows another, which may know it."""

    value: Any
    others: list[Any]


@pytest.mark.parametrize(
    "value",
    [
        ONE, (ONE, WHOLE), [ONE, [TWO, None, "text"]], Pair(ONE, TWO), Strict(ONE), {"a": ONE, 3: (TWO,)},
        Output(a=ONE, b=[TWO]), Held([ONE, WHOLE]), Node(ONE, [Held(TWO)]), Held("text"),
        torch.ones(2, 3).max(1), pack_sequence([TWO, ONE]), (), None, 7,
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_mapped_structure_is_of_its_own_kind(value: Any) -> None:
    before = list(tensors_in(value))
    changed = mapped(value, lambda tensor: tensor.clone())

    after = list(tensors_in(changed))
    assert type(changed) is type(value) and len(after) == len(before)
    assert all(torch.equal(a, b) for a, b in zip(after, before))
    stay = [value.batch_sizes] if isinstance(value, PackedSequence) else []
    assert [a for a, b in zip(after, before) if a is b] == stay


def test_attributes_of_results_survive() -> None:
    best = mapped(torch.ones(2, 3).max(1), lambda tensor: tensor + 1)

    assert torch.equal(best.values, torch.full((2,), 2.0)) and best.indices.tolist() == [1, 1]


def test_tensors_in_objects_are_found() -> None:
    normal = torch.distributions.Normal(ONE, 2 * ONE)
    held = Held([normal, {"whole": WHOLE}])

    assert any(tensor is WHOLE for tensor in tensors_in(held))
    assert {tuple(tensor.tolist()) for tensor in reals_in(held)} == {(1.0, 1.0), (2.0, 2.0)}


def test_what_holds_itself_ends() -> None:
    ring: list[Any] = [ONE]
    ring.append(ring)

    assert all(tensor is ONE for tensor in tensors_in(ring))


def test_objects_that_know_each_other_do_so_afterwards() -> None:
    node = Node(ONE, [Node(TWO, [])])
    node.others[0].others.append(node)

    changed = mapped(node, lambda tensor: tensor + 1)

    assert changed.value.tolist() == [2.0, 2.0] and node.value is ONE and changed.others[0].others[0] is changed
    empty = Held("text")
    assert mapped(empty, lambda tensor: tensor + 1) is empty
