"""CRV603: the training loss is flat and nothing was learned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from wellfit.condition import condition, training_loss
from wellfit.finding import Finding, Fix
from wellfit.record import Record
from wellfit.rule import Family, Rule


class Plateau(Rule):
    """The training loss does not fall, and stands where a model stands that has learned nothing.

    What it checks
    The loss that backward is called on, over at least `steps` steps (`short_steps` in a finished run): it fell by less
    than 2 % of its start, or is still at the loss of guessing, and is not low: below `near_chance` of the chance level,
    where this is known, nothing is said.

    Why it hurts
    The run takes time and teaches the model nothing.

    Cure
    This is a symptom: any other finding of the run is the better lead. Without one: overfit a single batch first; if
    the loss does not go to zero on it, the wiring of model, loss and targets is wrong; if it does, look at whether
    inputs and targets belong together, and whether the model can express the task.

    Fix safety
    Overfitting one batch is an experiment and changes nothing.

    When it is wrong
    A model that was trained before may have nothing left to learn; losses of reinforcement and contrastive learning
    need not fall. Losses that PyTorch does not name are noted only, unless they are exactly constant.

    References
    Karpathy 2019, "A Recipe for Training Neural Networks"; Zhang et al. 2021, "AutoTrainer".
    """

    code = "CRV603"
    name = "plateau"
    family: ClassVar[Family] = "curve"
    summary = "the training loss is flat: nothing is learned"
    reads = ("loss",)
    consequences = ()
    fixes = (Fix("Overfit a single batch to see whether the wiring is right", override="one-batch", safe=True),)

    steps: int = 200  # steps without a fall, while the run lives
    short_steps: int = 50  # the same in a run that has ended
    near_chance: float = 0.9  # of the loss of guessing

    @staticmethod
    def sick() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(2000, 8)
        y = (x[:, 0] * x[:, 1] * x[:, 2] * x[:, 3] * x[:, 4] > 0).long()
        model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _epoch in range(6):
            for batch in torch.randperm(2000).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(2000, 8)
        y = (x[:, 0] * x[:, 1] > 0).long()
        model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _epoch in range(6):
            for batch in torch.randperm(2000).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        state = condition(record)
        if state.verdict != "flat" or state.adversarial:
            return
        if state.steps < (self.short_steps if record.finished else self.steps):
            return
        if state.chance > 0 and state.end < self.near_chance * state.chance:
            return
        value = record.loss().value
        constant = bool(np.ptp(value[np.isfinite(value)][-self.short_steps :]) == 0)
        known = training_loss(record) is not None
        at = f", the loss of guessing is {state.chance:.4g}" if state.chance > 0 else ""
        site = next(iter(record.loss_sites()), -1)
        place = record.backward_sites[site].location if site in record.backward_sites else None
        loss = training_loss(record)
        yield self.finding(
            f"the training loss is flat: {state.start:.4g} at the start, {state.end:.4g} after {state.steps} "
            f"steps{at}, so nothing is learned; overfit a single batch: if that fails, model, loss and "
            "targets are not wired as they should be; if it works, see whether the labels belong to their inputs",
            severity="error" if known or constant else "note", step=state.steps - 1,
            location=(loss.location if loss else None) or place,
            evidence={"start": state.start, "end": state.end, "chance": state.chance, "near_chance": self.near_chance,
                      "steps": state.steps},
            sure=record.finished,
        )  # fmt: skip
