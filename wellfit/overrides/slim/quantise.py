"""Weights on an even grid of few bits."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from wellfit.overrides.parameters import number, parameters_of, text, whole
from wellfit.overrides.slim._patterns import Patterns
from wellfit.overrides.slim._span import Span
from wellfit.overrides.slim._stage import Stage

if TYPE_CHECKING:
    from torch import Tensor

    from wellfit.overrides.program import Program
    from wellfit.overrides.slim._weights import Model, Weight

FEWEST_BITS, MOST_BITS = 2, 8


@dataclass(kw_only=True, eq=False)
class Quantise(Stage):
    """Weights on an even grid of few bits.

    What it changes: from `start` on, between two steps, each filter of a layer (what has one first index: a row of a
    matrix, a kernel of a convolution, a row of a table) holds whole numbers q times a scale: w = q s with
    |q| < 2^(bits - 1) and s = max |w| / (2^(bits - 1) - 1), the nearest to the weights behind it. An optimizer's step
    acts on these (straight through), and the scale follows them. What is 0 stays 0. Inputs of layers are not rounded.
    `layers` gives single layers bits of their own; with 0 they are left alone.

    When it helps: for a small file, which holds whole numbers of so many bits. With 8 bits most networks lose nothing.

    Safety: unsafe; the weights are rounded. It takes memory for two more copies of the weights.

    Where it does not apply: to biases and norms; to weights that are changed without an optimizer, or computed from
    others (weight normalisation); to averages (EMA) that the script keeps of the weights. Nothing is faster: the layers
    compute in floats.

    References: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference (2018), section 3; Bengio, Leonard, Courville, Estimating or Propagating Gradients Through Stochastic
    Neurons (2013).
    """

    name = "quantise"
    summary = "weights on an even grid of few bits"
    example = "quantise=8"
    safe = False
    misfit = "no optimizer trains a model that has such layers"
    rank = 33

    bits: int = whole("of a weight", low=FEWEST_BITS, high=MOST_BITS, default=8)
    start: float = number("share of the run's steps after which it begins", low=0, high=1, default=0.0)
    steps: int | None = whole("optimizer steps of the run, where start is not 0", default=None)
    layers: str | None = text("bits of single layers, as in fc1=4;head=0 (0: left alone)", default=None)

    _own: Patterns[int] = field(init=False)
    _span: Span = field(init=False)
    _made: weakref.WeakKeyDictionary[Weight, int] = field(default_factory=weakref.WeakKeyDictionary, init=False)

    def check(self) -> None:
        """See `Override`."""
        self._span = Span("quantise", self.start, self.start, self.steps)
        self._own = Patterns(self.layers, _bits, "layers of quantise")

    def taken_on(self, model: Model) -> None:
        """See `Stage`."""
        for pattern in self._own.missing([weight.name for weight in model.weights]):
            self.left_out(pattern, f"{model.name} has no such layer")
        for name, why in model.omitted:
            self.left_out(name, why)
        count = sum(self._bits_of(weight) > 0 for weight in model.weights)
        if count:
            when = f" after step {self._span.first}" if self._span.first else ""
            self.changed(f"{model.name}: {count} tensors are whole numbers times a scale for each filter{when}")

    def acts(self, step: int) -> bool:
        """See `Stage`."""
        return step >= self._span.first

    def make(self, model: Model, weights: list[Weight], values: list[Tensor], step: int) -> list[Tensor]:
        """See `Stage`."""
        return [
            self._rounded(weight, value) if self._bits_of(weight) else value
            for weight, value in zip(weights, values, strict=True)
        ]  # fmt: skip

    def loaded(self, model: Model) -> None:
        """See `Stage`."""

    def about(self, weight: Weight) -> dict[str, Any]:
        """See `Stage`."""
        return {"grid": self._made[weight]} if weight in self._made else {}

    def end(self, program: Program) -> None:
        """See `Override`."""
        super().end(program)
        if self.changes and program.step < self._span.first:
            self.left_out("all of it", f"the run ended after step {program.step}, before step {self._span.first}")

    def _bits_of(self, weight: Weight) -> int:
        """Bits of a tensor; 0 where it is left alone."""
        own = self._own.of(weight.name)
        return 0 if weight.is_bias else self.bits if own is None else own

    def _rounded(self, weight: Weight, value: Tensor) -> Tensor:
        from wellfit.slim.methods.grid import on_grid

        if not bool(value.isfinite().all()):
            self.left_out(weight.name, "some of its weights were not finite")
            return value
        self._made[weight] = self._bits_of(weight)
        return on_grid(value, self._bits_of(weight))


def _bits(text: str, where: str) -> int:
    """Bits, or 0 for none."""
    parameter = parameters_of(Quantise)["bits"]
    bits: int = replace(parameter, low=0).value(text, where)
    return bits if bits == 0 else parameter.value(text, where)
