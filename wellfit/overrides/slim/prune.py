"""Weights that are 0, more and more of them, while the rest is trained."""

from __future__ import annotations

import re
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from wellfit.errors import WellfitError
from wellfit.overrides.parameters import choice, number, parameters_of, shortened, switch, text, whole
from wellfit.overrides.slim._patterns import Patterns
from wellfit.overrides.slim._span import Span
from wellfit.overrides.slim._stage import Stage

if TYPE_CHECKING:
    from torch import Tensor

    from wellfit.overrides.program import Program
    from wellfit.overrides.slim._saliency import Squares
    from wellfit.overrides.slim._weights import Model, Weight

Group: TypeAlias = tuple[int, int]
"""N of M neighbours that are kept."""

_UPDATES = 100  # masks that are made while the share of zeros grows
_CLEAR = 2.0  # over the share of this time from which on rows and columns are believed in full


@dataclass(kw_only=True, eq=False)
class Prune(Stage):
    """Weights that are 0, more and more of them, while the rest is trained.

    What it changes: the smallest weights of the model's layers (matrices, kernels and tables; with biases:on biases
    too) become 0, exactly `amount` of all of them at the end. *global*: all layers have one threshold; *layer*: the
    same share in each; *lamp*: one threshold for w^2 over the sum of the squares of all weights of the layer that are
    no smaller; *bits*: one threshold for w^2 over the bits that the weight costs in a file, which are fewer where more
    of its row and column are kept. So rows and columns are left full or empty, which a context-mixing coder makes use
    of. importance:gradient multiplies w^2 by the root of the running mean of the weight's squared gradients, plus a
    tenth of its layer's: what the loss would lose, whatever the layer; before the first gradients all are alike.
    *cubic*: between `start` and `until` the share grows as amount (1 - (1 - t)^3); *steep*: what is kept shrinks by
    factors, 1 - (1 - amount)^(1 - (1 - t)^1.5), which leaves the last weights more time where few are kept; *once*: at
    `start`. With group:2:4 of each 4 neighbours along the input 2 are kept. `layers` gives single layers an amount or
    an N:M of their own; with 0 they are left alone. Every layer keeps at least 8 weights but under N:M, where each
    group keeps N; biases may lose all.
    Between two steps the parameters hold the pruned weights, so that the script evaluates and saves them; an
    optimizer's step acts on the weights behind them. With regrow:on these go on moving with the gradient at their place
    (straight through), and one that has grown comes back when the next mask is made; with regrow:off what is 0 stays 0.
    After `until` the mask stays. Weights that the script loads are pruned again, by their size.

    When it helps: for a small file (zeros cost next to nothing there), together with share. Where 95 % and more shall
    be 0, scope:bits,importance:gradient,schedule:steep,regrow:off keeps more of the accuracy. Zeros alone make
    nothing faster: the same products are computed.

    Safety: unsafe; another network is trained. It takes memory for two more copies of the weights.

    Where it does not apply: to norms; to weights that are changed without an optimizer, or computed from others (weight
    normalisation); to averages (EMA) that the script keeps of the weights. Without `steps` only schedule:once from the
    first step on is possible.

    References: Han, Pool, Tran, Dally, Learning both Weights and Connections for Efficient Neural Networks (2015); Zhu,
    Gupta, To prune, or not to prune (2017); Lee et al., Layer-adaptive sparsity for the Magnitude-based Pruning (2021);
    Mishra et al., Accelerating Sparse Deep Neural Networks (2021); LeCun, Denker, Solla, Optimal Brain Damage (1990).
    """

    name = "prune"
    summary = "make the smallest weights 0 while the rest is trained"
    example = "prune=0.9,steps:1000"
    safe = False
    misfit = "no optimizer trains a model that has such layers"
    rank = 30

    amount: float | None = number("share of the weights that are 0 at the end", low=0, high=1, default=None)
    scope: str = choice("what is compared", ("global", "layer", "lamp", "bits"), default="global")
    importance: str = choice("what a weight's square is multiplied by", ("none", "gradient"), default="none")
    schedule: str = choice("how the share grows", ("cubic", "steep", "once"), default="cubic")
    start: float = number("share of the run's steps after which it begins", low=0, high=1, default=0.0)
    until: float = number("share of the run's steps after which the whole amount is 0", low=0, high=1, default=0.5)
    steps: int | None = whole("optimizer steps of the run", default=None)
    group: str | None = text("N:M, where N of M neighbours along the input are kept (2:4)", default=None)
    regrow: bool = switch("weights that are 0 may come back", default=True)
    biases: bool = switch("biases are pruned too", default=False)
    layers: str | None = text(
        "amounts or N:M of single layers, as in fc1=0.95;conv*=2:4;head=0 (0: left alone)", default=None
    )

    _masks: weakref.WeakKeyDictionary[Weight, Tensor] = field(default_factory=weakref.WeakKeyDictionary, init=False)
    _squares: Squares = field(init=False)
    _reached: weakref.WeakKeyDictionary[Model, float] = field(default_factory=weakref.WeakKeyDictionary, init=False)
    _loaded: weakref.WeakSet[Model] = field(default_factory=weakref.WeakSet, init=False)
    _own: Patterns[float | Group] = field(init=False)
    _span: Span = field(init=False)
    _group: Group | None = field(default=None, init=False)

    def check(self) -> None:
        """See `Override`."""
        if self.amount is None and self.group is None:
            raise WellfitError("prune needs an amount or a group: --override prune=0.9,steps:1000")
        once = self.schedule == "once"
        self._span = Span("prune", self.start, self.start if once else self.until, self.steps)
        self._own = Patterns(self.layers, _amount_or_group, "layers of prune")
        if self.group is not None:
            self._group = group_of(self.group, "group of prune")
            others = self.scope != "global" or self.importance != "none"
            if self.amount is not None or self.layers is not None or others:
                raise WellfitError(
                    f"prune=group:{self.group} says itself how many weights are kept: leave out the rest"
                )

    def taken_on(self, model: Model) -> None:
        """See `Stage`."""
        names = [weight.name for weight in model.weights]
        for pattern in self._own.missing(names):
            self.left_out(pattern, f"{model.name} has no such layer")
        for name, why in model.omitted:
            self.left_out(name, why)
        parts = self._parts(model.weights)
        for group in dict.fromkeys(part.group for part in parts):
            same = [part for part in parts if part.group == group]
            weights = [weight for part in same for weight in part.weights]
            what = f"{model.name}: of {_count(weights)} weights in {len(weights)} tensors"
            if group is not None:
                self.changed(f"{what} {group[0]}:{group[1]} are kept along the input{self._span.until}")
            else:
                zeros = sum(_zeros(part.weights, part.amount) for part in same)
                self.changed(f"{what} {zeros} become 0{self._span.until}")

    def begin(self, program: Program) -> None:
        """See `Override`."""
        from wellfit.overrides.slim._saliency import Squares

        super().begin(program)
        self._squares = Squares()

    def see_gradients(self, model: Model) -> None:
        """See `Stage`."""
        if self.importance == "gradient" and self._reached.get(model) != 1.0:
            for weight in model.weights:
                self._squares.see(weight)

    def acts(self, step: int) -> bool:
        """See `Stage`."""
        return step >= self._span.first

    def make(self, model: Model, weights: list[Weight], values: list[Tensor], step: int) -> list[Tensor]:
        """See `Stage`."""
        if not self.regrow:
            values = [self._masked(weight, value) for weight, value in zip(weights, values, strict=True)]
        progress = int(self._span.progress(step) * _UPDATES) / _UPDATES
        if self._reached.get(model) != progress:
            self._reached[model] = progress
            value_of = dict(zip(weights, values, strict=True))
            for part in self._parts(weights):
                self._choose(part, [value_of[weight] for weight in part.weights], progress)
            if model in self._loaded:
                self._loaded.discard(model)
                self._say_loaded(weights, values, step)
        return [self._masked(weight, value) for weight, value in zip(weights, values, strict=True)]

    def loaded(self, model: Model) -> None:
        """See `Stage`."""
        if self._reached.pop(model, None) is not None:
            self._loaded.add(model)
            for weight in model.weights:
                self._masks.pop(weight, None)

    def about(self, weight: Weight) -> dict[str, Any]:
        """See `Stage`."""
        if weight not in self._masks:
            return {}
        return {"pruned": float((weight.data == 0).double().mean())}

    def end(self, program: Program) -> None:
        """See `Override`."""
        super().end(program)
        if self.changes and program.step < self._span.last:
            self.left_out("the whole amount", f"the run ended after step {program.step} of {self._span.last}")

    def _masked(self, weight: Weight, value: Tensor) -> Tensor:
        mask = self._masks.get(weight)
        if mask is None:
            return value
        if not self.regrow and weight.latent is not None:
            weight.latent.mul_(mask)
        return value.masked_fill(~mask, 0)  # not a product: that makes -0 of negative weights, which a file keeps

    def _parts(self, weights: list[Weight]) -> list[_Part]:
        """What is compared with each other, and what becomes of it."""
        parts: list[_Part] = []
        together: list[Weight] = []
        for weight in weights:
            own = self._own.of(weight.name)
            group = own if isinstance(own, tuple) else self._group
            if own == 0 or (weight.is_bias and (not self.biases or group is not None)):
                continue
            if group is not None and weight.data.shape[weight.inputs] < group[1]:
                self.left_out(weight.name, f"it has fewer than {group[1]} inputs")
            elif isinstance(own, tuple):
                parts.append(_Part([weight], 0.0, own))
            elif own is not None or self.scope == "layer":
                parts.append(_Part([weight], own if own is not None else self.amount or 0.0))
            else:
                together.append(weight)
        return [*parts, _Part(together, self.amount or 0.0, self._group)] if together else parts

    def _choose(self, part: _Part, values: list[Tensor], progress: float) -> None:
        import math

        from wellfit.overrides.slim._masks import FEWEST, best, cubic, n_of_m, steep

        weights = part.weights
        count = _count(weights)
        scores = [self._score(weight, value, progress) for weight, value in zip(weights, values, strict=True)]
        fewest = [0 if weight.is_bias else FEWEST for weight in weights]
        all_zeros = _zeros(weights, part.amount)
        if part.group is not None:
            kept = [n_of_m(value, weight.inputs, *part.group) for weight, value in zip(weights, values, strict=True)]
            scores = [score.masked_fill(mask, math.inf) for score, mask in zip(scores, kept, strict=True)]
            all_zeros = sum(int((~mask).sum()) for mask in kept)
            fewest = [0] * len(weights)
        grown = steep(all_zeros / count, progress) * count if self.schedule == "steep" else cubic(all_zeros, progress)
        masks = best(scores, count - round(grown), fewest)
        for weight, mask, least in zip(weights, masks, fewest, strict=True):
            self._masks[weight] = mask
            if progress == 1 and mask.numel() > least == int(mask.sum()) > 0:
                self.left_out(weight.name, f"it keeps {FEWEST} weights, the fewest that a layer keeps")

    def _score(self, weight: Weight, value: Tensor, progress: float) -> Tensor:
        """The higher, the sooner a weight is kept."""
        from wellfit.overrides.slim._masks import lamp
        from wellfit.overrides.slim._saliency import bits, worth

        square = self._squares.of(weight) if self.importance == "gradient" else None
        own = worth(value, square) if self.importance == "gradient" or self.scope == "bits" else value.abs()
        if self.scope == "lamp":
            return lamp(own.sqrt() if self.importance == "gradient" else own)
        mask = self._masks.get(weight)
        if self.scope != "bits" or mask is None:
            return own
        return own / bits(mask, min(1.0, _CLEAR * progress))

    def _say_loaded(self, weights: list[Weight], values: list[Tensor], step: int) -> None:
        """Weights that were saved before the whole amount was 0 lose some that no training makes up for."""
        pairs = [(value, self._masks[weight]) for weight, value in zip(weights, values, strict=True)
                 if weight in self._masks]  # fmt: skip
        lost = sum(int(((value != 0) & ~mask).sum()) for value, mask in pairs)
        if lost:
            self.left_out(
                f"what the script loaded after step {step}",
                f"it has fewer zeros: {lost} weights became 0, and were not trained afterwards",
            )


@dataclass(frozen=True)
class _Part:
    """Weights that are compared with each other.

    Args:
        weights: these.
        amount: the share that becomes 0.
        group: N and M, in the place of an amount.
    """

    weights: list[Weight]
    amount: float
    group: Group | None = None


def group_of(text: str, where: str) -> Group:
    """N and M of "2:4".

    Args:
        where: names it in an error.

    Raises:
        WellfitError: it is written in another way.
    """
    found = re.fullmatch(r"([1-9]\d?):([1-9]\d?)", text)
    if found is None or not int(found[1]) < int(found[2]):
        raise WellfitError(f'{where} is N:M with N below M, both from 1 to 99, as in 2:4, not "{shortened(text)}"')
    return int(found[1]), int(found[2])


def _amount_or_group(text: str, where: str) -> float | Group:
    if ":" in text:
        return group_of(text, where)
    amount: float = parameters_of(Prune)["amount"].value(text, where)
    return amount


def _count(weights: list[Weight]) -> int:
    return sum(weight.data.numel() for weight in weights)


def _zeros(weights: list[Weight], amount: float) -> int:
    return round(amount * _count(weights))
