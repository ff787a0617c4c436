"""Groups of channels: which indices of which axes of which tensors go together, as one forward pass shows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.parameter import is_lazy

from wellfit.slim.changes import Unfit
from wellfit.slim.measure.inputs import Inputs
from wellfit.slim.measure.running import plain_operations, tensors_in
from wellfit.slim.methods.checked import copied, said
from wellfit.slim.methods.coupled.labels import Label, Labels
from wellfit.slim.methods.coupled.operations import rule_of
from wellfit.slim.methods.coupled.trace import Trace

Indices = NDArray[np.int64]
_MOST_PASSED_OVER = 2  # (query, key, value) x heads x width, and one more


@dataclass(frozen=True)
class Place:
    """An axis of a parameter or buffer (by its first name) of this size."""

    tensor: str
    axis: int
    size: int


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that are of one kind: each lies in the same axes, with as many indices, and may go alone.

    Args:
        name: the layer that makes them; a number is added where it makes several groups.
        places: the axes that they lie in.
        members: for each place, [channels, indices of one channel].
        restated: for operations of the forward pass, by their number, that go over these channels (norms, means):
            the axis of their first tensor, and its [channels, indices of one channel].
    """

    name: str
    places: tuple[Place, ...]
    members: tuple[Indices, ...]
    restated: Mapping[int, tuple[int, Indices]]

    @property
    def channels(self) -> int:
        """How many channels there are to choose from."""
        return len(self.members[0])

    @property
    def normed(self) -> bool:
        """Whether a norm or a mean goes over them: to zero a channel is not the same then as to leave it out."""
        return bool(self.restated)


@dataclass(frozen=True)
class Coupling:
    """What may be cut of a model, and what not and why.

    Args:
        groups: in the order of the layers that make them.
        refused: by layer, why none of its outputs may go.
    """

    groups: tuple[Group, ...]
    refused: Mapping[str, str]

    def group(self, name: str) -> Group:
        """A group by its name.

        Raises:
            Unfit: there is none, with the reason if the layer is known.
        """
        for group in self.groups:
            if group.name == name:
                return group
        raise Unfit(f"{name}: {self.refused.get(name, 'there is no such group of channels')}")


def coupling(model: nn.Module, inputs: Inputs, *, inner: bool = False) -> Coupling:
    """The groups of channels of a model, from one forward pass of a copy in evaluation mode on the CPU.

    Args:
        model: is not changed.
        inputs: an example, best of two samples or more.
        inner: where an axis is split into two (heads x width), channels are along the second one, not the first.

    Raises:
        Unfit: the model cannot be copied or called so, or returns no tensor.
    """
    if any(is_lazy(value) for value in [*model.parameters(), *model.buffers()]):
        raise Unfit("some parameters have no size yet: call the model once first")
    base = copied(model)
    passed_over: dict[int, int] = {}
    while True:
        trace = Trace(rule_of, inner, passed_over)
        tensors = _leaves(base, trace)
        _run(base, inputs.to("cpu").copied(), trace)
        further = [number for number in trace.taken_apart if passed_over.get(number, 0) < _MOST_PASSED_OVER]
        if not further:
            break
        for number in further:
            passed_over[number] = passed_over.get(number, 0) + 1
    unused = _unused(trace, tensors)
    found = tuple(_groups(trace, tensors))
    doubtful = _doubtful(found, unused)
    groups = tuple(group for group in found if group.name not in doubtful)
    return Coupling(groups, {**_refusals(tensors, trace, found, doubtful), **doubtful})


def _unused(trace: Trace, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Freeze what the forward pass does not use: who knows what it belongs to.

    Returns:
        The weights among them.
    """
    unused = {name: tensor for name, tensor in tensors.items() if id(tensor) not in trace.seen}
    for tensor in unused.values():
        for axis in trace.axes(tensor):
            trace.labels.freeze(axis, "this forward pass does not use it")
    return {name: tensor for name, tensor in unused.items() if tensor.dim() > 1}


def _doubtful(groups: tuple[Group, ...], unused: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Groups that a layer may take part in which is used with other inputs only (an expert, a head for training), by
    its sizes, and the reason to leave them whole."""
    reasons = {}
    for group in groups:
        sizes = {place.size for place in group.places}
        other = next((name for name, tensor in unused.items() if sizes.intersection(tensor.shape[:2])), None)
        if other is not None:
            reasons[group.name] = (
                f"{layer_of(other)}, which is not used with the example inputs, may belong to it; "
                "give inputs that use all layers"
            )
    return reasons


def _run(model: nn.Module, inputs: Inputs, trace: Trace) -> None:
    for tensor in tensors_in([inputs.args, dict(inputs.kwargs)]):
        trace.put(tensor, [trace.labels.fixed(size) for size in tensor.shape])
    try:
        with plain_operations(), trace:
            result = inputs.call(model)
    except Exception as error:
        raise Unfit(f"the model fails with the example inputs: {said(error)}") from error
    results = list(tensors_in(result))
    if not results:
        raise Unfit(f"the model returns {type(result).__name__}, in which no tensor is found")
    for tensor in results:
        for axis in trace.axes(tensor):
            trace.labels.freeze(axis, "it is an output of the model")


def _leaves(model: nn.Module, trace: Trace) -> dict[str, torch.Tensor]:
    """Parameters and buffers by their first names, each with new labels."""
    saved = model.state_dict(keep_vars=True)
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        tensors[name] = tensor
        trace.put(tensor, [trace.labels.fresh(size) for size in tensor.shape])
        if reason := _unusual(tensor) or ("" if name in saved else "it is not in the state_dict"):
            for axis in trace.axes(tensor):
                trace.labels.freeze(axis, reason)
    trace.seen.clear()
    return tensors


def _unusual(tensor: torch.Tensor) -> str:
    if tensor.layout != torch.strided:
        return "it is sparse"
    if tensor.is_complex():
        return "it is complex"
    return "it is quantised" if tensor.is_quantized else ""


def _groups(trace: Trace, tensors: Mapping[str, torch.Tensor]) -> Iterator[Group]:
    labels = trace.labels
    found: dict[int, dict[Place, Indices]] = defaultdict(dict)
    for name, tensor in tensors.items():
        for number, axis in enumerate(trace.axes(tensor)):
            for root, indices in _by_root(labels, axis):
                found[root][Place(name, number, len(axis))] = indices
    alike: dict[tuple[tuple[Place, int], ...], list[int]] = defaultdict(list)
    for root, of in found.items():
        if len(of) > 1:
            alike[tuple((place, len(indices)) for place, indices in of.items())].append(root)
    taken: dict[str, int] = defaultdict(int)
    for signature, roots in alike.items():
        places = tuple(place for place, _ in signature)
        if len(roots) == 1 and all(found[roots[0]][place].size == place.size for place in places):
            continue  # one channel that is all there is
        members = tuple(np.stack([found[root][place] for root in roots]) for place in places)
        name = _maker(places, trace, tensors)
        taken[name] += 1
        title = name if taken[name] == 1 else f"{name} {taken[name]}"
        yield Group(title, places, members, _restated(trace, roots))


def _by_root(labels: Labels, axis: Label) -> Iterator[tuple[int, Indices]]:
    """The free roots of an axis and the indices of each."""
    places = np.flatnonzero(labels.is_free(axis))
    roots = labels.roots(axis[places])
    order = np.argsort(roots, kind="stable")
    found, starts = np.unique(roots[order], return_index=True)
    for root, indices in zip(found, np.split(places[order], starts[1:])):
        yield int(root), indices


def _restated(trace: Trace, roots: list[int]) -> dict[int, tuple[int, Indices]]:
    found = {}
    for number, (axis, place) in trace.restated.items():
        of = dict(_by_root(trace.labels, axis))
        if roots[0] in of:
            found[number] = (place, np.stack([of[root] for root in roots]))
    return found


def _maker(places: tuple[Place, ...], trace: Trace, tensors: Mapping[str, torch.Tensor]) -> str:
    """The layer whose outputs they are: the first one to be used whose weight has them along its first axis, or which
    looks them up."""
    weights = [
        place
        for place in places
        if tensors[place.tensor].dim() > 1 and (place.axis == 0 or id(tensors[place.tensor]) in trace.tables)
    ]
    return layer_of(min(weights or places, key=lambda place: trace.seen[id(tensors[place.tensor])]).tensor)


def layer_of(tensor: str) -> str:
    """The layer that holds a parameter; the parameter's own name where the model holds it itself."""
    return tensor.rpartition(".")[0] or tensor


def _refusals(
    tensors: Mapping[str, torch.Tensor], trace: Trace, groups: tuple[Group, ...], doubtful: Mapping[str, str]
) -> dict[str, str]:
    """Layers that make no group and have a weight that lies in none by its first axis, and why."""
    makers = {_maker(group.places, trace, tensors) for group in groups}
    of = {place.tensor: group.name for group in groups for place in group.places if place.axis == 0}
    refused: dict[str, str] = {}
    for name, tensor in tensors.items():
        if tensor.dim() < 2 or layer_of(name) in makers or (name in of and of[name] not in doubtful):
            continue
        reasons = [trace.labels.why(int(label)) for label in trace.axes(tensor)[0][:1]]
        reason = doubtful.get(of.get(name, "")) or next(iter(reasons), "") or "all its outputs hang together"
        refused.setdefault(layer_of(name), reason)
    return refused
