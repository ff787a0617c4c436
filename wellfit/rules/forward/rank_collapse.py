"""FWD306: features that become the same for all samples on their way through the layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from wellfit.condition import condition
from wellfit.finding import Finding, Fix
from wellfit.record import Layer, Record
from wellfit.record.curves import Floats
from wellfit.rule import Family, Rule
from wellfit.rules.layering import outermost

_KINDS = ("linear", "norm", "recurrent", "attention")


class RankCollapse(Rule):
    """Deep inside the model all samples have the same features, and no layer behind can tell them apart again.

    What it checks
        Batch variation of the outputs of linear, norm, recurrent and attention layers: sqrt(mean over units of the
        variance over the batch) / rms. A hidden layer below `alike` in each of the last `sustained` sampled steps,
        though an earlier layer is above `differ`, in a run that is not doing its job. Layers that give nothing but
        zeros are left to dead-units. The layer named is the first of them.

    Why it hurts
        The gradient of each weight behind that layer is a sum over samples that all look the same, so it knows of the
        mean target only. Depth does this by itself: plain layers with biases, attention without skips and averages over
        neighbours in a graph all draw samples together, a little in each layer.

    Cure
        Give each layer a way around it (residual connections), fewer layers, or batch norm, which pushes samples apart
        again; initialise by the activation, with biases at 0.

    Fix safety
        All of these change the model; judge them by a run from the start.

    When it is wrong
        Targets that do not depend on the sample. A layer whose input is rightly the same for all samples (learned
        queries, position embeddings) is no matter as long as the run learns.

    References
        Dong, Cordonnier, Loukas: Attention is not all you need (2021). Daneshmand et al.: Batch normalization provably
        avoids rank collapse (2020). Li, Han, Wu: Deeper insights into graph convolutional networks (2018).
    """

    code = "FWD306"
    name = "rank-collapse"
    family: ClassVar[Family] = "forward"
    summary = "inside the model all samples get the same features"
    reads = ("activation.variation", "loss")
    consequences = ("output-collapse", "plateau", "underfit", "lr-low", "layer-imbalance")
    fixes = (
        Fix("Put batch norm between the layers", override="norm=batch"),
        Fix("Add a residual connection around each layer", override="residual"),
    )

    alike: float = 3e-3  # batch variation of a hidden layer; healthy runs end above 0.04
    differ: float = 0.1  # batch variation of an earlier layer
    sustained: int = 5  # sampled steps
    steps: int = 50  # steps before a run is judged

    @staticmethod
    def sick() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(120, 16)
        y = (x[:, 0] > 0).long()
        near = ((y[:, None] == y[None, :]) & (torch.rand(120, 120) < 0.1)) | (torch.rand(120, 120) < 0.02)
        near = (near | near.T).float() + torch.eye(120)
        mean = near / near.sum(1, keepdim=True)  # over the neighbours of each node

        class Net(nn.Module):
            def __init__(self, depth: int) -> None:
                super().__init__()
                self.layers = nn.ModuleList([nn.Linear(16, 16) for _ in range(depth)])
                for layer in self.layers:
                    nn.init.orthogonal_(layer.weight)  # type: ignore[arg-type]
                self.head = nn.Linear(16, 2)

            def forward(self, h: torch.Tensor) -> torch.Tensor:
                for layer in self.layers:
                    h = torch.tanh(mean @ layer(h))
                return self.head(h)  # type: ignore[no-any-return]

        model = Net(20)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        for _ in range(150):
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(120, 16)
        y = (x[:, 0] > 0).long()
        near = ((y[:, None] == y[None, :]) & (torch.rand(120, 120) < 0.1)) | (torch.rand(120, 120) < 0.02)
        near = (near | near.T).float() + torch.eye(120)
        mean = near / near.sum(1, keepdim=True)  # over the neighbours of each node

        class Net(nn.Module):
            def __init__(self, depth: int) -> None:
                super().__init__()
                self.layers = nn.ModuleList([nn.Linear(16, 16) for _ in range(depth)])
                for layer in self.layers:
                    nn.init.orthogonal_(layer.weight)  # type: ignore[arg-type]
                self.head = nn.Linear(16, 2)

            def forward(self, h: torch.Tensor) -> torch.Tensor:
                for layer in self.layers:
                    h = torch.tanh(mean @ layer(h))
                return self.head(h)  # type: ignore[no-any-return]

        model = Net(2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        for _ in range(150):
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        how = condition(record)
        if not how.ill or record.step_count < self.steps:
            return
        first = self._first_alike(record)
        if first is None:
            return
        layer, alike, variation, before = first
        series = record.series("activation", layer.name)
        since = (
            int(series.step[np.flatnonzero(series.b >= self.alike)[-1] + 1]) if (series.b >= self.alike).any() else 0
        )
        when = f"since step {since}" if since else "from the start"
        more = f" and {alike - 1} layers after it" if alike > 2 else " and the layer after it" if alike == 2 else ""
        yield self.finding(
            f"all samples look the same in `{layer.name}`{more} {when}: its output varies by {variation:.1e} of its "
            f"size over the batch ({before:.2g} in earlier layers), so what is behind it can learn the mean target "
            "only; use residual connections, fewer layers or batch norm",
            severity="error", step=since, layer=layer.name, location=layer.location,
            evidence={"variation": variation, "threshold": self.alike, "before": before, "layers": alike,
                      "loss": how.verdict},
            sure=record.finished or record.step_count > 4 * self.steps, from_start=since == 0,
        )  # fmt: skip

    def _first_alike(self, record: Record) -> tuple[Layer, int, float, float] | None:
        """(first hidden layer in which samples are alike, number of such layers, its batch variation, the largest of
        the layers before it)."""
        heads = outermost(record)
        found: list[tuple[Layer, float]] = []
        before = 0.0
        for layer in record.layers.values():
            if layer.kind not in _KINDS or layer.order < 0:
                continue
            last = self._last(record, layer)
            if not len(last):
                continue
            if not found:
                if before >= self.differ and layer.name not in heads and bool(np.all(last < self.alike)):
                    found.append((layer, float(np.median(last))))
                before = max(before, float(np.median(last)))
            elif bool(np.all(last < self.alike)):
                found.append((layer, float(np.median(last))))
        if not found:
            return None
        layer, variation = found[0]
        return layer, len(found), variation, before

    def _last(self, record: Record, layer: Layer) -> Floats:
        """Batch variation at the last sampled steps; none where it is not known of so many, or all is zero."""
        series = record.series("activation", layer.name)
        known = np.isfinite(series.b) & (series.rms > 0)
        last = series.b[known][-self.sustained :]
        return last if len(last) == self.sustained and known[-self.sustained :].all() else np.empty(0)
