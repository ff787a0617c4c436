"""`wellfit run`: start the command, tell findings while it runs, judge it at the end, leave with its exit code."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from wellfit import __version__
from wellfit.config import FailOn, Thresholds
from wellfit.errors import WellfitError
from wellfit.launch.child import Child, end_like, listening
from wellfit.launch.command import resolve
from wellfit.launch.folder import RunFile, environment
from wellfit.launch.voice import Voice
from wellfit.record.store import new_run_folder

POLL_SECONDS = 0.5

Format = Literal["text", "json", "sarif", "github"]


@dataclass(frozen=True)
class Options:
    """What `wellfit run` was asked for.

    Args:
        words: the command to run, as typed.
        format: of the findings; all but "text" are written to `output`, or else to standard output at the end.
        output: file for the findings in this format; None for none.
        fail_on: from which severity a finding makes the exit code 1 where the program's own was 0.
        select, thresholds: as for `catalogue.rules`; ignore: as for `catalogue.names_of`.
        quiet: say nothing on standard error.
        overhead: budget of the probe, in percent of the run's time.
        quota: most that the run may write, in MB.
        every: watch each so-manieth step whatever it costs; 0 leaves it to the budget.
        report: write the HTML page.
        notes_shown: tell notes as well as errors.
        all_shown: tell all findings at the end, not only the first five.
        overrides: what to change of the run, as typed after `--override`.
    """

    words: list[str]
    format: Format = "text"
    output: Path | None = None
    fail_on: FailOn = "never"
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    thresholds: Thresholds = field(default_factory=dict)
    quiet: bool = False
    overhead: float = 1.0
    quota: int = 512
    every: int = 0
    report: bool = True
    notes_shown: bool = False
    all_shown: bool = False
    overrides: tuple[str, ...] = ()


def run_watched(options: Options) -> int:
    """Run a command under watch.

    Returns:
        the exit code to leave with; where a signal killed the program, this process ends by the same signal instead.

    Raises:
        WellfitError: an option or the command is wrong; nothing was started.
    """
    command = resolve(options.words)
    if options.select or options.ignore or options.thresholds:
        from wellfit.catalogue import names_of, rules

        rules(options.select, options.thresholds)  # a wrong name must be told before the run
        names_of(options.ignore)
    overrides: list[dict[str, Any]] = []
    if options.overrides:
        from wellfit.overrides.catalogue import as_json, parse

        overrides = as_json(parse(options.overrides))
    if options.output is not None and not options.output.absolute().parent.is_dir():
        raise WellfitError(f"--output {options.output}: there is no folder {options.output.parent}")
    try:
        cwd = Path.cwd()
    except OSError:
        raise WellfitError("the current folder no longer exists: change to another") from None
    folder, note = new_run_folder(cwd, command.label)
    if not options.quiet:
        for sentence in (note, _mixed(options)):
            if sentence:
                Voice().say(sentence)
    file = RunFile(folder, command, options.words, cwd, __version__, overrides, options.overrides)
    file.write()
    probe = {"overhead": options.overhead / 100, "quota": options.quota * 1_000_000, "every": options.every}
    env = environment(folder, {**probe, "overrides": overrides} if overrides else probe, os.environ)
    with listening() as (signals, wake):
        try:
            child = Child(command.argv, env)
        except OSError as error:
            raise WellfitError(f"{command.argv[0]} could not be started: {error.strerror}") from None
        signals.follow(child)
        _step_back()
        from wellfit.launch.live import Live  # imported while the child starts

        live = Live(folder, options, Voice())
        while not child.wait(POLL_SECONDS, wake):
            live.look()
        status = child.status or 0
        file.end(status)
        file.write()
        try:
            failed = live.end()
        except KeyboardInterrupt:  # the user does not want to wait for us
            failed = False
    return end_like(status) or int(failed)


def _mixed(options: Options) -> str:
    """A warning where a program that reads our standard output would stumble over the script's own."""
    if options.output is not None or options.format not in ("json", "sarif"):  # GitHub reads its lines between others
        return ""
    return f"the {options.format} will follow what the script writes to standard output: --output FILE keeps it apart"


def _step_back() -> None:
    """Leave the processor to the program: judging can wait."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        os.nice(5)
    except OSError:  # not allowed here; it is a courtesy only
        return
