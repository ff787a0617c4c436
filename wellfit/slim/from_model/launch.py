"""The parent of what needs the user's model: torch, and the user's code, live in a child process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wellfit.config import Asked
from wellfit.errors import WellfitError
from wellfit.slim.planning.step import METHODS, unknown_method
from wellfit.slim.target import Target

_CHILD = Path(__file__).with_name("child.py")


@dataclass(frozen=True)
class ModelOptions:
    """As typed.

    Args:
        model: "package.module:name" of a function or class that is called without arguments and gives the model.
        weights: a file with its weights.
        inputs: a file, or a shape; see `given.example`.
        check: "package.module:name" of `evaluate(model) -> float`; None: agreement is all that is known.
        target, keep, methods: see `wellfit.slim.plan`.
        plan: to be carried out.
        only_plan: where to write the plan, and do nothing else.
        to: the file to write.
        quiet: no progress on standard error.
        asked: the rules that judge what came of it.
        typed: all words of the command, for the page.
    """

    model: str
    weights: Path
    inputs: str | None
    check: str | None
    target: str
    keep: float
    methods: list[str] | None
    plan: Path | None
    only_plan: Path | None
    to: Path
    quiet: bool
    asked: Asked = field(default_factory=Asked)
    typed: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For the child."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}


def run_model(options: ModelOptions) -> int:
    """Run the child; its exit code: 0 the target is met, 1 it is not, 2 something does not fit.

    Raises:
        WellfitError: an option is wrong, or the child was killed.
    """
    _check(options)
    return run_child("work", options.as_json())


def run_child(work: str, options: Mapping[str, Any], stdout: int | None = None) -> int:
    """Do something in a process of its own, where the user's code may end, hang or crash; its exit code.

    Args:
        work: the module of this folder that does it.
        options: for it, as JSON.
        stdout: the file descriptor that takes the child's standard output, if not ours.

    Raises:
        WellfitError: the child was killed.
    """
    with tempfile.TemporaryDirectory(prefix="wellfit-") as folder:
        phase = Path(folder) / "phase"
        command = [sys.executable, str(_CHILD), str(phase), work, json.dumps(options)]
        child = subprocess.Popen(command, stdout=stdout)
        while True:
            try:
                code = child.wait()
                break
            except KeyboardInterrupt:  # the child was told as well, and ends
                continue
        if code < 0 and -code != signal.SIGINT:
            doing = phase.read_text("utf-8") if phase.exists() else "starting"
            raise WellfitError(f"the process that runs your code was killed by {_name(-code)} while {doing}")
    return 130 if code < 0 else code


def check_name(flag: str, text: str) -> None:
    """WellfitError unless it is a module and a name in it."""
    module, _, name = text.partition(":")
    if not all(part.isidentifier() for part in module.split(".")) or not name.replace(".", "a").isidentifier():
        raise WellfitError(f"{flag} wants a module and a name in it, as package.module:name, not {text}")


def check_inputs(text: str | None) -> str:
    """What stands behind --inputs; WellfitError if nothing does."""
    if text is None:
        raise WellfitError(
            "--model wants an example batch: --inputs FILE.npy, FILE.safetensors, or the shape of a sample, as 1x28x28"
        )
    return text


def _check(options: ModelOptions) -> None:
    check_name("--model", options.model)
    if options.check is not None:
        check_name("--check", options.check)
    for name in options.methods or ():
        if name not in METHODS:
            raise WellfitError(f"--methods: {unknown_method(name)}")
    Target.of(options.target)
    check_inputs(options.inputs)
    for flag, path in (("--weights", options.weights), ("--plan", options.plan)):
        if path is not None and not path.is_file():
            raise WellfitError(f"{flag}: there is no file {path}")


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
