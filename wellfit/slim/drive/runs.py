"""Runs of the script, each in its own folder, and what they say."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wellfit.errors import WellfitError
from wellfit.launch.short_run import OUTPUT, Launcher, last_lines, refusal
from wellfit.launch.voice import Voice
from wellfit.overrides.catalogue import from_json
from wellfit.record import open_run
from wellfit.report.safe import printable
from wellfit.report.source import shown_path
from wellfit.slim.drive.metric import Said
from wellfit.slim.drive.progress import Progress

_SEED = {"override": "seed", "value": 0, "keep": True}
_ROOM = 100_000  # bytes: less is a full disk
_TAIL = 20  # lines of a script that failed
_OUTPUT_MOST = 4_000_000  # bytes of what it wrote, from the end


class Interrupted(Exception):
    """A signal came: what was done stays, and the same command goes on from there."""


class OutOfTime(Exception):
    """A run was stopped as its time was over."""


class Failed(WellfitError):
    """The script failed under what was changed of it.

    Attributes:
        status: its exit code, or -n if signal n killed it.
        refused: the name of the override that did not fit the script; empty if it failed otherwise.
    """

    def __init__(self, message: str, status: int = 2, refused: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.refused = refused


@dataclass(frozen=True)
class Ran:
    """A run that came to its end.

    Args:
        said: of its network.
        steps: that its optimizers made.
        seconds: that it took.
        trained: the models that an optimizer trained.
    """

    said: Said
    steps: int
    seconds: float
    trained: tuple[str, ...]


class Runs:
    """Makes runs.

    Args:
        launcher: starts them.
        voice: where to speak.
        quiet: say nothing.
    """

    def __init__(self, launcher: Launcher, voice: Voice, quiet: bool) -> None:
        self._launcher = launcher
        self._voice = voice
        self._quiet = quiet

    def tell(self, sentence: str) -> None:
        """A line on standard error, unless it is to be quiet."""
        if not self._quiet:
            self._voice.say(sentence)

    def make(self, folder: Path, own: Sequence[dict[str, Any]], steps: int | None, seconds: float) -> Ran:
        """Run the script once.

        Args:
            folder: empty; it becomes the run's.
            own: overrides of this run, as JSON.
            steps: that it will make; None if nobody knows.
            seconds: after which it is stopped.

        Raises:
            Interrupted: a signal came.
            OutOfTime: its time was over.
            Failed: it failed, or an override does not fit it.
        """
        if self._launcher.signals.came:
            raise Interrupted
        seeded = own if any(one["override"] == "seed" for one in own) else [*own, _SEED]
        progress = Progress(self._voice, folder, steps, not self._quiet)
        try:
            ended, _ = self._launcher.run(folder, from_json(seeded), (), seconds, progress.look)
        finally:
            progress.clear()
        if self._launcher.signals.came:
            raise Interrupted
        why = refusal(folder)
        if why:
            raise Failed(f"slim does not fit this script: {why}", refused=_named(why))
        if ended.status is None:
            raise OutOfTime
        if ended.status:
            raise self._failed(folder, ended.status)
        return _ran(folder, ended.seconds)

    def _failed(self, folder: Path, status: int) -> Failed:
        if not self._quiet:
            self._voice.tell("".join(f"  {line}\n" for line in last_lines(folder, _TAIL)))
        how = f"exit code {status}" if status > 0 else f"signal {-status}"
        said = "".join(f" ({printable(line, 200)})" for line in last_lines(folder, 1))
        return Failed(
            f"the script ended with {how}{said}; all that it wrote is in {shown_path(str(folder / OUTPUT))}"
            f"{full_disk(folder)}", status,
        )  # fmt: skip


def full_disk(folder: Path) -> str:
    """ "; the disk ... is full", if it is: whatever failed, that is why."""
    try:
        return "" if shutil.disk_usage(folder).free > _ROOM else f"; the disk of {shown_path(str(folder))} is full"
    except OSError:
        return ""


def _ran(folder: Path, seconds: float) -> Ran:
    run = open_run(folder)
    record = max(run.records, key=lambda one: one.step_count, default=None)
    if record is None:
        return Ran(Said(_output(folder)), 0, seconds, ())
    said = Said(_output(folder), tuple(record.events("evaluated")))
    layers = record.layers
    roots = {layers[one.layer].root for one in record.parameters.values() if one.optimizer is not None
             and one.layer in layers}  # fmt: skip
    trained = tuple(sorted({layers[root].class_name if root in layers else root or "the model" for root in roots}))
    return Ran(said, record.step_count, seconds, trained if len(trained) == len(roots) else tuple(sorted(roots)))


def _output(folder: Path) -> str:
    try:
        with (folder / OUTPUT).open("rb") as file:
            file.seek(max(0, (folder / OUTPUT).stat().st_size - _OUTPUT_MOST))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _named(refusal_text: str) -> str:
    """The override that a refusal begins with: "distil=... cannot be applied: ..."."""
    return refusal_text.partition(" ")[0].partition("=")[0]
