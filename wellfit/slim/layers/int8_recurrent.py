"""LSTM and GRU with weights of 8 bits, by torch's own kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from wellfit.slim.layers.prepared import Prepared
from wellfit.slim.layers.quantised import prepacked, reduced_range


class Int8Recurrent(Prepared):
    """An LSTM or GRU whose weights have 8 bits and a scale for each row; activations are rounded for each product.

    State: for each weight of the layer `<name>` int8 and `<name>_scale` float32 (rows,); its biases under their names.
    With gradients on it computes in floats, with the weights that they stand for.
    """

    def __init__(self, layer: nn.LSTM | nn.GRU) -> None:
        """Of the shape of `layer`."""
        super().__init__()
        self.is_lstm = isinstance(layer, nn.LSTM)
        self.input_size, self.hidden_size, self.num_layers = layer.input_size, layer.hidden_size, layer.num_layers
        self.bidirectional, self.batch_first, self.dropout = layer.bidirectional, layer.batch_first, layer.dropout
        self.has_bias = layer.bias
        for name, parameter in layer.named_parameters():
            if name.startswith("bias"):
                self.register_parameter(name, nn.Parameter(torch.zeros_like(parameter)))
            else:
                self.register_buffer(name, torch.zeros_like(parameter, dtype=torch.int8))
                self.register_buffer(f"{name}_scale", torch.ones(parameter.shape[0], device=parameter.device))

    def flatten_parameters(self) -> None:
        """Nothing: for code that calls it on any recurrent layer."""

    def forward(self, steps: torch.Tensor | PackedSequence, state: Any = None) -> tuple[Any, Any]:
        """As of the layer: steps (time, batch, inputs) by `batch_first`, (time, inputs), or packed."""
        if isinstance(steps, PackedSequence):
            return self._packed_forward(steps, state)
        if steps.ndim == 2:
            axis = 0 if self.batch_first else 1
            one = _each(state, lambda tensor: tensor.unsqueeze(1))
            y, last = self.forward(steps.unsqueeze(axis), one)
            return y.squeeze(axis), _each(last, lambda tensor: tensor.squeeze(1))
        state = self._start(steps, steps.shape[0 if self.batch_first else 1]) if state is None else state
        return self._run(steps, (), state, (self.batch_first,))

    def _packed_forward(self, steps: PackedSequence, state: Any) -> tuple[PackedSequence, Any]:
        if state is None:
            state = self._start(steps.data, int(steps.batch_sizes[0]))
        else:
            state = _ordered(state, steps.sorted_indices)
        y, last = self._run(steps.data, (steps.batch_sizes,), state, ())
        return steps._replace(data=y), _ordered(last, steps.unsorted_indices)

    def _run(
        self, x: torch.Tensor, sizes: tuple[Any, ...], state: Any, batch_first: tuple[bool, ...]
    ) -> tuple[Any, Any]:
        """One of torch's four functions: quantised or not, LSTM or GRU."""
        quick = x.numel() > 0 and self._plain(x) and not self.training
        has_bias = quick or self.has_bias  # torch's int8 kernels ask for some: zeros
        about = (has_bias, self.num_layers, self.dropout, self.training, self.bidirectional, *batch_first)
        if quick and self.is_lstm:
            options = {"dtype": torch.qint8, "use_dynamic": True}
            y, h, c = torch.quantized_lstm(x, *sizes, list(state), self._kept("cells", self._cells), *about, **options)
        elif quick:
            return torch.quantized_gru(x, *sizes, state, self._kept("cells", self._cells), *about)
        elif self.is_lstm:
            y, h, c = torch._VF.lstm(x, *sizes, state, self._floats(x.dtype), *about)
        else:
            found: tuple[Any, Any] = torch._VF.gru(x, *sizes, state, self._floats(x.dtype), *about)  # type: ignore[attr-defined]
            return found
        return y, (h, c)

    def _start(self, x: torch.Tensor, batch: int) -> Any:
        zeros = x.new_zeros(self.num_layers * (1 + self.bidirectional), batch, self.hidden_size)
        return (zeros, zeros) if self.is_lstm else zeros

    def _names(self) -> list[str]:
        """The endings of the weights' names, in torch's order."""
        ends = ["", "_reverse"][: 1 + self.bidirectional]
        return [f"l{layer}{end}" for layer in range(self.num_layers) for end in ends]

    def _cells(self) -> list[Any]:
        state = dict(self.named_buffers()) | {name: bias.detach() for name, bias in self.named_parameters()}
        cells = []
        for end in self._names():
            biases = [state.get(f"bias_{part}_{end}") for part in ("ih", "hh")]
            both = [
                prepacked(state[f"weight_{part}_{end}"], state[f"weight_{part}_{end}_scale"], bias)
                for part, bias in zip(("ih", "hh"), biases)
            ]
            given = [torch.zeros(len(state[f"weight_ih_{end}"])) if bias is None else bias for bias in biases]
            make = torch.ops.quantized.make_quantized_cell_params_dynamic
            cells.append(make(*both, *given, reduced_range()))
        return cells

    def _floats(self, dtype: torch.dtype) -> list[torch.Tensor]:
        state = dict(self.named_buffers()) | dict(self.named_parameters())
        flat: list[torch.Tensor] = []
        for end in self._names():
            for part in ("ih", "hh"):
                name = f"weight_{part}_{end}"
                flat.append(state[name].to(dtype) * state[f"{name}_scale"].to(dtype)[:, None])
            if self.has_bias:
                flat += [state[f"bias_{part}_{end}"] for part in ("ih", "hh")]
        return flat

    def extra_repr(self) -> str:
        kind = "LSTM" if self.is_lstm else "GRU"
        return f"{kind}, {self.input_size}, {self.hidden_size}, num_layers={self.num_layers}"


def _each(state: Any, act: Any) -> Any:
    if state is None:
        return None
    return tuple(act(tensor) for tensor in state) if isinstance(state, tuple) else act(state)


def _ordered(state: Any, order: torch.Tensor | None) -> Any:
    return state if order is None else _each(state, lambda tensor: tensor.index_select(1, order))
