"""Which samples a model was given in training and in evaluation: fingerprints of rows, and how many are in both."""

from __future__ import annotations

from typing import Any

import torch

from wellfit.probe.statistics import is_plain

ROWS = 64  # of a batch
TRAINED = 20_000  # fingerprints kept of training
EVALUATED = 5_000
ELEMENTS = 8192  # of a row that its fingerprint is made of: of longer rows every second, third ...
LOOKED_AT = 65_536  # elements of a batch, so that long rows cost no more than many short ones
FILLED = 16  # of a longer row's elements are not 0, or what is left of a sparse one may be alike by chance


class Samples:
    """Fingerprints of the first input of a model, by model.

    A fingerprint is the sum of a row's elements, read as whole numbers, each times a random number of its own, modulo
    2^64 (multilinear hashing; Lemire, Kaser 2014, section 2). Equal rows have equal ones. Float32 numbers that are
    whole leave 23 bits empty: even then one of 20,000 x 5,000 pairs of unequal rows is alike in less than one run of
    10,000.
    """

    def __init__(self) -> None:
        self._trained: dict[str, dict[int, int]] = {}
        self._evaluated: dict[str, dict[int, int]] = {}
        self._factors: dict[int, torch.Tensor] = {}

    def trained(self, root: str, given: Any) -> None:
        """A model was called in training."""
        self._note(self._trained.setdefault(root, {}), given, TRAINED)

    def evaluated(self, root: str, given: Any) -> None:
        """A model was called without gradient after training paused."""
        self._note(self._evaluated.setdefault(root, {}), given, EVALUATED)

    def _note(self, known: dict[int, int], given: Any, limit: int) -> None:
        if len(known) >= limit:
            return
        for fingerprint in self._fingerprints(given):
            known[fingerprint] = known.get(fingerprint, 0) + 1

    def declarations(self) -> list[dict[str, Any]]:
        """`samples` of docs/record.md, one for each model that was also evaluated."""
        found = []
        for root, evaluated in self._evaluated.items():
            trained = self._trained.get(root, {})
            if trained and evaluated:
                found.append(
                    {
                        "type": "samples", "root": root, "trained": len(trained), "evaluated": len(evaluated),
                        "trained_calls": sum(trained.values()), "shared": len(trained.keys() & evaluated.keys()),
                    }
                )  # fmt: skip
        return found

    def _fingerprints(self, given: Any) -> list[int]:
        """One number for each row of a batch; none of what is no batch on the CPU."""
        if not isinstance(given, torch.Tensor) or not is_plain(given) or torch.compiler.is_compiling():
            return []
        if not given.is_cpu or given.layout is not torch.strided or not given.numel():
            return []
        if given.dim() < 2 or given.is_meta or given.is_nested or given.is_quantized or given.is_complex():
            return []
        width = given.numel() // len(given)
        if width < 2:
            return []
        step = -(-width // ELEMENTS)
        count = min(len(given), ROWS, max(1, LOOKED_AT * step // width))
        bits = _bits(given.detach()[:count].reshape(count, -1)[:, ::step])
        if step > 1:
            bits = bits[(bits != 0).sum(1) >= FILLED]
        return (bits * self._factor(bits.shape[1])).sum(1).tolist()  # type: ignore[no-any-return]

    def _factor(self, count: int) -> torch.Tensor:
        if count not in self._factors:
            own = torch.Generator().manual_seed(count)  # the program's random numbers stay its own
            self._factors[count] = torch.randint(-(1 << 63), (1 << 63) - 1, (count,), generator=own) | 1
        return self._factors[count]


def _bits(rows: torch.Tensor) -> torch.Tensor:
    """The elements as int64, equal where they are equal."""
    if not rows.is_floating_point():
        return rows.to(torch.int64)
    return rows.to(torch.float32).contiguous().view(torch.int32).to(torch.int64)
