"""A plan: what is done to each layer, what is expected of it, and why other layers are left alone."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wellfit.errors import WellfitError
from wellfit.nearest import did_you_mean
from wellfit.record.writing import replace_file
from wellfit.slim.planning.step import Step, checked_steps
from wellfit.slim.target import Target

FORMAT = "wellfit slim plan 1"


@dataclass(frozen=True)
class LayerForecast:
    """What is expected of a layer.

    Args:
        layer: its name; empty for the model itself.
        kind: its class.
        parameters: how many numbers it holds.
        before, after: bytes in memory as it is, and in the file of the slim model.
        ms_before, ms_after: milliseconds in a call with one sample; None where they were not measured.
        moved: how far the outputs of the model move if its steps are taken alone: root mean square, relative to their
            spread; None where nothing is done.
    """

    layer: str
    kind: str
    parameters: int
    before: int
    after: int
    ms_before: float | None = None
    ms_after: float | None = None
    moved: float | None = None


@dataclass(frozen=True)
class Point:
    """A whole model under some steps, as it was measured: one point of the front.

    Args:
        bytes: of its tensors, coded.
        ms: median of a call with one sample.
        lost: points of the measure that it loses against the dense model; below 0 if it is better.
        moved: of its outputs, see `LayerForecast`.
        steps: that were taken.
    """

    bytes: int
    ms: float | None
    lost: float
    moved: float
    steps: tuple[Step, ...] = ()

    @property
    def harm(self) -> tuple[float, float]:
        """By what points are compared: a gain is chance, so it is as no loss; then what moved the outputs less."""
        return max(0.0, self.lost), self.moved


@dataclass(frozen=True)
class Skipped:
    """Something that is not done, and why.

    Args:
        layer: its name.
        method: empty if no method at all.
        reason: in a sentence's second half.
        parameters: numbers that the layer holds.
    """

    layer: str
    method: str
    reason: str
    parameters: int = 0


@dataclass(frozen=True)
class Plan:
    """What `plan` proposes; printed, it is a table. Steps may be edited in the file that `save` writes.

    Args:
        target, keep: as they were asked for.
        measure: by what the loss was measured, in words.
        steps: in the order in which they are taken.
        layers: what is expected, layer by layer.
        skipped: layers that are left alone.
        whole: the whole model under the steps, as it was measured; None for a plan that was written by hand.
        dense: the model as it is.
        tries: all whole models that were measured.
        met: whether the target can be met within what may be lost.
        inputs: the example inputs, for `apply`; not in the file.
    """

    target: str
    keep: float
    steps: tuple[Step, ...]
    measure: str = ""
    layers: tuple[LayerForecast, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    whole: Point | None = None
    dense: Point | None = None
    tries: tuple[Point, ...] = ()
    met: bool = True
    inputs: Any = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        from wellfit.slim.planning.text import plan_text

        return plan_text(self)

    @property
    def front(self) -> tuple[Point, ...]:
        """The tries that no other beats in bytes (for targets of time in milliseconds) and in loss, the least first."""

        def cost(point: Point) -> float:
            if not Target.of(self.target).is_time:
                return point.bytes
            return math.inf if point.ms is None else point.ms

        kept: list[Point] = []
        for point in sorted(self.tries, key=lambda point: (cost(point), point.harm)):
            if not kept or point.harm < kept[-1].harm:
                kept.append(point)
        return tuple(kept)

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON, to be read and edited by people.

        Raises:
            WellfitError: it cannot be written.
        """
        try:
            replace_file(Path(path), (json.dumps(self.as_json(), indent=1, ensure_ascii=False) + "\n").encode())
        except OSError as error:
            raise WellfitError(f"{path} cannot be written: {error.strerror or error}") from None

    def as_json(self) -> dict[str, Any]:
        """The plan as plain dictionaries: what may be edited comes first."""
        told: dict[str, Any] = {"format": FORMAT, "target": self.target, "keep": self.keep}
        told["steps"] = [dataclasses.asdict(step) for step in self.steps]
        told["expected"] = {
            "measure": self.measure,
            "met": self.met,
            "layers": [dataclasses.asdict(layer) for layer in self.layers],
            "skipped": [dataclasses.asdict(skipped) for skipped in self.skipped],
            **{name: dataclasses.asdict(point) for name in ("whole", "dense") if (point := getattr(self, name))},
            "tries": [dataclasses.asdict(point) for point in self.tries],
        }
        return told

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """A plan from a file that was saved, or written by hand: "target", "keep" and "expected" may be missing.

        What it expected was measured for the steps as they were: it is dropped where they were edited.

        Raises:
            WellfitError: it cannot be read; or one mistake in it, and where.
        """
        try:
            told = json.loads(Path(path).read_text("utf-8"))
        except OSError as error:
            raise WellfitError(f"{path} cannot be read: {error.strerror or error}") from None
        except (ValueError, RecursionError) as error:
            where = f"line {error.lineno}, {error.msg}" if isinstance(error, json.JSONDecodeError) else str(error)[:80]
            raise WellfitError(f"{path} is no JSON: {where}") from None
        try:
            return cls.from_json(told)
        except WellfitError as error:
            raise WellfitError(f"{path}: {error}") from None

    @classmethod
    def from_json(cls, told: Any) -> Plan:
        """See `load`."""
        if not isinstance(told, dict):
            raise WellfitError('a plan is a JSON object with the field "steps"')
        if told.get("format", FORMAT) != FORMAT:
            raise WellfitError(f'the format is {told["format"]!r:.60}, and "{FORMAT}" is what this wellfit reads')
        known = ("format", "target", "keep", "steps", "expected")
        for key in told:
            if key not in known:
                raise WellfitError(f'there is no field "{key:.60}"{did_you_mean(key, known)}')
        if "steps" not in told:
            raise WellfitError('the field "steps" is missing')
        target, keep = told.get("target", "size"), told.get("keep", 1.0)
        Target.of(target)
        plan = cls(target, checked_keep(keep), checked_steps(told["steps"]))
        return _with_forecast(plan, told.get("expected"))


def checked_keep(keep: Any) -> float:
    """What may be lost, in points.

    Raises:
        WellfitError: it is no number from 0 to 100.
    """
    if type(keep) not in (int, float) or not 0 <= keep <= 100:
        raise WellfitError(f"keep is to be points that may be lost, from 0 to 100, not {keep!r:.40}")
    return float(keep)


def _with_forecast(plan: Plan, expected: Any) -> Plan:
    """The plan with what was expected of it, if its steps are still those that were measured."""
    if expected is None:
        return plan
    try:
        whole = _point(expected["whole"]) if "whole" in expected else None
        if whole is None or whole.steps != plan.steps:
            return plan
        told = dataclasses.replace(
            plan,
            measure=str(expected["measure"]),
            met=bool(expected["met"]),
            layers=tuple(LayerForecast(**layer) for layer in expected["layers"]),
            skipped=tuple(Skipped(**skipped) for skipped in expected["skipped"]),
            whole=whole,
            dense=_point(expected["dense"]),
            tries=tuple(map(_point, expected["tries"])),
        )
        str(told)  # numbers that are none are found here
        return told
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WellfitError(f'"expected" is not as it was written ({error!r:.80}): leave it out or as it was') from None


def _point(told: dict[str, Any]) -> Point:
    return Point(**{**told, "steps": checked_steps(told["steps"])})
