"""Random numbers for overrides that need some at every step."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def own_seed(seed: int) -> int:
    """The seed of our streams, made of the script's: what we draw hangs on that alone, and is not what it draws."""
    return int.from_bytes(hashlib.blake2b(f"wellfit {seed}".encode(), digest_size=7).digest(), "little")


class Draws:
    """Generators that hang on the script's seed alone, one for each device: the script's own stream goes on as ever.

    Where numbers are needed only once, `Program.randomness` is enough.
    """

    def __init__(self) -> None:
        self._generators: dict[str, torch.Generator] = {}
        self._seed: int | None = None

    @property
    def seed(self) -> int:
        """Ours (`own_seed`), from the script's seed as it was when this was first asked."""
        import torch

        if self._seed is None:
            self._seed = own_seed(torch.default_generator.initial_seed())
        return self._seed

    def on(self, device: Any = "cpu") -> torch.Generator:
        """The generator of a device."""
        import torch

        known = self._generators.get(str(device))
        if known is None:
            known = self._generators[str(device)] = torch.Generator(device).manual_seed(self.seed)
        return known
