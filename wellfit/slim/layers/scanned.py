"""LSTM and GRU whose recurrent weights are products of two factors, step by step."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from wellfit.slim.layers.recurrent import Recurrent


class FactoredSteps(Recurrent):
    """An LSTM or GRU with W_hh = B A: in each step `B (A h)` for `W_hh h`.

    State: for each layer and direction `weight_ih_...`, `first_hh_...` (rank, hidden), `second_hh_...` (gates * hidden,
    rank), and the layer's biases.
    """

    def __init__(self, layer: nn.LSTM | nn.GRU, rank: int) -> None:
        """Of the shape of `layer`; weights are those of a fresh one."""
        super().__init__(layer)
        self.rank = rank
        for name, parameter in layer.named_parameters():
            if name.startswith("weight_hh"):
                shapes = {"first": (rank, parameter.shape[1]), "second": (parameter.shape[0], rank)}
                for part, shape in shapes.items():
                    made = torch.empty(shape, device=parameter.device, dtype=parameter.dtype)
                    made.uniform_(-(self.hidden_size**-0.5), self.hidden_size**-0.5)
                    self.register_parameter(name.replace("weight", part), nn.Parameter(made))
            else:
                self.register_parameter(name, nn.Parameter(parameter.detach().clone()))

    def _run(self, x: torch.Tensor, sizes: torch.Tensor | None, state: Any) -> tuple[Any, Any]:
        time, batch = (len(x), x.shape[1]) if sizes is None else (len(sizes), int(sizes[0]))
        counts = [batch] * time if sizes is None else sizes.tolist()
        flat = x.flatten(0, 1) if sizes is None else x
        known = dict(self.named_parameters())
        lasts: list[tuple[torch.Tensor, ...]] = []
        for layer in range(self.num_layers):
            outputs = []
            for end in self._names()[layer * (1 + self.bidirectional) : (layer + 1) * (1 + self.bidirectional)]:
                start = tuple(part[len(lasts)] for part in (state if self.is_lstm else (state,)))
                backwards = end.endswith("_reverse")
                y, last = self._direction(
                    flat, counts, start, {k: v for k, v in known.items() if k.endswith(f"h_{end}")}, backwards
                )
                outputs.append(y)
                lasts.append(last)
            flat = torch.cat(outputs, -1)
            if layer + 1 < self.num_layers:
                flat = functional.dropout(flat, self.dropout, self.training)
        y = flat.reshape(time, batch, -1) if sizes is None else flat
        ends = tuple(torch.stack(parts) for parts in zip(*lasts))
        return y, ends if self.is_lstm else ends[0]

    def _direction(
        self,
        x: torch.Tensor,
        counts: list[int],
        state: tuple[torch.Tensor, ...],
        weights: dict[str, torch.Tensor],
        backwards: bool,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """One layer in one direction. Sequences that have ended wait; backwards, those that begin late join."""
        named = {name.split("_l")[0]: tensor for name, tensor in weights.items()}
        inputs = torch.split_with_sizes(functional.linear(x, named["weight_ih"], named.get("bias_ih")), counts)
        first, second, bias = named["first_hh"], named["second_hh"], named.get("bias_hh")
        outputs: list[torch.Tensor] = [x] * len(counts)
        whole, ended = state, []
        order = range(len(counts) - 1, -1, -1) if backwards else range(len(counts))
        state = tuple(part[: counts[order[0]]] for part in state)
        for t in order:
            now, size = state[0].shape[0], counts[t]  # len() would fix the batch where this is traced
            if size < now:
                ended.append(tuple(part[size:] for part in state))
                state = tuple(part[:size] for part in state)
            elif size > now:
                state = tuple(torch.cat([part, start[now:size]]) for part, start in zip(state, whole))
            state = self._step(inputs[t], functional.linear(functional.linear(state[0], first), second, bias), state)
            outputs[t] = state[0]
        last = tuple(torch.cat(parts) for parts in zip(state, *reversed(ended)))
        return torch.cat(outputs), last

    def _step(
        self, given: torch.Tensor, recurrent: torch.Tensor, state: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, ...]:
        """The equations of torch.nn.LSTM and torch.nn.GRU."""
        if self.is_lstm:
            i, f, g, o = (given + recurrent).chunk(4, -1)
            cell = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
            return o.sigmoid() * cell.tanh(), cell
        (r, z, n), (hr, hz, hn) = given.chunk(3, -1), recurrent.chunk(3, -1)
        new = (n + (r + hr).sigmoid() * hn).tanh()
        return (new + (z + hz).sigmoid() * (state[0] - new),)
