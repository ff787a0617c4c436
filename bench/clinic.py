"""The clinic: healthy programs of every family, and the same made ill in known ways, under `wellfit run`.

    python bench/clinic.py --quick                  # a part of it, some minutes
    python bench/clinic.py                          # all of it
    python bench/clinic.py --patients mlp,vgg --faults zero-init

Every patient runs healthy on three seeds, then under each fault that makes sense for it. A fault counts where it really
hurts the program's own metric. Printed: how many faults were found, and under the right name; how soon; and how many
healthy runs were called ill. Records and judgements are kept in a folder (`--state`), so that an interrupted round goes
on where it stopped. A change of a script, of a fault or of what watches a run makes its runs anew; a change of the
rules only judges the records again. The exit code is 1 if a healthy run was called ill or crashed, or if a fault broke
a program that it should only have made ill.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm
from ward.faults import FAULTS, Fault
from ward.judge import judged
from ward.matrix import Matrix
from ward.patients import PATIENTS, Patient
from ward.report import about, document, page, text
from ward.visit import ROOT, TIMED_OUT, Visit, end_visits, visit

from wellfit.errors import WellfitError
from wellfit.nearest import did_you_mean

SEEDS = 3
QUICK_SEEDS = 1
_RUNS = tuple(ROOT / "wellfit" / part for part in ("launch", "probe", "record", "overrides", "nn"))
"""What a run depends on; the rest of wellfit judges it afterwards."""


class Appointment(NamedTuple):
    """One run to be made: a patient, a seed, and a fault or None."""

    patient: Patient
    seed: int
    fault: Fault | None

    @property
    def overrides(self) -> tuple[str, ...]:
        """What is changed of the script."""
        return (f"seed={self.seed}", *(self.fault.overrides if self.fault else ()))

    @property
    def asked(self) -> frozenset[str]:
        """Rules that would be right."""
        return self.fault.rules if self.fault else frozenset()

    @property
    def key(self) -> str:
        """Name and digest: the same for the same run."""
        patient = self.patient
        shared = [ROOT / "examples" / "reviews.py", ROOT / "bench" / "ward" / "visit.py"]
        source = _digest(*_RUNS, *shared, patient.path, words=(*self.overrides, *patient.arguments, torch.__version__))
        return f"{patient.name}.{self.fault.name if self.fault else 'healthy'}.{self.seed}.{source}"

    @property
    def judgement(self) -> str:
        """Digest of what judges it."""
        return _digest(ROOT / "wellfit", ROOT / "bench" / "ward" / "judge.py", words=tuple(sorted(self.asked)))


@cache
def _digest(*paths: Path, words: tuple[str, ...]) -> str:
    digest = hashlib.sha256(repr(words).encode())
    for path in paths:
        files = [path] if path.is_file() else [file for kind in ("*.py", "*.c", "*.h") for file in path.rglob(kind)]
        for file in sorted(files):
            digest.update(_content(file))
    return digest.hexdigest()[:16]


@cache
def _content(file: Path) -> bytes:
    return file.read_bytes()


def appointments(options: argparse.Namespace) -> list[Appointment]:
    """All runs of this round, healthy ones first."""
    patients = _chosen(options.patients, PATIENTS, "patient")
    faults = _chosen(options.faults, FAULTS, "fault")
    if options.quick:
        patients = [patient for patient in patients if patient.quick]
        faults = [fault for fault in faults if fault.quick]
    healthy = [Appointment(patient, seed, None) for patient in patients for seed in range(options.seeds)]
    ill = [Appointment(patient, 0, fault) for patient in patients for fault in faults if fault.suits(patient)]
    return healthy + ill


def _chosen(names: str | None, known: tuple, what: str) -> list:  # type: ignore[type-arg]
    if names is None:
        return list(known)
    by_name = {each.name: each for each in known}
    for name in names.split(","):
        if name not in by_name:
            raise WellfitError(f'there is no {what} "{name}"{did_you_mean(name, by_name)}; {", ".join(by_name)}')
    return [by_name[name] for name in names.split(",")]


def visits(wanted: list[Appointment], state: Path, jobs: int) -> Iterator[tuple[Appointment, Visit]]:
    """Make the runs that were not made yet, and judge those that were not judged yet; all come, in any order."""
    state.mkdir(parents=True, exist_ok=True)
    # Judging in processes: threads would wait for each other. They are made before any thread is there.
    judges = multiprocessing.get_context("fork").Pool(jobs, signal.signal, (signal.SIGINT, signal.SIG_IGN))

    def made(appointment: Appointment) -> Visit:
        kept = state / appointment.key
        if not kept.exists():
            visit(appointment.patient, appointment.overrides, kept)
        file = kept / f"judged-{appointment.judgement}.json"
        if not file.exists():
            result = judges.apply(judged, (kept, appointment.asked))
            for old in kept.glob("judged-*"):
                old.unlink()
            part = file.with_suffix(".part")
            part.write_text(json.dumps(result.as_json()))
            part.rename(file)
        result = Visit(**json.loads(file.read_text()))
        if result.exit_code == TIMED_OUT:
            shutil.rmtree(kept)  # it may have been the machine's fault: another time, another chance
        return result

    with judges, ThreadPoolExecutor(jobs) as pool:
        waiting = {pool.submit(made, appointment): appointment for appointment in wanted}
        try:
            for done in tqdm(as_completed(waiting), total=len(waiting), unit="run", disable=None):
                yield waiting[done], done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            end_visits()
            raise


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few patients, a few faults, one seed")
    parser.add_argument("--patients", metavar="NAMES", help="only these, with commas")
    parser.add_argument("--faults", metavar="NAMES", help="only these, with commas")
    parser.add_argument(
        "--seeds", type=int, help=f"healthy runs of each patient (default {SEEDS}, quick {QUICK_SEEDS})"
    )
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each on one thread (default 2)")
    parser.add_argument("--state", type=Path, default=ROOT / ".clinic", help="folder of what was run (default .clinic)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all of it there")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the matrix as a page")
    parser.add_argument("--docs", action="store_true", help="write docs/clinic.md")
    options = parser.parse_args()
    options.seeds = options.seeds or (QUICK_SEEDS if options.quick else SEEDS)
    begun = time.monotonic()
    try:
        wanted = appointments(options)
    except WellfitError as error:
        parser.error(str(error))
    try:
        came = dict(visits(wanted, options.state, options.jobs))
    except KeyboardInterrupt:
        sys.stderr.write(f"stopped; what was run is kept in {options.state}, and the same command goes on from there\n")
        return 130
    matrix = Matrix(list(dict.fromkeys(appointment.patient for appointment in wanted)))
    for appointment in wanted:
        if appointment.fault is None:
            matrix.healthy.setdefault(appointment.patient.name, []).append(came[appointment])
        else:
            matrix.add(appointment.patient, appointment.fault, came[appointment])
    facts = about(time.monotonic() - begun, sum(visit.seconds for visit in came.values()))
    facts["round"] = "quick" if options.quick else "a part" if options.patients or options.faults else "full"
    sys.stdout.write(text(matrix, facts))
    if options.json:
        options.json.write_text(json.dumps(_whole(matrix, facts), indent=1) + "\n")
    if options.html:
        options.html.write_text(page(matrix, facts), encoding="utf-8")
    if options.docs:
        (ROOT / "docs" / "clinic.md").write_text(document(matrix, facts), encoding="utf-8")
    figures = matrix.figures()
    return int(figures["clean_runs_with_errors"] + figures["clean_runs_crashed"] + figures["broken"] > 0)


def _whole(matrix: Matrix, facts: dict[str, str]) -> dict[str, object]:
    return {
        "about": facts,
        "figures": matrix.figures(),
        "healthy": {name: [visit.as_json() for visit in visits] for name, visits in matrix.healthy.items()},
        "cells": [
            {"patient": cell.patient, "fault": cell.fault, "state": cell.state, "layer": cell.layer}
            | {"visit": cell.visit.as_json()}
            for cell in matrix.cells
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
