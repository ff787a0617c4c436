"""Recurrent layers that take and give the states of another kind, as the script expects them.

A script that was written for one state (h) gets the h of an LSTM; the cell c is kept beside it and found again when
the script hands that h back. One that was written for two (h, c) gets h twice from a layer that has only h.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import nn

_CELL = "_wellfit_cell"
_last: weakref.WeakKeyDictionary[nn.Module, tuple[torch.Tensor, torch.Tensor]] = weakref.WeakKeyDictionary()
# How often a layer was given a state, not 0, that no LSTM had given.
foreign_states: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()


def cell_of(state: torch.Tensor) -> torch.Tensor | None:
    """The c that belongs to a state h that an LSTM gave; None if h is from elsewhere."""
    cell = getattr(state, _CELL, None)
    if isinstance(cell, torch.Tensor):
        return cell if state.requires_grad else cell.detach()  # `h.detach_()` is the same object
    for hidden, kept in list(_last.values()):  # `h.detach()` is another object with the same memory
        if hidden.data_ptr() == state.data_ptr() and hidden.shape == state.shape:
            return kept if not state.requires_grad else None
    return None


def _both(layer: nn.Module, state: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
    if state is None or isinstance(state, tuple):
        return state
    cell = cell_of(state)
    if cell is None:
        foreign_states[layer] = foreign_states.get(layer, 0) + bool(state.any())
        cell = torch.zeros_like(state)
    return state, cell


def _one(layer: nn.Module, hidden: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
    setattr(hidden, _CELL, cell)
    _last[layer] = hidden.detach(), cell.detach()
    return hidden


class LSTMWithOneState(nn.LSTM):
    """An LSTM in the place of a layer that has only h."""

    def forward(self, input: Any, hx: Any = None) -> Any:  # type: ignore[override]
        """(output, h)."""
        output, (hidden, cell) = super().forward(input, _both(self, hx))
        return output, _one(self, hidden, cell)


class LSTMCellWithOneState(nn.LSTMCell):
    """An LSTM cell in the place of one that has only h."""

    def forward(self, input: torch.Tensor, hx: Any = None) -> Any:
        """h."""
        return _one(self, *super().forward(input, _both(self, hx)))


class GRUWithTwoStates(nn.GRU):
    """A GRU in the place of an LSTM."""

    def forward(self, input: Any, hx: Any = None) -> Any:  # type: ignore[override]
        """(output, (h, h))."""
        output, hidden = super().forward(input, hx[0] if isinstance(hx, tuple) else hx)
        return output, (hidden, hidden)


class RNNWithTwoStates(nn.RNN):
    """A simple recurrent layer in the place of an LSTM."""

    def forward(self, input: Any, hx: Any = None) -> Any:  # type: ignore[override]
        """(output, (h, h))."""
        output, hidden = super().forward(input, hx[0] if isinstance(hx, tuple) else hx)
        return output, (hidden, hidden)


class GRUCellWithTwoStates(nn.GRUCell):
    """A GRU cell in the place of an LSTM cell."""

    def forward(self, input: torch.Tensor, hx: Any = None) -> Any:
        """(h, h)."""
        hidden = super().forward(input, hx[0] if isinstance(hx, tuple) else hx)
        return hidden, hidden


class RNNCellWithTwoStates(nn.RNNCell):
    """A simple recurrent cell in the place of an LSTM cell."""

    def forward(self, input: torch.Tensor, hx: Any = None) -> Any:
        """(h, h)."""
        hidden = super().forward(input, hx[0] if isinstance(hx, tuple) else hx)
        return hidden, hidden
