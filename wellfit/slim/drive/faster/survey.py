"""What the network could become: structures that were made of it and timed, before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wellfit.errors import WellfitError

FASTER = 1.2
"""Only what is so many times as fast, measured, is called faster."""

LADDERS: dict[str, tuple[float, ...]] = {
    "fold": (1.0,), "int8": (1.0,), "fold+int8": (1.0,),
    "structured": (0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    "heads": (0.25, 0.5, 0.75), "drop": (0.25, 0.5, 0.75), "svd": (0.5, 0.75, 0.9), "tucker": (0.5, 0.75, 0.9),
    "cp": (0.75, 0.9), "separable": (0.5,), "grouped": (0.5, 0.75), "reduced": (0.5, 0.75),
}  # fmt: skip
"""Methods and the strengths that are looked at, weakest first."""

UNTRAINED = ("fold", "int8", "fold+int8")
"""These are made of a network as it is, and not trained after that."""

_GAIN = 1.05  # less is not worth a run

WISHES = ";".join(f"{method}={strength:g}" for method, ladder in LADDERS.items() for strength in ladder)
FINISHES = ";".join(f"{method}=1" for method in UNTRAINED)


@dataclass(frozen=True)
class Candidate:
    """A structure.

    Args:
        method: its name.
        strength: how much is taken away; 1 for those of `UNTRAINED`.
        speedup: how many times as fast a call is, with as many samples as count.
        milliseconds: of such a call.
        file: with its weights, not trained.
        gain: how many times as fast it should become when batch norms are folded, after training.
    """

    method: str
    strength: float
    speedup: float
    milliseconds: float
    file: Path
    gain: float = 1.0

    @property
    def expected(self) -> float:
        """The speedup at the end."""
        return self.speedup * self.gain

    @property
    def expected_milliseconds(self) -> float:
        """Of a call, at the end."""
        return self.milliseconds / self.gain

    @property
    def key(self) -> str:
        """No other one has it."""
        return f"{self.method}-{self.strength:g}"

    @property
    def is_trained(self) -> bool:
        """Whether it is to be trained further."""
        return self.method not in UNTRAINED

    def __str__(self) -> str:
        return shown(self.method, self.strength)


@dataclass(frozen=True)
class Survey:
    """Of all methods.

    Args:
        candidates: those that were measured to be faster.
        skipped: the others: method, and why.
        layers: of those that are faster: method, strength, layer, why that one stayed as it is.
        is_finished: whether what needs no training makes the network faster: it is tried on trained structures too.
    """

    candidates: tuple[Candidate, ...]
    skipped: tuple[tuple[str, str], ...]
    layers: tuple[tuple[str, float, str, str], ...]
    is_finished: bool


def shown(method: str, strength: float) -> str:
    """A structure for people: "structured 50 %"."""
    if method in UNTRAINED:
        return method
    own, _, after = method.partition("+")
    return f"{own} {100 * strength:.3g} %" + (f", {after}" if after else "")


def survey_of(report: Path, batch: int) -> Survey:
    """What the override restructure has written.

    Args:
        report: its JSON, beside the files.
        batch: samples in a call that count.

    Raises:
        WellfitError: it cannot be read.
    """
    try:
        made: Sequence[dict[str, Any]] = json.loads(report.read_text(encoding="utf-8"))["made"]
    except (OSError, ValueError, KeyError) as error:
        raise WellfitError(f"{report} cannot be read ({error}): remove its folder, and it is made again") from None
    candidates, layers = [], []
    untrained = {one["method"]: _speedup(one, batch) for one in made if one["method"] in UNTRAINED and one["times"]}
    useful = {method: speed for method, speed in untrained.items() if speed >= _GAIN}
    gain = useful.get("fold", 1.0)  # int8 is not worth as much in a layer that was cut
    why: dict[str, list[str]] = {}
    for one in made:
        if one["file"] is None:
            why.setdefault(one["method"], []).append(one["problem"])
            continue
        time = next(each for each in one["times"] if each["batch"] == batch)
        file = report.parent / one["file"]
        candidates.append(
            Candidate(one["method"], one["strength"], time["speedup"], time["after_ms"], file,
                      1.0 if one["method"] in UNTRAINED else gain)
        )  # fmt: skip
        layers += [(one["method"], one["strength"], name, reason) for name, reason in one["skipped"]]
    good = {one.method for one in candidates}
    # The strongest was tried first, and its reason is the one that counts: it stands last.
    skipped = [(method, reasons[-1]) for method, reasons in why.items() if method not in good]
    return Survey(tuple(candidates), tuple(skipped), tuple(layers), bool(useful))


def _speedup(told: dict[str, Any], batch: int) -> float:
    return float(next(one["speedup"] for one in told["times"] if one["batch"] == batch))
