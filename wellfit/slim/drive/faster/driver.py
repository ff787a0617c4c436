"""`wellfit slim --target latency train.py`: the survey, the tries, the proof."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from wellfit.errors import WellfitError
from wellfit.slim.drive.base import Dense
from wellfit.slim.drive.faster.proof import FastProof, survey_text
from wellfit.slim.drive.faster.search import best_of, next_candidate
from wellfit.slim.drive.faster.survey import Candidate, Survey
from wellfit.slim.drive.faster.tries import FastTries, FastTry, seeded
from wellfit.slim.drive.giving import give
from wellfit.slim.drive.options import SlimOptions, time_text
from wellfit.slim.drive.repeats import Wanted, ended, in_time
from wellfit.slim.drive.runs import Failed, OutOfTime, Runs
from wellfit.slim.drive.work import Work
from wellfit.slim.printing import say

_SPARE = 1.15  # a try is begun if so many times what it should take is left
_TEACHING = 1.6  # times as long as a run of the script a taught one takes
_LEAST_TIMING = 0.2  # seconds
_CONTROL = "control"  # in the place of a method: the dense network
_SURVEYING = 0.25  # of the budget may be spent on the survey


class Faster:
    """One search for a faster network.

    Args:
        options: as typed.
        work: where all lies.
        runs: of the script.
        label: names the file if the user does not.
        left: seconds that are left of the budget.
    """

    def __init__(
        self, options: SlimOptions, work: Work, runs: Runs, label: str, left: Callable[[], float]
    ) -> None:  # fmt: skip
        self._options = options
        self._work = work
        self._runs = runs
        self._label = label
        self._left = left
        self._begun = time.monotonic()
        self._ends: list[str] = []  # why the search ended before its time
        self._undone: list[str] = []  # runs that were to be made of the best try
        self._failed: dict[str, str] = {}  # keys of candidates that could not be trained

    def made(self, dense: Dense) -> int:
        """Go through all of it; the exit code.

        Raises:
            WellfitError: nothing could be tried.
            Interrupted: a signal came.
        """
        timing = min(1.0, max(_LEAST_TIMING, self._options.budget / 200))
        tries = FastTries(self._runs, self._work, dense, self._options.batch, timing)
        survey = self._surveyed(tries)
        say(survey_text(survey, self._options.batch))
        self._searched(tries, survey, dense)
        best = self._best(tries)
        repeated = [] if best is None else self._repeated(tries, survey, best, dense)
        file: Path | None = None
        control: Sequence[FastTry] = []
        if best is not None:
            file = give(self._work.folder / best.file, self._options, self._label, self._work, self._runs)
            control = self._control(tries, best, dense) if self._options.control else []
        skipped = [*survey.skipped, *((key, why) for key, why in self._failed.items())]
        proof = FastProof(
            self._options, dense, best, repeated, control, self._own(tries), file, survey, skipped,
            time.monotonic() - self._begun, ended(self._ends, self._undone), self._work.folder,
        )  # fmt: skip
        proof.write()
        say(proof.text())
        for sentence in [*proof.diagnosis.problems, *proof.shortfalls()]:
            self._runs.tell(sentence)
        return int(bool(proof.shortfalls()))

    def _surveyed(self, tries: FastTries) -> Survey:
        self._runs.tell("survey: what the network could become, each structure timed beside it, nothing trained")
        try:
            return tries.survey(max(5.0, min(_SURVEYING * self._options.budget, self._left())))
        except OutOfTime:
            raise WellfitError("the survey did not end in time: give --budget more") from None

    def _searched(self, tries: FastTries, survey: Survey, dense: Dense) -> None:
        """Try until nothing better is in sight or the budget is over."""
        while True:
            done = self._own(tries)
            open_ = [one for one in survey.candidates if one.key not in self._failed]
            following = next_candidate(
                open_, {one.key: one.outcome(self._options.batch) for one in done}, self._options.target,
                self._options.keep_accuracy,
            )  # fmt: skip
            if following is None or not self._tried(tries, survey, following, dense):
                return

    def _tried(self, tries: FastTries, survey: Survey, candidate: Candidate, dense: Dense) -> bool:
        """Make one try, and say what it came to; False where the time is over."""
        done = self._own(tries)
        needed = self._needed(candidate, done, dense)
        left = self._left() - (self._options.repeats * needed if done else 0.0)
        if done and needed * _SPARE > left:
            self._ends.append(f"the budget of {time_text(self._options.budget)} is over (--budget)")
            return False
        promise = f"{candidate}, should be {candidate.expected:.2f}x faster"
        self._runs.tell(f"try {len(done) + 1}: {promise}, takes about {time_text(needed)}")
        try:
            # The first try may take what it takes: without one there is nothing to give.
            one = self._taught(tries, survey, candidate, left if done else max(left, 20 * needed))
        except OutOfTime:
            self._ends.append("the last try did not end in time")
            return False
        except Failed as failed:
            self._failed[candidate.key] = str(failed)
            self._runs.tell(f"  skipped: {failed}")
            return True
        self._say(one, dense)
        return True

    def _taught(
        self, tries: FastTries, survey: Survey, candidate: Candidate, seconds: float, seed: int | None = None
    ) -> FastTry:
        """One try; without the teacher where that does not fit the script, which is noted.

        Raises:
            Interrupted, OutOfTime, Failed: as `Runs.make`.
        """
        if candidate.is_trained and self._work.done("untaught") is None:
            try:
                return tries.make(candidate, seconds, is_taught=True, is_finished=survey.is_finished, seed=seed)
            except Failed as failed:
                if failed.refused != "distil":
                    raise
                self._work.note("untaught", {"why": str(failed)})
                self._runs.tell(f"no distillation then: {failed}")
        return tries.make(candidate, seconds, is_taught=False, is_finished=survey.is_finished, seed=seed)

    def _say(self, one: FastTry, dense: Dense) -> None:
        outcome, metric = one.outcome(self._options.batch), dense.metric
        within = "" if one.lost <= self._options.keep_accuracy else ", too much"
        self._runs.tell(
            f"  {outcome.milliseconds:.3g} ms, {outcome.speedup:.2f}x faster, {metric.name} {metric.shown(one.value)} "
            f"({metric.points_text(one.lost)}{within}), {time_text(one.seconds)}"
        )

    def _best(self, tries: FastTries) -> FastTry | None:
        done = {one.key: one for one in self._own(tries)}
        outcomes = {key: one.outcome(self._options.batch) for key, one in done.items()}
        key = best_of(outcomes, self._options.target, self._options.keep_accuracy)
        return None if key is None else done[key]

    def _repeated(self, tries: FastTries, survey: Survey, best: FastTry, dense: Dense) -> Sequence[FastTry]:
        """The chosen structure trained with other random numbers."""
        candidate = next((one for one in survey.candidates if one.key == best.key), None)
        if candidate is None or not candidate.is_trained:
            return [best]
        known, wanted = {one.key: one for one in tries.done()}, []
        for seed in range(1, self._options.seeds):
            make = partial(self._taught, tries, survey, candidate, seed=seed)
            wanted.append(Wanted(f"seed {seed}: {candidate}", known.get(seeded(candidate.key, seed)), make))
        return [best, *self._more(tries, dense, candidate, wanted, "the same with other seeds")]

    def _control(self, tries: FastTries, best: FastTry, dense: Dense) -> Sequence[FastTry]:
        """The dense network, trained on as that of the file was: how much of a gain is due to the training alone."""
        if not best.steps:
            return []
        candidate = Candidate(_CONTROL, 1.0, 1.0, 0.0, dense.weights)
        known = {one.key: one for one in tries.done() if one.is_taught == best.is_taught}
        what, wanted = "the dense network trained on in the same way (--control)", []
        for seed in (None, *range(1, self._options.seeds)):
            make = partial(tries.make, candidate, is_taught=best.is_taught, is_finished=False, seed=seed)
            name = what if seed is None else f"{what}, seed {seed}"
            wanted.append(Wanted(name, known.get(seeded(candidate.key, seed)), make))
        return self._more(tries, dense, candidate, wanted, what)

    def _more(
        self, tries: FastTries, dense: Dense, candidate: Candidate, wanted: Sequence[Wanted[FastTry]], what: str
    ) -> Sequence[FastTry]:
        """Runs that the search does not ask for, as many as there is time for."""
        found, why = in_time(
            wanted, lambda: self._needed(candidate, self._own(tries), dense), self._left, self._runs.tell
        )
        if why:
            self._undone.append(f"{what}: {why}")
        return found

    def _needed(self, candidate: Candidate, done: Sequence[FastTry], dense: Dense) -> float:
        """Seconds that a try should take: as the last one of its kind, else judged by the runs of the dense network."""
        alike = [one.seconds for one in done if bool(one.steps) == candidate.is_trained]
        if alike:
            return alike[-1]
        return (_TEACHING * dense.seconds if candidate.is_trained else 0.0) + dense.evaluating_seconds + 10.0

    def _own(self, tries: FastTries) -> list[FastTry]:
        """All tries but those of other seeds, and of the dense network."""
        return [one for one in tries.done() if one.seed is None and one.method != _CONTROL]
