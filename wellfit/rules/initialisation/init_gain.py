"""INI202: weights begin much too large or too small."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from wellfit.condition import condition
from wellfit.finding import Finding, Fix, Location
from wellfit.record import Layer, Parameter, Record
from wellfit.rule import Rule
from wellfit.rules.fitness import fits_poorly, settled
from wellfit.rules.initial_weights import InitialWeight, bias_set, initial_weights
from wellfit.source import init_call

_INITIALISERS = (
    "normal_", "uniform_", "trunc_normal_", "xavier_normal_", "xavier_uniform_", "kaiming_normal_", "kaiming_uniform_",
    "orthogonal_", "mul_", "randn", "randn_like", "constant_", "fill_",
)  # fmt: skip


class InitGain(Rule):
    """Weights (or biases) begin so large or so small that signals explode, saturate or die on their way.

    What it checks
        The gain rms(w) * sqrt(fan-in) of each linear layer when training begins (0.58 by torch's default, 1.41 by He):
        above `gain_high` where the layer's output really has an rms above `output_high`, or below `gain_low` in at
        least `small_share` of the layers. The same gain of the weights by which a recurrent layer meets its own last
        state: above `recurrent_high`. And biases that switch a whole ReLU layer off: `off_share` of its outputs
        are 0 at step 0 while the bias is larger than its weights make the pre-activation.

    Why it hurts
        Too large: tanh and sigmoid saturate, softmax is sure of a wrong answer, the first steps only undo this. Too
        small: activations and gradients shrink from layer to layer until nothing arrives.

    Cure
        Leave torch's default, or use `nn.init.kaiming_normal_` (ReLU) or `nn.init.xavier_uniform_` (tanh, sigmoid).

    Fix safety
        Unsafe: the run begins elsewhere.

    When it is wrong
        Layers before a normalisation forgive any scale and are left out, and so are weights that are zero. Small
        weights are an error only while the loss does not fall, and a note in a model that normalises anywhere.

    References
        Glorot and Bengio (2010); He et al. (2015); SageMaker Debugger and TheDeepChecker use absolute ranges.
    """

    code = "INI202"
    name = "init-gain"
    family = "initialisation"
    summary = "weights begin much too large or too small for their fan-in"
    reads = ("parameter", "activation", "loss")
    consequences = (
        "initial-loss",
        "saturated",
        "dead-units",
        "vanishing",
        "exploding",
        "plateau",
        "lr-low",
        "activation-growth",
        "output-collapse",
        "rank-collapse",
        "zero-grad-param",
        "diverged",
        "overflow-near",
        "recurrent-explode",
        "gates-stuck",
        "forgets",
    )
    fixes = (Fix("Initialise by Kaiming or Xavier", override="init=he"),)

    gain_high: float = 4.0  # rms(w) sqrt(fan-in); He 1.41, healthy runs up to 2.5
    output_high: float = 5.0  # rms of a linear layer's output at step 0; healthy runs up to 3
    gain_low: float = 0.12  # rms(w) sqrt(fan-in); GPT's 0.02 at width 64 gives 0.16
    recurrent_high: float = 3.0  # rms(w) sqrt(state size); torch 0.58, orthogonal 1, He 1.41, healthy runs up to 1.7
    small_share: float = 0.5  # share of linear layers that are small
    off_share: float = 0.95  # share of outputs of a ReLU layer that are 0 at step 0; healthy 0.3 to 0.7
    unlearned: float = 0.7  # share of the first loss that is left
    steps: int = 100  # steps before the fit of a growing run is judged

    @staticmethod
    def sick() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(256, 64)
        y = (x[:, 0] > 0).long()
        model = nn.Sequential(nn.Linear(64, 100), nn.Tanh(), nn.Linear(100, 100), nn.Tanh(), nn.Linear(100, 2))
        for layer in model:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=1.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for _ in range(60):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(256, 64)
        y = (x[:, 0] > 0).long()
        model = nn.Sequential(nn.Linear(64, 100), nn.Tanh(), nn.Linear(100, 100), nn.Tanh(), nn.Linear(100, 2))
        for layer in model:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for _ in range(60):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        recurrent = self._recurrent(record)
        if recurrent is not None:
            yield recurrent
            return
        weights = [w for w in initial_weights(record) if w.gain > 0 and not self._normed(record, w)]
        if not weights:
            return
        large = [w for w in weights if w.gain > self.gain_high and self._output(record, w.layer) > self.output_high]
        small = [w for w in weights if w.gain < self.gain_low and w.parameter.initial.std > 0]
        poor = fits_poorly(condition(record), self.unlearned)
        norms = any(layer.kind == "norm" and layer.order >= 0 for layer in record.layers.values())
        if large:
            yield self._large(record, large, poor, len(weights))
        elif not norms and len(small) >= 2 and len(small) >= self.small_share * len(weights):
            yield self._small(record, small, poor, len(weights))
        off = self._switched_off(record)
        if off is not None:
            yield off

    def _normed(self, record: Record, weight: InitialWeight) -> bool:
        """Whether a norm layer is the next that is called: it forgives any scale."""
        after = [
            layer for layer in record.layers.values() if layer.order > weight.layer.order and layer.kind != "container"
        ]
        return bool(after) and after[0].kind == "norm"

    def _output(self, record: Record, layer: Layer) -> float:
        """rms of a layer's output at step 0; NaN if it was not seen."""
        series = record.series("activation", layer.name)
        return float(series.rms[0]) if len(series) and series.step[0] == 0 else math.nan

    def _large(self, record: Record, large: list[InitialWeight], poor: bool, layers: int) -> Finding:
        worst = max(large, key=lambda weight: weight.gain)
        head = large[-1] if large[-1].layer.activation in (None, "softmax", "log_softmax") else None
        certain = poor or len(large) >= 2 or head is not None
        return self.finding(
            f"the weights of `{worst.layer.name}` begin too large: rms {worst.parameter.initial.rms:.3g} with a "
            f"fan-in of {worst.fan_in:g} multiplies its input by {worst.gain:.3g} ({len(large)} of {layers} layers "
            "are so), so activations saturate or explode before the first step; use Xavier or Kaiming initialisation",
            severity="error" if certain else "note", step=0, layer=worst.layer.name,
            location=self._where(record, worst),
            evidence={"gain": worst.gain, "output_rms": self._output(record, worst.layer), "gain_high": self.gain_high,
                      "layers": len(large)},
            sure=certain and (len(large) >= 2 or settled(record, self.steps)),
        )  # fmt: skip

    def _recurrent(self, record: Record) -> Finding | None:
        """A recurrent layer whose state, given back to it, comes out of its weights many times as large."""
        gains = {
            parameter: parameter.initial.rms * math.sqrt(parameter.shape[1])
            for parameter in record.parameters.values()
            if len(parameter.shape) == 2 and "weight_hh" in parameter.name and self._is_recurrent(record, parameter)
        }
        worst = max(gains, key=lambda parameter: gains[parameter], default=None)
        if worst is None or not gains[worst] > self.recurrent_high:
            return None
        layer = record.layers[worst.layer]
        return self.finding(
            f"`{worst.name}`, by which `{layer.name}` meets its own last state, begins too large: rms "
            f"{worst.initial.rms:.3g} over {worst.shape[1]} units multiplies the state by {gains[worst]:.3g} at each "
            "moment, so gates and units saturate from the first sequence on; leave torch's default, or use an "
            "orthogonal initialisation",
            severity="error", step=0, layer=layer.name,
            location=init_call(record, _INITIALISERS, "weight") or layer.location,
            evidence={"gain": gains[worst], "recurrent_high": self.recurrent_high},
            sure=settled(record, self.steps),
        )  # fmt: skip

    def _is_recurrent(self, record: Record, parameter: Parameter) -> bool:
        layer = record.layers.get(parameter.layer)
        return layer is not None and layer.kind == "recurrent" and layer.order >= 0

    def _small(self, record: Record, small: list[InitialWeight], poor: bool, layers: int) -> Finding:
        worst = min(small, key=lambda weight: weight.gain)
        return self.finding(
            f"the weights of `{worst.layer.name}` begin too small: rms {worst.parameter.initial.rms:.3g} with a "
            f"fan-in of {worst.fan_in:g} multiplies its input by {worst.gain:.3g} ({len(small)} of {layers} layers "
            "are so), so signals and gradients fade on their way; use Xavier or Kaiming initialisation",
            severity="error" if poor else "note", step=0, layer=worst.layer.name, location=self._where(record, worst),
            evidence={"gain": worst.gain, "gain_low": self.gain_low, "layers": len(small)},
            sure=settled(record, self.steps),
        )  # fmt: skip

    def _switched_off(self, record: Record) -> Finding | None:
        """A ReLU layer whose bias keeps nearly all of its units at 0 from the start."""
        for weight in initial_weights(record):
            layer = weight.layer
            series = record.series("activation", layer.name)
            if layer.activation != "relu" or not len(series) or series.step[0] != 0:
                continue
            biases = [record.parameters[n] for n in layer.parameters if n in record.parameters]
            bias = next((b for b in biases if len(b.shape) == 1), None)
            off, std = float(series.low_share[0]), float(series.std[0])
            if bias is None or not off > self.off_share or not bias.initial.rms > 2 * std or series.mean[0] > 0:
                continue
            return self.finding(
                f"the biases of `{layer.name}` begin at {-bias.initial.rms:.3g}, below what its weights can make up "
                f"for (std {std:.3g}): {100 * off:.0f} % of its ReLU outputs are 0 before the first step, so it gets "
                "no gradient; begin biases at 0",
                severity="error", step=0, layer=layer.name,
                location=bias_set(record) or layer.location,
                evidence={"bias_rms": bias.initial.rms, "weighted_std": std, "off": off, "off_share": self.off_share},
            )  # fmt: skip
        return None

    def _where(self, record: Record, weight: InitialWeight) -> Location | None:
        fan = weight.fan_in or 1
        default = np.isclose(weight.parameter.initial.rms, 1 / math.sqrt(3 * fan), rtol=0.05)
        found = None if default else init_call(record, _INITIALISERS, "weight")
        return found or weight.layer.location
