"""What modules that stand for an LSTM or GRU have in common: what they are called with, and what they return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from wellfit.slim.layers.prepared import Prepared


class Recurrent(Prepared):
    """Base class: `_run` gets all steps with the time first, or packed, and a state that is there."""

    def __init__(self, layer: nn.LSTM | nn.GRU) -> None:
        """Of the shape of `layer`."""
        super().__init__()
        self.is_lstm = isinstance(layer, nn.LSTM)
        self.input_size, self.hidden_size, self.num_layers = layer.input_size, layer.hidden_size, layer.num_layers
        self.bidirectional, self.batch_first, self.dropout = layer.bidirectional, layer.batch_first, layer.dropout
        self.has_bias = layer.bias

    def flatten_parameters(self) -> None:
        """Nothing: for code that calls it on any recurrent layer."""

    def forward(self, steps: torch.Tensor | PackedSequence, state: Any = None) -> tuple[Any, Any]:
        """As of the layer: steps (time, batch, inputs) by `batch_first`, (time, inputs), or packed."""
        if isinstance(steps, PackedSequence):
            return self._packed_forward(steps, state)
        if steps.ndim == 2:
            y, last = self._run(steps.unsqueeze(1), None, self._begun(steps, _each(state, lambda t: t.unsqueeze(1)), 1))
            return y.squeeze(1), _each(last, lambda tensor: tensor.squeeze(1))
        x = steps.transpose(0, 1).contiguous() if self.batch_first else steps
        y, last = self._run(x, None, self._begun(x, state, x.shape[1]))
        return y.transpose(0, 1) if self.batch_first else y, last

    def _packed_forward(self, steps: PackedSequence, state: Any) -> tuple[PackedSequence, Any]:
        ordered = _ordered(state, steps.sorted_indices)
        start = self._begun(steps.data, ordered, int(steps.batch_sizes[0]))
        y, last = self._run(steps.data, steps.batch_sizes, start)
        return steps._replace(data=y), _ordered(last, steps.unsorted_indices)

    def _begun(self, x: torch.Tensor, state: Any, batch: int) -> Any:
        """The state that was given, or zeros."""
        if state is not None:
            return state
        zeros = x.new_zeros(self.num_layers * (1 + self.bidirectional), batch, self.hidden_size)
        return (zeros, zeros) if self.is_lstm else zeros

    def _run(self, x: torch.Tensor, sizes: torch.Tensor | None, state: Any) -> tuple[Any, Any]:
        """All steps.

        Args:
            x: (time, batch, inputs), or (numbers in all steps, inputs) where there are sizes.
            sizes: of the batch at each step, never rising; None if all are the same.
            state: tensors (layers * directions, batch, hidden).

        Returns:
            (time, batch, outputs) or (numbers in all steps, outputs), and the last state.
        """
        raise NotImplementedError

    def _names(self) -> list[str]:
        """The endings of the weights' names, in torch's order."""
        ends = ["", "_reverse"][: 1 + self.bidirectional]
        return [f"l{layer}{end}" for layer in range(self.num_layers) for end in ends]

    def extra_repr(self) -> str:
        kind = "LSTM" if self.is_lstm else "GRU"
        return f"{kind}, {self.input_size}, {self.hidden_size}, num_layers={self.num_layers}"


def _each(state: Any, act: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if state is None:
        return None
    return tuple(act(tensor) for tensor in state) if isinstance(state, tuple) else act(state)


def _ordered(state: Any, order: torch.Tensor | None) -> Any:
    return state if order is None else _each(state, lambda tensor: tensor.index_select(1, order))
