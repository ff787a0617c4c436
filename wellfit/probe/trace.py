"""The log of torch calls in the first steps: which call, on which of the user's lines, in which layer.

A torch function mode sees every call of the torch API without changing it. It is pushed only between the first
forward call of a model and its backward call, in the first steps of training; never in evaluation (its mere presence
would take torch's fused inference paths away, and with them the last bit of the result), never near `torch.compile`.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack, _pop_mode, _push_mode

from wellfit.probe.fence import Fence
from wellfit.probe.locate import OURS, Place, cached_place, is_ours
from wellfit.probe.statistics import shape_of

CALLS = 20_000  # a trace longer than this is given up: not a training step
LEAVES = 100  # tensors made in a step to which a gradient shall flow and whose makers are kept
CUTS = {"detach", "detach_", "numpy", "__array__", "data"}

_OVERRIDES = os.path.join(OURS, "overrides") + os.sep

_DROPOUTS = {
    "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "feature_dropout",
}  # fmt: skip


_KEY = "wellfit"  # in the metadata of an autograd node


class Call:
    """One torch call whose result carries gradient."""

    __slots__ = ("function", "layer", "place", "rate", "round", "shapes")

    def __init__(
        self,
        round: int,
        function: str,
        place: Place | None,
        layer: str | None,
        shapes: list[list[int]],
        rate: float | None,
    ) -> None:
        self.round = round  # of the trace, see `Trace.clear`
        self.function = function
        self.place = place
        self.layer = layer
        self.shapes = shapes
        self.rate = rate  # of dropout


class Trace(TorchFunctionMode):
    """Logs calls while it is the innermost mode.

    What is known of a call hangs on the autograd node that it made, and goes with it: a list of nodes here would keep
    alive the graph of every forward pass that no backward call follows.

    Args:
        fence: errors of ours go there.
        layer: gives the name of the innermost layer that is running.
    """

    def __init__(self, fence: Fence, layer: Callable[[], str | None]) -> None:
        super().__init__()
        self.fence = fence
        self.layer = layer
        self.logged = 0  # calls since the last `clear`
        self._round = 0
        self.cuts: list[dict[str, Any]] = []
        self._leaves: dict[int, tuple[weakref.ref[torch.Tensor], Place | None]] = {}
        self.pushed = False
        self._count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self.fence.off:
            try:
                with torch._C.DisableTorchFunction():  # a mode of the user's below ours is not to see what we ask
                    self._log(func, args, kwargs or {}, result)
            except Exception as error:
                self.fence.fault(error)
        return result

    def _log(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        self._count += 1
        caller = sys._getframe(2).f_code.co_filename
        # What overrides compute is a part of the program.
        if self._count > CALLS or (is_ours(caller) and not caller.startswith(_OVERRIDES)):
            return
        name = getattr(func, "__name__", "")
        if name == "__get__":
            name = getattr(getattr(func, "__self__", None), "__name__", "")
        elif name == "__set__" and getattr(getattr(func, "__self__", None), "__name__", "") == "requires_grad":
            result = args[0]
        if name in CUTS:
            self._cut(name, args)
            return
        first = result[0] if isinstance(result, (tuple, list)) and result else result
        if isinstance(first, torch.Tensor):
            rate = _rate(args, kwargs) if name in _DROPOUTS else None
            self._add(name, args, first, cached_place(3), rate)

    def _add(self, name: str, args: Any, result: torch.Tensor, place: Place | None, rate: float | None = None) -> None:
        node: Any = result.grad_fn
        if node is None and result.requires_grad and id(result) not in self._leaves and len(self._leaves) < LEAVES:
            self._leaves[id(result)] = (weakref.ref(result), place)
        if node is not None and self.call_of(node) is None:
            shapes = [shape for a in args if isinstance(a, torch.Tensor) and (shape := shape_of(a)) is not None]
            node.metadata[_KEY] = Call(self._round, name, place, self.layer(), shapes, rate)
            self.logged += 1

    def call_of(self, node: Any) -> Call | None:
        """The logged call that made an autograd node, since the last `clear`."""
        call: Call | None = node.metadata.get(_KEY)
        return call if call is not None and call.round == self._round else None

    def maker(self, leaf: torch.Tensor) -> Place | None:
        """The line that made a tensor without history, or had it require gradient; None if no logged call did."""
        known = self._leaves.get(id(leaf))
        return known[1] if known is not None and known[0]() is leaf else None

    def _cut(self, name: str, args: Any) -> None:
        source = args[0] if args else None
        if not isinstance(source, torch.Tensor) or not source.requires_grad or source.grad_fn is None:
            return
        if len(self.cuts) >= 100 or source.numel() <= 1:
            return
        place = cached_place(4)
        call = self.call_of(source.grad_fn)
        self.cuts.append(
            {
                "function": name,
                "file": place and place[0],
                "line": place and place[1],
                "layer": self.layer() or (call.layer if call else None),
            }
        )

    def start(self) -> None:
        """Begin to log, unless a mode is active that its owner will leave before we do: they are left in turn."""
        if not self.pushed and not _in_a_mode():
            self._count = 0
            self.pushed = True
            _push_mode(self)  # type: ignore[no-untyped-call]

    def pause(self) -> bool:
        """Stop for one call that is to run as without us (it may warn, and name its caller); True if we had been on."""
        was = self.pushed
        self.stop()
        return was and not self.pushed

    def resume(self, function: str, args: Any, result: Any) -> None:
        """Go on after `pause`, and log the call that was made meanwhile."""
        if isinstance(result, torch.Tensor) and result.requires_grad:
            self.pushed = True
            _push_mode(self)  # type: ignore[no-untyped-call]
            self._add(function, args, result, cached_place(4))

    def stop(self) -> None:
        """Stop logging; if the user's own mode lies above ours, it stays, inert in effect, until it can be popped."""
        if self.pushed:
            stack = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
            if stack and stack[-1] is self:
                _pop_mode()  # type: ignore[no-untyped-call]
                self.pushed = False

    def clear(self) -> None:
        """Forget the calls of the step that ended."""
        self._round += 1
        self.logged = 0
        self.cuts.clear()
        self._leaves.clear()


def _rate(args: Any, kwargs: Any) -> float | None:
    """The share that a call of dropout drops; None where it is not given as a number, or nothing is dropped."""
    rate = kwargs.get("p", args[1] if len(args) > 1 else None)
    acts = kwargs.get("training", kwargs.get("train", args[2] if len(args) > 2 else True))
    return float(rate) if acts and isinstance(rate, (int, float)) else None


def _in_a_mode() -> bool:
    """Whether a mode other than that of `torch.set_default_device`, which stays for good, is active."""
    default = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    stack = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    return any(mode is not default for mode in stack) or torch._C._len_torch_dispatch_stack() > 0
