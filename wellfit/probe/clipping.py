"""Calls that clip gradients: where they are, what they were given, and how large the gradient was."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from threading import get_ident
from types import CodeType, FrameType
from typing import Any

import torch
from torch.nn.utils import clip_grad

from wellfit.probe.device import sent
from wellfit.probe.fence import Fence, dispatch_modes, function_modes
from wellfit.probe.frames import ROW_CLIP
from wellfit.probe.locate import Place, cached_place, is_user_file, location
from wellfit.probe.moment import Clipped, Moment
from wellfit.probe.patching import Patches

NORM, VALUE = 0, 1

_Tensor = torch.Tensor
_Waiting = tuple[list[tuple[int, int, float]], torch.Tensor, Any]  # (step, id, limit) of each, norms on the host, event


class Clipping:
    """Follows `clip_grad_norm_` in every step, and `clip_grad_value_` on watched ones.

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
        # Calls of clip_grad_norm_ in the user's files, by id of the code: it is kept, so that no other takes its id.
        self._quick: dict[tuple[int, int], tuple[int, CodeType]] = {}
        self._asked: list[tuple[int, int, float, torch.Tensor]] = []  # step, id, limit, norm on a device
        self._under_way: list[_Waiting] = []
        now.clipped = self._take

    def patch(self, patches: Patches, fence: Fence) -> None:
        """Put ourselves around the two functions, in both modules that hold them."""
        noted = fence.guard(self._note)
        now, quick, plainly = self._now, self._quick, self._plainly

        def with_norm(original: Any) -> Any:
            def clip_grad_norm_(*args: Any, **kwargs: Any) -> Any:
                total = original(*args, **kwargs)
                frame = sys._getframe(1)
                known = quick.get((id(frame.f_code), frame.f_lasti)) if now.plain else None
                if known is None or not plainly(known[0], args, kwargs, total):
                    noted(NORM, args, kwargs, total, frame)
                return total

            return clip_grad_norm_

        def with_value(original: Any) -> Any:
            def clip_grad_value_(*args: Any, **kwargs: Any) -> Any:
                result = original(*args, **kwargs)
                if not now.plain:
                    noted(VALUE, args, kwargs, None, None)
                return result

            return clip_grad_value_

        for holder in (clip_grad, torch.nn.utils):
            patches.patch(holder, "clip_grad_norm_", with_norm)
            patches.patch(holder, "clip_grad_value_", with_value)

    def send(self) -> None:
        """Send the norms that lie on a device on their way to the host, all at once; nothing waits for them."""
        asked, self._asked = self._asked, []
        by_device: dict[torch.device, list[tuple[int, int, float, torch.Tensor]]] = {}
        for entry in asked:
            by_device.setdefault(entry[3].device, []).append(entry)
        for entries in by_device.values():
            with torch.no_grad():
                together = torch.stack([norm.detach().float() for *_, norm in entries])
                self._under_way.append(([entry[:3] for entry in entries], *sent(together)))

    def collect(self, wait: bool = False) -> None:
        """Write the rows whose norms have arrived; with `wait` all."""
        while self._under_way:
            about, host, event = self._under_way[0]
            if event is not None:
                if wait:
                    event.synchronize()
                elif not event.query():
                    return
            del self._under_way[0]
            for (step, known, limit), norm in zip(about, host.tolist(), strict=True):
                self._row(ROW_CLIP, NORM, known, step, norm, limit)

    def _plainly(self, known: int, args: Any, kwargs: Any, total: Any) -> bool:
        """Note a call of a plain step in the log; False where it needs a closer look."""
        if self._now.owner != get_ident() or function_modes() or dispatch_modes():
            return False
        try:
            limit = args[1] if len(args) > 1 else kwargs["max_norm"]
            if type(total) is not _Tensor or type(limit) not in (float, int):
                return False
            self._now.log.append((known, total.item() if total.is_cpu else total, float(limit)))
        except Exception:  # not as torch documents it: the closer look knows what to do
            return False
        return True

    def _take(self, step: int, clipped: Clipped) -> None:
        """A call in the log is counted."""
        known, norm, limit = clipped
        if isinstance(norm, _Tensor):
            self._asked.append((step, known, limit, norm))
        else:
            self._row(ROW_CLIP, NORM, known, step, norm, limit)

    def _note(self, kind: int, args: Any, kwargs: Any, total: Any, frame: FrameType | None) -> None:
        now = self._now
        if now.owner is None or now.owner != get_ident():
            return
        place = cached_place(2)
        known = self._ids.get((kind, place))
        if known is None:
            known = self._ids[kind, place] = len(self._ids)
            function = "clip_grad_value_" if kind else "clip_grad_norm_"
            self._declare({"type": "clip", "id": known, "function": function, "location": location(place)})
        if frame is not None and is_user_file(frame.f_code.co_filename):  # in a library one instruction serves many
            self._quick[id(frame.f_code), frame.f_lasti] = known, frame.f_code
        limit = args[1] if len(args) > 1 else kwargs.get("clip_value" if kind else "max_norm")
        if not isinstance(limit, (int, float)):
            return
        if type(total) is _Tensor and not total.is_cpu and not total.is_meta and total.numel() == 1:
            self._asked.append((now.step, known, float(limit), total))
            return
        norm = float(total) if isinstance(total, torch.Tensor) and total.is_cpu else math.nan
        self._row(ROW_CLIP, kind, known, now.step, norm, float(limit))
