"""GRD408: the limit of clipping, not the learning rate, sets how long the steps are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from wellfit.condition import Condition, condition
from wellfit.finding import Finding, Fix, Location
from wellfit.record import Clip, Optimizer, Record
from wellfit.record.curves import Floats
from wellfit.rule import Rule
from wellfit.rules.decays import is_coupled, largest_decay
from wellfit.rules.fitness import fits_poorly
from wellfit.rules.grids import grid
from wellfit.rules.ratios import path_length, update_ratios

_FIRST = 5  # samples that tell how long the weights were
_BY_SIZE = {"SGD", "ASGD"}  # optimizers whose step grows with the gradient; the others divide by its size


@dataclass(frozen=True)
class _Cut:
    """How gradients were cut.

    Args:
        share: of the sampled steps after the warm-up that were cut.
        ratio: median norm of the gradient over the limit; NaN where only the outcome is known.
        limit: of the norm, or of each number.
        wanted: a limit that would leave most gradients as they are; NaN if unknown.
        function: that was seen to cut; None where only its outcome was seen.
        place: the user's line, if one is known.
        step: the first sampled step.
    """

    share: float
    ratio: float
    limit: float
    wanted: float
    function: str | None
    place: Location | None
    step: int


class ClipDominates(Rule):
    """Clipping cuts nearly every gradient to a small part of itself, and the weights hardly move.

    What it checks
        In a run whose loss stays above `unlearned` of where it began and whose weights moved less than `short_path` of
        their size: the calls that clip. Ill is a limit of the norm that more than `share` of the gradients exceed after
        the first `warm_up` steps, the median one `ratio` times, if the weights would have moved `short_path` without
        it; or one of each number (clip_grad_value_) to which half of the gradient, by its rms, comes up. Where no such
        call was seen but the gradients of `same` of the steps have the same norm within `tolerance`, it must also be
        below `faint` of that of the weights. Optimizers that divide by the size of the gradient (Adam) are slowed only
        by a limit that brings it near their eps (`by_eps`); of several optimizers this is asked of the first. Where the
        optimizer adds weight decay to the gradient, and the decay is stronger than what the limit leaves of it, the
        weights need not stand still.

    Why it hurts
        All steps have the length learning rate x limit: the weights stay where they are, however steep the loss.

    Cure
        Raise the limit to a norm that only the largest tenth of the gradients exceed. With GradScaler call
        `scaler.unscale_(optimizer)` before clipping: gradients that are still scaled exceed every limit.

    Fix safety
        Safe: the direction of each step stays. Watch the loss for spikes, which the limit may have kept away.

    When it is wrong
        A high learning rate with a low limit is a recipe for language models (SGD with lr 20 and 0.25): the weights
        move, and nothing is said.

    References
        Google's tuning playbook: clip at about the 90th percentile of the gradient norm; raise the learning rate where
        over half of the steps are clipped. Pascanu, Mikolov, Bengio (2013).
    """

    code = "GRD408"
    name = "clip-dominates"
    family = "backward"
    summary = "nearly every gradient is clipped to a small part of itself"
    reads = ("clip", "gradient.rms", "update.rms", "loss")
    consequences = ("decay-dominates", "lr-low", "plateau", "update-lost", "fp16-underflow", "never-updated")
    fixes = (
        Fix("Raise the limit of clipping to the usual norm", safe=True),
        Fix("Take the clipping away", override="no-clip"),
    )

    unlearned: float = 0.5  # loss at the end over the lower of first loss and chance
    short_path: float = 0.25  # sum of update ratios over the run; runs that learned have 0.5 and more
    share: float = 0.5  # of the steps; the tuning playbook asks for a tenth
    ratio: float = 10.0  # median norm over the limit; a healthy RNN with all steps clipped: 3
    warm_up: int = 20  # steps that do not count if there are enough others
    samples: int = 15  # sampled steps
    same: float = 0.9  # share of the steps whose norm is the largest one's; 0.98 in a healthy RNN with a limit of 1
    tolerance: float = 0.01  # relative: norms of large weights are known from a part of their numbers
    faint: float = 1e-4  # norm of the gradient over that of the weights; healthy runs 1e-3 to 1, a limit of 1e-5: 1e-6
    scaled: float = 1000.0  # median norm over the limit, above which gradients may be scaled (GradScaler: 65536)
    by_eps: float = 0.1  # rms of a gradient over the optimizer's eps, below which steps are a tenth and less
    tiny: float = 1e-4  # largest update ratio of a flat run, to be told while it lives
    flat_steps: int = 200  # steps without a fall, for the same

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _epoch in range(3):
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
                optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=5.0)
        for _epoch in range(3):
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 0.02)
                optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        state = condition(record)
        if state.verdict in ("non-finite", "diverging") or not fits_poorly(state, self.unlearned):
            return
        ratios = update_ratios(record)
        path, median = path_length(ratios, record.step_count), ratios.median
        if not np.isfinite(median).any():
            return
        cut = self._called(record) or self._fingerprint(record)
        optimizer = next((one for one in record.optimizers.values() if one.parameters), None)
        if cut is None or optimizer is None:
            return
        if record.finished and self._left_to_decay(record, cut, optimizer):
            yield self._told(record, state, cut, path, optimizer, "so weight decay decides where the weights go")
            return
        if not path < self.short_path or not self._slows(record, optimizer):
            return
        if path * cut.ratio < self.short_path:  # without the limit, too, the steps would be too short
            return
        stuck = state.verdict == "flat" and np.nanmax(median) < self.tiny and state.steps >= self.flat_steps
        if record.finished or stuck:
            moved = f"so the weights moved only {100 * path:.2g} % of their size in {record.step_count} steps"
            yield self._told(record, state, cut, path, optimizer, moved)

    def _called(self, record: Record) -> _Cut | None:
        """The call that cuts most, of those that cut most gradients."""
        cuts = [cut for clip in record.clips.values() if (cut := self._of_call(record, clip)) is not None]
        return max(cuts, key=lambda cut: cut.ratio if math.isfinite(cut.ratio) else 0.0, default=None)

    def _of_call(self, record: Record, clip: Clip) -> _Cut | None:
        norms, limits = record.clipping(clip.id)
        known = np.isfinite(limits.value) & (limits.value > 0)
        if clip.function == "clip_grad_value_":
            return self._of_values(record, clip, float(np.median(limits.value[known]))) if known.any() else None
        known &= np.isfinite(norms.value) & (norms.value > 0)
        if np.count_nonzero(known & (norms.step >= self.warm_up)) >= self.samples:
            known &= norms.step >= self.warm_up
        norm, limit = norms.value[known], limits.value[known]
        if len(norm) < self.samples:
            return None
        share, ratio = float(np.mean(norm > limit)), float(np.median(norm / limit))
        if not share > self.share or not ratio > self.ratio:
            return None
        return _Cut(
            share, ratio, float(np.median(limit)), float(np.quantile(norm, 0.9)), clip.function, clip.location,
            int(norms.step[0]),
        )  # fmt: skip

    def _of_values(self, record: Record, clip: Clip, limit: float) -> _Cut | None:
        """Most numbers of the gradient lie at the limit: their rms is nearly as large."""
        sizes = {name: parameter.size for name, parameter in record.parameters.items() if parameter.requires_grad}
        gradients = grid(record, "gradient", [name for name in record.subjects("gradient") if name in sizes])
        norm = gradients.norm(sizes)
        norm = norm[np.isfinite(norm) & (norm > 0)]
        count = sum(sizes[name] for name in gradients.names)
        if len(norm) < self.samples or not float(np.median(norm)) > 0.5 * limit * math.sqrt(count):
            return None
        return _Cut(1.0, math.nan, limit, math.nan, clip.function, clip.location, int(gradients.step[0]))

    def _fingerprint(self, record: Record) -> _Cut | None:
        """Gradients of one and the same norm, by whatever cut them, which is tiny beside the weights."""
        names = [name for name in record.subjects("gradient") if name in record.parameters]
        sizes = {name: record.parameters[name].size for name in names}
        gradients, weights = grid(record, "gradient", names), grid(record, "parameter", names)
        norm, size = gradients.norm(sizes), weights.norm(sizes)
        told = np.isfinite(norm) & (norm > 0)
        if np.count_nonzero(told) < self.samples or not np.any(size > 0):
            return None
        seen: Floats = norm[told]
        middle = float(np.median(seen))
        share = float(np.mean(np.abs(seen - middle) < self.tolerance * middle))
        if share < self.same or not middle < self.faint * float(np.nanmedian(size)):
            return None
        return _Cut(share, math.nan, middle, math.nan, None, None, int(gradients.step[0]))

    def _left_to_decay(self, record: Record, cut: _Cut, optimizer: Optimizer) -> bool:
        """Whether the decay is stronger than what is left of the gradient, but not than the gradient as it was."""
        decay = largest_decay(record, optimizer)
        if decay <= 0 or not is_coupled(optimizer):
            return False
        own = [record.parameters[name] for name in optimizer.parameters if name in record.parameters]
        sizes = grid(record, "parameter", [parameter.name for parameter in own])
        length = sizes.norm({parameter.name: parameter.size for parameter in own})[:_FIRST]
        if not np.isfinite(length).any():
            return False
        pull = decay * float(np.nanmedian(length))
        return bool(pull > cut.limit and not pull > cut.limit * cut.ratio)

    def _slows(self, record: Record, optimizer: Optimizer) -> bool:
        """Whether a smaller gradient makes a shorter step."""
        if optimizer.class_name in _BY_SIZE:
            return True
        own = set(optimizer.parameters)
        gradients = grid(record, "gradient", [name for name in record.subjects("gradient") if name in own])
        eps = max((group["eps"] for group in optimizer.groups if isinstance(group.get("eps"), float)), default=0.0)
        rms = gradients.median
        return bool(np.isfinite(rms).any()) and float(np.nanmedian(rms)) < self.by_eps * eps

    def _told(
        self, record: Record, state: Condition, cut: _Cut, path: float, optimizer: Optimizer, effect: str
    ) -> Finding:
        percent, cure = f"{100 * cut.share:.0f} % of the gradients", "raise the limit to what most have without it"
        if math.isfinite(cut.ratio):
            shows = f"{percent} are cut, from a median norm of {cut.ratio * cut.limit:.3g} to {cut.limit:.3g}"
            cure = f"raise the limit to about {cut.wanted:.2g}"
            if cut.ratio > self.scaled:
                cure += ", and call scaler.unscale_(optimizer) before it if a GradScaler is used"
        elif cut.function is not None:
            shows = f"most of the gradient's numbers are cut to {cut.limit:.3g}"
        else:
            shows = f"{percent} have the same norm, {cut.limit:.3g}, as if something cut them to it"
        return self.finding(
            f"clipping sets the length of the steps: {shows}, {effect} and the loss stays at {state.end:.4g} (it began "
            f"at {state.start:.4g}); {cure}",
            severity="error", step=cut.step, location=cut.place or optimizer.location,
            evidence={"clipped": cut.share, "limit": cut.limit, "path": path, "start": state.start, "end": state.end,
                      **({"ratio": cut.ratio} if math.isfinite(cut.ratio) else {})},
        )  # fmt: skip
