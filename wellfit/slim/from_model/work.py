"""What the child of `wellfit slim --model` does: plan, apply, save, report."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from wellfit.config import Asked
from wellfit.errors import WellfitError
from wellfit.slim.files import save
from wellfit.slim.from_model.carried import Enter, carried_out
from wellfit.slim.from_model.given import SAMPLES, example, model_of, named, shape_of, users
from wellfit.slim.planning.applying import apply
from wellfit.slim.planning.judge import Evaluate
from wellfit.slim.planning.make import plan
from wellfit.slim.planning.plan import Plan
from wellfit.slim.printing import say
from wellfit.slim.reporting import report


def run(phase_file: str, told: str) -> int:
    """Everything; the exit code, 2 where something does not fit."""
    return carried_out(_run, phase_file, told)


def _run(options: dict[str, Any], enter: Enter) -> int:
    begun = time.monotonic()
    enter(f"making the model with {options['model']}")
    model = model_of(options["model"], options["weights"])
    inputs = example(options["inputs"], model)
    evaluate = _evaluate(options["check"], enter) if options["check"] else None
    if options["plan"]:
        made = Plan.load(options["plan"])
    else:
        made = _planned(model, inputs, evaluate, options, enter)
    say(str(made))
    if shape_of(options["inputs"]):
        about = f"The example batch is {SAMPLES} random samples"
        say(f"{about}: with real ones (--inputs FILE) the plan knows what matters.\n")
    if options["only_plan"]:
        made.save(options["only_plan"])
        say(f"\nPlan:   {options['only_plan']}; edit its steps, and run it with --plan {options['only_plan']}\n")
        return 0 if made.met else 1
    enter("taking the steps of the plan")
    slimmed = apply(model, made, inputs)
    save(slimmed.model, options["to"], slimmed.changes)
    enter("measuring the file")
    keep = made.keep if options["plan"] else options["keep"]
    measured = report(model, options["to"], inputs, evaluate=evaluate, slimmed=slimmed, keep=keep)
    more = {"typed": options["typed"], "made_by": options["model"], "seconds": time.monotonic() - begun}
    proof = replace(measured, told={**measured.told, **more}, asked=Asked(**options["asked"]))
    for problem in proof.diagnosis.problems:
        sys.stderr.write(f"wellfit: {problem}\n")
    say(f"\n{proof.text()}\n")
    page = Path(options["to"]).with_suffix(".report.html")
    for beside in (page.with_suffix(".json"), page):
        proof.save(beside)
    name = options["to"]
    loading = f'wellfit.slim.load("{name}", model), or without a model for a state_dict'
    say(f"File:   {name}\nLoad:   {loading}\nReport: {page}\n")
    return int(bool(proof.told["shortfalls"]))


def _planned(model: nn.Module, inputs: Any, evaluate: Evaluate | None, options: dict[str, Any], enter: Enter) -> Plan:
    def tell(what: str, number: int, count: int) -> None:
        enter(f"looking at {what}")
        _progress_line(f"  {what}: {number} of {count}" if count else f"  {what}, try {number}", options["quiet"])

    try:
        return plan(
            model, inputs, target=options["target"], keep=options["keep"], methods=options["methods"],
            evaluate=evaluate, progress=tell,
        )  # fmt: skip
    finally:
        _progress_line("", options["quiet"])


def _evaluate(name: str, enter: Enter) -> Evaluate:
    check = named(name)
    if not callable(check):
        raise WellfitError(f"--check {name} is to be a function of the model, not {type(check).__name__}")

    def evaluate(model: nn.Module) -> float:
        enter(f"running {name}")
        value: float = users(lambda: check(model), f"{name}(model)")
        return value

    evaluate.__name__ = name.rpartition(":")[2].rpartition(".")[2]  # tables call the figure by it
    return evaluate


def _progress_line(text: str, quiet: bool) -> None:
    """One line on a terminal that is written over; nothing where nobody looks."""
    if not quiet and sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text[:100]}")
        sys.stderr.flush()
