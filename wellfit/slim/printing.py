"""What is printed: text for any terminal, and tables."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence

NAME = 40
"""Characters of a name in a table."""

SHOWN = 40
"""Rows of a table by layer."""


def say(text: str) -> None:
    """Text on standard output, whatever its encoding can hold."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def tries_text(count: int) -> str:
    """For people: "1 try", "5 tries"."""
    return f"{count} {'try' if count == 1 else 'tries'}"


def table(rows: Sequence[tuple[str, ...]], left: Collection[int]) -> list[str]:
    """Lines; the columns `left` stand to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  " + "  ".join(
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]  # fmt: skip
