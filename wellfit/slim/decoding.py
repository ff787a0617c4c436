"""How long a `.wfz` file takes to read and decode on this machine. Needs numpy alone."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path

from wellfit.slim.wfz import Contents, Stored, read

_FEWEST, _MOST = 5, 200


@dataclass(frozen=True)
class Part:
    """The tensors that are stored in one way.

    Args:
        kind: how they are stored.
        coder: of most of their bytes.
        tensors: how many; tied ones count once.
        numbers: in all of them.
        bytes: in the file.
        ms: to decode them, median.
    """

    kind: str
    coder: str
    tensors: int
    numbers: int
    bytes: int
    ms: float

    @property
    def numbers_per_second(self) -> float:
        """0 where nothing was decoded."""
        return 1000 * self.numbers / self.ms if self.ms else 0.0


@dataclass(frozen=True)
class Decoding:
    """Reading a file with all its checks, and decoding all tensors.

    Args:
        ms: of all, median.
        open_ms: of that: to read the file, its SHA-256 and header.
        rounds: how often it was read.
        parts: the slowest first.
    """

    ms: float
    open_ms: float
    rounds: int
    parts: tuple[Part, ...]

    @property
    def numbers(self) -> int:
        """In all tensors, tied ones counted once."""
        return sum(part.numbers for part in self.parts)

    @property
    def numbers_per_second(self) -> float:
        """Reading included."""
        return 1000 * self.numbers / self.ms if self.ms else 0.0


def decoding(path: str | Path, *, max_bytes: int | None = None, seconds: float = 1.0) -> Decoding:
    """Read a file over and over.

    Args:
        path: of the file.
        max_bytes: see `wfz.read`.
        seconds: about how long to go on; it is read 5 times at least.

    Raises:
        WellfitError: the file cannot be opened.
        Damaged: the file, or a tensor of it, is damaged.
    """
    contents = read(path, max_bytes=max_bytes)
    groups = _groups(contents)
    rounds: list[list[float]] = []
    end = time.perf_counter() + seconds
    while len(rounds) < _FEWEST or (time.perf_counter() < end and len(rounds) < _MOST):
        begun = time.perf_counter()
        contents = read(path, max_bytes=max_bytes)
        rounds.append([_since(begun), *(_decoded(contents, stored) for stored in groups.values())])
    parts = [
        _part(how, stored, statistics.median(times))
        for (how, stored), times in zip(groups.items(), [*zip(*rounds)][1:])
    ]
    return Decoding(
        statistics.median(map(sum, rounds)), statistics.median(one[0] for one in rounds), len(rounds),
        tuple(sorted(parts, key=lambda part: -part.ms)),
    )  # fmt: skip


def _groups(contents: Contents) -> dict[tuple[str, str], list[Stored]]:
    """Tensors by kind and coder."""
    groups: dict[tuple[str, str], list[Stored]] = {}
    for stored in contents.stored.values():
        if stored.tied_to is None:
            groups.setdefault((stored.kind, stored.coder), []).append(stored)
    return groups


def _part(how: tuple[str, str], stored: list[Stored], ms: float) -> Part:
    numbers = sum(prod(one.shape) for one in stored)
    return Part(*how, len(stored), numbers, sum(one.bytes for one in stored), ms)


def _decoded(contents: Contents, stored: Iterable[Stored]) -> float:
    begun = time.perf_counter()
    for one in stored:
        contents.tensor(one.name)
    return _since(begun)


def _since(begun: float) -> float:
    return 1000 * (time.perf_counter() - begun)
