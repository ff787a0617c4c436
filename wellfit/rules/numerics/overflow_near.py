"""NUM002: numbers close to the largest that float16 can hold."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from wellfit.condition import Condition, condition
from wellfit.finding import Finding, Fix
from wellfit.record import Layer, Record
from wellfit.rule import Rule
from wellfit.rules.fitness import fits_poorly
from wellfit.rules.precision import LARGEST_FLOAT16


class OverflowNear(Rule):
    """The outputs of a layer in float16 come near 65504, the largest number that it can hold.

    What it checks
        Layers whose output is float16: its largest absolute value above `of_largest` of 65504 and still finite, in at
        least `samples` sampled steps, and not the same number each time (a constant that masks or clamps). It is an
        error if the loss became non-finite or stays above `unlearned` of where it began, or if GradScaler left out more
        than `left_out` steps; else a note.

    Why it hurts
        The next larger batch, or the next step, makes it infinite: the loss becomes NaN, or GradScaler leaves the step
        out.

    Cure
        Compute this layer in float32 (`with torch.autocast(device_type, enabled=False)`), normalise before it, scale
        inputs and targets; or use bfloat16, which reaches as far as float32.

    Fix safety
        A layer in float32 means the same.

    When it is wrong
        Large numbers that a norm or a softmax forgives, as long as they stay below the limit: such runs get a note.

    References
        Micikevicius et al.: Mixed precision training (2018); Hugging Face, DebugUnderflowOverflow.
    """

    code = "NUM002"
    name = "overflow-near"
    family = "numerics"
    summary = "outputs of a layer come near the largest float16"
    reads = ("activation.amax", "layer", "event.scaler", "loss")
    consequences = ("non-finite-forward", "non-finite-grad", "scaler-thrash", "diverged", "plateau")
    fixes = (Fix("Compute in bfloat16", override="precision=bfloat16"),)

    of_largest: float = 0.5  # of 65504; one doubling away from infinity
    samples: int = 3  # sampled steps
    unlearned: float = 0.7  # loss at the end over the lower of first loss and chance
    left_out: int = 25  # steps that GradScaler left out; up to 20 are its start

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_diabetes
        from torch import nn

        torch.manual_seed(0)
        x, _ = load_diabetes(return_X_y=True)
        x = torch.tensor(x / x.std(0)).float()
        price = 30000 + 9000 * x[:, :1] + 4000 * torch.randn(len(x), 1)
        model = nn.Sequential(nn.Linear(10, 256), nn.ReLU(), nn.Linear(256, 1))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu")
        for _epoch in range(25):
            for batch in torch.randperm(len(x)).split(55):
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.float16):
                    guess = model(x[batch])
                loss = nn.functional.mse_loss(guess.float(), price[batch])
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()

    @staticmethod
    def healthy() -> None:
        import torch
        from sklearn.datasets import load_diabetes
        from torch import nn

        torch.manual_seed(0)
        x, _ = load_diabetes(return_X_y=True)
        x = torch.tensor(x / x.std(0)).float()
        price = 30000 + 9000 * x[:, :1] + 4000 * torch.randn(len(x), 1)
        model = nn.Sequential(nn.Linear(10, 256), nn.ReLU(), nn.Linear(256, 1))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        scaler = torch.amp.GradScaler("cpu")
        for _epoch in range(25):
            for batch in torch.randperm(len(x)).split(55):
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.float16):
                    guess = model(x[batch])
                loss = nn.functional.mse_loss(guess.float(), (price[batch] - 30000) / 9000)
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()

    def check(self, record: Record) -> Iterator[Finding]:
        near = [found for layer in record.layers.values() if (found := self._near(record, layer)) is not None]
        if not near:
            return
        layer, step, largest, seen = near[0]
        state = condition(record)
        skipped = max((event["count"] for event in record.events("scaler")), default=0)
        ill = self._ill(state) or skipped > self.left_out
        yield self.finding(
            f"the output of `{layer.name}` comes near the largest float16: {largest:.3g} of 65504 in {seen} sampled "
            f"steps ({len(near)} layers), so the next larger batch makes it infinite; compute it in float32 or "
            "bfloat16, or scale inputs and targets down",
            severity="error" if ill else "note",
            step=step,
            layer=layer.name,
            location=layer.location,
            evidence={"largest": largest, "limit": LARGEST_FLOAT16, "samples": seen, "layers": len(near),
                      "loss": state.verdict, "steps_left_out": skipped},
            sure=record.finished,
        )  # fmt: skip

    def _near(self, record: Record, layer: Layer) -> tuple[Layer, int, float, int] | None:
        """(layer, first step, largest finite number, samples) of a layer that comes near the limit often enough."""
        if layer.output_dtype != "float16" or layer.order < 0:
            return None
        series = record.series("activation", layer.name)
        largest = series.amax
        near = np.isfinite(largest) & (largest > self.of_largest * LARGEST_FLOAT16)
        if np.count_nonzero(near) < self.samples or len(np.unique(largest[near])) == 1:
            return None
        return layer, int(series.step[near][0]), float(largest[near].max()), int(np.count_nonzero(near))

    def _ill(self, state: Condition) -> bool:
        return state.verdict == "non-finite" or fits_poorly(state, self.unlearned)
