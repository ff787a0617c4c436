"""The arithmetic of the rules of half precision, on records written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_training import FALLING, FLAT, NAN, Training, place, row

from wellfit.record import Record
from wellfit.rules.numerics.fp16_underflow import Fp16Underflow
from wellfit.rules.numerics.overflow_near import OverflowNear
from wellfit.rules.numerics.scaler_thrash import ScalerThrash
from wellfit.rules.numerics.update_lost import UpdateLost
from wellfit.rules.precision import cast_place
from wellfit.testing import MadeRun

WEIGHT = "fc.weight"
TINY = 2.0**-24
NEARLY_FLAT = [2.0 - 0.4 * step / 80 for step in range(80)]  # still falls, to 0.8 of its start
HALF_WAY = [2.0 - 1.0 * step / 80 for step in range(80)]


# update-lost ---------------------------------------------------------------------------------------------------------


def rounded(folder: Path, losses: list[float], lost: float, dtype: str = "bfloat16") -> MadeRun:
    folder.mkdir(exist_ok=True)
    made = MadeRun(folder)
    made.weight(WEIGHT, dtype)
    for loss in losses:
        made.step(loss, {WEIGHT: 1e-4}, lost)
    return made


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_steps_that_are_rounded_away_in_a_flat_run(tmp_path: Path, dtype: str) -> None:
    [found] = UpdateLost().check(rounded(tmp_path, FLAT, 0.95, dtype).record())
    assert (found.severity, found.layer) == ("error", "fc")
    assert dtype in found.message and found.evidence["lost"] == pytest.approx(0.95, rel=1e-3)
    assert found.location is not None and found.location.line == 3  # no cast in sight: the optimizer


@pytest.mark.parametrize(
    ("losses", "lost", "dtype"),
    [
        (FALLING, 0.95, "bfloat16"),  # it learned all the same
        (FLAT, 0.75, "bfloat16"),  # as many as in healthy runs
        (FLAT, 0.95, "float32"),  # full precision loses nothing: another illness
        (FLAT[:14], 0.95, "bfloat16"),  # too few steps
        ([*FLAT, NAN, *[NAN] * 20], 0.95, "bfloat16"),  # another illness
    ],
)
def test_steps_that_are_not_called_rounded_away(tmp_path: Path, losses: list[float], lost: float, dtype: str) -> None:
    assert not list(UpdateLost().check(rounded(tmp_path, losses, lost, dtype).record()))


def test_rounded_steps_of_a_run_that_learned_half_are_a_note(tmp_path: Path) -> None:
    [found] = UpdateLost().check(rounded(tmp_path, HALF_WAY, 0.95).record())
    assert found.severity == "note"


def test_rounded_steps_of_a_model_that_was_trained_before_are_a_note(tmp_path: Path) -> None:
    made = rounded(tmp_path, [loss / 2 for loss in NEARLY_FLAT], 0.95)
    made.loss_function()  # of 10 classes: guessing would be 2.3
    [found] = UpdateLost().check(made.record())
    assert found.severity == "note"


def test_rounded_steps_from_the_start_on_are_an_error(tmp_path: Path) -> None:
    made = rounded(tmp_path, NEARLY_FLAT, 0.95)
    made.loss_function()
    [found] = UpdateLost().check(made.record())
    assert found.severity == "error"


def test_rounded_steps_are_sure_while_the_run_lives_once_it_is_flat_for_long(tmp_path: Path) -> None:
    [young] = UpdateLost().check(rounded(tmp_path / "young", FLAT, 0.95).record(finished=False))
    [old] = UpdateLost().check(rounded(tmp_path / "old", FLAT * 4, 0.95).record(finished=False))
    assert (young.sure, old.sure) == (False, True)


def test_a_group_with_a_learning_rate_of_0_rounds_nothing_away(tmp_path: Path) -> None:
    made = rounded(tmp_path, FLAT, 1.0)
    made.declare("optimizer", id=0, groups=[{"lr": 0.1}, {"lr": 0.0}], parameters=[WEIGHT])
    made.declare("hyper", id=1, optimizer=0, group=1, name="lr")
    made.out.row(ord("H"), 0, 1, 0, 0.0, 0.0)
    assert not list(UpdateLost().check(made.record()))


# the line that casts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("fc.to(torch.bfloat16)", True),
        ("fc.to(device='cpu', dtype=torch.bfloat16)", True),
        ("fc.bfloat16()", True),
        ("torch.set_default_dtype(torch.bfloat16)", True),
        ("fc.to(torch.float16)", False),
        ("fc.to('cpu')", False),
    ],
)
def test_the_line_that_casts_a_model(tmp_path: Path, line: str, found: bool) -> None:
    script = tmp_path / "train.py"
    script.write_text(f"import torch\nx = torch.zeros(3).float()\n{line}\n")
    told = Training(tmp_path)
    told.out.declare({"type": "process", "rank": 0, "world_size": 1, "main_file": str(script)})
    told.out.declare({"type": "layer", "name": "fc", "root": "fc"})
    where = cast_place(told.record(FLAT), "bfloat16")
    assert (where.line if where else None) == (3 if found else None)


def test_a_cast_of_the_model_comes_before_one_of_its_input(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("import torch\nx = torch.zeros(3).half()\nnet = make()\nnet.half()\n")
    told = Training(tmp_path)
    told.out.declare({"type": "process", "rank": 0, "world_size": 1, "main_file": str(script)})
    told.out.declare({"type": "layer", "name": "net", "root": "net"})
    where = cast_place(told.record(FLAT), "float16")
    assert where is not None and where.line == 4


# fp16-underflow ------------------------------------------------------------------------------------------------------


def faint(folder: Path, sizes: list[float], losses: list[float], dtype: str = "float16", zeros: float = 0.0) -> Record:
    """Layers whose output has this type and whose gradient this rms; of 100 numbers so many are 0."""
    told = Training(folder)
    for number, size in enumerate(sizes):
        told.layer(f"l{number}", 10 + number, output_dtype=dtype)
        told.measure("activation_gradient", f"l{number}", [row(size, low=zeros)] * 30)
    return told.record(losses)


def test_gradients_that_float16_cannot_hold(tmp_path: Path) -> None:
    [found] = Fp16Underflow().check(faint(tmp_path, [0.0, TINY, 2 * TINY, 100 * TINY], FLAT))
    assert (found.severity, found.layer) == ("error", "l0")
    assert (found.evidence["layers"], found.evidence["of"]) == (3, 4)
    assert found.location is not None and found.location.line == 90
    # What keeps the program as it is comes first; only the other can be tried by an override.
    assert [(fix.override, fix.safe) for fix in found.fixes] == [(None, True), ("precision=bfloat16", False)]
    assert "GradScaler" in found.fixes[0].title


@pytest.mark.parametrize(
    ("sizes", "losses", "dtype"),
    [
        ([TINY, TINY], FALLING, "float16"),  # converged: gradients are small by right
        ([TINY, TINY], FLAT, "bfloat16"),
        ([TINY, TINY], FLAT, "float32"),
        ([TINY, 40 * TINY, 40 * TINY], FLAT, "float16"),  # one of three
        ([0.0, 0.0, 1.0], FLAT, "float16"),  # cut off, not too small
        ([1.0, 0.0], FLAT, "float16"),
        ([TINY, TINY], FLAT[:4], "float16"),
        ([NAN, NAN], FLAT, "float16"),
    ],
)
def test_gradients_that_are_not_called_too_small(
    tmp_path: Path, sizes: list[float], losses: list[float], dtype: str
) -> None:
    assert not list(Fp16Underflow().check(faint(tmp_path, sizes, losses, dtype)))


def test_a_few_gradients_of_good_size_among_many_zeros_are_not_too_small(tmp_path: Path) -> None:
    rms = 10 * TINY * 0.1  # one of a hundred is 10 times the smallest number
    assert not list(Fp16Underflow().check(faint(tmp_path, [rms, rms], FLAT, zeros=99)))


def test_too_small_gradients_of_a_run_that_learned_half_are_a_note(tmp_path: Path) -> None:
    [found] = Fp16Underflow().check(faint(tmp_path, [TINY, TINY], HALF_WAY))
    assert found.severity == "note"


def spoiled(folder: Path, eps: float, dtype: str = "float16", where: str = "parameter") -> Record:
    told = Training(folder)
    groups: list[dict[str, Any]] = [{"lr": 1e-3, "eps": eps}]
    told.out.declare({"type": "optimizer", "id": 0, "class": "Adam", "location": place(80), "groups": groups})
    told.layer("l0", 10)
    told.out.declare({"type": "parameter", "name": "l0.weight", "layer": "l0", "dtype": dtype, "optimizer": 0})
    told.event("non-finite", 1, where=where, layer="l0", parameter="l0.weight", value="nan")
    return told.record([2.0, *[NAN] * 30])


def test_an_eps_that_is_0_in_float16(tmp_path: Path) -> None:
    [found] = Fp16Underflow().check(spoiled(tmp_path, 1e-8))
    assert (found.severity, found.layer, found.step) == ("error", "l0", 0)
    assert found.location is not None and found.location.line == 80


@pytest.mark.parametrize(
    ("eps", "dtype", "where"),
    [(1e-4, "float16", "parameter"), (1e-8, "float32", "parameter"), (1e-8, "float16", "loss")],
)
def test_an_eps_that_is_not_to_blame(tmp_path: Path, eps: float, dtype: str, where: str) -> None:
    assert not list(Fp16Underflow().check(spoiled(tmp_path, eps, dtype, where)))


# overflow-near -------------------------------------------------------------------------------------------------------


def large(folder: Path, sizes: list[float], losses: list[float], dtype: str = "float16", skipped: int = 0) -> Record:
    told = Training(folder)
    told.layer("l0", 10, output_dtype=dtype)
    told.measure("activation", "l0", [row(1.0, amax=size) for size in sizes])
    if skipped:
        told.event("scaler", 20, scale=1.0, count=skipped)
    return told.record(losses)


CLOSE = [40000.0, 41000.0, 45000.0]


def test_outputs_near_the_largest_float16_of_a_flat_run(tmp_path: Path) -> None:
    [found] = OverflowNear().check(large(tmp_path, [1.0, *CLOSE, float("inf")], FLAT))
    assert (found.severity, found.layer, found.step) == ("error", "l0", 1)
    assert found.evidence["largest"] == 45000.0


def test_outputs_near_the_limit_of_a_run_that_learns_are_a_note(tmp_path: Path) -> None:
    [found] = OverflowNear().check(large(tmp_path, CLOSE, FALLING))
    assert found.severity == "note"


def test_outputs_near_the_limit_for_which_many_steps_were_left_out_are_an_error(tmp_path: Path) -> None:
    [found] = OverflowNear().check(large(tmp_path, CLOSE, FALLING, skipped=26))
    assert found.severity == "error"


@pytest.mark.parametrize(
    ("sizes", "dtype"),
    [
        ([30000.0, 31000.0, 32000.0], "float16"),
        (CLOSE, "bfloat16"),
        (CLOSE, "float32"),
        (CLOSE[:2], "float16"),
        ([65504.0] * 30, "float16"),  # a mask
        ([float("inf"), NAN] * 10, "float16"),
    ],
)
def test_outputs_that_are_not_called_too_large(tmp_path: Path, sizes: list[float], dtype: str) -> None:
    assert not list(OverflowNear().check(large(tmp_path, sizes, FLAT, dtype)))


# scaler-thrash -------------------------------------------------------------------------------------------------------


def skipping(folder: Path, losses: list[float], counts: list[int], finished: bool = True) -> Record:
    told = Training(folder)
    for step, count in enumerate(counts):
        told.event("scaler", step, scale=1.0, count=count)
    record = told.record(losses)
    record.finished = finished
    return record


def test_a_scaler_that_leaves_out_many_steps(tmp_path: Path) -> None:
    [found] = ScalerThrash().check(skipping(tmp_path, FALLING, [1, 10, 50]))  # 50 of 130: too many however it fares
    assert (found.severity, found.step) == ("error", 2)
    assert found.location is not None and found.location.line == 90
    assert found.evidence["share"] == pytest.approx(50 / 130)


def test_a_scaler_that_leaves_out_some_steps_of_a_run_that_learns_is_a_note(tmp_path: Path) -> None:
    [found] = ScalerThrash().check(skipping(tmp_path, FALLING, [30]))
    assert found.severity == "note"


def test_a_scaler_that_leaves_out_some_steps_of_a_flat_run_is_an_error(tmp_path: Path) -> None:
    [found] = ScalerThrash().check(skipping(tmp_path, FLAT, [30]))
    assert found.severity == "error"


@pytest.mark.parametrize(("losses", "count"), [(FLAT, 25), (FLAT * 10, 30)])
def test_a_scaler_that_seeks_its_scale_is_healthy(tmp_path: Path, losses: list[float], count: int) -> None:
    assert not list(ScalerThrash().check(skipping(tmp_path, losses, [count])))


@pytest.mark.parametrize(("count", "sure"), [(60, False), (101, True)])
def test_a_scaler_that_may_still_be_at_its_start_is_not_sure(tmp_path: Path, count: int, sure: bool) -> None:
    [found] = ScalerThrash().check(skipping(tmp_path, FLAT, [count], finished=False))
    assert found.sure is sure


@pytest.mark.parametrize("rule", [UpdateLost, Fp16Underflow, OverflowNear, ScalerThrash])
def test_nothing_is_said_of_an_empty_record(rule: type, tmp_path: Path) -> None:
    assert list(rule().check(Training(tmp_path).record([]))) == []
