"""The patients: healthy programs of every family, from `examples/`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@dataclass(frozen=True)
class Patient:
    """A healthy program.

    Args:
        name: of the family.
        script: file in `examples/`.
        better: whether a higher or a lower metric is better.
        chance: the metric of the untrained program.
        traits: what faults ask for, see `Fault.needs`.
        arguments: of the script.
        quick: part of the quick round.
    """

    name: str
    script: str
    better: Literal["higher", "lower"]
    chance: float
    traits: frozenset[str]
    arguments: tuple[str, ...] = ()
    quick: bool = False

    @property
    def path(self) -> Path:
        """The script's file."""
        return EXAMPLES / self.script

    def hurt(self, metric: float | None, healthy: list[float]) -> bool:
        """Whether a run did clearly worse than healthy ones.

        It lost a tenth of what healthy runs gain over the untrained program, and twice the spread among them.

        Args:
            metric: of the run; None if it crashed or gave no number.
            healthy: of healthy runs, one a seed; at least one.
        """
        if metric is None or metric != metric:
            return True
        usual = sorted(healthy)[len(healthy) // 2]
        lost = usual - metric if self.better == "higher" else metric - usual
        return lost > max(0.1 * abs(usual - self.chance), 2 * (max(healthy) - min(healthy)))
