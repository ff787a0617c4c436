"""`wellfit slim inspect`: what is in a `.wfz` file, tensor by tensor, with every checksum looked at."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

from wellfit.errors import WellfitError
from wellfit.report.safe import printable
from wellfit.slim.printing import say
from wellfit.slim.wfz import Contents, Stored, read

FORMATS = ("text", "json")
_HEADS = ("tensor", "stored as", "dtype", "shape", "kept", "values", "bits", "bytes", "ratio")
_LONGEST = 60  # characters of a name in the table


def run_inspect(path: str | Path, format: str, max_bytes: int | None = None) -> int:
    """Print what is in a file; 0.

    Args:
        path: of the file.
        format: `"text"`, a table, or `"json"`.
        max_bytes: see `wfz.read`.

    Raises:
        WellfitError: the format is unknown, or the file cannot be opened.
        Damaged: the file, or a tensor of it, is damaged.
    """
    if format not in FORMATS:
        raise WellfitError(f"--format {format} is not known here: give {' or '.join(FORMATS)}")
    contents = read(path, max_bytes=max_bytes)
    told = told_of(contents)
    say(text_of(told) if format == "text" else json.dumps(told, indent=1) + "\n")
    return 0


def told_of(contents: Contents) -> dict[str, Any]:
    """Everything about a file, as JSON; each tensor is decoded for it, and so each CRC-32 checked."""
    decoded = sum(stored.decoded for stored in contents.stored.values())
    return {
        "path": str(contents.path),
        "bytes": contents.size,
        "decoded": decoded,
        "ratio": decoded / contents.size,
        "tensors": [_tensor(stored) for stored in contents.stored.values()],
        "changes": contents.changes,
        "meta": contents.meta,
    }


def _tensor(stored: Stored) -> dict[str, Any]:
    told: dict[str, Any] = {
        "name": stored.name,
        "kind": stored.kind,
        "coder": stored.coder,
        "dtype": stored.dtype,
        "shape": list(stored.shape),
        "kept": stored.kept,
        "distinct": stored.distinct,
        "bytes": stored.bytes,
        "decoded": stored.decoded,
    }
    return {**told, "tied_to": stored.tied_to} if stored.tied_to is not None else told


def text_of(told: dict[str, Any]) -> str:
    """The table for people."""
    rows = [_HEADS, *map(_row, told["tensors"])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADS))]
    lines = [_aligned(row, widths) for row in rows]
    tensors = told["tensors"]
    around = told["bytes"] - sum(tensor["bytes"] for tensor in tensors)
    weights = sum(prod(tensor["shape"]) for tensor in tensors if "tied_to" not in tensor)
    lines += ["", f"{told['bytes']:,} bytes for {told['decoded']:,}: {told['ratio']:.4g} times smaller"]
    lines.append(f"{weights:,} numbers in {len(tensors)} tensors; {around:,} bytes are header, changes and checksum")
    for place, change in enumerate(told["changes"], 1):
        lines.append(f"change {place}: {printable(json.dumps(change, ensure_ascii=False), 200)}")
    for name, value in told["meta"].items():
        lines.append(f"{printable(name, _LONGEST)}: {printable(json.dumps(value, ensure_ascii=False), 200)}")
    lines.append("The SHA-256 of the file and the CRC-32 of every tensor are right.")
    return "\n".join(lines) + "\n"


def _row(tensor: dict[str, Any]) -> tuple[str, ...]:
    shape = " x ".join(map(str, tensor["shape"])) or "one number"
    name = printable(tensor["name"], _LONGEST)
    if "tied_to" in tensor:
        return (name, f"as {printable(tensor['tied_to'], _LONGEST)}", tensor["dtype"], shape, "", "", "", "0", "")
    how = tensor["kind"] if tensor["coder"] == "none" else f"{tensor['kind']}, {tensor['coder']}"
    count, size = prod(tensor["shape"]), tensor["bytes"]
    return (
        name,
        how,
        tensor["dtype"],
        shape,
        f"{tensor['kept']:.2%}",
        f"{tensor['distinct']:,}",
        f"{8 * size / count:.3f}" if count else "",
        f"{size:,}",
        f"{tensor['decoded'] / size:.4g}" if size else "",
    )


def _aligned(row: tuple[str, ...], widths: list[int]) -> str:
    """Text to the left, numbers to the right."""
    cells = [
        cell.ljust(width) if place < 4 else cell.rjust(width) for place, (cell, width) in enumerate(zip(row, widths))
    ]
    return "  ".join(cells).rstrip()
