"""Other random numbers."""

from __future__ import annotations

import multiprocessing
import operator
import os
import random
import sys
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wellfit.overrides.override import Override
from wellfit.overrides.parameters import switch, whole

if TYPE_CHECKING:
    from wellfit.overrides.program import Program


_SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_NTASKS")  # where launchers write how many processes there are


@dataclass(kw_only=True, eq=False)
class Seed(Override):
    """Other random numbers.

    What it changes: torch, Python's `random` and, where the script has it, numpy's global generator are seeded when
    torch is imported; and `torch.manual_seed`, `torch.cuda.manual_seed`, `random.seed` and `numpy.random.seed` put this
    number in the place of the first seed that the script gives to one of them. Later ones stay as far from it as the
    script has them: with seed=1, the seeds 100, 101, 102 of three epochs become 1, 2, 3. A process that is one of
    several (of a launcher for data-parallel training, or of `multiprocessing`) adds this number to what the script
    gives instead, since a first seed that holds its rank must not become that of all. The seeds of a `DataLoader`'s
    workers follow torch's as ever. With `keep` the seeds that the script gives stand: only what it leaves to chance is
    the same in each run.

    When it helps: to see how much of a result is luck: the same run with the seeds 1, 2, 3.

    Safety: safe; the program means the same.

    Where it does not apply: generators that the script makes and seeds itself (`torch.Generator`,
    `numpy.random.default_rng`, a `random_state=` argument), random numbers drawn before torch is imported, and seeds
    that a process forked by the script sets for itself.

    References: Henderson et al., Deep Reinforcement Learning that Matters (2018), on the spread between seeds.
    """

    name = "seed"
    summary = "put another number in the place of the script's seeds"
    example = "seed=1"
    safe = True
    misfit = ""
    rank = 0

    value: int = whole("the seed", low=0, high=2**32 - 1)
    keep: bool = switch("leave the seeds that the script gives as they are", default=False)

    _process: int = field(default=0, init=False)
    _first: int | None = field(default=None, init=False)  # the script's seed that becomes ours
    _inside: threading.local = field(default_factory=threading.local, init=False)  # one seeds by way of another

    def begin(self, program: Program) -> None:
        """See `Override`."""
        import torch

        self._process = os.getpid()
        if _is_one_of_several():
            self._first = 0
        self.changed(f"random numbers: {self.value}")
        torch.manual_seed(self.value)
        random.seed(self.value)
        numpy_random = getattr(sys.modules.get("numpy"), "random", None)  # torch has imported it, where it is there
        if numpy_random is not None:
            numpy_random.seed(self.value)
        if self.keep:
            return
        for holder in (torch, torch.random, torch.cuda, torch.cuda.random):
            program.patch(holder, "manual_seed", self._with_seed)
        for holder in (torch.cuda, torch.cuda.random):
            program.patch(holder, "manual_seed_all", self._with_seed)
        program.patch(random, "seed", self._with_seed)
        if numpy_random is not None:
            program.patch(numpy_random, "seed", self._with_seed)

    def _with_seed(self, original: Callable[..., Any]) -> Callable[..., Any]:
        from torch.utils.data import get_worker_info

        def seeded(*args: Any, **kwargs: Any) -> Any:
            inside = getattr(self._inside, "now", False)
            if inside or os.getpid() != self._process or get_worker_info() is not None:
                return original(*args, **kwargs)  # a DataLoader's workers must not all draw the same
            given = next(iter((*args, *kwargs.values())), None)
            self._inside.now = True
            try:
                return original(self.value if given is None else self._instead(_number(given)))
            finally:
                self._inside.now = False

        return seeded

    def _instead(self, given: int) -> int:
        if self._first is None:
            self._first = given
        return (self.value + given - self._first) % 2**32


def _is_one_of_several() -> bool:
    launched = any(os.environ.get(name, "1").isdigit() and int(os.environ.get(name, "1")) > 1 for name in _SIZES)
    return launched or multiprocessing.parent_process() is not None


def _number(given: Any) -> int:
    """A seed as a whole number: a text or what else a generator takes has one of its own."""
    try:
        return operator.index(given)
    except TypeError:
        return zlib.crc32(repr(given).encode())
