"""The proof of a slim model: everything measured after the file has been read again."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from wellfit import __version__
from wellfit.config import Asked
from wellfit.diagnose import Diagnosis
from wellfit.errors import WellfitError
from wellfit.proof import Proof
from wellfit.record.writing import replace_file, write_json
from wellfit.slim.changes import as_json
from wellfit.slim.decoding import decoding
from wellfit.slim.files import load
from wellfit.slim.findings import as_json as findings_json
from wellfit.slim.findings import judged
from wellfit.slim.layer_report import by_layers
from wellfit.slim.measure.inputs import Inputs
from wellfit.slim.measure.latency import Timing, compare_calmly
from wellfit.slim.measure.running import device_of
from wellfit.slim.measure.size import size
from wellfit.slim.methods.checked import said
from wellfit.slim.page import of_model, to_html
from wellfit.slim.planning.applying import Slimmed
from wellfit.slim.planning.coding import coded, tensors_of
from wellfit.slim.planning.judge import Evaluate, Judge, Verdict
from wellfit.slim.planning.plan import Plan, checked_keep
from wellfit.slim.planning.reached import shortfalls
from wellfit.slim.planning.report_text import report_text
from wellfit.slim.planning.step import Step
from wellfit.slim.planning.text import FASTER
from wellfit.slim.target import Target
from wellfit.slim.wfz import read

BATCHES = (1, 32)


@dataclass(frozen=True)
class Report:
    """What was measured of a file; see docs/slim/model.md for the fields.

    Args:
        told: all numbers.
        asked: the rules that judge them; all of them unless said.
    """

    told: Mapping[str, Any]
    asked: Asked = field(default_factory=Asked)

    @cached_property
    def diagnosis(self) -> Diagnosis:
        """What the rules say."""
        return judged(Proof.of(self.told), self.asked)

    def as_json(self) -> dict[str, Any]:
        """All numbers, as plain dictionaries, with what the rules say of them."""
        return {**self.told, "findings": findings_json(self.diagnosis.findings)}

    def text(self) -> str:
        """The tables for people, and what the rules say."""
        return report_text(self.told, self.diagnosis.findings)

    def save(self, path: str | Path) -> None:
        """Write it: as a page where the name ends in `.html`, else as JSON, which `wellfit diagnose` judges again.

        Raises:
            WellfitError: the file cannot be written.
        """
        try:
            if Path(path).suffix.lower() == ".html":
                replace_file(Path(path), to_html(of_model(self.as_json())).encode("utf-8", "backslashreplace"))
            else:
                write_json(path, self.as_json())
        except OSError as error:
            raise WellfitError(f"{path} cannot be written: {error.strerror or error}") from None


def report(
    model: nn.Module,
    path: str | Path,
    inputs: Any,
    *,
    evaluate: Evaluate | None = None,
    slimmed: Slimmed | None = None,
    keep: float | None = None,
    spread: float | None = None,
    seconds: float = 1.0,
) -> Report:
    """Read a file into a fresh copy of the dense model, and measure both.

    Args:
        model: the dense model, with its weights; is not changed.
        path: of the `.wfz` file.
        inputs: an example batch.
        evaluate: see `plan`; without it agreement on the inputs is all that is known, and the table says so.
        slimmed: what `apply` gave, for the steps, what was skipped, and the points that may be lost.
        keep: points that may be lost, if not those of the plan.
        spread: standard deviation of the metric among seeds of the dense model, in points, if it is known.
        seconds: to time each batch size, both models in turn.

    Raises:
        WellfitError: the file cannot be read, or is not of this model; the model fails with the inputs.
    """
    given = Inputs.of(inputs).to(device_of(model))
    try:
        dense, made = copy.deepcopy(model).eval(), copy.deepcopy(model)
    except Exception as error:
        raise WellfitError(f"the model cannot be copied: {said(error)}") from error
    contents = read(path)
    slim = load(path, made).eval()
    judge = Judge(dense, given, evaluate)
    verdict = judge.of(slim)
    plan = slimmed.plan if slimmed is not None else None
    allowed = plan.keep if keep is None and plan is not None else keep
    before, after = size(dense), size(slim)
    target = plan.target if plan is not None else "size"
    latency, left_out = timed(dense, slim, given, BATCHES, seconds)
    told = {
        "version": 1, "wellfit": __version__, "file": str(path), "model": type(model).__name__,
        "target": target, "is_for_time": Target.of(target).is_time, "batch": 1,
        "metric": {
            **_compared(judge, verdict), "is_evaluated": evaluate is not None, "spread": spread,
            "allowed": None if allowed is None else checked_keep(allowed),
        },
        "bytes": _bytes(Path(path).stat().st_size, dense, before.bytes, after.bytes),
        "parameters": {"dense": before.parameters, "slim": after.parameters},
        "latency": latency, "left_out": left_out,
        "decode_ms": decoding(path, seconds=0.0).ms,
        "layers": by_layers(dense, slim, contents, given, slimmed, seconds),
        "steps": [asdict(step) for step in slimmed.steps] if slimmed else contents.changes,
        "changes": as_json(slimmed.changes) if slimmed else contents.changes,
        "skipped": [asdict(one) for one in slimmed.skipped] if slimmed else [],
        "tries": _tries(plan, slimmed.steps) if plan and slimmed and plan.measure == judge.measure else [],
    }  # fmt: skip
    return Report({**told, "shortfalls": shortfalls(told)})


def _compared(judge: Judge, verdict: Verdict) -> dict[str, Any]:
    """What the slim model does beside the dense one."""
    return {
        "name": judge.measure, "dense": judge.dense, "slim": verdict.metric, "lost": verdict.lost,
        "moved": verdict.moved, "same": verdict.same, "compared": judge.samples,
    }  # fmt: skip


def _bytes(file: int, dense: nn.Module, before: int, after: int) -> dict[str, Any]:
    """Of the file, and of both models in memory; `dense_coded`: of the dense model's file."""
    return {
        "slim": file, "dense": before, "ratio": before / file,
        "dense_coded": sum(coded(tensors_of(dense), small=False).values()), "slim_in_memory": after,
    }  # fmt: skip


def timed(
    dense: nn.Module, slim: nn.Module, given: Inputs, batches: Sequence[int], seconds: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Calls of both models in turn, as the report tells them; and the batch sizes that they do not take, with why."""
    found: list[dict[str, Any]] = []
    left_out: list[dict[str, Any]] = []
    for batch in batches:
        try:
            pair = compare_calmly(dense, slim, given.resized(batch), seconds=seconds)
        except Exception as error:  # of the user's code: some models take no single sample
            left_out.append({"batch": batch, "reason": said(error)})
            continue
        found.append({
            "batch": batch, "dense": _timing(pair.first), "slim": _timing(pair.second), "speedup": pair.speedup,
            "is_faster": pair.speedup >= FASTER, "is_calm": pair.is_calm,
        })  # fmt: skip
    return found, left_out


def _tries(plan: Plan, taken: Sequence[Step]) -> list[dict[str, Any]]:
    """The whole models that the plan has measured, but the one that the file holds."""
    dense = plan.dense.ms if plan.dense is not None else None
    return [
        {"bytes": point.bytes, "lost": point.lost, "moved": point.moved,
         "speedup": dense / point.ms if dense and point.ms else None, "steps": [asdict(step) for step in point.steps]}
        for point in plan.tries if point.steps != tuple(taken)
    ]  # fmt: skip


def _timing(timing: Timing) -> dict[str, float]:
    return {name: getattr(timing, name) for name in ("p50", "p25", "p75", "p10", "p90", "calls")}
