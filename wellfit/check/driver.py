"""The driver of `wellfit check`: which runs are made, in which order, and how long each may take."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wellfit.catalogue import names_of, rules
from wellfit.check.told import not_tried, showed
from wellfit.errors import WellfitError
from wellfit.launch.child import end_like, listening
from wellfit.launch.command import resolve
from wellfit.launch.live import Live
from wellfit.launch.short_run import OUTPUT, Ended, Launcher, last_lines, refusal
from wellfit.launch.voice import Voice
from wellfit.overrides.catalogue import find_override, parse
from wellfit.record import open_run
from wellfit.record.run import TRIALS
from wellfit.record.store import new_run_folder
from wellfit.report.source import shown_path

if TYPE_CHECKING:
    from wellfit.launch import Options
    from wellfit.rule import Rule

FRAME = ("seed", "save-aside", "stop-after")
"""Overrides of all runs of a check: what the script leaves to chance is the same in each, and none goes to its end."""

LOOKING_STEPS = 3
"""Steps of a trial that only looks."""

OF_SHARE = 0.7
"""Of its share of the time a run may train so much; the rest is for its start."""

OVERHEAD = 10.0
"""Percent of a run's time that watching may cost at least: these runs are made to be looked at."""

TAIL = 20
"""Lines of what a script wrote that are shown where it failed."""


def run_check(options: Options, steps: int, seconds: float) -> int:
    """Run a command for some steps as it is, and once under each trial of the selected rules, and judge them together.

    Args:
        options: as for `wellfit run`; its overrides hold for all runs.
        steps: optimizer steps of each run, at most.
        seconds: for all runs together, at most.

    Returns:
        the exit code: the script's own where the run as it is failed, else as `--fail-on` asks.

    Raises:
        WellfitError: an option or the command is wrong, and nothing was started; or the script cannot be stopped after
            some steps.
    """
    command = resolve(options.words)
    ignored = names_of(options.ignore)
    chosen = [rule for rule in rules(options.select, options.thresholds) if rule.name not in ignored]
    if options.output is not None and not options.output.absolute().parent.is_dir():
        raise WellfitError(f"--output {options.output}: there is no folder {options.output.parent}")
    try:
        cwd = Path.cwd()
    except OSError:
        raise WellfitError("the current folder no longer exists: change to another") from None
    taken = next((text for text in options.overrides if text.partition("=")[0] in FRAME), None)
    if taken is not None:
        raise WellfitError(f"--override {taken} is what check sets for all its runs: leave it out, see --steps")
    folder, note = new_run_folder(cwd, command.label)
    voice = Voice()
    if note and not options.quiet:
        voice.say(note)
    probe = {
        "overhead": max(options.overhead, OVERHEAD) / 100, "quota": options.quota * 1_000_000, "every": options.every,
    }  # fmt: skip
    with listening() as (signals, wake):
        launcher = Launcher(
            command, options.words, cwd, ("seed=0,keep:on", "save-aside"), options.overrides, probe, signals, wake
        )
        return _Check(launcher, options, voice, folder, steps, time.monotonic() + seconds).made(_trials_of(chosen))


def _trials_of(chosen: Sequence[Rule]) -> list[str]:
    """What the rules ask for, each once: those that only look come first, for they are short."""
    asked = dict.fromkeys(trial for rule in chosen for trial in rule.trials)
    return sorted(asked, key=lambda trial: not find_override(trial.partition("=")[0]).looks)


class _Check:
    """One check, from its first run to its last word.

    Args:
        launcher: makes the runs.
        folder: of the run as it is; the trials lie in it.
        steps: of each run, at most.
        deadline: when all is over, as `time.monotonic` has it.
    """

    def __init__(
        self, launcher: Launcher, options: Options, voice: Voice, folder: Path, steps: int, deadline: float
    ) -> None:
        self._launcher = launcher
        self._options = options
        self._voice = voice
        self._folder = folder
        self._steps = steps
        self._deadline = deadline
        self._told: list[dict[str, Any]] = []
        self._runs = 0

    def made(self, trials: Sequence[str]) -> int:
        """Make all runs and judge them; the exit code."""
        self._runs = 1 + len(trials)
        self._announce(0, "as it is")
        ended, file = self._launcher.run(self._folder, parse([self._stop(self._share(0))]), (), self._left())
        file.fields["check"] = self._noted()
        file.write()
        if not self._stands(ended):
            return self._failed(ended)
        run = open_run(self._folder)
        self._steps = max((record.step_count for record in run.records), default=self._steps) or self._steps
        self._told.append({"override": None, "folder": None, "showed": showed(run) if run.records else ""})
        interrupted = False
        try:
            for number, trial in enumerate(trials if any(record.step_count for record in run.records) else (), start=1):
                self._try(number, trial, ended.seconds)
                interrupted = bool(self._launcher.signals.came)
                if interrupted:
                    break
        except KeyboardInterrupt:  # between two runs
            interrupted = True
        file.fields["check"] = self._noted()
        file.write()
        try:
            failed = Live(self._folder, self._options, self._voice).end()
        except KeyboardInterrupt:  # the user does not want to wait for us
            failed, interrupted = False, True
        return end_like(-signal.SIGINT) if interrupted else int(failed)

    def _try(self, number: int, trial: str, needed: float) -> None:
        """One trial.

        Args:
            needed: seconds that the run as it is took.
        """
        entry: dict[str, Any] = {"override": trial, "folder": None}
        self._told.append(entry)
        name = trial.partition("=")[0]
        override = find_override(name)
        if self._left() <= 0:
            entry["why"] = "the time was over; give --time more seconds"
            return
        self._announce(number, f"{trial} ({override.summary})")
        folder = self._folder / TRIALS / f"{number}-{name}"
        try:
            folder.mkdir(parents=True)
            stop = self._stop(self._share(number), LOOKING_STEPS if override.looks else None)
            ended, _ = self._launcher.run(folder, parse([stop]), [trial], self._left())
            run = open_run(folder)
        except (OSError, WellfitError) as error:
            entry["why"] = " ".join(str(error).split())
            return
        why = not_tried(run, trial, ended, folder)
        if why:
            entry["why"] = why
            return
        entry["folder"] = folder.name
        entry["showed"] = showed(run, trial)

    def _stands(self, ended: Ended) -> bool:
        """Whether the run as it is came so far that others can be held against it."""
        return ended.status == 0 and not self._launcher.signals.came

    def _failed(self, ended: Ended) -> int:
        """Say why there is nothing to compare; the exit code."""
        why = refusal(self._folder)
        if why:
            raise WellfitError(f"check does not fit this script: {why}")
        if ended.status is None:
            raise WellfitError("the script made no step before the time was over: give --time more seconds")
        if not self._options.quiet:
            lines = last_lines(self._folder, TAIL)
            if lines:
                self._voice.tell("".join(f"  {line}\n" for line in lines))
            how = f"exit code {ended.status}" if ended.status >= 0 else f"signal {-ended.status}"
            self._voice.say(
                f"the script ended with {how} as it is, so nothing was tried; all that it wrote is in "
                f"{shown_path(str(self._folder / OUTPUT))}"
            )
        if any(record.step_count for record in open_run(self._folder).records):
            Live(self._folder, self._options, self._voice).end()
        return end_like(ended.status)

    def _noted(self) -> dict[str, Any]:
        return {"steps": self._steps, "frame": list(FRAME), "trials": self._told}

    def _announce(self, number: int, what: str) -> None:
        if not self._options.quiet:
            self._voice.say(f"run {number + 1} of {self._runs}: {what}")

    def _left(self) -> float:
        """Seconds until all is over."""
        return max(0.0, self._deadline - time.monotonic())

    def _share(self, number: int) -> float:
        """Seconds that a run may train: what is left is divided evenly."""
        return OF_SHARE * self._left() / (self._runs - number)

    def _stop(self, seconds: float, steps: int | None = None) -> str:
        return f"stop-after={steps or self._steps},seconds:{max(1.0, seconds):.0f}"
