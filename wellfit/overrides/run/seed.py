"""Other random numbers."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wellfit.overrides.override import Override
from wellfit.overrides.parameters import whole

if TYPE_CHECKING:
    from wellfit.overrides.program import Program


@dataclass(kw_only=True, eq=False)
class Seed(Override):
    """Other random numbers.

    What it changes: torch, Python's `random` and, where the script has it, numpy's global generator are seeded when
    torch is imported; and `torch.manual_seed`, `torch.cuda.manual_seed`, `random.seed` and `numpy.random.seed` put this
    number in the place of what the script gives them. The seeds of a `DataLoader`'s workers follow torch's as ever.

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

    _process: int = field(default=0, init=False)

    def begin(self, program: Program) -> None:
        """See `Override`."""
        import torch

        self._process = os.getpid()
        self.changed(f"random numbers: {self.value}")
        torch.manual_seed(self.value)
        random.seed(self.value)
        for holder in (torch, torch.random, torch.cuda, torch.cuda.random):
            program.patch(holder, "manual_seed", self._with_seed)
        for holder in (torch.cuda, torch.cuda.random):
            program.patch(holder, "manual_seed_all", self._with_seed)
        program.patch(random, "seed", self._with_seed)
        numpy_random = getattr(sys.modules.get("numpy"), "random", None)  # torch has imported it, where it is there
        if numpy_random is not None:
            numpy_random.seed(self.value)
            program.patch(numpy_random, "seed", self._with_seed)

    def _with_seed(self, original: Callable[..., Any]) -> Callable[..., Any]:
        from torch.utils.data import get_worker_info

        def seeded(*args: Any, **kwargs: Any) -> Any:
            if os.getpid() != self._process or get_worker_info() is not None:
                return original(*args, **kwargs)  # a DataLoader's workers must not all draw the same
            return original(self.value)

        return seeded
