"""Every override on every example: does it take effect, and does the program still train?

    python bench/overrides.py [--patients mlp,vgg] [--overrides lr,norm] [--steps 20] [--jobs 2] [--json FILE]

Each example runs its first steps under each override's own example value, in a fork of one process; where that fits
nothing, under the override's other values, one after the other. It works if the script ended as ever, steps were
recorded, and the override said what it changed; an override that does not fit must have stopped the run before its
first step, with a sentence. Printed: a line for each that failed, and a count; exit code 1 if any failed. What was run
is kept (`--state`), so that an interrupted round goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
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


OTHER_VALUES = {
    "activation": ("activation=tanh",),
    "freeze": ("freeze=*bias", "freeze=*.0.weight", "freeze=*weight*"),
    "loss": ("loss=smooth-l1", "loss=mse"),
    "mode": ("mode=eval",),
    "norm": ("norm=layer", "norm=none"),
    "batch-size": ("batch-size=16,loaders:all",),
    "recurrent": ("recurrent=gru",),
    "shuffle": ("shuffle=off",),
    "shuffle-features": ("shuffle-features=features",),
    "width": ("width=0.5",),
}
"""What else is tried of an override whose own example may fit nothing."""


class Work(NamedTuple):
    """One run to make."""

    patient: Patient
    override: str
    text: str
    steps: int


class Outcome(NamedTuple):
    """What came of one override on one example: "works", "misfit" or "failed", and why."""

    patient: str
    override: str
    text: str
    state: str
    said: str


def tried(work: Work) -> Outcome:
    """Run a patient's first steps under one override, in this process, which is a fork made for it."""
    patient, name, text, steps = work
    before = patient.path.read_bytes()
    folder = Path(tempfile.mkdtemp(prefix="wellfit-overrides-"))
    try:
        texts = [f"stop-after={steps}"] if name == "stop-after" else [text, f"stop-after={steps}"]
        code = _run(patient, texts, folder)
        err = (folder / "err").read_text(errors="replace").strip().splitlines()
        if patient.path.read_bytes() != before:
            return Outcome(patient.name, name, text, "failed", "the script was changed")
        return Outcome(patient.name, name, text, *_judged(name, folder, code, err[-1] if err else ""))
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


def _judged(name: str, folder: Path, code: int, last_line: str) -> tuple[str, str]:
    if code == 2 and last_line.endswith("nothing was trained"):
        return "misfit" if f"--override {name}" in last_line else "failed", last_line
    # A script that draws from probabilities ends at the NaN that it was given.
    if code != 0 and name != "poison":
        return "failed", f"exit code {code}: {last_line or 'nothing said'}"
    records = open_run(folder).records
    if not records or not (records[0].step_count or name == "evaluate"):  # which makes none
        return "failed", "no step was recorded"
    declared = {override.name: override for override in records[0].overrides.values()}
    if name in declared and not declared[name].changed and declared[name].left_out:
        return "misfit", "; ".join(f"{what}: {why}" for what, why in declared[name].left_out[:2])  # nothing was to do
    if name not in declared or not declared[name].changed:
        return "failed", "it does not say what it changed"
    late = [f"{what}: {why}" for what, why in declared[name].left_out if what.startswith("from step")]
    return ("failed", late[0]) if late else ("works", "; ".join(declared[name].changed[:2]))


def _one(work: Work, state: Path) -> Outcome:
    """The outcome of one run, from the folder of what was run if it is there."""
    file = state / f"{work.patient.name}.{work.text.replace('*', '@')}.{work.steps}.json"
    if not file.exists():
        file.write_text(json.dumps(tried(work)))
    return Outcome(*json.loads(file.read_text()))


def _round(todo: list[Work], jobs: int, state: Path) -> list[Outcome]:
    """Make these runs, some at a time, each in a fork of its own."""
    with multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=1) as pool:
        runs = pool.imap(functools.partial(_one, state=state), todo, chunksize=1)
        return list(tqdm(runs, total=len(todo), unit="run", disable=None))


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

    torch.set_num_threads(1)
    todo = [Work(p, o.name, o.example, options.steps) for p in patients for o in overrides]
    outcomes: dict[tuple[str, str], Outcome] = {}
    for values in range(1 + max(map(len, OTHER_VALUES.values()))):
        for work, outcome in zip(todo, _round(todo, options.jobs, options.state.absolute()), strict=True):
            outcomes[work.patient.name, work.override] = outcome
        todo = [
            work._replace(text=OTHER_VALUES[work.override][values])
            for work in todo
            if outcomes[work.patient.name, work.override].state == "misfit"
            and len(OTHER_VALUES.get(work.override, ())) > values
        ]
    failed = [outcome for outcome in outcomes.values() if outcome.state == "failed"]
    for outcome in failed:
        sys.stdout.write(f"failed: {outcome.patient} x {outcome.text}: {outcome.said}\n")
    count = {
        state: sum(outcome.state == state for outcome in outcomes.values()) for state in ("works", "misfit", "failed")
    }
    sys.stdout.write(f"{len(patients)} examples x {len(overrides)} overrides: {count}\n")
    if options.json:
        options.json.write_text(json.dumps([outcome._asdict() for outcome in outcomes.values()], indent=1) + "\n")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
