"""One run of a patient under `wellfit run`, and what was found."""

from __future__ import annotations

import contextlib
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
from wellfit.catalogue import rules
from wellfit.diagnose import diagnose
from wellfit.finding import Finding
from wellfit.record import Record, open_run
from wellfit.record.excerpt import excerpt

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 240.0  # seconds; the slowest healthy patient takes a fifth of it
_running: set[subprocess.Popen[str]] = set()
_ending = threading.Event()


class Ended(Exception):
    """The run was ended by `end_visits`: nothing came of it."""


GRID = (2, 5, 10, 15, 20, 30, 40, 50, 75, 100, 150, 200, 300, 400, 600, 800, 1000, 1500, 2000, 3000, 5000)


@dataclass
class Visit:
    """What came of one run.

    Attributes:
        metric: the last number that the script printed; None if it crashed or printed none.
        misfit: why an override did not fit this script; empty if they all did.
        findings: severity, rule, layer and step of each finding, most important first.
        named: the first step of the grid after which one of the asked rules is named; None if none is.
        early: errors that were told while the run went on and taken back at its end.
        overrides: what each override says that it changed, by name.
        layers: the model's layers with parameters, in the order of their calls.
    """

    metric: float | None = None
    seconds: float = 0.0
    steps: int = 0
    exit_code: int = 0
    misfit: str = ""
    findings: list[dict[str, Any]] = field(default_factory=list)
    named: int | None = None
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


def visit(patient: Patient, overrides: tuple[str, ...], asked: frozenset[str] = frozenset()) -> Visit:
    """Run a patient once, in an empty folder, on one thread.

    Args:
        overrides: as typed after `--override`.
        asked: rules of which it is measured when they first speak.
    """
    folder = Path(tempfile.mkdtemp(prefix="wellfit-clinic-"))
    try:
        begun = time.monotonic()
        code, out, err = _run(patient, overrides, folder)
        result = Visit(metric=_metric(out) if code == 0 else None, seconds=time.monotonic() - begun, exit_code=code)
        result.misfit = _misfit(code, err)
        if result.misfit:
            return result
        _read(folder, asked, result)
        return result
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
        return 124, "", ""
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


def _read(folder: Path, asked: frozenset[str], result: Visit) -> None:
    """Judge the record, and see how early the asked rules would have spoken."""
    run_folder = _recorded(folder)
    run = open_run(run_folder)
    if not run.records:
        return
    record = run.records[0]
    record.finished = True
    found = diagnose(run, rules()).findings
    result.steps = int(record.step_count)
    result.findings = [_finding(each) for each in found]
    result.overrides = {override.name: list(override.changed) for override in record.overrides.values()}
    result.layers = _layers(record)
    never = [why for override in record.overrides.values() for what, why in override.left_out if what == "the run"]
    if never:
        result.misfit = never[0]
    if any(each["rule"] in asked for each in result.errors):
        result.named = _named(run_folder, asked, result.steps, folder)
    if not asked:
        told = {(each["rule"], each["layer"]) for each in result.errors}
        for step in (step for step in GRID if step < result.steps):
            for each in _sure_errors(run_folder, step, folder):
                if (each["rule"], each["layer"]) not in told:
                    told.add((each["rule"], each["layer"]))
                    result.early.append({**each, "step": step})


def _layers(record: Record) -> list[str]:
    called = [layer for layer in record.layers.values() if layer.parameters]
    return [layer.name for layer in sorted(called, key=lambda layer: layer.order)]


def _recorded(folder: Path) -> Path:
    """The folder of the one run that was recorded in a folder."""
    (run_folder,) = (entry for entry in (folder / ".wellfit").iterdir() if entry.is_dir())
    return run_folder


def _finding(each: Finding) -> dict[str, Any]:
    fields = ("severity", "rule", "layer", "step", "message")
    return {name: getattr(each, name) for name in fields}


def _sure_errors(run_folder: Path, step: int, folder: Path) -> list[dict[str, Any]]:
    """What a user would have been told after a step."""
    part = folder / f"until-{step}"
    if not part.exists():
        excerpt(run_folder, step, part)
    found = diagnose(open_run(part), rules()).findings
    return [_finding(each) for each in found if each.severity == "error" and each.sure]


def _named(run_folder: Path, asked: frozenset[str], steps: int, folder: Path) -> int:
    """The first step of the grid after which the record so far gives a sure error of an asked rule; `steps` if none."""
    for step in (step for step in GRID if step < steps):
        if any(each["rule"] in asked for each in _sure_errors(run_folder, step, folder)):
            return step
    return steps
