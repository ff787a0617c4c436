"""Parameters without gradient; and losses made anew: backward begins at a tensor without history, so that none has."""

from __future__ import annotations

from dataclasses import dataclass

from wellfit.finding import Location
from wellfit.record import Record, location_of


@dataclass(frozen=True)
class NewRoot:
    """A new tensor at which all that backward goes through begins; where it was made and the graph was cut."""

    said: str
    site: int | None
    made: Location | None
    cuts: list[Location | None]


def new_root(record: Record, patience: int) -> NewRoot | None:
    """What backward was called on, if it is a new tensor itself or leads to nothing but one; else None."""
    if any(graph.parameters() for graph in record.graphs):
        return None
    events = [event for event in record.events("leaf-loss") if isinstance(event["backward"], int)]
    often = next((event["backward"] for event in events if event["count"] >= patience), None)
    if often is not None:
        first = next(event for event in events if event["backward"] == often)
        cuts = [location_of(cut) for cut in first["cuts"]]
        return NewRoot("backward is called on", often, location_of(first["location"]), cuts)
    for graph in record.graphs:
        leaf = next((node for node in graph.nodes if node.op == "AccumulateGrad"), None)
        if leaf is not None:
            said = "what backward is called on leads back to"
            return NewRoot(said, graph.backward, leaf.location, [cut.location for cut in graph.cuts])
    return None


def without_gradient(record: Record) -> set[str]:
    """Parameters without gradient when their optimizer was last looked at, and never measured with one."""
    last = {event["optimizer"]: event for event in record.events("no-gradient")}
    names = {name for event in last.values() for name in event["parameters"] if isinstance(name, str)}
    return {name for name in names if not len(record.series("gradient", name))}


def starved(record: Record) -> int:
    """How many parameters the optimizers hold, if not one of them ever had a gradient; else 0."""
    held: dict[int, list[str]] = {}
    for parameter in record.parameters.values():
        if parameter.requires_grad and parameter.optimizer is not None:
            held.setdefault(parameter.optimizer, []).append(parameter.name)
    counts = {e["optimizer"]: e["count"] for e in record.events("no-gradient") if isinstance(e["optimizer"], int)}
    # What belongs to no module may be what is optimised: an image, a table.
    direct = any(one.unknown_parameters for one in record.optimizers.values())
    if direct or any(len(record.series("gradient", name)) for names in held.values() for name in names):
        return 0
    starved = all(counts.get(id, 0) >= len(names) for id, names in held.items())
    return sum(map(len, held.values())) if starved else 0
