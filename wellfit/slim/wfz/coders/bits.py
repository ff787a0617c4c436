"""Bits one after the other, for the small tables before the coded symbols; the first bit is a byte's lowest."""

from __future__ import annotations

from wellfit.slim.wfz.damage import Damaged


class BitWriter:
    """Collects bits."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._held = 0
        self._count = 0

    def add(self, value: int, width: int) -> None:
        """Append the lowest `width` bits of a value, lowest first."""
        self._held |= value << self._count
        self._count += width
        while self._count >= 8:
            self._bytes.append(self._held & 255)
            self._held >>= 8
            self._count -= 8

    def add_gamma(self, value: int) -> None:
        """Append a number >= 1 in Elias' gamma code: as many zeros as bits follow, a one, and those bits."""
        width = value.bit_length() - 1
        self.add(1 << width, width + 1)
        self.add(value - (1 << width), width)

    def __len__(self) -> int:
        """Bits so far."""
        return 8 * len(self._bytes) + self._count

    def done(self) -> bytes:
        """All bits, the last byte filled up with zeros."""
        return bytes(self._bytes) + (bytes([self._held]) if self._count else b"")


class BitReader:
    """Reads what BitWriter wrote.

    Every method raises:
        Damaged: the data end too soon, or say what no writer writes.
    """

    def __init__(self, data: bytes | memoryview, start: int = 0) -> None:
        """Read from the byte `start` on."""
        self._data = data
        self._at = 8 * start
        self._end = 8 * len(data)

    def take(self, width: int) -> int:
        """The next `width` bits as a number."""
        first, last = self._at, self._at + width
        if last > self._end:
            raise Damaged("the table of a coded tensor is cut off")
        self._at = last
        held = int.from_bytes(self._data[first >> 3 : (last + 7) >> 3], "little")
        return (held >> (first & 7)) & ((1 << width) - 1)

    def take_gamma(self, largest: int) -> int:
        """The next number in Elias' gamma code, at most `largest`."""
        width = 0
        while not self.take(1):
            width += 1
            if width > largest.bit_length():
                raise Damaged(f"the table of a coded tensor holds a number over {largest}")
        value = (1 << width) + self.take(width)
        if value > largest:
            raise Damaged(f"the table of a coded tensor holds the number {value}, over {largest}")
        return value

    def next_byte(self) -> int:
        """Where the byte after the last one looked at begins; the bits that are skipped must be zeros."""
        if self.take(-self._at & 7):
            raise Damaged("the table of a coded tensor is followed by stray bits")
        return self._at >> 3


def varint(value: int) -> bytes:
    """A number >= 0 in bytes of seven bits, lowest first; all but the last byte have the highest bit set."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: bytes | memoryview, start: int) -> tuple[int, int]:
    """A number written by `varint` at the byte `start`, and where the next byte is.

    Raises:
        Damaged: the data end within the number, or it is longer than nine bytes.
    """
    value = 0
    for index, byte in enumerate(data[start : start + 9]):
        value |= (byte & 127) << 7 * index
        if byte < 128:
            return value, start + index + 1
    raise Damaged("a number in a coded tensor is cut off or too long")
