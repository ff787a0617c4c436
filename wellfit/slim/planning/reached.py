"""What was asked for and is not reached, by what was measured of the file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from wellfit.slim.planning.report_text import milliseconds
from wellfit.slim.planning.text import FASTER
from wellfit.slim.target import Target


def shortfalls(told: Mapping[str, Any]) -> list[str]:
    """Sentences without a full stop; none if all was reached.

    Args:
        told: a report, as `Report.told` has it.
    """
    found = []
    target, metric, size = Target.of(told["target"]), told["metric"], told["bytes"]
    if target.is_time:
        found += _slow(target, next((one for one in told["latency"] if one["batch"] == 1), None))
    elif target.kind != "size" and size["slim"] > target.bytes_of(size["dense"]):
        found.append(f"{target} was not reached: the file has {size['slim']:,} bytes")
    if not math.isfinite(metric["lost"]):
        found.append(f"the model of the file has no finite {metric['name']}")
    elif metric["allowed"] is not None and metric["lost"] > metric["allowed"]:
        found.append(f"{metric['lost']:.2f} points of {metric['name']} are lost, where {metric['allowed']:g} may be")
    return found


def _slow(target: Target, one: Mapping[str, Any] | None) -> list[str]:
    """Of a call with one sample."""
    if one is None:
        return [f"{target} was not reached: the model takes no single sample, so nothing was timed"]
    speedup, took = one["speedup"], milliseconds(one, "slim")
    if target.kind == "milliseconds":
        return [] if took <= target.amount else [f"{target} was not reached: a call takes {took:.3g} ms"]
    if target.kind == "speedup":
        return [] if speedup >= target.amount else [f"{target} was not reached: a call is {speedup:.2f}x as fast"]
    return [] if speedup >= FASTER else [f"nothing is {FASTER}x faster: a call is {speedup:.2f}x as fast"]
