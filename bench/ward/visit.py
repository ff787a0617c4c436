"""One run of a patient under `wellfit run`, whose record is kept."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ward.patients import Patient

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 240.0  # seconds; the slowest healthy patient takes a fifth of it
TIMED_OUT = 124  # exit code of a run that took longer
_running: set[subprocess.Popen[str]] = set()
_ending = threading.Event()


class Ended(Exception):
    """The run was ended by `end_visits`: nothing came of it."""


@dataclass
class Visit:
    """What came of one run: the first five fields are the run's, the others its judgement's (`ward.judge`).

    Attributes:
        metric: the last number that the script printed; None if it crashed or printed none.
        said: the last line on standard error of a run that crashed.
        misfit: why an override did not fit this script; empty if they all did.
        findings: severity, rule, layer and step of each finding, most important first.
        named: the first step of the grid after which one of the asked rules is named; None if none is.
        finite: whether all that the record holds is finite.
        early: errors that were told while the run went on and taken back at its end.
        overrides: what each override says that it changed, by name.
        layers: the model's layers with parameters, in the order of their calls.
    """

    metric: float | None = None
    seconds: float = 0.0
    exit_code: int = 0
    said: str = ""
    misfit: str = ""
    steps: int = 0
    findings: list[dict[str, Any]] = field(default_factory=list)
    named: int | None = None
    finite: bool = True
    early: list[dict[str, Any]] = field(default_factory=list)
    overrides: dict[str, list[str]] = field(default_factory=dict)
    layers: list[str] = field(default_factory=list)

    @property
    def errors(self) -> list[dict[str, Any]]:
        """The findings that are errors."""
        return [finding for finding in self.findings if finding["severity"] == "error"]

    @property
    def alarms(self) -> list[dict[str, Any]]:
        """All errors that a user sees: those of the end, and those that were taken back."""
        return [*self.errors, *self.early]

    def as_json(self) -> dict[str, Any]:
        """All fields, as `Visit(**fields)` takes them."""
        return asdict(self)


def visit(patient: Patient, overrides: tuple[str, ...], kept: Path) -> None:
    """Run a patient once, in an empty folder, on one thread.

    Args:
        overrides: as typed after `--override`.
        kept: a folder that is not there yet; made, with the run's part of the visit and, as `run`, its record.

    Raises:
        Ended: `end_visits` was called; nothing is kept.
    """
    folder = Path(tempfile.mkdtemp(prefix="wellfit-clinic-"))
    try:
        begun = time.monotonic()
        code, out, err = _run(patient, overrides, folder)
        result = Visit(metric=_metric(out) if code == 0 else None, seconds=time.monotonic() - begun, exit_code=code)
        result.misfit = _misfit(code, err)
        result.said = err.strip().splitlines()[-1][:300] if code and err.strip() else ""
        part = kept.with_name(kept.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for run_folder in (folder / ".wellfit").glob("*/run.json"):
            shutil.copytree(run_folder.parent, part / "run")
        (part / "visit.json").write_text(json.dumps(result.as_json()))
        part.rename(kept)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _misfit(code: int, err: str) -> str:
    """Why an override did not fit a script; empty if they all did."""
    if code != 2 or "nothing was trained" not in err:
        return ""
    return err.strip().splitlines()[-1].removeprefix("wellfit: ")


def _run(patient: Patient, overrides: tuple[str, ...], folder: Path) -> tuple[int, str, str]:
    words = [word for override in overrides for word in ("--override", override)]
    command = [sys.executable, "-m", "wellfit", "run", "--quiet", "--no-report", *words]
    command += [str(patient.path), *patient.arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    env.pop("WELLFIT_DATA", None)  # the bundled data: the same for everyone
    child = subprocess.Popen(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    _running.add(child)
    try:
        out, err = child.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        _kill(child)
        child.communicate()
        return TIMED_OUT, "", ""
    finally:
        _running.discard(child)
    if _ending.is_set():
        raise Ended
    return child.returncode, out, err


def end_visits() -> None:
    """End the runs that other threads wait for: they are in sessions of their own, where Ctrl-C does not reach them."""
    _ending.set()
    for child in list(_running):
        _kill(child)


def _kill(child: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # wellfit and the script, its child


def _metric(out: str) -> float | None:
    lines = [line for line in out.splitlines() if line.strip()]
    try:
        metric = float(lines[-1].split()[-1])
    except (IndexError, ValueError):
        return None
    return metric if math.isfinite(metric) else None
