"""Layers that run in training, belong to an optimizer, and are cut off from the loss."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

import numpy as np

from wellfit.condition import condition
from wellfit.finding import Finding, Fix, Location
from wellfit.record import Cut, Graph, Layer, Parameter, Record
from wellfit.rule import Rule
from wellfit.rules.fitness import settled
from wellfit.rules.fresh import all_new
from wellfit.rules.layering import first_backward
from wellfit.rules.leaf_losses import new_root, starved, without_gradient
from wellfit.source import called, leaf_made, source_of

# How a call that cuts the graph is written.
_WRITTEN = {"detach_": ("detach",), "numpy": ("numpy", "array"), "__array__": ("np.", "array"), "data": (".data",)}
_WEIGHTED = ("linear", "recurrent", "attention")
_SWITCHES = ("no_grad", "inference_mode", "set_grad_enabled")


class Detached(Rule):
    """A cut in the autograd graph keeps the gradient from layers that should learn.

    What it checks
        Layers that ran with gradient in training and whose parameters an optimizer holds, while no loss's graph reaches
        them and they have no gradient after `patience` steps. With a call that cut the graph (`detach`, `.data`,
        `numpy`) it is an error; without one (a result that is not used, a forward under no_grad) these layers must come
        before all that learns, and it is an error if the run is not doing its job, or if it ends with all of their
        weights as they were drawn at random; else a note. Layers that only ever ran under no_grad are judged at the
        end of the run, by the same signs. If no parameter of any optimizer ever had a gradient, and backward is called
        on a tensor made anew (`torch.tensor(value, requires_grad=True)`), or all that is computed begins at one, that
        is an error.

    Why it hurts
        These layers stay at their random start for ever; what comes after has to make do with random features. The loss
        often falls all the same, only less.

    Cure
        Take the `detach`, `.data`, `.numpy()` or `no_grad` out of the way between these layers and the loss; if the
        layers are meant to be frozen, leave their parameters out of the optimizer.

    Fix safety
        The program learns more than before: judge it by a run from the start.

    When it is wrong
        Targets, teachers and the generator in a discriminator's step are detached on purpose: parameters that get a
        gradient from any loss, or that no optimizer holds, are left out; so are copies, under no_grad, of layers that
        learn, and programs that optimise tensors of no module.

    References
        PyTorch documentation, Autograd mechanics: locally disabling gradient computation.
    """

    code = "FWD308"
    name = "detached"
    family = "forward"
    summary = "layers that should learn are cut off from the loss"
    reads = ("graph", "event.no-gradient", "event.leaf-loss", "activation")
    consequences = (
        "zero-grad-param",
        "never-updated",
        "plateau",
        "lr-low",
        "output-collapse",
        "rank-collapse",
        "forgets",
        "label-noise",
    )
    fixes = (Fix("Take the call that cuts the graph out of forward"),)

    patience: int = 3  # steps without gradient
    certain: int = 50  # steps after which parameters that had no gradient so far are not expected to get one
    smallest_share: float = 0.5  # of a layer's parameters that must be without gradient

    @staticmethod
    def sick() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(128, 8)
        y = (x[:, 0] > 0).long()
        encoder = nn.Linear(8, 16)
        head = nn.Linear(16, 2)
        optimizer = torch.optim.SGD([*encoder.parameters(), *head.parameters()], lr=0.1)
        for _ in range(40):
            features = torch.tanh(encoder(x))
            features = features.detach()
            loss = nn.functional.cross_entropy(head(features), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(128, 8)
        y = (x[:, 0] > 0).long()
        encoder = nn.Linear(8, 16)
        head = nn.Linear(16, 2)
        optimizer = torch.optim.SGD([*encoder.parameters(), *head.parameters()], lr=0.1)
        for _ in range(40):
            features = torch.tanh(encoder(x))
            loss = nn.functional.cross_entropy(head(features), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        if record.step_count < self.patience:
            return
        yield from self._all_cut_off(record)
        if not record.graphs:
            return
        missing = without_gradient(record)
        reached = {name for graph in record.graphs for name in graph.parameters()}
        if not reached:
            return
        layers = [layer for layer in record.layers.values() if self._is_cut_off(record, layer, missing, reached)]
        if not layers:
            yield from self._never_in_a_graph(record, missing, reached)
            return
        layers = _of_one_loop(record, layers, reached)
        names = {layer.name for layer in layers}
        cut = _nearest_cut(record, names, reached, _own_graphs(record, layers))
        learning = _learning(record, reached)
        in_front = bool(learning) and max(layer.order for layer in layers) < min(learning)
        before = bool(learning) and layers[0].order < max(learning)
        if not before or (cut is None and not in_front):
            return  # a branch whose result no loss uses: not a cut
        count = sum(len(layer.parameters) for layer in layers)
        how = condition(record)
        what = f"`{cut.function}` cuts the graph after it" if cut else "nothing leads back to it from the loss"
        others = f" and {len(layers) - 1} more layers get" if len(layers) > 1 else " gets"
        yield self.finding(
            f"`{layers[0].name}`{others} no gradient: {what}, so {count} parameters that an optimizer holds stay at "
            "their random start; take the cut out, or leave them out of the optimizer if they are meant to be frozen",
            severity="error" if cut is not None or how.ill or _stayed_random(record, layers) else "note",
            step=self.patience,
            layer=layers[0].name,
            location=cut.location if cut else layers[-1].location,
            evidence={
                "parameters": count,
                "layers": [layer.name for layer in layers[:20]],
                "function": cut.function if cut else "",
            },
        )

    def _all_cut_off(self, record: Record) -> Iterator[Finding]:
        """No parameter at all: backward begins at a new tensor, or its graph ends at one that is no parameter."""
        number = starved(record)
        root = new_root(record, self.patience) if number else None
        if root is None:
            return
        cut = next((each for each in reversed(root.cuts) if each is not None), None)
        caller = record.backward_sites[root.site].location if root.site in record.backward_sites else None
        where = f" (the graph is cut at line {cut.line})" if cut is not None else ""
        yield self.finding(
            f"{root.said} a new tensor that has no history{where}: no gradient flows back to the model, so all "
            f"{number} parameters of the optimizer stay as they are; compute the loss by torch from the model's "
            "output, without numpy, torch.tensor or detach in between",
            severity="error",
            step=self.patience,
            location=root.made or leaf_made(caller) or caller,
            evidence={"parameters": number, **({"cut_at_line": cut.line} if cut is not None else {})},
            sure=settled(record, self.certain),
        )

    def _never_in_a_graph(self, record: Record, missing: set[str], reached: set[str]) -> Iterator[Finding]:
        """Layers under no_grad: nothing was measured of them, so only the end of the run tells that they are random."""
        first = min(_learning(record, reached), default=-1)
        layers = [
            layer
            for layer in record.layers.values()
            if layer.kind in _WEIGHTED
            and 0 <= layer.order < first
            and (held := _trainable(record, layer))
            and all(one.name in missing and one.name not in reached for one in held)
        ]
        if not layers or not _stayed_random(record, layers) or _has_twin(record, layers, reached):
            return
        count = sum(len(_trainable(record, layer)) for layer in layers)
        others = f" and {len(layers) - 1} more layers run" if len(layers) > 1 else " runs"
        yield self.finding(
            f"`{layers[0].name}`{others} without gradient (no_grad) before all that learns, so {count} parameters that "
            "an optimizer holds were still random when the run ended; take the no_grad away, or load trained weights "
            "and leave them out of the optimizer",
            severity="error", step=self.patience, layer=layers[0].name,
            location=_without_grad(record, layers[0]) or layers[-1].location,
            evidence={"parameters": count, "layers": [layer.name for layer in layers[:20]], "function": "no_grad"},
        )  # fmt: skip

    def _is_cut_off(self, record: Record, layer: Layer, missing: set[str], reached: set[str]) -> bool:
        held = [parameter.name for parameter in _trainable(record, layer)]
        if not held or layer.order < 0 or reached & set(held):
            return False
        # Statistics of its output are taken with gradient only: a target network under no_grad has none.
        ran = layer.kind in ("other", "container") or len(record.series("activation", layer.name)) > 0
        return ran and sum(name in missing for name in held) > self.smallest_share * len(held)


def _of_one_loop(record: Record, layers: list[Layer], reached: set[str]) -> list[Layer]:
    """Those held by an optimizer that also holds what learns, if any are: of other models no graph may have been seen.

    Members of an ensemble are trained one after the other, each with an optimizer of its own.
    """
    seen = {record.parameters[name].optimizer for name in reached if name in record.parameters} - {None}
    own = [layer for layer in layers if {one.optimizer for one in _trainable(record, layer)} & seen]
    return own or layers


def _learning(record: Record, reached: set[str]) -> list[int]:
    """The places in the order of the forward pass of all layers that a gradient reaches.

    A parameter that several layers share (a tied head) gets its gradient at the last of them, for all that is known.
    """
    last: dict[str, int] = {}
    ran = [layer for layer in record.layers.values() if layer.order >= 0]
    for layer in ran:
        for name in reached & set(layer.parameters):
            last[name] = max(last.get(name, 0), layer.order)
    return [layer.order for layer in ran if any(last.get(name) == layer.order for name in layer.parameters)]


def _stayed_random(record: Record, layers: Sequence[Layer]) -> bool:
    """Whether a run has ended and these layers still have weights that nobody ever trained or loaded."""
    parameters = [record.parameters[name] for layer in layers for name in layer.parameters if name in record.parameters]
    weights = [parameter for parameter in parameters if len(parameter.shape) >= 2]
    return record.finished and all_new(record, weights)


def _trainable(record: Record, layer: Layer) -> list[Parameter]:
    """The parameters of a layer that an optimizer holds and may change."""
    parameters = [record.parameters[name] for name in layer.parameters if name in record.parameters]
    return [one for one in parameters if one.requires_grad and one.optimizer is not None]


def _has_twin(record: Record, layers: Sequence[Layer], reached: set[str]) -> bool:
    """Whether each weight has one of the same name and shape elsewhere that learns: copies (of a teacher) follow it."""
    learning = {(_end(name), record.parameters[name].shape) for name in reached if name in record.parameters}
    weights = [record.parameters[name] for layer in layers for name in layer.parameters if name in record.parameters]
    return all((_end(weight.name), weight.shape) in learning for weight in weights if len(weight.shape) >= 2)


def _end(name: str) -> str:
    return ".".join(name.split(".")[-2:])


def _without_grad(record: Record, layer: Layer) -> Location | None:
    """The `with torch.no_grad():` in which the user calls this layer, or a module that holds it."""
    words = {word for word in layer.name.split(".") if not word.isdigit()}
    backward = first_backward(record)
    places = [record.process.get("main_file"), layer.location.file if layer.location else None]
    for source in filter(None, map(source_of, dict.fromkeys(places))):
        lines = [
            block.lineno
            for block in source.nodes(ast.With)
            if any(isinstance(item.context_expr, ast.Call) and called(item.context_expr) in _SWITCHES
                   for item in block.items)
            and any(isinstance(node, ast.Call) and called(node) in words for each in block.body
                    for node in ast.walk(each))
        ]  # fmt: skip
        # In a script the block that counts comes before backward; evaluations come after it.
        before = [line for line in lines if backward is None or line <= backward.line or backward.file != source.file]
        if lines:
            return Location(source.file, max(before, default=min(lines)))
    return None


def _own_graphs(record: Record, layers: Sequence[Layer]) -> list[Graph]:
    """The graphs of the backward calls before the steps of the optimizers that hold these layers; all if none is known.

    A discriminator's step detaches what the generator made, rightly: the cut that counts lies in the generator's own.
    """
    holders = {one.optimizer for layer in layers for one in _trainable(record, layer)}
    steps = record.steps
    own = set(steps["step"][np.isin(steps["a"], [one for one in holders if one is not None])].tolist())
    return [graph for graph in record.graphs if graph.step in own] or record.graphs


def _nearest_cut(record: Record, unreached: set[str], reached: set[str], own: Sequence[Graph]) -> Cut | None:
    """The call that most likely cut these layers off: the last one that took their result."""
    graphs = own if any(graph.cuts for graph in own) else record.graphs
    every = [cut for graph in graphs[:4] for cut in graph.cuts if cut.location]
    # A result of a layer that learns may be detached for other ends: a baseline, an accuracy.
    learning = {each.name for each in record.layers.values() if reached & set(each.parameters)}
    cuts = [cut for cut in every if _is_written(cut) and cut.layer not in learning]
    through = [cut for cut in cuts if cut.function not in ("detach", "detach_")]
    within = [cut for cut in cuts if cut.layer in unreached or _holds_only(record, cut.layer, unreached)]
    found = next((some[-1] for some in (within, through) if some), cuts[0] if cuts else None)
    return found if found is None or graphs is own else _written_cut(record, own) or found


def _written_cut(record: Record, own: Sequence[Graph]) -> Cut | None:
    """The detach written between the backward call before and that of these graphs.

    What is called between a backward call and the next forward is not recorded: `fake.detach()` in `d(fake.detach())`.
    """
    sites = record.backward_sites
    ends = {site.location for graph in own if (site := sites.get(graph.backward or 0)) and site.location}
    end = next(iter(ends)) if len(ends) == 1 else None
    source = source_of(end.file) if end is not None else None
    if source is None or end is None:
        return None
    others = [site.location.line for site in sites.values() if site.location and site.location.file == end.file]
    begin = max((line for line in others if line < end.line), default=None)
    function = max((node.lineno for node in source.nodes(ast.FunctionDef, end.line)), default=0)
    if begin is None or begin < function:
        return None
    calls = [call for call in source.calls(["detach", "detach_"]) if begin < call.lineno <= end.line]
    return Cut(called(calls[-1]), Location(end.file, calls[-1].lineno)) if calls else None


def _holds_only(record: Record, container: str | None, unreached: set[str]) -> bool:
    """Whether all layers with parameters inside a container are cut off."""
    if container is None:
        return False
    inside = [each.name for each in record.layers.values() if each.parameters and each.name.startswith(container + ".")]
    return bool(inside) and all(name in unreached for name in inside)


def _is_written(cut: Cut) -> bool:
    """Whether the cut's line names its function: what a hook does at that moment is not written there.

    True where the source cannot be read.
    """
    place = cut.location
    if place is None:
        return False
    line = source.line(place.line) if (source := source_of(place.file)) is not None else ""
    return not line or any(word in line for word in _WRITTEN.get(cut.function, (cut.function,)))
