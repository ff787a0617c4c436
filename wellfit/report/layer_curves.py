"""The curves of each layer for the page: what a layer's activations, gradients and updates did over the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wellfit.report.safe import printable
from wellfit.report.source import place
from wellfit.report.thin import Floats, Grid, Ints, grid_of, one_per_step, pack

if TYPE_CHECKING:
    from wellfit.record import Layer, Record


@dataclass(frozen=True)
class Metric:
    """One thing to show of every layer.

    Args:
        key: name in the page's data.
        title: name on the page.
        about: one sentence on how to read it.
        log: whether its scale is logarithmic.
        heat: whether it can be chosen for the heat map.
    """

    key: str
    title: str
    about: str
    log: bool = True
    heat: bool = True


METRICS = (
    Metric("gradient", "Gradient rms", "Root mean square of dL/dw over the weights and biases of a layer."),
    Metric(
        "update",
        "Update ratio",
        "Rms of one optimizer step over rms of the weights. Healthy training is mostly between 1e-4 and 1e-2.",
    ),
    Metric("activation", "Activation rms", "Root mean square of what a layer gives out."),
    Metric("dead", "Dead share", "Share of units that were silent for the last 20 watched batches.", log=False),
    Metric(
        "backward",
        "Activation gradient rms",
        "Root mean square of dL/da, the gradient at a layer's output.",
        heat=False,
    ),
)


def layer_curves(record: Record, rows: int, points: int, cells: int, wanted: Sequence[str]) -> dict[str, Any]:
    """All layers with something measured, thinned to fit a page.

    Args:
        record: what one process recorded.
        rows: at most so many layers.
        points: at most so many points of one curve.
        cells: at most so many points of all curves together.
        wanted: layers that must be among them (those of the findings).

    Returns:
        `metrics`, `steps` (of the points), `stretch`, `total` (layers there were) and `layers`: in the order of their
        first call, each with `name`, `kind`, `class`, `place` and `curves`, one packed curve or None per metric.
    """
    parameters = _parameters_of_layers(record)
    subjects = {
        what: set(record.subjects(what)) for what in ("activation", "activation_gradient", "gradient", "update")
    }
    measured = [layer for layer in _in_call_order(record) if _is_measured(layer.name, parameters, subjects)]
    chosen = _choose([layer.name for layer in measured], rows, set(wanted))
    space = cells // max(1, len(chosen) * len(METRICS))
    grid = grid_of(np.asarray(record.watched_steps, dtype=np.int64), max(2, min(points, space)))
    layers = []
    for layer in measured:
        if layer.name not in chosen:
            continue
        series = _series_of(record, layer.name, parameters.get(layer.name, []), subjects)
        layers.append(
            {
                "name": printable(layer.name or "(root)", 160),
                "class": printable(layer.class_name, 60),
                "place": place(layer.location) if layer.location else None,
                "curves": [_packed(series.get(metric.key), grid, metric.log) for metric in METRICS],
            }
        )
    return {
        "metrics": [vars(metric) for metric in METRICS],
        "steps": [int(step) for step in grid.steps],
        "stretch": grid.stretch,
        "total": len(measured),
        "layers": layers,
    }


def _in_call_order(record: Record) -> list[Layer]:
    """Layers as they were first called; those never called come last."""
    layers = list(record.layers.values())
    return sorted(layers, key=lambda layer: layer.order if layer.order >= 0 else len(layers) + 1_000_000)


def _parameters_of_layers(record: Record) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, parameter in record.parameters.items():
        found.setdefault(parameter.layer, []).append(name)
    return found


def _is_measured(name: str, parameters: dict[str, list[str]], subjects: dict[str, set[str]]) -> bool:
    if name in subjects["activation"] or name in subjects["activation_gradient"]:
        return True
    return any(parameter in subjects["gradient"] | subjects["update"] for parameter in parameters.get(name, []))


def _choose(names: list[str], rows: int, wanted: set[str]) -> set[str]:
    """At most `rows` names: the wanted ones, and the others at even distances."""
    if len(names) <= rows:
        return set(names)
    chosen = [name for name in names if name in wanted][:rows]
    others = [name for name in names if name not in wanted]
    free = rows - len(chosen)
    return {*chosen, *(others[at * len(others) // free] for at in range(free))}


def _series_of(
    record: Record, layer: str, parameters: list[str], subjects: dict[str, set[str]]
) -> dict[str, tuple[Ints, Floats]]:
    """(steps, values) by key of metric, for those that were measured."""
    found: dict[str, tuple[Ints, Floats]] = {}
    if layer in subjects["activation"]:
        series = record.series("activation", layer)
        found["activation"] = one_per_step(series.step, series.rms)
        step, dead = one_per_step(series.step, series.a)
        found["dead"] = step[np.isfinite(dead)], dead[np.isfinite(dead)]
    if layer in subjects["activation_gradient"]:
        series = record.series("activation_gradient", layer)
        found["backward"] = one_per_step(series.step, series.rms)
    gradients = [record.series("gradient", name) for name in parameters if name in subjects["gradient"]]
    if gradients:
        found["gradient"] = _joint([(one.step, one.count, one.rms) for one in gradients])
    # Biases and scales start at zero or move freely: the ratio of the weight matrices is the one that means something.
    matrices = [name for name in parameters if len(record.parameters[name].shape) >= 2] or parameters
    updates = [record.series("update", name) for name in matrices if name in subjects["update"]]
    if updates:
        step, moved = _joint([(one.step, one.count, one.rms) for one in updates])
        _, size = _joint([(one.step, one.count, one.a) for one in updates])
        known = ~(size == 0)
        found["update"] = step[known], moved[known] / size[known]
    return found


def _joint(parts: list[tuple[Ints, Floats, Floats]]) -> tuple[Ints, Floats]:
    """The rms over several tensors together, from (steps, counts, rms) of each; non-finite values stay so."""
    step = np.concatenate([np.asarray(part[0], dtype=np.int64) for part in parts])
    count = np.concatenate([np.asarray(part[1], dtype=np.float64) for part in parts])
    rms = np.concatenate([np.asarray(part[2], dtype=np.float64) for part in parts])
    each, at = np.unique(step, return_inverse=True)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        squares, counts = np.zeros(len(each)), np.zeros(len(each))
        np.add.at(squares, at.reshape(-1), count * rms**2)
        np.add.at(counts, at.reshape(-1), count)
        joint: Floats = np.sqrt(squares / counts)
    return each, joint


def _packed(series: tuple[Ints, Floats] | None, grid: Grid, log: bool) -> dict[str, Any] | None:
    return None if series is None else pack(*grid.fold(*series), log=log)
