"""Figures of a file: how long it takes to read, and how fast the network runs that comes out of it."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

from slim_cases import Case

BATCHES = (1, 32)


def decode_milliseconds(file: Path, turns: int = 5) -> float:
    """Reading a file and all its tensors, the least of some turns."""
    from wellfit.slim.wfz import read

    times = []
    for _ in range(turns):
        begun = time.perf_counter()
        read(file).tensors()
        times.append(1000 * (time.perf_counter() - begun))
    return min(times)


def latencies(case: Case, file: Path, seconds: float = 2.0) -> dict[str, dict[str, float]]:
    """Median milliseconds of one call of a dense network and of the one that was loaded, in turn, by batch size."""
    import torch

    import wellfit.slim
    from wellfit.slim.measure import Inputs, compare

    torch.manual_seed(0)
    dense, loaded = case.model(), wellfit.slim.load(file, case.model())
    found = {}
    for batch in BATCHES:
        pair = compare(dense, loaded, Inputs.of(torch.randn(batch, *case.shape)), seconds=seconds)
        found[str(batch)] = {"dense_ms": pair.first.p50, "slim_ms": pair.second.p50, "ratio": pair.speedup}
    return found


def machine() -> str:
    """Processor, cores and the versions that matter."""
    import torch

    cpu = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            cpu = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), cpu)
    except OSError:
        pass
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{cpu}, {os.cpu_count()} cores, {platform.system()}, {versions}"
