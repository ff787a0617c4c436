"""The clinic's judgement: what hurts, what is rightly named, what a matrix says. Nothing is trained here."""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "bench"))

from ward import report  # noqa: E402
from ward.faults import FAULTS  # noqa: E402
from ward.matrix import STATES, Matrix  # noqa: E402
from ward.patients import PATIENTS, Patient  # noqa: E402
from ward.visit import Visit  # noqa: E402

from wellfit.overrides.catalogue import parse  # noqa: E402

UP = Patient("up", "mlp.py", "higher", 0.1, frozenset({"layers"}))
DOWN = Patient("down", "mlp.py", "lower", 2.0, frozenset({"layers"}))
LEFT = {"leave-out": ["SGD at train.py:3: without a.b.weight, a.b.bias, c.weight and 4 more"]}
BY_NAME = {fault.name: fault for fault in FAULTS}


def finding(rule: str, layer: str | None = None, severity: str = "error") -> dict:
    return {"severity": severity, "rule": rule, "layer": layer, "step": 3, "message": "<b>"}


@pytest.mark.parametrize(
    ("patient", "metric", "healthy", "hurt"),
    [
        (UP, 0.95, [0.97, 0.96, 0.98], False),
        (UP, 0.87, [0.97, 0.96, 0.98], True),  # a tenth of 0.87 is lost
        (UP, 0.87, [0.97, 0.90, 0.98], False),  # within twice the spread
        (UP, 0.99, [0.97], False),
        (UP, None, [0.97], True),
        (UP, float("nan"), [0.97], True),
        (DOWN, 0.6, [0.5, 0.51, 0.49], False),
        (DOWN, 0.7, [0.5, 0.51, 0.49], True),
        (DOWN, 0.1, [0.5], False),
    ],
)
def test_hurt(patient: Patient, metric: float | None, healthy: list[float], hurt: bool) -> None:
    assert patient.hurt(metric, healthy) is hurt


@pytest.mark.parametrize(
    ("visit", "state", "layer"),
    [
        (Visit(metric=0.1, findings=[finding("not-in-optimizer", "a.b")], overrides=LEFT, named=20), "right", True),
        (Visit(metric=0.1, findings=[finding("not-in-optimizer", "ab")], overrides=LEFT, named=20), "right", False),
        (
            Visit(metric=0.1, findings=[finding("plateau"), finding("not-in-optimizer", "c")], overrides=LEFT),
            "right",
            True,
        ),
        (Visit(metric=0.1, findings=[finding("not-in-optimizer", "c", "note")]), "noted", None),
        (Visit(metric=0.1, findings=[finding("plateau")]), "other", None),
        (Visit(metric=0.1), "missed", None),
        (Visit(metric=0.97), "unhurt", None),
        (Visit(metric=0.97, findings=[finding("not-in-optimizer")]), "unhurt-named", None),
        (Visit(metric=0.97, findings=[finding("plateau")]), "unhurt-alarm", None),
        (Visit(exit_code=2, misfit="--override leave-out found nothing to change"), "misfit", None),
        (Visit(metric=None), "missed", None),
        (Visit(metric=None, exit_code=1, finite=False), "missed", None),
        (Visit(metric=None, exit_code=1, said="TypeError: forward() missed x"), "broken", None),
        (Visit(metric=None, exit_code=124), "broken", None),
    ],
)
def test_state(visit: Visit, state: str, layer: bool | None) -> None:
    matrix = Matrix([UP], healthy={"up": [Visit(metric=0.97)]})
    matrix.add(UP, BY_NAME["half-left-out"], visit)
    assert (matrix.cells[0].state, matrix.cells[0].layer) == (state, layer)
    assert set(report.SIGNS) == set(STATES)


@pytest.mark.parametrize(("code", "state"), [(1, "missed"), (124, "broken")])
def test_a_program_that_refuses_the_numbers_that_a_fault_makes_was_hurt_by_it(code: int, state: str) -> None:
    matrix = Matrix([UP], healthy={"up": [Visit(metric=0.97)]})
    matrix.add(UP, BY_NAME["nan-gradient"], Visit(metric=None, exit_code=code))
    assert matrix.cells[0].state == state


def test_without_a_healthy_run_nothing_is_judged() -> None:
    matrix = Matrix([UP], healthy={"up": [Visit(exit_code=1)]})
    matrix.add(UP, BY_NAME["half-left-out"], Visit(metric=0.1))
    assert matrix.cells[0].state == "unknown"
    figures = matrix.figures()
    assert (figures["hurt"], figures["unhurt"], figures["clean_runs_crashed"]) == (0, 0, 1)


def full() -> Matrix:
    early = Visit(metric=0.96, steps=9, early=[finding("lr-high")])
    matrix = Matrix([UP, DOWN], healthy={"up": [Visit(metric=0.97, steps=9), early], "down": [Visit(metric=0.5)]})
    matrix.add(
        UP,
        BY_NAME["half-left-out"],
        Visit(metric=0.1, findings=[finding("not-in-optimizer", "a")], named=20, overrides=LEFT),
    )
    matrix.add(UP, BY_NAME["nan-input"], Visit(findings=[finding("non-finite-input")], named=150))
    matrix.add(DOWN, BY_NAME["half-left-out"], Visit(metric=1.0))
    return matrix


def test_figures() -> None:
    figures = full().figures()
    assert (figures["clean_runs"], figures["clean_runs_with_errors"]) == (3, 1)
    assert (figures["hurt"], figures["detected"], figures["right_rule"]) == (3, 2, 2)
    assert figures["median_steps_until_named"] == 35  # 20, and 150 - 100 after its onset
    assert (figures["layer_asked"], figures["right_layer"]) == (1, 0)


def test_reports_say_the_same() -> None:
    facts = {"commit": "abc", "date": "today"}
    for text in (report.text(full(), facts), report.document(full(), facts), report.page(full(), facts)):
        assert "3 healthy runs: 1 with an error" in text
        assert "commit: abc" in text
    assert "false alarm: up, seed 1: lr-high" in report.text(full(), facts)
    assert "| down | half-left-out | 1 | nothing |" in report.document(full(), facts)
    HTMLParser().feed(report.page(full(), facts))
    assert "<b>" not in report.page(full(), facts)


def test_every_fault_is_known_and_suits_someone() -> None:
    for fault in FAULTS:
        assert parse(fault.overrides)
        assert any(fault.suits(patient) for patient in PATIENTS), fault.name
    assert len(BY_NAME) == len(FAULTS)
    assert len({patient.name for patient in PATIENTS}) == len(PATIENTS)
