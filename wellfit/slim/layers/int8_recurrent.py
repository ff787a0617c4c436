"""LSTM and GRU with weights of 8 bits, by torch's own kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from wellfit.slim.layers.quantised import prepacked, reduced_range
from wellfit.slim.layers.recurrent import Recurrent


class Int8Recurrent(Recurrent):
    """An LSTM or GRU whose weights have 8 bits and a scale for each row; activations are rounded for each product.

    State: for each weight of the layer `<name>` int8 and `<name>_scale` float32 (rows,); its biases under their names.
    With gradients on it computes in floats, with the weights that they stand for.
    """

    def __init__(self, layer: nn.LSTM | nn.GRU) -> None:
        """Of the shape of `layer`."""
        super().__init__(layer)
        for name, parameter in layer.named_parameters():
            if name.startswith("bias"):
                self.register_parameter(name, nn.Parameter(torch.zeros_like(parameter)))
            else:
                self.register_buffer(name, torch.zeros_like(parameter, dtype=torch.int8))
                self.register_buffer(f"{name}_scale", torch.ones(parameter.shape[0], device=parameter.device))

    def _run(self, x: torch.Tensor, sizes: torch.Tensor | None, state: Any) -> tuple[Any, Any]:
        """One of torch's four functions: quantised or not, LSTM or GRU."""
        quick = x.numel() > 0 and self._plain(x) and not self.training
        has_bias = quick or self.has_bias  # torch's int8 kernels ask for some: zeros
        about: list[Any] = [has_bias, self.num_layers, self.dropout, self.training, self.bidirectional]
        if sizes is None:
            about.append(False)  # time comes first
        run: Any
        options: dict[str, Any] = {}
        if quick:
            run, weights = (
                (torch.quantized_lstm if self.is_lstm else torch.quantized_gru),
                self._kept("cells", self._cells),
            )
            options = {"dtype": torch.qint8, "use_dynamic": True} if self.is_lstm else {}
        else:
            run, weights = (torch._VF.lstm if self.is_lstm else torch._VF.gru), self._floats(x.dtype)
        lengths = () if sizes is None else (sizes,)
        y, *last = run(x, *lengths, list(state) if self.is_lstm else state, weights, *about, **options)
        return y, tuple(last) if self.is_lstm else last[0]

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
