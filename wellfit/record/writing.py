"""Writing a small JSON file so that a reader sees the old one or the new one, never a part."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any


def write_json(path: str | os.PathLike[str], object: Any) -> None:
    """Write `object` as JSON to `path` through a temporary file beside it and a rename.

    Raises:
        OSError: the folder cannot be written; the old file is then still whole.
        TypeError, ValueError: JSON cannot hold the object; nothing was touched.
    """
    path = Path(path)
    data = (json.dumps(object, indent=1, ensure_ascii=True) + "\n").encode("ascii")
    replace_file(path, data)


def write_text(path: Path, text: str) -> OSError | None:
    """Write a whole text file the same way; what went wrong, or None."""
    try:
        replace_file(path, text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        return error
    return None


def replace_file(path: Path, data: bytes) -> None:
    """Put a file of these bytes in the place of `path` by a rename.

    Raises:
        OSError: as `write_json`.
    """
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.", suffix=".tmp")
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)  # mkstemp makes it private; the record is as readable as its folder
        os.replace(temporary, path)
    except BaseException:
        try:
            os.unlink(temporary)
        except FileNotFoundError:
            pass
        raise
