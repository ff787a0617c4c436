"""Options of an optimizer that hold for one step: replaced before it and put back after it, whatever the script set.

Schedulers compute the next rate from the last one, and scripts print and save what the groups hold: so what they find
must be what they left. Several overrides may change the same option of one step, each on top of the one before.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from wellfit.overrides.program import Program

T = TypeVar("T")
RATE = "lr"

# What was there before the step that runs now. Shared by all overrides: the first that puts back puts back everything,
# so that one which failed in between leaves nothing behind.
_before: weakref.WeakKeyDictionary[Any, list[tuple[dict[str, Any], str, Any]]] = weakref.WeakKeyDictionary()


def put(optimizer: Optimizer, group: dict[str, Any], option: str, value: Any) -> None:
    """Set an option of a parameter group until `put_back`."""
    _before.setdefault(optimizer, []).append((group, option, group[option]))
    group[option] = value


def put_back(optimizer: Optimizer) -> None:
    """Every option of the optimizer as the script had set it."""
    for group, option, value in reversed(_before.pop(optimizer, ())):
        group[option] = value


def multiply_rates(optimizer: Optimizer, factor: float) -> None:
    """Make the learning rate of every group that has one `factor` times what it is, until `put_back`."""
    for group in optimizer.param_groups:
        if group.get(RATE) is not None:
            put(optimizer, group, RATE, group[RATE] * factor)


# An optimizer that was put in the place of the script's steps with so many times the rates of its groups, in which the
# script and its schedulers go on to write rates that fit the other one.
_scales: weakref.WeakKeyDictionary[Any, float] = weakref.WeakKeyDictionary()


def scale_rates(optimizer: Optimizer, scale: float) -> None:
    """Let an optimizer's rates be `scale` times what the script writes."""
    _scales[optimizer] = scale


def multiply_by_scale(optimizer: Optimizer) -> None:
    """Make the rates of this step those that `scale_rates` says."""
    scale = _scales.get(optimizer, 1.0)
    if scale != 1.0:
        multiply_rates(optimizer, scale)


def base_rates(program: Program, optimizer: Optimizer) -> list[float]:
    """The learning rate of each group as it is meant: the peak of a cycle, the base of a schedule, or else the rate it
    was made with. 0 where the group has none (some optimizers find their own)."""
    scale = _scales.get(optimizer, 1.0)
    made, peaks = program.rates.get(optimizer, []), program.peaks.get(optimizer, [])
    rates: list[float] = []
    for index, group in enumerate(optimizer.param_groups):
        peak = peaks[index] if index < len(peaks) else None
        first = made[index] if index < len(made) and made[index] else group.get(RATE)
        meant = (group.get("max_lr"), peak, group.get("initial_lr"), first)
        rates.append(float(next((rate for rate in meant if rate is not None), 0.0)) * scale)
    return rates


class Trainings(Generic[T]):
    """Something for each training: for an optimizer and those that the same line makes later for the same parameters.

    Some scripts make their optimizer anew in each epoch. What was begun with the first one goes on then; an optimizer
    for another model, or of another line (a second phase), is a training of its own.

    Args:
        begin: makes it, from the first optimizer.
    """

    def __init__(self, begin: Callable[[Program, Optimizer], T]) -> None:
        self._begin = begin
        self._known: weakref.WeakKeyDictionary[Any, T] = weakref.WeakKeyDictionary()
        self._of_parameter: Any = None

    def of(self, program: Program, optimizer: Optimizer) -> T:
        """See the class."""
        if optimizer not in self._known:
            lines, name = self._lines(optimizer), program.name(optimizer)
            if name not in lines:
                lines[name] = self._begin(program, optimizer)
            self._known[optimizer] = lines[name]
        return self._known[optimizer]

    def known(self, program: Program, optimizer: Optimizer) -> T | None:
        """The same, but None where nothing was begun."""
        return self._known.get(optimizer, self._lines(optimizer).get(program.name(optimizer)))

    def carry(self, optimizer: Optimizer, other: Optimizer) -> None:
        """Let a copy of an optimizer go on, by itself, from where this one is."""
        if optimizer in self._known:
            self._known[other] = copy.deepcopy(self._known[optimizer])

    def _lines(self, optimizer: Optimizer) -> dict[str, T]:
        """What was begun for the parameters of an optimizer, by the names of those that held them."""
        from torch.utils.weak import WeakIdKeyDictionary

        if self._of_parameter is None:
            self._of_parameter = WeakIdKeyDictionary()
        parameter = next((p for group in optimizer.param_groups for p in group["params"]), None)
        lines: dict[str, T] = {} if parameter is None else self._of_parameter.setdefault(parameter, {})
        return lines
