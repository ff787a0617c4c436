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
        "ends": ["the budget of 1.5 min is over (--budget)"], "seconds": 78.2,
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
