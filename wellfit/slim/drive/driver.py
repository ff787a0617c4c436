"""The driver of `wellfit slim train.py`: the script as it is, the plan, the tries, the proof."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from wellfit.errors import WellfitError
from wellfit.launch.child import end_like, listening
from wellfit.launch.command import resolve
from wellfit.launch.short_run import Launcher
from wellfit.launch.voice import Voice
from wellfit.report.source import shown_path
from wellfit.slim.drive.base import Base, Dense
from wellfit.slim.drive.faster import Faster
from wellfit.slim.drive.giving import check_to, give
from wellfit.slim.drive.options import SlimOptions, time_text
from wellfit.slim.drive.plan import again
from wellfit.slim.drive.plan_file import checked, read_plan_text, write_plan
from wellfit.slim.drive.plan_text import plan_text
from wellfit.slim.drive.proof import Proof
from wellfit.slim.drive.proof_text import proof_text
from wellfit.slim.drive.repeats import Wanted, ended, in_time
from wellfit.slim.drive.runs import Failed, Interrupted, OutOfTime, Runs
from wellfit.slim.drive.search_plan import Family, best_of, first_plan, next_plan
from wellfit.slim.drive.setting import Setting
from wellfit.slim.drive.timing import times_of
from wellfit.slim.drive.tries import Tries, Try
from wellfit.slim.drive.work import Work, work_of
from wellfit.slim.printing import say

OWN = (
    "seed", "save-aside", "start", "keep-weights", "evaluate", "scan", "prune", "share", "binarise", "quantise",
    "distil", "stop-after", "restructure", "time-model",
)  # fmt: skip
"""Overrides that slim sets itself."""

_PROBE = {"overhead": 0.01, "quota": 256_000_000, "every": 0}
_SPARE = 1.15  # a try is begun if so many times what it should take is left


def run_slim(options: SlimOptions) -> int:
    """Make a script's network small, and prove it.

    Returns:
        the exit code: 0, or 1 where the target is not met within the points that may be lost; where the script fails
        as it is, its own.

    Raises:
        WellfitError: an option, the plan or the command is wrong, or the script does not fit.
    """
    command = resolve(options.words)
    taken = next((text for text in options.overrides if text.partition("=")[0] in OWN), None)
    if taken is not None:
        raise WellfitError(f"--override {taken} is what slim sets itself: leave it out")
    if options.start is not None and not options.start.is_file():
        raise WellfitError(f"--from {options.start}: there is no such file")
    if options.target.is_time and (options.plan or options.only_plan):
        raise WellfitError("plans are for targets of size: leave --plan and --only-plan out, or give such a target")
    if options.method is not None and (options.target.is_time or options.plan):
        why = "a plan names the methods itself" if options.plan else "targets of time have methods of their own"
        raise WellfitError(f"--methods is for the search of a small file, and {why}: leave it out")
    told = None if options.plan is None else read_plan_text(options.plan)
    try:
        cwd = Path.cwd()
    except OSError:
        raise WellfitError("the current folder no longer exists: change to another") from None
    work = work_of(command, options.words, cwd, options.overrides, options.start, options.metric)
    check_to(options, work)
    voice = Voice()
    with listening() as (signals, wake):
        launcher = Launcher(command, options.words, cwd, ("save-aside",), options.overrides, _PROBE, signals, wake)
        runs = Runs(launcher, voice, options.quiet)
        slim = _Slim(options, work, runs, command.label, time.monotonic() + options.budget)
        try:
            return slim.made(told)
        except (Interrupted, KeyboardInterrupt):
            runs.tell(
                f"stopped; what was done is in {shown_path(str(work.folder))}, and the same command goes on from there"
            )
            return end_like(-(signals.came[0] if signals.came else signal.SIGINT))
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            raise WellfitError(
                f"slim cannot go on: {error.strerror or error}{where}; the same command resumes"
            ) from None


class _Slim:
    """One slimming.

    Args:
        label: names the file if the user does not.
        deadline: when the budget is over, as `time.monotonic` has it.
    """

    def __init__(self, options: SlimOptions, work: Work, runs: Runs, label: str, deadline: float) -> None:
        self._options = options
        self._work = work
        self._runs = runs
        self._label = label
        self._begun = time.monotonic()
        self._deadline = deadline
        self._untaught = False  # the last try was not made as its network cannot be taught
        self._ends: list[str] = []  # why the search ended before its time
        self._undone: list[str] = []  # runs that were to be made of the best try
        self._families: dict[str, Family] = {}  # of the settings that the search came upon, by their digests

    def made(self, told: dict[str, object] | None) -> int:
        """Go through all of it; the exit code."""
        dense = self._dense()
        if isinstance(dense, int):
            return dense
        if self._options.target.is_time:
            return Faster(self._options, self._work, self._runs, self._label, self._left).made(dense)
        if told is None:
            plan = first_plan(dense.network, self._options.target, self._options.method)
        else:
            plan = checked(told, dense.network, self._options.plan or Path())
        say(plan_text(plan, dense.network))
        if self._options.only_plan is not None:
            write_plan(plan, dense.network, self._options.only_plan)
            self._runs.tell(f"the plan is in {self._options.only_plan}: edit it, and run it with --plan")
            return 0
        tries = Tries(self._runs, self._work, dense.network, dense.weights, dense.value, dense.metric)
        if told is None:
            best = self._searched(tries, dense)
        else:
            best = self._tried(tries, Setting(plan, self._steps(tries, dense), False), None, dense)
        if best is None:
            why = "; ".join(self._ends) or "the script said no number for any of the files"
            raise WellfitError(f"there is no file to give: {why}")
        return self._proved(tries, dense, best)

    def _dense(self) -> Dense | int:
        """The network as it is; an exit code where the script fails."""
        base = Base(self._options, self._work, self._runs)
        try:
            return base.made(self._left())
        except OutOfTime:
            raise WellfitError(
                f"the script as it is did not end within the budget of {time_text(self._options.budget)}: "
                "give --budget more, or --from a checkpoint"
            ) from None
        except Failed as failed:
            if failed.refused:
                raise
            self._runs.tell(f"nothing was tried: {failed}")
            return end_like(failed.status)

    def _searched(self, tries: Tries, dense: Dense) -> Try | None:
        """Try until nothing better is in sight or the budget is over; the best."""
        options = self._options
        while True:
            can_be_taught = self._work.done("untaught") is None
            following = next_plan(
                dense.network, options.target, options.keep_accuracy, self._searchable(tries), can_be_taught,
                options.method,
            )  # fmt: skip
            if following is None:
                break
            plan, family = following
            setting = Setting(plan, self._steps(tries, dense), family.is_taught, asked=family.asked)
            self._families[setting.digest] = family
            if not self._tried(tries, setting, family.values, dense) and not self._untaught:
                break
            self._untaught = False
        return best_of(self._searchable(tries), options.target, options.keep_accuracy, dense.network)

    def _searchable(self, tries: Tries) -> list[Try]:
        """Tries of what is searched now: of the method that was asked for, or of none that must be asked for."""
        asked, found = str(self._options.method or ""), []
        for one in tries.done():
            family = self._families.get(one.digest)
            if family is not None:  # it may have been made by a plan of the user's, which says nothing of families
                one = replace(one, values=family.values, asked=family.asked)
            if one.seed is None and not one.is_dense and one.asked == asked and (asked or not one.names_methods):
                found.append(one)
        return found

    def _tried(self, tries: Tries, setting: Setting, values: int | None, dense: Dense) -> Try | None:
        """Make one try, and say what it came to; None where the time is over, or it fails while others have not."""
        done = tries.done()
        known = next((one for one in done if one.digest == setting.digest), None)
        if known is not None:
            self._runs.tell(f"{setting}: that try is made already")
            return known
        needed = _needed(done, dense)
        left = self._left() - (self._options.repeats * needed if done else 0.0)
        if left <= 0 or (done and needed * _SPARE > left):
            self._ends.append(f"the budget of {time_text(self._options.budget)} is over (--budget)")
            return None
        self._runs.tell(f"try {len(done) + 1}: {setting}, about {time_text(needed)}")
        try:
            # The first try may take what it takes: without one there is nothing to give.
            one = tries.make(setting, values, max(left, 2 * needed) if done else max(left, 20 * needed))
        except OutOfTime:
            self._ends.append("the last try did not end in time")
            return None
        except Failed as failed:
            if failed.refused == "distil" and setting.is_taught:
                self._work.note("untaught", {"why": str(failed)})
                self._runs.tell(f"no distillation then: {failed}")
                self._untaught = True
                return None
            if not done:
                raise
            self._ends.append(f"a try failed: {failed}")
            return None
        lost, metric = dense.metric.points_text(one.lost), dense.metric
        within = "" if one.lost <= self._options.keep_accuracy else ", too much"
        self._runs.tell(
            f"  {one.bytes:,} bytes, {dense.network.bytes / one.bytes:.1f}x smaller, {metric.name} "
            f"{metric.shown(one.value)} ({lost}{within}), {time_text(one.seconds)}"
        )
        return one

    def _proved(self, tries: Tries, dense: Dense, best: Try) -> int:
        """More seeds, the file in its place, the tables; the exit code."""
        repeated = self._repeated(tries, dense, best)
        file = give(best.file, self._options, self._label, self._work, self._runs)  # what follows may be stopped
        control = self._control(tries, dense, best) if self._options.control else []
        times = times_of(best, dense, self._options.batch, self._runs, self._work)
        done = [one for one in tries.done() if one.seed is None and not one.is_dense]
        proof = Proof(
            self._options, dense, best, repeated, control, done, times, file, time.monotonic() - self._begun,
            ended(self._ends, self._undone),
        )  # fmt: skip
        proof.write(self._work)
        say(proof_text(proof))
        for sentence in [*proof.diagnosis.problems, *proof.shortfalls()]:
            self._runs.tell(sentence)
        return int(bool(proof.shortfalls()))

    def _repeated(self, tries: Tries, dense: Dense, best: Try) -> Sequence[Try]:
        """The chosen setting with other random numbers."""
        plan, steps = again(dense.network, best.plan, best.together), self._steps(tries, dense)
        settings = [Setting(plan, steps, best.is_taught, seed, best.asked) for seed in range(1, self._options.seeds)]
        return [best, *self._more(tries, dense, settings, best.values, "the same with other seeds")]

    def _control(self, tries: Tries, dense: Dense, best: Try) -> Sequence[Try]:
        """The dense network, trained on as that of the file was: how much of a gain is due to the training alone."""
        plan, steps = again(dense.network, [(told[0], 1.0, 0) for told in best.plan], False), self._steps(tries, dense)
        seeds = (None, *range(1, self._options.seeds))
        settings = [Setting(plan, steps, best.is_taught, seed) for seed in seeds]
        return self._more(tries, dense, settings, None, "the dense network trained on in the same way (--control)")

    def _more(
        self, tries: Tries, dense: Dense, settings: Sequence[Setting], values: int | None, what: str
    ) -> Sequence[Try]:
        """Runs that the search does not ask for, as many as there is time for."""
        known = {one.digest: one for one in tries.done()}
        wanted = [Wanted(f"{what}: {one}", known.get(one.digest), partial(tries.make, one, values)) for one in settings]
        found, why = in_time(wanted, lambda: _needed(tries.done(), dense), self._left, self._runs.tell)
        if why:
            self._undone.append(f"{what}: {why}")
        return found

    def _steps(self, tries: Tries, dense: Dense) -> int | None:
        """Of a run; nobody knows them before the first one where a checkpoint was given."""
        return dense.steps or next((one.steps for one in tries.done()), None)

    def _left(self) -> float:
        return self._deadline - time.monotonic()


def _needed(done: Sequence[Try], dense: Dense) -> float:
    """Seconds that a try should take: as the last two, else judged by the runs of the dense network."""
    if done:
        last = [one.seconds for one in done[-2:]]
        return sum(last) / len(last)
    return 1.6 * dense.seconds + dense.evaluating_seconds
