"""FWD304: activations that grow from step to step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wellfit.condition import condition
from wellfit.finding import Finding, Fix
from wellfit.record import Layer, Record
from wellfit.rule import Family, Rule
from wellfit.rules.fitness import settled
from wellfit.rules.layering import outermost

_KINDS = ("linear", "activation", "norm", "attention", "embedding")


@dataclass(frozen=True)
class _Growth:
    """A layer whose output grew `factor`-fold from what it was `early`, beyond the threshold from step `since` on."""

    layer: Layer
    factor: float
    early: float
    since: int


class ActivationGrowth(Rule):
    """What flows through the model grows during training, and the loss does not come down with it.

    What it checks
        rms of each hidden layer's output: the least of the last `sustained` finite samples above `growth` times its
        median over the first samples after the warm-up. Told in a run that is not doing its job. Heads are left out:
        logits grow as a model becomes sure. The layer named is the first that grew, in the order of calls.

    Why it hurts
        Large activations make large gradients, which make larger weights. Softmax, sigmoid and attention behind them
        saturate, half precision overflows, and the loss leaps or goes to infinity.

    Cure
        Normalise before the layer that is named (in attention: queries and keys), lower the learning rate or warm it
        up, clip the gradient, and use weight decay.

    Fix safety
        A lower learning rate and clipping keep what the program means; a normalisation is another model.

    When it is wrong
        Networks that begin near zero (zero-initialised branches) grow rightly at first: the first `warm_up` steps do
        not count, and a run that learns is never told.

    References
        Wortsman et al. 2023, "Small-scale proxies for large-scale transformer training instabilities". Dehghani et al.
        2023, "Scaling vision transformers to 22 billion parameters". AutoTrainer and TheDeepChecker have
        such a check with absolute bounds.
    """

    code = "FWD304"
    name = "activation-growth"
    family: ClassVar[Family] = "forward"
    summary = "activations grow from step to step without the loss falling"
    reads = ("activation.rms", "loss")
    consequences = (
        "saturated",
        "overflow-near",
        "non-finite-forward",
        "non-finite-grad",
        "grad-spike",
        "spike",
        "oscillation",
        "diverged",
        "plateau",
    )
    fixes = (
        Fix("Divide the learning rate by 10", override="lr=scale:0.1", safe=True),
        Fix("Clip the norm of the gradient", override="clip-norm=1.0", safe=True),
        Fix("Put a normalisation behind the hidden layers", override="norm=layer"),
    )

    growth: float = 50.0  # rms over its first; hidden layers of healthy runs end below 38, of diverging ones above 1000
    warm_up: int = 10  # steps
    first: int = 5  # samples that are the beginning
    sustained: int = 3  # last samples
    steps: int = 200  # steps after which a verdict on the run stands

    @staticmethod
    def sick() -> None:
        import torch
        from torch import nn

        class Block(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.up = nn.Linear(32, 64)
                self.down = nn.Linear(64, 32)

            def forward(self, x):
                return x + self.down(torch.relu(self.up(x)))

        torch.manual_seed(0)
        x = torch.randn(512, 32)
        y = torch.sin(3 * x[:, :1])
        model = nn.Sequential(*[Block() for _ in range(6)], nn.Linear(32, 1))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 1e-3, total_iters=150)
        for _epoch in range(25):
            for batch in torch.randperm(512).split(64):
                optimizer.zero_grad()
                loss = nn.functional.mse_loss(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()
                warm_up.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from torch import nn

        class Block(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.norm = nn.LayerNorm(32)
                self.up = nn.Linear(32, 64)
                self.down = nn.Linear(64, 32)

            def forward(self, x):
                return x + self.down(torch.relu(self.up(self.norm(x))))

        torch.manual_seed(0)
        x = torch.randn(512, 32)
        y = torch.sin(3 * x[:, :1])
        model = nn.Sequential(*[Block() for _ in range(6)], nn.Linear(32, 1))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
        for _epoch in range(25):
            for batch in torch.randperm(512).split(64):
                optimizer.zero_grad()
                loss = nn.functional.mse_loss(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        how = condition(record)
        if not how.ill:
            return
        heads = outermost(record)
        hidden = (
            layer
            for layer in record.layers.values()
            if layer.kind in _KINDS and layer.order >= 0 and layer.name not in heads
        )
        grown = [found for layer in hidden if (found := self._growth(record, layer)) is not None]
        if not grown:
            return
        since = min(one.since for one in grown)
        first = next(one for one in grown if one.since <= since)
        most = max(grown, key=lambda one: one.factor)
        fared = "is not finite" if how.verdict == "non-finite" else f"went from {how.start:.3g} to {how.end:.3g}"
        more = f" (in `{most.layer.name}` {most.factor:.2g}-fold)" if most.factor > 2 * first.factor else ""
        yield self.finding(
            f"what flows through `{first.layer.name}` grew {first.factor:.2g}-fold{more} from an rms of "
            f"{first.early:.2g} at the beginning, and {len(grown)} hidden layers grew over {self.growth:g}-fold, while "
            f"the loss {fared}; lower the learning rate, clip the gradient, or normalise before this layer",
            severity="error", step=first.since, layer=first.layer.name, location=first.layer.location,
            evidence={"growth": first.factor, "threshold": self.growth, "early": first.early,
                      "layers": [one.layer.name for one in grown[:20]], "loss": how.verdict},
            sure=settled(record, self.steps),
        )  # fmt: skip

    def _growth(self, record: Record, layer: Layer) -> _Growth | None:
        series = record.series("activation", layer.name)
        known = np.isfinite(series.rms) & (series.step >= self.warm_up)
        step, rms = series.step[known], series.rms[known]
        if len(rms) < self.first + self.sustained:
            return None
        early = float(np.median(rms[: self.first]))
        late = float(rms[-self.sustained :].min())
        if not early > 0 or late <= self.growth * early:
            return None
        below = np.flatnonzero(rms <= self.growth * early)
        return _Growth(layer, late / early, early, int(step[below[-1] + 1]))
