"""What is asked of a slimming: `--target` and `--budget`."""

from __future__ import annotations

import pytest

from wellfit.errors import WellfitError
from wellfit.slim.drive.options import SlimOptions, budget_of
from wellfit.slim.target import Target


@pytest.mark.parametrize(
    ("text", "bytes_of_a_million"),
    [
        ("50x", 20_000),
        ("4X", 250_000),
        ("30kB", 30_000),
        ("2.5 KiB", 2560),
        ("2 MiB", 2 << 20),
        ("1M", 10**6),
    ],
)
def test_targets_of_size(text: str, bytes_of_a_million: int) -> None:
    target = Target.of(text)
    assert target.bytes_of(1_000_000) == bytes_of_a_million and target.goal == "size"


@pytest.mark.parametrize(
    ("text", "target", "spoken"),
    [
        ("latency", Target("latency"), "latency"),
        ("2ms", Target("milliseconds", 2.0), "2 ms"),
        ("500 us", Target("milliseconds", 0.5), "0.5 ms"),
        ("0.5s", Target("milliseconds", 500.0), "500 ms"),
        ("3x-faster", Target("speedup", 3.0), "3x-faster"),
        ("1.5X-Faster", Target("speedup", 1.5), "1.5x-faster"),
    ],
)
def test_targets_of_time(text: str, target: Target, spoken: str) -> None:
    assert Target.of(text) == target
    assert str(target) == spoken and target.is_time


@pytest.mark.parametrize("text", ["3x", "30kB", "size"])
def test_targets_of_size_stay_what_they_are(text: str) -> None:
    assert not Target.of(text).is_time


def test_milliseconds_of_targets_of_time() -> None:
    assert Target.of("2ms").milliseconds_of(9) == 2 and Target.of("500us").milliseconds_of(None) == 0.5
    assert Target.of("3x-faster").milliseconds_of(6.0) == 2 and Target.of("2ms").goal == "latency"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2",
        "30",
        "x",
        "0x",
        "1x",
        "-4x",
        "1e3x",
        "1e400x",
        "small",
        "4 apples",
        "size please",
        "-3kB",
        "0.1B",
        "infB",
        "faster",
        "x-faster",
        "1x-faster",
        "2ms-faster",
        "0ms",
        "-2ms",
        "nanms",
        "2 minutes",
    ],
)
def test_what_is_no_target_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(WellfitError, match="the target is size, a ratio of bytes such as 50x"):
        Target.of(text)


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("10 min", 600), ("2h", 7200)])
def test_budgets(text: str, seconds: float) -> None:
    assert budget_of(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1m", "soon", "10d"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(WellfitError, match="--budget is a time above 0"):
        budget_of(text)


def test_runs_that_time_is_kept_back_for() -> None:
    assert [SlimOptions([], seeds=k, control=c).repeats for k, c in ((1, False), (3, False), (1, True), (3, True))] == [
        0,
        2,
        1,
        5,
    ]
