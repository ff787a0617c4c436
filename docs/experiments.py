"""What a rule's page shows of its illness: its two experiments run, what wellfit says of the ill one, and a figure.

What came of them is kept in docs/_experiments (ignored by git), by the text of the rule.
"""

from __future__ import annotations

import hashlib
import inspect
import shutil
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wellfit.finding import Finding
from wellfit.record import Curve, Record, Run
from wellfit.report import finding_text
from wellfit.rule import Rule
from wellfit.testing import experiment, judge, run_experiment

KEPT = Path(__file__).parent / "_experiments"
_ILL, _HEALTHY, _INK = "#d1495b", "#3a9d6e", "#808080"  # to be read on white and on black
_COLUMNS = {
    "activation.saturated": "high_share", "activation.silent": "a", "activation.variation": "b", "gates": "forget",
    "labels": "entropy", "norm": "gap", "output.variation": "a", "update": "ratio", "update.rms": "ratio",
}  # fmt: skip
"""The column that is drawn, where a rule does not name it as the series does; rms where it names none."""
_SHARES = {"low": "low_share", "high": "high_share"}

mpl.rcParams["svg.hashsalt"] = "wellfit"  # the same figure, the same file


@dataclass(frozen=True)
class Shown:
    """What the experiments of a rule show.

    Attributes:
        said: the finding as the terminal shows it.
        figure: an SVG file; None where there is nothing that goes over steps.
    """

    said: str
    figure: Path | None


def show_all(rules: Iterable[type[Rule]]) -> dict[str, Shown]:
    """By name of the rule; those that were kept are not run again."""
    rules = list(rules)
    KEPT.mkdir(exist_ok=True)
    with ThreadPoolExecutor(2) as pool:
        return dict(zip([rule.name for rule in rules], pool.map(_shown, rules), strict=True))


def _shown(rule: type[Rule]) -> Shown:
    key = hashlib.sha256(inspect.getsource(rule).encode()).hexdigest()[:12]
    folder = KEPT / f"{rule.name}.{key}"
    if not folder.exists():
        for old in KEPT.glob(f"{rule.name}.*"):
            shutil.rmtree(old)
        part = Path(tempfile.mkdtemp(dir=KEPT))
        _make(rule, part)
        part.rename(folder)
    figure = folder / "figure.svg"
    return Shown((folder / "said.txt").read_text(encoding="utf-8"), figure if figure.exists() else None)


def _make(rule: type[Rule], folder: Path) -> None:
    with tempfile.TemporaryDirectory() as runs:
        ill, healthy = (run_experiment(experiment(rule, kind), Path(runs) / kind, rule) for kind in ("sick", "healthy"))
        diagnosis = judge(ill)
        found = [*diagnosis.findings, *(finding for _, finding in diagnosis.folded)]
        finding = next(finding for finding in found if finding.rule == rule.name)
        said = finding_text(finding, color=False, width=88).replace(f"{runs}/sick/", "")
        (folder / "said.txt").write_text(said, encoding="utf-8")
        figure = _drawn(rule, finding, ill, healthy)
        if figure is not None:
            figure.savefig(folder / "figure.svg", transparent=True, metadata={"Date": None})


def _drawn(rule: type[Rule], finding: Finding, ill: Run, healthy: Run) -> Figure | None:
    """Loss, and the first statistic that the rule reads, of both runs over their steps; nothing of a slimming."""
    if rule.judges_proofs():
        return None
    records = [record for run in (ill, healthy) for record in run.records[:1] if record.step_count]
    if len(records) < 2:
        return None
    panels = [("loss", [record.loss() for record in records])]
    for statistic in rule.reads:
        subjects = [_subject(statistic, finding, record) for record in records]
        if statistic != "loss" and subjects[0] is not None:
            curves = [_curve(statistic, subject, record) for subject, record in zip(subjects, records, strict=True)]
            title = "rms(update) / rms(weight)" if statistic in ("update", "update.rms") else statistic
            panels.append((f"{title} of {subjects[0]}", curves))
            break
    figure = Figure(figsize=(7.2, 2.4), layout="constrained")
    for number, (title, curves) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), number + 1)
        _draw(axes, title, curves, finding.step)
        if not number:
            axes.legend(labelcolor=_INK, frameon=False, fontsize=8)
    return figure


def _draw(axes: Axes, title: str, curves: list[Curve], step: int | None) -> None:
    shown = np.concatenate([curve.value[np.isfinite(curve.value)] for curve in curves])
    positive = shown[shown > 0]
    if len(positive) == len(shown) > 0 and positive.max() > 50 * positive.min():
        axes.set_yscale("log")
    for curve, color, label in zip(curves, (_ILL, _HEALTHY), ("ill", "healthy"), strict=True):
        axes.plot(curve.step, curve.value, color=color, label=label, linewidth=1.2)
    if step is not None:
        axes.axvline(step, color=_ILL, linewidth=0.8, linestyle=":")
    axes.set_title(title, fontsize=9, color=_INK)
    axes.set_xlabel("step", fontsize=8, color=_INK)
    axes.tick_params(labelsize=7, colors=_INK, which="both")
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_INK)


def _subject(statistic: str, finding: Finding, record: Record) -> str | None:
    """Whose statistic is drawn: of the layer that the finding is about, else the first; None if it is no series."""
    if statistic == "parameter.initial":  # declared once
        return None
    subjects = list(record.subjects(statistic.partition(".")[0]))
    layer = finding.layer or ""
    own = [subject for subject in subjects if layer and (subject == layer or subject.startswith(f"{layer}."))]
    return next(iter([*own, *subjects]), None)


def _curve(statistic: str, subject: str | None, record: Record) -> Curve:
    if subject is None:
        return Curve(np.empty(0, np.int64), np.empty(0))
    what, _, named = statistic.partition(".")
    series = record.series(what, subject)
    column = _COLUMNS.get(statistic, named or "rms")
    if column == "ratio":
        with np.errstate(all="ignore"):
            return Curve(series.step, series.rms / series.a)
    values = getattr(series, _SHARES.get(column, column), None)
    return Curve(series.step, series[column] if values is None else values)
