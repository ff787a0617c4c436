"""What report.json of a slimming holds, for the tests of its page."""

from __future__ import annotations

import math
from typing import Any

LAYERS = (("first.weight", [64, 64], 0.104, 431, None), ("head.weight", [10, 64], 0.247, 165, None),
          ("first.bias", [64], 1.0, 119, "bias"), ("head.bias", [10], 1.0, 29, "bias"))  # fmt: skip


def a_try(name: str, size: int, value: float | None, lost: float | None, keep: float) -> dict[str, Any]:
    return {"folder": name, "keep": keep, "values": 16, "steps": 336, "bytes": size, "metric": value, "lost": lost,
            "seconds": 17.06, "taught": name == "c", "seed": None, "rounded": True}  # fmt: skip


def slim_report() -> dict[str, Any]:
    """A slimming for size: three tries, the second is given."""
    tries = [
        a_try("a", 2942, 0.8564, 5.04, 0.04),
        a_try("b", 4639, 0.9169, -1.01, 0.1),
        a_try("c", 5100, 0.9, 0.68, 0.2),
    ]
    layers = [
        {"name": name, "shape": shape, "parameters": math.prod(shape), "kept": kept, "values": 11, "bits": 0.84,
         "bytes": size, "stored_as": "codebook", "planned_keep": None, "skipped": skipped}
        for name, shape, kept, size, skipped in LAYERS
    ]  # fmt: skip
    plan = [
        {"name": name, "parameters": math.prod(shape), "share_of_bytes": 0.1207, "sensitivity": 0.359643,
         "method": "prune, share", "keep": kept, "values": 16, "predicted_bytes": 518}
        for name, shape, kept, _, skipped in LAYERS if skipped is None
    ]  # fmt: skip
    return {
        "version": 1, "wellfit": "0.1.0", "command": ["digits.py"], "typed": ["--budget", "90s", "digits.py"],
        "model": "DeepNet", "target": "size", "target_bytes": None, "keep_accuracy": 1.0, "met": True, "shortfalls": [],
        "ends": ["the budget of 1.5 min is over (--budget): this is the best so far"], "seconds": 78.2,
        "metric": {"kind": "accuracy", "text": "", "is_higher_better": True, "unit": "share", "name": "accuracy",
                   "source": "accuracy, counted in the script's own evaluation"},
        "dense": {"metric": 0.9068, "bytes": 135720, "parameters": 33930, "steps": 336, "seconds": 8.2},
        "slim": {**tries[1], "file": "digits.wfz", "ratio": 29.256, "decode_seconds": 0.01146, "layers": layers},
        "seeds": {"count": 3, "metrics": [0.91, 0.92, 0.92], "mean": 0.9167, "spread": 0.0058, "bytes": [4600, 4700]},
        "plan": {"version": 1, "model": "DeepNet", "bytes": 135720, "predicted_bytes": 5500, "predicted_ratio": 24.68,
                 "together": True,
                 "layers": plan, "skipped": {}},
        "front": ["a", "b"], "tries": tries,
    }  # fmt: skip


def fast_slim_report() -> dict[str, Any]:
    """A slimming for speed: two structures, timed at two batches; a layer became another one."""
    times = [{"batch": 1, "speedup": 1.72, "calm": True, "before_ms": 0.392, "after_ms": 0.227},
             {"batch": 32, "speedup": 1.05, "calm": False, "before_ms": 1.95, "after_ms": 1.86}]  # fmt: skip
    one = {"key": "structured-0.9", "method": "structured+fold", "strength": 0.9, "steps": 420, "bytes": 6335,
           "value": 0.929, "lost": 4.28, "times": times, "seconds": 117.0, "is_taught": True, "seed": None,
           "layers": {"before": [{"name": "stem.1", "kind": "BatchNorm2d", "p50": 0.0439}],
                      "after": [{"name": "stem.1", "kind": "Identity", "p50": 0.0018}]}}  # fmt: skip
    other = {**one, "key": "fold-1", "method": "fold", "strength": 1.0, "bytes": 257884, "value": 0.972, "lost": 0.0}
    told = slim_report()
    for key in ("plan", "front"):
        del told[key]
    lost = {"rule": "slim-accuracy-lost", "code": "SLM004", "severity": "error", "layer": None,
            "message": "4.28 points of accuracy are lost, where 1 may be; take milder steps",
            "evidence": {"dense": 0.972, "lost": 4.28}}  # fmt: skip
    skipped = {
        "rule": "slim-layer-skipped",
        "code": "SLM003",
        "severity": "note",
        "layer": "head",
        "message": "structured was not done to head (2% of the parameters): no",
        "evidence": {"layers": ["head"]},
    }
    return {
        **told, "target": "2x-faster", "batch": 1, "met": False, "tries": [one, other],
        "shortfalls": ["the file loses 4.28 points, more than --keep-acc 1; the front above is what was found"],
        "slim": {**one, "file": "resnet.wfz", "ratio": 49.5}, "seeds": {"count": 1, "metrics": [0.929], "mean": 0.929},
        "survey": [{"method": "fold", "strength": 1.0, "milliseconds": 1.396, "speedup": 1.2126}],
        "skipped": [["int8", "head: 0.50 times as fast here"]],
        "skipped_layers": [["structured", "head", "its outputs are the network's"]], "findings": [lost, skipped],
    }  # fmt: skip


def model_report() -> dict[str, Any]:
    """A report of `wellfit slim --model` for speed: a norm was folded, a layer factored, another one tied."""
    fold = {"layer": "conv", "method": "fold", "strength": "norm"}
    svd = {"layer": "fc", "method": "svd", "strength": 8}

    def span(p50: float) -> dict[str, float]:
        return {"p50": p50, "p25": 0.95 * p50, "p75": 1.1 * p50, "p10": 0.9 * p50, "p90": 1.2 * p50, "calls": 100}

    def layer(name: str, kind: str, count: int, numbers: int, ms: float | None, **more: Any) -> dict[str, Any]:
        return {"name": name, "kind": kind, "parameters": count, "numbers": numbers, "dense_bytes": 4 * count,
                "bytes": 3 * numbers, "kept": 0.873, "values": 77, "bits": 24.32, "tied_to": None, "steps": [],
                "dense_ms": 0.051, "slim_ms": ms, **more}  # fmt: skip

    return {
        "version": 1, "wellfit": "0.1.0", "file": "w.wfz", "model": "Net", "target": "3x-faster", "is_for_time": True,
        "batch": 1, "typed": ["--model", "mine:build", "--weights", "w.safetensors"], "made_by": "mine:build",
        "seconds": 12.3,
        "metric": {"name": "accuracy", "dense": 0.96, "slim": 0.955, "lost": 0.5, "allowed": 2.0, "spread": None,
                   "moved": 0.067, "same": 0.97, "compared": 400, "is_evaluated": True},
        "bytes": {"slim": 9000, "dense": 22_000, "ratio": 2.444, "dense_coded": 18_000, "slim_in_memory": 12_000},
        "parameters": {"dense": 5500, "slim": 3000},
        "latency": [
            {"batch": 1, "dense": span(0.6), "slim": span(0.3), "speedup": 2.0, "is_faster": True, "is_calm": True},
            {"batch": 32, "dense": span(4.0), "slim": span(3.5), "speedup": 1.1, "is_faster": False, "is_calm": False},
        ], "left_out": [],
        "decode_ms": 2.5,
        "layers": [layer("conv", "Conv2d", 1500, 1500, 0.051, steps=[fold]), layer("norm", "BatchNorm2d", 64, 0, 0.001),
                   layer("fc", "Linear", 3000, 1444, 0.023, steps=[svd]),
                   layer("head", "Linear", 800, 0, None, tied_to="table.weight"), layer("", "Net", 136, 136, None)],
        "steps": [fold, svd], "changes": [], "shortfalls": ["3x-faster was not reached: a call is 2.00x as fast"],
        "skipped": [{"layer": "head", "method": "", "reason": "it is too small to be faster", "parameters": 800}],
        "tries": [{"bytes": 15_000, "lost": -0.25, "moved": 0.01, "speedup": 1.25, "steps": [fold]},
                  {"bytes": 7000, "lost": 4.0, "moved": 0.3, "speedup": 4.0, "steps": [fold, {**svd, "strength": 2}]},
                  {"bytes": 6000, "lost": math.inf, "moved": math.inf, "speedup": None, "steps": []}],
        "findings": [],
    }  # fmt: skip
