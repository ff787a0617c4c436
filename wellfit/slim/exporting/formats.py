"""The two formats that a program is written in: how each is written, and how it is read again and called."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wellfit.errors import WellfitError
from wellfit.slim.exporting import ONNX, PT2
from wellfit.slim.exporting.failing import innermost, place_of, quiet
from wellfit.slim.exporting.program import Program
from wellfit.slim.measure.inputs import Inputs
from wellfit.slim.measure.running import tensors_in
from wellfit.slim.methods.checked import result_of, said

Call = Callable[[Inputs], list[torch.Tensor]]

_WANTED = ("onnx", "onnxscript")


def needs(suffix: str) -> None:
    """Import what a format is written with, before the user's folder can hold modules of such names.

    Raises:
        WellfitError: it is not installed.
    """
    if suffix != ONNX:
        return
    for name in _WANTED:
        try:
            import_module(name)
        except ImportError as error:
            why = "" if isinstance(error, ModuleNotFoundError) and error.name == name else f" ({said(error)})"
            raise WellfitError(
                f'ONNX files are written with the package {name}, which is not there{why}: pip install "wellfit[onnx]"'
            ) from None
    onnxruntime()


def onnxruntime() -> Any:
    """The module, or None where it is not installed."""
    try:
        return import_module("onnxruntime")
    except ImportError:
        return None


def write(program: Program, path: Path, model: nn.Module) -> None:
    """Write a program, in the format of the file's suffix.

    Args:
        path: of the new file; an ONNX file of more than 2 GB has its weights in another one beside it.
        model: that the program is of, for messages.

    Raises:
        WellfitError: the format cannot hold the program: which layer, and why.
        OSError: the file cannot be written.
    """
    try:
        with quiet():
            if path.suffix == PT2:
                torch.export.save(program.exported, path)
            else:
                _as_onnx(program).save(path)
    except OSError:
        raise
    except Exception as error:
        what, other = ("ONNX", f"; export to a {PT2} file, or do without it") if path.suffix == ONNX else (PT2, "")
        place = place_of(error, model)
        raise WellfitError(f"{what} cannot hold the network{place}: {_why(innermost(error))}{other}") from error


def _as_onnx(program: Program) -> Any:
    batch = [{0: "batch"} if port.shape[:1] == ("batch",) else None for port in program.inputs]
    return torch.onnx.export(program.exported, dynamo=True, verbose=False, dynamic_shapes=batch)


def _why(error: BaseException) -> str:
    """What torch's exporter missed, in short."""
    operation = re.search(r"No ONNX function found for <OpOverload\(op='([^']+)'", str(error))
    return f"it has nothing for the operation {operation[1]}" if operation else said(error)


def read(path: Path) -> tuple[Call, str] | None:
    """Read a file that `write` wrote.

    Returns:
        how it is called, and what calls it; None if nothing here can.

    Raises:
        Exception: it cannot be read, whatever torch or onnxruntime raise.
    """
    if path.suffix == PT2:
        with quiet():
            module = torch.export.load(path).module()
        return lambda given: result_of(lambda: given.copied().call(module), str(path)), "torch.export"
    ort = onnxruntime()
    if ort is None:
        return None
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised as well
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda given: _run(session, given), f"onnxruntime {ort.__version__}"


def _run(session: Any, given: Inputs) -> list[torch.Tensor]:
    names = [one.name for one in session.get_inputs()]
    by_name = dict(given.kwargs) if set(given.kwargs) == set(names) else {}
    tensors = [by_name[name] for name in names] if by_name else list(tensors_in((given.args, dict(given.kwargs))))
    found = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, tensors)})
    return [torch.from_numpy(array) for array in found]
