"""The C kernel of the one-bit products: hands it pointers, and shares large batches out to threads."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

from wellfit.slim.native.shape import ConvShape, Weights

ABI = 1
LEVELS = ("scalar", "avx2", "avx512")
WORTH_A_THREAD = 1 << 21
"""Words of signs compared (a quarter of a millisecond, eight at once) from which on a second thread pays."""

_POINTER, _INT, _LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
_SIGNATURES = {
    "wb_level": [],
    "wb_set_level": [_INT],
    "wb_pack": [_POINTER, _LONG, _LONG, _POINTER],
    "wb_weights_only": [_POINTER, _POINTER, _LONG, _LONG, _POINTER],
    "wb_both": [_POINTER, _POINTER, _LONG, _LONG, _INT, _POINTER],
    "wb_conv_both": [_POINTER, _POINTER, _POINTER, _POINTER, _POINTER, _LONG, _LONG, _POINTER],
}


class _Weights(ctypes.Structure):  # wb_weights
    _fields_ = [
        ("tiles", _POINTER),
        ("rows", _LONG),
        ("inputs", _LONG),
        ("words", _LONG),
        ("scale", _POINTER),
        ("bias", _POINTER),
    ]


class BinaryKernel:
    """The products, by the C kernel: contiguous float32 on the CPU only."""

    name = "kernel"

    def __init__(self, library: ctypes.CDLL) -> None:
        """Bind the functions of a loaded library.

        Raises:
            OSError: the library speaks another version of the interface.
        """
        if library.wb_abi() != ABI:
            raise OSError(f"the kernel has interface version {library.wb_abi()}, {ABI} is needed: install wellfit anew")
        for name, arguments in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = _INT, arguments
        self._level, self._set_level, self._pack = library.wb_level, library.wb_set_level, library.wb_pack
        self._weights_only, self._both = library.wb_weights_only, library.wb_both
        self._conv_both = library.wb_conv_both

    @property
    def level(self) -> str:
        """The instruction set in use: scalar, avx2 or avx512."""
        return LEVELS[self._level()]

    def set_level(self, level: str) -> str:
        """Use an instruction set (the best one below it, if the processor lacks it); returns the one in use."""
        return LEVELS[self._set_level(LEVELS.index(level))]

    def weights_only(self, x: torch.Tensor, weights: Weights) -> torch.Tensor:
        """y = scale * (signs @ x) + bias, without a multiplication in the product (Rastegari et al. 2016, BWN).

        Args:
            x: float32, (samples, inputs), contiguous, on the CPU.
            weights: with words of 32 bits.

        Returns:
            float32, (samples, rows).
        """
        samples = x.shape[0]
        y = torch.empty(samples, weights.rows)
        at, described, out = x.data_ptr(), _address(weights), y.data_ptr()

        def part(first: int, last: int) -> int:
            return int(self._weights_only(at, described, first, last, out))

        _shared(part, samples, weights.tiles.numel() * 8)
        return y

    def both(self, x: torch.Tensor, weights: Weights, with_beta: bool) -> torch.Tensor:
        """y = scale * beta * (signs @ sign(x)) + bias by exclusive or and popcount (XNOR-Net, the same paper).

        Args:
            x: float32, (samples, inputs), contiguous, on the CPU.
            weights: with words of 64 bits.
            with_beta: multiply by the mean of |x| of each sample; else by 1.

        Returns:
            float32, (samples, rows).
        """
        samples = x.shape[0]
        y = torch.empty(samples, weights.rows)
        if samples == 1:  # the common case at inference, where a closure would cost as much as the product
            _enough(self._both(x.data_ptr(), _address(weights), 0, 1, with_beta, y.data_ptr()))
            return y
        at, described, out = x.data_ptr(), _address(weights), y.data_ptr()

        def part(first: int, last: int) -> int:
            return int(self._both(at, described, first, last, with_beta, out))

        _shared(part, samples, weights.tiles.numel())
        return y

    def conv_both(
        self, x: torch.Tensor, shape: ConvShape, weights: Weights, missing: torch.Tensor, beta: torch.Tensor | None
    ) -> torch.Tensor:
        """The convolution of sign(x) with signs, zeros padded behind the signs.

        Args:
            x: float32, (samples, channels, height, width), on the CPU.
            weights: rows of inputs in the order (kernel height, kernel width, channels), a segment a tap.
            missing: float32, (height out, width out, rows of all tiles), contiguous: the sum of a row's signs that
                lie over the padding.
            beta: float32, (samples, height out, width out), contiguous, multiplied into each place; None for 1.

        Returns:
            float32, (samples, rows, height out, width out).
        """
        samples, channels, height, width = x.shape
        out_height, out_width = shape.output((height, width))
        words = -(-channels // 64)
        rows = x.permute(0, 2, 3, 1).contiguous()
        signs = torch.empty(samples, height, width, words, dtype=torch.int64)
        self._pack(rows.data_ptr(), samples * height * width, channels, signs.data_ptr())
        y = torch.empty(samples, weights.rows, out_height, out_width)
        sizes = [samples, height, width, words, channels, out_height, out_width]
        numbers = [*sizes, *shape.kernel, *shape.stride, *shape.padding, *shape.dilation]
        described = (ctypes.c_int64 * len(numbers))(*numbers)
        mean = None if beta is None else beta.data_ptr()
        at, conv, row, gap, out = signs.data_ptr(), described, _address(weights), missing.data_ptr(), y.data_ptr()

        def part(first: int, last: int) -> int:
            return int(self._conv_both(at, conv, row, gap, mean, first, last, out))

        _shared(part, samples, out_height * out_width * weights.tiles.numel())
        return y


def _address(weights: Weights) -> int:
    """Where the C structure of the weights lies; it lives as long as they do."""
    if weights.address is None:
        tiles, scale, bias = (tensor.data_ptr() for tensor in (weights.tiles, weights.scale, weights.bias))
        weights.structure = _Weights(tiles, weights.rows, weights.inputs, weights.words, scale, bias)
        weights.address = ctypes.addressof(weights.structure)
    return weights.address


def _enough(code: int) -> None:
    if code:
        raise MemoryError("no memory for the signs of one sample")


_threads: tuple[int, ThreadPoolExecutor] | None = None


def _pool(size: int) -> ThreadPoolExecutor:
    """Threads for the kernel: those of a parent process are not there after a fork."""
    global _threads
    if _threads is None or _threads[0] != os.getpid():
        _threads = os.getpid(), ThreadPoolExecutor(max(size, os.cpu_count() or 1), "wellfit-binary")
    return _threads[1]


def _shared(part: Callable[[int, int], int], pieces: int, words_each: int) -> None:
    """Call part(first, last) for all pieces: in one thread, or in as many as torch uses where that pays."""
    threads = min(torch.get_num_threads(), pieces, max(1, pieces * words_each // WORTH_A_THREAD))
    if threads < 2:
        _enough(part(0, pieces))
        return
    bounds = [pieces * i // threads for i in range(threads + 1)]
    pool = _pool(threads)
    others = [pool.submit(part, first, last) for first, last in zip(bounds[1:-1], bounds[2:])]
    _enough(part(0, bounds[1]))  # this thread takes a share, too
    for other in others:
        _enough(other.result())
