"""The proof of a slimming, as rules read it: what the dense model was, and what the slim one is, both measured."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wellfit.errors import WellfitError


@dataclass(frozen=True)
class Figure:
    """The metric that the models are judged by.

    Args:
        name: for people.
        dense: of the dense model.
        slim: of the model that was read from the file; None if nothing was said of it.
        lost: points; below 0 if the slim model is better, infinite if nothing was said of it.
        allowed: points that may be lost; None if that was not said.
        spread: standard deviation among seeds, in points; None if it is not known.
    """

    name: str
    dense: float
    slim: float | None
    lost: float
    allowed: float | None
    spread: float | None


@dataclass(frozen=True)
class Span:
    """Milliseconds of a call.

    Args:
        p10, p25, p50, p75: so many percent of the calls took at most this.
        calls: how many were timed.
    """

    p10: float
    p25: float
    p50: float
    p75: float
    calls: int


@dataclass(frozen=True)
class Latency:
    """Both models, called in turn.

    Args:
        batch: samples in a call.
        dense, slim: of the two.
        speedup: how many times as fast the slim model is, call by call.
    """

    batch: int
    dense: Span
    slim: Span
    speedup: float


@dataclass(frozen=True)
class Skipped:
    """A layer that was left as it was.

    Args:
        layer: its name; "" for the model itself.
        method: that was asked for; "" if any would have done.
        reason: why it was not done.
        parameters: of the layer.
    """

    layer: str
    method: str
    reason: str
    parameters: int


@dataclass(frozen=True)
class Proof:
    """What a slimming came to, measured after its file was read again. docs/slim/proof.md describes it.

    Args:
        file: that was written.
        is_for_time: the target was one of time, not of size.
        batch: samples in the calls that a target of time is about.
        metric: what the models are judged by.
        dense_bytes: of the dense weights in memory.
        coded_bytes: of the dense weights in a file, coded without loss.
        slim_bytes: of the file.
        parameters: of the dense model.
        steps: how many were taken.
        latency: by samples in a call; empty if nothing was timed.
        skipped: layers that were left as they were.
    """

    file: str
    is_for_time: bool
    batch: int
    metric: Figure
    dense_bytes: int
    coded_bytes: int
    slim_bytes: int
    parameters: int
    steps: int
    latency: tuple[Latency, ...]
    skipped: tuple[Skipped, ...]

    @classmethod
    def of(cls, report: Any) -> Proof:
        """The proof in a report: under the key "proof" where a script was slimmed, the report itself where a model was.

        Raises:
            WellfitError: it is no report, or the slimming gave no file.
        """
        told = report.get("proof", report) if isinstance(report, Mapping) else report
        if told is None:
            raise WellfitError("that slimming gave no file, so there is nothing to judge")
        try:
            return _proof(told)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            why = f'it has no "{error.args[0]}"' if isinstance(error, KeyError) else str(error)
            raise WellfitError(f"it is no report of `wellfit slim`: {why:.120}") from None

    @classmethod
    def read(cls, path: Path) -> Proof:
        """The proof in a report that was saved.

        Raises:
            WellfitError: the file cannot be read, is no report, or the slimming gave no file.
        """
        try:
            return cls.of(json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise WellfitError(f"{path} cannot be read: {error.strerror or error}") from None
        except WellfitError as error:
            raise WellfitError(f"{path}: {error}") from None
        except (ValueError, RecursionError) as error:
            raise WellfitError(f"{path} is no JSON: {error!s:.120}") from None


def _proof(told: Mapping[str, Any]) -> Proof:
    metric, size = told["metric"], told["bytes"]
    return Proof(
        str(told["file"]), bool(told["is_for_time"]), _count(told["batch"]),
        Figure(
            str(metric["name"]), float(metric["dense"]), _maybe(metric["slim"]),
            math.inf if metric["lost"] is None else float(metric["lost"]), _maybe(metric["allowed"]),
            _maybe(metric["spread"]),
        ),
        _count(size["dense"]), _count(size["dense_coded"]), _count(size["slim"]), _count(told["parameters"]["dense"]),
        len(told["steps"]),
        tuple(
            Latency(_count(one["batch"]), _span(one["dense"]), _span(one["slim"]), float(one["speedup"]))
            for one in told["latency"]
        ),
        tuple(
            Skipped(str(one["layer"]), str(one["method"]), str(one["reason"]), _count(one["parameters"]))
            for one in told["skipped"]
        ),
    )  # fmt: skip


def _span(told: Mapping[str, Any]) -> Span:
    p10, p25, p50, p75 = (float(told[name]) for name in ("p10", "p25", "p50", "p75"))
    return Span(p10, p25, p50, p75, _count(told["calls"]))


def _maybe(value: Any) -> float | None:
    return None if value is None else float(value)


def _count(value: Any) -> int:
    count = int(value)
    if count < 0:
        raise ValueError(f"{count} is no count")
    return count
