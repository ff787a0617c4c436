"""The autograd graph of one loss, as it was just before its backward call."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from wellfit.finding import Location
from wellfit.record.fields import Fields, location_of


@dataclass(frozen=True)
class Node:
    """One operation of the graph; `next` are the ids of the nodes its gradient flows to (its inputs).

    `shapes` are those of the tensors the call was given, where the call itself was seen; `dim` is the axis of a softmax
    or log_softmax, as it was given; `rate` is the share that dropout drops (NaN: unknown).
    """

    id: int
    op: str = ""
    next: tuple[int, ...] = ()
    layer: str | None = None
    location: Location | None = None
    function: str | None = None
    shape: tuple[int, ...] | None = None
    parameter: str | None = None
    shapes: tuple[tuple[int, ...], ...] = ()
    dim: int | None = None
    rate: float = math.nan

    @classmethod
    def parse(cls, fields: Fields) -> Node:
        fields.need("id")
        return cls(
            id=fields.whole("id"),
            op=fields.text("op"),
            next=fields.wholes("next"),
            layer=fields.text_or_none("layer"),
            location=location_of(fields.object),
            function=fields.text_or_none("function"),
            shape=fields.wholes_or_none("shape"),
            parameter=fields.text_or_none("parameter"),
            shapes=_shapes(fields.object.get("shapes")),
            dim=fields.whole_or_none("dim"),
            rate=fields.number("rate"),
        )


def _shapes(given: object) -> tuple[tuple[int, ...], ...]:
    """The shapes of the tensors a call was given; none if the list is malformed."""
    if not isinstance(given, list) or not all(isinstance(shape, list) for shape in given):
        return ()
    if not all(isinstance(length, int) for shape in given for length in shape):
        return ()
    return tuple(tuple(shape) for shape in given)


@dataclass(frozen=True)
class Cut:
    """A call that cut the graph (`detach`) of a tensor that required gradient."""

    function: str
    location: Location | None = None
    layer: str | None = None

    @classmethod
    def parse(cls, fields: Fields) -> Cut:
        return cls(fields.text("function"), location_of(fields.object), fields.text_or_none("layer"))


class Graph:
    """The autograd graph of one backward call.

    Attributes:
        step, backward: when, and the id of the backward site.
        nodes: in the order declared; `loss` (id 0) is where it begins.
        cuts: calls that cut it.
    """

    def __init__(self, step: int, backward: int | None, nodes: list[Node], cuts: list[Cut]) -> None:
        self.step = step
        self.backward = backward
        self.nodes = nodes
        self.cuts = cuts
        self._by_id = {node.id: node for node in nodes}
        self._consumers: dict[int, list[Node]] = {}
        for node in self._by_id.values():
            for id in dict.fromkeys(node.next):
                self._consumers.setdefault(id, []).append(node)

    @classmethod
    def parse(cls, fields: Fields) -> Graph:
        nodes = [Node.parse(Fields(node)) for node in fields.objects("nodes")]
        cuts = [Cut.parse(Fields(cut)) for cut in fields.objects("cuts")]
        return cls(fields.whole("step"), fields.whole_or_none("backward"), nodes, cuts)

    def node(self, id: int) -> Node | None:
        """The node of this id, or None."""
        return self._by_id.get(id)

    @property
    def loss(self) -> Node | None:
        """The node the backward call begins at, or None in an empty graph."""
        return self._by_id.get(0)

    def inputs(self, id: int) -> list[Node]:
        """The nodes that the gradient of this one flows to."""
        node = self._by_id.get(id)
        return [self._by_id[next] for next in node.next if next in self._by_id] if node else []

    def consumers(self, id: int) -> list[Node]:
        """The nodes that used the result of this one (one step nearer to the loss)."""
        return list(self._consumers.get(id, ()))

    def _paths(self) -> dict[int, int | None]:
        """Each node that the loss reaches and the one it is reached from, nearest first."""
        came: dict[int, int | None] = {0: None} if 0 in self._by_id else {}
        queue = deque(came)
        while queue:
            id = queue.popleft()
            for next in self._by_id[id].next:
                if next in self._by_id and next not in came:
                    came[next] = id
                    queue.append(next)
        return came

    def path_to(self, layer: str) -> list[Node]:
        """The nodes on a shortest path from the loss to the nearest node of this layer, both included; else empty."""
        came = self._paths()
        for id in came:
            if self._by_id[id].layer == layer:
                path = []
                at: int | None = id
                while at is not None:
                    path.append(self._by_id[at])
                    at = came[at]
                return path[::-1]
        return []

    def layers(self) -> list[str]:
        """The names of the layers the loss reaches, nearest first."""
        names = (self._by_id[id].layer for id in self._paths())
        return list(dict.fromkeys(name for name in names if name is not None))

    def parameters(self) -> set[str]:
        """The names of the parameters that the loss reaches."""
        names = (self._by_id[id].parameter for id in self._paths())
        return {name for name in names if name is not None}
