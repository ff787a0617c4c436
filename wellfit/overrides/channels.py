"""Which inputs of later layers belong to which output channel of a layer, found by trial.

A channel is set to NaN and the model called: norms, activations, pooling, flatten and sums hand the NaN on, each for
its channel, and every layer with weights notes where it comes in, and is given 0 there instead. Each trial sets half of
the channels, those whose number has a certain bit; so 2 log2(channels) calls tell all channels apart. An input position
that is NaN both when a bit is set and when it is not takes from more than one channel: what lies between mixes them.

Layers whose channels come in at the same positions (the terms of a sum) have to keep the same width: they are a group.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from wellfit.errors import WellfitError
from wellfit.overrides.calls import ForwardCall
from wellfit.overrides.nested import mapped, reals_in, tensors_in
from wellfit.overrides.program import Program
from wellfit.overrides.traceless import no_trace
from wellfit.overrides.tree import is_layer, is_norm
from wellfit.overrides.trial import called, leaves


@dataclass(eq=False)
class Group:
    """Layers whose output channels belong together.

    Attributes:
        producers: by name.
        width: the number of channels.
        consumers: layers with weights that take them: name -> for each input position its channel, or -1.
        norms: norms and the like on the way, by name, the same.
        obstacle: why the channels cannot be changed; empty if they can.
    """

    producers: dict[str, nn.Module]
    width: int
    consumers: dict[str, torch.Tensor] = field(default_factory=dict)
    norms: dict[str, torch.Tensor] = field(default_factory=dict)
    obstacle: str = ""


def find_groups(program: Program, root: nn.Module, call: ForwardCall) -> list[Group]:
    """All groups of channels of a model, in the order in which it holds its layers.

    Raises:
        WellfitError: the model cannot be called by way of trial.
    """
    with no_trace(program, root), torch.no_grad():
        call = _smaller(root, call)
        search = _Search(root, call)
        groups = [search.look(name, module) for name, module in search.layers.items()]
    return _joined([group for group in groups if group is not None])


def width_of(module: Any) -> int:
    """The number of output channels of a layer; 0 if it has none that are known."""
    for name in ("out_features", "out_channels", "hidden_size", "embedding_dim", "embed_dim"):
        size = getattr(module, name, None)
        if isinstance(size, int):
            return size
    return 0


def channel_axis(module: nn.Module, tensor: torch.Tensor) -> int:
    """The axis of a layer's or a norm's input and output on which its channels are."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return tensor.dim() - module.weight.dim() + 1
    if isinstance(module, (nn.modules.batchnorm._NormBase, nn.GroupNorm)):
        return 1
    return -1


class _Search:
    """Sets channels to NaN and looks where they come in."""

    def __init__(self, root: nn.Module, call: ForwardCall) -> None:
        self.root = root
        self.call = call
        found = dict(leaves(root))
        self.layers = {name: module for name, module in found.items() if is_layer(module)}
        self.norms = {name: m for name, m in found.items() if not is_layer(m) and (is_norm(m) or m._parameters)}
        self._names = {id(module): name for name, module in (*self.layers.items(), *self.norms.items())}
        self._came: dict[str, torch.Tensor] = {}  # in this trial: name -> positions that were NaN
        self._trouble = ""
        self._spoiled: nn.Module | None = None  # the layer that is looked at

    def look(self, name: str, module: nn.Module) -> Group | None:
        """The group of one layer by itself; None if it is not called."""
        group = Group({name: module}, width_of(module))
        if not group.width:
            group.obstacle = f"{type(module).__name__} has no channels that are known"
            return group
        bits = max(1, math.ceil(math.log2(group.width)))
        numbers = torch.arange(group.width)
        answers: dict[str, list[tuple[torch.Tensor | None, torch.Tensor | None]]] = {}
        for bit in range(bits):
            came = []
            for value in (1, 0):
                chosen = (numbers >> bit) % 2 == value
                came.append(self._trial(name, module, chosen) if bool(chosen.any()) else {})
            for other in {**came[0], **came[1]}:
                answers.setdefault(other, [(None, None)] * bit).append((came[0].get(other), came[1].get(other)))
            for other in answers:
                if len(answers[other]) <= bit:
                    answers[other].append((None, None))
        group.obstacle = self._trouble
        self._trouble = ""
        for other, pairs in answers.items():
            channels = _decoded(pairs, group.width)
            if channels is None:
                group.obstacle = group.obstacle or f"what lies before {other} mixes its channels"
            else:
                (group.consumers if other in self.layers else group.norms)[other] = channels
        if not group.consumers:
            group.obstacle = group.obstacle or "no layer was found that takes what it gives"
        return group

    def _trial(self, name: str, module: nn.Module, chosen: torch.Tensor) -> dict[str, torch.Tensor]:
        self._came, self._spoiled = {}, module
        with self._hooks(name, module, chosen):
            try:
                output = called(self.root, self.call)
            except WellfitError as error:
                self._trouble = self._trouble or str(error)
                return {}
        if any(bool(tensor.isnan().any()) for tensor in reals_in(output)):
            self._trouble = "it gives (a part of) the model's output"
        return self._came

    @contextlib.contextmanager
    def _hooks(self, name: str, module: nn.Module, chosen: torch.Tensor) -> Iterator[None]:
        handles = [module.register_forward_hook(_Spoil(module, chosen))]
        handles += [
            layer.register_forward_pre_hook(self._receive(other), with_kwargs=True)
            for other, layer in self.layers.items()
        ]
        for other, norm in self.norms.items():
            handles += [
                norm.register_forward_pre_hook(self._pass_in(other), with_kwargs=True),
                norm.register_forward_hook(self._pass_out()),
            ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _receive(self, name: str) -> Callable[..., Any]:
        """A layer with weights is called: note the positions that are NaN and give it 0 there."""

        def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
            given = list(reals_in((args, kwargs)))
            for index, tensor in enumerate(given):
                spoiled = tensor.isnan()
                if not bool(spoiled.any()):
                    continue
                if index == 0 and isinstance(module, _KNOWN):
                    self._note(name, module, spoiled)
                elif not (isinstance(module, (nn.RNNBase, nn.RNNCellBase)) and module is self._spoiled):
                    self._trouble = self._trouble or f"{name} takes it in a way that is not known"
            return mapped((args, kwargs), _clean)

        return before

    def _note(self, name: str, module: nn.Module, spoiled: torch.Tensor) -> None:
        axis = channel_axis(module, spoiled)
        positions = spoiled.movedim(axis, -1).reshape(-1, spoiled.shape[axis]).any(0)
        self._came[name] = positions | self._came[name] if name in self._came else positions

    def _pass_in(self, name: str) -> Callable[..., Any]:
        def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
            spoiled = next(reals_in((args, kwargs))).isnan()
            if bool(spoiled.any()):
                self._note(name, module, spoiled)
            module.__dict__["_spoiled"] = spoiled
            return mapped((args, kwargs), _clean)

        return before

    def _pass_out(self) -> Callable[..., Any]:
        """A norm's mean and variance would spread the NaN; each channel's is put where it came in."""

        def after(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
            return output.masked_fill(module.__dict__.pop("_spoiled"), math.nan)

        return after


_KNOWN = (nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase, nn.RNNCellBase)


class _Spoil:
    """A forward hook that sets channels of a layer's output to NaN (of a recurrent one, of its states too)."""

    def __init__(self, module: nn.Module, chosen: torch.Tensor) -> None:
        self.module = module
        self.chosen = chosen

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, nn.utils.rnn.PackedSequence):
            return output
        return mapped(output, self._spoiled)

    def _spoiled(self, tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point() or not tensor.dim():
            return tensor
        axis = channel_axis(self.module, tensor) % tensor.dim()
        times = tensor.shape[axis] // len(self.chosen)  # both directions of a recurrent layer
        shape = [1] * tensor.dim()
        shape[axis] = -1
        mask = self.chosen.repeat(max(times, 1))[: tensor.shape[axis]].to(tensor.device).view(shape)
        return tensor.masked_fill(mask, math.nan)


def _clean(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.nan_to_num(0.0) if tensor.is_floating_point() else tensor


def _decoded(pairs: list[tuple[torch.Tensor | None, torch.Tensor | None]], width: int) -> torch.Tensor | None:
    """For each position the number of its channel, -1 for none; None if a position takes from several."""
    some = next(mask for pair in pairs for mask in pair if mask is not None)
    channels = torch.zeros(len(some), dtype=torch.long)
    touched = torch.zeros(len(some), dtype=torch.bool)
    for bit, (one, zero) in enumerate(pairs):
        one = torch.zeros_like(touched) if one is None else one.cpu()
        zero = torch.zeros_like(touched) if zero is None else zero.cpu()
        if len(one) != len(touched) or len(zero) != len(touched) or bool((one & zero).any()):
            return None
        if bit and bool(((one | zero) != touched).any()):
            return None
        touched = one | zero
        channels += one.long() << bit
    channels[~touched] = -1
    return channels if bool((channels < width).all()) else None


def _joined(groups: list[Group]) -> list[Group]:
    """Put those together whose channels come in at the same positions."""
    result: list[Group] = []
    for group in groups:
        for other in [other for other in result if _meet(group, other)]:
            result.remove(other)
            why = other.obstacle or group.obstacle
            if not why and not _agree(group, other):
                why = "its channels are added to others in another order"
            group = Group(
                {**other.producers, **group.producers}, group.width,
                {**other.consumers, **group.consumers}, {**other.norms, **group.norms}, why,
            )  # fmt: skip
        result.append(group)
    return result


def _shared(one: Group, other: Group) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for mine, its in ((one.consumers, other.consumers), (one.norms, other.norms)):
        for name in mine:
            if name in its:
                yield mine[name], its[name]


def _meet(one: Group, other: Group) -> bool:
    return any(bool(((a >= 0) & (b >= 0)).any()) for a, b in _shared(one, other))


def _agree(one: Group, other: Group) -> bool:
    same = all(bool(torch.equal(a, b)) for a, b in _shared(one, other) if bool(((a >= 0) & (b >= 0)).any()))
    return same and one.width == other.width


def _smaller(root: nn.Module, call: ForwardCall) -> ForwardCall:
    """The first two rows of the batch, where the model takes them: the trials are many."""
    sizes = {tensor.shape[0] for tensor in tensors_in((call.args, call.kwargs)) if tensor.dim()}
    if len(sizes) != 1 or sizes.pop() <= 4:
        return call
    args, kwargs = mapped((call.args, call.kwargs), lambda tensor: tensor[:2] if tensor.dim() else tensor)
    smaller = ForwardCall(args, kwargs)
    try:
        called(root, smaller)
    except WellfitError:
        return call
    return smaller
