"""`wellfit slim expand`: a `.wfz` file as plain safetensors, for everything that reads those."""

from __future__ import annotations

import json
from pathlib import Path

from wellfit.errors import WellfitError
from wellfit.slim.printing import say
from wellfit.slim.wfz import Contents, marked, read, safetensors

SUFFIX = ".safetensors"


def run_expand(path: str | Path, to: str | Path | None, force: bool = False, max_bytes: int | None = None) -> int:
    """Write the tensors of a file as safetensors, and say where; 0.

    Args:
        path: of the `.wfz` file.
        to: of the new file; by default beside the other, with the suffix `.safetensors`.
        force: write over a file that is there.
        max_bytes: see `wfz.read`.

    Raises:
        WellfitError: there is a file already, or one cannot be opened.
        Damaged: the `.wfz` file is damaged.
    """
    to = Path(path).with_suffix(SUFFIX) if to is None else Path(to)
    if to.exists() and not force:
        raise WellfitError(f"{to} is there already: give another name with --to, or --force to write over it")
    contents = read(path, max_bytes=max_bytes)
    size = expand(contents, to)
    say(f"{to}: {len(contents.stored)} tensors, {size:,} bytes\n")
    return 0


def expand(contents: Contents, to: Path) -> int:
    """Write the tensors of a file as safetensors; the bytes written.

    Tied tensors are written one by one, as a `state_dict` lists them. The metadata tell the changes and the meta of the
    file as JSON (`wellfit.changes`, `wellfit.meta`), and `format: pt`, which some readers ask for.
    """
    tensors = {name: marked(array, contents.stored[name].dtype) for name, array in contents.tensors().items()}
    metadata = {"format": "pt"}
    for name, told in (("changes", contents.changes), ("meta", contents.meta)):
        if told:
            metadata[f"wellfit.{name}"] = json.dumps(told, ensure_ascii=False)
    return safetensors.write(to, tensors, metadata)
