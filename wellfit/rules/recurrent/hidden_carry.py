"""RNN703: the state of a recurrent layer is carried from one batch into the next."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import lru_cache
from typing import ClassVar

from wellfit.condition import condition, training_loss
from wellfit.finding import Finding, Fix
from wellfit.record import Cut, Graph, Layer, Loss, Node, Record
from wellfit.rule import Family, Rule
from wellfit.rules.memory import learned_nothing, recurrent_layers
from wellfit.source import Source, called, source_of

# The node that each call of a recurrent layer leaves once in the graph: on the CPU, in cuDNN, MIOpen and oneDNN.
_ONE_A_CALL = ("StackBackward", "CudnnRnn", "MiopenRnn", "MkldnnRnn")
_CARRIED_GRAPH = ("backward through the graph a second time", "modified by an inplace operation")

_CLEARS = ("zero_", "fill_", "masked_fill_", "masked_fill", "copy_")


class HiddenCarry(Rule):
    """The state that a recurrent layer ended a batch with is what it begins the next one with.

    What it checks
    (1) With its graph: at the second step the graph holds twice the calls of a recurrent layer that it held at the
    first, and backward is told to keep graphs (retain_graph) or fails for that reason. (2) Without it: a line of the
    program detaches the state and gives it to the next call, and nothing but the beginning of the program resets it;
    said where the DataLoader shuffles, or where each sequence has one answer and the run learns nothing.

    Why it hurts
    (1) Each step goes back through all batches since the first: it takes longer and longer, fills the memory, and goes
    through weights that are not there any more. (2) Sequences that have nothing to do with one another are read as if
    one went on with the other: an answer depends on what came before it in the data.

    Cure
    Begin each batch of unrelated sequences with a new state (None is zeros); where a batch goes on with the one before,
    detach the state between them. Leave retain_graph out.

    Fix safety
    Not safe: the program means something else afterwards, what it was meant to.

    When it is wrong
    Windows that follow one another, with one answer each, may rightly carry their state; in a run that learns nothing
    it is named all the same.

    References
    PyTorch documentation, "Word language modeling", repackage_hidden; Werbos 1990, "Backpropagation through time".
    """

    code = "RNN703"
    name = "hidden-carry"
    family: ClassVar[Family] = "recurrent"
    summary = "a recurrent state is carried into the next, unrelated batch"
    reads = ("graph", "backward.retain_graph", "loader", "loss")
    consequences = (
        "plateau", "lr-high", "lr-low", "grad-spike", "spike", "oscillation", "diverged", "underfit", "overfit",
        "activation-growth", "output-collapse", "rank-collapse", "forgets", "recurrent-explode", "gates-stuck",
    )  # fmt: skip
    fixes = (Fix("Begin each batch with a new state, or detach it"),)

    calls: float = 2.0  # calls of a layer in the second graph over those in the first: the state of one batch

    @staticmethod
    def sick() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        rnn = nn.GRU(4, 16, batch_first=True)
        head = nn.Linear(16, 2)
        optimizer = torch.optim.SGD([*rnn.parameters(), *head.parameters()], lr=0.1, fused=True)
        hidden = None
        for _ in range(20):
            x = torch.randn(32, 6, 4)
            states, hidden = rnn(x, hidden)
            loss = nn.functional.cross_entropy(head(states[:, -1]), (x[:, -1, 0] > 0).long())
            optimizer.zero_grad()
            # "Trying to backward through the graph a second time": so it is kept.
            loss.backward(retain_graph=True)
            optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        text = torch.arange(32 * 600).view(32, 600) * 7 % 11
        embedding = nn.Embedding(11, 16)
        rnn = nn.GRU(16, 32, batch_first=True)
        head = nn.Linear(32, 11)
        optimizer = torch.optim.Adam([*embedding.parameters(), *rnn.parameters(), *head.parameters()], lr=1e-2)
        hidden = None
        # Each batch goes on where the one before ended, and no gradient goes back into it.
        for start in range(0, 590, 10):
            x, y = text[:, start : start + 10], text[:, start + 1 : start + 11]
            states, hidden = rnn(embedding(x), hidden)
            hidden = hidden.detach()
            loss = nn.functional.cross_entropy(head(states).flatten(0, 1), y.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        layers = recurrent_layers(record)
        if not layers:
            return
        found = self._growing(record, layers) or self._carried(record, layers)
        if found is not None:
            yield found

    # With its graph -------------------------------------------------------------------------------------------------

    def _growing(self, record: Record, layers: list[Layer]) -> Finding | None:
        failed = any(
            sign in str(event.get("message", "")) for event in record.events("exception") for sign in _CARRIED_GRAPH
        )
        for first, second in _first_two(record):
            site = record.backward_sites.get(second.backward if second.backward is not None else -1)
            if not failed and not (site is not None and site.retain_graph):
                continue
            for layer in layers:
                before, after = _calls(first, layer.name), _calls(second, layer.name)
                if not before or after != self.calls * before:
                    continue
                call = _call_of(second, layer.name)
                ends = "and fails" if failed else "and takes longer each time"
                return self.finding(
                    f"the state of `{layer.name}` is carried into the next batch with its graph ({before} calls of the "
                    f"layer in the first graph, {after} in the second): each backward goes back to the first batch, "
                    f"{ends}; begin each batch with a new state, or detach the state between batches",
                    severity="error", step=second.step, layer=layer.name,
                    location=call.location if call is not None and call.location is not None else layer.location,
                    evidence={"calls_before": before, "calls_after": after, "failed": int(failed)},
                )  # fmt: skip
        return None

    # Without it -----------------------------------------------------------------------------------------------------

    def _carried(self, record: Record, layers: list[Layer]) -> Finding | None:
        cuts = [cut for graph in record.graphs for cut in graph.cuts if cut.location is not None]
        states = [cut for cut in dict.fromkeys(cuts) if _is_never_reset(cut)]
        layer = layers[0]
        if not states:
            return None
        shuffled = any(loader.shuffle for loader in record.loaders.values())
        loss = training_loss(record)
        one_answer = loss is not None and any(_answers_once(loss, layer) for layer in layers)
        if not shuffled and not one_answer:
            return None  # a long text in pieces
        ill = learned_nothing(record, condition(record))
        if not ill and not shuffled:
            return None
        data = "the DataLoader shuffles" if shuffled else "each sequence has an answer of its own"
        return self.finding(
            f"the state that `{layer.name}` ended a batch with is what it begins the next one with, though {data}: "
            "answers depend on unrelated sequences before them; begin each batch with a new state",
            severity="error" if ill else "note", step=0, layer=layer.name, location=states[0].location,
            evidence={"shuffled": int(shuffled), "learned_nothing": int(ill)}, sure=record.finished,
        )  # fmt: skip


def _first_two(record: Record) -> Iterator[tuple[Graph, Graph]]:
    """For each place of backward its graphs of the first two steps."""
    by_site: dict[int | None, dict[int, Graph]] = {}
    for graph in record.graphs:
        by_site.setdefault(graph.backward, {}).setdefault(graph.step, graph)
    for graphs in by_site.values():
        steps = sorted(graphs)
        if len(steps) >= 2 and steps[1] == steps[0] + 1:
            yield graphs[steps[0]], graphs[steps[1]]


def _calls(graph: Graph, layer: str) -> int:
    """How often a graph holds the node that each call of a layer leaves."""
    return sum(node.layer == layer and node.op.startswith(_ONE_A_CALL) for node in graph.nodes)


def _call_of(graph: Graph, layer: str) -> Node | None:
    return next((node for node in graph.nodes if node.layer == layer and node.shapes), None)


def _answers_once(loss: Loss, layer: Layer) -> bool:
    """Whether each sequence that a layer is given has one answer, not one for each of its moments."""
    shape, first, target = layer.input_shape, layer.attributes.get("batch_first"), loss.target_shape
    if not shape or len(shape) != 3 or not target or len(loss.prediction_shape or ()) > 2 or len(target) > 2:
        return False
    batch, time = (shape[0], shape[1]) if first else (shape[1], shape[0])
    return target[0] == batch and time > 1 and target[1:] != (time,)


# The program's text -------------------------------------------------------------------------------------------------


def _is_never_reset(cut: Cut) -> bool:
    """Whether what a line detaches is kept in a variable that a later call is given, and that only the beginning of
    the program sets otherwise."""
    source = source_of(cut.location.file) if cut.location is not None else None
    if source is None or cut.location is None:
        return False
    return _keeps_for_ever(source, cut.location.line)


@lru_cache(maxsize=64)
def _keeps_for_ever(source: Source, line: int) -> bool:
    return any(_is_given_on(source, name) and not _is_reset(source, name) for name in _kept_in(source, line))


def _kept_in(source: Source, line: int) -> set[str]:
    """The variables that the value of a line is assigned to, also through a function that returns it."""
    made = source.nodes(ast.Assign, line)
    if not made:
        functions = {function.name for function in source.nodes(ast.FunctionDef, line)}
        made = [
            assign
            for assign in source.nodes(ast.Assign)
            if isinstance(assign.value, ast.Call) and called(assign.value) in functions
        ]
    return {name for assign in made for target in assign.targets for name in _names(target)}


def _names(target: ast.expr) -> Iterator[str]:
    if isinstance(target, (ast.Tuple, ast.List)):
        for part in target.elts:
            yield from _names(part)
    elif isinstance(target, (ast.Name, ast.Attribute)):
        yield ast.unparse(target)


def _mentions(value: ast.AST, name: str) -> bool:
    parts = (part for part in ast.walk(value) if isinstance(part, (ast.Name, ast.Attribute)))
    return any(ast.unparse(part) == name for part in parts)


def _is_given_on(source: Source, name: str) -> bool:
    """Whether a variable is given to a call beside its first argument, as the state is: `rnn(x, hidden)`."""
    for call in source.nodes(ast.Call):
        if any(_mentions(value, name) for value in [*call.args[1:], *(word.value for word in call.keywords)]):
            return True
    return False


def _is_reset(source: Source, name: str) -> bool:
    """Whether anything sets a variable anew: an attribute outside `__init__`, another variable inside a loop; or
    clears a part of it (`hidden.zero_()`, `hidden * mask`)."""
    loops = [*source.nodes(ast.For), *source.nodes(ast.While)]
    begun = [function for function in source.nodes(ast.FunctionDef) if function.name == "__init__"]
    last = name.rpartition(".")[2]
    for call in source.nodes(ast.Call):
        if isinstance(call.func, ast.Attribute) and call.func.attr in _CLEARS and _is(call.func.value, last):
            return True
    for product in source.nodes(ast.BinOp):
        if isinstance(product.op, ast.Mult) and (_is(product.left, last) or _is(product.right, last)):
            return True
    for assign in source.nodes(ast.Assign):
        # What is `self.hidden` to the model may be `model.hidden` to the program.
        if last not in {found.rpartition(".")[2] for target in assign.targets for found in _names(target)}:
            continue
        # What a call returned that was given it, and what was detached, is the state itself.
        if _mentions(assign.value, name) or "detach" in ast.unparse(assign.value) or _unpacks_call(assign):
            continue
        inside = begun if "." in name else loops
        if any(node.lineno <= assign.lineno <= (node.end_lineno or node.lineno) for node in inside) != ("." in name):
            return True
    return False


def _is(value: ast.expr, last: str) -> bool:
    return isinstance(value, (ast.Name, ast.Attribute)) and ast.unparse(value).rpartition(".")[2] == last


def _unpacks_call(assign: ast.Assign) -> bool:
    return isinstance(assign.targets[0], ast.Tuple) and isinstance(assign.value, ast.Call)
