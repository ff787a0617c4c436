"""One short run: script + overrides -> record, with what it prints kept in the run's folder."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wellfit import __version__
from wellfit.errors import WellfitError
from wellfit.launch.child import Child, Signals
from wellfit.launch.command import Command
from wellfit.launch.folder import RunFile, environment
from wellfit.overrides.catalogue import as_json, parse, together
from wellfit.overrides.override import Override

OUTPUT = "output.txt"
"""What the script wrote, on standard output and standard error, in the run's folder."""

LOOKING_SECONDS = 0.5
"""Seconds between two looks at a run that goes on."""

_QUIET = {"WANDB_MODE": "disabled"}
"""Some short runs are no result that anybody wants in a list of experiments on the network."""


@dataclass(frozen=True)
class Ended:
    """How a short run ended.

    Args:
        status: its exit code, or -n if signal n killed it; None if it was stopped as its time was over.
        seconds: how long it took, start and end of Python included.
    """

    status: int | None
    seconds: float


@dataclass(frozen=True)
class Launcher:
    """What all runs of one driver have in common.

    Args:
        command: what is run.
        words: as typed.
        cwd: where.
        frame: overrides that the driver sets for all its runs, as they would be typed.
        overrides: of all runs, as typed after `--override`.
        probe: options of the probe.
        signals, wake: of `launch.child.listening`.
    """

    command: Command
    words: list[str]
    cwd: Path
    frame: tuple[str, ...]
    overrides: tuple[str, ...]
    probe: dict[str, Any]
    signals: Signals
    wake: int

    def run(
        self, folder: Path, own: Sequence[Override], trial: Sequence[str], seconds: float,
        look: Callable[[], None] | None = None,
    ) -> tuple[Ended, RunFile]:  # fmt: skip
        """Run the script once.

        Args:
            folder: where to record; it is there.
            own: overrides that the driver sets for this run alone.
            trial: overrides of this run alone that are told as typed.
            seconds: after which it is stopped from outside.
            look: called now and then while it runs.

        Raises:
            WellfitError: the overrides contradict each other, or the command cannot be started.
        """
        typed = (*self.overrides, *trial)
        entries = as_json(together([*parse(self.frame), *own, *parse(typed)]))
        file = RunFile(folder, self.command, self.words, self.cwd, __version__, entries, typed)
        file.write()
        env = environment(folder, {**self.probe, "overrides": entries}, {**os.environ, **_QUIET})
        begun = time.monotonic()
        with (folder / OUTPUT).open("wb") as output:
            try:
                child = Child(self.command.argv, env, output)
            except OSError as error:
                raise WellfitError(f"{self.command.argv[0]} could not be started: {error.strerror}") from None
            self.signals.follow(child)
            in_time = self._wait(child, begun + seconds, look)
            if not in_time:
                child.stop()
        file.end(child.status or 0)
        file.write()
        return Ended(child.status if in_time else None, time.monotonic() - begun), file

    def _wait(self, child: Child, end: float, look: Callable[[], None] | None) -> bool:
        """Whether the program has ended before its time was over."""
        while look is not None and time.monotonic() + LOOKING_SECONDS < end:
            if child.wait(LOOKING_SECONDS, self.wake):
                return True
            look()
        return child.wait(max(0.0, end - time.monotonic()), self.wake)


def last_lines(folder: Path, most: int) -> list[str]:
    """The last lines that a script wrote, without empty ones and our own; none if they cannot be read."""
    try:
        with (folder / OUTPUT).open("rb") as file:
            file.seek(max(0, (folder / OUTPUT).stat().st_size - 100_000))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    lines = [line.rstrip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("wellfit: ")][-most:]


def refusal(folder: Path) -> str:
    """Why an override did not fit the script, as the script's process left it in the run's folder; else empty."""
    try:
        lines = (folder / "torch.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    said = next((line for line in lines if line.startswith("stopped ")), "")
    return said.removeprefix("stopped ").removeprefix("--override ")
