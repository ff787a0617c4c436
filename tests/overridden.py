"""Runs a script under overrides, as a user would, and reads what was recorded."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Protocol

from wellfit.record import Record, open_run

ROOT = Path(__file__).resolve().parent.parent
ENV = {
    **{key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "WELLFIT"))},
    "PYTHONPATH": str(ROOT),
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Ran:
    """A run: exit code, what it wrote, and the record of its first process (None if nothing was trained)."""

    code: int
    out: str
    err: str
    record: Record | None

    @property
    def lines(self) -> list[str]:
        """What the script printed."""
        return self.out.splitlines()


class Run(Protocol):
    """Runs a script under overrides."""

    def __call__(self, script: str, *overrides: str) -> Ran: ...


def run(folder: Path, script: str, *overrides: str, every: int = 1, timeout: int = 120) -> Ran:
    """Run a script under overrides, each as typed on the command line.

    Args:
        folder: empty; the script and the record are written there.
        script: its source, may be indented.
        every: the probe looks at each so-manieth step.
    """
    (folder / "train.py").write_text(dedent(script))
    words = [word for override in overrides for word in ("--override", override)]
    done = subprocess.run(
        [sys.executable, "-m", "wellfit", "run", "--every", str(every), "--no-report", *words, "train.py"],
        cwd=folder, env=ENV, text=True, capture_output=True, timeout=timeout,
    )  # fmt: skip
    runs = sorted((folder / ".wellfit").glob("*/run.json")) if (folder / ".wellfit").is_dir() else []
    records = open_run(runs[-1].parent).records if runs else []
    return Ran(done.returncode, done.stdout, done.stderr, records[0] if records else None)
