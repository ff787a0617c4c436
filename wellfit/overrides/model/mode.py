"""Train mode or eval mode, whatever the script asks for."""

from __future__ import annotations

import inspect
import sys
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wellfit.overrides.override import Override
from wellfit.overrides.parameters import choice
from wellfit.overrides.places import here_text

if TYPE_CHECKING:
    from torch import nn

    from wellfit.overrides.calls import ForwardCall
    from wellfit.overrides.program import Program


_KEY = "_wellfit_mode"


@dataclass(frozen=True)
class _Line:
    """A line of the script that calls a model."""

    root: weakref.ref[Any]
    place: str


@dataclass(kw_only=True, eq=False)
class Mode(Override):
    """Train mode or eval mode, whatever the script asks for.

    What it changes: `train` and `eval`: models are in this mode from their first call on, and calls of `model.train()`
    or `model.eval()` that would leave it do nothing, as if the line were not there. `correct`: a model without
    gradients being taken is in eval mode; where a backward pass followed a call, that line's calls are in train mode
    from then on; after each call every layer is again in the mode that the script gave it.

    When it helps: `correct` where wellfit finds eval-mode. The others are its faults: training in eval mode, where
    dropout does nothing and batch norm neither uses nor updates its statistics, and evaluation in train mode.

    Safety: not safe; with `train` or `eval` the model is in the wrong mode somewhere, and `correct` undoes what a
    script may want (frozen batch norm, dropout at evaluation).

    Where it does not apply: to models without dropout or batch norm it makes no difference. Functional dropout has its
    own switch.

    References: Ioffe and Szegedy, Batch Normalization (2015); Srivastava et al., Dropout (2014).
    """

    name = "mode"
    summary = "keep models in train mode, in eval mode, or in the one that fits"
    example = "mode=correct"
    safe = False
    misfit = "no model is called that has dropout or batch norm"
    rank = 20

    value: str = choice("correct: train mode for training, eval mode without gradients", ("train", "eval", "correct"))

    # By model the lines of its calls that a backward pass followed.
    _lines: weakref.WeakKeyDictionary[Any, set[str]] = field(default_factory=weakref.WeakKeyDictionary, init=False)
    _line: _Line | None = field(default=None, init=False)
    _waiting: set[_Line] = field(default_factory=set, init=False)  # calls since the last backward pass
    _turned: list[tuple[nn.Module, bool]] = field(default_factory=list, init=False)
    _affected: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet, init=False)

    def begin(self, program: Program) -> None:
        """See `Override`."""
        if self.value == "correct":
            return
        from torch import nn

        program.patch(nn.Module, "train", self._with_train)
        program.patch(nn.Module, "eval", self._with_eval)

    def _with_train(self, original: Any) -> Any:
        from torch import nn

        torch_file, walk, wanted = nn.modules.module.__file__, inspect.unwrap(original), self.value == "train"

        def train(module: Any, mode: bool = True) -> Any:
            if bool(mode) != wanted:
                return module
            inner = sys._getframe(1).f_code.co_filename == torch_file  # torch's own walk through the children
            return (walk if inner else original)(module, mode)

        return train

    def _with_eval(self, original: Any) -> Any:
        def eval(module: Any) -> Any:
            return original(module) if self.value == "eval" else module

        return eval

    def model(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        name = f"{type(root).__name__}{here_text()}"
        if not any(_depends_on_mode(module) for module in root.modules()):
            self.left_out(name, "it has neither dropout nor batch norm")
            return
        self._affected.add(root)
        if self.value == "correct":
            self.changed(f"{name}: train mode where gradients are used, eval mode where none are taken")
            return
        wanted = self.value == "train"
        if any(module.training is not wanted for module in root.modules()):
            root.train(wanted) if wanted else root.eval()
        self.changed(f"{name}: always in {self.value} mode")

    def before_forward(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        if self.value != "correct" or root not in self._affected:
            return
        import torch

        if not torch.is_grad_enabled():
            self._turn(root, False)
        elif not root.training or any(_depends_on_mode(layer) and not layer.training for layer in root.modules()):
            place = here_text()
            if place in self._lines.get(root, ()):
                self._turn(root, True)
            else:
                self._line = _Line(weakref.ref(root), place)

    def after_forward(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        for module, training in self._turned:
            module.training = training
        self._turned.clear()
        if self._line is not None:
            from wellfit.overrides.nested import tensors_in

            for result in tensors_in(call.result):
                node: Any = result.grad_fn
                if node is not None:
                    node.metadata[_KEY] = self._line  # in the graph itself: we keep none alive
                    self._waiting.add(self._line)
            self._line = None

    def before_backward(self, program: Program, loss: Any) -> None:
        """See `Override`."""
        if self._waiting:
            from wellfit.overrides.nested import tensors_in

            for line in _met([tensor.grad_fn for tensor in tensors_in(loss)], self._waiting):
                root = line.root()
                if root is not None:
                    self._lines.setdefault(root, set()).add(line.place)
                    self.changed(f"{type(root).__name__}{line.place}: train mode from the second pass on")
            self._waiting.clear()

    def _turn(self, root: nn.Module, wanted: bool) -> None:
        """Put a model in another mode for this call."""
        for module in root.modules():
            if module.training is not wanted:
                self._turned.append((module, module.training))
                module.training = wanted


def _met(starts: list[Any], sought: set[_Line]) -> set[_Line]:
    """Those of some calls that a graph leads to."""
    waiting = list(starts)
    seen: set[Any] = set()
    met: set[_Line] = set()
    while waiting and not sought <= met:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            met.add(node.metadata.get(_KEY))
            waiting += [below for below, _ in node.next_functions]
    return sought & met


def _depends_on_mode(module: nn.Module) -> bool:
    """Whether a layer does something else in train mode."""
    name = type(module).__name__
    share = getattr(module, "dropout", 0.0)  # of recurrent and attention layers
    return (
        ("Dropout" in name and getattr(module, "p", 1.0) > 0)
        or ("BatchNorm" in name or "InstanceNorm" in name)
        or (isinstance(share, float) and share > 0)
    )
