"""Which figure a script's network is judged by, and what is read from what it prints."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wellfit.errors import WellfitError
from wellfit.slim.drive.metric import Metric, Said, choose


def said(output: str = "", *evaluations: tuple[float | None, float | None]) -> Said:
    return Said(output, tuple({"loss": loss, "accuracy": accuracy} for loss, accuracy in evaluations))


def test_the_users_own_text_comes_first() -> None:
    run = said("val f1 0.5\nval f1: 0.71 (best)\nother 3", (0.3, 0.9))
    metric = choose(run, "val f1")
    assert (metric.kind, metric.unit, metric.is_higher_better) == ("text", "number", True)
    assert metric.value_of(run) == 0.71


@pytest.mark.parametrize("text", ["validation loss", "test error", "ppl", "RMSE", "bits per character"])
def test_of_a_loss_less_is_better(text: str) -> None:
    metric = choose(said(f"{text} 2.0"), text)
    assert not metric.is_higher_better
    assert metric.lost(2.0, 2.1) == pytest.approx(5.0)


def test_the_number_is_looked_for_behind_the_text_alone() -> None:
    with pytest.raises(WellfitError, match="prints no number behind that text"):
        choose(said("3 epochs, glow"), "glow")
    assert choose(said("epoch 3 mean 1e-3, 7"), "mean").value_of(said("epoch 3 mean 1e-3, 7")) == 1e-3


def test_accuracy_that_was_counted_comes_before_one_that_is_printed() -> None:
    run = said("accuracy 0.5", (0.3, 0.8), (0.2, 0.9), (0.1, None))
    metric = choose(run, None)
    assert metric.kind == "accuracy"
    assert metric.value_of(run) == 0.9


@pytest.mark.parametrize(
    ("line", "value", "unit"),
    [
        ("test accuracy 0.907", 0.907, "share"),
        ("Test set: Average loss: 0.1, Accuracy: 98.3%", 98.3, "percent"),
        ("acc=93.1 time 3 s", 93.1, "percent"),
        ("\x1b[32mval_acc\x1b[0m: \x1b[1m0.25\x1b[0m", 0.25, "share"),
        ("10%|#| acc 0.1\r99%|####| acc 0.6", 0.6, "share"),
        ("Accuracy (top-1) 71", 71.0, "percent"),
        ("Test set: Average loss: 0.0264, Accuracy: 9908/10000 (99%)", 0.9908, "share"),
    ],
)
def test_accuracy_that_is_printed_comes_before_a_loss(line: str, value: float, unit: str) -> None:
    run = said(f"{line}\nwellfit: accuracy 7\naccelerated 5", (0.3, None))
    metric = choose(run, None)
    assert (metric.kind, metric.unit, metric.value_of(run)) == ("printed", unit, value)


def test_a_loss_is_the_last_resort() -> None:
    run = said("step 3", (0.5, None), (0.25, None))
    metric = choose(run, None)
    assert (metric.kind, metric.is_higher_better, metric.value_of(run)) == ("loss", False, 0.25)


def test_without_any_figure_it_is_said_what_to_do() -> None:
    with pytest.raises(WellfitError, match="--metric"):
        choose(said("step 3 reward 7", (None, None)), None)


@given(st.floats(0, 1), st.floats(0, 1))
def test_points_are_the_same_for_shares_and_percents(dense: float, slim: float) -> None:
    share, percent = Metric("accuracy"), Metric("printed", unit="percent")
    assert share.lost(dense, slim) == pytest.approx(percent.lost(100 * dense, 100 * slim), abs=1e-9)
    assert (share.lost(dense, slim) > 0) == (slim < dense)


def test_what_is_no_number_has_lost_everything() -> None:
    assert choose(said("loss nan\nloss 0.5"), "loss").value_of(said("loss nan")) is None
    assert Metric("accuracy").lost(0.5, None) == math.inf
