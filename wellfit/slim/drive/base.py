"""The network as it is: a run of the script, its weights, what the script says of them, what each layer matters."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wellfit.errors import WellfitError
from wellfit.slim.drive.filing import changes_beside, write_file
from wellfit.slim.drive.layers import Network, network_of
from wellfit.slim.drive.metric import WHAT_TO_DO, Metric, Said, choose
from wellfit.slim.drive.options import SlimOptions
from wellfit.slim.drive.runs import Ran, Runs, full_disk
from wellfit.slim.drive.tries import evaluating
from wellfit.slim.drive.work import Work

_AS_IT_IS, _LOADED = "base", "dense"
_WEIGHTS, _SCAN = "weights.safetensors", "scan.json"
_SCANNING = 0.05  # of the budget may be spent on the scan
_UNTRAINED = 3.0  # how much longer training should take than an evaluation, where no run was seen


@dataclass(frozen=True)
class Dense:
    """The network as it is.

    Args:
        network: its tensors.
        weights: its file.
        metric: the figure.
        value: of the metric, by the script, from the file.
        steps: of the script's training; None where a checkpoint was given.
        seconds: that training takes.
        evaluating_seconds: that an evaluation takes.
    """

    network: Network
    weights: Path
    metric: Metric
    value: float
    steps: int | None
    seconds: float
    evaluating_seconds: float

    def coded_bytes(self) -> int:
        """Bytes of its weights in a file, coded without loss; the file is written once, beside them.

        Raises:
            WellfitError: it cannot be written.
        """
        file = self.weights.with_suffix(".wfz")  # of a changed structure the weights are such a file
        if not file.is_file():
            write_file(self.weights, self.network, file, is_rounded=False)
        return file.stat().st_size


class Base:
    """Makes the dense network's runs, each once.

    Args:
        options: as typed.
        work: where they lie.
        runs: of the script.
    """

    def __init__(self, options: SlimOptions, work: Work, runs: Runs) -> None:
        self._options = options
        self._work = work
        self._runs = runs

    def made(self, seconds: float) -> Dense:
        """The network as it is.

        Args:
            seconds: that are left.

        Raises:
            WellfitError: the script trains nothing, trains several models, or says nothing of its network.
            Interrupted, OutOfTime, Failed: as `Runs.make`.
        """
        begun = time.monotonic()
        if self._options.start is None:
            trained = self._work.done(_AS_IT_IS) or self._trained(seconds)
            metric = Metric(**trained["metric"])
            weights = self._work.folder / _AS_IT_IS / _WEIGHTS
            told = self._work.done(_LOADED) or self._loaded(weights, metric, begun + seconds - time.monotonic())
            self._runs.tell(self._compared(metric, trained["value"], told["value"]))
        else:
            told = self._work.done(_LOADED) or self._given(self._options.start.absolute(), seconds)
            metric, trained = Metric(**told["metric"]), {"steps": None, "seconds": _UNTRAINED * told["seconds"]}
            weights = self._work.folder / _LOADED / _WEIGHTS
            self._runs.tell(f"judged by {metric.source}: {metric.shown(told['value'])} with {self._options.start.name}")
        network = network_of(weights.with_suffix(".json"), self._work.folder / _LOADED / _SCAN)
        if changes_beside(weights):  # the checkpoint is a file of a changed structure, which is to be made again
            write_file(weights, network, weights.with_suffix(".wfz"), is_rounded=False)
            weights = weights.with_suffix(".wfz")
        return Dense(
            network, weights, metric, told["value"], trained["steps"], trained["seconds"], told["seconds"]
        )  # fmt: skip

    def _trained(self, seconds: float) -> dict[str, Any]:
        """The script as it is."""
        self._runs.tell("run 1: the script as it is")
        folder = self._work.begun(_AS_IT_IS)
        ran = self._runs.make(folder, [_keeping(folder)], None, seconds)
        if not ran.steps:
            raise WellfitError(
                "the script trains nothing that wellfit sees (no step of an optimizer of torch): for a network that is "
                "trained already, let a script train it further"
            )
        if len(ran.trained) > 1:
            raise WellfitError(
                f"the script trains {len(ran.trained)} models ({', '.join(ran.trained[:5])}), and slim cannot tell "
                "which one is to be small: it works with scripts that train one"
            )
        _need(folder / _WEIGHTS, "the script's model cannot be kept: it is called by nothing that wellfit sees")
        metric = choose(ran.said, self._options.metric)
        told = {
            "steps": ran.steps,
            "seconds": ran.seconds,
            "metric": metric.as_json(),
            "value": metric.value_of(ran.said),
        }
        self._work.note(_AS_IT_IS, told)
        return told

    def _loaded(self, weights: Path, metric: Metric, seconds: float) -> dict[str, Any]:
        """The weights of that run, loaded again, and the scan of the layers."""
        self._runs.tell("run 2: its weights loaded again, nothing trained; what each layer matters")
        folder = self._work.begun(_LOADED)
        ran = self._evaluated(folder, weights, evaluating(metric), (), seconds)
        value = metric.value_of(ran.said)
        if value is None:
            raise WellfitError(f"with its weights loaded again the script says no {metric.name}; {WHAT_TO_DO}")
        told = {"value": value, "seconds": ran.seconds}
        self._work.note(_LOADED, told)
        return told

    def _given(self, checkpoint: Path, seconds: float) -> dict[str, Any]:
        """A checkpoint, judged and scanned in one run."""
        self._runs.tell("run 1: the checkpoint as it is, nothing trained; what each layer matters")
        folder = self._work.begun(_LOADED)
        whole = {"override": "evaluate", "whole": self._options.metric is not None}
        ran = self._evaluated(folder, checkpoint, whole, (_keeping(folder),), seconds)
        metric = choose(ran.said if self._options.metric else _seen(ran.said), self._options.metric)
        _need(folder / _WEIGHTS, "the checkpoint's weights cannot be kept: no model of the script has them")
        told = {"value": metric.value_of(ran.said), "seconds": ran.seconds, "metric": metric.as_json()}
        self._work.note(_LOADED, told)
        return told

    def _evaluated(
        self, folder: Path, weights: Path, evaluate: dict[str, Any], more: tuple[dict[str, Any], ...], seconds: float
    ) -> Ran:
        """A run that trains nothing and scans the layers."""
        scan = folder / _SCAN
        own = [
            {"override": "start", "file": str(weights)}, evaluate, *more,
            {"override": "scan", "file": str(scan), "seconds": max(5.0, _SCANNING * self._options.budget)},
        ]  # fmt: skip
        ran = self._runs.make(folder, own, None, seconds)
        _need(scan, "the script never calls its model without gradients or in evaluation mode, so slim cannot see what "
                    "its layers matter: let it evaluate its model on some data")  # fmt: skip
        return ran

    def _compared(self, metric: Metric, trained: float, loaded: float) -> str:
        shown = f"judged by {metric.source}: {metric.shown(loaded)}"
        if metric.lost(trained, loaded) ** 2 <= 1e-6:
            return shown
        return (
            f"{shown} with its weights loaded again, {metric.shown(trained)} at the end of training (it evaluates in "
            "several places, or other data each time); files are held against the first"
        )


def _seen(said: Said) -> Said:
    """Only what was counted: a script that is ended after its first evaluation may print nothing."""
    if any(one["accuracy"] is not None or one["loss"] is not None for one in said.evaluations):
        return Said("", said.evaluations)
    return said


def _keeping(folder: Path) -> dict[str, Any]:
    return {"override": "keep-weights", "file": str(folder / _WEIGHTS)}


def _need(file: Path, otherwise: str) -> None:
    if not file.is_file():
        raise WellfitError(f"{otherwise}{full_disk(file.parent)}")
