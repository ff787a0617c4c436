"""What one try sets: a plan, and the overrides that it becomes."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wellfit.slim.drive.plan import Layer, Plan

PRUNED_FROM, PRUNED_BY, SHARED_FROM, FREE_UNTIL = 0.03, 0.55, 0.55, 0.95
"""Shares of a run's steps: from then on weights become 0, by then the whole amount is; from then on layers share
values, until then a weight may go over to another value."""

TEMPERATURE, TEACHING = 1.0, 0.5
"""Of distillation: what scores are divided by, and the share of the teacher's term in the loss. A higher temperature
multiplies the gradient, up to its square, which the script's own learning rate is not made for."""


@dataclass(frozen=True)
class Setting:
    """One try.

    Args:
        plan: what is done with each layer.
        steps: optimizer steps of the run; None if nobody knows: all is done at its begin then.
        is_taught: the dense network teaches.
        seed: None: the script's own random numbers.
        asked: the method that was asked for all layers; empty where none was.
    """

    plan: Plan
    steps: int | None
    is_taught: bool
    seed: int | None = None
    asked: str = ""

    def overrides(self, dense: Path) -> list[dict[str, Any]]:
        """As JSON, for `overrides.catalogue.from_json`.

        Args:
            dense: the dense network's weights.
        """
        found: list[dict[str, Any]] = [{"override": "start", "file": str(dense)}]
        if self.is_taught:
            told = {"file": str(dense), "temperature": TEMPERATURE, "weight": TEACHING}
            found.append({"override": "distil", **told})
        if any(layer.keep < 1 for layer in self.plan.layers):
            found.append(self._prune())
        shared = {layer.name: layer.values for layer in self.plan.layers}
        if any(shared.values()):
            layers = ";".join(f"{name}={values}" for name, values in shared.items())
            when = {"start": SHARED_FROM, "again": 1, "until": FREE_UNTIL, "steps": self.steps} if self.steps else {}
            told = {"values": max(shared.values()), "layers": layers, "biases": self._biases}
            found.append({"override": "share", **told, **when})
        if any(layer.signs for layer in self.plan.layers):
            layers = ";".join(f"{layer.name}={layer.signs or 'off'}" for layer in self.plan.layers)
            found.append({"override": "binarise", "layers": layers})
        if any(layer.bits for layer in self.plan.layers):
            layers = ";".join(f"{layer.name}={layer.bits}" for layer in self.plan.layers)
            found.append({"override": "quantise", "layers": layers})
        return found

    @property
    def _biases(self) -> bool:
        """Whether biases are pruned and shared: which of them matter is known by their gradients."""
        return self.plan.together and self.steps is not None

    def _prune(self) -> dict[str, Any]:
        when = {"start": PRUNED_FROM, "until": PRUNED_BY, "steps": self.steps} if self.steps else {"schedule": "once"}
        pruned = [layer for layer in self.plan.layers if layer.keep < 1]
        free = [layer for layer in pruned if layer.pattern is None]
        if not (self._biases and free):
            layers = ";".join(f"{layer.name}={_amount(layer)}" for layer in pruned)
            return {"override": "prune", "amount": 0, "scope": "layer", "layers": layers, **when}
        kept = sum(layer.keep * layer.parameters for layer in free) / sum(layer.parameters for layer in free)
        alone = ";".join(
            f"{layer.name}={'0' if layer.keep >= 1 else _amount(layer)}"
            for layer in self.plan.layers
            if layer not in free
        )
        return {
            "override": "prune", "amount": round(1 - kept, 5), "scope": "bits", "importance": "gradient",
            "regrow": False, "biases": True, **when, "schedule": "steep", **({"layers": alone} if alone else {}),
        }  # fmt: skip

    @property
    def digest(self) -> str:
        """Eight letters that no other setting has."""
        text = json.dumps(
            [
                self.plan.told,
                self.plan.together,
                self.steps,
                self.is_taught,
                self.seed,
                PRUNED_FROM,
                PRUNED_BY,
                SHARED_FROM,
                FREE_UNTIL,
                TEMPERATURE,
                TEACHING,
            ]
        )
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def __str__(self) -> str:
        """For people: "5 % of the weights, 16 values a layer"."""
        counts = {
            layer.fewer_values for layer in self.plan.layers if layer.values and layer.parameters >= 4 * layer.values
        }
        values = f", {max(counts)} values a layer" if counts else ""
        seed = f", seed {self.seed}" if self.seed is not None else ""
        methods = "".join(f", {method}" for method in told_methods(self.plan.told))
        return f"{100 * self.plan.keep:.3g} % of the weights{values}{methods}{seed}"


def told_methods(told: Iterable[Sequence[Any]]) -> list[str]:
    """Methods that a plan names, see `Plan.told`: for people, "binarise in 2 of 4 layers"."""
    entries = list(told)
    counts = Counter(entry[3] for entry in entries if len(entry) > 3)
    return [
        method if count == len(entries) else f"{method} in {count} of {len(entries)} layers"
        for method, count in counts.items()
    ]


def _amount(layer: Layer) -> str:
    """What the override prune is told of a layer."""
    return f"{1 - layer.keep:.5f}" if layer.pattern is None else f"{layer.pattern[0]}:{layer.pattern[1]}"
