"""Learning rates of a step: multiplied for this step and put back after it, whatever the script or a scheduler set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.optim import Optimizer

KEY = "lr"


class StepRates:
    """The rates that were replaced for the step that runs now, by optimizer.

    Schedulers compute the next rate from the last one, so what they find must be what they left.
    """

    def __init__(self) -> None:
        self._before: dict[int, list[Any]] = {}

    def multiply(self, optimizer: Optimizer, factor: float) -> None:
        """Make the rate of every group `factor` times what it is, until `restore`."""
        self._before[id(optimizer)] = [group[KEY] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group[KEY] = group[KEY] * factor

    def restore(self, optimizer: Optimizer) -> None:
        """Put back what the script had set."""
        for group, rate in zip(optimizer.param_groups, self._before.pop(id(optimizer), ()), strict=False):
            group[KEY] = rate


def base_rate(optimizer: Optimizer) -> float:
    """The largest learning rate among the groups as the script meant it: the peak of a cycle, the base of a schedule,
    or else what the optimizer was made with."""
    rates = [group.get("max_lr", group.get("initial_lr", group.get(KEY, 0.0))) for group in optimizer.param_groups]
    return max((float(rate) for rate in rates), default=0.0)
