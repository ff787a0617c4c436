"""The proof of a script's slim network as rules read it, and what they say of it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wellfit.diagnose import Diagnosis
from wellfit.proof import Proof
from wellfit.slim.drive.base import Dense
from wellfit.slim.drive.options import SlimOptions
from wellfit.slim.findings import judged


def proof_json(
    options: SlimOptions, dense: Dense, file: Path, values: Sequence[float | None], size: int, more: dict[str, Any]
) -> dict[str, Any]:
    """What is the same for all targets, as docs/slim/proof.md has it.

    Args:
        options: as typed.
        dense: the network as it was.
        file: that was given.
        values: of the metric: of the file, then of files of the same setting with other seeds.
        size: bytes of the file.
        more: `steps`, `latency` and `skipped`.
    """
    metric, said = dense.metric, [value for value in values if value is not None]
    lost = metric.lost(dense.value, values[0])
    spread = metric.points(statistics.stdev(said), dense.value) if len(said) > 1 else None
    return {
        "file": str(file), "is_for_time": options.target.is_time, "batch": options.batch,
        "metric": {
            "name": metric.name, "dense": dense.value, "slim": values[0],
            "lost": lost if math.isfinite(lost) else None, "allowed": options.keep_accuracy, "spread": spread,
        },
        "bytes": {"dense": dense.network.bytes, "dense_coded": dense.coded_bytes(), "slim": size},
        "parameters": {"dense": dense.network.parameters}, **more,
    }  # fmt: skip


def latency_json(times: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What time-model has measured."""
    return [
        {"batch": one["batch"], "dense": one["before"], "slim": one["after"], "speedup": one["speedup"]}
        for one in times
    ]


def diagnosed(proof: dict[str, Any] | None, options: SlimOptions) -> Diagnosis:
    """What the rules say; nothing where no file was given."""
    return Diagnosis([]) if proof is None else judged(Proof.of(proof), options.asked)
