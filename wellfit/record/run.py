"""A run: a folder with one record for each process that wrote."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from wellfit.errors import WellfitError
from wellfit.record.record import Record

TRIALS = "trials"
"""The folder, in that of a run, of the runs that `wellfit check` made beside it."""

_SEGMENT = re.compile(r"(r(\d{1,9})-(\d{1,10})-)(\d{4,9})\.wfr")


class Run:
    """A run's folder and what its processes recorded; `open_run` makes one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._records: dict[str, Record] = {}
        self._meta: dict[str, Any] = {}
        self._trouble: str | None = None
        self._trials: dict[str, Run] | None = None

    @property
    def meta(self) -> dict[str, Any]:
        """The contents of run.json, or {} if it is not there yet or cannot be read."""
        return self._meta

    @property
    def check(self) -> dict[str, Any]:
        """What `wellfit check` noted of a run that it made; {} for any other."""
        noted = self._meta.get("check")
        return noted if isinstance(noted, dict) else {}

    @property
    def trials(self) -> dict[str, Run]:
        """The runs that `wellfit check` made beside this one, by their override; read once, when all have ended."""
        if self._trials is None:
            self._trials = {}
            entries = self.check.get("trials")
            for entry in entries if isinstance(entries, list) else ():
                name, folder = (entry.get("override"), entry.get("folder")) if isinstance(entry, dict) else (None, None)
                # A name, not a way to elsewhere.
                if isinstance(name, str) and isinstance(folder, str) and os.path.basename(folder) == folder != "":
                    trial = Run(self.folder / TRIALS / folder)
                    trial.refresh()
                    trial.settle()
                    self._trials[name] = trial
        return self._trials

    @property
    def was_cut(self) -> bool:
        """Whether `wellfit check` ended this run before its time: it is judged as one that goes on."""
        return bool(self.check) and any(record.events("stopped") for record in self._records.values())

    def settle(self) -> None:
        """Take all processes for ended, whether or not run.json says so; those of a run that was cut go on."""
        for record in self._records.values():
            record.finished = not self.was_cut

    @property
    def records(self) -> list[Record]:
        """One for each process that wrote: rank 0 first, the one with most steps first."""
        return sorted(self._records.values(), key=lambda record: (record.rank, -record.step_count, record.pid))

    @property
    def damage(self) -> list[str]:
        """One sentence for each thing that could not be read."""
        said = [self._trouble] if self._trouble else []
        for record in self._records.values():
            said += record.damage
            if record.ends_early and self._ended and not self._meta.get("signal"):
                steps = f"{record.step_count} step{'' if record.step_count == 1 else 's'}"
                said.append(
                    f"the record of process {record.pid} ends early, after {steps}: "
                    "what came then was cut off, or never written"
                )
        return said

    @property
    def _ended(self) -> bool:
        return self._meta.get("ended") is not None or self._meta.get("status") == "ended"

    def refresh(self) -> bool:
        """Read what is new since last time; True if anything came."""
        self._read_meta()
        segments: dict[str, list[tuple[int, Path]]] = {}
        try:
            names = os.listdir(self.folder)
        except OSError:
            return False
        for name in names:
            match = _SEGMENT.fullmatch(name)
            if match:
                prefix = match[1]
                if prefix not in self._records:
                    self._records[prefix] = Record(prefix, int(match[2]), int(match[3]))
                segments.setdefault(prefix, []).append((int(match[4]), self.folder / name))
        came = False
        for prefix, paths in segments.items():
            record = self._records[prefix]
            if self._ended:
                record.finished = True
            came = record.refresh([path for _, path in sorted(paths)]) or came
        if self.was_cut:
            self.settle()
        return came

    def _read_meta(self) -> None:
        try:
            meta = json.loads((self.folder / "run.json").read_bytes())
        except FileNotFoundError:
            return
        except (OSError, ValueError, RecursionError):
            self._trouble = "run.json could not be read"
            return
        if isinstance(meta, dict):
            self._meta = meta
        else:
            self._trouble = "run.json could not be read"


def open_run(path: str | os.PathLike[str]) -> Run:
    """The run in this folder, read as far as it is written.

    Raises:
        WellfitError: there is no such folder, or it holds no record.
    """
    folder = Path(path).absolute()
    if not folder.is_dir():
        raise WellfitError(f"{folder} is not a folder: give the folder of a run")
    run = Run(folder)
    run.refresh()
    if not run.records and not (folder / "run.json").exists():
        raise WellfitError(f"{folder} holds no record (no run.json, no .wfr file): give the folder of a run")
    return run
