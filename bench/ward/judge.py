"""What wellfit finds in a kept run, at its end and on the way."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ward.visit import Visit
from wellfit.catalogue import rules
from wellfit.diagnose import diagnose
from wellfit.finding import Finding
from wellfit.record import Record, open_run
from wellfit.record.excerpt import excerpt

GRID = (2, 5, 10, 15, 20, 30, 40, 50, 75, 100, 150, 200, 300, 400, 600, 800, 1000, 1500, 2000, 3000, 5000)
"""Steps after which it is asked what wellfit would have said by then."""


def judged(kept: Path, asked: frozenset[str]) -> Visit:
    """The visit of a kept run, judged by the rules of this process.

    Args:
        kept: folder that `visit` made.
        asked: rules of which it is measured when they first speak; empty for a healthy run, of which it is seen what
            was told on the way and taken back.
    """
    result = Visit(**json.loads((kept / "visit.json").read_text()))
    if result.misfit or not (kept / "run").is_dir():
        return result
    run = open_run(kept / "run")
    if not run.records:
        return result
    record = run.records[0]
    record.finished = True
    result.steps = int(record.step_count)
    result.findings = [_finding(each) for each in diagnose(run, rules()).findings]
    result.overrides = {override.name: list(override.changed) for override in record.overrides.values()}
    result.layers = _layers(record)
    result.finite = not record.events("non-finite") and bool(np.isfinite(record.loss().value).all())
    off = [(what, why) for override in record.overrides.values() for what, why in override.left_out]
    # All of the run, or from some step on: what was asked for is not what was run.
    result.misfit = next((why for what, why in off if what == "the run" or what.startswith("from step")), "")
    if any(each["rule"] in asked for each in result.errors):
        result.named = _named(kept / "run", asked, result.steps)
    if not asked:
        result.early = _taken_back(kept / "run", result)
    return result


def _layers(record: Record) -> list[str]:
    called = [layer for layer in record.layers.values() if layer.parameters]
    return [layer.name for layer in sorted(called, key=lambda layer: layer.order)]


def _finding(each: Finding) -> dict[str, Any]:
    fields = ("severity", "rule", "layer", "step", "message")
    return {name: getattr(each, name) for name in fields}


def _taken_back(run_folder: Path, result: Visit) -> list[dict[str, Any]]:
    """Errors that a user would have been told on the way and not at the end."""
    told = {(each["rule"], each["layer"]) for each in result.errors}
    early = []
    for step in (step for step in GRID if step < result.steps):
        for each in _sure_errors(run_folder, step):
            if (each["rule"], each["layer"]) not in told:
                told.add((each["rule"], each["layer"]))
                early.append({**each, "step": step})
    return early


def _named(run_folder: Path, asked: frozenset[str], steps: int) -> int:
    """The first step of the grid after which the record so far gives a sure error of an asked rule; `steps` if none."""
    for step in (step for step in GRID if step < steps):
        if any(each["rule"] in asked for each in _sure_errors(run_folder, step)):
            return step
    return steps


def _sure_errors(run_folder: Path, step: int) -> list[dict[str, Any]]:
    """What a user would have been told after a step."""
    with tempfile.TemporaryDirectory(prefix="wellfit-excerpt-") as folder:
        part = Path(folder) / "part"
        excerpt(run_folder, step, part)
        found = diagnose(open_run(part), rules()).findings
    return [_finding(each) for each in found if each.severity == "error" and each.sure]
