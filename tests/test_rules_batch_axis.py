"""Batch and time taken for one another, on records written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from wellfit.rules.recurrent.batch_axis import BatchAxis
from wellfit.testing import MadeRun


def sequences(
    folder: Path, given: list[int], first: bool, root: list[int] | None = None, target: list[int] | None = None,
    loader: int | None = None, cls: str = "LSTM", kind: str = "recurrent", shuffle: bool = True,
) -> MadeRun:  # fmt: skip
    """A run whose recurrent or attention layer (line 4) was given this shape first."""
    made = MadeRun(folder)
    made.declare(
        "loss", id=0, function="cross_entropy", location={"file": "experiment.py", "line": 6},
        prediction_shape=[*(target or [64]), 10], target_shape=target or [64], reduction="mean", training=True,
    )  # fmt: skip
    for name, shape, order, what in [("net.rnn", given, 0, (cls, kind)), ("net", root or given, 1, ("Net", "other"))]:
        made.declare(
            "layer", name=name, **{"class": what[0]}, kind=what[1], location={"file": "experiment.py", "line": 4},
            root="net", order=order, parameters=[], input_shape=shape,
            attributes={"batch_first": first} if order == 0 else {},
        )  # fmt: skip
    if loader is not None:
        made.declare("loader", id=0, location=None, batch_size=loader, shuffle=shuffle, num_workers=0, length=10)
    made.step(2.3)
    return made


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"given": [64, 8, 5], "first": False}, True),
        ({"given": [8, 64, 5], "first": True}, True),
        ({"given": [64, 8, 5], "first": False, "cls": "MultiheadAttention", "kind": "attention"}, True),
        ({"given": [64, 8, 5], "first": True}, False),
        ({"given": [8, 64, 5], "first": False}, False),
        ({"given": [64, 64, 5], "first": False}, False),  # nobody can tell
        ({"given": [64, 1, 5], "first": False}, False),
        ({"given": [64, 8, 5], "first": False, "target": [8, 64]}, False),
        ({"given": [64, 8, 5], "first": False, "target": [64, 8]}, False),  # an answer for each moment and sample
        ({"given": [64, 8, 5], "first": False, "target": [512]}, False),
        ({"given": [64, 8, 5], "first": False, "target": [512], "loader": 64}, True),
        ({"given": [64, 8, 5], "first": False, "target": [8], "loader": 64}, False),  # a part of a loader's batch
        ({"given": [64, 8, 5], "first": False, "root": [8, 3, 128]}, False),  # 64 patches of an image
        ({"given": [16, 64, 5], "first": True, "target": [16]}, False),
    ],
)
def test_a_layer_that_takes_the_batch_for_time(tmp_path: Path, fields: dict[str, Any], told: bool) -> None:
    found = list(BatchAxis().check(sequences(tmp_path, **fields).record()))
    assert [finding.severity for finding in found] == ["error"] * told
    if told:
        assert (found[0].evidence["batch"], found[0].evidence["time"]) == (64, 8)


@pytest.mark.parametrize(
    ("size", "shuffle", "told"), [(64, True, True), (64, False, False), (32, True, False), (None, True, False)]
)
def test_rows_of_a_shuffled_batch_are_no_sequence(tmp_path: Path, size: int | None, shuffle: bool, told: bool) -> None:
    made = sequences(tmp_path, [64, 5], True, loader=size, shuffle=shuffle)
    assert bool(list(BatchAxis().check(made.record()))) == told


def test_a_shape_of_a_trial_before_training_says_nothing(tmp_path: Path) -> None:
    made = sequences(tmp_path, [2, 64, 5], True, loader=64)
    node = {"id": 1, "op": "TransposeBackward1", "next": [], "layer": "net.rnn", "function": "lstm"}
    loss = {"id": 0, "op": "NllLossBackward0", "next": [1]}
    made.declare("graph", step=0, backward=0, nodes=[loss, {**node, "shapes": [[64, 64, 5]]}], cuts=[])
    assert not list(BatchAxis().check(made.record()))


def indexed(folder: Path, text: str, first: bool, between: bool = False, shape: tuple[int, int] = (16, 16)) -> MadeRun:
    """A line of a script that takes a part of a recurrent layer's output."""
    script = folder / "script.py"
    script.write_text(text, encoding="utf-8")
    made = sequences(folder, [*shape, 5], first, target=[16])
    nodes: list[dict[str, Any]] = [
        {"id": 0, "op": "NllLossBackward0", "next": [1]},
        {"id": 1, "op": "SelectBackward0", "next": [2], "layer": "net", "function": "__getitem__",
         "file": str(script), "line": 1, "shapes": [[*shape, 32]]},
        {"id": 2, "op": "NativeDropoutBackward0" if between else "AliasBackward0", "next": [3],
         "layer": "net.dropout" if between else "net.rnn"},
        {"id": 3, "op": "TransposeBackward1", "next": [], "layer": "net.rnn", "function": "lstm"},
    ]  # fmt: skip
    made.declare("graph", step=0, backward=0, nodes=nodes, cuts=[])
    return made


@pytest.mark.parametrize(
    ("text", "first", "between", "told"),
    [
        ("last = out[-1]\n", True, False, True),
        ("last = out[-1]\n", True, True, True),
        ("last = out[-1, :, :]\n", True, False, True),
        ("last = out[:, -1]\n", False, False, True),
        ("last = out[:, -1, :]\n", False, False, True),
        ("last = out[:, -1]\n", True, False, False),
        ("last = out[-1]\n", False, False, False),
        ("first = out[0]\n", True, False, False),
        ("last = out[-1] if by_time else out[:, -1]\n", True, False, False),  # two axes in one line
    ],
)
def test_the_last_of_the_batch_taken_for_the_last_moment(
    tmp_path: Path, text: str, first: bool, between: bool, told: bool
) -> None:
    found = list(BatchAxis().check(indexed(tmp_path, text, first, between).record()))
    assert [(finding.severity, finding.location and finding.location.line) for finding in found] == [
        ("error", 1)
    ] * told


@pytest.mark.parametrize(
    ("given", "made_of_it", "target", "told"),
    [
        ([8, 50, 32], [50, 256], [50], True),
        ([8, 64, 32], [64, 256], [64], True),
        ([8, 50, 32], [50, 8, 32], [50], True),
        ([50, 8, 32], [50, 256], [50], False),
        ([50, 8, 32], [400, 32], [50], False),
        ([8, 8, 32], [8, 256], [8], False),
        ([8, 50, 32], [50, 256], [400], False),  # nothing says that 50 is the batch
    ],
)
def test_a_view_that_is_meant_to_exchange_axes(
    tmp_path: Path, given: list[int], made_of_it: list[int], target: list[int], told: bool
) -> None:
    made = sequences(tmp_path, [8, 4, 4], False, target=target, root=[9, 9])
    nodes: list[dict[str, Any]] = [
        {"id": 0, "op": "AddmmBackward0", "next": [1], "layer": "net.fc", "shapes": [made_of_it, [10, 256]]},
        {"id": 1, "op": "ViewBackward0", "next": [], "layer": "net", "function": "view", "file": "experiment.py",
         "line": 9, "shapes": [given]},
    ]  # fmt: skip
    made.declare("graph", step=0, backward=0, nodes=nodes, cuts=[])
    found = list(BatchAxis().check(made.record()))
    assert [(finding.severity, finding.location and finding.location.line) for finding in found] == [
        ("error", 9)
    ] * told
