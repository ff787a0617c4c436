"""What this process is: rank, versions, devices."""

from __future__ import annotations

import os
import platform
import sys
import time
from typing import Any

import torch

FORMAT = 1


def _number(name: str, default: int) -> int:
    try:
        return int(os.environ.get(name, default))
    except ValueError:
        return default


def rank_and_pid() -> tuple[int, int]:
    """Rank of this process among those of the run (0 if alone), and its process id."""
    return _rank(), os.getpid()


def _rank() -> int:
    distributed = _distributed()
    return int(distributed.get_rank()) if distributed is not None else max(0, _number("RANK", 0))


def _world_size() -> int:
    distributed = _distributed()
    return int(distributed.get_world_size()) if distributed is not None else max(1, _number("WORLD_SIZE", 1))


def _distributed() -> Any:
    """torch.distributed, if the program has initialised it."""
    distributed = sys.modules.get("torch.distributed")
    ready = distributed is not None and distributed.is_available() and distributed.is_initialized()
    return distributed if ready else None


def describe(native: bool) -> dict[str, Any]:
    """The `process` declaration of the record."""
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    return {
        "type": "process", "rank": _rank(), "world_size": _world_size(), "pid": os.getpid(),
        "argv": list(getattr(sys, "argv", [])), "main_file": os.path.abspath(file) if isinstance(file, str) else None,
        "python": platform.python_version(), "torch": torch.__version__,
        "device": _device(), "threads": torch.get_num_threads(),
        "started": time.time(), "native": native, "format": FORMAT,
    }  # fmt: skip


def _device() -> str:
    return "cuda" if torch.cuda.is_initialized() else "cpu"  # type: ignore[no-untyped-call]
