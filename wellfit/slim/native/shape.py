"""What the C kernel and its torch twin are given: signs packed into words, and the shape of a convolution."""

from __future__ import annotations

from typing import NamedTuple

import torch

from wellfit.errors import WellfitError

ROWS = 8
"""Rows of a tile: the 64-bit words of so many rows lie side by side."""


class Weights:
    """Signs of a matrix in tiles, with what each row is multiplied by and what is added to it.

    Args:
        signs: bool or uint8, (rows, inputs); 1 is +1, 0 is -1.
        scale: float32, (rows,).
        bias: float32, (rows,), or None.
        segment: inputs that begin a new word each (the channels under one tap of a convolution); None: all of them.

    Fields:
        tiles: int64, (ceil(rows / 8), words, 8): bit i of word w of row r is input 64 w + i of its segment. Bits of
            rows and inputs that are not there are 0.
        words: of one row.
    """

    __slots__ = ("address", "bias", "inputs", "rows", "scale", "segment", "structure", "tiles", "words")

    def __init__(
        self, signs: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, segment: int | None = None
    ) -> None:
        if signs.ndim != 2 or scale.shape != (signs.shape[0],) or (bias is not None and bias.shape != scale.shape):
            shapes = [tuple(tensor.shape) for tensor in (signs, scale, bias) if tensor is not None]
            raise WellfitError(f"signs (rows, inputs), scale (rows) and bias (rows) were expected, not {shapes}")
        self.rows, self.inputs = signs.shape
        self.segment = self.inputs if segment is None else segment
        packed = pack_words(signs.reshape(self.rows, -1, max(self.segment, 1))).flatten(1)
        self.words = packed.shape[1]
        tiles = packed.new_zeros(-(-self.rows // ROWS) * ROWS, self.words)
        tiles[: self.rows] = packed
        self.tiles = tiles.reshape(-1, ROWS, self.words).transpose(1, 2).contiguous()
        self.scale, self.bias = scale.contiguous(), None if bias is None else bias.contiguous()
        self.address: int | None = None  # of the structure that the kernel makes of it
        self.structure: object = None

    def signs(self) -> torch.Tensor:
        """The signs as -1.0 and 1.0: float32, (rows, inputs)."""
        rows = self.tiles.transpose(1, 2).reshape(-1, self.words)[: self.rows]
        bits = (rows.unsqueeze(-1) >> torch.arange(64, device=rows.device)) & 1
        segments = self.words // max(-(-self.segment // 64), 1) if self.words else 0
        return (bits.reshape(self.rows, segments, -1)[..., : self.segment].reshape(self.rows, -1) * 2 - 1).float()


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


def pack_words(signs: torch.Tensor) -> torch.Tensor:
    """Pack the last dimension of zeros and ones into int64 words, first input in the lowest bit.

    Args:
        signs: bool or integer, (..., inputs).

    Returns:
        int64, (..., ceil(inputs / 64)).
    """
    inputs = signs.shape[-1]
    padded = torch.nn.functional.pad(signs.to(torch.int64), (0, -inputs % 64))
    words = padded.reshape(*signs.shape[:-1], -1, 64)
    return (words << torch.arange(64, device=signs.device)).sum(-1)  # bit 63 makes the word negative, as it should


def pack_bytes(signs: torch.Tensor) -> torch.Tensor:
    """The same into bytes, as they are kept in a state_dict: uint8, (..., ceil(inputs / 8))."""
    inputs = signs.shape[-1]
    padded = torch.nn.functional.pad(signs.to(torch.uint8), (0, -inputs % 8))
    eights = padded.reshape(*signs.shape[:-1], -1, 8)
    return (eights << torch.arange(8, dtype=torch.uint8, device=signs.device)).sum(-1, dtype=torch.uint8)


def unpack_bytes(data: torch.Tensor, inputs: int) -> torch.Tensor:
    """Zeros and ones from bytes: uint8, (..., inputs)."""
    bits = (data.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8, device=data.device)) & 1
    return bits.flatten(-2)[..., :inputs]
