"""What the probe declares: layers, parameters, optimizers and the rest, one dataclass each."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from wellfit.finding import Location
from wellfit.record.fields import Fields, Malformed

__all__ = [
    "BackwardSite",
    "Clip",
    "Hyper",
    "Initial",
    "Layer",
    "Loader",
    "Loss",
    "Optimizer",
    "Overridden",
    "Parameter",
    "Samples",
    "Scheduler",
]


@dataclass(frozen=True)
class Layer:
    """A module of the user's model; fields as in docs/record.md (`class` is called `class_name` here)."""

    name: str
    class_name: str = ""
    kind: str = "other"
    location: Location | None = None
    root: str = ""
    order: int = -1
    parameters: tuple[str, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    activation: str | None = None
    activation_location: Location | None = None
    registered: bool = True
    input_shape: tuple[int, ...] | None = None
    output_dtype: str | None = None

    @property
    def is_root(self) -> bool:
        """Whether no other module holds it."""
        return self.name == self.root

    @classmethod
    def parse(cls, fields: Fields) -> Layer:
        if not isinstance(fields.object.get("name"), str):
            raise Malformed("it has no name")
        return cls(
            name=fields.text("name"),
            class_name=fields.text("class"),
            kind=fields.text("kind", "other"),
            location=fields.location(),
            root=fields.text("root"),
            order=fields.whole("order", -1),
            parameters=fields.texts("parameters"),
            attributes=fields.table("attributes"),
            activation=fields.text_or_none("activation"),
            activation_location=fields.location("activation_location"),
            registered=fields.flag("registered", True),
            input_shape=fields.wholes_or_none("input_shape"),
            output_dtype=fields.text_or_none("output_dtype"),
        )


@dataclass(frozen=True)
class Initial:
    """A parameter as it was when first seen; NaN where unknown."""

    std: float = float("nan")
    rms: float = float("nan")
    amax: float = float("nan")


@dataclass(frozen=True)
class Parameter:
    """A parameter of the model; `optimizer` is the id of the one that holds it, or None."""

    name: str
    layer: str = ""
    shape: tuple[int, ...] = ()
    dtype: str = ""
    requires_grad: bool = True
    optimizer: int | None = None
    location: Location | None = None
    initial: Initial = Initial()
    fan_in: int | None = None
    device: str = ""

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @classmethod
    def parse(cls, fields: Fields) -> Parameter:
        fields.need("name")
        initial = Fields(fields.table("initial"))
        return cls(
            name=fields.text("name"),
            layer=fields.text("layer"),
            shape=fields.wholes("shape"),
            dtype=fields.text("dtype"),
            requires_grad=fields.flag("requires_grad", True),
            optimizer=fields.whole_or_none("optimizer"),
            location=fields.location(),
            initial=Initial(initial.number("std"), initial.number("rms"), initial.number("amax")),
            fan_in=fields.whole_or_none("fan_in"),
            device=fields.text("device"),
        )


@dataclass(frozen=True)
class Optimizer:
    """An optimizer; `groups` holds the hyper-parameters of each parameter group."""

    id: int
    class_name: str = ""
    location: Location | None = None
    groups: tuple[dict[str, Any], ...] = ()
    parameters: tuple[str, ...] = ()
    unknown_parameters: int = 0

    @classmethod
    def parse(cls, fields: Fields) -> Optimizer:
        fields.need("id")
        return cls(
            id=fields.whole("id"),
            class_name=fields.text("class"),
            location=fields.location(),
            groups=tuple(fields.objects("groups")),
            parameters=fields.texts("parameters"),
            unknown_parameters=fields.whole("unknown_parameters"),
        )


@dataclass(frozen=True)
class Hyper:
    """A hyper-parameter of one group of an optimizer, whose changes are rows of type H."""

    id: int
    optimizer: int = 0
    group: int = 0
    name: str = ""

    @classmethod
    def parse(cls, fields: Fields) -> Hyper:
        fields.need("id")
        return cls(fields.whole("id"), fields.whole("optimizer"), fields.whole("group"), fields.text("name"))


@dataclass(frozen=True)
class Scheduler:
    """A learning rate scheduler, the id of its optimizer, and its settings that are numbers (`T_max`)."""

    id: int
    class_name: str = ""
    location: Location | None = None
    optimizer: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, fields: Fields) -> Scheduler:
        fields.need("id")
        optimizer = fields.whole_or_none("optimizer")
        return cls(fields.whole("id"), fields.text("class"), fields.location(), optimizer, fields.table("settings"))


@dataclass(frozen=True)
class Loader:
    """A DataLoader; None where it does not say."""

    id: int
    location: Location | None = None
    batch_size: int | None = None
    shuffle: bool | None = None
    num_workers: int = 0
    length: int | None = None
    drop_last: bool = False

    @classmethod
    def parse(cls, fields: Fields) -> Loader:
        fields.need("id")
        return cls(
            id=fields.whole("id"),
            location=fields.location(),
            batch_size=fields.whole_or_none("batch_size"),
            shuffle=None if fields.object.get("shuffle") is None else fields.flag("shuffle"),
            num_workers=fields.whole("num_workers"),
            length=fields.whole_or_none("length"),
            drop_last=fields.flag("drop_last"),
        )


@dataclass(frozen=True)
class Loss:
    """A place that computes a loss; shapes are None where there was no such tensor."""

    id: int
    function: str = ""
    location: Location | None = None
    prediction_shape: tuple[int, ...] | None = None
    target_shape: tuple[int, ...] | None = None
    prediction_dtype: str = ""
    target_dtype: str = ""
    reduction: str = ""
    attributes: dict[str, Any] = field(default_factory=dict)
    training: bool = False

    @classmethod
    def parse(cls, fields: Fields) -> Loss:
        fields.need("id")
        return cls(
            id=fields.whole("id"),
            function=fields.text("function"),
            location=fields.location(),
            prediction_shape=fields.wholes_or_none("prediction_shape"),
            target_shape=fields.wholes_or_none("target_shape"),
            prediction_dtype=fields.text("prediction_dtype"),
            target_dtype=fields.text("target_dtype"),
            reduction=fields.text("reduction"),
            attributes=fields.table("attributes"),
            training=fields.flag("training"),
        )


@dataclass(frozen=True)
class Overridden:
    """An override under which the run was made.

    Attributes:
        text: as it would be typed after `--override`.
        changed: what it changed, one phrase each.
        left_out: what it could not change, and why.
    """

    id: int
    name: str = ""
    text: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    safe: bool = False
    changed: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, fields: Fields) -> Overridden:
        fields.need("id")
        pairs = [pair for pair in fields.items("left_out") if isinstance(pair, list) and len(pair) == 2]
        return cls(
            id=fields.whole("id"),
            name=fields.text("name"),
            text=fields.text("text"),
            parameters=fields.table("parameters"),
            safe=fields.flag("safe"),
            changed=fields.texts("changed"),
            left_out=tuple((str(what), str(why)) for what, why in pairs),
        )


@dataclass(frozen=True)
class BackwardSite:
    """A place of the user's program that calls backward; whether it kept the graph at its first call."""

    id: int
    location: Location | None = None
    retain_graph: bool = False

    @classmethod
    def parse(cls, fields: Fields) -> BackwardSite:
        fields.need("id")
        return cls(fields.whole("id"), fields.location(), fields.flag("retain_graph"))


@dataclass(frozen=True)
class Clip:
    """A place of the user's program that clips gradients; `function` as torch calls it."""

    id: int
    function: str = ""
    location: Location | None = None

    @classmethod
    def parse(cls, fields: Fields) -> Clip:
        fields.need("id")
        return cls(fields.whole("id"), fields.text("function"), fields.location())


@dataclass(frozen=True)
class Samples:
    """How many samples of a model's training and evaluation were looked at (unequal ones), and how many are in both.

    `trained_calls` counts those of training with their repeats.
    """

    root: str
    trained: int = 0
    evaluated: int = 0
    trained_calls: int = 0
    shared: int = 0

    @classmethod
    def parse(cls, fields: Fields) -> Samples:
        fields.need("root")
        names = ("trained", "evaluated", "trained_calls", "shared")
        return cls(fields.text("root"), *(fields.whole(name) for name in names))
