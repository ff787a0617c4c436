"""What goes on inside layers that their output does not show: batch norm's statistics, an LSTM's gates, padding."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from wellfit.probe.statistics import NAN, Meter, Row, is_plain

ROWS = 256  # samples of a batch looked at
IDS = 100_000  # of a batch; of more nothing is said
SHUT = 0.05  # a gate below this on average is shut, above 1 - this it is open


def norm_row(module: nn.Module, given: Any, meter: Meter) -> Row | None:
    """The `norm` statistics of docs/record.md of a batch norm in train mode; None of any other layer.

    Args:
        module: after its forward call, which has moved the running statistics towards this batch.
        given: what it was called with.
    """
    buffers = module._buffers
    mean, variance = buffers.get("running_mean"), buffers.get("running_var")
    if not module.training or mean is None or variance is None or not isinstance(given, torch.Tensor):
        return None
    if not (given.is_cpu and given.dim() >= 2 and given.numel() and meter.takes(given) and mean.is_cpu):
        return None
    sums = meter.units(given.detach(), 1, ROWS)
    if sums is None or len(sums.sums.sum) != len(mean):
        return None
    n = sums.sums.n
    batch_mean = torch.tensor(sums.sums.sum, dtype=torch.float64) / n
    batch_variance = (torch.tensor(sums.sums.sumsq, dtype=torch.float64) / n - batch_mean**2).clamp_min(0)
    scale = variance.double().clamp_min(1e-12)
    gap = (batch_mean - mean.double()).abs() / scale.sqrt()
    spread = batch_variance / scale
    each = given.numel() / given.shape[1]
    return (each, float(gap.median()), float(gap.max()), float(spread.median()), float(spread.max()), NAN, NAN, NAN)


def gate_row(module: nn.LSTM, given: Any, output: torch.Tensor) -> Row | None:
    """The `gates` statistics of docs/record.md: the gates of an LSTM of one layer at the last time step.

    They are computed anew from what is known then: i, f, o = sigmoid(W x_T + U h_{T-1} + b) (Hochreiter and Schmidhuber
    1997 with the forget gate of Gers et al. 2000; torch's order is i, f, g, o).

    Args:
        module: after its forward call.
        given: its input, (time, batch, features), or (batch, time, features) if it is batch_first.
        output: (time, batch, units) or (batch, time, units).
    """
    plain = module.num_layers == 1 and not module.bidirectional and not module.proj_size
    if not plain or not all(isinstance(each, torch.Tensor) and is_plain(each) for each in (given, output)):
        return None
    if given.dim() != 3 or not given.is_cpu or output.shape != (*given.shape[:2], module.hidden_size):
        return None
    axis = 1 if module.batch_first else 0
    if given.shape[axis] < 2 or given.shape[2] != module.input_size:
        return None
    to_gates, from_state, *biases = module.all_weights[0]
    with torch.no_grad():
        last = given.detach().select(axis, -1)[:ROWS]
        before = output.detach().select(axis, -2)[:ROWS]
        sums = last @ to_gates.T + before @ from_state.T + sum(biases)
        parts = sums.double().sigmoid().mean(0).chunk(4)
    into, keep, out = parts[0], parts[1], parts[3]
    return (
        float(len(last)), float(into.mean()), float(keep.mean()), float(out.mean()),
        _share(into < SHUT), _share(keep < SHUT), _share(out < SHUT), _share(keep > 1 - SHUT),
    )  # fmt: skip


def _share(true: torch.Tensor) -> float:
    return float(true.double().mean())


def token_row(given: Any) -> Row | None:
    """The `tokens` statistics of docs/record.md: how much of what an embedding is given is one id at sequences' ends.

    Args:
        given: ids, (batch, time) or (time, batch).
    """
    if not isinstance(given, torch.Tensor) or not given.is_cpu or given.dim() != 2 or not is_plain(given):
        return None
    if given.is_floating_point() or not 0 < given.numel() <= IDS:
        return None
    ids = given.detach()
    leading, trailing = max(((_run(way), _run(way.flip(1))) for way in (ids, ids.T)), key=max)
    return (float(ids.numel()), leading, trailing, NAN, NAN, NAN, NAN, NAN)


def _run(rows: torch.Tensor) -> float:
    """The share of the ids that lie in runs, from the start of a row, of the id that most rows start with."""
    same = rows == rows[:, 0].mode().values
    return float(same.cumprod(1).sum()) / rows.numel()
