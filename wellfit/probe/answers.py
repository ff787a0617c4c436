"""Whether the target that a loss is given stands among the inputs of the model: as a column, or token by token."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import nn

from wellfit.probe.statistics import NAN, Row, is_plain

ROWS = 64  # of a batch that are compared
FEWEST_ROWS = 8
WIDTH = 1024  # columns of an input that is compared; wider ones are left out
TOKENS = 4096  # of a batch that are compared
ARGUMENTS = 4  # of the model that are looked at

_WHOLE = {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8}
_IGNORED = -100  # torch's default of `ignore_index`


class Answers:
    """Compares the target of a watched step with what the first model of this step was given.

    What is compared is copied, a few thousand numbers: to hold the input itself would keep it alive longer than the
    program does.

    Args:
        running: the modules whose forward is running, outermost first.
    """

    def __init__(self, running: list[nn.Module]) -> None:
        self._running = running
        self._root: weakref.ref[nn.Module] | None = None
        self._columns: list[tuple[tuple[int, ...], int, torch.Tensor]] = []  # shape given, rows, columns of the first
        self._tokens: list[tuple[int, int, torch.Tensor]] = []  # place, how many in all, the first of them
        self._always: dict[int, torch.Tensor] = {}  # loss -> columns that were the target in all batches

    def begin(self) -> None:
        """A watched step begins."""
        self._root = None
        self._columns.clear()
        self._tokens.clear()

    def given(self, module: nn.Module, args: Any) -> None:
        """A model that no other contains is called with gradient; the first one of a step counts."""
        if self._root is not None or torch.compiler.is_compiling():
            return
        self._root = weakref.ref(module)
        for place, tensor in enumerate(args[:ARGUMENTS] if isinstance(args, tuple) else ()):
            if not _readable(tensor):
                continue
            tensor = tensor.detach()
            if place == 0:
                self._columns = _columns(tensor)
            if tensor.dim() == 2 and tensor.dtype in _WHOLE and tensor.shape[1] >= 2:
                self._tokens.append((place, tensor.numel(), _first(tensor)))

    def row(self, loss: int, target: torch.Tensor, ignored: object) -> Row | None:
        """The `answer` statistics of docs/record.md; None if nothing can be compared.

        Args:
            loss: its id.
            target: what the loss function was given.
            ignored: value of `ignore_index`, if it was given.
        """
        if self._root is None or not _readable(target):
            return None
        return self._as_column(loss, target) or self._as_tokens(target, ignored)

    def _as_column(self, loss: int, target: torch.Tensor) -> Row | None:
        count = target.shape[0] if target.dim() else 0
        if count < FEWEST_ROWS or target.numel() != count:
            return None
        parts = [part for shape, rows, part in self._columns if rows == count and shape != tuple(target.shape)]
        wanted = target.reshape(-1)[:ROWS]
        distinct = torch.unique(wanted).numel()
        if not parts or distinct < 2:
            return None
        found = torch.cat(parts, 1)
        equal = (found == wanted.to(found.dtype)[:, None]).all(0)
        known = self._always.get(loss)
        always = equal if known is None else equal & known if known.shape == equal.shape else torch.zeros_like(equal)
        self._always[loss] = always
        left = int(always.sum())
        place = int(always.to(torch.uint8).argmax()) if left else -1
        return (float(len(wanted)), float(distinct), float(len(equal)), float(left), float(place), NAN, 0.0, 0.0)

    def _as_tokens(self, target: torch.Tensor, ignored: object) -> Row | None:
        if target.dtype not in _WHOLE or target.dim() not in (1, 2):
            return None
        root = self._root() if self._root is not None else None
        inside = any(module is root for module in self._running)
        wanted = _first(target)
        counted = wanted != (ignored if isinstance(ignored, int) else _IGNORED)
        positions = int(counted.sum())
        distinct = torch.unique(wanted[counted]).numel()
        if positions < FEWEST_ROWS or distinct < 2:
            return None
        best: tuple[float, int] | None = None
        for place, count, first in self._tokens:
            # A model that computes its loss itself is given the target as an argument, which is no leak.
            if count == target.numel() and len(first) == len(wanted) and not (inside and place):
                same = int(((first == wanted) & counted).sum()) / positions
                best = (same, place) if best is None or same >= best[0] else best
        if best is None:
            return None
        return (float(positions), float(distinct), 0.0, 0.0, -1.0, best[0], float(best[1]), float(len(self._tokens)))


def _columns(tensor: torch.Tensor) -> list[tuple[tuple[int, ...], int, torch.Tensor]]:
    """What of an input may be the target: its columns, of sequences those of the last step, of tokens the last."""
    shape = tuple(tensor.shape)
    if tensor.dtype in _WHOLE:
        return [(shape, shape[0], tensor[:ROWS, -1:].clone())] if tensor.dim() == 2 else []
    if not tensor.is_floating_point() or 0 in shape:
        return []
    if tensor.dim() == 2:
        return [(shape, shape[0], tensor[:ROWS].clone())] if shape[1] <= WIDTH else []
    if tensor.dim() != 3 or max(shape[1:]) > WIDTH:
        return []
    found = []
    if shape[1] > 1:
        found.append((shape, shape[0], tensor[:ROWS, -1].clone()))
    if shape[2] > 1:
        found.append((shape, shape[0], tensor[:ROWS, :, -1].clone()))
    if shape[0] > 1 and shape[1] != shape[0]:  # time may come first
        found.append((shape, shape[1], tensor[-1, :ROWS].clone()))
    return found


def _first(tokens: torch.Tensor) -> torch.Tensor:
    """A copy of the first tokens, sample by sample."""
    if tokens.dim() == 2:
        tokens = tokens[: -(-TOKENS // max(1, tokens.shape[1]))]
    return tokens.reshape(-1)[:TOKENS].clone()


def _readable(tensor: Any) -> bool:
    """Whether the numbers of a tensor can be had at once."""
    return (
        isinstance(tensor, torch.Tensor)
        and is_plain(tensor)
        and tensor.is_cpu
        and tensor.layout is torch.strided
        and not tensor.is_meta
        and not tensor.is_nested
        and not tensor.is_quantized
        and not tensor.is_complex()
    )
