"""RNN706: batch and time are taken for one another."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from typing import ClassVar

from wellfit.finding import Finding, Fix
from wellfit.record import Graph, Layer, Node, Record
from wellfit.rule import Family, Rule
from wellfit.rules.wiring import early_graphs, is_dropout
from wellfit.source import source_of

_TAKING_TIME = ("recurrent", "attention")
_SEQUENCES = ("RNN", "LSTM", "GRU")
_IN_PLACE = ("NativeLayerNorm", "Relu", "Tanh", "LeakyRelu", "Gelu", "Elu", "Silu")


class BatchAxis(Rule):
    """A layer, an index or a view takes the samples of a batch for the moments of a sequence, or the other way round.

    What it checks
    For recurrent and attention layers: the axis that the layer takes for time is as long as the batch (of the target
    that the loss is given, or of the DataLoader), and the axis that it takes for the batch is not. For an index -1 on
    the output of a recurrent layer: whether it takes the last sample of the batch and not the last moment. For a view
    or reshape whose result begins with the second axis of what it was given, (time, batch, ...) read as (batch, ...):
    only a transposition does that. In all of them both lengths are `shortest` at least.

    Why it hurts
    The samples of a batch, which have nothing to do with one another, are mixed: each answer depends on what else
    happens to be in the batch, and nothing flows along the sequence. Shapes fit, so nothing else tells.

    Cure
    Make the layer with `batch_first=True` where data come as (batch, time, features); take `out[:, -1]` of such a layer
    for the last moment; exchange axes with `transpose` or `permute`, never with `view`.

    Fix safety
    The program means something else afterwards: what it was meant to.

    When it is wrong
    Attention between the samples of a batch, where it is meant, looks the same.

    References
    PyTorch documentation, nn.LSTM and nn.MultiheadAttention, argument `batch_first`.
    """

    code = "RNN706"
    name = "batch-axis"
    family: ClassVar[Family] = "recurrent"
    summary = "batch and time axis exchanged: samples of a batch are mixed"
    reads = ("layer.input_shape", "loss.target_shape", "graph", "loader")
    consequences = (
        "batch-leak",
        "plateau",
        "output-collapse",
        "rank-collapse",
        "forgets",
        "recurrent-explode",
        "gates-stuck",
        "vanishing",
        "overfit",
        "underfit",
        "diverged",
        "lr-high",
        "lr-low",
        "label-noise",
    )
    fixes = (Fix("Give the layer its axes in the order it expects, or say batch_first=True"),)

    shortest: int = 2  # samples and moments; an axis of length 1 says nothing

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        class Rows(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.lstm = nn.LSTM(8, 32)
                self.head = nn.Linear(32, 10)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                out, _ = self.lstm(x)
                return self.head(out[:, -1])  # type: ignore[no-any-return]

        torch.manual_seed(0)
        images, labels = load_digits(return_X_y=True)
        x, y = torch.tensor(images / 16.0).float().view(-1, 8, 8), torch.tensor(labels)
        model = Rows()
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _epoch in range(3):
            for batch in torch.randperm(1400).split(50):
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        class Rows(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.lstm = nn.LSTM(8, 32)
                self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
                self.head = nn.Linear(32, 10)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                out, _ = self.lstm(x.transpose(0, 1))
                out = out.transpose(0, 1)
                out = out + self.attention(out, out, out)[0]
                return self.head(out[:, -1])  # type: ignore[no-any-return]

        torch.manual_seed(0)
        images, labels = load_digits(return_X_y=True)
        x, y = torch.tensor(images / 16.0).float().view(-1, 8, 8), torch.tensor(labels)
        model = Rows()
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _epoch in range(3):
            for batch in torch.randperm(1400).split(50):
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        layers = {name: layer for name, layer in record.layers.items() if layer.kind in _TAKING_TIME}
        turned = [finding for layer in layers.values() for finding in self._turned(record, layer)]
        yield from turned[:1]
        if turned:
            return
        seen = set()
        for graph in early_graphs(record):
            for node in graph.nodes:
                found = self._last_sample(graph, node, layers) or self._viewed(record, graph, node)
                if found is not None and found.location not in seen:
                    seen.add(found.location)
                    yield found

    # A layer --------------------------------------------------------------------------------------------------------

    def _turned(self, record: Record, layer: Layer) -> Iterator[Finding]:
        """The layer takes the batch for time."""
        first, shape = layer.attributes.get("batch_first"), layer.input_shape
        if not isinstance(first, bool) or shape is None or layer.order < 0:
            return
        if len(shape) == 2 and layer.class_name in _SEQUENCES:
            yield from self._unbatched(record, layer, shape[0])
        if len(shape) != 3 or min(shape[:2]) < self.shortest or shape[0] == shape[1]:
            return
        time, batch = (shape[1], shape[0]) if first else (shape[0], shape[1])
        if batch % time == 0 or not _as_in_training(record, layer):
            return
        root = record.layers.get(layer.root)
        known = root.input_shape if root is not None else None
        if known is not None and len(known) >= 2 and time not in known[:2]:
            return  # as long as the batch by chance: the model itself was given no axis of this length
        if time not in _batch_sizes(record, (time, batch)):
            return
        expects = "(batch, time, features)" if first else "(time, batch, features)"
        cure = "transpose its input, or leave batch_first out" if first else "make it with batch_first=True"
        yield self.finding(
            f"`{layer.name}` takes the {time} samples of a batch for {time} moments of a sequence: it expects "
            f"{expects} and is given {_tuple(shape)}, so samples are mixed and nothing flows along the sequence; "
            f"{cure}",
            severity="error", step=0, layer=layer.name, location=layer.location,
            evidence={"batch": time, "time": batch, "batch_first": int(first)},
        )  # fmt: skip

    def _unbatched(self, record: Record, layer: Layer, length: int) -> Iterator[Finding]:
        """Two axes are one sequence without a batch: rows of a shuffled batch are no sequence."""
        shuffled = [loader for loader in record.loaders.values() if loader.shuffle and loader.batch_size == length]
        if length < self.shortest or not shuffled or _target_size(record) != length:
            return
        yield self.finding(
            f"`{layer.name}` takes the {length} samples of a shuffled batch for one sequence of {length} moments: "
            "given two axes it has no batch, so samples are mixed; give it (batch, time, features), with a time axis "
            "of 1 if need be, and batch_first=True",
            severity="error", step=0, layer=layer.name, location=layer.location, evidence={"batch": length},
        )  # fmt: skip

    # An index -------------------------------------------------------------------------------------------------------

    def _last_sample(self, graph: Graph, node: Node, layers: dict[str, Layer]) -> Finding | None:
        """`out[-1]` of a layer that is batch_first, or `out[:, -1]` of one that is not."""
        if not node.op.startswith("Select") or node.function != "__getitem__" or node.location is None:
            return None
        given = [_below_units(graph, below) for below in graph.inputs(node.id)]
        layer = layers.get(given[0].layer or "") if len(given) == 1 else None
        if layer is None or layer.kind != "recurrent" or node.layer == layer.name or layer.input_shape is None:
            return None
        first, shape = layer.attributes.get("batch_first"), node.shapes[0] if node.shapes else ()
        # The final state has other lengths: (layers, batch, units).
        if not isinstance(first, bool) or len(shape) != 3 or shape[:2] != layer.input_shape[:2]:
            return None
        if min(shape[:2]) < self.shortest or len(graph.consumers(given[0].id)) != 1:
            return None
        axis = 0 if first else 1
        if _axes_of_last(node.location.file, node.location.line) != {axis}:
            return None
        right = "out[:, -1]" if first else "out[-1]"
        return self.finding(
            f"the index takes the last of {shape[axis]} samples of the batch from the output of `{layer.name}`, not "
            f"the last of {shape[1 - axis]} moments, so all answers come from one sample; take `{right}` instead",
            severity="error", step=graph.step, layer=layer.name, location=node.location,
            evidence={"batch": shape[axis], "time": shape[1 - axis], "batch_first": int(first)},
        )  # fmt: skip

    # A view ---------------------------------------------------------------------------------------------------------

    def _viewed(self, record: Record, graph: Graph, node: Node) -> Finding | None:
        """(time, batch, ...) read as (batch, time, ...) by a view, which scrambles both."""
        if node.function not in ("view", "reshape") or not node.shapes or len(node.shapes[0]) < 3:
            return None
        first, second, *rest = node.shapes[0]
        if min(first, second) < self.shortest or first == second or _target_size(record) not in (first, second):
            return None
        size, whole = math.prod(node.shapes[0]), first * math.prod(rest)
        shapes = [shape for user in graph.consumers(node.id) for shape in user.shapes if math.prod(shape) == size]
        for shape in shapes:
            turned = shape[:2] == (second, first)
            flattened = shape == (second, whole) and _target_size(record) == second
            if turned or flattened:
                return self.finding(
                    f"a {node.function} makes {_tuple(shape)} of {_tuple(node.shapes[0])}: that does not exchange the "
                    "axes but reads the numbers in another order, so samples are mixed; use transpose or permute "
                    "before it",
                    severity="error", step=graph.step, layer=node.layer, location=node.location,
                    evidence={"first": first, "second": second},
                )  # fmt: skip
        return None


def _target_size(record: Record) -> int | None:
    """The length of the batch as the targets of the training losses have it, if they agree; None if they do not."""
    found = {loss.target_shape[0] for loss in record.losses.values() if loss.training and loss.target_shape}
    return found.pop() if len(found) == 1 else None


def _batch_sizes(record: Record, axes: tuple[int, int]) -> set[int]:
    """The lengths that are surely the batch's, of two axes (time, batch) as a layer takes them."""
    sizes = {loader.batch_size for loader in record.loaders.values() if loader.batch_size is not None}
    # A loader whose batches are as long as the other axis speaks for the layer.
    known = {size for size in sizes if size == axes[0]} if axes[1] not in sizes else set()
    trained = [loss for loss in record.losses.values() if loss.training]
    size = _target_size(record)
    if size == axes[1]:
        return set()  # so does the target: a part of a loader's batch
    # A target of (time, batch) may begin with either: only one that has no such pair tells.
    shapes = [shape for loss in trained for shape in (loss.target_shape, loss.prediction_shape) if shape]
    if size is not None and not any(axes[1] in shape[1:] for shape in shapes):
        known.add(size)
    return known


def _as_in_training(record: Record, layer: Layer) -> bool:
    """Whether what a layer was first given has the shape of what it is given in training, where that is known: a
    program may try its model on made-up numbers before."""
    seen = [
        node.shapes[0]
        for graph in early_graphs(record)
        for node in graph.nodes
        if node.layer == layer.name and node.shapes and len(node.shapes[0]) == 3
    ]
    # multi_head_attention_forward is given (time, batch, features), whatever the layer takes.
    given = layer.input_shape or ()
    return not seen or any(sorted(shape[:2]) == sorted(given[:2]) for shape in seen)


def _below_units(graph: Graph, node: Node) -> Node:
    """The node below those that keep each number in its place: activations, dropout, norms over features."""
    for _ in range(10):
        inputs = [below for below in graph.inputs(node.id) if below.op != "AccumulateGrad"]
        if len(inputs) != 1 or not (node.op.startswith(_IN_PLACE) or is_dropout(node)):
            break
        node = inputs[0]
    return node


def _axes_of_last(file: str, line: int) -> set[int]:
    """The axes on which a line of the program takes the last element: 0 of `out[-1]`, 1 of `out[:, -1]`."""
    source = source_of(file)
    if source is None:
        return set()
    axes = set()
    for node in source.nodes(ast.Subscript, line):
        index = node.slice
        if _is_last(index):
            axes.add(0)
        elif isinstance(index, ast.Tuple) and len(index.elts) >= 2:
            if _is_last(index.elts[0]) and all(map(_is_all, index.elts[1:])):
                axes.add(0)
            elif _is_all(index.elts[0]) and _is_last(index.elts[1]):
                axes.add(1)
    return axes


def _is_last(index: ast.expr) -> bool:
    return (
        isinstance(index, ast.UnaryOp)
        and isinstance(index.op, ast.USub)
        and isinstance(index.operand, ast.Constant)
        and index.operand.value == 1
    )


def _is_all(index: ast.expr) -> bool:
    return isinstance(index, ast.Slice) and index.lower is None and index.upper is None and index.step is None


def _tuple(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(str(length) for length in shape) + ")"
