"""Lengths of Huffman codes under a limit, and numbers of 0 to 16 packed by how they differ from the one before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wellfit.slim.wfz.coders.bits import BitReader, BitWriter
from wellfit.slim.wfz.damage import Damaged

USUAL = 5
"""The number that the first one of a packed table is compared with."""

LARGEST = 16
"""The largest number that a packed table can hold."""


def optimal_lengths(counts: NDArray[np.int64], limit: int) -> NDArray[np.uint8]:
    """The code lengths that take the fewest bits among those of at most `limit` bits.

    Package-merge: Larmore, Hirschberg: A fast algorithm for optimal length-limited Huffman codes (1990), in the form
    that keeps only which of a level's items are leaves: sorted by count, those taken at a level are its first ones.

    Args:
        counts: how often each symbol occurs; at least two occur.
        limit: bits of the longest code; 2 ** limit must reach the number of symbols that occur.

    Returns:
        For each symbol the bits of its code, 0 where it does not occur.
    """
    used = np.flatnonzero(counts)
    order = used[np.argsort(counts[used], kind="stable")]
    leaves = counts[order]
    levels = []
    packages = leaves[:0]
    for _ in range(limit):
        items = np.concatenate((leaves, packages))
        sort = np.argsort(items, kind="stable")
        levels.append(sort < len(leaves))
        items = items[sort]
        even = len(items) // 2 * 2
        packages = items[:even].reshape(-1, 2).sum(axis=1)
    lengths = np.zeros(len(counts), np.uint8)
    taken = 2 * len(leaves) - 2
    for is_leaf in reversed(levels):
        from_leaves = int(np.count_nonzero(is_leaf[:taken]))
        lengths[order[:from_leaves]] += 1
        taken = 2 * (taken - from_leaves)
    return lengths


def pack(numbers: Sequence[int], writer: BitWriter) -> None:
    """Write numbers of 0 to LARGEST, the last one not 0.

    First how many they are, then for each: `0` the same as the last one that was not 0, `10` and a bit one more or one
    less, `110` a run of zeros and its length, `111` and four bits any other number.
    """
    writer.add_gamma(len(numbers))
    before, index = USUAL, 0
    while index < len(numbers):
        number = numbers[index]
        if number == 0:
            run = 1
            while numbers[index + run] == 0:
                run += 1
            writer.add(0b011, 3)
            writer.add_gamma(run)
            index += run
            continue
        if number == before:
            writer.add(0, 1)
        elif abs(number - before) == 1:
            writer.add(0b101 if number > before else 0b001, 3)
        else:
            writer.add(0b111, 3)
            writer.add(number - 1, 4)
        before = number
        index += 1


def unpack(reader: BitReader, most: int) -> list[int]:
    """Read what `pack` wrote.

    Raises:
        Damaged: there are more than `most` numbers, or they are nothing that `pack` writes.
    """
    length = reader.take_gamma(most)
    numbers: list[int] = []
    before = USUAL
    while len(numbers) < length:
        if not reader.take(1):
            numbers.append(before)
            continue
        if not reader.take(1):
            before += 1 if reader.take(1) else -1
        elif reader.take(1):
            before = reader.take(4) + 1
        else:
            numbers += [0] * reader.take_gamma(length - len(numbers))
            continue
        if not 1 <= before <= LARGEST:
            raise Damaged(f"the table of a coded tensor holds the number {before}")
        numbers.append(before)
    if not numbers[-1]:
        raise Damaged("the table of a coded tensor ends in zeros")
    return numbers
