"""The twin of native/range_coder.h."""

from __future__ import annotations

from wellfit.slim.wfz.damage import Damaged

BOTTOM = 1 << 24
LAST = 4
"""So many zeros at the end are left out."""


class RangeEncoder:
    """Codes bits with probabilities of 16 bits."""

    def __init__(self) -> None:
        self._low, self._range = 0, 0xFFFFFFFF
        self._out = bytearray()

    def code(self, probability: int, bit: int) -> int:
        """Code a bit that is 1 with this probability (of 65,536); gives it back."""
        bound = self._range * probability >> 16
        if bit:
            self._range = bound
        else:
            self._low += bound
            self._range -= bound
        while self._range < BOTTOM:
            self._range <<= 8
            self._shift()
        return bit

    def done(self) -> bytes:
        """All bytes."""
        self._low = last_number(self._low, self._range)
        for _ in range(4):
            self._shift()
        self._carry()
        for _ in range(LAST):
            if self._out and not self._out[-1]:
                self._out.pop()
        return bytes(self._out)

    def _shift(self) -> None:
        """Write the highest byte of `low`."""
        self._carry()
        self._out.append(self._low >> 24)
        self._low = (self._low & 0xFFFFFF) << 8

    def _carry(self) -> None:
        if self._low >> 32:
            self._low &= 0xFFFFFFFF
            at = len(self._out) - 1
            while self._out[at] == 255:
                self._out[at] = 0
                at -= 1
            self._out[at] += 1


class RangeDecoder:
    """Reads what RangeEncoder wrote."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 4
        self._low, self._range = 0, 0xFFFFFFFF
        self._code = int.from_bytes(data[:4].ljust(4, b"\0"), "big")

    def code(self, probability: int, bit: int) -> int:
        """The next bit, which is 1 with this probability (of 65,536); the one given is not looked at.

        Raises:
            Damaged: the data ended too soon.
        """
        bound = self._range * probability >> 16
        bit = int(self._code < bound)
        if bit:
            self._range = bound
        else:
            self._low += bound
            self._code -= bound
            self._range -= bound
        while self._range < BOTTOM:
            self._range <<= 8
            self._low = (self._low & 0xFFFFFF) << 8
            self._code = self._code << 8 | (self._data[self._at] if self._at < len(self._data) else 0)
            self._at += 1
            if self._at > len(self._data) + LAST:
                raise Damaged("a tensor coded by mixing is cut off")
        return bit

    def done(self) -> None:
        """Check the end.

        Raises:
            Damaged: RangeEncoder would have ended otherwise.
        """
        self._low &= 0xFFFFFFFF
        size = len(self._data)
        same = last_number(self._low, self._range) % (1 << 32) == (self._low + self._code) % (1 << 32)
        if self._at > size + LAST:
            raise Damaged("a tensor coded by mixing is cut off")
        if not same or size > self._at or not (size == self._at - LAST or (size and self._data[-1])):
            raise Damaged("a tensor coded by mixing does not end where its symbols do")


def last_number(low: int, extent: int) -> int:
    """The number from `low` to low + extent - 1 that ends in most zeros, at most 32."""
    for zeros in range(32, 0, -1):
        number = (low + extent - 1) >> zeros << zeros
        if number >= low:
            return number
    return low + extent - 1
