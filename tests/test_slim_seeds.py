"""Runs of one setting with other random numbers: as many as there is time for, their mean and spread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from wellfit.slim.drive.metric import Metric
from wellfit.slim.drive.repeats import Wanted, ended, in_time
from wellfit.slim.drive.runs import Failed, OutOfTime
from wellfit.slim.drive.seeds import Seeds, control_json, sentences

ACCURACY = Metric("accuracy", "", True, "share")


@dataclass
class Ran:
    value: float | None
    bytes: int = 7

    def as_json(self) -> dict[str, Any]:
        return {"metric": self.value}


def raising(error: Exception) -> Callable[[float], str]:
    def make(_: float) -> str:
        raise error

    return make


def test_what_was_made_is_not_made_again_and_needs_no_time() -> None:
    told: list[str] = []
    wanted = [Wanted("a", "old a", raising(AssertionError())), Wanted("b", "old b", raising(AssertionError()))]
    assert in_time(wanted, lambda: 100.0, lambda: 0.0, told.append) == (["old a", "old b"], "")
    assert told == []


def test_runs_stop_when_the_budget_does() -> None:
    told: list[str] = []
    left = iter([30.0, 30.0, 10.0])
    given: list[float] = []

    def make(seconds: float) -> str:
        given.append(seconds)
        return "new"

    wanted = [Wanted("a", None, make), Wanted("b", None, make), Wanted("c", None, make)]
    found, why = in_time(wanted, lambda: 20.0, lambda: next(left), told.append)
    assert (found, why) == (["new"], "1 of 3 runs were made, as the budget is over (--budget)")
    assert told == ["a, about 20 s"] and given == [40.0], "what was begun may take twice as long"


@pytest.mark.parametrize(
    ("error", "why"),
    [(OutOfTime(), "its time was over"), (Failed("the script ended with 3"), "the script ended with 3")],
)
def test_a_run_that_fails_ends_it(error: Exception, why: str) -> None:
    wanted = [Wanted("a", "old", raising(error)), Wanted("b", None, raising(error)), Wanted("c", "old", raising(error))]
    assert in_time(wanted, lambda: 1.0, lambda: 9.0, print) == (["old"], f"1 of 3 runs were made, as {why}")


def test_only_the_search_has_a_best_so_far() -> None:
    told = ended(["the budget is over"], ["seeds: 0 of 1 runs were made"])
    assert told == ["the budget is over: this is the best so far", "seeds: 0 of 1 runs were made"]


def test_mean_and_spread() -> None:
    seeds = Seeds.of([Ran(0.98, 10), Ran(0.99, 8), Ran(None, 9), Ran(0.97, 7)])
    told = seeds.as_json()
    assert told["count"] == 4 and told["metrics"] == [0.98, 0.99, 0.97] and told["bytes"] == [10, 8, 9, 7]
    assert told["mean"] == pytest.approx(0.98) and told["spread"] == pytest.approx(0.01)
    assert seeds.sentence(ACCURACY) == "3 seeds: mean 98.00 %, standard deviation 1.00 points"
    loss = Metric("printed", "loss", False, "number")
    assert Seeds([1.0, 2.0], [5, 6]).sentence(loss) == "2 seeds: mean 1.5, standard deviation 0.707"


def test_of_one_run_nothing_is_said() -> None:
    assert sentences(Seeds.of([Ran(0.9)]), Seeds.of([]), ACCURACY) == []
    assert Seeds.of([]).as_json() == {"count": 0, "metrics": [], "mean": None, "spread": None, "bytes": []}
    assert control_json([]) is None


def test_the_dense_network_has_its_own_sentence() -> None:
    file, dense = Seeds([0.9, 0.9], [2000, 1000]), Seeds([0.95, 0.93], [1, 1])
    assert sentences(file, dense, ACCURACY) == [
        "2 seeds: mean 90.00 %, standard deviation 0.00 points; 1,000 to 2,000 bytes",
        "dense, trained on alike, 2 seeds: mean 94.00 %, standard deviation 1.41 points",
    ]
    told = control_json([Ran(0.95), Ran(0.93)])
    assert told is not None and told["metric"] == 0.95 and told["seeds"]["count"] == 2
