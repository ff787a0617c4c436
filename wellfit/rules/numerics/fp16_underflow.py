"""NUM001: numbers that are 0 in float16 though they should not be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from wellfit.condition import condition
from wellfit.finding import Finding, Fix
from wellfit.record import Layer, Optimizer, Record
from wellfit.rule import Rule
from wellfit.rules.fitness import fits_poorly
from wellfit.rules.layering import first_backward
from wellfit.rules.precision import SMALLEST_FLOAT16, cast_place


class Fp16Underflow(Rule):
    """Gradients, or the small number that keeps an optimizer from dividing by 0, are too small for float16.

    What it checks
        (1) Layers whose output is float16: the gradient of that output where it is not 0. Its rms below `quanta` times
        the smallest float16 (6e-8), in most of at least `samples` sampled steps and in at least `share` of the layers;
        a layer whose gradient is 0 throughout counts if one that is called later has such a gradient. It is an error if
        the loss stays above `unlearned` of where it began, a note if it stays above `converged`.
        (2) Weights in float16 that became NaN in a step of an optimizer whose eps is 0 in float16.

    Why it hurts
        What is below 3e-8 becomes 0: early layers get no gradient. An eps of 1e-8 is 0 too, and Adam then divides 0 by
        0 wherever a gradient is 0.

    Cure
        Keep the weights in float32, compute under `torch.autocast`, and scale the loss by `torch.amp.GradScaler`; or
        use bfloat16, which reaches down as far as float32.

    Fix safety
        Unsafe for a comparison to the last digit, else it means the same.

    When it is wrong
        Layers whose gradient is that small by right, because the loss has converged: such runs have done their job.

    References
        Micikevicius et al.: Mixed precision training (2018); the PyTorch notes on automatic mixed precision.
    """

    code = "NUM001"
    name = "fp16-underflow"
    family = "numerics"
    summary = "gradients, or an optimizer's eps, are 0 in float16"
    reads = ("activation_gradient.rms", "activation_gradient.low", "layer", "event.non-finite", "loss")
    consequences = (
        "non-finite-grad",
        "non-finite-forward",
        "zero-grad-param",
        "vanishing",
        "never-updated",
        "lr-low",
        "plateau",
        "output-collapse",
        "rank-collapse",
        "layer-imbalance",
    )
    fixes = (
        Fix("Scale the loss: torch.amp.GradScaler, with the weights in float32 under torch.autocast", safe=True),
        Fix("Compute in bfloat16", override="precision=bfloat16"),
    )

    quanta: float = 4.0  # rms of the gradient over 2^-24 (at 4 a tenth is lost); healthy float16 runs 40 and more
    share: float = 0.5  # of the layers with a float16 output
    samples: int = 5  # sampled steps
    unlearned: float = 0.7  # loss at the end over the lower of first loss and chance
    converged: float = 0.3  # the same; a run below has done its job
    flat_steps: int = 200  # steps without a fall, to be told while the run lives

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        x = torch.tensor(load_digits().data / 16.0).float()
        model = nn.Sequential(
            nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 8), nn.Tanh(), nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 64)
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
        kept = 100
        for _ in range(60):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16):
                loss = nn.functional.mse_loss(model(x), x) / kept
            loss.backward()
            optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        x = torch.tensor(load_digits().data / 16.0).float()
        model = nn.Sequential(
            nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 8), nn.Tanh(), nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 64)
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        scaler = torch.amp.GradScaler("cpu")
        for _ in range(60):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16):
                loss = nn.functional.mse_loss(model(x), x)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()

    def check(self, record: Record) -> Iterator[Finding]:
        found = self._lost_eps(record) or self._lost_gradient(record)
        if found is not None:
            yield found

    def _lost_gradient(self, record: Record) -> Finding | None:
        """Gradients of which float16 keeps a few bits at most."""
        state = condition(record)
        if state.verdict == "non-finite" or not fits_poorly(state, self.converged):
            return None
        faint, seen, sizes = self._faint(record)
        if not faint or len(faint) < self.share * seen:
            return None
        first = faint[0]
        rms = float(np.median(sizes))
        return self.finding(
            f"gradients are too small for float16: in {len(faint)} of {seen} layers their rms is "
            f"{f'about {rms:.1e}' if rms > 0 else 'down to 0'}, and what is below 3e-8 becomes 0, so `{first.name}` "
            f"learns little or nothing and the loss stays at {state.end:.4g}; scale the loss by torch.amp.GradScaler "
            "before backward(), or compute in bfloat16",
            severity="error" if fits_poorly(state, self.unlearned) else "note",
            step=int(record.series("activation_gradient", first.name).step[self.samples - 1]),
            layer=first.name,
            location=first_backward(record) or first.location,
            evidence={"rms": rms, "layers": len(faint), "of": seen, "smallest": SMALLEST_FLOAT16, "start": state.start,
                      "end": state.end},
            sure=record.finished or (state.verdict == "flat" and state.steps >= self.flat_steps),
        )  # fmt: skip

    def _faint(self, record: Record) -> tuple[list[Layer], int, list[float]]:
        """The layers with too small gradients in call order, how many have one, and the rms in each."""
        known: list[tuple[Layer, float]] = []
        for name in record.subjects("activation_gradient"):
            layer, series = record.layers.get(name), record.series("activation_gradient", name)
            if layer is None or layer.output_dtype != "float16" or len(series) < self.samples:
                continue
            with np.errstate(all="ignore"):
                not_zero = series.rms / np.sqrt(1 - np.minimum(series.low_share, 1.0))
            not_zero = np.where(series.rms == 0, 0.0, not_zero)
            not_zero = not_zero[np.isfinite(not_zero)]
            if len(not_zero) >= self.samples:
                known.append((layer, float(np.median(not_zero))))
        known.sort(key=lambda pair: pair[0].order)
        limit = self.quanta * SMALLEST_FLOAT16
        last = max((place for place, (_, rms) in enumerate(known) if 0 < rms < limit), default=-1)
        faint = [pair for place, pair in enumerate(known) if pair[1] < limit and (pair[1] > 0 or place < last)]
        return [layer for layer, _ in faint], len(known), [rms for _, rms in faint]

    def _lost_eps(self, record: Record) -> Finding | None:
        """An optimizer that divided by 0, since its eps is 0 in the type of its weights."""
        event = self._spoiled(record)
        parameter = record.parameters.get(event["parameter"]) if event is not None else None
        if event is None or parameter is None or parameter.dtype != "float16":
            return None
        optimizer = record.optimizer_of(parameter)
        eps = _eps(optimizer) if optimizer is not None else None
        if optimizer is None or eps is None or not 0 <= eps < SMALLEST_FLOAT16 / 2:
            return None
        return self.finding(
            f"{optimizer.class_name}'s eps of {eps:g} is 0 in float16: `{parameter.name}` became "
            f"{event['value'] or 'nan'} after {event['step']} steps, since 0 was divided by 0 wherever a gradient was "
            "0; keep the weights in float32 and compute under torch.autocast with a GradScaler, or use bfloat16",
            severity="error", step=max(0, event["step"] - 1), layer=parameter.layer or parameter.name,
            location=cast_place(record, "float16") or optimizer.location,
            evidence={"eps": eps, "smallest": SMALLEST_FLOAT16, "parameter": parameter.name},
        )  # fmt: skip

    def _spoiled(self, record: Record) -> dict[str, Any] | None:
        """The first non-finite number of the run, if it was a weight."""
        events = record.events("non-finite")
        first = min(events, key=lambda event: event["step"], default=None)
        return first if first is not None and first["where"] == "parameter" and first["parameter"] else None


def _eps(optimizer: Optimizer) -> float | None:
    """The smallest eps of its groups; None if it has none."""
    given = [group["eps"] for group in optimizer.groups if isinstance(group.get("eps"), (int, float))]
    return float(min(given)) if given else None
