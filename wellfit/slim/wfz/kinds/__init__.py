"""The ways to store a tensor, one file each; the smallest that fits is taken."""

from __future__ import annotations

from typing import Protocol

from wellfit.slim.wfz import streams
from wellfit.slim.wfz.damage import Damaged
from wellfit.slim.wfz.kinds import alias, bits, codebook, grid, planes, raw, sparse
from wellfit.slim.wfz.numbers import Dtype, Patterns

__all__ = ["KINDS", "Kind", "alias", "kind_of", "pack"]


class Kind(Protocol):
    """A way to store a tensor: a module with these names."""

    @property
    def CODE(self) -> int:
        """Its number in the file."""

    @property
    def NAME(self) -> str:
        """Its name in tables."""

    def pack(self, patterns: Patterns, dtype: Dtype, small: bool) -> bytes | None:
        """The bits of a tensor as bytes, or None where this way does not fit.

        Args:
            patterns: in one piece, of shape `dtype.pattern_shape(...)`.
            small: as few bytes as can be; else what is quick to read and nearly as small.
        """

    def unpack(self, payload: memoryview, dtype: Dtype, shape: tuple[int, ...]) -> Patterns:
        """The bits of the tensor again; Damaged where the bytes are none.

        Args:
            shape: of the patterns; its product was found to be allowed.
        """

    def coder(self, payload: memoryview, dtype: Dtype, shape: tuple[int, ...]) -> str:
        """The name of the coder that made the largest part of the bytes."""


KINDS: tuple[Kind, ...] = (raw, bits, grid, codebook, planes, sparse)
"""All of them, about from the fastest to read to the slowest. Aliases have no bytes, and are handled by the header."""

_LARGE = 4096  # numbers, from which a byte more or less for all of them does not matter
_BY_NAME = {kind.NAME: kind for kind in KINDS}
_BY_CODE = {kind.CODE: kind for kind in KINDS}


def pack(patterns: Patterns, dtype: Dtype, *, small: bool) -> tuple[Kind, bytes]:
    """The smallest way that fits, and its bytes; with `small=False` the fastest of those that are nearly as small."""
    if patterns.size == 0:
        return raw, b""
    found = {}
    for kind in _worth_trying(patterns):
        payload = kind.pack(patterns, dtype, small)
        if payload is not None:
            found[kind.NAME] = payload
        if kind is codebook and payload is not None and codebook.has_few_values(payload, patterns.size):
            break
    name = streams.quickest({name: len(payload) for name, payload in found.items()}, small)
    return _BY_NAME[name], found[name]


def _worth_trying(patterns: Patterns) -> tuple[Kind, ...]:
    """All kinds, or for a large tensor of one value the one that needs next to nothing for it."""
    is_one_value = patterns.size >= _LARGE and bool((patterns == patterns.reshape(-1)[0]).all())
    return (codebook,) if is_one_value else KINDS


def kind_of(code: int) -> Kind:
    """The way with this number in a file; Damaged if there is none."""
    kind = _BY_CODE.get(code)
    if kind is None:
        raise Damaged(f"a tensor is stored in a way that is not known ({code})")
    return kind
