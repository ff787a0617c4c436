"""Half precision: its limits, and the line of the user's program that casts the model to it."""

from __future__ import annotations

import ast

from wellfit.finding import Location
from wellfit.record import Record
from wellfit.source import called, main_source

HALF_STEP = {"bfloat16": 2.0**-8, "float16": 2.0**-11}  # half the distance to the next number, relative
LARGEST_FLOAT16 = 65504.0
SMALLEST_FLOAT16 = 2.0**-24  # above 0, denormal; half of it is rounded to 0

_METHODS = {"bfloat16": ("bfloat16",), "float16": ("half",)}
_TAKES_DTYPE = ("to", "type", "set_default_dtype")


def cast_place(record: Record, dtype: str) -> Location | None:
    """The line that casts the model: `model.to(torch.bfloat16)`, `.half()`, `set_default_dtype`; None if not found.

    A call on one of the models comes before a call on anything else that is made outside of a loop.
    """
    source = main_source(record)
    if source is None:
        return None
    models = {layer.root.rpartition(".")[2] for layer in record.layers.values()}
    found: list[tuple[bool, int]] = []
    for call in source.calls([*_METHODS.get(dtype, ()), *_TAKES_DTYPE]):
        if called(call) in _TAKES_DTYPE and not _names(call, dtype):
            continue
        of_model = isinstance(call.func, ast.Attribute) and _receiver(call.func.value) in models
        found.append((not of_model, call.lineno))
    return Location(source.file, min(found)[1]) if found else None


def _names(call: ast.Call, dtype: str) -> bool:
    """Whether an argument of a call is this type (`torch.bfloat16`, or `torch.half`)."""
    words = {dtype, *_METHODS.get(dtype, ())}
    return any(
        isinstance(node, ast.Attribute) and node.attr in words
        for argument in [*call.args, *(keyword.value for keyword in call.keywords)]
        for node in ast.walk(argument)
    )


def _receiver(value: ast.expr) -> str | None:
    """The name that a chain of calls and attributes begins with: "net" of `net.to("cuda")`."""
    while not isinstance(value, ast.Name):
        if isinstance(value, ast.Attribute):
            value = value.value
        elif isinstance(value, ast.Call):
            value = value.func
        else:
            return None
    return value.id
