"""What one try sets: a plan, and the overrides that it becomes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wellfit.slim.drive.plan import Plan

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
        if any(layer.keep < 1 for layer in self.plan.layers):
            found.append(self._prune())
        shared = {layer.name: layer.values for layer in self.plan.layers}
        if any(shared.values()):
            layers = ";".join(f"{name}={values}" for name, values in shared.items())
            when = {"start": SHARED_FROM, "again": 1, "until": FREE_UNTIL, "steps": self.steps} if self.steps else {}
            told = {"values": max(shared.values()), "layers": layers, "biases": self._biases}
            found.append({"override": "share", **told, **when})
        return found

    @property
    def _biases(self) -> bool:
        """Whether biases are pruned and shared: which of them matter is known by their gradients."""
        return self.plan.together and self.steps is not None

    def _prune(self) -> dict[str, Any]:
        when = {"start": PRUNED_FROM, "until": PRUNED_BY, "steps": self.steps} if self.steps else {"schedule": "once"}
        pruned = [layer for layer in self.plan.layers if layer.keep < 1]
        if not self._biases:
            layers = ";".join(f"{layer.name}={1 - layer.keep:.5f}" for layer in pruned)
            return {"override": "prune", "amount": 0, "scope": "layer", "layers": layers, **when}
        kept = sum(layer.keep * layer.parameters for layer in pruned) / sum(layer.parameters for layer in pruned)
        alone = ";".join(f"{layer.name}=0" for layer in self.plan.layers if layer.keep >= 1)
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
        return f"{100 * self.plan.keep:.3g} % of the weights{values}{seed}"
