"""What can be done with a layer, as plans and `--methods` name it; and which layers it does not fit."""

from __future__ import annotations

import re
from dataclasses import dataclass

from wellfit.errors import WellfitError
from wellfit.report.safe import printable
from wellfit.slim.drive.layers import Network

KNOWN = (
    "prune, share", "prune", "share", "keep", "prune N:M", "prune N:M, share", "int2 to int8", "prune, int8",
    "binarise", "binarise xnor",
)  # fmt: skip
"""For people: all forms, with other numbers in some."""

_FEWEST_BITS, _MOST_BITS = 2, 8  # as the override quantise has them
_XNOR = ("Linear", "Conv2d")  # classes that have a form which counts bits


@dataclass(frozen=True)
class Method:
    """What is done with a layer.

    Args:
        prunes: weights become 0.
        pattern: N and M, where N of M neighbours along the input stay; None: the share that stays is told elsewhere.
        shares: the weights share a few values.
        bits: the weights are whole numbers of so many bits, times a scale for each filter; 0: they are not.
        signs: "weights": the weights are signs times a scale for each filter; "both": the layer's inputs are signs,
            too; empty: neither.
    """

    prunes: bool = False
    pattern: tuple[int, int] | None = None
    shares: bool = False
    bits: int = 0
    signs: str = ""

    @classmethod
    def of(cls, told: object, where: str) -> Method:
        """The method that a text means.

        Args:
            where: names it in an error.

        Raises:
            WellfitError: it means none.
        """
        if not isinstance(told, str):
            raise _unknown(told, where)
        words = [" ".join(part.split()) for part in told.split(",")]
        if words in (["binarise"], ["binarise xnor"]):
            return cls(signs="both" if "xnor" in words[0] else "weights")
        if words == ["keep"]:
            return cls()
        first = words.pop(0) if words[0].partition(" ")[0] == "prune" else None
        pattern = _pattern(first, where) if first not in (None, "prune") else None
        if len(words) > 1:
            raise _unknown(told, where)
        bits = re.fullmatch(r"int([0-9]+)", words[0]) if words else None
        if words and not (bits or words[0] == "share"):
            raise _unknown(told, where)
        if bits and not _FEWEST_BITS <= int(bits[1][:4]) <= _MOST_BITS:
            raise WellfitError(f"{where}: bits go from int{_FEWEST_BITS} to int{_MOST_BITS}, not {printable(told, 40)}")
        return cls(first is not None, pattern, words == ["share"], int(bits[1]) if bits else 0)

    def __str__(self) -> str:
        if self.signs:
            return "binarise xnor" if self.signs == "both" else "binarise"
        parts = [f"prune {self.pattern[0]}:{self.pattern[1]}" if self.pattern else "prune"] * self.prunes
        parts += ["share"] * self.shares + [f"int{self.bits}"] * (self.bits > 0)
        return ", ".join(parts) or "keep"

    @property
    def is_told(self) -> bool:
        """Whether the share of weights that stay and the number of values do not say it already."""
        return bool(self.pattern or self.bits or self.signs)

    @property
    def is_searched(self) -> bool:
        """Whether the share of weights that stay is open."""
        return self.prunes and self.pattern is None

    def misfit(self, network: Network, name: str) -> str | None:
        """Why it does not fit a layer, as the end of a sentence; None if it does.

        Args:
            name: of the weight.
        """
        tensor = network.tensors[name]
        if self.pattern is not None:
            inputs = tensor.shape[inputs_axis(tensor.layer_class, len(tensor.shape))]
            if inputs % self.pattern[1]:
                return f"its {inputs} inputs cannot be parted into groups of {self.pattern[1]}"
        if not self.signs:
            return None
        if "Embedding" in tensor.layer_class:
            return "its rows are looked up, and no signs are multiplied"
        if "ConvTranspose" in tensor.layer_class:
            return "its filters do not lie along the first axis"
        return self._xnor_misfit(network, name) if self.signs == "both" else None

    def _xnor_misfit(self, network: Network, name: str) -> str | None:
        tensor = network.tensors[name]
        if tensor.layer_class not in _XNOR:
            return f"a {tensor.layer_class} has no form that counts bits; {' and '.join(_XNOR)} have"
        if tensor.groups != 1:
            return f"its {tensor.groups} groups leave too few products under a filter to be counted"
        if name in network.tied.values():
            return "it is tied to another"
        return None if "." in name else "it is the whole model"


def inputs_axis(layer_class: str, dimensions: int) -> int:
    """The axis along which products are summed up, as the override prune has it."""
    return 0 if "ConvTranspose" in layer_class else 1 if dimensions > 2 else dimensions - 1


def left_out(network: Network, method: Method | None) -> dict[str, str]:
    """Of the weights that a method is not used for, where it is asked for all of them: the reasons."""
    if method is None:
        return {}
    reasons = {name: why for name in network.weights if (why := method.misfit(network, name)) is not None}
    if method.signs:
        layers = list(dict.fromkeys(name.rpartition(".")[0] for name in network.weights))
        for name in network.weights:
            if name.rpartition(".")[0] in (layers[0], layers[-1]):
                reasons[name] = f"the {'first' if name.rpartition('.')[0] == layers[0] else 'last'} layer"
    return reasons


def _pattern(told: str, where: str) -> tuple[int, int]:
    """N and M of "prune N:M"."""
    found = re.fullmatch(r"prune ([0-9]{1,3}):([0-9]{1,3})", told)
    if found is None or not 1 <= int(found[1]) < int(found[2]) < 100:
        raise WellfitError(
            f"{where}: of M neighbours N stay, 1 <= N < M < 100, as in prune 2:4, not {printable(told, 40)}"
        )
    return int(found[1]), int(found[2])


def _unknown(told: object, where: str) -> WellfitError:
    return WellfitError(f'{where} is one of {"; ".join(KNOWN)}, not "{printable(str(told), 60)}"')
