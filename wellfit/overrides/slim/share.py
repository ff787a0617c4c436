"""A few values that all weights of a layer share."""

from __future__ import annotations

import functools
import weakref
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from wellfit.overrides.parameters import choice, number, parameters_of, switch, text, whole
from wellfit.overrides.slim._patterns import Patterns
from wellfit.overrides.slim._span import Span
from wellfit.overrides.slim._stage import Stage

if TYPE_CHECKING:
    from torch import Tensor

    from wellfit.overrides.program import Program
    from wellfit.overrides.slim._saliency import Squares
    from wellfit.overrides.slim._weights import Model, Weight

_FEW = 4  # a tensor has so many values for each of its clusters at least, but for two clusters


@dataclass(eq=False)
class _Shared:
    """The clusters of a weight.

    Attributes:
        alive: which values are not 0: the clusters are theirs.
        numbers: for each of these the number of its cluster.
        count: how many clusters there are.
        made: after which step they were found.
    """

    alive: Tensor
    numbers: Tensor
    count: int
    made: int

    @functools.cached_property
    def places(self) -> Tensor:
        """Where the values that are not 0 stand in the flat tensor."""
        return self.alive.flatten().nonzero()[:, 0]


@dataclass(kw_only=True, eq=False)
class Share(Stage):
    """A few values that all weights of a layer share.

    What it changes: from `start` on each layer's weights (matrices, kernels and tables; with biases:on biases too) have
    no more than `values` different values besides 0. They are found by k-means, from a start at equal distances between
    the smallest and the largest. From then on the weights of a cluster move together: its value is the mean of the
    weights behind it, on which the optimizer's steps act. gradient:each gives each of these its own gradient, so that
    the value moves by the mean of the steps; with *mean* or *sum* all of a cluster get the mean or the sum of their
    gradients, as Deep Compression has it. Clusters stay as they are unless `again` lets each weight go to the cluster
    that fits it every so many steps, up to `until`; a value that all have left is gone.
    With `rate` a weight may go to a cluster that is farther away and has more weights, where that saves bits in a file
    that is entropy coded: weighted squared error + rate * bits is made small, in units of the layer's variance;
    importance:gradient weighs by the root of the mean square of each weight's gradient. What is 0 stays 0. A small
    tensor gets fewer values: one for 4 weights, at least 2. `layers` gives single layers a number of their own; with 0
    they are left alone.

    When it helps: for a small file: 16 values take 4 bits, and less where they are entropy coded.

    Safety: unsafe; the weights are rounded. It takes memory for two more copies of the weights.

    Where it does not apply: to norms; to weights that are changed without an optimizer, or computed from others (weight
    normalisation); to averages (EMA) that the script keeps of the weights.

    References: Han, Mao, Dally, Deep Compression (2016), section 3; Choi, El-Khamy, Lee, Towards the Limit of Network
    Quantization (2017).
    """

    name = "share"
    summary = "let all weights of a layer share a few values"
    example = "share=16"
    safe = False
    misfit = "no optimizer trains a model that has such layers"
    rank = 31

    values: int = whole("different values of a layer's weights, besides 0", low=1, high=4096, default=16)
    start: float = number("share of the run's steps after which it begins", low=0, high=1, default=0.0)
    steps: int | None = whole("optimizer steps of the run, where start is not 0", default=None)
    gradient: str = choice("of the weights in a cluster", ("each", "mean", "sum"), default="each")
    again: int | None = whole("let weights change their clusters every so many steps", low=1, default=None)
    until: float = number("share of the run's steps after which they change no more", low=0, high=1, default=1.0)
    rate: float = number("price of a bit, in units of the layer's variance", low=0, default=0.0)
    importance: str = choice("what an error is weighed by", ("none", "gradient"), default="none")
    biases: bool = switch("biases are shared too", default=False)
    layers: str | None = text("numbers for single layers, as in fc1=32;head=0 (0: left alone)", default=None)

    _own: Patterns[float] = field(init=False)
    _span: Span = field(init=False)
    _shared: weakref.WeakKeyDictionary[Weight, _Shared] = field(default_factory=weakref.WeakKeyDictionary, init=False)
    _squares: Squares = field(init=False)

    def check(self) -> None:
        """See `Override`."""
        self._span = Span("share", self.start, self.start, self.steps)
        self._own = Patterns(self.layers, replace(parameters_of(Share)["values"], low=0).value, "layers of share")

    def begin(self, program: Program) -> None:
        """See `Override`."""
        from wellfit.overrides.slim._saliency import Squares

        super().begin(program)
        self._squares = Squares()

    def taken_on(self, model: Model) -> None:
        """See `Stage`."""
        for pattern in self._own.missing([weight.name for weight in model.weights]):
            self.left_out(pattern, f"{model.name} has no such layer")
        for name, why in model.omitted:
            self.left_out(name, why)
        count = sum(self._most(weight) > 0 for weight in model.weights)
        if count:
            when = f" after step {self._span.first}" if self._span.first else ""
            self.changed(f"{model.name}: {count} tensors have up to {self.values} values each{when}")

    def acts(self, step: int) -> bool:
        """See `Stage`."""
        return step >= self._span.first

    def make(self, model: Model, weights: list[Weight], values: list[Tensor], step: int) -> list[Tensor]:
        """See `Stage`."""
        pairs = zip(weights, values, strict=True)
        return [self._made(weight, value, step) if self._most(weight) else value for weight, value in pairs]

    def loaded(self, model: Model) -> None:
        """See `Stage`."""
        for weight in model.weights:
            self._shared.pop(weight, None)

    def see_gradients(self, model: Model) -> None:
        """See `Stage`."""
        for weight in model.weights:
            gradient = weight.gradient
            if gradient is None or not self._most(weight):
                continue
            if self.importance == "gradient":
                self._squares.see(weight)
            shared = self._shared.get(weight)
            if shared is not None and self.gradient != "each":
                self._together(shared, gradient)

    def about(self, weight: Weight) -> dict[str, Any]:
        """See `Stage`."""
        import torch

        if weight not in self._shared:
            return {}
        found = torch.unique(weight.data)
        return {"shared": int((found != 0).sum())}

    def end(self, program: Program) -> None:
        """See `Override`."""
        super().end(program)
        if self.changes and program.step < self._span.first:
            self.left_out("all of it", f"the run ended after step {program.step}, before step {self._span.first}")

    def _most(self, weight: Weight) -> int:
        """How many values a tensor may have; 0 where it is left alone."""
        own = self._own.of(weight.name)
        if own is None and weight.is_bias and not self.biases:
            return 0
        most = self.values if own is None else int(own)
        return min(most, max(2, weight.data.numel() // _FEW))

    def _made(self, weight: Weight, value: Tensor, step: int) -> Tensor:
        import torch

        from wellfit.overrides.slim._clusters import means, moved

        shared = self._shared.get(weight)
        alive = value != 0
        if shared is None or not shared.count:
            shared = self._found(weight, value, alive, step)
        else:
            if not torch.equal(shared.alive, alive):
                shared = self._followed(weight, shared, value, alive, step)
            if shared.count and self._is_due(shared, step):
                weighed = self._importance(weight, alive)
                centres, numbers = moved(value[alive], shared.numbers, shared.count, weighed, self.rate)
                shared = _Shared(alive, numbers, len(centres), step)
        self._shared[weight] = shared
        if not shared.count:
            return value
        # What is not alive is 0: by places, as a mask of a pruned layer takes far longer to be applied.
        live = value.flatten()[shared.places]
        centres = means(live, shared.numbers, shared.count)
        made = torch.zeros_like(value).flatten()
        made[shared.places] = centres.to(value.dtype)[shared.numbers]
        return made.view(value.shape)

    def _is_due(self, shared: _Shared, step: int) -> bool:
        """Whether weights may change their clusters now."""
        if self.again is None or step < shared.made + self.again:
            return False
        return self.steps is None or step <= self.until * self.steps

    def _found(self, weight: Weight, value: Tensor, alive: Tensor, step: int) -> _Shared:
        import torch

        from wellfit.overrides.slim._clusters import clusters

        live = value[alive]
        if not bool(live.isfinite().all()):
            self.left_out(weight.name, f"after step {step} some of its weights were not finite")
            return _Shared(alive, live.long(), 0, step)
        distinct, numbers = torch.unique(live, return_inverse=True)
        if len(distinct) <= 1:  # biases before the first step, say: there is nothing to find out yet
            return _Shared(alive, live.long(), 0, step)
        if len(distinct) <= self._most(weight):  # they are shared already, in a file that the run began with, say
            return _Shared(alive, numbers, len(distinct), step)
        centres, numbers = clusters(live, self._most(weight), self._importance(weight, alive), self.rate)
        return _Shared(alive, numbers, len(centres), step)

    def _importance(self, weight: Weight, alive: Tensor) -> Tensor | None:
        from wellfit.overrides.slim._saliency import curvature

        square = self._squares.of(weight) if self.importance == "gradient" else None
        return None if square is None else curvature(square)[alive]

    def _followed(self, weight: Weight, shared: _Shared, value: Tensor, alive: Tensor, step: int) -> _Shared:
        """The clusters where other weights are 0 now: one that comes back goes to the nearest."""
        import torch

        from wellfit.overrides.slim._clusters import means, nearest

        numbers = torch.full(value.shape, -1, dtype=torch.int64, device=value.device)
        numbers[shared.alive] = shared.numbers
        stays = alive & (numbers >= 0)
        if not bool(stays.any()):
            return self._found(weight, value, alive, step)
        there, renamed = torch.unique(numbers[stays], return_inverse=True)
        centres, order = means(value[stays], renamed, len(there)).sort()
        place = order.argsort()
        numbers[stays] = place[renamed]
        new = alive & ~stays
        numbers[new] = nearest(value[new].double(), centres)
        return _Shared(alive, numbers[alive], len(centres), shared.made)

    def _together(self, shared: _Shared, gradient: Tensor) -> None:
        """Give all weights of a cluster the mean, or the sum, of their gradients."""
        import torch

        if not shared.count:
            return
        live = gradient[shared.alive].double()
        sums = torch.bincount(shared.numbers, live, shared.count)
        if self.gradient == "mean":
            sums = sums / torch.bincount(shared.numbers, minlength=shared.count).clamp_min(1)
        gradient[shared.alive] = sums[shared.numbers].to(gradient.dtype)
