"""The figure by which a script's network is judged: which one it is, and what a run says of it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from wellfit.errors import WellfitError
from wellfit.report.safe import printable

_NUMBER = r"[-+]?(?:\d+(?:[.,]\d+)?|\.\d+)(?:[eE][-+]?\d+)?|[-+]?(?:nan|inf)\b"
_RATIO = r"(?P<right>\d+)\s*/\s*(?P<all>[1-9]\d*)"  # 9083/10000
_GAP = r"(?:\s*\([^)\n]{0,20}\))?[^\d\n]{0,30}?"  # between a name and its number: " = ", ": ", " (top-1) is "
_VALUE = rf"(?:{_RATIO}|(?P<number>{_NUMBER})(?P<percent>\s*%)?)"
_ACCURACY = re.compile(rf"(?<![a-z])(?:accuracy|acc)(?![a-z]){_GAP}{_VALUE}", re.IGNORECASE)
_LOWER = re.compile(
    r"(?<![a-z])(loss|losses|err|error|errors|perplexity|ppl|bits|bpc|mse|rmse|mae|nll|ce|fid|wer|cer|distance)"
    r"(?![a-z])",
    re.IGNORECASE,
)
_COLORS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

WHAT_TO_DO = (
    "slim needs a figure to hold on to: let the script evaluate its model without gradients, or print its accuracy, "
    'or name what stands before the figure that it prints, as in --metric "validation loss"'
)


@dataclass(frozen=True)
class Said:
    """What a run said of its network.

    Args:
        output: what the script printed.
        evaluations: what was seen of its evaluations, in their order: `loss` and `accuracy`, each a number or None.
    """

    output: str
    evaluations: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Metric:
    """A figure.

    Args:
        kind: "text" (behind a text that the user gave), "accuracy" (counted), "printed" (an accuracy that the script
            prints), "loss" (of its evaluation).
        text: for "text": what the number stands behind.
        is_higher_better: whether more is better.
        unit: "share", "percent", "number" (of which a point is 1 % of the dense one), or "own": a point is 1.
    """

    kind: str
    text: str = ""
    is_higher_better: bool = True
    unit: str = "share"

    @property
    def name(self) -> str:
        """For people."""
        names = {"text": printable(self.text, 40), "loss": "evaluation loss"}
        return names.get(self.kind, "accuracy")

    @property
    def is_printed(self) -> bool:
        """Whether the script must go on until it prints it."""
        return self.kind in ("text", "printed")

    @property
    def source(self) -> str:
        """Where it comes from, as a part of a sentence."""
        return {
            "text": f'the last number behind "{self.name}" in what the script prints',
            "accuracy": "accuracy, counted in the script's own evaluation",
            "printed": "the last accuracy that the script prints",
            "loss": "the loss of the script's own evaluation (lower is better)",
        }[self.kind]

    def value_of(self, said: Said) -> float | None:
        """What a run says; None if nothing, or no finite number."""
        if self.is_printed:
            found = _behind(self.text, said.output) if self.kind == "text" else _accuracy(said.output)
            value = found[0] if found else None
        else:
            value = next((one[self.kind] for one in reversed(said.evaluations) if one[self.kind] is not None), None)
        return value if value is not None and math.isfinite(value) else None

    def lost(self, dense: float, value: float | None) -> float:
        """Points that are lost; below 0 if it is better. Of a plain number a point is 1 % of the dense one."""
        if value is None:
            return math.inf
        return self.points(dense - value if self.is_higher_better else value - dense, dense)

    def points(self, difference: float, dense: float) -> float:
        """A difference of two values in points: hundredths of a share, percent, percent of the dense number,
        or what the number itself counts."""
        if self.unit == "number":
            if not dense:
                return math.copysign(math.inf, difference) if difference else 0.0
            return 100 * difference / abs(dense)
        return difference * (100 if self.unit == "share" else 1)

    def shown(self, value: float | None) -> str:
        """A value for people."""
        if value is None:
            return "no number"
        if self.unit in ("number", "own"):
            return f"{value:.4g}"
        return f"{value * (100 if self.unit == 'share' else 1):.2f} %"

    def points_text(self, lost: float) -> str:
        """The same loss for people: "-0.25 points"."""
        if not math.isfinite(lost):
            return "lost"
        if self.unit == "number":
            sign = -lost if self.is_higher_better else lost
            return f"{sign:+.1f} %"
        if self.unit == "own":
            return f"{-lost + 0.0:+.3g}"
        return f"{-lost + 0.0:+.2f} points"

    def as_json(self) -> dict[str, Any]:
        """For the records."""
        return asdict(self)


def choose(said: Said, text: str | None) -> Metric:
    """The figure to judge by: what the user named, else accuracy as it was counted, as it was printed, else a loss.

    Args:
        said: by the run of the script as it is.
        text: of `--metric`.

    Raises:
        WellfitError: the script says none of them.
    """
    if text is not None:
        named = _behind(text, said.output)
        if named is None:
            raise WellfitError(f'--metric "{text}": the script prints no number behind that text')
        percent = named[1] or (_names_accuracy(text) and abs(named[0]) > 1)
        unit = "percent" if percent else "share" if _names_accuracy(text) else "number"
        return Metric("text", text, not _LOWER.search(text), unit)
    for kind in ("accuracy", "printed", "loss"):
        printed = _accuracy(said.output) if kind == "printed" else None
        unit = "number" if kind == "loss" else "percent" if printed and (printed[1] or printed[0] > 1) else "share"
        metric = Metric(kind, is_higher_better=kind != "loss", unit=unit)
        if metric.value_of(said) is not None:
            return metric
    raise WellfitError(f"the script says nothing of how good its network is; {WHAT_TO_DO}")


def _names_accuracy(text: str) -> bool:
    return re.search(r"(?<![a-z])(accuracy|acc)(?![a-z])", text, re.IGNORECASE) is not None


def _behind(text: str, output: str) -> tuple[float, bool] | None:
    """The last number behind a text, on the same line, and whether it has a percent sign."""
    found = None
    for line in _lines(output):
        for start in (match.end() for match in re.finditer(re.escape(text), line)):
            number = re.search(_VALUE, line[start:], re.IGNORECASE)
            found = _read(number) if number else found
    return found


def _accuracy(output: str) -> tuple[float, bool] | None:
    """The last number that is called accuracy."""
    found = None
    for line in _lines(output):
        for match in _ACCURACY.finditer(line):
            found = _read(match)
    return found


def _read(match: re.Match[str]) -> tuple[float, bool]:
    if match["right"] is not None:
        return int(match["right"]) / int(match["all"]), False
    return float(match["number"].replace(",", ".")), bool(match["percent"])


def _lines(output: str) -> Iterable[str]:
    """Without colours; what a progress bar writes over itself is many lines."""
    return (line for line in re.split(r"[\r\n]", _COLORS.sub("", output)) if not line.startswith("wellfit: "))
