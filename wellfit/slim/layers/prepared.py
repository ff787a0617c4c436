"""Modules that get their state ready for a fast operation once, and again when the state has changed."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Prepared(nn.Module):
    """Base class: `_kept(key, make)` is what `make` gave for the state as it is now."""

    bias: torch.Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self._ready: dict[Any, Any] = {}
        self._seen: list[tuple[int, int]] = []

    def _plain(self, x: torch.Tensor) -> bool:
        """Nothing of a call with x is to be differentiated or traced, and it is float32 on the CPU."""
        return (
            type(x) in (torch.Tensor, nn.Parameter)  # not one that only stands for numbers
            and x.dtype is torch.float32
            and x.is_cpu
            and not (torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in self.parameters())))
            and not torch.compiler.is_compiling()
        )

    def _kept(self, key: Any, make: Any) -> Any:
        """Something made from the state, until the state changes: weights are loaded, or changed in place."""
        state = (*self._buffers.values(), *self._parameters.values())
        seen = [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in state if t is not None]
        if seen != self._seen:
            self._ready, self._seen = {}, seen
        if key not in self._ready:
            self._ready[key] = make()
        return self._ready[key]

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Moved to another device or dtype, the state may lie where it lay."""
        self._seen = []
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def __getstate__(self) -> dict[str, Any]:
        """A copy makes its own addresses."""
        return {**self.__dict__, "_ready": {}, "_seen": []}
