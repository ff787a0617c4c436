"""INI210: the model cannot learn a single batch by heart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from wellfit.condition import condition, training_loss
from wellfit.finding import Finding, Fix
from wellfit.record import Record
from wellfit.rule import Family, Rule
from wellfit.rules.by_heart import by_heart
from wellfit.rules.dropouts import drops


class CannotOverfit(Rule):
    """Trained on one batch again and again, the model does not learn it by heart.

    What it checks
    `wellfit check` only: a run under `one-batch`. Its loss came to rest above half of what a model has that knows
    nothing (the first loss, or that of guessing where it is lower), though the weights have gone half of their own size
    or more, and there are at least twice as many parameters as numbers to be learned. Under dropout of `dropout` or
    more, or where the loss of the same batch varies by `noise` of that level or more, it is noted only; so are losses
    that PyTorch does not name. Not judged are fewer than 150 steps, a loss that still falls, a rate that still rises,
    soft or smoothed targets, models that were trained before, and losses that need not fall (GANs, policies).

    Why it hurts
    A model that cannot learn some dozen samples by heart learns nothing of use from many: what it is asked for does
    not get through it, or samples and targets do not belong together even within a batch.

    Cure
    Look at what lies between input and loss: a pooling over the wrong axis, a layer of too few units, a shape that is
    broadcast, activations that saturate, parts that are cut off from the gradient or get another target each time they
    see a sample. Mend it until the loss on one batch goes to nearly 0.

    Fix safety
    Looking changes nothing; what is mended makes it another model.

    When it is wrong
    Strong regularisation that is part of the model, and samples that are the same but for their targets.

    References
    Karpathy 2019, "A Recipe for Training Neural Networks", "overfit one batch"; Goodfellow, Bengio and Courville 2016,
    "Deep Learning", section 11.5.
    """

    code = "INI210"
    name = "cannot-overfit"
    family: ClassVar[Family] = "initialisation"
    summary = "one batch cannot be learned by heart: wiring or capacity is wrong"
    reads = ("loss", "update", "target")
    consequences = ("plateau", "underfit", "output-collapse")
    fixes = (Fix("Overfit one batch until it works, then go on to all data", override="one-batch", safe=True),)
    trials = ("one-batch",)
    explained_like = "plateau"

    dropout: float = 0.3  # rate from which on it may be the dropout that hides a batch
    noise: float = 0.05  # of the level of a model that knows nothing; the loss of a batch that stays the same is smooth

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.hidden = nn.Linear(64, 64)
                self.head = nn.Linear(64, 10)

            def forward(self, x):
                if self.training:
                    x = x[torch.randperm(len(x))]  # another order of the images, but not of their labels
                return self.head(torch.relu(self.hidden(x)))

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        model = Net()
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _epoch in range(8):
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.hidden = nn.Linear(64, 64)
                self.head = nn.Linear(64, 10)

            def forward(self, x):
                if self.training:
                    x = x + 0.05 * torch.randn_like(x)
                return self.head(torch.relu(self.hidden(x)))

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        model = Net()
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _epoch in range(8):
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()

    def check_trial(self, record: Record, companions: Mapping[str, Record]) -> Iterator[Finding]:
        trial = companions.get("one-batch")
        if trial is None or condition(record).adversarial:
            return
        result = by_heart(trial)
        if result.outcome != "rests":
            return
        state = result.state
        dropped = max((drop.rate for drop in drops(record) if drop.rate == drop.rate), default=0.0)
        hidden = dropped >= self.dropout or state.noise > self.noise * state.level
        loss = training_loss(trial)
        site = trial.backward_sites.get(next(iter(trial.loss_sites()), -1))
        chance = f" ({state.chance:.3g} is guessing)" if state.chance > 0 else ""
        yield self.finding(
            f"given the same batch for {state.steps} steps, the model brings its loss from {state.start:.3g} to "
            f"{state.end:.3g} only{chance} and rests there: what tells the samples apart does not get through it; look "
            "at what lies between input and loss, at shapes, pooling and the number of units",
            severity="error" if result.sure and not hidden else "note",
            location=(loss.location if loss else None) or (site.location if site else None),
            evidence={"start": state.start, "end": state.end, "chance": state.chance, "noise": state.noise,
                      "dropout": dropped, "steps": state.steps},
        )  # fmt: skip
