"""Runs `wellfit slim` on a script, as a user would, and reads the report that it leaves."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slim_cases import Case


@dataclass(frozen=True)
class Slimmed:
    """A slimming that came to its end.

    Args:
        command: as typed.
        report: of wellfit.
        file: that was made.
        seconds: from nothing to the file, all sessions together.
        load: of the machine on average while it ran: processes that wanted a core.
        exit: code of the command.
    """

    command: str
    report: dict[str, Any]
    file: Path
    seconds: float
    load: float
    exit: int
    date: str
    commit: str


def slimmed(case: Case, seeds: int, state: Path) -> Slimmed:
    """Slim a network, or go on with it.

    Args:
        seeds: runs of the chosen setting.
        state: folder of everything that is kept.

    Raises:
        SystemExit: the command failed without a file.
    """
    file = state / f"{case.name}.wfz"
    file.unlink(missing_ok=True)  # wellfit writes over no file of another script, and this one may have been edited
    words = [*case.options, "--seeds", str(seeds), "--to", str(file)]
    if case.plan is not None:
        _call(state, case, ["--only-plan", str(state / f"{case.name}.plan.json"), *words])
        words += ["--plan", str(_planned(case, state))]
    out, code = _call(state, case, words)
    report = re.search(r"^Report: (.+)$", out, re.MULTILINE)
    if report is None:
        sys.exit(f"{case.name}: wellfit slim ended with exit code {code} and no report")
    told = json.loads((state / report[1]).with_suffix(".json").read_text())
    spent = json.loads((state / f"{case.name}.spent.json").read_text())
    shown = " ".join(["wellfit slim", *case.options, "--seeds", str(seeds), f"bench/slim_scripts/{case.script.name}"])
    return Slimmed(
        shown, told, file, spent["seconds"], spent["load"] / spent["seconds"], code, time.strftime("%Y-%m-%d"),
        commit(),
    )  # fmt: skip


def _planned(case: Case, state: Path) -> Path:
    """The plan that wellfit proposes, with the shares and values of the case."""
    assert case.plan is not None
    place = state / f"{case.name}.plan.json"
    told = json.loads(place.read_text())
    keep, values = case.plan
    for layer in told["layers"]:
        if "prune" in layer["method"] and layer["keep"] < 1:
            layer["keep"] = keep
        layer["values"] = values
    place.write_text(json.dumps(told))
    return place


def _call(state: Path, case: Case, words: list[str]) -> tuple[str, int]:
    """The command's output and exit code; the time is added up, also of one that is interrupted."""
    environment = os.environ | {"WELLFIT_DIR": str(state / "runs")}
    begun, load = time.monotonic(), os.getloadavg()[0]
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "wellfit", "slim", *words, str(case.script)],
            cwd=state, env=environment, text=True, stdout=subprocess.PIPE, check=False,
        )  # fmt: skip
    finally:
        _spend(state / f"{case.name}.spent.json", case, time.monotonic() - begun, (load + os.getloadavg()[0]) / 2)
    sys.stdout.write(ran.stdout)
    return ran.stdout, ran.returncode


def _spend(place: Path, case: Case, seconds: float, load: float) -> None:
    """Add to what was spent, the load times the seconds that it was there; of another script nothing was."""
    script = hashlib.sha256(case.script.read_bytes()).hexdigest()
    known = json.loads(place.read_text()) if place.is_file() else {}
    if known.get("script") != script:
        known = {"seconds": 0.0, "load": 0.0}
    place.write_text(json.dumps({
        "script": script, "seconds": known["seconds"] + seconds, "load": known["load"] + load * seconds,
    }))  # fmt: skip


def commit() -> str:
    """Of the working tree, with a plus where something was changed other than the pages that benchmarks write."""
    root = Path(__file__).resolve().parent.parent
    named = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=root, text=True, capture_output=True)
    changed = subprocess.run(
        ["git", "diff", "--quiet", "HEAD", "--", ".", ":!docs/*-results.md"], cwd=root, capture_output=True
    )
    return named.stdout.strip() + "+" * (changed.returncode == 1) or "unknown"
