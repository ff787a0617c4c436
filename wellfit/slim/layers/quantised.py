"""Layers with weights of fewer bits. Their state is plain tensors; torch's own kernels run them on the CPU.

With gradients on, or where there is no such kernel, they compute in floats with the weights that they stand for:
gradients reach the input and the bias, the weights stay.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from wellfit.slim.layers.prepared import Prepared

GROUP = 32
"""Inputs that share a scale in an int4 weight: the smallest group that torch's kernel knows."""
_OUTPUTS = 64  # torch's int4 kernel takes multiples of it


def reduced_range() -> bool:
    """Whether activations get 7 bits: without VNNI the products of 8 x 8 bits are summed in 16, which overflow."""
    return not torch.cpu._is_vnni_supported()


class _Quantised(Prepared):
    def _state(self, bias: bool, outputs: int, device: Any, dtype: Any, **buffers: torch.Tensor) -> None:
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer.to(device))
        shift = nn.Parameter(torch.zeros(outputs, device=device, dtype=dtype)) if bias else None
        self.register_parameter("bias", shift)

    def _detached_bias(self) -> torch.Tensor | None:
        return None if self.bias is None else self.bias.detach()

    def _quick(self, x: torch.Tensor) -> bool:
        return x.numel() > 0 and self._plain(x) and "x86" in torch.backends.quantized.supported_engines


class Int8Linear(_Quantised):
    """Weights of 8 bits, a scale for each output; activations are rounded to 8 bits, too: over the range of each batch,
    or with `static` over one range that was measured.

    State: `weight` int8 (outputs, inputs), `scale` float32 (outputs,), `bias`; with `static` `input_scale` float32 ()
    and `input_zero` int32 ().
    """

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self, inputs: int, outputs: int, bias: bool, static: bool, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.static = inputs, outputs, static
        weight, scale = torch.zeros(outputs, inputs, dtype=torch.int8), torch.ones(outputs)
        point = {"input_scale": torch.tensor(1.0), "input_zero": torch.tensor(0, dtype=torch.int32)} if static else {}
        self._state(bias, outputs, device, dtype, weight=weight, scale=scale, **point)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (..., inputs)."""
        if not self._quick(x):
            weight = self.weight.to(x.dtype) * self.scale.to(x.dtype)[:, None]
            return functional.linear(x, weight, self.bias)
        packed, point = self._kept("packed", self._packed)
        flat = x if x.ndim > 1 else x.unsqueeze(0)
        if point is None:
            y = torch.ops.quantized.linear_dynamic(flat, packed, reduced_range())
        else:
            y = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(flat.contiguous(), *point, packed)
        result: torch.Tensor = y if x.ndim > 1 else y.squeeze(0)
        return result

    def _packed(self) -> tuple[Any, tuple[float, int] | None]:
        point = (float(self.input_scale), int(self.input_zero)) if self.static else None  # type: ignore[arg-type]
        return prepacked(self.weight, self.scale, self._detached_bias()), point

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, static={self.static}"


class Int8Conv2d(_Quantised):
    """A convolution of 8 bits: inputs and outputs are rounded over ranges that were measured.

    State: `weight` int8 (outputs, inputs / groups, *kernel), `scale` float32 (outputs,), `bias`, and `input_scale`,
    `output_scale` float32 (), `input_zero`, `output_zero` int32 ().
    """

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        """Of the shape of `conv`, whose zero padding is a pair of numbers."""
        super().__init__()
        self.stride, self.padding, self.dilation, self.groups = conv.stride, conv.padding, conv.dilation, conv.groups
        sizes = {f"{end}_scale": torch.tensor(1.0) for end in ("input", "output")}
        zeros = {f"{end}_zero": torch.tensor(0, dtype=torch.int32) for end in ("input", "output")}
        weight, scale = torch.zeros(conv.weight.shape, dtype=torch.int8), torch.ones(conv.out_channels)
        dtype, device = conv.weight.dtype, conv.weight.device
        has_bias = conv.bias is not None
        self._state(has_bias, conv.out_channels, device, dtype, weight=weight, scale=scale, **sizes, **zeros)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (samples, channels, height, width) or (channels, height, width)."""
        where = (self.stride, self.padding, self.dilation, self.groups)
        if not self._quick(x):
            weight = self.weight.to(x.dtype) * self.scale.to(x.dtype).reshape(-1, 1, 1, 1)
            return functional.conv2d(x, weight, self.bias, *where)  # type: ignore[arg-type]
        if x.ndim == 3:
            return self.forward(x.unsqueeze(0)).squeeze(0)
        packed, before, after = self._kept("packed", self._packed)
        small = torch.quantize_per_tensor(x, before[0], before[1], torch.quint8)
        y: torch.Tensor = torch.ops.quantized.conv2d(small, packed, *after).dequantize()
        return y.contiguous()

    def _packed(self) -> tuple[Any, tuple[float, int], tuple[float, int]]:
        whole = _per_channel(self.weight, self.scale)
        pairs = [[int(n) for n in pair] for pair in (self.stride, self.padding, self.dilation)]
        packed = torch.ops.quantized.conv2d_prepack(whole, self._detached_bias(), *pairs, self.groups)
        state = dict(self.named_buffers())
        before, after = ((float(state[f"{end}_scale"]), int(state[f"{end}_zero"])) for end in ("input", "output"))
        return packed, before, after

    def extra_repr(self) -> str:
        outputs, inputs, *kernel = self.weight.shape
        sizes = f"{inputs * self.groups}, {outputs}, kernel_size={tuple(kernel)}, stride={self.stride}"
        return f"{sizes}, padding={self.padding}, groups={self.groups}"


class Fp8Linear(_Quantised):
    """Weights of 8 bits in the format e4m3, a scale for each output. It is smaller in the file; in memory the
    weights are floats again.

    State: `weight` uint8 (outputs, inputs), the bits of float8_e4m3fn; `scale` float32 (outputs,); `bias`.
    """

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(self, inputs: int, outputs: int, bias: bool, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.in_features, self.out_features = inputs, outputs
        weight = torch.zeros(outputs, inputs, dtype=torch.uint8)
        self._state(bias, outputs, device, dtype, weight=weight, scale=torch.ones(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (..., inputs)."""
        weight = self._kept(x.dtype, lambda: self._floats(x.dtype)) if self._quick(x) else self._floats(x.dtype)
        return functional.linear(x, weight, self.bias)

    def _floats(self, dtype: torch.dtype) -> torch.Tensor:
        return self.weight.view(torch.float8_e4m3fn).to(dtype) * self.scale.to(dtype)[:, None]

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


class Int4Linear(_Quantised):
    """Weights of 4 bits, a scale and a shift for each group of inputs: w = (q - 8) scale + shift.

    A width that is no multiple of the group is filled up with zeros; torch's kernel, and torchao's settings, take
    multiples only.

    State: `weight` uint8 (outputs, groups * group / 2), two neighbours in a byte, the first in its low half; `scale`,
    `shift` float32 (outputs, groups); `bias`.
    """

    weight: torch.Tensor
    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(
        self, inputs: int, outputs: int, bias: bool, group: int = GROUP, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.group = inputs, outputs, group
        groups = -(-inputs // group)
        scale, shift = torch.ones(outputs, groups), torch.zeros(outputs, groups)
        weight = torch.zeros(outputs, groups * group // 2, dtype=torch.uint8)
        self._state(bias, outputs, device, dtype, weight=weight, scale=scale, shift=shift)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (..., inputs)."""
        if not self._quick(x):
            levels = self._levels().to(x.dtype).reshape(self.out_features, -1, self.group) - 8
            weight = levels * self.scale.to(x.dtype).unsqueeze(-1) + self.shift.to(x.dtype).unsqueeze(-1)
            return functional.linear(x, weight.flatten(1)[:, : self.in_features], self.bias)
        packed, scales = self._kept("packed", self._packed)
        missing = self.weight.shape[1] * 2 - self.in_features
        flat = functional.pad(x.reshape(-1, self.in_features), (0, missing))
        # Of torch's kernels for int4 that for bfloat16 is fast; the one for float32 takes ten times as long as no int4.
        y = torch.ops.aten._weight_int4pack_mm_for_cpu(flat.bfloat16(), packed, self.group, scales)
        y = y[:, : self.out_features].reshape(*x.shape[:-1], self.out_features).to(x.dtype)
        result: torch.Tensor = y if self.bias is None else y + self.bias
        return result

    def _levels(self) -> torch.Tensor:
        """0 to 15, uint8, (outputs, groups * group)."""
        return torch.stack([self.weight & 15, self.weight >> 4], -1).flatten(1)

    def _packed(self) -> tuple[torch.Tensor, torch.Tensor]:
        more = -self.out_features % _OUTPUTS
        levels = functional.pad(self._levels().to(torch.int32), (0, 0, 0, more))
        scales = functional.pad(torch.stack([self.scale, self.shift], -1), (0, 0, 0, 0, 0, more))
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels, 2)
        return packed, scales.transpose(0, 1).bfloat16().contiguous()

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, group={self.group}"


class InBFloat16(nn.Module):
    """A layer that computes in bfloat16 between inputs and outputs of the type that they had. It trains."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer.bfloat16()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As of the layer."""
        y: torch.Tensor = self.layer(x.bfloat16())
        return y.to(x.dtype)


def prepacked(weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> Any:
    """Weights in the order that torch's int8 kernels read: of int8 (outputs, inputs), float32 (outputs,)."""
    return torch.ops.quantized.linear_prepack(_per_channel(weight, scale), bias)


def _per_channel(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    zeros = torch.zeros(len(scale), dtype=torch.long)
    with warnings.catch_warnings():  # of torch, that tensors of such types will go one day; their kernels are in use
        warnings.simplefilter("ignore")
        return torch._make_per_channel_quantized_tensor(weight.contiguous(), scale.double(), zeros, 0)
