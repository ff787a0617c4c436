"""What one try sets: a plan, and the overrides that it becomes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wellfit.slim.drive.plan import Plan

PRUNED_BY, SHARED_FROM = 0.45, 0.5
"""Shares of a run's steps: by then the whole amount is 0; from then on layers share values."""

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
    """

    plan: Plan
    steps: int | None
    is_taught: bool
    seed: int | None = None

    def overrides(self, dense: Path) -> list[dict[str, Any]]:
        """As JSON, for `overrides.catalogue.from_json`.

        Args:
            dense: the dense network's weights.
        """
        found: list[dict[str, Any]] = [{"override": "start", "file": str(dense)}]
        if self.is_taught:
            told = {"file": str(dense), "temperature": TEMPERATURE, "weight": TEACHING}
            found.append({"override": "distil", **told})
        pruned = {layer.name: 1 - layer.keep for layer in self.plan.layers if layer.keep < 1}
        when: dict[str, Any] = {"steps": self.steps} if self.steps else {}
        if pruned:
            how = {"until": PRUNED_BY, **when} if when else {"schedule": "once"}
            layers = ";".join(f"{name}={amount:.5f}" for name, amount in pruned.items())
            found.append({"override": "prune", "amount": 0, "scope": "layer", "layers": layers, **how})
        shared = {layer.name: layer.values for layer in self.plan.layers}
        if any(shared.values()):
            layers = ";".join(f"{name}={values}" for name, values in shared.items())
            start = {"start": SHARED_FROM, **when} if when else {}
            found.append({"override": "share", "values": max(shared.values()), "layers": layers, **start})
        return found

    @property
    def digest(self) -> str:
        """Eight letters that no other setting has."""
        text = json.dumps(
            [self.plan.told, self.steps, self.is_taught, self.seed, PRUNED_BY, SHARED_FROM, TEMPERATURE, TEACHING]
        )
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def __str__(self) -> str:
        """For people: "5 % of the weights, 16 values a layer"."""
        counts = {
            layer.fewer_values for layer in self.plan.layers if layer.values and layer.parameters >= 4 * layer.values
        }
        values = f", {max(counts)} values a layer" if counts else ""
        seed = f", seed {self.seed}" if self.seed is not None else ""
        return f"{100 * self.plan.keep:.3g} % of the weights{values}{seed}"
