"""A call of the user's model that leaves no trace: which layers are called, in which order, what flows into what.

Every layer with parameters hands on a copy of its output that begins an autograd graph of its own. So walking back from
the input of a layer ends at the layers whose output it is made of, and what lies between is seen on the way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.overrides import TorchFunctionMode

from wellfit.errors import WellfitError
from wellfit.overrides.calls import ForwardCall
from wellfit.overrides.layers.functional import (
    ACTIVATION_FUNCTIONS,
    ACTIVATION_MODULES,
    DROPOUT_FUNCTIONS,
    Site,
    begin_forward,
    site_of_caller,
)
from wellfit.overrides.nested import mapped, reals_in
from wellfit.overrides.places import here_text
from wellfit.overrides.program import Program
from wellfit.overrides.traceless import no_trace
from wellfit.overrides.tree import is_layer, is_leaf
from wellfit.overrides.words import in_short

_NONE: Mapping[str, nn.Module] = {}


@dataclass(eq=False)
class Call:
    """One call of a leaf module, or of an activation or dropout function outside of torch's own modules.

    Attributes:
        kind: "layer" (a leaf module with weights), "module" (an activation, a norm, ...), "function", or "part" (a
            module that was asked for by itself).
        name: the module's name in the root; the function's name.
        sources: the layers' calls whose output reaches its input with no other layer between.
        passed: the calls of modules and functions that lie on those ways.
        gates: it is multiplied with another value that was computed, as the gate of a recurrent cell is.
        site: where a function was called.
    """

    index: int
    kind: str
    name: str
    module: nn.Module | None = None
    inputs: tuple[tuple[int, ...], ...] = ()
    output: tuple[int, ...] | None = None
    sources: list[Call] = field(default_factory=list)
    passed: list[Call] = field(default_factory=list)
    gates: bool = False
    site: Site | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def activation(self) -> str | None:
        """The activation function that it is ("relu"), if it is one."""
        if self.kind == "function":
            return self.name if self.name in ACTIVATION_FUNCTIONS else None
        return ACTIVATION_MODULES.get(type(self.module).__name__)


@dataclass(eq=False)
class Trial:
    """What a trial call showed.

    Attributes:
        calls: in the order in which they ended.
        heads: the layers' calls whose output reaches the model's output with no other layer between.
        outputs: the shapes of the model's output tensors.
        parts: the calls of the modules that were asked for.
        strangers: modules that were called and that the model does not hold: those made in the forward pass, or kept in
            a plain list. With the place in the script.
    """

    calls: list[Call] = field(default_factory=list)
    heads: list[Call] = field(default_factory=list)
    outputs: list[tuple[int, ...]] = field(default_factory=list)
    parts: list[Call] = field(default_factory=list)
    strangers: dict[nn.Module, str] = field(default_factory=dict)

    @property
    def layers(self) -> list[Call]:
        """The calls of layers with parameters."""
        return [call for call in self.calls if call.kind == "layer"]

    def is_head(self, name: str) -> bool:
        """Whether the layer of this name gives (a part of) the model's output."""
        return any(call.name == name for call in self.heads)

    def hidden(self, call: Call) -> bool:
        """Whether what this call gives goes into a layer with parameters."""
        return any(call in later.passed or call in later.sources for later in self.layers)

    def leads_on(self, call: Call) -> bool:
        """Whether what this call gives goes into a layer with parameters, by whatever way."""
        return any(call in _ancestors(later) for later in self.layers)

    def activation_after(self, name: str) -> Call | None:
        """The first activation through which the output of a layer goes; None if there is none."""
        for call in self.calls:
            first = call.activation is not None and not any(other.activation is not None for other in call.passed)
            if first and any(source.name == name for source in call.sources):
                return call
        return None

    def bridged(self, call: Call) -> bool:
        """Whether a way leads around a layer: a later one, or the output, takes from it and from what begins before it.

        That way may lead through other layers (a convolution that fits the shape).
        """
        before = _ancestors(call)
        for taken in (*(layer.sources for layer in self.layers), self.heads):
            ways = [{source, *_ancestors(source)} for source in taken]
            if any(call in way for way in ways) and any(call not in way and way & before for way in ways):
                return True
        return False


def _ancestors(call: Call) -> set[Call]:
    """The layers' (and parts') calls on which the input of this one depends."""
    found: set[Call] = set()
    waiting = list(call.sources)
    while waiting:
        source = waiting.pop()
        if source not in found:
            found.add(source)
            waiting += source.sources
    return found


def try_call(program: Program, root: nn.Module, call: ForwardCall, parts: Mapping[str, nn.Module] = _NONE) -> Trial:
    """Call a model without a trace.

    Args:
        parts: modules of the model, by name, whose calls are to be seen too, whatever they are.

    Raises:
        WellfitError: it cannot be called twice with the same input.
    """
    recorder = _Recorder(root)
    with no_trace(program, root), torch.enable_grad(), contextlib.ExitStack() as stack:
        for handle in recorder.hook(parts):
            stack.callback(handle.remove)
        stack.enter_context(recorder)
        output = called(root, call)
    return recorder.result(output)


def called(root: nn.Module, call: ForwardCall) -> Any:
    """What a model gives for copies of this input, to be asked within `no_trace`.

    Raises:
        WellfitError: it raises an error.
    """
    args, kwargs = mapped((call.args, call.kwargs), _copy)
    begin_forward()
    try:
        return root(*args, **kwargs)
    except Exception as error:
        raise WellfitError(f"a trial call of {type(root).__name__} fails ({in_short(error)})") from None
    finally:
        begin_forward()


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


class _Recorder(TorchFunctionMode):
    """Sees leaf modules by hooks and functions as a mode."""

    def __init__(self, root: nn.Module) -> None:
        super().__init__()
        self.trial = Trial()
        self._root = root
        self._held = set(root.modules())
        self._begins: dict[int, Call] = {}  # by the id of the tensor with which a layer's output begins
        self._nodes: dict[Any, Call] = {}  # by the node of the autograd graph that a call made
        self._kept: list[Any] = []  # what must live as long as its id is known

    def hook(self, parts: Mapping[str, nn.Module]) -> Iterator[Any]:
        """Register the hooks; gives their handles."""
        for name, module in leaves(self._root):
            yield module.register_forward_hook(self._hook(name), with_kwargs=True)
        for name, module in parts.items():
            yield module.register_forward_hook(self._hook_part(name), with_kwargs=True)
        yield register_module_forward_hook(self._note_stranger)

    def _note_stranger(self, module: nn.Module, args: Any, output: Any) -> None:
        if module not in self._held:
            self.trial.strangers[module] = here_text()

    def _hook(self, name: str) -> Callable[..., Any]:
        def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            given = list(reals_in((args, kwargs)))
            kind = "layer" if is_layer(module) else "module"
            call = self._call(kind, name, given, output)
            call.module = module
            if kind == "layer":
                return mapped(output, lambda tensor: self._begin(tensor, call))
            self._made(call, output)
            return None

        return after

    def _hook_part(self, name: str) -> Callable[..., Any]:
        def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            call = self._call("part", name, list(reals_in(output)), None)  # what is in it comes before it
            call.module = module
            self.trial.parts.append(call)

            def begin(tensor: torch.Tensor) -> torch.Tensor:
                if tensor.is_floating_point():
                    call.output = tuple(tensor.shape)
                return self._begin(tensor, call)

            return mapped(output, begin)

        return after

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "").rstrip("_")
        known = name in ACTIVATION_FUNCTIONS or name in DROPOUT_FUNCTIONS
        site = site_of_caller() if known else None
        if site is None:
            return func(*args, **(kwargs or {}))
        call = self._call("function", name, [value for value in args[:1] if isinstance(value, torch.Tensor)], None)
        result = func(*args, **(kwargs or {}))
        call.site, call.options = site, {**dict(zip(("_", "p", "training"), args)), **(kwargs or {})}
        call.output = tuple(result.shape)
        self._made(call, result)
        return result

    def _call(self, kind: str, name: str, given: list[torch.Tensor], output: Any) -> Call:
        shapes = tuple(tuple(tensor.shape) for tensor in given)
        first = next(reals_in(output), None)
        call = Call(len(self.trial.calls), kind, name, inputs=shapes, output=None if first is None else (*first.shape,))
        call.sources, call.passed = self._behind(given)
        self.trial.calls.append(call)
        return call

    def _made(self, call: Call, output: Any) -> None:
        for tensor in reals_in(output):
            if tensor.grad_fn is not None and tensor.grad_fn not in self._nodes:
                self._nodes[tensor.grad_fn] = call

    def _begin(self, tensor: torch.Tensor, call: Call) -> torch.Tensor:
        if not tensor.is_floating_point():
            return tensor
        begin = tensor.detach().requires_grad_()
        self._kept.append(begin)
        self._begins[id(begin)] = call
        copy = begin.clone()  # as the model may change it in place
        vars(copy).update(vars(tensor))
        return copy

    def _behind(self, given: list[torch.Tensor]) -> tuple[list[Call], list[Call]]:
        """The layers that these tensors are made of, and the other calls on the way."""
        sources: dict[Call, None] = {}
        passed: dict[Call, None] = {}
        waiting = [tensor.grad_fn for tensor in given if tensor.grad_fn is not None]
        seen = set(waiting)
        while waiting:
            node = waiting.pop()
            if node in self._nodes:
                passed[self._nodes[node]] = None
            variable = getattr(node, "variable", None)
            if variable is not None and id(variable) in self._begins:
                sources[self._begins[id(variable)]] = None
            behind = [following for following, _ in node.next_functions if following is not None]
            if node.name().startswith("MulBackward") and len(behind) == 2:
                for following in behind:
                    if following in self._nodes:
                        self._nodes[following].gates = True
            waiting += [following for following in behind if following not in seen]
            seen.update(behind)
        return list(sources), list(passed)

    def result(self, output: Any) -> Trial:
        """All that was seen, when the call has ended."""
        tensors = list(reals_in(output))
        self.trial.outputs = [tuple(tensor.shape) for tensor in tensors]
        self.trial.heads, _ = self._behind(tensors)
        if not self.trial.heads:
            self.trial.heads = self.trial.layers[-1:]
        return self.trial


def leaves(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules whose inside is not the user's: torch's layers, and modules that hold no others."""
    seen: set[int] = set()

    def below(prefix: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        if id(module) in seen:
            return
        seen.add(id(module))
        if is_leaf(module):
            yield prefix or type(module).__name__, module
            return
        for name, child in module.named_children():
            yield from below(f"{prefix}.{name}" if prefix else name, child)

    yield from below("", root)
