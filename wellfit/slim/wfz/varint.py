"""Whole numbers of any size in few bytes (LEB128), and reading bytes with every step checked."""

from __future__ import annotations

from wellfit.slim.wfz.damage import Damaged

_LONGEST = 9  # bytes: 63 bits, so that every number that is read fits into an int64


def varint(number: int) -> bytes:
    """A number from 0 to 2^63 - 1: seven bits a byte, the lowest first; the top bit says that more follow."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def signed(number: int) -> bytes:
    """A number of either sign: 0, -1, 1, -2, ... are written as 0, 1, 2, 3, ..."""
    return varint(2 * number if number >= 0 else -2 * number - 1)


class Cursor:
    """Reads bytes from the front to the back.

    Args:
        data: what is read.
        where: what it is, for messages: "the header".
    """

    def __init__(self, data: bytes | memoryview, where: str) -> None:
        self._data = memoryview(data)
        self._at = 0
        self._where = where

    @property
    def left(self) -> int:
        """Bytes that were not read yet."""
        return len(self._data) - self._at

    def take(self, count: int) -> memoryview:
        """The next `count` bytes; Damaged if there are fewer."""
        if count > self.left:
            raise Damaged(f"{self._where} ends too early: {count} bytes are wanted, {self.left} are left")
        self._at += count
        return self._data[self._at - count : self._at]

    def rest(self) -> memoryview:
        """All bytes that are left."""
        return self.take(self.left)

    def byte(self) -> int:
        """The next byte."""
        return self.take(1)[0]

    def varint(self) -> int:
        """The next number, as `varint` wrote it; Damaged if it is longer than it need be, or than 63 bits."""
        number = 0
        for place in range(_LONGEST):
            byte = self.byte()
            number |= (byte & 0x7F) << (7 * place)
            if byte < 0x80:
                if byte == 0 and place > 0:
                    break
                return number
        raise Damaged(f"{self._where} holds a number that is not written as it should be")

    def signed(self) -> int:
        """The next number, as `signed` wrote it."""
        number = self.varint()
        return number >> 1 if number % 2 == 0 else -(number >> 1) - 1

    def finish(self) -> None:
        """Damaged if bytes are left."""
        if self.left:
            raise Damaged(f"{self._where} has {self.left} bytes too many")
