"""Other random numbers."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wellfit.overrides.override import Override
from wellfit.overrides.parameters import whole

if TYPE_CHECKING:
    from wellfit.overrides.program import Program


@dataclass(kw_only=True, eq=False)
class Seed(Override):
    """Other random numbers.

    What it changes: torch, Python's `random` and, where the script has it, numpy's global generator are seeded when
    torch is imported; and `torch.manual_seed`, `random.seed` and `numpy.random.seed` put this number in the place of
    what the script gives them.

    When it helps: to see how much of a result is luck: the same run with the seeds 1, 2, 3.

    Safety: safe; the program means the same.

    Where it does not apply: generators that the script makes and seeds itself (`torch.Generator`,
    `numpy.random.default_rng`, a `random_state=` argument), random numbers drawn before torch is imported, and the seed
    of a `DataLoader`'s workers, which follows torch's.

    References: Henderson et al., Deep Reinforcement Learning that Matters (2018), on the spread between seeds.
    """

    name = "seed"
    summary = "put another number in the place of the script's seeds"
    example = "seed=1"
    safe = True
    misfit = ""
    rank = 0

    value: int = whole("the seed", low=0, high=2**32 - 1)

    def begin(self, program: Program) -> None:
        """See `Override`."""
        import torch

        self.changed(f"random numbers: {self.value}")
        torch.manual_seed(self.value)
        random.seed(self.value)
        program.patch(torch, "manual_seed", self._with_seed)
        program.patch(random, "seed", self._with_seed)
        numpy_random = getattr(sys.modules.get("numpy"), "random", None)  # torch has imported it, where it is there
        if numpy_random is not None:
            numpy_random.seed(self.value)
            seed = numpy_random.seed

            def numpy_seed(*args: Any, **kwargs: Any) -> None:
                seed(self.value)

            numpy_random.seed = numpy_seed

    def _with_seed(self, original: Callable[[Any], Any]) -> Callable[..., Any]:
        def seeded(*args: Any, **kwargs: Any) -> Any:
            return original(self.value)

        return seeded
