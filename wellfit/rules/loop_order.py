"""The order of zero_grad, backward and step in a training loop, and which backward belongs to which optimizer."""

from __future__ import annotations

import numpy as np

from wellfit.record import Record


def optimizer_steps(record: Record, optimizer: int) -> int:
    """How often an optimizer stepped, counted in the patterns of all steps."""
    rows = record.steps
    total = 0
    for id, events in record.patterns.items():
        own = events.count(f"step:{optimizer}")
        if own:
            total += own * int((rows["b"] == id).sum())
    # A pattern is cut off after many events: then at least the step that ended it counts.
    return max(total, int((rows["a"] == optimizer).sum()))


def patterns_by_count(record: Record) -> list[tuple[tuple[str, ...], int]]:
    """Each pattern and the number of steps that had it, the most frequent first."""
    ids, counts = np.unique(record.steps["b"], return_counts=True)
    found = [
        (record.patterns[int(id)], int(n)) for id, n in zip(ids, counts, strict=True) if int(id) in record.patterns
    ]
    return sorted(found, key=lambda pair: -pair[1])


def site_of(record: Record, optimizer: int) -> int | None:
    """The backward site that trains an optimizer's parameters (reaching the fewest others); None if unknown."""
    sites = record.loss_sites()
    if len(sites) <= 1 or len(record.optimizers) <= 1:
        return sites[0] if sites else None
    own = set(record.optimizers[optimizer].parameters) if optimizer in record.optimizers else set()
    best: tuple[int, int] | None = None
    for graph in record.graphs:
        reached = graph.parameters()
        if graph.backward in sites and own & reached:
            rank = (len(reached - own), int(graph.backward))
            best = rank if best is None or rank < best else best
    return best[1] if best is not None else sites[0]
