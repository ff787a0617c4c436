"""The folder in which a slimming lives, so that it can go on where it stopped."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wellfit import __version__
from wellfit.errors import WellfitError
from wellfit.launch.command import Command
from wellfit.record.store import runs_folder
from wellfit.record.writing import write_json
from wellfit.report.source import shown_path

_FOLDER = "slim"


class Work:
    """A work folder: a folder for each part of the work that is done, with a JSON file of the same name beside it.

    Args:
        folder: it is made.

    Raises:
        WellfitError: it cannot be used, or another process does.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            ignore = folder.parent.parent / ".gitignore"
            if not ignore.exists():
                ignore.write_text("*\n", encoding="ascii")
            self._lock = (folder / "lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WellfitError(
                f"another wellfit slim of this command is at work in {shown_path(str(folder))}"
            ) from None
        except OSError as error:
            raise WellfitError(f"{folder} cannot be used ({error.strerror or error}): set WELLFIT_DIR") from None

    def done(self, name: str) -> dict[str, Any] | None:
        """What was noted of a part that is done; None if it is not."""
        try:
            told = json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return told if isinstance(told, dict) else None

    def begun(self, name: str) -> Path:
        """The folder for a part that is to be made: what an interrupted attempt left there is removed."""
        place = self.folder / name
        shutil.rmtree(place, ignore_errors=True)
        (self.folder / f"{name}.json").unlink(missing_ok=True)
        place.mkdir(parents=True)
        return place

    def note(self, name: str, told: dict[str, Any]) -> None:
        """A part is done."""
        write_json(self.folder / f"{name}.json", told)

    def all_done(self, prefix: str) -> list[dict[str, Any]]:
        """Of all parts whose names begin so, in the order of their names."""
        names = sorted(path.stem for path in self.folder.glob(f"{prefix}*.json"))
        return [told for name in names if (told := self.done(name)) is not None]


def work_of(command: Command, words: Sequence[str], cwd: Path, overrides: Sequence[str], start: Path | None,
            metric: str | None) -> Work:  # fmt: skip
    """The work folder of a command: another command, script, checkpoint or figure has another.

    Raises:
        WellfitError: as `Work`.
    """
    script = next((word for word in words if Path(word).suffix == ".py" and Path(word).is_file()), None)
    told = [__version__, list(command.argv), str(cwd), list(overrides), metric,
            _digest(Path(script)) if script else None, _digest(start) if start else None]  # fmt: skip
    digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:8]
    return Work(runs_folder(cwd) / _FOLDER / f"{command.label}-{digest}")


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else (
                hashlib.sha256(file.read()).hexdigest()
            )  # fmt: skip
    except OSError as error:
        raise WellfitError(f"{path} cannot be read: {error.strerror or error}") from None
