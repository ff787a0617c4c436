"""Every override on every example: does it take effect, and does the program still train?

    python bench/overrides.py [--patients mlp,vgg] [--overrides lr,norm] [--steps 20] [--jobs 2] [--json FILE]

Each example runs its first steps under each override's own example value, in a fork of one process. It works if the
script ended as ever, steps were recorded, and the override said what it changed; an override that does not fit must
have stopped the run before its first step, with a sentence. Printed: a line for each that failed, and a count; exit
code 1 if any failed. What was run is kept (`--state`), so that an interrupted round goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import runpy
import shutil
import sys
import tempfile
import traceback
from pathlib import Path
from typing import NamedTuple

import torch
import torch._dynamo  # the first optimizer would import it, in each run anew
from tqdm import tqdm
from ward.patients import PATIENTS, Patient
from ward.visit import ROOT

from wellfit.overrides.catalogue import as_json, known_overrides, parse
from wellfit.overrides.points import install
from wellfit.probe.attach import attach
from wellfit.record import open_run
from wellfit.record.writing import write_json

with contextlib.suppress(ImportError):
    import sklearn.datasets  # noqa: F401  what most examples import


class Outcome(NamedTuple):
    """What came of one override on one example: "works", "misfit" or "failed", and why."""

    patient: str
    override: str
    state: str
    said: str


def tried(patient: Patient, name: str, example: str, steps: int) -> Outcome:
    """Run a patient's first steps under one override, in this process, which is a fork made for it."""
    before = patient.path.read_bytes()
    folder = Path(tempfile.mkdtemp(prefix="wellfit-overrides-"))
    try:
        texts = [f"stop-after={steps}"] if name == "stop-after" else [example, f"stop-after={steps}"]
        code = _run(patient, texts, folder)
        err = (folder / "err").read_text(errors="replace").strip().splitlines()
        if code == 2 and err and err[-1].endswith("nothing was trained"):
            return Outcome(patient.name, name, "misfit" if f"--override {name}" in err[-1] else "failed", err[-1])
        if patient.path.read_bytes() != before:
            return Outcome(patient.name, name, "failed", "the script was changed")
        if code != 0:
            return Outcome(patient.name, name, "failed", f"exit code {code}: {(err or ['nothing said'])[-1]}")
        return Outcome(patient.name, name, *_judged(name, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(patient: Patient, texts: list[str], folder: Path) -> int:
    """What `wellfit run` does in the child; the exit code."""
    os.chdir(folder)
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_CREAT | os.O_WRONLY), descriptor)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    sys.path[0], sys.argv = str(patient.path.parent), [str(patient.path), *patient.arguments]
    write_json(folder / "run.json", {"version": 1, "status": "running"})
    attachment = attach(torch, {"run": str(folder), "overhead": 1.0, "quota": 100_000_000, "every": 1})
    program = None
    try:
        program = install(as_json(parse(texts)), attachment)
        runpy.run_path(str(patient.path), run_name="__main__")
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(bool(error.code))
    except BaseException:
        traceback.print_exc()
        code = 1
    if program is not None:
        program.ended()
    attachment.close()
    sys.stdout.flush(), sys.stderr.flush()
    return code


def _judged(name: str, folder: Path) -> tuple[str, str]:
    records = open_run(folder).records
    if not records or not records[0].step_count:
        return "failed", "no step was recorded"
    declared = {override.name: override for override in records[0].overrides.values()}
    if name not in declared or not declared[name].changed:
        return "failed", "it does not say what it changed"
    late = [f"{what}: {why}" for what, why in declared[name].left_out if what.startswith("from step")]
    return ("failed", late[0]) if late else ("works", "; ".join(declared[name].changed[:2]))


def _one(work: tuple[Patient, str, str, int, Path]) -> Outcome:
    """The outcome of one pair, from the folder of what was run if it is there."""
    patient, name, example, steps, state = work
    file = state / f"{patient.name}.{name}.{steps}.json"
    if not file.exists():
        file.write_text(json.dumps(tried(patient, name, example, steps)))
    return Outcome(*json.loads(file.read_text()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", help="names, with commas")
    parser.add_argument("--overrides", help="names, with commas")
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps of each run")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--state", type=Path, default=ROOT / ".clinic" / "overrides", help="folder of what was run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all outcomes there")
    options = parser.parse_args()
    patients = [p for p in PATIENTS if not options.patients or p.name in options.patients.split(",")]
    overrides = [o for o in known_overrides() if not options.overrides or o.name in options.overrides.split(",")]
    options.state.mkdir(parents=True, exist_ok=True)

    work = [
        (patient, override.name, override.example, options.steps, options.state.absolute())
        for patient in patients
        for override in overrides
    ]
    torch.set_num_threads(1)
    with multiprocessing.get_context("fork").Pool(options.jobs, maxtasksperchild=1) as pool:
        outcomes = list(tqdm(pool.imap(_one, work, chunksize=1), total=len(work), unit="run", disable=None))
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    for outcome in failed:
        sys.stdout.write(f"failed: {outcome.patient} x {outcome.override}: {outcome.said}\n")
    count = {state: sum(outcome.state == state for outcome in outcomes) for state in ("works", "misfit", "failed")}
    sys.stdout.write(f"{len(patients)} examples x {len(overrides)} overrides: {count}\n")
    if options.json:
        options.json.write_text(json.dumps([outcome._asdict() for outcome in outcomes], indent=1) + "\n")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
