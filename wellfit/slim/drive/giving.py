"""Where the file goes: never over one that is not ours."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from wellfit.errors import WellfitError
from wellfit.slim.drive.options import SlimOptions
from wellfit.slim.drive.runs import Runs
from wellfit.slim.drive.work import Work

_GIVEN = "given"


def check_to(options: SlimOptions, work: Work) -> None:
    """See that the file can be written where it is asked for, before anything is run.

    Raises:
        WellfitError: it cannot.
    """
    if options.to is None:
        return
    if options.to.suffix != ".wfz":
        raise WellfitError(f"--to {options.to}: the file is a .wfz, so its name should end so")
    if not options.to.absolute().parent.is_dir():
        raise WellfitError(f"--to {options.to}: there is no folder {options.to.parent}")
    if options.to.exists() and not _is_ours(options.to, work):
        raise WellfitError(f"--to {options.to} is there already, and no file of this slimming: give another name")


def give(file: Path, options: SlimOptions, label: str, work: Work, runs: Runs) -> Path:
    """Put a copy of the best file where the user expects it.

    Args:
        label: names it if `--to` does not.

    Returns:
        its path.
    """
    wanted = options.to or Path(f"{label}.wfz")
    path, number = wanted, 2
    while path.exists() and not _is_ours(path, work):
        path, number = wanted.with_stem(f"{wanted.stem}-{number}"), number + 1
    if path != wanted:
        runs.tell(f"{wanted} is there already, and no file of this slimming: {path} is written instead")
    temporary = path.with_name(f".{path.name}.part")
    try:
        shutil.copyfile(file, temporary)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise WellfitError(f"{path} cannot be written ({error.strerror or error}); the file is {file}") from None
    known = (work.done(_GIVEN) or {}).get("files", [])
    work.note(_GIVEN, {"files": sorted({*known, _digest(path)})})
    return path


def _is_ours(path: Path, work: Work) -> bool:
    """Whether a file is one that we gave, unchanged."""
    return path.is_file() and _digest(path) in (work.done(_GIVEN) or {}).get("files", [])


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
