"""Calls of the user's program as overrides see and change them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class ForwardCall:
    """A call of a model: what it is given.

    Attributes:
        contexts: context managers to be entered around the call (autocast, say), in this order.
        result: what the model gave back, once it has (None before, and after an exception); `after_forward` may
            replace it.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    contexts: list[Any] = field(default_factory=list)
    result: Any = None


@dataclass
class LossCall:
    """A call of a loss function of `torch.nn.functional`.

    Attributes:
        function: its name there, "cross_entropy" for example; another name calls that one.
        prediction: the first argument: tensor of any shape.
        target: the second argument.
        options: the other arguments by name ("weight", "reduction", ...).
        training: whether a gradient is taken of it.
        result: what the function gave back, once it has; `after_loss` may replace it.
    """

    function: str
    prediction: Any
    target: Any
    options: dict[str, Any]
    training: bool
    result: Any = None
