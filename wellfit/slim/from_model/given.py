"""What the user gives: a model, its weights, an example batch, a function that judges."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from wellfit.errors import WellfitError
from wellfit.nearest import did_you_mean
from wellfit.overrides.slim._files import read_weights
from wellfit.slim.measure.running import device_of

SAMPLES = 256
"""Of a shape, so many random ones are made."""

_OURS = str(Path(__file__).resolve().parents[2])


class UsersError(WellfitError):
    """The user's own code raised something; its traceback was shown."""


def named(text: str) -> Any:
    """The object of "package.module:name".

    Raises:
        UsersError: the module fails.
        WellfitError: there is no such name in it.
    """
    module_name, _, path = text.partition(":")
    value = users(lambda: import_module(module_name), f"importing {module_name}")
    for part in path.split("."):
        if not hasattr(value, part):
            raise WellfitError(
                f"{module_name} has no {path!r}{did_you_mean(part, [n for n in dir(value) if n[0] != '_'])}"
            )
        value = getattr(value, part)
    return value


def users(call: Callable[[], Any], what: str) -> Any:
    """What a call of the user's code gives.

    Raises:
        UsersError: it raised; the traceback was shown, without our frames.
    """
    try:
        return call()
    except SystemExit as error:
        raise UsersError(f"{what} ended the program (sys.exit({error.code!r})): let it return instead") from None
    except WellfitError:
        raise
    except Exception as error:
        show(error)
        raise UsersError(f"{what} failed with {type(error).__name__}; the traceback is above") from None


def show(error: BaseException) -> None:
    """The traceback of an error of the user's code, without our own frames."""
    told = traceback.TracebackException.from_exception(error)
    one: Any = told
    while one is not None:
        own = [
            frame for frame in one.stack if not frame.filename.startswith(_OURS) and "importlib" not in frame.filename
        ]
        one.stack = traceback.StackSummary.from_list(own)
        one = one.__cause__ or one.__context__
    sys.stderr.write("".join(told.format()))


def model_of(name: str, weights: str) -> nn.Module:
    """The user's model with its weights, in evaluation mode.

    Raises:
        UsersError: the function failed.
        WellfitError: what it returns is no model, or the weights do not fit.
    """
    model = built(name)
    held = read_weights(weights)
    if held.changes:
        raise WellfitError(
            f"{weights} is a slim model whose structure was changed: give the weights that it was made of"
        )
    held.put_into(model)
    return model.eval()


def built(name: str) -> nn.Module:
    """The user's model as its function or class makes it.

    Raises:
        UsersError: the function failed.
        WellfitError: what it returns is no model.
    """
    build = named(name)
    if isinstance(build, nn.Module):
        model: Any = build
    elif callable(build):
        model = users(build, f"{name}()")
    else:
        model = build
    if not isinstance(model, nn.Module):
        raise WellfitError(
            f"{name} is to be a function or class that gives a torch.nn.Module, not {type(model).__name__}"
        )
    return model


def shape_of(text: str) -> re.Match[str] | None:
    """Whether an example batch is given by the shape of a sample: then it is random numbers."""
    return None if Path(text).exists() else re.fullmatch(r"(\d+(?:x\d+)*)(?:@(\d+))?", text)


def example(text: str, model: nn.Module) -> Any:
    """An example batch.

    Args:
        text: a .npy file, a .safetensors file (of one tensor, or of several that are arguments by name), the shape of a
            sample ("1x28x28": random numbers), or that of whole numbers below some limit ("20@1000": tokens).
        model: floats are given the type of its parameters.

    Raises:
        WellfitError: it is none of these, or cannot be read.
    """
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))

    def fitted(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device_of(model), parameter.dtype if tensor.is_floating_point() else tensor.dtype)

    found = shape_of(text)
    if found:
        shape = (SAMPLES, *map(int, found[1].split("x")))
        random = torch.Generator().manual_seed(0)
        if found[2]:
            return fitted(torch.randint(max(1, int(found[2])), shape, generator=random))
        return fitted(torch.randn(shape, generator=random))
    path = Path(text)
    if path.suffix not in (".npy", ".safetensors"):
        raise WellfitError(
            f"--inputs {text} is neither a .npy or .safetensors file nor the shape of a sample, as 1x28x28"
        )
    if not path.is_file():
        raise WellfitError(f"--inputs: there is no file {path}")
    if path.suffix == ".safetensors":
        tensors = {name: fitted(tensor) for name, tensor in read_weights(text).tensors.items()}
        return next(iter(tensors.values())) if len(tensors) == 1 else tensors
    try:
        return fitted(torch.from_numpy(np.load(path, allow_pickle=False)))
    except (ValueError, TypeError, OSError, EOFError) as error:
        raise WellfitError(f"--inputs: {path} cannot be read as an array of numbers: {str(error)[:120]}") from None
