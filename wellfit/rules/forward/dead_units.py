"""Units of a ReLU layer that never answer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from wellfit.condition import condition
from wellfit.finding import Finding, Fix, Location
from wellfit.record import Layer, Record, Series
from wellfit.rule import Rule
from wellfit.rules.initial_weights import bias_set
from wellfit.rules.layering import activation_place, answers_alike, outermost

_RELU = ("relu", "relu6", "threshold")
_SAME = 0.01  # standard deviation over rms of numbers that are all the same


class DeadUnits(Rule):
    """ReLU units that give 0 for every sample, batch after batch.

    What it checks
        The share of a layer's units (channels of a convolution) that were 0 for every element of the last 20 sampled
        batches. Above `dead_share` in a hidden layer, for the last `sustained` samples, is a finding; so is a layer of
        which no unit spoke in the last `mute` samples. It is an error when the run is not doing its job, or when a
        layer is dead altogether and the model gives the same answer for all inputs; else a note.

    Why it hurts
        A unit that is 0 for all inputs has a gradient of 0: it will never come back, and all that leads to it alone
        gets no gradient either. A whole layer of such units cuts the model in two.

    Cure
        Start the biases at 0 and the weights with He's initialisation, lower the learning rate (one step that is too
        long throws units out of reach of the data), standardise the inputs, or use LeakyReLU or GELU.

    Fix safety
        A lower learning rate means the same program. Another activation is another model: it has to be trained again.

    When it is wrong
        Sparse models and bottlenecks of autoencoders keep many units silent on purpose; healthy ones were seen with up
        to 53 %. Data that changes a lot over time may wake units that slept for 20 batches.

    References
        Lu, Shin, Su, Karniadakis: Dying ReLU and initialization (2019). SageMaker Debugger, rule DeadRelu.
    """

    code = "FWD302"
    name = "dead-units"
    family = "forward"
    summary = "ReLU units that give 0 for every sample and cannot learn any more"
    reads = ("activation.silent", "output.variation", "loss")
    consequences = (
        "zero-grad-param",
        "output-collapse",
        "rank-collapse",
        "vanishing",
        "plateau",
        "never-updated",
        "lr-low",
    )
    fixes = (
        Fix("Divide the learning rate by 10", override="lr=scale:0.1", safe=True),
        Fix("Use LeakyReLU in place of ReLU", override="activation=leaky-relu"),
    )

    dead_share: float = 0.6  # share of units; healthy runs reach 0.53 (an autoencoder), faulty ones 0.52 .. 1
    sustained: int = 3  # sampled steps for which the share stays above, each looking back on 20 batches
    mute: int = 5  # last sampled steps in which no unit of a layer spoke; then 20 batches are not waited for
    same_answer: float = 0.02  # batch variation of the output below which all inputs get one answer; healthy: >= 0.097

    @staticmethod
    def sick() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(256, 8)
        y = (x[:, 0] > 0).long()
        hidden = nn.Linear(8, 64)
        nn.init.constant_(hidden.bias, -8.0)
        model = nn.Sequential(hidden, nn.ReLU(), nn.Linear(64, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(80):
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(256, 8)
        y = (x[:, 0] > 0).long()
        model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(80):
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        ends = outermost(record)
        layers = [(layer, record.series("activation", layer.name)) for layer in _rectified(record)]
        dead = [(layer, series, share) for layer, series in layers if (share := self._share(series)) > 0]
        # A ReLU on the output may well be 0 for some units; only one that is 0 altogether is dead.
        sick = [d for d in dead if d[2] > (0.99 if d[0].name in ends else self.dead_share)]
        if not sick:
            return
        layer, series, share = next((d for d in sick if d[2] >= 1), sick[0])
        how = condition(record)
        cut = share >= 1 and answers_alike(record, self.same_answer)
        known = len(_ages(series)) >= self.sustained or record.finished
        units = f"{share:.0%}" + (f" of its {count} units" if (count := _units(layer)) else " of its units")
        others = f" ({len(sick)} of {len(layers)} such layers)" if len(sick) > 1 else ""
        batches = "20 batches" if len(_ages(series)) >= self.sustained else f"the last {self.mute} sampled batches"
        yield self.finding(
            f"`{layer.name}` is dead{others}: {units} gave 0 for {batches}, so they get no gradient and never learn "
            "again; start biases at 0, lower the learning rate or use LeakyReLU",
            severity="error" if how.ill or cut else "note",
            step=_since(series, self.dead_share),
            layer=layer.name,
            location=_bias_line(record, layer)
            or (activation_place(record, layer) if layer.activation_location else layer.location),
            evidence={
                "dead_share": share,
                "threshold": self.dead_share,
                "layers": len(sick),
                "output_alike": int(cut),
                "loss": how.verdict,
            },
            sure=known,
            from_start=share >= 1 and _mute_at_first(record, layer),
        )

    def _share(self, series: Series) -> float:
        """The lowest share of silent units over the last samples; 0 before 20 batches were seen, unless none speaks."""
        ages = _ages(series)
        if _mute(series, self.mute):
            return 1.0
        return float(ages[-self.sustained :].min()) if len(ages) else 0.0


def _ages(series: Series) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Shares of silent units from the 20th measured batch on."""
    ages: np.ndarray[tuple[int], np.dtype[np.float64]] = series.a[np.isfinite(series.a)]
    return ages[18:]  # of a functional ReLU the first batch is not measured: which function follows is not known yet


def _bias_line(record: Record, layer: Layer) -> Location | None:
    """The line that sets biases to a number, where those of the layer began as one that is not 0."""
    biases = [record.parameters[name] for name in layer.parameters if name in record.parameters]
    bias = next((one for one in biases if len(one.shape) == 1 and one.name.endswith("bias")), None)
    if bias is None or not bias.initial.rms > 0 or bias.initial.std > _SAME * bias.initial.rms:
        return None
    return bias_set(record)


def _mute(series: Series, samples: int) -> bool:
    """Whether all of so many last samples were 0 in all units: more is not needed to call them dead."""
    last = series.low_share[-samples:]
    return len(last) == samples and bool(np.all(last >= 1))


def _mute_at_first(record: Record, layer: Layer) -> bool:
    """Whether a ReLU module, here or behind the layer, gave nothing but 0 in the very first batch."""
    here = (each for each in record.layers.values() if each.order in (layer.order, layer.order + 1))
    relus = [record.series("activation", each.name) for each in here if each.kind == "activation"]
    return any(len(series) and series.step[0] == 0 and series.low_share[0] >= 1 for series in relus)


def _since(series: Series, limit: float) -> int:
    """The step at which the 20 batches of silence began that first brought the share above the limit."""
    above = np.flatnonzero(series.a > limit)
    if len(above):
        return int(series.step[max(int(above[0]) - 19, 0)])
    speaking = np.flatnonzero(series.low_share < 1)
    return int(series.step[min(int(speaking[-1]) + 1, len(series) - 1)]) if len(speaking) else 0


def _rectified(record: Record) -> list[Layer]:
    """Layers followed by a ReLU, and ReLU modules that do not follow such a layer at once."""
    called = [layer for layer in record.layers.values() if layer.order >= 0 and layer.activation in _RELU]
    weighted = {layer.order for layer in called if layer.kind != "activation"}
    return [layer for layer in called if layer.kind != "activation" or layer.order - 1 not in weighted]


def _units(layer: Layer) -> int:
    found = [layer.attributes.get(key) for key in ("out_features", "out_channels", "num_features")]
    return next((size for size in found if isinstance(size, int)), 0)
