"""All that the page shows, as one object for JSON: made harmless, thinned, and bounded in size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wellfit.finding import Finding, Fix
from wellfit.report.account import Account, account_of, verdict_of
from wellfit.report.amounts import evidence_pairs
from wellfit.report.layer_curves import layer_curves
from wellfit.report.safe import printable
from wellfit.report.source import excerpt, place
from wellfit.report.thin import thin

if TYPE_CHECKING:
    from wellfit.record import Curve, Record, Run


@dataclass(frozen=True)
class Limits:
    """How much of a run goes into a page.

    Args:
        findings: at most so many findings.
        layers: at most so many layers.
        points: at most so many points of one curve.
        cells: at most so many points of all curves of layers together (2.7 bytes each).
        curves: at most so many loss, evaluation and learning-rate curves of each sort.
    """

    findings: int = 100
    layers: int = 400
    points: int = 2000
    cells: int = 180_000
    curves: int = 4

    def smaller(self) -> Limits:
        """Half as much of everything that can be long."""
        return Limits(
            max(5, self.findings // 2),
            max(20, self.layers // 2),
            max(50, self.points // 2),
            self.cells // 2,
            self.curves,
        )


def page_data(findings: Sequence[Finding], run: Run, limits: Limits) -> dict[str, Any]:
    """What `page.js` reads.

    Args:
        findings: of `diagnose`, most important first.
        run: the run they are about; the curves are those of its first process.
        limits: how much of it to take.

    Returns:
        `verdict`, `run`, `findings`, `findings_left_out`, `unseen` and the curves (None without a record).
    """
    record = run.records[0] if run.records else None
    account = account_of(run)
    return {
        "verdict": verdict_of(findings, account),
        "run": _about(account, record),
        "findings": [_finding(finding) for finding in findings[: limits.findings]],
        "errors": sum(finding.severity == "error" for finding in findings),
        "notes": sum(finding.severity != "error" for finding in findings),
        "findings_left_out": max(0, len(findings) - limits.findings),
        "unseen": _unseen(run, record),
        "curves": _curves(record, limits) if record else None,
        "layers": _layers(record, findings, limits) if record else None,
    }


def _about(account: Account, record: Record | None) -> dict[str, Any]:
    process = (record.process if record else None) or {}
    device = printable(process.get("device") or "", 60)
    made_with = [
        f"{name} {printable(process[key], 30)}"
        for name, key in (("Python", "python"), ("torch", "torch"))
        if process.get(key)
    ]
    return {
        "id": account.run_id,
        "command": account.command,
        "exit_code": account.exit_code,
        "processes": account.processes,
        "steps": account.steps,
        "watched": account.watched,
        "watching": account.watching,
        "seconds": account.seconds,
        "cost_seconds": account.cost_seconds,
        "cost_share": account.cost_share,
        "switched_off": account.switched_off,
        "overrides": [*account.trials, *account.overrides],
        "made_with": [*made_with, *([device] if device else [])],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    around = excerpt(finding.location, around=3)
    return {
        "rule": printable(finding.rule, 60),
        "code": printable(finding.code, 20),
        "severity": "error" if finding.severity == "error" else "note",
        "layer": printable(finding.layer, 160) if finding.layer else None,
        "place": place(finding.location) if finding.location else None,
        "step": finding.step,
        "message": printable(finding.message),
        "evidence": [list(pair) for pair in evidence_pairs(finding.evidence)[:20]],
        "consequences": [printable(name, 60) for name in finding.consequences[:20]],
        "fixes": [_fix(fix) for fix in finding.fixes[:10]],
        "source": {"first": around.first, "lines": list(around.lines), "blamed": around.blamed} if around else None,
    }


def _fix(fix: Fix) -> dict[str, Any]:
    trial = printable(fix.override, 100) if fix.override else None
    return {"title": printable(fix.title, 300), "safe": fix.safe, "override": trial}


def _unseen(run: Run, record: Record | None) -> list[dict[str, str]]:
    """What the probe could not watch, and what of the record could not be read."""
    entries = [(entry["what"], entry["why"]) for entry in (record.unseen if record else [])]
    entries += [("record", sentence) for sentence in run.damage]
    return [{"what": printable(what, 200), "why": printable(why, 400)} for what, why in entries[:30]]


def _layers(record: Record, findings: Sequence[Finding], limits: Limits) -> dict[str, Any]:
    names = [finding.layer for finding in findings[: limits.findings] if finding.layer]
    wanted = names + [name.rpartition(".")[0] for name in names]
    return layer_curves(record, limits.layers, limits.points, limits.cells, wanted)


def _curves(record: Record, limits: Limits) -> dict[str, Any]:
    """Losses, evaluations, learning rates and the marks of epochs."""
    losses = [(_site_name(record, site), record.loss(site)) for site in record.loss_sites()[: limits.curves]]
    evaluations = [
        (_evaluation_name(record, loss), record.evaluations(loss))
        for loss in record.evaluated_losses()[: limits.curves]
    ]
    return {
        "losses": [_curve(name, curve, limits) for name, curve in losses if len(curve)],
        "evaluations": [_curve(name, curve, limits) for name, curve in evaluations if len(curve)],
        "rates": [_curve(name, curve, limits) for name, curve in _rates(record)[: limits.curves]],
        "epochs": _epochs(record),
        "last": max(0, record.step_count - 1),
    }


def _site_name(record: Record, site: int) -> str:
    """`training loss`; with its place where there are several."""
    known = record.backward_sites.get(site)
    several = len(record.loss_sites()) > 1
    return f"training loss, {place(known.location)}" if several and known and known.location else "training loss"


def _evaluation_name(record: Record, loss: int) -> str:
    """`evaluation loss`; with the name of its function where there are several."""
    known = record.losses.get(loss)
    several = len(record.evaluated_losses()) > 1
    return f"evaluation loss, {known.function}" if several and known else "evaluation loss"


def _rates(record: Record) -> list[tuple[str, Curve]]:
    """The learning rate of each group of parameters, but each different course only once."""
    found: list[tuple[str, Curve]] = []
    for id, optimizer in sorted(record.optimizers.items()):
        for group in range(max(1, len(optimizer.groups))):
            curve = record.hyper("lr", id, group)
            if not len(curve) or any(_same(curve, other) for _, other in found):
                continue
            found.append((f"{optimizer.class_name}, group {group}", curve))
    return [("lr", found[0][1])] if len(found) == 1 else found


def _same(one: Curve, other: Curve) -> bool:
    return np.array_equal(one.step, other.step) and np.array_equal(one.value, other.value)


def _curve(name: str, curve: Curve, limits: Limits) -> dict[str, Any]:
    x, y, bad = thin(curve.step, curve.value, limits.points)
    return {"name": printable(name, 80), "x": x, "y": y, "bad": bad}


def _epochs(record: Record) -> list[int]:
    """Steps at which an epoch began: those of the loader that was iterated first; at most 200 of them."""
    events = list(record.events("epoch"))
    if not events:
        return []
    steps = sorted({int(event["step"]) for event in events if event.get("loader") == events[0].get("loader")})
    return steps[:: -(-len(steps) // 200)]
