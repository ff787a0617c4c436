"""One try: the script trains a slim network, its weights become a file, and the file is judged by the script."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wellfit.errors import WellfitError
from wellfit.slim.drive.filing import write_file
from wellfit.slim.drive.layers import Network
from wellfit.slim.drive.metric import Metric
from wellfit.slim.drive.plan import Told
from wellfit.slim.drive.repeats import other_numbers
from wellfit.slim.drive.runs import Failed, Runs, full_disk
from wellfit.slim.drive.search import Outcome
from wellfit.slim.drive.setting import Setting
from wellfit.slim.drive.upheld import broken
from wellfit.slim.drive.work import Work

FILE = "model.wfz"
WEIGHTS = "weights.safetensors"
_NO_WORSE = 0.05  # points


@dataclass(frozen=True)
class Try:
    """A try that is done.

    Args:
        folder: its own.
        keep: the share of weights that was kept.
        values: different values of a layer; None in a plan of the user's, where layers differ.
        plan: see `Plan.told`.
        together: see `Plan`.
        steps: that the optimizer made.
        bytes: of the file.
        value: of the metric, by the script, from the file; None if it said none.
        lost: points.
        seconds: of all its runs.
        is_taught, seed: see `Setting`.
        is_rounded: whether biases and values were rounded.
        digest: of its setting.
        asked: see `Setting`.
    """

    folder: Path
    keep: float
    values: int | None
    plan: tuple[Told, ...]
    together: bool
    steps: int
    bytes: int
    value: float | None
    lost: float
    seconds: float
    is_taught: bool
    seed: int | None
    is_rounded: bool
    digest: str
    asked: str = ""

    @property
    def file(self) -> Path:
        """The `.wfz` file."""
        return self.folder / FILE

    @property
    def is_dense(self) -> bool:
        """Whether nothing was pruned or shared: the network was trained on as it is."""
        return not self.names_methods and all(keep >= 1 and not values for _, keep, values, *_ in self.plan)

    @property
    def names_methods(self) -> bool:
        """Whether a layer has a method that is no part of the search which nobody asked for."""
        return any(len(layer) > 3 for layer in self.plan)

    @property
    def outcome(self) -> Outcome:
        """For the search."""
        return Outcome(self.keep, self.bytes, self.lost)

    def as_json(self) -> dict[str, Any]:
        """For the record."""
        return {
            "folder": self.folder.name, "keep": self.keep, "values": self.values,
            "plan": [list(one) for one in self.plan], "together": self.together, "steps": self.steps,
            "bytes": self.bytes,
            "metric": self.value, "lost": self.lost if math.isfinite(self.lost) else None, "seconds": self.seconds,
            "taught": self.is_taught, "seed": self.seed, "rounded": self.is_rounded, "digest": self.digest,
            **({"asked": self.asked} if self.asked else {}),
        }  # fmt: skip


@dataclass
class Tries:
    """Makes tries, each once.

    Args:
        runs: of the script.
        work: where they lie.
        network: the dense one.
        dense: its weights.
        dense_value: its metric.
        metric: the figure.
    """

    runs: Runs
    work: Work
    network: Network
    dense: Path
    dense_value: float
    metric: Metric

    def done(self) -> list[Try]:
        """All that were made, those whose file is still there."""
        found = []
        for told in self.work.all_done("try-"):
            try:
                one = self._told(told)
            except (KeyError, TypeError, ValueError):  # no JSON of ours: that try is made again
                continue
            if one.file.is_file():
                found.append(one)
        return found

    def _told(self, told: dict[str, Any]) -> Try:
        """The try that its JSON tells of."""
        return Try(
            self.work.folder / told["folder"], told["keep"], told["values"],
            tuple((name, keep, values, *method) for name, keep, values, *method in told["plan"]), told["together"],
            told["steps"], told["bytes"], told["metric"],
            math.inf if told["lost"] is None else told["lost"], told["seconds"], told["taught"],
            told["seed"], told["rounded"], told["digest"], told.get("asked", ""),
        )  # fmt: skip

    def make(self, setting: Setting, values: int | None, seconds: float) -> Try:
        """Make a try; one that was made is given as it is.

        Args:
            values: see `Try`.
            seconds: after which its training is stopped.

        Raises:
            Interrupted, OutOfTime, Failed: as `Runs.make`.
        """
        known = next((one for one in self.done() if one.digest == setting.digest), None)
        if known is not None:
            return known
        begun = time.monotonic()
        name = f"try-{1 + len(list(self.work.folder.glob('try-*.json'))):03}-{setting.digest}"
        folder = self.work.begun(name)
        keeping = {"override": "keep-weights", "file": str(folder / WEIGHTS)}
        own = [*setting.overrides(self.dense), keeping, *other_numbers(setting.seed)]
        run = _made(folder / "train")
        ran = self.runs.make(run, own, setting.steps, seconds)
        if not (folder / WEIGHTS).is_file():
            raise Failed(f"no weights were kept under slim: it calls no model that it trains{full_disk(folder)}")
        last = self.metric.value_of(ran.said)
        written, value, is_rounded = self._judged(folder, setting.seed, last, seconds)
        wrong = broken(folder / FILE, self.network, setting.plan)
        if wrong:
            raise Failed(f"the file is not as it was planned: {'; '.join(wrong[:3])}")
        lost = self.metric.lost(self.dense_value, value)
        made = Try(
            folder, setting.plan.keep, values, setting.plan.told, setting.plan.together, ran.steps, written, value,
            lost, time.monotonic() - begun, setting.is_taught, setting.seed, is_rounded, setting.digest, setting.asked,
        )  # fmt: skip
        self.work.note(name, made.as_json())
        return made

    def _judged(
        self, folder: Path, seed: int | None, last: float | None, seconds: float
    ) -> tuple[int, float | None, bool]:
        """Bytes of the file, its metric, and whether it is rounded: where that costs nothing.

        Args:
            last: what the script said at the end of training.
        """
        written = write_file(folder / WEIGHTS, self.network, folder / FILE, is_rounded=True)
        value = self._evaluated(folder / FILE, _made(folder / "evaluate"), seed, seconds)
        lost = self.metric.lost(self.dense_value, value)
        trained = min(self.metric.lost(self.dense_value, last), lost) if last is not None else 0.0
        if lost <= max(0.0, trained + _NO_WORSE):
            return written.bytes, value, True
        exact_file = folder / f"exact-{FILE}"
        exact = write_file(folder / WEIGHTS, self.network, exact_file, is_rounded=False)
        exact_value = self._evaluated(exact_file, _made(folder / "evaluate-exact"), seed, seconds)
        if self.metric.lost(self.dense_value, exact_value) + _NO_WORSE >= lost:
            exact_file.unlink()
            return written.bytes, value, True
        exact_file.replace(folder / FILE)
        return exact.bytes, exact_value, False

    def _evaluated(self, file: Path, folder: Path, seed: int | None, seconds: float) -> float | None:
        """What the script says of the weights in a file.

        Args:
            folder: for the run.
            seed: as in training, since it may choose the data.

        Raises:
            Interrupted, OutOfTime, Failed: as `Runs.make`.
        """
        own = [{"override": "start", "file": str(file)}, evaluating(self.metric), *other_numbers(seed)]
        return self.metric.value_of(self.runs.make(folder, own, None, max(60.0, seconds)).said)


def evaluating(metric: Metric) -> dict[str, Any]:
    """The override under which a script says its metric and trains nothing."""
    return {"override": "evaluate", "whole": metric.is_printed}


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise WellfitError(f"{folder} cannot be made: {error.strerror or error}") from None
    return folder
