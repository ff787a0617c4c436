"""The report of a model that nothing was trained for, in the form of the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from wellfit.slim.planning.report_text import left_out_lines, milliseconds
from wellfit.slim.planning.step import Step
from wellfit.slim.target import Target


def of_model(report: Mapping[str, Any]) -> dict[str, Any]:
    """What `Report.as_json` of `wellfit.slim.report` holds, as `page.reading.Report` reads it."""
    metric, size, target = report["metric"], report["bytes"], Target.of(report["target"])
    told = {key: report[key] for key in ("wellfit", "model", "target", "batch", "shortfalls", "findings")}
    folded = {step["strength"]: step["layer"] for step in report["steps"] if step.get("method") == "fold"}
    times = [_time(one) for one in report["latency"]]
    slim = {
        "key": "file", "bytes": size["slim"], "metric": _finite(metric["slim"]), "lost": _finite(metric["lost"]),
        "times": times, "setting": _setting(report["steps"]), "file": report["file"],
        "decode_seconds": report["decode_ms"] / 1000, "layers": [_layer(one, folded) for one in report["layers"]],
    }  # fmt: skip
    return {
        **told, **{key: report[key] for key in ("typed", "made_by", "seconds") if key in report},
        "keep_accuracy": metric["allowed"], "met": not report["shortfalls"],
        "target_bytes": None if target.is_time else target.bytes_of(size["dense"]) or None,
        "metric": _metric(metric),
        "notes": [*_notes(metric), *(f"{line.strip()}." for line in left_out_lines(report["left_out"]))],
        "dense": {"metric": metric["dense"], "bytes": size["dense"]}, "slim": slim,
        "tries": [slim, *(_try(at, one, report) for at, one in enumerate(report["tries"]))],
        "skipped_layers": [
            [one["method"] or "any", one["layer"] or "the model itself", one["reason"]] for one in report["skipped"]
        ],
    }  # fmt: skip


def _metric(metric: Mapping[str, Any]) -> dict[str, Any]:
    name = metric["name"]
    compared = f"{name} with the dense model on the example inputs ({metric['compared']:,} compared)"
    return {
        "kind": "text", "text": name, "name": name, "is_higher_better": True, "unit": _unit(metric),
        "source": name if metric["is_evaluated"] else compared,
    }  # fmt: skip


def _unit(metric: Mapping[str, Any]) -> str:
    """See `planning.judge.Judge`."""
    if not metric["is_evaluated"]:
        return "percent"
    return "share" if 0 <= metric["dense"] <= 1 else "own"


def _notes(metric: Mapping[str, Any]) -> list[str]:
    known = [] if metric["is_evaluated"] else ["What that means for accuracy, only evaluate= (--check) can tell."]
    moved = f"Outputs moved by {metric['moved']:.1%} of their spread." if math.isfinite(metric["moved"]) else ""
    return [*known, *[moved] * bool(moved)]


def _time(one: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "batch": one["batch"], "before_ms": milliseconds(one, "dense"), "after_ms": milliseconds(one, "slim"),
        "speedup": one["speedup"], "calm": one["is_calm"],
    }  # fmt: skip


def _try(at: int, one: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    """A whole model that the plan has measured. Its time is told by how many times as fast it was there, as the
    machine need not be what it was."""
    metric, lost = report["metric"], _finite(one["lost"])
    point = 0.01 if _unit(metric) == "share" else 1.0
    dense = next((milliseconds(each, "dense") for each in report["latency"] if each["batch"] == 1), None)
    is_timed = dense is not None and one["speedup"]
    return {
        "key": f"try {at}", "bytes": one["bytes"], "lost": lost,
        "metric": None if lost is None else metric["dense"] - lost * point, "setting": _setting(one["steps"]),
        "times": [{"batch": 1, "after_ms": dense / one["speedup"]}] if is_timed else [],
    }  # fmt: skip


def _setting(steps: Sequence[Mapping[str, Any]]) -> str:
    """ "0: prune 50%, share 16; 2: svd rank 4"."""
    if any("change" in step for step in steps):  # changes, as a file holds them whose steps nobody told
        return ""
    by_layer: dict[str, list[str]] = {}
    for step in steps:
        by_layer.setdefault(step["layer"], []).append(str(Step(**step)))
    return (
        "; ".join(f"{layer or 'the model itself'}: {', '.join(done)}" for layer, done in by_layer.items()) or "as it is"
    )


def _layer(one: Mapping[str, Any], folded: Mapping[str, str]) -> dict[str, Any]:
    """A layer with all its tensors: what was done to it, and what it was.

    Args:
        one: of the report.
        folded: by the name of a norm, the layer that it was worked into.
    """
    is_there = bool(one["numbers"])
    done = [str(Step(**step)) for step in one["steps"]]
    done += [f"folded into {folded[one['name']]}"] if one["name"] in folded else []
    return {
        "name": one["name"], "kind": one["kind"] if one["name"] else "",
        "done": ", ".join(done), "dense_numbers": one["parameters"],
        "numbers": one["numbers"] if is_there else f"as {one['tied_to']}" if one["tied_to"] else "gone",
        "kept": one["kept"] if is_there else None, "values": one["values"] if is_there else None,
        "bits": one["bits"] if is_there else None, "bytes": one["bytes"], "dense_bytes": one["dense_bytes"],
        "ms": one["slim_ms"], "dense_ms": one["dense_ms"],
    }  # fmt: skip


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
