"""All that a record declares, taken in frame by frame."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from wellfit.record.declared import (
    BackwardSite,
    Clip,
    Hyper,
    Layer,
    Loader,
    Loss,
    Optimizer,
    Overridden,
    Parameter,
    Samples,
    Scheduler,
)
from wellfit.record.events import complete_cost, complete_event, complete_unseen
from wellfit.record.fields import Fields, Malformed
from wellfit.record.graph import Graph

_DAMAGE_SENTENCES = 20


class Declarations:
    """The JSON frames of one record, parsed; what is malformed is left out with a sentence in `damage`."""

    def __init__(self) -> None:
        self.process: dict[str, Any] = {}
        self.schemas: dict[int, tuple[tuple[str, str], ...]] = {}
        self._schema_texts: dict[bytes, int] = {}
        self.replaced_schemas = 0  # goes up when an id got another meaning
        self.layers: dict[str, Layer] = {}
        self.parameters: dict[str, Parameter] = {}
        self.optimizers: dict[int, Optimizer] = {}
        self.hypers: dict[tuple[int, int], Hyper] = {}
        self.schedulers: dict[int, Scheduler] = {}
        self.loaders: dict[int, Loader] = {}
        self.losses: dict[int, Loss] = {}
        self.backward_sites: dict[int, BackwardSite] = {}
        self.overrides: dict[int, Overridden] = {}
        self.clips: dict[int, Clip] = {}
        self.samples: dict[str, Samples] = {}
        self.patterns: dict[int, tuple[str, ...]] = {}
        self.graphs: list[Graph] = []
        self.events: list[dict[str, Any]] = []
        self.cost: dict[str, Any] = complete_cost({})
        self.unseen: list[dict[str, Any]] = []
        self.damage: list[str] = []
        self._take: dict[str, Callable[[Fields], None]] = {
            "process": self._take_process,
            "schema": self._take_schema,
            "layer": self._take_layer,
            "parameter": self._take_parameter,
            "optimizer": self._take_optimizer,
            "hyper": self._take_hyper,
            "scheduler": self._take_scheduler,
            "loader": self._take_loader,
            "loss": self._take_loss,
            "backward": self._take_backward,
            "override": self._take_override,
            "clip": self._take_clip,
            "samples": self._take_samples,
            "pattern": self._take_pattern,
            "graph": lambda fields: self.graphs.append(Graph.parse(fields)),
            "event": lambda fields: self.events.append(complete_event(fields.object)),
            "cost": self._take_cost,
            "unseen": lambda fields: self.unseen.append(complete_unseen(fields.object)),
        }

    def add(self, payload: bytes) -> None:
        """Take one JSON frame; types that are not known are left alone."""
        if payload in self._schema_texts:
            return  # every segment says the schemas anew
        type: Any = None
        try:
            object = json.loads(payload)
            if not isinstance(object, dict):
                raise Malformed("it is not an object")
            type = object.get("type")
            if not isinstance(type, str):
                raise Malformed("it has no type")
            take = self._take.get(type)
            if take is not None:
                take(Fields(object))
            if type == "schema":
                self._schema_texts = {text: id for text, id in self._schema_texts.items() if id != object["id"]}
                self._schema_texts[payload] = object["id"]
        except Malformed as error:
            name = type if isinstance(type, str) else "JSON"
            self._say(f"a declaration of type {name[:40]} was left out: {error}")
        except (ValueError, RecursionError):
            self._say("a declaration was left out: it is not JSON")

    def _say(self, sentence: str) -> None:
        if sentence not in self.damage and len(self.damage) < _DAMAGE_SENTENCES:
            self.damage.append(sentence)

    def _take_process(self, fields: Fields) -> None:
        self.process = {**fields.object, "rank": fields.whole("rank"), "world_size": fields.whole("world_size", 1)}

    def _take_schema(self, fields: Fields) -> None:
        fields.need("id")
        id = fields.whole("id")
        series = []
        for pair in fields.items("series"):
            if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(name, str) for name in pair)):
                raise Malformed("its series is of the wrong type")
            series.append((pair[0], pair[1]))
        known = self.schemas.get(id)
        self.schemas[id] = tuple(series)
        self.replaced_schemas += known is not None and known != self.schemas[id]

    def _take_layer(self, fields: Fields) -> None:
        layer = Layer.parse(fields)
        self.layers[layer.name] = layer

    def _take_parameter(self, fields: Fields) -> None:
        parameter = Parameter.parse(fields)
        self.parameters[parameter.name] = parameter

    def _take_optimizer(self, fields: Fields) -> None:
        optimizer = Optimizer.parse(fields)
        self.optimizers[optimizer.id] = optimizer

    def _take_hyper(self, fields: Fields) -> None:
        hyper = Hyper.parse(fields)
        self.hypers[hyper.optimizer, hyper.id] = hyper

    def _take_scheduler(self, fields: Fields) -> None:
        scheduler = Scheduler.parse(fields)
        self.schedulers[scheduler.id] = scheduler

    def _take_loader(self, fields: Fields) -> None:
        loader = Loader.parse(fields)
        self.loaders[loader.id] = loader

    def _take_loss(self, fields: Fields) -> None:
        loss = Loss.parse(fields)
        self.losses[loss.id] = loss

    def _take_backward(self, fields: Fields) -> None:
        site = BackwardSite.parse(fields)
        self.backward_sites[site.id] = site

    def _take_override(self, fields: Fields) -> None:
        override = Overridden.parse(fields)
        self.overrides[override.id] = override

    def _take_clip(self, fields: Fields) -> None:
        clip = Clip.parse(fields)
        self.clips[clip.id] = clip

    def _take_samples(self, fields: Fields) -> None:
        samples = Samples.parse(fields)
        self.samples[samples.root] = samples

    def _take_pattern(self, fields: Fields) -> None:
        fields.need("id")
        self.patterns[fields.whole("id")] = fields.texts("events")

    def _take_cost(self, fields: Fields) -> None:
        self.cost = complete_cost(fields.object)
