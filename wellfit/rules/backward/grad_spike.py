"""GRD403: single gradients that are far longer than all others."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from wellfit.condition import MOSTLY_ZERO, Condition, condition
from wellfit.finding import Finding, Fix
from wellfit.record import Clip, Curve, Record
from wellfit.record.curves import Floats, running_median
from wellfit.rule import Rule
from wellfit.rules.fitness import fits_poorly
from wellfit.rules.layering import first_backward


@dataclass(frozen=True)
class _Spike:
    """A gradient that is far longer than those before it.

    Args:
        step: whose gradient it is.
        norm: of the gradient, before it was cut.
        usual: median norm of those before it.
        limit: to which it was cut.
        cut: what was left of it, over the usual norm.
        alone: those after it are as short as those before it.
    """

    step: int
    norm: float
    usual: float
    limit: float
    cut: float
    alone: bool


@dataclass(frozen=True)
class _Throw:
    """What the loss did after a spike: the median before and after it, and whether the run ends where it was thrown."""

    spike: _Spike
    before: float
    after: float
    for_good: bool


class GradSpike(Rule):
    """Single batches give a gradient that is many times as long as all others.

    What it checks
        The norms that `clip_grad_norm_` found, which are known at every step, whatever its limit is. A spike is above
        `times` the median of the `window` before it and of the `near` just before it, above that median by `widths`
        widths of their noise, and above `start` times the norms at the start; spikes closer than `apart` steps count
        once, and up to `many` of the steps may be spikes. It is an error if the loss was thrown back by one: what
        clipping left of it was more than `held` times the usual norm, and the median loss of the `within` steps after
        it was `back` times that before it, though the batch itself was no part of that (other data than before are no
        illness); and if the run ended above `unlearned` of where it began, or no lower than twice the loss before. Else
        spikes are noted, of which those that stand alone count.

    Why it hurts
        One step along such a gradient moves the weights away from what was learned. Optimizers with a memory go on with
        it for many steps: Adam's second moment keeps all steps short for a thousand.

    Cure
        Look at the batches in which it happens (outliers, wrong labels, samples of length 0); clip the norm at what
        most gradients have; skip such batches. A lower learning rate helps less: such a gradient is a thousand times
        too long, not ten.

    Fix safety
        Clipping keeps what the program means. To leave out a batch changes the data.

    When it is wrong
        Rare tokens give long gradients by right, as do the cliffs of recurrent networks: where the limit has caught
        them, or the loss did not mind, there is but a note. Where nothing calls `clip_grad_norm_`, gradients are known
        at sampled steps only, and nothing is said; call it with `float("inf")` to have norms without a limit. Norms of
        gradients that a GradScaler has scaled grow by a factor of two when the scale does, which is no spike.

    References
        Pascanu, Mikolov, Bengio (2013); Chowdhery et al. 2022, "PaLM", section 5.1; Zhang et al. 2022, "OPT", on runs
        thrown back by single batches.
    """

    code = "GRD403"
    name = "grad-spike"
    family = "backward"
    summary = "single batches give a gradient that is far too long"
    reads = ("clip", "loss")
    consequences = ("spike", "exploding", "underfit", "plateau", "diverged", "oscillation")
    fixes = (
        Fix("Clip the norm of the gradient at what is usual", override="clip-norm=1.0", safe=True),
        Fix("Look at these batches for outliers and wrong labels, or skip them"),
    )

    times: float = 10.0  # norm over the median of those before it
    start: float = 2.0  # norm over the median of the run's first `window` norms: late ratios are of small numbers
    widths: float = 8.0  # 1.48 x median absolute deviation of those before it; a normal distribution never reaches 8
    window: int = 50  # norms of the running median; the first half of the first one is the warm-up
    near: int = 5  # norms just before: a scale that doubles at each step comes to 8 times their median, not to 10
    alone: float = 3.0  # norm over the median of the `near` norms after it
    apart: int = 10  # steps; what the step after a spike does is a part of it
    many: float = 0.05  # spikes over steps, above which long gradients are usual: other rules' business
    held: float = 3.0  # norm that clipping left, over the usual one; a step that long is one as others are
    back: float = 2.0  # median loss of the steps after it over that before; healthy runs: to 1.3
    within: int = 20  # steps in which a loss may come back
    same: float = 3.0  # the batch's own loss over those after it, or the reverse: nearer means that the data changed
    unlearned: float = 0.5  # loss at the end over that of the start, or of chance where it is lower
    fewest: int = 40  # norms

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_diabetes
        from torch import nn

        torch.manual_seed(0)
        x, y = load_diabetes(return_X_y=True)
        x = torch.tensor(x / x.std(0)).float()
        y = torch.tensor((y - y.mean()) / y.std()).float().unsqueeze(1)
        y[17] = 3000.0  # one value in another unit
        model = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.002)
        for _epoch in range(8):
            for batch in torch.randperm(440).split(8):
                optimizer.zero_grad()
                loss = nn.functional.mse_loss(model(x[batch]), y[batch])
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1e5)
                optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from sklearn.datasets import load_diabetes
        from torch import nn

        torch.manual_seed(0)
        x, y = load_diabetes(return_X_y=True)
        x = torch.tensor(x / x.std(0)).float()
        y = torch.tensor((y - y.mean()) / y.std()).float().unsqueeze(1)
        y[17] = 3000.0  # its gradient is long, but its step is not
        model = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.002)
        for _epoch in range(8):
            for batch in torch.randperm(440).split(8):
                optimizer.zero_grad()
                loss = nn.functional.mse_loss(model(x[batch]), y[batch])
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        if not record.finished or not record.clips:
            return
        state = condition(record)
        if state.adversarial:  # an agent that meets something new has long gradients by right
            return
        loss = record.loss()
        for clip in record.clips.values():
            if clip.function != "clip_grad_norm_":
                continue
            curves = self._norms(record, clip)
            spikes = [spike for norms, limits in curves for spike in self._spikes(norms, limits)]
            throws = [throw for spike in spikes if (throw := self._thrown(record, loss, state, spike)) is not None]
            lasting = [throw for throw in throws if throw.for_good or fits_poorly(state, self.unlearned)]
            alone = [spike for spike in spikes if spike.alone]
            if lasting:
                worst = max(lasting, key=lambda throw: throw.after / throw.before)
                yield self._told(record, clip, spikes, worst)
            elif alone:
                yield self._noted(record, clip, alone)

    def _norms(self, record: Record, clip: Clip) -> list[tuple[Curve, Curve]]:
        """Norms and limits of a place, by optimizer: one place may clip the gradients of two models in turn.

        Of a step that clips several times (a model after another) the longest is taken.
        """
        norms, limits = record.clipping(clip.id)
        known = np.isfinite(norms.value) & (norms.value > 0)
        order = np.lexsort((norms.value[known], norms.step[known]))
        step, value, limit = (each[known][order] for each in (norms.step, norms.value, limits.value))
        last = np.append(step[1:] != step[:-1], True) if len(step) else np.zeros(0, np.bool_)
        step, value, limit = step[last], value[last], limit[last]
        ended = Curve(record.steps["step"].astype(np.int64), record.steps["a"].astype(np.float64)).at(step)
        return [
            (Curve(step[own], value[own]), Curve(step[own], limit[own]))
            for own in (ended == optimizer for optimizer in np.unique(ended[np.isfinite(ended)]))
        ]

    def _spikes(self, norms: Curve, limits: Curve) -> list[_Spike]:
        """The norms that stand out; none where that is usual."""
        value = norms.value
        if len(value) < self.fewest:
            return []
        usual = _before(running_median(value, self.window))
        just = _before(running_median(value, self.near))
        found: list[_Spike] = []
        last = -math.inf
        floor = self.start * float(np.median(value[: self.window]))
        for place in np.flatnonzero((value > self.times * np.maximum(usual, just)) & (value > floor)):
            before = value[max(place - self.window, 0) : place]
            width = 1.48 * float(np.median(np.abs(before - usual[place]))) if len(before) else math.inf
            if len(before) < self.window // 2 or value[place] <= usual[place] + self.widths * width:
                continue
            if norms.step[place] > last + self.apart:
                after = value[place + 1 : place + 1 + self.near]
                cut = min(float(value[place]), float(limits.value[place])) / float(usual[place])
                found.append(
                    _Spike(
                        int(norms.step[place]), float(value[place]), float(usual[place]), float(limits.value[place]),
                        cut, len(after) > 0 and bool(value[place] > self.alone * np.median(after)),
                    )
                )  # fmt: skip
            last = norms.step[place]
        return found if len(found) <= self.many * len(value) else []

    def _thrown(self, record: Record, loss: Curve, state: Condition, spike: _Spike) -> _Throw | None:
        """What a spike did to the loss, if that was thrown back by it."""
        if not spike.cut > self.held or len(np.unique(record.steps["a"])) > 1:
            return None
        value = loss.value[np.isfinite(loss.value)]
        # Below 0 a loss has no floor that ratios could be taken to.
        if not state.start > 0 or value.min() < 0 or np.mean(value == 0) > MOSTLY_ZERO:
            return None
        here = int(np.searchsorted(loss.step, spike.step))
        before = loss.value[max(here - self.window, 0) : here]
        after = loss.value[here + 1 : here + 1 + self.within]
        if here >= len(loss) or len(after) < self.within or len(before) < self.near:
            return None
        level, thrown = float(np.median(before)), float(np.median(after))
        if not thrown > self.back * level or not level > 0:
            return None
        ratio = float(loss.value[here]) / thrown
        if 1 / self.back < ratio < self.same:
            return None  # its own batch was as bad: other data
        return _Throw(spike, level, thrown, state.end > self.back * level)

    def _told(self, record: Record, clip: Clip, spikes: list[_Spike], worst: _Throw) -> Finding:
        spike = worst.spike
        limit = 2 * min(each.usual for each in spikes)  # a model that was thrown back has long gradients itself
        cure = f"clip at about {limit:.2g}"
        title = f"Clip the norm of the gradient at {limit:.2g}, twice what is usual"
        fixes = (Fix(title, override=f"clip-norm={limit:.2g}", safe=True), *self.fixes[1:])
        if spike.usual > 1000 * spike.limit:
            cure, fixes = "call scaler.unscale_(optimizer) before you clip, if you use a GradScaler", self.fixes
        return self.finding(
            f"{_counted(spikes, spike)}, and what clipping leaves of it throws the model back: "
            f"the loss rises from {worst.before:.3g} to {worst.after:.3g} after step {spike.step}; look for outliers "
            f"or wrong labels in these batches, and {cure}",
            severity="error", step=spikes[0].step, location=clip.location or first_backward(record),
            evidence=_evidence(spikes, spike) | {"loss_before": worst.before, "loss_after": worst.after}, fixes=fixes,
        )  # fmt: skip

    def _noted(self, record: Record, clip: Clip, spikes: list[_Spike]) -> Finding:
        longest = max(spikes, key=lambda spike: spike.norm / spike.usual)
        caught = all(spike.cut <= self.held for spike in spikes)
        how = f"clipping cut it to {longest.limit:.3g}" if caught else "the loss did not stay high"
        return self.finding(
            f"{_counted(spikes, longest)}, but {how}; look at its batch if you want to know what is in it",
            severity="note", step=spikes[0].step, location=clip.location or first_backward(record),
            evidence=_evidence(spikes, longest), fixes=(),
        )  # fmt: skip


def _before(level: Floats) -> Floats:
    """A running median, of the values before each."""
    return np.concatenate([[np.inf], level[:-1]])


def _counted(spikes: list[_Spike], shown: _Spike) -> str:
    times = f"{shown.norm / shown.usual:.0f} times as long as usual (norm {shown.norm:.3g}, not {shown.usual:.3g})"
    if len(spikes) == 1:
        return f"the gradient of step {shown.step} is {times}"
    return f"{len(spikes)} gradients stand out, that of step {shown.step} is {times}"


def _evidence(spikes: list[_Spike], shown: _Spike) -> dict[str, float | int | str | list[str]]:
    return {
        "spikes": len(spikes), "norm": shown.norm, "usual": shown.usual, "limit": shown.limit,
        "steps": [str(spike.step) for spike in spikes[:10]],
    }  # fmt: skip
