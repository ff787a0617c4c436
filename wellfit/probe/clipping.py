"""Calls that clip gradients: where they are, what they were given, and how large the gradient was."""

from __future__ import annotations

import math
from collections.abc import Callable
from threading import get_ident
from typing import Any

import torch
from torch.nn.utils import clip_grad

from wellfit.probe.fence import Fence
from wellfit.probe.frames import ROW_CLIP
from wellfit.probe.locate import Place, cached_place, location
from wellfit.probe.moment import Moment
from wellfit.probe.patching import Patches

NORM, VALUE = 0, 1


class Clipping:
    """Follows `clip_grad_norm_` and `clip_grad_value_` on watched steps.

    Args:
        now: where in a step the training is.
        declare: writes a declaration.
        row: writes a row: (type, a, b, step, x, y).
    """

    def __init__(
        self,
        now: Moment,
        declare: Callable[[dict[str, Any]], None],
        row: Callable[[int, int, int, int, float, float], None],
    ) -> None:
        self._now = now
        self._declare = declare
        self._row = row
        self._ids: dict[tuple[int, Place | None], int] = {}

    def patch(self, patches: Patches, fence: Fence) -> None:
        """Put ourselves around the two functions, in both modules that hold them."""
        noted = fence.guard(self._note)
        now = self._now

        def make(kind: int) -> Callable[[Any], Any]:
            def with_note(original: Any) -> Any:
                def clip(*args: Any, **kwargs: Any) -> Any:
                    total = original(*args, **kwargs)
                    if not now.plain:
                        noted(kind, args, kwargs, total)
                    return total

                return clip

            return with_note

        for holder in (clip_grad, torch.nn.utils):
            patches.patch(holder, "clip_grad_norm_", make(NORM))
            patches.patch(holder, "clip_grad_value_", make(VALUE))

    def _note(self, kind: int, args: Any, kwargs: Any, total: Any) -> None:
        now = self._now
        if now.owner is None or now.owner != get_ident():
            return
        place = cached_place(2)
        known = self._ids.get((kind, place))
        if known is None:
            known = self._ids[kind, place] = len(self._ids)
            function = "clip_grad_value_" if kind else "clip_grad_norm_"
            self._declare({"type": "clip", "id": known, "function": function, "location": location(place)})
        limit = args[1] if len(args) > 1 else kwargs.get("clip_value" if kind else "max_norm")
        # A norm that lies on a device is not waited for.
        norm = float(total) if isinstance(total, torch.Tensor) and total.is_cpu else math.nan
        if isinstance(limit, (int, float)):
            self._row(ROW_CLIP, kind, known, now.step, norm, float(limit))
