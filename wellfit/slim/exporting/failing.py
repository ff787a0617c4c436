"""Why and where torch could not follow a network, out of its own long messages."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from types import FrameType
from typing import Any

import torch
from torch import fx, nn

_OTHERS = (os.path.dirname(torch.__file__), os.path.dirname(os.path.dirname(os.path.dirname(__file__))))


@contextmanager
def quiet() -> Iterator[None]:
    """Without torch's warnings, logs and graphs on standard error, of which none is the user's to mend."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def place_of(error: BaseException, model: nn.Module) -> str:
    """Where it happened, as far as it is known: " in rnn (LSTM) at net.py:12", or "".

    Args:
        error: raised while torch ran the model, or went through its graph.
        model: whose layers are named.
    """
    names = {id(module): name for name, module in model.named_modules() if name}
    layer = line = ""
    for frame, number in _frames(error):
        module, node = frame.f_locals.get("self"), frame.f_locals.get("node")
        if id(module) in names:
            layer = f" in {names[id(module)]} ({type(module).__name__})"
        elif isinstance(node, fx.Node) and (stack := node.meta.get("nn_module_stack")):
            name, kind = list(stack.values())[-1]
            layer = f" in {name} ({str(kind).rpartition('.')[2]})" if name else ""
        file = frame.f_code.co_filename
        if isinstance(module, nn.Module) and not file.startswith(_OTHERS):
            line = f" at {os.path.basename(file)}:{number}"
    return layer + line


def innermost(error: BaseException) -> BaseException:
    """The error that all others came of."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _frames(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    """All frames of an error and of those that it came of, the outermost first."""
    one: Any = error
    while one is not None:
        trace = one.__traceback__
        while trace is not None:
            yield trace.tb_frame, trace.tb_lineno
            trace = trace.tb_next
        one = one.__cause__
