"""The rules about slim models, on reports that were written by hand: each number on both sides of its threshold."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from wellfit.slim.findings import FASTER, LEAST_GAIN, SKIPPED_SHARE, SPREADS, findings

HEALTHY: dict[str, Any] = {
    "steps": [{"layer": "fc", "method": "share", "strength": 16}],
    "bytes": {"slim": 1000, "dense": 10_000, "dense_coded": 8000, "ratio": 10.0},
    "parameters": {"dense": 2500, "slim": 2500},
    "latency": [
        {"batch": 1, "speedup": 1.0, "dense": {"p25": 0.9, "p50": 1.0, "p75": 1.1},
         "slim": {"p25": 0.9, "p50": 1.0, "p75": 1.1}},
        {"batch": 32, "speedup": 1.0, "dense": {"p25": 9.0, "p50": 10.0, "p75": 11.0},
         "slim": {"p25": 9.0, "p50": 10.0, "p75": 11.0}},
    ],
    "metric": {"name": "evaluate", "dense": 0.9, "slim": 0.895, "lost": 0.5, "allowed": 1.0, "spread": None},
    "skipped": [],
}  # fmt: skip


def made(**changes: Any) -> dict[str, Any]:
    """The healthy report with something changed: dotted names with two underscores."""
    report = copy.deepcopy(HEALTHY)
    for path, value in changes.items():
        *holders, last = path.split("__")
        inner = report
        for holder in holders:
            inner = inner[int(holder) if holder.isdigit() else holder]
        inner[last] = value
    return report


def names(report: dict[str, Any]) -> list[str]:
    return [finding["name"] for finding in findings(report)]


def test_a_healthy_report_has_none() -> None:
    assert findings(HEALTHY) == []


@pytest.mark.parametrize(
    ("slim", "speedup", "expected"),
    [
        (8000, 1.0, ["slim-no-op"]),
        (9000, 0.5, ["slim-no-op"]),
        (int(8000 / LEAST_GAIN) + 2, 1.19, ["slim-no-op"]),
        (int(8000 / LEAST_GAIN) - 2, 1.19, []),
        (8000, FASTER, []),
    ],
)
def test_no_op(slim: int, speedup: float, expected: list[str]) -> None:
    assert names(made(bytes__slim=slim, latency__0__speedup=speedup)) == expected


def test_without_steps_there_is_no_no_op() -> None:
    assert names(made(bytes__slim=8000, steps=[])) == []


def test_a_model_without_times_can_be_a_no_op() -> None:
    assert names(made(bytes__slim=8000, latency=[])) == ["slim-no-op"]


@pytest.mark.parametrize(
    ("p25", "p50", "expected"),
    [(1.05, 1.2, ["slim-slower"]), (0.95, 1.2, []), (1.05, 1.1, []), (0.5, 0.6, [])],
    ids=["slower", "its lower quartile is not", "its median is not", "faster"],
)
def test_slower(p25: float, p50: float, expected: list[str]) -> None:
    assert names(made(latency__0__slim={"p25": p25, "p50": p50, "p75": 2.0})) == expected


def test_slower_says_which_batch() -> None:
    (finding,) = findings(made(latency__1__slim={"p25": 19.0, "p50": 20.0, "p75": 21.0}))
    assert finding["severity"] == "error" and "32 samples takes 20 ms, and took 10 ms" in finding["message"]
    assert finding["evidence"]["batch"] == 32


def skipped(layer: str, parameters: int, method: str = "svd", reason: str = "too small") -> dict[str, Any]:
    return {"layer": layer, "method": method, "reason": reason, "parameters": parameters}


def test_skipped_layers_are_told_by_reason() -> None:
    report = made(skipped=[skipped("a", 500), skipped("b", 1000), skipped("c", 500, "tucker", "no convolution")])
    one, two = findings(report)
    assert one["name"] == two["name"] == "slim-layer-skipped" and one["severity"] == "note"
    assert one["evidence"]["layers"] == ["a", "b"] and one["evidence"]["share"] == pytest.approx(0.6)
    assert one["layer"] is None and two["layer"] == "c" and "no convolution" in two["message"]


def test_layers_left_as_they_are_make_one_finding() -> None:
    report = made(skipped=[skipped("a", 500, "", "x"), skipped("b", 1000, "", "y")])
    (finding,) = findings(report)
    assert finding["message"].startswith("nothing was done to a, b (60% of the parameters)")


def test_many_layers_are_not_all_named() -> None:
    (finding,) = findings(made(skipped=[skipped(f"layer{number}", 200) for number in range(9)]))
    assert "layer3 and 5 more" in finding["message"] and len(finding["evidence"]["layers"]) == 9


@pytest.mark.parametrize(("parameters", "expected"), [(24, []), (26, ["slim-layer-skipped"])])
def test_small_layers_are_not_worth_a_word(parameters: int, expected: list[str]) -> None:
    assert SKIPPED_SHARE == 0.01 and names(made(skipped=[skipped("a", parameters)])) == expected


@pytest.mark.parametrize(
    ("lost", "allowed", "spread", "expected"),
    [
        (1.01, 1.0, None, True),
        (1.0, 1.0, None, False),
        (0.9, None, 0.4, True),
        (0.7, None, 0.4, False),
        (50.0, None, None, False),
        (0.9, 1.0, 0.1, False),
        (float("inf"), 1.0, None, True),
    ],
)
def test_accuracy_lost(lost: float, allowed: float | None, spread: float | None, expected: bool) -> None:
    report = made(metric__lost=lost, metric__allowed=allowed, metric__spread=spread)
    assert SPREADS == 2.0 and names(report) == ["slim-accuracy-lost"] * expected


def test_errors_come_first() -> None:
    report = made(skipped=[skipped("a", 500)], metric__lost=9.0)
    assert names(report) == ["slim-accuracy-lost", "slim-layer-skipped"]


def test_messages_are_one_sentence_each() -> None:
    report = made(
        bytes__slim=9000, metric__lost=9.0, skipped=[skipped("", 500)],
        latency__0__slim={"p25": 5.0, "p50": 6.0, "p75": 7.0},
    )  # fmt: skip
    found = findings(report)
    assert {finding["name"] for finding in found} == {
        "slim-no-op", "slim-slower", "slim-layer-skipped", "slim-accuracy-lost",
    }  # fmt: skip
    for finding in found:
        assert set(finding) == {"name", "severity", "layer", "message", "evidence"}
        assert finding["evidence"] and "\n" not in finding["message"] and not finding["message"].endswith(".")
