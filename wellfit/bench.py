"""An adapter for benchmarks of watching: `attach(model, optimizer, every) -> detach`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from typing import Any


def attach(model: Any, optimizer: Any, every: int = 0) -> Callable[[], None]:
    """Watch this process, with a full look at every `every`-th step.

    Args:
        model, optimizer: taken for the sake of the interface; the probe finds both by itself.
        every: 1 looks at each step; 0 lets the governor choose within its budget.

    Returns:
        takes the probe off again and removes its record.
    """
    import torch

    from wellfit.probe.attach import attach as attach_probe

    folder = tempfile.mkdtemp(prefix="wellfit-bench-")
    attachment = attach_probe(torch, {"run": folder, "overhead": 0.01, "quota": 512_000_000, "every": every})
    attachment.observer.optimizers.born(optimizer)

    def detach() -> None:
        attachment.close()
        shutil.rmtree(folder, ignore_errors=True)

    return detach
