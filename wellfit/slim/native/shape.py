"""What the C kernel and its torch twin are given: signs packed into words, and the shape of a convolution."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional

from wellfit.errors import WellfitError

TILE_BITS = 512
"""A tile's row of words is one vector: 8 words of 64 bits, or 16 of 32."""


class Weights:
    """Signs of a matrix in tiles, with what each row is multiplied by and what is added to it.

    Args:
        signs: bool or uint8, (rows, inputs); 1 is +1, 0 is -1.
        scale: float32, (rows,).
        bias: float32, (rows,), or None.
        bits: of a word: 64 for products of signs with signs, 32 for sums of floats with signs.
        segment: inputs that begin a new word each (the channels under one tap of a convolution); None: all of them.

    Fields:
        tiles: int64 (tiles, words, 8) or int32 (tiles, words, 16): bit i of word w of a row is input w * bits + i of
            its segment. Bits of rows and inputs that are not there are 0.
        scale, bias: with zeros for the rows of the last tile that are not there.
        words: of one row.
    """

    def __init__(
        self,
        signs: torch.Tensor,
        scale: torch.Tensor,
        bias: torch.Tensor | None,
        bits: int = 64,
        segment: int | None = None,
    ) -> None:
        if signs.ndim != 2 or scale.shape != (signs.shape[0],) or (bias is not None and bias.shape != scale.shape):
            shapes = [tuple(tensor.shape) for tensor in (signs, scale, bias) if tensor is not None]
            raise WellfitError(f"signs (rows, inputs), scale (rows) and bias (rows) were expected, not {shapes}")
        self.rows, self.inputs = signs.shape
        self.bits, self.segment = bits, self.inputs if segment is None else segment
        lanes = TILE_BITS // bits
        missing = -self.rows % lanes
        packed = pack_words(signs.reshape(self.rows, -1, max(self.segment, 1)), bits).flatten(1)
        self.words = packed.shape[1]
        rows = functional.pad(packed, (0, 0, 0, missing))
        self.tiles = rows.reshape(-1, lanes, self.words).transpose(1, 2).contiguous()
        self.scale = functional.pad(scale, (0, missing))
        self.bias = functional.pad(torch.zeros_like(scale) if bias is None else bias, (0, missing))
        self.structure: object = None  # what the kernel makes of it,
        self.address: int | None = None  # and where that lies

    def signs(self) -> torch.Tensor:
        """The signs as -1.0 and 1.0: float32, (rows, inputs)."""
        rows = self.tiles.transpose(1, 2).reshape(-1, self.words)[: self.rows]
        ones = (rows.unsqueeze(-1) >> torch.arange(self.bits, device=rows.device)) & 1
        width = -(-self.segment // self.bits) * self.bits
        return (ones.reshape(self.rows, -1, max(width, 1))[..., : self.segment].reshape(self.rows, -1) * 2 - 1).float()


class ConvShape(NamedTuple):
    """A convolution of one-bit activations with one-bit weights, both packed along the channels.

    Fields are (height, width) pairs but for `channels`; `padding` is that of one side, with zeros.
    """

    channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    def output(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of what comes out."""
        height, width = (
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(size, self.padding, self.dilation, self.kernel, self.stride)
        )
        return height, width


def pack_words(signs: torch.Tensor, bits: int = 64) -> torch.Tensor:
    """Pack the last dimension of zeros and ones into words, first input in the lowest bit.

    Args:
        signs: bool or integer, (..., inputs).
        bits: 64 or 32.

    Returns:
        int64 or int32, (..., ceil(inputs / bits)).
    """
    inputs = signs.shape[-1]
    padded = functional.pad(signs.to(torch.int64), (0, -inputs % bits))
    words = padded.reshape(*signs.shape[:-1], padded.shape[-1] // bits, bits)
    # Bit 63 makes the sum negative, as it should; bit 31 does when it becomes int32.
    packed = (words << torch.arange(bits, device=signs.device)).sum(-1)
    return packed if bits == 64 else packed.to(torch.int32)


def pack_bytes(signs: torch.Tensor) -> torch.Tensor:
    """The same into bytes, as they are kept in a state_dict: uint8, (..., ceil(inputs / 8))."""
    inputs = signs.shape[-1]
    padded = functional.pad(signs.to(torch.uint8), (0, -inputs % 8))
    eights = padded.reshape(*signs.shape[:-1], padded.shape[-1] // 8, 8)
    return (eights << torch.arange(8, dtype=torch.uint8, device=signs.device)).sum(-1, dtype=torch.uint8)


def unpack_bytes(data: torch.Tensor, inputs: int) -> torch.Tensor:
    """Zeros and ones from bytes: uint8, (..., inputs)."""
    bits = (data.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8, device=data.device)) & 1
    return bits.flatten(-2)[..., :inputs]
