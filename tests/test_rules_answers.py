"""The rules on targets among the inputs and on evaluation inputs of another scale, on records written by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from wellfit.finding import Finding
from wellfit.rules.data.eval_input_shift import EvalInputShift
from wellfit.rules.data.target_leak import TargetLeak
from wellfit.testing import MadeRun

TABLE = """import torch
data = load()
x, y = data, data[:, 3]
for step in range(60):
    loss = mse_loss(model(x), y)
"""
WORDS = """import torch
from torch import nn
class Net(nn.Module):
    def forward(self, ids):
        return self.fc(self.lstm(self.emb(ids))[0])
y = ids[1:]
for step in range(60):
    loss = cross_entropy(model(x), y)
"""
NAN = math.nan


def trained(folder: Path, text: str, answer: tuple[float, ...] | None, end: float, **loss: object) -> MadeRun:
    """A run of 60 steps whose loss falls from 2.3 to `end`, with the same `answer` row in its first 5 steps."""
    folder.mkdir(exist_ok=True)
    file = folder / "train.py"
    file.write_text(text)
    made = MadeRun(folder)
    made.declare("process", rank=0, world_size=1, main_file=str(file))
    made.declare("layer", name="model", root="model", kind="container", order=1, input_shape=[32, 64])
    line = len(text.splitlines())
    fields = {"function": "cross_entropy", "prediction_shape": [32, 10], "target_shape": [32], **loss}
    place = {"file": str(file), "line": line}
    made.declare("loss", id=0, reduction="mean", training=True, location=place, attributes={"weight": False}, **fields)
    for step in range(60):
        if answer is not None and step < 5:
            made.out.statistics(made.steps, [(made.out.series("answer", "0"), *answer)])
        if step < 5:
            made.out.statistics(made.steps, [(made.out.series("input", "model#0"), 2048, 0, 1, 3, 0, NAN, 1, 0)])
        made.step(2.3 + (end - 2.3) * min(1.0, step / 40))
    return made


def column(rows: float = 32, distinct: float = 20, always: float = 1) -> tuple[float, ...]:
    return (rows, distinct, 8, always, 3 if always else -1, NAN, 0, 0)


def leaks(made: MadeRun) -> list[Finding]:
    return list(TargetLeak().check(made.record()))


@pytest.mark.parametrize(
    ("answer", "severities"),
    [
        (column(), ["error"]),
        (column(always=0), []),
        (column(rows=16, distinct=2), ["error"]),
        (column(rows=8, distinct=2), []),  # a truth table of three inputs
    ],
)
def test_a_column_that_is_the_target(tmp_path: Path, answer: tuple[float, ...], severities: list[str]) -> None:
    found = leaks(trained(tmp_path, TABLE, answer, end=0.3))
    assert [one.severity for one in found] == severities
    assert all(one.location is not None and one.location.line == 3 for one in found)


def test_a_column_taken_of_random_numbers_is_shown_not_learned(tmp_path: Path) -> None:
    made_up = TABLE.replace("load()", "torch.randn(100, 8)")
    assert [one.severity for one in leaks(trained(tmp_path, made_up, column(), end=0.3))] == ["note"]


def test_models_that_leave_the_column_out_themselves(tmp_path: Path) -> None:
    cuts = TABLE + "class Net(Module):\n    def forward(self, x):\n        return self.fc(x[:, :-1])\n"
    assert not leaks(trained(tmp_path, cuts, column(), end=0.3))


def test_several_losses_and_few_batches(tmp_path: Path) -> None:
    several = trained(tmp_path / "a", TABLE, column(), end=0.3)
    several.declare("loss", id=1, function="mse_loss", training=True, reduction="mean")
    assert [one.severity for one in leaks(several)] == ["note"]
    assert not leaks(trained(tmp_path / "b", TABLE, None, end=0.3))


def tokens(same: float = 1.0, argument: float = 0, count: float = 1) -> tuple[float, ...]:
    return (1000, 40, 0, 0, -1, same, argument, count)


@pytest.mark.parametrize(
    ("answer", "end", "severities"),
    [
        (tokens(), 0.1, ["error"]),
        (tokens(), 1.5, ["note"]),
        (tokens(same=0.9), 0.1, []),  # a masked language model whose loss is on all positions
        (tokens(argument=1, count=2), 0.1, ["error"]),
        (tokens(argument=0, count=2), 0.1, []),  # a task of copying, with encoder and decoder
    ],
)
def test_tokens_that_are_the_target(
    tmp_path: Path, answer: tuple[float, ...], end: float, severities: list[str]
) -> None:
    assert [one.severity for one in leaks(trained(tmp_path, WORDS, answer, end))] == severities


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("class Net", "class AutoEncoder"),
        ("self.emb(ids)", "self.emb(ids[:, :-1])"),  # the model shifts what it is given
        ("self.emb(ids)", "self.emb(ids.roll(1, 1))"),
        ("y = ids", "y, mask_token = ids"),
        ("    def forward", "    def other"),  # the model is not in this file
    ],
)
def test_programs_that_give_tokens_back_by_design(tmp_path: Path, old: str, new: str) -> None:
    assert not leaks(trained(tmp_path, WORDS.replace(old, new), tokens(), end=0.1))


HELD = """import torch
x_train, x_test = load()
for step in range(60):
    with torch.no_grad():
        model(x_test)
    loss = cross_entropy(model(x_train), y)
"""


def evaluated(
    folder: Path, mean: float, rms: float, loss: float | None = 5.0, shape: tuple[int, ...] = (50, 64), times: int = 3
) -> list[Finding]:
    """Findings on a run trained on inputs of mean 0 and standard deviation 1, evaluated on others."""
    made = trained(folder, HELD, None, end=0.3)
    made.declare("loss", id=1, function="cross_entropy", reduction="mean", training=False)
    for _ in range(times):
        count = float(math.prod(shape))
        place = {"file": str(folder / "train.py"), "line": 5}
        made.event(
            "evaluation", root="model", training=False, batch=list(shape), location=place, input=[count, mean, rms, rms]
        )
        if loss is not None:
            made.evaluation(loss)
        made.step(0.3)
    return list(EvalInputShift().check(made.record()))


def spread(std: float, mean: float = 0.0) -> tuple[float, float]:
    return mean, math.hypot(mean, std)


@pytest.mark.parametrize(
    ("std", "mean", "severities"),
    [
        (3.1, 0.0, ["error"]),
        (2.9, 0.0, []),
        (0.31, 0.13, ["error"]),
        (78.0, 33.0, ["error"]),
        (0.5, 1.4, ["error"]),
        (0.7, 1.4, []),
        (1.2, 3.1, ["note"]),  # a series that grew
        (1.2, 2.8, []),
        (1.0, 12.0, ["error"]),
        (0.0, 5.0, []),  # zeros to see the shapes
    ],
)
def test_evaluation_of_another_scale(tmp_path: Path, std: float, mean: float, severities: list[str]) -> None:
    found = evaluated(tmp_path, *spread(std, mean))
    assert [one.severity for one in found] == severities
    assert all(one.location is not None and one.location.line == 2 for one in found)


@pytest.mark.parametrize(
    ("loss", "std", "severities"),
    [(0.3, 5.0, []), (0.7, 5.0, ["note"]), (None, 5.0, ["note"]), (None, 50.0, ["error"])],
)
def test_how_the_evaluation_fares(tmp_path: Path, loss: float | None, std: float, severities: list[str]) -> None:
    assert [one.severity for one in evaluated(tmp_path, *spread(std), loss=loss)] == severities


@pytest.mark.parametrize("shape", [(4, 64), (50, 2), (50, 1, 8, 8), (64,)])
def test_few_samples_small_samples_and_other_inputs(tmp_path: Path, shape: tuple[int, ...]) -> None:
    assert not evaluated(tmp_path, *spread(50.0), shape=shape, times=1)
