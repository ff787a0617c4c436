"""The rule on labels that do not belong to their inputs, on small records written by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from test_rules_labels import TEN, made_run, step

from wellfit.rules.data.label_noise import LabelNoise
from wellfit.rules.passes import passes
from wellfit.testing import MadeRun

LENGTH = 20


def in_passes(folder: Path, within: float, between: float, count: int = 10, first: float = TEN) -> MadeRun:
    """Passes of 20 steps in each of which the loss falls by `within`, and by `between` from one to the next."""
    made = made_run(folder)
    made.declare("loader", id=0, location={"file": "train.py", "line": 3}, batch_size=32, shuffle=True)
    random = np.random.default_rng(0)
    level = first
    for place in range(count):
        made.declare("event", event="epoch", step=made.steps, loader=0, count=place + 1)
        for at in range(LENGTH):
            step(made, level - within * at / (LENGTH - 1) + 0.002 * random.standard_normal())
        level -= within + between
    return made


def evaluated(folder: Path, losses: list[float], end: float = 1.5) -> MadeRun:
    """A training loss that falls to `end`, and evaluations in between."""
    made = made_run(folder)
    made.declare("loss", id=1, function="cross_entropy", reduction="mean", training=False, prediction_shape=[64, 10],
                 target_shape=[64], location={"file": "train.py", "line": 9})  # fmt: skip
    for place, loss in enumerate(losses):
        for at in range(LENGTH):
            step(made, TEN - (TEN - end) * (place * LENGTH + at) / (len(losses) * LENGTH))
        made.evaluation(loss)
    return made


@pytest.mark.parametrize(
    ("within", "between", "count", "found"),
    [
        (0.0, 0.1, 10, True),
        (-0.02, 0.1, 10, True),  # what was learned of the last pass is forgotten in this one
        (0.05, 0.1, 10, False),
        (0.1, 0.0, 10, False),
        (0.0, 0.1, 3, False),
    ],
)
def test_a_loss_that_falls_between_passes_only(
    tmp_path: Path, within: float, between: float, count: int, found: bool
) -> None:
    said = list(LabelNoise().check(in_passes(tmp_path, within, between, count).record()))
    assert [one.severity for one in said] == ["error"] * found


def test_a_model_that_learns_in_its_first_pass_learns_more_than_by_heart(tmp_path: Path) -> None:
    assert not list(LabelNoise().check(in_passes(tmp_path, 0.0, 0.05, first=1.5).record()))


def test_passes_are_told_by_loaders_made_anew(tmp_path: Path) -> None:
    made = made_run(tmp_path)
    for number in range(5):
        made.declare("loader", id=number, location={"file": "train.py", "line": 3}, batch_size=32, shuffle=True)
        made.declare("event", event="epoch", step=made.steps, loader=number, count=1)
        for _ in range(LENGTH):
            step(made, TEN)
    [rows] = passes(made.record())
    assert rows.shape == (5, LENGTH)


@pytest.mark.parametrize("begins", [[0], [0, 5], [0, 20, 45], [3, 23]])
def test_uneven_passes_say_nothing(tmp_path: Path, begins: list[int]) -> None:
    made = made_run(tmp_path)
    made.declare("loader", id=0, location={"file": "train.py", "line": 3}, batch_size=32, shuffle=True)
    for at in range(80):
        if at in begins:
            made.declare("event", event="epoch", step=at, loader=0, count=1)
        step(made, TEN)
    assert passes(made.record()) == []


@pytest.mark.parametrize(
    ("losses", "end", "found"),
    [
        ([2.31, 2.32, 2.4, 2.5, 2.6], 1.5, True),
        ([2.31, 2.2, 2.4, 2.5, 2.6], 1.5, False),  # better than guessing once
        ([2.31, 2.32, 2.4, 2.5, 2.6], 2.29, False),  # the training loss did not fall either
        ([3.2, 2.9, 2.6, 2.5, 2.4], 1.5, False),  # on its way
        ([2.31, 2.4, 2.6], 1.5, False),
    ],
)
def test_evaluations_that_never_beat_guessing(tmp_path: Path, losses: list[float], end: float, found: bool) -> None:
    said = list(LabelNoise().check(evaluated(tmp_path, losses, end).record()))
    assert [one.severity for one in said] == ["error"] * found
    assert all(math.isclose(one.evidence["guessing"], TEN, rel_tol=1e-5) for one in said)
