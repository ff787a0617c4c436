"""Linear and convolutional layers with weights of one bit, for inference by popcount.

Two definitions, both of Rastegari et al., XNOR-Net, 2016 (section 3):

- *weights* (BWN): `W ~ a_t sign(W)`, with a scale `a_t` for each output. Activations stay as they are.
- *both* (XNOR-Net): the layer's input becomes its signs, too. If `scaled`, times the mean of its absolute values: of a
  sample for a linear layer, of the window under the kernel (over all channels) for a convolution.

sign(0) is +1. A convolution's zeros are padded *behind* the sign: they stay 0 and take no part in a sum, as in
`conv2d(sign(x), sign(w), padding=p)`; in the mean of absolute values they count as the zeros that they are. Other
padding modes put copies of the input there, whose signs do take part.

With gradients on, the layers compute what they stand for in torch's floats: gradients reach the input (straight through
the sign where |x| <= 1), the scales and the bias; the signs stay. Without gradients the kernel does the work.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from wellfit.slim import native
from wellfit.slim.layers.prepared import Prepared
from wellfit.slim.native.shape import ConvShape, Weights, unpack_bytes


class _Binary(Prepared):
    """What both layers have in common.

    State: `bits`, uint8 (outputs, ceil(inputs / 8)), bit i of byte j is input 8 j + i of the flattened weight, 1 is +1;
    `scale` (outputs,); `bias` (outputs,) or none.
    """

    bits: torch.Tensor

    def __init__(
        self, outputs: int, inputs: int, bias: bool, both: bool, scaled: bool, device: Any, dtype: Any
    ) -> None:
        super().__init__()
        self.outputs, self.inputs, self.both, self.scaled = outputs, inputs, both, scaled
        self.register_buffer("bits", torch.zeros(outputs, -(-inputs // 8), dtype=torch.uint8, device=device))
        self.scale = nn.Parameter(torch.ones(outputs, device=device, dtype=dtype))
        shift = nn.Parameter(torch.zeros(outputs, device=device, dtype=dtype)) if bias else None
        self.register_parameter("bias", shift)

    def signs(self) -> torch.Tensor:
        """-1 and 1 in the dtype of the scales: (outputs, inputs)."""
        return unpack_bytes(self.bits, self.inputs).to(self.scale.dtype) * 2 - 1

    def _by_kernel(self, x: torch.Tensor) -> bool:
        """The C kernel can take this call."""
        scale = self._parameters["scale"]  # past __getattr__: five of its calls take as long as a popcount product
        return native.kernel is not None and scale is not None and scale.dtype is torch.float32 and self._plain(x)


class BinaryLinear(_Binary):
    """`scale * (signs @ x) + bias`, or with `both` `scale * mean|x| * (signs @ sign(x)) + bias`.

    Args:
        in_features, out_features, bias: as of nn.Linear.
        both: one bit for the input, too.
        scaled: multiply by the mean of |x| (with `both`).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        both: bool = False,
        scaled: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(out_features, in_features, bias, both, scaled, device, dtype)
        self.in_features, self.out_features = in_features, out_features

    @property
    def weight(self) -> torch.Tensor:
        """The weight that it stands for: (out_features, in_features)."""
        return self.signs() * self.scale[:, None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (..., in_features)."""
        if not self._by_kernel(x):
            return self._in_floats(x)
        flat = x if x.ndim == 2 else x.reshape(-1, self.in_features)
        weights = self._kept("weights", self._weights)
        assert native.kernel is not None
        if self.both:
            y = native.kernel.both(flat.contiguous(), weights, self.scaled)
        else:
            y = native.kernel.weights_only(flat.contiguous(), weights)
        return y if x.ndim == 2 else y.reshape(*x.shape[:-1], self.out_features)

    def _weights(self) -> Weights:
        bias = None if self.bias is None else self.bias.detach()
        return Weights(unpack_bytes(self.bits, self.inputs), self.scale.detach(), bias, 64 if self.both else 32)

    def _in_floats(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.abs().mean(-1, keepdim=True) if self.both and self.scaled else None
        y = functional.linear(straight_sign(x) if self.both else x, self.signs())
        y = (y if mean is None else y * mean) * self.scale
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, both={self.both}"


class BinaryConv2d(_Binary):
    """A two-dimensional convolution with weights of one bit; see the head of this file for its padding and its means.

    With one-bit weights alone it runs in floats with unpacked signs, since a processor multiplies as fast as it adds:
    it is smaller in the file, not faster. With `both` it runs by popcount.

    Args:
        in_channels ... padding_mode: as of nn.Conv2d. `both` needs groups=1.
        both, scaled: as of BinaryLinear.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        both: bool = False,
        scaled: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        inputs = in_channels // groups * kernel_size[0] * kernel_size[1]
        super().__init__(out_channels, inputs, bias, both, scaled, device, dtype)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.padding, self.padding_mode = padding, padding_mode
        around = padding if padding_mode == "zeros" else (0, 0)
        self.shape = ConvShape(in_channels, kernel_size, stride, around, dilation)

    @property
    def weight(self) -> torch.Tensor:
        """The weight that it stands for: (out_channels, in_channels / groups, *kernel)."""
        return self._kernels() * self.scale.reshape(-1, 1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (samples, channels, height, width) or (channels, height, width)."""
        if x.ndim == 3:
            return self.forward(x.unsqueeze(0)).squeeze(0)
        if self.padding_mode != "zeros":
            height, width = self.padding
            x = functional.pad(x, (width, width, height, height), mode=self.padding_mode)
        mean = self._mean(x) if self.both and self.scaled else None
        if self.both and self._by_kernel(x):
            assert native.kernel is not None
            weights = self._kept("weights", self._weights)
            missing = self._missing_at(x)
            return native.kernel.conv_both(x, self.shape, weights, missing, mean)
        return self._in_floats(x, mean)

    def _kernels(self) -> torch.Tensor:
        return self.signs().reshape(self.out_channels, -1, *self.shape.kernel)

    def _mean(self, x: torch.Tensor) -> torch.Tensor:
        """Mean of |x| under the kernel at each place: (samples, height out, width out)."""
        _, kernel, stride, padding, dilation = self.shape
        box = torch.full((1, 1, *kernel), 1 / (kernel[0] * kernel[1]), dtype=x.dtype, device=x.device)
        absolute = x.abs().mean(1, keepdim=True)
        return functional.conv2d(absolute, box, None, stride, padding, dilation).squeeze(1)

    def _missing_at(self, x: torch.Tensor) -> torch.Tensor:
        """The same as `_missing`, kept for the size of image that came last."""
        kept: dict[torch.Size, torch.Tensor] = self._kept("missing", dict)
        found = kept.get(x.shape[2:])
        if found is None:
            found = self._missing(x)
            kept.clear()
            kept[x.shape[2:]] = found
        return found

    def _missing(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of a filter's signs that lie over the padding: (height out, width out, outputs of whole tiles)."""
        height, width = self.shape.padding
        outside = functional.pad(torch.zeros(1, 1, *x.shape[2:]), (width, width, height, height), value=1.0)
        taps = self._kernels().sum(1, keepdim=True)
        sums = functional.conv2d(outside, taps, None, self.shape.stride, 0, self.shape.dilation)[0]
        return functional.pad(sums.permute(1, 2, 0), (0, -self.out_channels % 8)).contiguous()

    def _weights(self) -> Weights:
        bits = unpack_bytes(self.bits, self.inputs).reshape(self.out_channels, self.in_channels, -1)
        bias = None if self.bias is None else self.bias.detach()
        return Weights(bits.transpose(1, 2).flatten(1), self.scale.detach(), bias, segment=self.in_channels)

    def _in_floats(self, x: torch.Tensor, mean: torch.Tensor | None) -> torch.Tensor:
        kernels = self._kernels() if torch.compiler.is_compiling() else self._kept("kernels", self._kernels)
        _, _, stride, padding, dilation = self.shape
        signs = straight_sign(x) if self.both else x
        y = functional.conv2d(signs, kernels, None, stride, padding, dilation, self.groups)
        if mean is not None:
            y = y * mean.unsqueeze(1)
        y = y * self.scale.reshape(-1, 1, 1)
        return y if self.bias is None else y + self.bias.reshape(-1, 1, 1)

    def extra_repr(self) -> str:
        _, kernel, stride, _, _ = self.shape
        sizes = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={kernel}, stride={stride}, padding={self.padding}"
        )
        return f"{sizes}, groups={self.groups}, both={self.both}"


class _StraightSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        ctx.save_for_backward(x)
        return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        passed: torch.Tensor = gradient * (x.abs() <= 1)
        return passed


def straight_sign(x: torch.Tensor) -> torch.Tensor:
    """+1 where x >= 0, else -1; gradients pass where |x| <= 1 (Hubara et al., 2016)."""
    result: torch.Tensor = _StraightSign.apply(x)  # type: ignore[no-untyped-call]
    return result
