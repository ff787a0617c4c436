"""UPD509: an optimizer that forgets what it has gathered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from wellfit.condition import condition
from wellfit.finding import Finding, Fix, Location
from wellfit.record import Optimizer, Record
from wellfit.record.curves import Floats
from wellfit.rule import Family, Rule
from wellfit.source import source_of

_SCALED = ("Adam", "AdamW", "NAdam", "Adamax", "RMSprop", "Adagrad", "Adadelta")
_STATEFUL = (*_SCALED, "RAdam", "SparseAdam", "Rprop", "ASGD")


class OptimizerReborn(Rule):
    """The state of an optimizer (momentum, second moments, count of steps) is thrown away again and again.

    What it checks
    Whether several optimizers made on the same line step one after the other on the same parameters, each for a few
    steps only; an error where each lives for `memory` steps or fewer, else a note. And whether one optimizer always
    takes the kind of step that only a first one is: with Adam and its kin every element moves by the same length
    (rms over largest update above `alike`, and always the same multiple of the learning rate within `same`), though the
    gradient changes in size or sign; with momentum every step is the learning rate times the gradient (within
    `plain`). It takes `share` of the weights, or samples.

    Why it hurts
    Momentum never builds up, and Adam takes steps of one length in the direction of each gradient's sign, however
    small or noisy that gradient is: learning is slower and never settles.

    Cure
    Make the optimizer once, before the loop. To change the learning rate, change it in the optimizer's groups, or
    use a scheduler.

    Fix safety
    The program means the same as it was meant to; a learning rate tuned with the error may have to be tuned anew.

    When it is wrong
    Optimizers of other models (folds, ensembles, clients of federated learning) are made anew rightly: nothing is said
    where a model was made anew as well. SGD without momentum has no state. Of a restart after many steps, which may be
    wanted, there is a note only.

    References
    Kingma and Ba 2015, "Adam: A Method for Stochastic Optimization", section 3.
    """

    code = "UPD509"
    name = "optimizer-reborn"
    family: ClassVar[Family] = "update"
    summary = "the optimizer is made anew, or loses its state, again and again"
    reads = ("optimizer", "update", "gradient.rms", "steps")
    consequences = ("plateau", "oscillation", "diverged", "lr-high", "lr-low", "underfit", "scheduler-order")
    fixes = (Fix("Make the optimizer once, before the loop"),)

    lives: int = 3  # optimizers, one after the other, on the same parameters
    memory: int = 10  # steps in which momentum 0.9 fills to two thirds
    alike: float = 0.97  # rms over largest element of an update; Adam and kin: below 0.75, with a fresh state 0.99
    same: float = 0.05  # relative change of (largest update / learning rate) over the run; only Adam's first step has 0
    plain: float = 0.08  # deviation of rms(update) / (lr rms(gradient)) from 1
    share: float = 0.7  # of weights, or samples, that show it; healthy runs: below 0.1, with a fresh state above 0.8
    samples: int = 8  # watched steps, from the `first` on
    first: int = 3  # step from which a true state differs from a fresh one
    changes: float = 2.0  # largest over smallest rms of a gradient: with that a true Adam's steps differ by 10 %

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        for _epoch in range(3):
            for batch in torch.randperm(1400).split(50):
                optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        # Each fold has a model of its own, and so an optimizer of its own.
        for _fold in range(4):
            model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
            optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
            for _epoch in range(2):
                for batch in torch.randperm(1400).split(50):
                    optimizer.zero_grad()
                    loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                    loss.backward()
                    optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        made_anew = list(self._made_anew(record))
        yield from made_anew
        if not made_anew:
            for optimizer in record.optimizers.values():
                yield from self._forgets(record, optimizer)

    # Made anew ------------------------------------------------------------------------------------------------------

    def _made_anew(self, record: Record) -> Iterator[Finding]:
        if len(record.optimizers) < 2:
            return
        groups: dict[object, list[Optimizer]] = {}
        for optimizer in record.optimizers.values():
            known = bool(optimizer.parameters) and not optimizer.unknown_parameters
            if known and optimizer.location is not None and _keeps_state(optimizer):
                groups.setdefault((optimizer.location, optimizer.class_name, optimizer.parameters), []).append(
                    optimizer
                )
        for group in groups.values():
            if len(group) < 2 or _model_made_anew(record, group[0]):
                continue
            lengths = _lengths_of_lives(record, group)
            if len(lengths) < self.lives:
                continue
            length = float(np.median(lengths[:-1]))
            short = length <= self.memory
            if not short and not _learns_on(record):
                continue
            yield self._told_anew(record, group[0], len(lengths), length, short)

    def _told_anew(self, record: Record, optimizer: Optimizer, lives: int, length: float, short: bool) -> Finding:
        each = "at each step" if length < 2 else f"every {length:.0f} steps"
        hurts = (
            "its running averages never build up, and every step is like the first"
            if short
            else "its running averages are lost each time"
        )
        return self.finding(
            f"the optimizer {optimizer.class_name} is made anew {each} for the same parameters, so {hurts}; make it "
            "once, before the loop",
            severity="error" if short else "note", step=int(length), location=optimizer.location,
            evidence={"optimizers": lives, "steps_each": length, "memory": self.memory},
            sure=record.finished or (short and lives > self.memory),
        )  # fmt: skip

    # State lost -----------------------------------------------------------------------------------------------------

    def _forgets(self, record: Record, optimizer: Optimizer) -> Iterator[Finding]:
        if not optimizer.groups or not _keeps_state(optimizer):
            return
        if optimizer.class_name in _SCALED:
            seen, share = self._first_steps_only(record, optimizer)
            shows = "every element of a weight moves by the same length at every step, as Adam's first step does"
        else:
            seen, share = self._without_momentum(record, optimizer)
            shows = "every step is the learning rate times the gradient, as without momentum"
        if seen < self.samples or share < self.share:
            return
        yield self.finding(
            f"the state of the optimizer {optimizer.class_name} is lost between its steps: {shows}, so nothing is "
            "averaged over steps; leave its state alone, and make the optimizer once, before the loop",
            severity="error", step=self.first, location=_clearing_line(optimizer) or optimizer.location,
            evidence={"samples": seen, "share": share}, sure=record.finished or seen >= 2 * self.samples,
        )  # fmt: skip

    def _first_steps_only(self, record: Record, optimizer: Optimizer) -> tuple[int, float]:
        """(samples, share of the weights whose updates are all of one length though their gradients change)."""
        if optimizer.groups[0].get("betas") == [0.0, 0.0]:
            return 0, 0.0  # steps by the sign on purpose
        verdicts, seen = [], 0
        for name in _held(record, optimizer):
            update, gradient = record.series("update", name), record.series("gradient", name)
            late = update.step >= self.first
            if late.sum() < self.samples or len(gradient) < self.samples:
                continue
            rate = record.hyper("lr", optimizer.id).at(update.step[late])
            with np.errstate(all="ignore"):
                moved = update.count[late] - update.low[late]
                flat = update.rms[late] * np.sqrt(update.count[late] / moved) / update.amax[late]
                length = update.amax[late] / rate
            known = np.isfinite(flat) & np.isfinite(length) & (length > 0)
            if known.sum() < self.samples or not self._changes(gradient.rms, gradient.mean):
                continue
            low, high = np.quantile(length[known], [0.1, 0.9])
            verdicts.append(np.quantile(flat[known], 0.1) > self.alike and high < (1 + self.same) * low)
            seen = max(seen, int(known.sum()))
        # A bias of few elements may well move evenly: it is the weights that count, and there are mostly several.
        return seen, float(np.mean(verdicts)) if verdicts else 0.0

    def _changes(self, size: Floats, mean: Floats) -> bool:
        """Whether a gradient changes from step to step: a true Adam's steps are alike only if it does not."""
        size, mean = size[np.isfinite(size)], mean[np.isfinite(mean)]
        if len(size) < self.samples:
            return False
        # Where elements have both signs, the sign of their mean says nothing of theirs.
        clear = mean[np.abs(mean) > 0.5 * np.median(size)]
        flips = float(np.mean(np.sign(clear[1:]) != np.sign(clear[:-1]))) if len(clear) >= self.samples else 0.0
        return bool(size.max() > self.changes * size.min()) or flips > 0.1

    def _without_momentum(self, record: Record, optimizer: Optimizer) -> tuple[int, float]:
        """(samples, share of them in which the update is just the learning rate times the gradient)."""
        group = optimizer.groups[0]
        momentum = group.get("momentum")
        if optimizer.class_name != "SGD" or not isinstance(momentum, float) or momentum < 0.5:
            return 0, 0.0
        if group.get("dampening"):
            return 0, 0.0  # then a gradient that stays the same is the step
        factor = 1 + momentum if group.get("nesterov") else 1.0
        ratios, steps = [], 0
        for name in _held(record, optimizer):
            update, gradient = record.series("update", name), record.series("gradient", name)
            step, here, there = np.intersect1d(update.step, gradient.step, return_indices=True)
            with np.errstate(all="ignore"):
                ratio = update.rms[here] / (record.hyper("lr", optimizer.id).at(step) * gradient.rms[there]) / factor
            ratio = ratio[(step >= self.first) & (gradient.rms[there] > 0)]
            ratio = ratio[np.isfinite(ratio)]
            ratios.append(ratio)
            steps = max(steps, len(ratio))
        every = np.concatenate(ratios) if ratios else np.empty(0)
        return steps, float(np.mean(np.abs(every - 1) < self.plain)) if len(every) else 0.0


def _keeps_state(optimizer: Optimizer) -> bool:
    """Whether an optimizer carries anything from step to step."""
    if optimizer.class_name == "SGD":
        return any(bool(group.get("momentum")) for group in optimizer.groups)
    return optimizer.class_name in _STATEFUL


def _held(record: Record, optimizer: Optimizer) -> list[str]:
    """The weights of an optimizer whose updates were measured."""
    measured = set(record.subjects("update"))
    known = record.parameters
    return [
        name
        for name in optimizer.parameters
        if name in measured and name in known and known[name].size >= 8 and known[name].optimizer == optimizer.id
    ]


def _lengths_of_lives(record: Record, group: list[Optimizer]) -> list[int]:
    """How many steps each optimizer of a group made, those that were never written into the record included."""
    ids = {optimizer.id for optimizer in group}
    others = record.optimizers.keys() - ids
    # Optimizers are numbered as they first step. Rows hold numbers up to 254: what is beyond is not told apart.
    used, counts = np.unique(record.steps["a"], return_counts=True)
    first, last = min(ids), max(ids)
    return [
        int(count)
        for number, count in zip(used.tolist(), counts.tolist(), strict=True)
        if first <= number <= min(last, 254) and number not in others
    ]


def _model_made_anew(record: Record, optimizer: Optimizer) -> bool:
    """Whether modules of the same name were made one after the other (folds): those before are no longer there.

    Layers are numbered by their first calls; a later one takes the place of an earlier one of its name.
    """
    layers, known = record.layers, record.parameters
    measured = set(record.subjects("activation"))
    held = {known[name].layer for name in optimizer.parameters if name in known and known[name].layer in layers}
    if any(layers[name].order < 0 and name in measured for name in held):
        return True  # it was called, and now stands for one that was not
    top = max((layers[name].order for name in held), default=-1)
    numbers = sorted(layer.order for layer in layers.values() if 0 <= layer.order <= top)
    return top < 0 or numbers != list(range(top + 1))


def _learns_on(record: Record) -> bool:
    """Whether the loss goes on where it was when the optimizer is made anew, clearly below its start: the model is the
    one that it was."""
    curve = record.loss()
    if condition(record).adversarial or len(curve) < 10:
        return False
    steps = record.steps
    changes = np.flatnonzero(np.diff(steps["a"])) + 1
    width = max(3, min(10, len(curve) // (2 * len(changes) + 1)))
    start = float(np.nanmedian(curve.value[:width]))
    kept = []
    for place in np.searchsorted(curve.step, steps["step"][changes])[:100]:
        before, after = curve.value[max(place - width, 0) : place], curve.value[place : place + width]
        if len(before) and len(after):
            fallen = start - float(np.median(before))
            kept.append(fallen > 0.1 * abs(start) and float(np.median(after)) < start - 0.5 * fallen)
    return bool(kept) and float(np.mean(kept)) > 0.5


def _clearing_line(optimizer: Optimizer) -> Location | None:
    """The line of the file that makes the optimizer on which a state is replaced or cleared."""
    source = source_of(optimizer.location.file) if optimizer.location is not None else None
    if source is None or optimizer.location is None:
        return None
    lines = [node.lineno for node in source.assignments("state")]
    lines += [call.lineno for call in source.calls(["clear"]) if ".state" in source.line(call.lineno)]
    return Location(optimizer.location.file, min(lines)) if lines else None
