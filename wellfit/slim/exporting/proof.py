"""Exporting a network, and the proof that what was written computes the same."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wellfit.errors import WellfitError
from wellfit.slim.exporting import PT2
from wellfit.slim.exporting.formats import read, write
from wellfit.slim.exporting.program import Port, check_exportable, program_of
from wellfit.slim.measure.inputs import Inputs
from wellfit.slim.methods.checked import difference, outputs, said, tolerance

Expected = list[tuple[Inputs, list[torch.Tensor]]]


@dataclass(frozen=True)
class Exported:
    """What was written, and whether it is right.

    Args:
        path: of the file.
        bytes: of it and of what lies beside it.
        inputs, outputs: what it is called with, and what it returns.
        is_any_batch: whether it takes any number of samples.
        needs: operations that are not torch's own, which whoever loads the file must have; of a `.pt2` file.
        checked_by: what has run the file; None if nothing could.
        batches: numbers of samples that it was run with.
        difference: the largest between its outputs and the network's, relative to the largest output; inf where they
            have other shapes.
        allowed: what rounding explains.
        problem: what is wrong with the file, in a sentence; None if nothing is known to be.
    """

    path: Path
    bytes: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    is_any_batch: bool
    needs: tuple[str, ...]
    checked_by: str | None
    batches: tuple[int, ...]
    difference: float
    allowed: float
    problem: str | None


def export(model: nn.Module, inputs: Any, to: Path, enter: Callable[[str], None] = lambda phase: None) -> Exported:
    """Write a network as a program of torch.export or as ONNX, by the suffix of the file, read it again and run it.

    Args:
        model: is not changed; in evaluation mode, on the CPU.
        inputs: an example batch.
        to: the new file, `.pt2` or `.onnx`; one that is there is replaced when the new one is complete.
        enter: told what is done now.

    Raises:
        WellfitError: the network cannot be exported, or the file not be written.
    """
    given = Inputs.of(inputs)
    enter("calling the loaded network")
    expected = [(given, outputs(model, given, "with the example inputs the network"))]
    check_exportable(model, given)
    others = _others(model, given)
    enter("following the network with torch.export")
    program = program_of(model, given)
    expected += others if program.is_any_batch else []
    enter(f"writing {to}")
    try:
        written = _written(to, lambda path: write(program, path, model))
    except OSError as error:
        raise WellfitError(f"{to} cannot be written: {error.strerror or error}") from None
    enter(f"running {to}")
    checked_by, found, problem = _checked(to, expected)
    allowed = tolerance(expected[0][1])
    if problem is None and found > allowed:
        problem = f"{to} does not compute what the network does: {_apart(found)}, where {allowed:.0e} is rounding"
    batches = tuple(one.batch for one, _ in expected)
    needs = program.others if to.suffix == PT2 else ()
    return Exported(to, written, program.inputs, program.outputs, program.is_any_batch, needs, checked_by, batches,
                    found, allowed, problem)  # fmt: skip


def _apart(found: float) -> str:
    return "outputs have other shapes" if found == float("inf") else f"outputs differ by {found:.2g} of the largest"


def _others(model: nn.Module, given: Inputs) -> Expected:
    """Other batch sizes that the network takes, and what it returns for them."""
    found = []
    for batch in (1, given.batch + 1):
        if batch == given.batch:
            continue
        other = given.resized(batch)
        try:
            found.append((other, outputs(model, other, "")))
        except WellfitError:
            continue
    return found


def _written(to: Path, make: Callable[[Path], None]) -> int:
    """Files are made in a folder beside it, and moved when they are complete; their bytes."""
    with tempfile.TemporaryDirectory(prefix=".wellfit-", dir=to.parent) as folder:
        make(Path(folder) / to.name)
        made = sorted(Path(folder).iterdir())
        total = sum(file.stat().st_size for file in made)
        for file in made:
            os.replace(file, to.parent / file.name)
    return total


def _checked(to: Path, expected: Expected) -> tuple[str | None, float, str | None]:
    """What has run the file, the largest difference, and what went wrong."""
    try:
        found = read(to)
        if found is None:
            return None, 0.0, None
        call, runner = found
        return runner, max(difference(outputs, call(given)) for given, outputs in expected), None
    except Exception as error:
        why = str(error) if isinstance(error, WellfitError) else said(error)
        return None, 0.0, f"{to} was written, but cannot be run: {why}"
