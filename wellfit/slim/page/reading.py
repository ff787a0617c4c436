"""What `report.json` holds, as the page needs it: parts that a slimming did not measure are simply not there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from wellfit.slim.drive.metric import Metric
from wellfit.slim.drive.options import time_text


@dataclass(frozen=True)
class Try:
    """A point of the plots.

    Args:
        name: of the try in the report.
        bytes: of its file.
        value: of the metric; None if the script said none.
        lost: points; infinite without a value.
        setting: what was done, for people.
        milliseconds: p50 by samples in a call.
        seconds: that it took.
        is_chosen: its file is the one that was given.
    """

    name: str
    bytes: int
    value: float | None
    lost: float
    setting: str
    milliseconds: Mapping[int, float]
    seconds: float | None
    is_chosen: bool


@dataclass(frozen=True)
class Report:
    """A report.

    Args:
        told: the JSON. It always has `target`, `keep_accuracy` (None: nothing was said of what may be lost), `met`,
            `metric` (a `Metric`, with `source`), `dense` (`metric`, `bytes`) and `tries` (each a `folder` or `key`,
            `bytes`, `metric` or `value`, `lost`); all else is shown where it is there: `slim` (a try with `file`,
            `decode_seconds`, `times`, `layers`), `seeds`, `plan`, `survey`, `skipped`, `skipped_layers`, `ends`,
            `findings`, `seconds`, `notes`, `typed`, `made_by`, `control` (a try with `seeds`).
    """

    told: Mapping[str, Any]

    @cached_property
    def metric(self) -> Metric:
        """The figure that the network is judged by."""
        told = self.told["metric"]
        return Metric(told["kind"], told["text"], told["is_higher_better"], told["unit"])

    @property
    def dense(self) -> Mapping[str, Any]:
        """The network as it was."""
        found: Mapping[str, Any] = self.told["dense"]
        return found

    @property
    def slim(self) -> Mapping[str, Any] | None:
        """What the file is; None if none was given."""
        return self.told.get("slim")

    @cached_property
    def chosen(self) -> Try | None:
        """The try whose file was given."""
        return self._try(self.slim, is_chosen=True) if self.slim else None

    @cached_property
    def control(self) -> Try | None:
        """The dense network, trained on as that of the file was; None if that was not asked for."""
        told = self.told.get("control")
        return self._try(told, is_chosen=False) if told else None

    @cached_property
    def tries(self) -> list[Try]:
        """All, the smallest file first."""
        own = self.chosen.name if self.chosen else None
        found = [self._try(one, is_chosen=_name(one) == own) for one in self.told.get("tries", [])]
        return sorted(found, key=lambda one: (one.bytes, one.lost))

    @cached_property
    def times(self) -> list[Mapping[str, Any]]:
        """Of the file and of the dense network beside it, by samples in a call; none where they were not measured."""
        return list((self.slim or {}).get("times") or [])

    @property
    def allowed(self) -> float | None:
        """The worst value of the metric that may be; None if nothing was said of it."""
        if self.told["keep_accuracy"] is None:
            return None
        within, dense = float(self.told["keep_accuracy"]), float(self.dense["metric"])
        unit = {"share": 0.01, "percent": 1.0, "own": 1.0}.get(self.metric.unit, abs(dense) / 100)
        return dense - within * unit if self.metric.is_higher_better else dense + within * unit

    def _try(self, told: Mapping[str, Any], is_chosen: bool) -> Try:
        value = told.get("metric", told.get("value"))
        lost = told.get("lost")
        return Try(
            _name(told), int(told["bytes"]), value, math.inf if lost is None or value is None else float(lost),
            _setting(told), {one["batch"]: one["after_ms"] for one in told.get("times") or []}, told.get("seconds"),
            is_chosen,
        )  # fmt: skip


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Places of the points that no other beats in both numbers (less is better), by the first of them."""
    best: list[int] = []
    for at in sorted(range(len(points)), key=lambda at: points[at]):
        if math.isfinite(points[at][1]) and (not best or points[at][1] < points[best[-1]][1]):
            best.append(at)
    return best


def bytes_text(count: float) -> str:
    """For an axis: "500 B", "20 kB", "1.5 MB"."""
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.3g} B"


def ratio_text(ratio: float) -> str:
    """ "4.2x", "29x"."""
    return f"{ratio:.1f}x" if ratio < 10 else f"{ratio:,.0f}x"


def milliseconds_text(milliseconds: float) -> str:
    """ "0.227 ms", "14.4 ms", "2.5 s"."""
    return f"{milliseconds:.3g} ms" if milliseconds < 999 else time_text(milliseconds / 1000)


def seconds_text(seconds: float | None) -> str:
    """A time for people; nothing if there is none."""
    return "" if seconds is None else time_text(seconds)


def _name(told: Mapping[str, Any]) -> str:
    return str(told.get("folder", told.get("key", "")))


def _setting(told: Mapping[str, Any]) -> str:
    """ "10 % of the weights, 16 values a layer, taught"."""
    if "setting" in told:
        return str(told["setting"])
    words = []
    if "method" in told:
        words.append(f"{told['method']} {told['strength']:g}" if told.get("strength", 1) != 1 else str(told["method"]))
    if told.get("keep") is not None:
        words.append(f"{100 * told['keep']:.3g} % of the weights")
    if told.get("values"):
        words.append(f"{told['values']} values a layer")
    words += sorted({layer[3] for layer in told.get("plan") or [] if len(layer) > 3})
    if told.get("taught") or told.get("is_taught"):
        words.append("taught by the dense network")
    if told.get("rounded") is False:
        words.append("not rounded")
    return ", ".join(words)
