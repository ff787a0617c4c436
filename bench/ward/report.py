"""The matrix in words for the terminal, as Markdown for the docs, and as one HTML page."""

from __future__ import annotations

import html
import platform
import subprocess
from datetime import date
from pathlib import Path

import torch

from ward.faults import FAULTS
from ward.matrix import STATES, Cell, Matrix
from ward.visit import ROOT, TIMED_OUT

SIGNS = {
    "right": "●", "noted": "◔", "other": "◐", "missed": "○", "unhurt": "·", "unhurt-named": "+", "unhurt-alarm": "!",
    "misfit": "–", "broken": "x", "unknown": "?",
}  # fmt: skip
INTRODUCTION = """\
Healthy programs of every family (`examples/`) run under `wellfit run` as they are, on several seeds, and then made ill
in known ways by overrides. A fault counts where it hurts the program's own metric: by a tenth of what healthy runs gain
over an untrained model, and by twice the spread between seeds (in a round of one seed the spread is not known, and the
first counts alone). It counts as rightly named if an error finding has one of the names that `bench/ward/faults.py`
gives for it; among them are names of rules that are still to be written. A false alarm is any error at the end of a
healthy run, and any that would be told after one of some twenty steps on the way and is taken back later. This page is
written by `python bench/clinic.py --docs`.
""".splitlines()
STYLE = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")


def about(seconds: float, run_seconds: float) -> dict[str, str]:
    """Where and when this was measured.

    Args:
        seconds: wall time of this call.
        run_seconds: of all runs together, those of earlier calls too.
    """
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {
        "commit": commit.stdout.strip() or "unknown",
        "date": date.today().isoformat(),
        "machine": f"{_processor()}, torch {torch.__version__}, Python {platform.python_version()}",
        "wall time": f"{seconds / 60:.1f} min",
        "time of all runs": f"{run_seconds / 60:.1f} min",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.machine()


def sentences(matrix: Matrix) -> list[str]:
    """What came of it, one figure a line."""
    figures = matrix.figures()
    hurt, right = figures["hurt"], figures["right_rule"]
    wait = figures["median_steps_until_named"]
    return [
        f"{figures['clean_runs']} healthy runs: {figures['clean_runs_with_errors']} with an error (false alarms), "
        f"{figures['clean_runs_with_notes']} with a note, {figures['clean_runs_crashed']} without a metric",
        f"{figures['cells']} runs with a fault: {hurt} were hurt by it, {figures['unhurt']} were not "
        f"({figures['unhurt_alarms']} of these with another finding), {figures['misfits']} did not fit, "
        f"{figures['broken']} ended by an error",
        f"of the {hurt} hurt: {figures['detected']} found{_share(figures['detected'], hurt)}, "
        f"{right} under the right name{_share(right, hurt)}, {figures['noted']} more under it as a note only; "
        f"{figures['wrong_errors']} had an error under a wrong name, alone or beside the right one",
        f"for {figures['namable']} of the {hurt} there is a rule that could name the fault; "
        f"{figures['hurt_without_metric']} of the {hurt} gave no finite metric",
        f"of those rightly named: layer right in {figures['right_layer']} of {figures['layer_asked']} where the fault "
        f"is in a layer; median steps until named after the onset: {'none' if wait is None else f'{wait:g}'}; "
        f"{figures['named_before_onset']} named before it",
    ]


def _share(part: int, whole: int) -> str:
    return f" ({100 * part / whole:.0f} %)" if whole else ""


def text(matrix: Matrix, facts: dict[str, str]) -> str:
    """For the terminal."""
    lines = [*sentences(matrix), ""]
    for name, visits in matrix.healthy.items():
        for seed, visit in enumerate(visits):
            lines += [f"false alarm: {name}, seed {seed}: {_told(error)}" for error in visit.alarms]
    for cell in matrix.cells:
        if cell.state in ("missed", "noted", "other", "unhurt-alarm", "broken"):
            found = ", ".join(dict.fromkeys(error["rule"] for error in cell.visit.errors)) or "nothing"
            said = f" ({cell.visit.said or 'too long'})" if cell.state == "broken" else ""
            lines.append(f"{cell.state:12} {cell.patient} x {cell.fault}: {found}{said}")
    lines += ["", ", ".join(f"{key}: {value}" for key, value in facts.items())]
    return "\n".join(lines) + "\n"


def _told(error: dict[str, object]) -> str:
    return f"{error['rule']} {error['layer'] or ''} at step {error['step']}: {error['message']}"


def document(matrix: Matrix, facts: dict[str, str]) -> str:
    """docs/clinic.md."""
    faults = _faults(matrix)
    lines = [
        "# The clinic",
        "",
        *INTRODUCTION,
        "",
        *(f"- {sentence}." for sentence in sentences(matrix)),
        "",
        *(f"- {key}: {value}" for key, value in facts.items()),
        "",
        "## Patients",
        "",
        "| patient | better | untrained | healthy, by seed | seconds | steps | findings |",
        "|---|---|---|---|---|---|---|",
    ]
    for patient in matrix.patients:
        visits = matrix.healthy[patient.name]
        metrics = ", ".join("crashed" if visit.metric is None else f"{visit.metric:g}" for visit in visits)
        found = ", ".join(f"{each['rule']} ({each['severity']})" for visit in visits for each in visit.findings)
        lines.append(
            f"| {patient.name} | {patient.better} | {patient.chance:g} | {metrics} | "
            f"{max(visit.seconds for visit in visits):.0f} | {visits[0].steps} | {found or 'none'} |"
        )
    lines += ["", "## Faults", "", *(f"- {SIGNS[state]} {meaning}" for state, meaning in STATES.items()), ""]
    lines += ["| | " + " | ".join(faults) + " |", "|---|" + "---|" * len(faults)]
    for patient in matrix.patients:
        cells = [matrix.cell(patient.name, fault) for fault in faults]
        lines.append(f"| {patient.name} | " + " | ".join(SIGNS[cell.state] if cell else "" for cell in cells) + " |")
    lines += ["", "## What was not rightly named", "", "| patient | fault | metric | found |", "|---|---|---|---|"]
    for cell in matrix.cells:
        if cell.state in ("missed", "noted", "other", "unhurt-alarm", "broken"):
            lines.append(f"| {cell.patient} | {cell.fault} | {_metric(cell)} | {_found(cell)} |")
    return "\n".join(lines) + "\n"


def page(matrix: Matrix, facts: dict[str, str]) -> str:
    """The matrix as one HTML page that opens offline."""
    faults = _faults(matrix)
    head = "".join(f"<th><span>{html.escape(fault)}</span></th>" for fault in faults)
    rows = []
    for patient in matrix.patients:
        visits = matrix.healthy[patient.name]
        alarms = sum(bool(visit.alarms) for visit in visits)
        clean = f'<td class="{"missed" if alarms else "right"}">{len(visits) - alarms}/{len(visits)}</td>'
        cells = "".join(_cell(matrix.cell(patient.name, fault)) for fault in faults)
        rows.append(f"<tr><th>{html.escape(patient.name)}</th>{clean}{cells}</tr>")
    legend = "".join(f'<li class="{state}">{SIGNS[state]} {meaning}</li>' for state, meaning in STATES.items())
    said = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences(matrix))
    told = html.escape(", ".join(f"{key}: {value}" for key, value in facts.items()))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>wellfit: the clinic</title><style>{STYLE}</style>'
        f"<h1>The clinic</h1><ul>{said}</ul><table><thead><tr><th></th><th><span>healthy and silent</span></th>{head}"
        f'</tr></thead><tbody>{"".join(rows)}</tbody></table><ul class="legend">{legend}</ul><p>{told}</p></html>\n'
    )


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "<td></td>"
    wait = "" if cell.visit.named is None else f", named by step {cell.visit.named}"
    title = cell.visit.misfit or cell.visit.said or f"metric {_metric(cell)}; found: {_found(cell)}{wait}"
    return f'<td class="{cell.state}" title="{html.escape(title)}">{SIGNS[cell.state]}</td>'


def _metric(cell: Cell) -> str:
    if cell.visit.metric is not None:
        return f"{cell.visit.metric:g}"
    return "timeout" if cell.visit.exit_code == TIMED_OUT else "none"


def _found(cell: Cell) -> str:
    return ", ".join(dict.fromkeys(error["rule"] for error in cell.visit.errors)) or "nothing"


def _faults(matrix: Matrix) -> list[str]:
    tried = {cell.fault for cell in matrix.cells}
    return [fault.name for fault in FAULTS if fault.name in tried]
