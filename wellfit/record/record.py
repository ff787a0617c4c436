"""What one process of a run recorded, read while it grows."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from wellfit.probe import frames
from wellfit.record.columns import Columns
from wellfit.record.curves import Curve, Series, Steps, mean_by_step
from wellfit.record.declarations import Declarations
from wellfit.record.declared import (
    BackwardSite,
    Clip,
    Layer,
    Loader,
    Loss,
    Optimizer,
    Overridden,
    Parameter,
    Samples,
    Scheduler,
)
from wellfit.record.graph import Graph
from wellfit.record.rows import Rows, RowTable
from wellfit.record.segment import Segment

_T = TypeVar("_T")


class Record:
    """The record of one process; `Run.refresh` lets it grow.

    Steps count from 0: what carries step k happened when k steps were done. Nothing here raises on damaged files:
    what cannot be read is absent, and `damage` says so.

    Args:
        prefix: how the names of its segments begin ("r0-4711-").
    """

    def __init__(self, prefix: str, rank: int, pid: int) -> None:
        self.prefix = prefix
        self._first_rank = rank
        self.pid = pid
        self.finished = False
        self._segments: list[Segment] = []
        self._columns = Columns(self._segments)
        self._declared = Declarations()
        self._rows = RowTable()
        self._replaced = 0
        self._places: dict[tuple[str, str], list[tuple[int, int]]] = {}
        self._placed_schemas = 0
        self._watched: tuple[int, Steps] | None = None
        self._known: dict[Hashable, Any] = {}

    def refresh(self, paths: list[Path]) -> bool:
        """Read what is new in its segments, given in order; True if anything came."""
        for path in paths[len(self._segments) :]:
            self._segments.append(Segment(path))
        came = False
        for segment in self._segments:
            generation, before = segment.generation, segment.frame_count
            for found in segment.read(closed=self.finished or segment is not self._segments[-1]):
                if found.header.kind == frames.JSON:
                    self._declared.add(found.payload)
                else:
                    self._rows.add(found.payload)
            if segment.generation != generation:
                self._columns.clear()
                self._watched = None
            came = came or segment.frame_count != before
        if self._declared.replaced_schemas != self._replaced:
            self._replaced = self._declared.replaced_schemas
            self._columns.clear()
            self._placed_schemas = -1
        if came:
            self._known.clear()
        return came

    def once(self, key: Hashable, compute: Callable[[], _T]) -> _T:
        """What `compute` gives; asked again, the same object, until the record grows or its process ends.

        Many rules ask for the same curve, which takes seconds over a million steps: nobody may change what this gives.
        """
        known = (key, self.finished)
        if known not in self._known:
            self._known[known] = compute()
        return self._known[known]  # type: ignore[no-any-return]

    # What was declared -------------------------------------------------------------------------------------------

    @property
    def process(self) -> dict[str, Any]:
        """The declaration of the process; at least `rank`, `world_size` and `pid`."""
        return {"rank": self._first_rank, "world_size": 1, "pid": self.pid, **self._declared.process}

    @property
    def rank(self) -> int:
        """Of the process among those that train together; files are named before a program may have said it."""
        rank = self._declared.process.get("rank", self._first_rank)
        return rank if isinstance(rank, int) else self._first_rank

    @property
    def layers(self) -> dict[str, Layer]:
        """By name, in order of first call; layers that were never called come last."""
        return self.once("layers", self._sorted_layers)

    def _sorted_layers(self) -> dict[str, Layer]:
        layers = sorted(self._declared.layers.values(), key=lambda layer: (layer.order < 0, layer.order))
        return {layer.name: layer for layer in layers}

    @property
    def parameters(self) -> dict[str, Parameter]:
        return self._declared.parameters

    @property
    def optimizers(self) -> dict[int, Optimizer]:
        return self._declared.optimizers

    def optimizer_of(self, parameter: Parameter) -> Optimizer | None:
        """The optimizer that holds a parameter; None if none does, or its declaration is lost."""
        return self.optimizers.get(parameter.optimizer) if parameter.optimizer is not None else None

    @property
    def schedulers(self) -> dict[int, Scheduler]:
        return self._declared.schedulers

    @property
    def loaders(self) -> dict[int, Loader]:
        return self._declared.loaders

    @property
    def losses(self) -> dict[int, Loss]:
        return self._declared.losses

    @property
    def overrides(self) -> dict[int, Overridden]:
        """What was changed of the run without touching its script; empty for a plain run."""
        return self._declared.overrides

    @property
    def clips(self) -> dict[int, Clip]:
        """The places that clip gradients."""
        return self._declared.clips

    @property
    def samples(self) -> dict[str, Samples]:
        """What is known of the samples that each model was trained and evaluated on, by name of the model."""
        return self._declared.samples

    @property
    def backward_sites(self) -> dict[int, BackwardSite]:
        return self._declared.backward_sites

    @property
    def patterns(self) -> dict[int, tuple[str, ...]]:
        """The order of events in a step, by the id that `steps["b"]` holds."""
        return self._declared.patterns

    @property
    def graphs(self) -> list[Graph]:
        return self._declared.graphs

    @property
    def unseen(self) -> list[dict[str, Any]]:
        """What is not watched: `what`, `why`."""
        return self._declared.unseen

    @property
    def cost(self) -> dict[str, Any]:
        """The governor's latest account; zeros before the first."""
        return self._declared.cost

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """All events, or those of one name; each has `event`, `step` and every field docs/record.md gives it."""
        if name is None:
            return list(self._declared.events)
        return [event for event in self._declared.events if event["event"] == name]

    @property
    def damage(self) -> list[str]:
        """One sentence for each thing that could not be read."""
        said = [text for segment in self._segments for text in segment.damage(last=segment is self._segments[-1])]
        if self._rows.odd:
            said.append(f"{self._rows.odd} frames of rows of {self.prefix}* did not end with a whole row")
        unknown = {id for segment in self._segments for id in segment.places} - self._declared.schemas.keys()
        if unknown:
            said.append(f"statistics of {len(unknown)} unknown schemas of {self.prefix}* were left out")
        return said + self._declared.damage

    @property
    def ends_early(self) -> bool:
        """Whether the end is missing: a process that ends by itself writes an account of all its steps last."""
        cut = bool(self._segments) and self._segments[-1].unfinished
        return not self.events("switched-off") and (cut or self.cost["steps"] < self.step_count)

    # Rows --------------------------------------------------------------------------------------------------------

    @property
    def steps(self) -> Rows:
        """Rows of type S, one for each end of a step: `a` optimizer, `b` pattern, `step`, `x` seconds, `y` cost."""
        return self._rows.of(frames.ROW_STEP)

    @property
    def step_count(self) -> int:
        """Steps done."""
        steps = self.steps
        return int(steps["step"].max()) + 1 if len(steps) else 0

    @property
    def watched_steps(self) -> Steps:
        """The steps that have statistics, int64, rising."""
        count = sum(segment.frame_count for segment in self._segments)
        if self._watched is None or self._watched[0] != count:
            steps = {place.step for segment in self._segments for all in segment.places.values() for place in all}
            self._watched = (count, np.array(sorted(steps), np.int64))
        return self._watched[1]

    def loss_sites(self) -> list[int]:
        """The ids of the backward sites that were called, the one with most steps first."""
        return list(self.once("loss sites", self._loss_sites))

    def _loss_sites(self) -> list[int]:
        rows = self._rows.of(frames.ROW_BACKWARD)
        sites = {int(site): len(np.unique(rows["step"][rows["b"] == site])) for site in np.unique(rows["b"])}
        return sorted(sites, key=lambda site: (-sites[site], site))

    def loss(self, site: int | None = None) -> Curve:
        """The loss given to backward: the mean over the calls of each step, and the time of the last of them.

        Args:
            site: backward site; None is the one with most steps.
        """
        if site is None:
            site = next(iter(self.loss_sites()), -1)
        return self.once(("loss", site), lambda: _fixed(_curve(self._rows.of(frames.ROW_BACKWARD), site)))

    def training_losses(self, loss: int) -> Curve:
        """The value of one loss function where it was computed with gradient (watched steps only)."""
        return _curve(self._rows.of(frames.ROW_LOSS), loss)

    def hyper(self, name: str = "lr", optimizer: int | None = None, group: int = 0) -> Curve:
        """The changes of a hyper-parameter; `Curve.at(steps)` gives the value that held at any step.

        Args:
            optimizer: id; None is the first that has such a hyper-parameter.
        """
        known = sorted(self._declared.hypers.values(), key=lambda hyper: (hyper.optimizer, hyper.id))
        for hyper in known:
            if (hyper.name, hyper.group) == (name, group) and optimizer in (None, hyper.optimizer):
                rows = self._rows.of(frames.ROW_HYPER)
                rows = rows[(rows["a"] == hyper.optimizer) & (rows["b"] == hyper.id)]
                return Curve(rows["step"].astype(np.int64), rows["x"].astype(np.float64))
        return mean_by_step(np.empty(0, np.int64), np.empty(0))

    def clipping(self, clip: int) -> tuple[Curve, Curve]:
        """The norms of the gradient that a place clipped (NaN where not known), and its limits.

        Those of `clip_grad_norm_` are of every step, those of `clip_grad_value_` of watched steps.
        """
        rows = self._rows.of(frames.ROW_CLIP)
        rows = rows[rows["b"] == clip]
        step = rows["step"].astype(np.int64)
        return Curve(step, rows["x"].astype(np.float64)), Curve(step, rows["y"].astype(np.float64))

    def evaluated_losses(self) -> list[int]:
        """The ids of the losses that were computed without gradient, the one with most passes first."""
        rows = self._rows.of(frames.ROW_EVALUATION)
        losses = {int(loss): len(np.unique(rows["step"][rows["b"] == loss])) for loss in np.unique(rows["b"])}
        return sorted(losses, key=lambda loss: (-losses[loss], loss))

    def evaluations(self, loss: int | None = None) -> Curve:
        """The mean loss of each evaluation pass: evaluations with no training step between are one pass.

        Args:
            loss: id of the loss; None is the one with most passes.
        """
        return _curve(self._evaluation_rows(loss), None)

    def evaluation_modes(self, loss: int | None = None) -> NDArray[np.bool_]:
        """For each pass of `evaluations`, whether the model was in train mode for most of it."""
        rows = self._evaluation_rows(loss)
        mode = mean_by_step(rows["step"].astype(np.int64), rows["a"].astype(np.float64))
        return np.asarray(mode.value > 0.5)

    def _evaluation_rows(self, loss: int | None) -> Rows:
        if loss is None:
            loss = next(iter(self.evaluated_losses()), -1)
        rows = self._rows.of(frames.ROW_EVALUATION)
        chosen: Rows = rows[rows["b"] == loss]
        return chosen

    # Statistics --------------------------------------------------------------------------------------------------

    def _known_places(self) -> dict[tuple[str, str], list[tuple[int, int]]]:
        """For each series its (schema id, position) in each schema that holds it."""
        schemas = self._declared.schemas
        if self._placed_schemas != len(schemas):
            self._placed_schemas = len(schemas)
            self._places = {}
            for id, series in schemas.items():
                for position, key in enumerate(series):
                    places = self._places.setdefault(key, [])
                    if not places or places[-1][0] != id:
                        places.append((id, position))
        return self._places

    def subjects(self, what: str) -> list[str]:
        """The subjects that this was measured of, in the order declared."""
        return [subject for kind, subject in self._known_places() if kind == what]

    def series(self, what: str, subject: str) -> Series:
        """The statistics of one subject; empty if there are none."""
        parts = []
        for schema, position in self._known_places().get((what, subject), ()):
            parts.append(_present(*self._columns.series(schema, len(self._declared.schemas[schema]), position)))
        parts = [part for part in parts if len(part[0])]
        if not parts:
            return Series(what, subject, np.empty(0, np.int64), np.empty((0, frames.FIELDS), np.float32))
        if len(parts) == 1:
            return Series(what, subject, *parts[0])
        step = np.concatenate([part[0] for part in parts])
        data = np.concatenate([part[1] for part in parts])
        order = np.argsort(step, kind="stable")
        return Series(what, subject, step[order], data[order])


def _present(step: Steps, data: NDArray[np.float32]) -> tuple[Steps, NDArray[np.float32]]:
    """Without the steps at which the series was not measured: all eight numbers are NaN."""
    absent = np.isnan(data[:, 0])
    if not absent.any():
        return step, data
    absent[absent] = np.isnan(data[absent]).all(axis=1)
    return step[~absent], data[~absent]


def _fixed(curve: Curve) -> Curve:
    """A curve that several readers share: nobody can change it."""
    for values in (curve.step, curve.value, curve.time):
        if values is not None:
            values.flags.writeable = False
    return curve


def _curve(rows: Rows, b: int | None) -> Curve:
    """The mean of `x` for each step over the rows with this `b` (None: all)."""
    if b is not None:
        rows = rows[rows["b"] == b]
    return mean_by_step(rows["step"].astype(np.int64), rows["x"].astype(np.float64), rows["y"].astype(np.float64))
