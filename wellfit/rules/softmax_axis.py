"""Which axis a softmax at the model's end sums over, and which one the loss takes for the classes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from wellfit.record import Graph, Loss, Node
from wellfit.rules import wiring

_VIEWS = ("View", "Reshape", "UnsafeView")
_BETWEEN = ("Log", "Add", "Clamp", "Index", "IndexSelect", "Slice")  # each number by itself, or some of the samples
_TELLING = ("kl_div", "binary_cross_entropy", "mse_loss")


@dataclass(frozen=True)
class Axis:
    """A softmax over another axis than that of the classes.

    Args:
        node: of the softmax.
        shape: of what it was given.
        axis: that it sums over, from 0; `classes` is the one it should.
        certain: the loss itself says which axis the classes are on.
    """

    node: Node
    shape: tuple[int, ...]
    axis: int
    classes: int
    certain: bool


def wrong_axis(graph: Graph, loss: Loss, prediction: Node) -> Axis | None:
    """The softmax or log_softmax that gave a loss its prediction, if it sums over the wrong axis; else None.

    Only where shapes leave no doubt which axis of the softmax is which axis of the prediction: none between them that
    changes the order of axes, and no two axes of the same length to be exchanged (scores of all pairs in a batch are
    normalised along either).

    Args:
        prediction: node of what the loss was given.
    """
    viewed, node = _softmax(graph, prediction)
    given = loss.prediction_shape
    if node is None or node.dim is None or not node.shapes or not given or len(given) < 2:
        return None
    shape = node.shapes[0]
    if not -len(shape) <= node.dim < len(shape):
        return None
    axis = node.dim % len(shape)
    classes = _class_axis(loss, shape, viewed)
    if classes is None or axis == classes or shape[axis] == shape[classes]:
        return None
    return Axis(node, shape, axis, classes, loss.function == "nll_loss")


def _softmax(graph: Graph, node: Node) -> tuple[bool, Node | None]:
    """The first softmax at or below a node, and whether it is seen through a view; None behind anything else."""
    viewed = False
    for _ in range(8):
        if wiring.function_of(node) in ("softmax", "log_softmax"):
            return viewed, node
        inputs = graph.inputs(node.id)
        view = node.op.startswith(_VIEWS)
        if len(inputs) != 1 or not (view or node.op.partition("Backward")[0] in _BETWEEN):
            break
        viewed = viewed or view
        node = inputs[0]
    return viewed, None


def _class_axis(loss: Loss, shape: tuple[int, ...], viewed: bool) -> int | None:
    """The axis of the softmax's input that the loss takes for the classes; None where that cannot be told."""
    given = loss.prediction_shape or ()
    if loss.function != "nll_loss" and not (loss.function in _TELLING and len(given) == 2 == len(shape)):
        return None
    if not viewed:
        # The length of a batch may change; that of the other axes tells that nothing was cut out or put together.
        return 1 if len(shape) == len(given) and shape[1:] == given[1:] else None
    same = len(given) == 2 and shape[-1:] == given[1:] and math.prod(shape[:-1]) == given[0]
    return len(shape) - 1 if same else None
