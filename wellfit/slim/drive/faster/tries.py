"""One try: a structure is trained further, its weights become a file, and the file is judged and timed."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from wellfit.errors import WellfitError
from wellfit.slim.drive.base import Dense
from wellfit.slim.drive.faster.search import Outcome
from wellfit.slim.drive.faster.survey import FASTER, FINISHES, WISHES, Candidate, Survey, survey_of
from wellfit.slim.drive.filing import write_file
from wellfit.slim.drive.repeats import other_numbers
from wellfit.slim.drive.runs import Failed, Runs
from wellfit.slim.drive.setting import TEACHING, TEMPERATURE
from wellfit.slim.drive.timing import times_in, timing
from wellfit.slim.drive.tries import evaluating
from wellfit.slim.drive.work import Work

PREFIX = "fast-"
_FINISHING = 20.0  # seconds that are spent on what needs no training
_NO_WORSE = 0.05  # points
_WEIGHTS, _FILE, _MADE = "weights.safetensors", "model.wfz", "restructured.json"


@dataclass(frozen=True)
class FastTry:
    """A try that is done.

    Args:
        key: of its candidate.
        method, strength: of the candidate, with what was made of it after training.
        file: in the work folder.
        steps: that it was trained.
        bytes: of the file.
        value: of the metric, by the script, from the file; None if it said none.
        lost: points.
        times: from the file, by samples in a call: as time-model tells them.
        layers: milliseconds by layer, `before` and `after`.
        seconds: of all its runs.
        is_taught: the dense network taught.
        seed: None: the script's own random numbers.
    """

    key: str
    method: str
    strength: float
    file: str
    steps: int
    bytes: int
    value: float | None
    lost: float
    times: list[dict[str, Any]]
    layers: dict[str, list[dict[str, Any]]]
    seconds: float
    is_taught: bool
    seed: int | None = None

    def time(self, batch: int) -> dict[str, Any]:
        """What was measured with so many samples."""
        return next(one for one in self.times if one["batch"] == batch)

    def outcome(self, batch: int) -> Outcome:
        """For the search."""
        told = self.time(batch)
        return Outcome(told["speedup"], told["after_ms"], self.lost)

    def as_json(self) -> dict[str, Any]:
        """For the record."""
        return {**asdict(self), "lost": self.lost if math.isfinite(self.lost) else None}


@dataclass(frozen=True)
class _Trained:
    """How a file came to its weights; see `FastTry`."""

    steps: int
    is_taught: bool
    seed: int | None


@dataclass
class FastTries:
    """Makes surveys and tries, each once.

    Args:
        runs: of the script.
        work: where they lie.
        dense: the network as it is.
        batch: samples in a call that count.
        timing: seconds for each measurement of a file.
    """

    runs: Runs
    work: Work
    dense: Dense
    batch: int
    timing: float

    def done(self) -> list[FastTry]:
        """All that were made, those whose file is still there, with times for as many samples as count."""
        found = []
        for told in self.work.all_done(PREFIX):
            try:
                one = FastTry(**{**told, "lost": math.inf if told["lost"] is None else told["lost"]})
                one.time(self.batch)
            except (KeyError, TypeError, StopIteration):  # no JSON of ours, or timed for another size
                continue
            if (self.work.folder / one.file).is_file():
                found.append(one)
        return found

    def survey(self, seconds: float) -> Survey:
        """What the dense network could become.

        Raises:
            Interrupted, OutOfTime, Failed: as `Runs.make`.
        """
        name = f"survey-{self.batch}"
        if self.work.done(name) is None:
            folder = self.work.begun(name)
            self._restructured(folder, self.dense.weights, WISHES, FASTER, seconds)
            self.work.note(name, {"batch": self.batch})
        return survey_of(self.work.folder / name / _MADE, self.batch)

    def _restructured(self, folder: Path, weights: Path, wishes: str, least: float, seconds: float) -> None:
        """Structures of the network with these weights, in a folder."""
        folder.mkdir(exist_ok=True)
        restructure = {
            "override": "restructure", "methods": wishes, "batch": self.batch, "least": least,
            "seconds": max(0.1, 0.3 * self.timing),
            "limit": seconds, "folder": str(folder),
        }  # fmt: skip
        own: list[dict[str, Any]] = [{"override": "start", "file": str(weights)}, {"override": "evaluate"}, restructure]
        self.runs.make(folder, own, None, 2 * max(60.0, seconds))
        if not (folder / _MADE).is_file():
            raise WellfitError("the script never called its model in an evaluation, so nothing can be timed")

    def make(
        self, one: Candidate, seconds: float, *, is_taught: bool, is_finished: bool, seed: int | None = None
    ) -> FastTry:
        """Train a candidate and judge it.

        Args:
            seconds: after which its training is stopped.
            is_taught: the dense network teaches.
            is_finished: see what more can be made of it without training.

        Raises:
            Interrupted, OutOfTime, Failed: as `Runs.make`.
        """
        begun = time.monotonic()
        key = seeded(one.key, seed)
        folder = self.work.begun(PREFIX + key)
        if not one.is_trained:
            (folder / _FILE).write_bytes(one.file.read_bytes())
            return self._noted(self._judged(key, one, _Trained(0, False, None)), begun)
        own: list[dict[str, Any]] = [
            {"override": "start", "file": str(one.file)},
            {"override": "keep-weights", "file": str(folder / _WEIGHTS)},
        ]
        if is_taught:
            told = {"file": str(self.dense.weights), "temperature": TEMPERATURE, "weight": TEACHING}
            own.append({"override": "distil", **told})
        own += other_numbers(seed)
        (folder / "train").mkdir()
        ran = self.runs.make(folder / "train", own, self.dense.steps, seconds)
        if not (folder / _WEIGHTS).is_file():
            raise Failed("the script kept no weights under slim: it calls no model that it trains")
        write_file(folder / _WEIGHTS, self.dense.network, folder / _FILE, is_rounded=False)
        ended = self._judged(key, one, _Trained(ran.steps, is_taught, seed))
        return self._noted(self._finished(one, ended) if is_finished else ended, begun)

    def _noted(self, made: FastTry, begun: float) -> FastTry:
        made = replace(made, seconds=time.monotonic() - begun)
        self.work.note(PREFIX + made.key, made.as_json())
        return made

    def _finished(self, one: Candidate, ended: FastTry) -> FastTry:
        """A try with batch norms folded and layers in int8, where that is faster and costs nothing.

        Raises:
            Interrupted, OutOfTime, Failed: as `Runs.make`.
        """
        folder = self.work.folder / (PREFIX + ended.key)
        self._restructured(folder / "finish", folder / _FILE, FINISHES, 1.03, _FINISHING)
        found = survey_of(folder / "finish" / _MADE, self.batch).candidates
        for finish in sorted(found, key=lambda each: -each.speedup)[:2]:
            plain = (folder / _FILE).read_bytes()
            (folder / _FILE).write_bytes(finish.file.read_bytes())
            whole = replace(one, method=f"{one.method}+{finish.method}")
            made = self._judged(ended.key, whole, ended)
            is_faster = made.time(self.batch)["after_ms"] < ended.time(self.batch)["after_ms"]
            if made.lost <= ended.lost + _NO_WORSE and is_faster:
                return made
            (folder / _FILE).write_bytes(plain)
        return ended

    def _judged(self, key: str, one: Candidate, trained: _Trained | FastTry) -> FastTry:
        """What the script and the clock say of the file of a try."""
        folder = self.work.folder / (PREFIX + key)
        run = folder / f"evaluate-{one.method}"
        run.mkdir()
        metric = self.dense.metric
        own: list[dict[str, Any]] = [
            {"override": "start", "file": str(folder / _FILE)}, evaluating(metric),
            timing(run, self.batch, self.timing),
            *other_numbers(trained.seed),  # as in training, since they may choose the data
        ]  # fmt: skip
        ran = self.runs.make(run, own, None, max(120.0, 3 * self.dense.evaluating_seconds))
        value = metric.value_of(ran.said)
        times = times_in(run)
        return FastTry(
            key, one.method, one.strength, f"{folder.name}/{_FILE}", trained.steps, (folder / _FILE).stat().st_size,
            value, metric.lost(self.dense.value, value), times.batches,
            times.layers, 0.0, trained.is_taught, trained.seed,
        )  # fmt: skip


def seeded(key: str, seed: int | None) -> str:
    """The key of a candidate's try with other random numbers."""
    return key if seed is None else f"{key}-seed-{seed}"
