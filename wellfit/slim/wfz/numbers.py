"""The types of numbers that a `.wfz` file holds, and their bits as unsigned integers.

All kinds of storing work on *patterns*: the bits of a tensor as unsigned integers of the tensor's shape. A complex
tensor has the patterns of its real parts, then those of its imaginary parts: shape (2, *shape).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wellfit.errors import WellfitError
from wellfit.slim.wfz.damage import Damaged

Patterns: TypeAlias = "NDArray[np.unsignedinteger[Any]]"


@dataclass(frozen=True)
class BFloat16:
    """A bfloat16 tensor, for which numpy has no type.

    Args:
        array: its bits, uint16, any shape.
    """

    array: NDArray[np.uint16]


@dataclass(frozen=True)
class Float8:
    """An 8-bit float tensor, for which numpy has no type.

    Args:
        array: its bits, uint8, any shape.
        form: `"e4m3fn"` or `"e5m2"`, as in torch's names.
    """

    array: NDArray[np.uint8]
    form: str = "e4m3fn"


@dataclass(frozen=True)
class Same:
    """A tied tensor: the same numbers as the tensor `name` of the same file, stored once."""

    name: str


@dataclass(frozen=True)
class Dtype:
    """One type of numbers.

    Args:
        code: its number in the file.
        name: as torch calls it.
        storage: the little-endian numpy type that carries it.
        nature: `"bool"`, `"unsigned"`, `"signed"`, `"float"` or `"complex"`.
        mantissa: explicit bits of a float's mantissa (of one part of a complex number); 0 for others.
    """

    code: int
    name: str
    storage: str
    nature: str
    mantissa: int = 0

    @property
    def size(self) -> int:
        """Bytes of one number."""
        return np.dtype(self.storage).itemsize

    @property
    def width(self) -> int:
        """Bytes of one pattern: of a real number, or of one part of a complex one."""
        return self.size // 2 if self.nature == "complex" else self.size

    @property
    def is_floating(self) -> bool:
        """Whether patterns are floats: a sign bit on top, then the exponent."""
        return self.mantissa > 0

    @property
    def pattern_type(self) -> np.dtype[Any]:
        """The unsigned type of a pattern."""
        return np.dtype(f"<u{self.width}")

    def pattern_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the patterns of a tensor of this shape."""
        return (2, *shape) if self.nature == "complex" else shape


DTYPES = (
    Dtype(0, "bool", "|b1", "bool"),
    Dtype(1, "uint8", "|u1", "unsigned"),
    Dtype(2, "int8", "|i1", "signed"),
    Dtype(3, "uint16", "<u2", "unsigned"),
    Dtype(4, "int16", "<i2", "signed"),
    Dtype(5, "uint32", "<u4", "unsigned"),
    Dtype(6, "int32", "<i4", "signed"),
    Dtype(7, "uint64", "<u8", "unsigned"),
    Dtype(8, "int64", "<i8", "signed"),
    Dtype(9, "float16", "<f2", "float", 10),
    Dtype(10, "bfloat16", "<u2", "float", 7),
    Dtype(11, "float32", "<f4", "float", 23),
    Dtype(12, "float64", "<f8", "float", 52),
    Dtype(13, "complex64", "<c8", "complex", 23),
    Dtype(14, "complex128", "<c16", "complex", 52),
    Dtype(15, "float8_e4m3fn", "|u1", "float", 3),
    Dtype(16, "float8_e5m2", "|u1", "float", 2),
)
DTYPE_NAMED = {dtype.name: dtype for dtype in DTYPES}

Given: TypeAlias = "NDArray[Any] | BFloat16 | Float8"
"""What a tensor is given as to the writer."""


def taken(name: str, value: object) -> tuple[NDArray[Any], Dtype]:
    """A tensor as it was given: its little-endian array in one piece, and its type.

    Raises:
        WellfitError: it is none that a file can hold.
    """
    if isinstance(value, (BFloat16, Float8)):
        array: Any = value.array
        wanted, type_name = ("uint16", "bfloat16") if isinstance(value, BFloat16) else ("uint8", f"float8_{value.form}")
        if type_name not in DTYPE_NAMED:
            raise WellfitError(f"{name!r} has the type {type_name}: a .wfz file knows float8_e4m3fn and float8_e5m2")
        if not isinstance(array, np.ndarray) or array.dtype != np.dtype(wanted):
            raise WellfitError(f"the bits of {name!r} must be given as an array of {wanted}, for {type_name}")
        dtype = DTYPE_NAMED[type_name]
    else:
        array = np.asarray(value) if isinstance(value, np.generic) else value
        if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
            raise WellfitError(_refusal(name, value))
        found = DTYPE_NAMED.get(array.dtype.name)
        if found is None:
            known = ", ".join(dtype.name for dtype in DTYPES)
            raise WellfitError(f"{name!r} is an array of {array.dtype}: a .wfz file holds {known}")
        dtype = found
    return np.asarray(array, dtype=dtype.storage, order="C"), dtype


def _refusal(name: str, value: object) -> str:
    what = f"{name!r} is a {type(value).__module__}.{type(value).__qualname__}"
    if "sparse" in f"{type(value)} {getattr(value, 'layout', '')}":
        return f"{what} in a sparse layout: make it dense first (to_dense()), its zeros will cost next to nothing"
    if isinstance(value, np.ma.MaskedArray):
        return f"{what}, whose mask a .wfz file cannot hold: fill it first (filled())"
    return f"{what}: a .wfz file is written from numpy arrays (of a torch tensor: tensor.detach().cpu().numpy())"


def marked(array: NDArray[Any], dtype_name: str) -> Given:
    """An array that came out of a file, with the mark of its type where numpy has none."""
    if dtype_name == "bfloat16":
        return BFloat16(array)
    if dtype_name.startswith("float8_"):
        return Float8(array, dtype_name.removeprefix("float8_"))
    return array


def patterns_of(array: NDArray[Any], dtype: Dtype) -> Patterns:
    """The bits of an array in one piece, of shape `dtype.pattern_shape(array.shape)`."""
    flat = array.reshape(-1)
    if dtype.nature == "complex":
        parts = flat.view(dtype.pattern_type).reshape(-1, 2).T
        return np.ascontiguousarray(parts).reshape(2, *array.shape)
    return flat.view(dtype.pattern_type).reshape(array.shape)


def array_of(patterns: Patterns, dtype: Dtype, shape: tuple[int, ...]) -> NDArray[Any]:
    """The tensor that has these patterns.

    Raises:
        Damaged: a bool is neither 0 nor 1.
    """
    if dtype.nature == "bool" and patterns.size and int(patterns.max()) > 1:
        raise Damaged("a bool is neither 0 nor 1")
    if dtype.nature == "complex":
        parts = patterns.reshape(2, prod(shape)).T
        return np.ascontiguousarray(parts).reshape(-1).view(dtype.storage).reshape(shape)
    return patterns.reshape(-1).view(dtype.storage).reshape(shape)


def keys_of(patterns: Patterns, dtype: Dtype) -> Patterns:
    """Unsigned integers that are ordered as the values are: -NaN, -inf, ..., -0, 0, ..., inf, NaN."""
    top = patterns.dtype.type(1 << (8 * dtype.width - 1))
    if dtype.is_floating:
        return np.where(patterns & top, ~patterns, patterns | top)
    return patterns ^ top if dtype.nature == "signed" else patterns


def patterns_of_keys(keys: Patterns, dtype: Dtype) -> Patterns:
    """The patterns that have these keys: `keys_of` turned round."""
    top = keys.dtype.type(1 << (8 * dtype.width - 1))
    if dtype.is_floating:
        return np.where(keys & top, keys ^ top, ~keys)
    return keys ^ top if dtype.nature == "signed" else keys


def floats_of(patterns: Patterns, dtype: Dtype) -> NDArray[Any]:
    """The values that patterns stand for, as floats in which they are exact; whole numbers as they are."""
    if dtype.name == "bfloat16":
        wide: NDArray[np.uint32] = patterns.astype("<u4") << np.uint32(16)
        return wide.view("<f4")
    if dtype.mantissa in (10, 23, 52):
        return patterns.view(f"<f{dtype.width}")
    return patterns
