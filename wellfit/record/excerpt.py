"""A run as it stood after a step: to see when a rule would have spoken, or to judge runs of unequal length alike."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from wellfit.errors import WellfitError
from wellfit.probe import frames
from wellfit.record.segment import Scanner
from wellfit.record.writing import write_json


def excerpt(run_folder: str | os.PathLike[str], step: int, target: str | os.PathLike[str]) -> None:
    """Copy what was recorded of a run up to a step; the copy says that the run still goes on.

    Statistics, rows and events of later steps are left out. Declarations carry no step and are all kept: of a layer the
    copy may know its place in the order of calls earlier than the run itself did.

    Args:
        run_folder: the whole run.
        step: the last step to keep; 0 is the first.
        target: a folder that is not there yet; made.

    Raises:
        WellfitError: the target exists or cannot be made, or the run cannot be read.
    """
    source, target = Path(run_folder), Path(target)
    try:
        target.mkdir(parents=True)
    except FileExistsError:
        raise WellfitError(f"{target} exists already: give a folder that does not") from None
    except OSError as error:
        raise WellfitError(f"{target} could not be made: {error.strerror}") from None
    try:
        if (source / "run.json").exists():
            about = json.loads((source / "run.json").read_text(encoding="utf-8"))
            about |= {"status": "running", "ended": None, "seconds": None, "exit_code": None, "signal": None}
            write_json(target / "run.json", about)
        for path in source.glob("*.wfr"):
            (target / path.name).write_bytes(_until(path, step))
    except (OSError, ValueError) as error:
        shutil.rmtree(target, ignore_errors=True)
        raise WellfitError(f"{source} could not be copied: {error}") from None


def _until(path: Path, step: int) -> bytes:
    kept: list[bytes] = []
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for found in Scanner().frames(fd, closed=True):
            if found.header.kind == frames.ROWS:
                rows = b"".join(
                    found.payload[start : start + frames.ROW.size]
                    for start in range(0, len(found.payload), frames.ROW.size)
                    if frames.ROW.unpack_from(found.payload, start)[3] <= step
                )
                if rows:
                    kept.append(frames.frame(frames.ROWS, found.header.step, rows, found.header.flags))
            elif found.header.step <= step:
                kept.append(os.pread(fd, frames.HEADER_SIZE + found.header.length, found.offset))
    finally:
        os.close(fd)
    return b"".join(kept)
