"""The arithmetic of the rules for several processes, on records written by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from wellfit.finding import Finding
from wellfit.record import Record
from wellfit.rule import Rule
from wellfit.rules.distributed.ddp_bypassed import DdpBypassed
from wellfit.rules.distributed.ranks_diverge import RanksDiverge
from wellfit.rules.distributed.same_data import SameData
from wellfit.rules.distributed.straggler import Straggler, pace
from wellfit.rules.replicas import SAME, apart, are_replicas, compared, ranks
from wellfit.testing import MadeRun

WEIGHTS = ("fc.weight", "head.weight", "last.weight")
Numbers = Callable[[int, int], float]
"""A number by rank and step."""


def alike(rank: int, step: int) -> float:
    return 1.0 + 0.01 * step


def differing(rank: int, step: int) -> float:
    return 1.0 + 0.01 * step + 0.1 * rank


def process(
    folder: Path, rank: int, steps: int = 30, world: int = 2, initial: float = 1.0, count: float = 4096.0,
    loss: Numbers = differing, inputs: Numbers = differing, series: Mapping[tuple[str, str], Numbers] | None = None,
    loader: bool = False,
) -> Record:  # fmt: skip
    """The record of one of several processes, with the rms of weights and gradients as they are told."""
    folder = folder / f"rank{rank}"
    folder.mkdir()
    made = MadeRun(folder)
    made.declare("process", rank=rank, world_size=world)
    made.loss_function()
    for name in WEIGHTS:
        made.weight(name)
        made.declare(
            "parameter", name=name, layer=name.partition(".")[0], shape=[64, 64], dtype="float32", requires_grad=True,
            optimizer=0, location={"file": "experiment.py", "line": 2},
            initial={"std": initial, "rms": initial, "amax": 2.0 * initial},
        )  # fmt: skip
    if loader:
        made.declare("loader", id=0, location={"file": "experiment.py", "line": 5}, batch_size=32, shuffle=True)
    nan = math.nan
    for step in range(steps):
        made.step(loss(rank, step))
        rows: list[tuple[float, ...]] = [
            (made.out.series("input", "net#0"), 256.0, inputs(rank, step), 1.0, 3.0, 0.0, nan, 1.0, 0.0)
        ]
        for (what, name), value in (series or {}).items():
            size = value(rank, step)
            rows.append((made.out.series(what, name), count, 0.0, size, 3 * size, 0.0, nan, nan, nan))
        made.out.statistics(step, rows)
    return made.record()


def pair(folder: Path, **fields: object) -> list[Record]:
    return [process(folder, rank, **fields) for rank in (0, 1)]  # type: ignore[arg-type]


def told(rule: Rule, records: list[Record]) -> list[Finding]:
    assert not any(list(rule.check(record)) for record in records)
    return list(rule.check_together(records))


# Which records belong together ---------------------------------------------------------------------------------------


def test_one_record_of_each_rank_by_rank(tmp_path: Path) -> None:
    zero, one = pair(tmp_path)
    assert ranks([one, zero]) == [zero, one]
    assert ranks([zero]) == [] and ranks([zero, zero]) == []


def test_processes_that_do_not_train_together_have_no_ranks(tmp_path: Path) -> None:
    assert ranks(pair(tmp_path, world=1)) == []


def test_replicas_begin_with_the_same_weights(tmp_path: Path) -> None:
    zero, one = pair(tmp_path)
    assert are_replicas(zero, one)
    other = process(tmp_path / "..", 7, initial=1.0 + 1e-5)
    assert not are_replicas(zero, other)


def test_weights_whose_beginning_was_not_measured_prove_no_difference(tmp_path: Path) -> None:
    assert are_replicas(*pair(tmp_path, initial=math.nan))


def test_only_tensors_that_were_measured_whole_are_compared(tmp_path: Path) -> None:
    gradients = {("gradient", name): differing for name in WEIGHTS}
    (tmp_path / "part").mkdir()
    zero, one = pair(tmp_path, series=gradients)
    assert len(compared(zero, one, "gradient")) == 3
    zero, one = pair(tmp_path / "part", series=gradients, count=1024.0)
    assert compared(zero, one, "gradient") == []


@pytest.mark.parametrize(("gap", "differ"), [(SAME / 4, 0), (2 * SAME, 3), (math.nan, 0)])
def test_what_rounding_does_is_no_difference(tmp_path: Path, gap: float, differ: int) -> None:
    def size(rank: int, step: int) -> float:
        return float(np.float32(1.0)) * (1.0 + gap * rank)

    zero, one = pair(tmp_path, series={("gradient", name): size for name in WEIGHTS})
    assert len(apart(compared(zero, one, "gradient"), 3)) == differ


# ranks-diverge and ddp-bypassed --------------------------------------------------------------------------------------


def late(first: int) -> Numbers:
    return lambda rank, step: differing(rank, step) if step >= first else alike(rank, step)


@pytest.mark.parametrize(
    ("size", "steps", "found"),
    [
        (differing, 30, True),
        (late(10), 30, True),
        (late(16), 30, False),  # of most steps they are alike
        (alike, 30, False),
        (differing, 2, False),
        (differing, 3, True),
    ],
)
def test_weights_that_go_apart(tmp_path: Path, size: Numbers, steps: int, found: bool) -> None:
    series = {("parameter", name): alike for name in WEIGHTS} | {("parameter", WEIGHTS[1]): size}
    findings = told(RanksDiverge(), pair(tmp_path, series=series, steps=steps))
    assert [(one.severity, one.layer) for one in findings] == [("error", WEIGHTS[1])] * found
    if found:
        assert findings[0].evidence["of"] == 3 and findings[0].evidence["parameters"] == [WEIGHTS[1]]


def test_models_that_began_unlike_are_not_judged(tmp_path: Path) -> None:
    series = {(what, name): differing for name in WEIGHTS for what in ("parameter", "gradient")}
    zero, one = process(tmp_path, 0, series=series), process(tmp_path, 1, series=series, initial=2.0)
    for rule in (RanksDiverge(), DdpBypassed(), SameData(), Straggler()):
        assert not told(rule, [zero, one])


@pytest.mark.parametrize(
    ("apart_of_three", "steps", "found"), [(3, 30, True), (2, 30, True), (1, 30, False), (0, 30, False), (3, 2, False)]
)
def test_gradients_that_are_not_shared(tmp_path: Path, apart_of_three: int, steps: int, found: bool) -> None:
    """One of three may be an expert of its own."""
    series = {("gradient", name): differing if place < apart_of_three else alike for place, name in enumerate(WEIGHTS)}
    findings = told(DdpBypassed(), pair(tmp_path, series=series, steps=steps))
    assert [one.severity for one in findings] == ["error"] * found
    if found:
        assert findings[0].location is not None and findings[0].location.line == 7
        assert findings[0].step == 2


# same-data ------------------------------------------------------------------------------------------------------------


def constant(rank: int, step: int) -> float:
    return 1.0


@pytest.mark.parametrize(
    ("loss", "inputs", "steps", "found"),
    [
        (alike, alike, 30, True),
        (alike, differing, 30, False),
        (differing, alike, 30, False),
        (alike, constant, 30, False),  # one batch for ever
        (constant, alike, 30, False),
        (alike, alike, 9, False),
        (alike, alike, 10, True),
        (lambda rank, step: math.nan, alike, 30, False),
    ],
)
def test_batches_that_are_the_same(tmp_path: Path, loss: Numbers, inputs: Numbers, steps: int, found: bool) -> None:
    findings = told(SameData(), pair(tmp_path, loss=loss, inputs=inputs, steps=steps))
    assert [(one.severity, one.location and one.location.line) for one in findings] == [("error", 7)] * found


def test_the_loader_is_blamed_for_the_same_data(tmp_path: Path) -> None:
    (finding,) = told(SameData(), pair(tmp_path, loss=alike, inputs=alike, loader=True))
    assert finding.location is not None and finding.location.line == 5


# straggler ------------------------------------------------------------------------------------------------------------


def timed(folder: Path, rank: int, own: Numbers, rest: Numbers, steps: int = 40, watched: int = 1) -> Record:
    """A record with the seconds of each step before backward (`own`) and from there on (`rest`)."""
    folder = folder / f"rank{rank}"
    folder.mkdir()
    made = MadeRun(folder)
    made.declare("process", rank=rank, world_size=2)
    made.weight("fc.weight")
    now = 1.0
    for step in range(steps):
        begun = now
        now += own(rank, step)
        # On plain steps it is not known when backward began: the time is that of the end of the step before.
        made.out.row(ord("B"), 0, 0, step, 2.0, now if step % watched == 0 else begun)
        now += rest(rank, step)
        made.out.row(ord("S"), 0, 0, step, now, 0.0)
    return made.record()


def test_the_pace_is_that_of_watched_steps(tmp_path: Path) -> None:
    found = pace(timed(tmp_path, 0, lambda rank, step: 0.1, lambda rank, step: 0.2, watched=4))
    assert len(found.own) == 9  # of 40 steps each fourth, but for the first, before which nothing ended
    assert found.own == pytest.approx(np.full(9, 0.1)) and found.rest == pytest.approx(np.full(9, 0.2))


@pytest.mark.parametrize(
    ("own", "rest", "steps", "said"),
    [
        ((0.01, 0.06), (0.06, 0.01), 40, "error"),
        ((0.06, 0.01), (0.01, 0.06), 40, "error"),
        ((0.01, 0.06), (0.06, 0.01), 15, None),
        ((0.01, 0.06), (0.01, 0.01), 40, None),  # nobody waits
        ((0.10, 0.13), (0.08, 0.05), 40, None),  # a sixth of a step
        ((0.10, 0.15), (0.08, 0.03), 40, "note"),
        ((1e-4, 1e-3), (1e-3, 1e-4), 40, None),  # less than clocks tell
        ((0.05, 0.05), (0.05, 0.05), 40, None),
    ],
)
def test_a_process_that_all_wait_for(
    tmp_path: Path, own: tuple[float, float], rest: tuple[float, float], steps: int, said: str | None
) -> None:
    records = [timed(tmp_path, rank, lambda r, _: own[r], lambda r, _: rest[r], steps) for rank in (0, 1)]
    findings = told(Straggler(), records)
    assert [one.severity for one in findings] == ([said] if said else [])
    assert all(one.evidence["rank"] == int(own[1] > own[0]) and one.sure for one in findings)


def test_waiting_now_and_then_is_no_straggling(tmp_path: Path) -> None:
    def own(rank: int, step: int) -> float:
        return 0.5 if rank == 0 and step % 3 == 0 else 0.01

    records = [timed(tmp_path, rank, own, lambda rank, step: own(1 - rank, step)) for rank in (0, 1)]
    assert not told(Straggler(), records)


def test_while_the_processes_run_nothing_is_sure(tmp_path: Path) -> None:
    own, rest = (0.01, 0.06), (0.06, 0.01)
    records = [timed(tmp_path, rank, lambda r, _: own[r], lambda r, _: rest[r]) for rank in (0, 1)]
    for record in records:
        record.finished = False
    (finding,) = told(Straggler(), records)
    assert not finding.sure


@pytest.mark.parametrize("steps", [0, 1, 60])
@pytest.mark.parametrize("value", [math.nan, 0.0, math.inf])
def test_poor_records_of_several_processes_are_judged_without_an_error(
    tmp_path: Path, steps: int, value: float
) -> None:
    def number(rank: int, step: int) -> float:
        return value

    series = {(what, name): number for name in WEIGHTS for what in ("parameter", "gradient")}
    records = pair(tmp_path, steps=steps, loss=number, inputs=number, series=series)
    for rule in (RanksDiverge(), DdpBypassed(), SameData(), Straggler()):
        assert not told(rule, records)
