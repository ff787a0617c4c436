"""Where runs live: the folder `.wellfit` beside the user's program, and how a run is found by name."""

from __future__ import annotations

import difflib
import os
import re
import tempfile
import time
from pathlib import Path

from wellfit.errors import WellfitError

VARIABLE = "WELLFIT_DIR"
_FOLDER = ".wellfit"


def _fallback() -> Path:
    return Path(tempfile.gettempdir()) / f"wellfit-{os.getuid() if hasattr(os, 'getuid') else 'runs'}"


def _wanted(cwd: Path) -> Path:
    chosen = os.environ.get(VARIABLE)
    return cwd / chosen if chosen else cwd / _FOLDER


def _can_write(folder: Path) -> bool:
    """Whether runs can be made in a folder that exists, or could be made."""
    if folder.exists():
        return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
    parent = next((above for above in folder.parents if above.exists()), None)
    return parent is not None and parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)


def runs_folder(cwd: str | os.PathLike[str]) -> Path:
    """The folder for new runs: `.wellfit` in `cwd`, or what WELLFIT_DIR says, or one for temporary files.

    It need not exist yet.
    """
    wanted = _wanted(Path(cwd).absolute())
    return wanted if _can_write(wanted) else _fallback()


def new_run_folder(cwd: str | os.PathLike[str], script_name: str) -> tuple[Path, str | None]:
    """Make the folder of a new run, named after the time and the script (20261121-021530-train-7f3a).

    Returns:
        the absolute path, and a sentence for the user when it is not where it should be.

    Raises:
        WellfitError: no folder could be made anywhere.
    """
    wanted = _wanted(Path(cwd).absolute())
    folder = runs_folder(cwd)
    note = None
    try:
        if folder != wanted:
            raise PermissionError(13, "it cannot be written")
        return _make(wanted, script_name), None
    except OSError as error:
        note = f"{wanted} could not be used ({error.strerror or error})"
    try:
        fallback = _fallback()
        fallback.mkdir(mode=0o700, exist_ok=True)
        status = fallback.lstat()
        if fallback.is_symlink() or (hasattr(os, "getuid") and status.st_uid != os.getuid()):
            fallback = Path(tempfile.mkdtemp(prefix="wellfit-"))  # somebody else holds the name
        run = _make(fallback, script_name)
    except OSError as error:
        raise WellfitError(
            f"{note}, nor {_fallback()} ({error.strerror or error}): set {VARIABLE} to a folder that can be written"
        ) from error
    return run, f"{note}, so the run is in {run}"


def _make(runs: Path, script_name: str) -> Path:
    runs.mkdir(parents=True, exist_ok=True)
    ignore = runs / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n", encoding="ascii")
    stem = os.path.basename(script_name).removesuffix(".py")
    plain = re.sub(r"[^A-Za-z0-9_]+", "_", stem)[:40].strip("_") or "run"
    while True:
        run = runs / f"{time.strftime('%Y%m%d-%H%M%S')}-{plain}-{os.urandom(2).hex()}"
        try:
            run.mkdir()
        except FileExistsError:
            continue
        return run


def _is_run(folder: Path) -> bool:
    try:
        return folder.is_dir() and ((folder / "run.json").exists() or next(folder.glob("*.wfr"), None) is not None)
    except OSError:
        return False


def list_runs(cwd: str | os.PathLike[str]) -> list[Path]:
    """The folders of all runs, oldest first."""
    wanted = _wanted(Path(cwd).absolute())
    runs: dict[Path, tuple[str, int]] = {}
    for place in (wanted, runs_folder(cwd)):
        try:
            entries = list(place.iterdir())
        except OSError:
            continue
        for entry in entries:
            if _is_run(entry):
                try:
                    runs[entry] = (entry.name[:15], entry.stat().st_mtime_ns)
                except OSError:
                    continue
    return sorted(runs, key=lambda run: runs[run])


def find_run(text: str, cwd: str | os.PathLike[str]) -> Path:
    """The folder of the run that the user means: "last", an id, the beginning of just one id, or a path.

    Raises:
        WellfitError: none, or more than one, is meant.
    """
    runs = list_runs(cwd)
    if text == "last":
        if runs:
            return runs[-1]
        raise WellfitError(f"there is no run yet in {runs_folder(cwd)}: start one with `wellfit run train.py`")
    begun = [run for run in runs if text and run.name.startswith(text)]
    exact = [run for run in begun if run.name == text]
    if exact or len(begun) == 1:
        return (exact or begun)[0]
    if begun:
        names = ", ".join(run.name for run in begun[-3:])
        raise WellfitError(f'"{text}" is the beginning of {len(begun)} runs ({names}): give more of its name')
    path = Path(cwd).absolute() / text
    if text and _is_run(path):
        return path
    if text and path.is_dir():
        raise WellfitError(f'the folder {path} holds no record: give the folder of a run, its id, or "last"')
    near = difflib.get_close_matches(text, [run.name for run in runs], n=3, cutoff=0.3)
    hint = f"did you mean {', '.join(near)}?" if near else "`wellfit runs` lists them"
    raise WellfitError(f'no run "{text}" in {runs_folder(cwd)}: {hint}')
