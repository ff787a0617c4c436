"""The script's own clipping of gradients does nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wellfit.overrides.override import Override
from wellfit.overrides.places import here_text

if TYPE_CHECKING:
    from wellfit.overrides.program import Program


@dataclass(kw_only=True, eq=False)
class NoClip(Override):
    """The script's own clipping of gradients does nothing.

    What it changes: `torch.nn.utils.clip_grad_norm_` and `clip_grad_value_` leave the gradients as they are; the norm
    that the first one returns is still computed.

    When it helps: never. It shows what clipping keeps away: exploding gradients of a recurrent network.

    Safety: unsafe; a fault on purpose.

    Where it does not apply: to scripts that do not clip, and to clipping written by hand.

    References: Pascanu, Mikolov, Bengio, On the difficulty of training recurrent neural networks (2013).
    """

    name = "no-clip"
    summary = "the script's own clipping of gradients does nothing"
    example = "no-clip"
    safe = False
    misfit = "the script calls neither clip_grad_norm_ nor clip_grad_value_ before its first step"
    rank = 20

    def begin(self, program: Program) -> None:
        """See `Override`."""
        import torch

        program.patch(torch.nn.utils, "clip_grad_norm_", self._norm_only)
        program.patch(torch.nn.utils, "clip_grad_value_", self._nothing)

    def _norm_only(self, original: Callable[..., Any]) -> Callable[..., Any]:
        import torch

        def clip_grad_norm_(
            parameters: Any, max_norm: float, norm_type: float = 2.0, *args: Any, **kwargs: Any
        ) -> torch.Tensor:
            self.changed(f"clip_grad_norm_{here_text()} left out")
            given = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
            return torch.nn.utils.get_total_norm([p.grad for p in given if p.grad is not None], norm_type)

        return clip_grad_norm_

    def _nothing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def clip_grad_value_(parameters: Any, clip_value: float, *args: Any, **kwargs: Any) -> None:
            self.changed(f"clip_grad_value_{here_text()} left out")

        return clip_grad_value_
