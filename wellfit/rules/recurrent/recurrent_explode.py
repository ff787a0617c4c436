"""RNN702: the gradient grows on its way back through time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from wellfit.condition import Condition, condition
from wellfit.finding import Finding, Fix
from wellfit.record import Layer, Record
from wellfit.rule import Family, Rule
from wellfit.rules.fitness import settled
from wellfit.rules.memory import (
    gradient_sizes,
    learned_nothing,
    recurrent_layers,
    state_gain,
    state_weights,
    time_profiles,
)
from wellfit.rules.ratios import update_ratios


class RecurrentExplode(Rule):
    """The gradient of a recurrent layer grows with each moment that it goes back.

    What it checks
    In a run that learns nothing or breaks: (1) the gradient of the layer's input is `back_in_time` times as large in
    the first eighth of time as in the last, and it grows over both halves; (2) the gradient of the weights from state
    to state is over `over_head` times that of the model's last linear layer; (3) once the run has ended: it was over
    `spike` times its own median in a tenth of the samples, though steps were not long (below `long_steps`) and have not
    made the state weights `grown` times as large; (4) the numbers cease to be finite, and a plain layer's weights from
    state to state multiply a state by `gain` or more at each moment, from the start or after short steps. For (1) and
    (2) at least `samples` samples are needed, for (3) twice as many.

    Why it hurts
    The gradient is a product of as many factors as there are moments. Where they are larger than 1 it is astronomically
    large and tells only of the first moments: each step throws away what was learned, or ends in NaN.

    Cure
    Clip the norm of the gradient to about 1, take an LSTM or a GRU, begin with an orthogonal matrix of gain 1 from
    state to state, or shorten the sequences.

    Fix safety
    Clipping keeps what the program means. Another cell or initialisation is another model.

    When it is wrong
    Where the task asks only for the first moments, the gradient is rightly largest there: of a run that learns nothing
    is said.

    References
    Pascanu, Mikolov and Bengio 2013, "On the difficulty of training recurrent neural networks".
    """

    code = "RNN702"
    name = "recurrent-explode"
    family: ClassVar[Family] = "recurrent"
    summary = "the gradient of a recurrent layer grows back through time"
    reads = ("time_profile", "gradient.rms", "parameter.rms", "loss")
    consequences = (
        "exploding",
        "grad-spike",
        "spike",
        "diverged",
        "plateau",
        "non-finite-forward",
        "non-finite-grad",
        "activation-growth",
        "output-collapse",
        "rank-collapse",
        "underfit",
        "oscillation",
        "initial-loss",
        "init-gain",
        "lr-low",
        "lr-high",
    )
    fixes = (
        Fix("Clip the norm of the gradient to 1", override="clip-norm=1.0", safe=True),
        Fix("Take an LSTM or a GRU", override="recurrent=lstm"),
    )

    back_in_time: float = 10.0  # rms of the gradient in the first eighth of time over the last; healthy: to 2.5
    over_head: float = 100.0  # rms of the state weights' gradient over the last layer's; healthy: to 1.9, ill: 1e6
    spike: float = 100.0  # upper tenth of the state weights' gradients over their median; healthy: to 17, ill: 550
    long_steps: float = 0.1  # median of rms(update) / rms(weight): then it is the learning rate that makes spikes
    grown: float = 5.0  # rms of a state weight over that of its beginning; healthy: to 2, at 100 times the rate: 44
    gain: float = 1.3  # rms(W) sqrt(units) of the state weights; healthy: to 1.1, gated ones to 1.8
    samples: int = 5  # sampled steps
    steps: int = 200  # steps after which a verdict on how the run fares stands

    @staticmethod
    def sick() -> None:
        import torch
        from torch import nn

        class Recall(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.memory = nn.RNN(4, 32, batch_first=True)
                with torch.no_grad():
                    self.memory.weight_hh_l0.copy_(0.5 * torch.randn(32, 32))  # type: ignore[operator]
                self.head = nn.Linear(32, 1)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                states, _ = self.memory(x)
                return self.head(states[:, -1]).squeeze(1)  # type: ignore[no-any-return]

        torch.manual_seed(0)
        model = Recall()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for _ in range(100):
            x = torch.randn(32, 40, 4)
            loss = nn.functional.mse_loss(model(x), x[:, :20, 0].mean(1) * 4)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from torch import nn

        class Recall(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.memory = nn.GRU(4, 32, batch_first=True)
                self.head = nn.Linear(32, 1)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                states, _ = self.memory(x)
                return self.head(states[:, -1]).squeeze(1)  # type: ignore[no-any-return]

        torch.manual_seed(0)
        model = Recall()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(150):
            x = torch.randn(32, 20, 4)
            loss = nn.functional.mse_loss(model(x), x[:, :, 0].mean(1) * 4)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        layers = recurrent_layers(record)
        if not layers:
            return
        state = condition(record)
        if not learned_nothing(record, state):
            return
        for layer in layers:
            found = self._shown(record, layer, state)
            if found is not None:
                yield self._told(record, layer, state, *found)
                return

    def _shown(self, record: Record, layer: Layer, state: Condition) -> tuple[str, float] | None:
        """What shows that gradients explode, in words, and how much."""
        profiles = time_profiles(record, layer)
        if len(profiles) >= self.samples:
            first, middle, last = (float(np.median(profiles[:, part])) for part in (0, 4, 7))
            half = math.sqrt(self.back_in_time)
            if first > half * middle > half * half * last > 0:
                return f"at the first moments it is {first / last:.3g} times what it is at the last", first / last
        names = [name for name in state_weights(layer) if len(gradient_sizes(record, name)) >= self.samples]
        for name in names:
            ratio = self._over_head(record, layer, name)
            if ratio > self.over_head:
                return f"that of `{name}` is {ratio:.3g} times that of the last layer", ratio
        short = update_ratios(record).typical() < self.long_steps
        if record.finished and short:
            for name in names:
                size = gradient_sizes(record, name)
                ratio = float(np.quantile(size, 0.9) / np.median(size))
                if len(size) >= 2 * self.samples and ratio > self.spike and not self._has_grown(record, name):
                    return f"a tenth of those of `{name}` are over {ratio:.3g} times the median", ratio
        if state.verdict == "non-finite" and layer.class_name.startswith("RNN"):
            sizes = [(state_gain(record, name), self._first_gain(record, name)) for name in state_weights(layer)]
            gain = max((now if short else min(now, first) for now, first in sizes), default=math.nan)
            if gain > self.gain:
                return f"its weights multiply a state by about {gain:.3g} at each moment", gain
        return None

    def _has_grown(self, record: Record, name: str) -> bool:
        """Whether a state weight is far larger than at the beginning: then it is the learning rate that is to blame."""
        return state_gain(record, name) > self.grown * self._first_gain(record, name)

    def _first_gain(self, record: Record, name: str) -> float:
        """By how much a state weight multiplies a state when training begins; NaN if that is not known."""
        parameter = record.parameters.get(name)
        if parameter is None or len(parameter.shape) != 2:
            return math.nan
        return parameter.initial.rms * math.sqrt(parameter.shape[1])

    def _over_head(self, record: Record, layer: Layer, name: str) -> float:
        """Median of rms(gradient) of a state weight over that of the last linear layer called after it."""
        layers = record.layers
        heads = [other for other in layers.values() if other.kind == "linear" and other.order > layer.order]
        weights = [n for n in heads[-1].parameters if _is_matrix(record, n)] if heads else []
        if not weights:
            return math.nan
        ours, theirs = record.series("gradient", name), record.series("gradient", weights[0])
        _, here, there = np.intersect1d(ours.step, theirs.step, return_indices=True)
        with np.errstate(all="ignore"):
            ratio = ours.rms[here] / theirs.rms[there]
        ratio = ratio[np.isfinite(ratio)]
        return float(np.median(ratio)) if len(ratio) >= self.samples else math.nan

    def _told(self, record: Record, layer: Layer, state: Condition, shows: str, size: float) -> Finding:
        fares = "the loss is not finite" if state.verdict == "non-finite" else "nothing is learned"
        return self.finding(
            f"the gradient of `{layer.name}` explodes back through time: {shows}, so steps follow the first moments "
            f"only and {fares}; clip the norm of the gradient, or take an LSTM or GRU",
            severity="error", step=0, layer=layer.name, location=layer.location,
            evidence={"size": size, "verdict": state.verdict, "end": state.end, "chance": state.chance},
            sure=state.verdict == "non-finite" or settled(record, self.steps),
        )  # fmt: skip


def _is_matrix(record: Record, name: str) -> bool:
    parameter = record.parameters.get(name)
    return parameter is not None and len(parameter.shape) == 2
