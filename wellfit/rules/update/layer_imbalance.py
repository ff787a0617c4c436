"""UPD506: some layers are trained a hundred times slower than others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from wellfit.condition import condition
from wellfit.finding import Finding, Fix
from wellfit.record import Record
from wellfit.record.curves import Floats
from wellfit.rule import Family, Rule
from wellfit.rules.fitness import fits_poorly
from wellfit.rules.fresh import is_fresh
from wellfit.rules.ratios import update_ratios


class LayerImbalance(Rule):
    """Freshly made layers hardly move, because their learning rate is far below that of the others.

    What it checks
    In a run whose loss stays above `unlearned` of where it began: the update ratio u = rms(update) / rms(weight) of
    each weight, its median over the sampled steps. Ill are weights that are freshly made, have a u below that of the
    fastest weight by `apart`, and moved less than `moved` of their size over the whole run, where the highest learning
    rates of the parameter groups differ by `rates` or more.

    Why it hurts
    These layers stay nearly as random as they were made; the others have to make do with what comes out of them.

    Cure
    Train all layers that were not trained before with the same learning rate. A low learning rate for a part of the
    model is for weights that were loaded: see that they were.

    Fix safety
    Unsafe: another learning rate is another training.

    When it is wrong
    Layers that are meant to stay random, under a low learning rate instead of `requires_grad` set to False.

    References
    Howard, Ruder: Universal language model fine-tuning (2018), discriminative learning rates for layers that were
    trained before.
    """

    code = "UPD506"
    name = "layer-imbalance"
    family: ClassVar[Family] = "update"
    summary = "fresh layers that learn a hundred times slower than the rest"
    reads = ("update.rms", "parameter", "lr", "loss")
    consequences = ("plateau", "lr-low", "underfit", "vanishing")
    fixes = (Fix("Give all layers that were not trained before the same learning rate"),)

    unlearned: float = 0.7  # loss at the end over the lower of first loss and chance
    apart: float = 100.0  # u of the fastest weight over that of a slow one; healthy runs 1.1 to 10
    moved: float = 0.05  # sum of u over all steps; weights of runs that learned 0.5 and more
    rates: float = 10.0  # highest learning rate of a group over the lowest
    samples: int = 15  # sampled steps
    flat_steps: int = 200  # steps without a fall, to be told while the run lives

    @staticmethod
    def sick() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(512, 2)
        y = (x[:, 0] * x[:, 1] > 0).long()
        backbone = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh())
        head = nn.Linear(8, 2)
        optimizer = torch.optim.Adam(
            [{"params": backbone.parameters(), "lr": 1e-6}, {"params": head.parameters(), "lr": 1e-2}]
        )
        for _ in range(200):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(head(backbone(x)), y)
            loss.backward()
            optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(512, 2)
        y = (x[:, 0] * x[:, 1] > 0).long()
        backbone = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh())
        head = nn.Linear(8, 2)
        optimizer = torch.optim.Adam(
            [{"params": backbone.parameters(), "lr": 1e-2}, {"params": head.parameters(), "lr": 3e-2}]
        )
        for _ in range(200):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(head(backbone(x)), y)
            loss.backward()
            optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        rates = _highest_rates(record)
        if len(rates) < 2 or max(rates) < self.rates * min(rates):
            return
        state = condition(record)
        if state.verdict in ("non-finite", "diverging") or not fits_poorly(state, self.unlearned):
            return
        if not record.finished and not (state.verdict == "flat" and state.steps >= self.flat_steps):
            return
        ratios = update_ratios(record)
        known = np.isfinite(ratios.value).sum(axis=1) >= self.samples if ratios.value.size else np.zeros(0, bool)
        if np.count_nonzero(known) < 2:
            return
        typical: Floats = np.nanmedian(ratios.value[known], axis=1)
        names = [name for name, told in zip(ratios.names, known, strict=True) if told]
        fastest = int(np.argmax(typical))
        slow = [
            (name, float(ratio))
            for name, ratio in zip(names, typical, strict=True)
            if 0 < ratio * self.apart < typical[fastest] and ratio * record.step_count < self.moved
            if is_fresh(record, record.parameters[name])
        ]
        if not slow:
            return
        name, ratio = slow[0]
        parameter = record.parameters[name]
        optimizer = record.optimizer_of(parameter)
        yield self.finding(
            f"{len(slow)} of {len(names)} weights hardly learn: `{name}` moves {100 * ratio:.1g} % of its size in a "
            f"step, `{names[fastest]}` {100 * float(typical[fastest]):.1g} %, since learning rates go from "
            f"{min(rates):.1g} to {max(rates):.1g}: freshly made, they stay as random as they are, and the loss stays "
            f"at {state.end:.4g}; give them the same learning rate, or load the trained weights that they should have",
            severity="error", step=int(ratios.step[min(self.samples, len(ratios.step)) - 1]),
            layer=parameter.layer or name,
            location=optimizer.location if optimizer is not None else parameter.location,
            evidence={"slow": ratio, "fast": float(typical[fastest]), "weights": [one for one, _ in slow[:20]],
                      "lowest_lr": min(rates), "highest_lr": max(rates), "start": state.start, "end": state.end},
        )  # fmt: skip


def _highest_rates(record: Record) -> list[float]:
    """The highest learning rate that each group of each optimizer had, where it was above 0."""
    found = []
    for optimizer in record.optimizers.values():
        for group in range(len(optimizer.groups)):
            rate = record.hyper("lr", optimizer.id, group).value
            rate = rate[np.isfinite(rate)]
            if len(rate) and rate.max() > 0:
                found.append(float(rate.max()))
    return found
