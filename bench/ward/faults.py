"""The faults: known ways to make a healthy program ill, as overrides, with the rules that name them rightly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ward.patients import Patient

if TYPE_CHECKING:
    from ward.visit import Visit


@dataclass(frozen=True)
class Fault:
    """A way to make a program ill.

    Args:
        name: kebab-case.
        overrides: what does it, as typed after `--override`.
        rules: any of them names the fault rightly; also rules that are still to be written.
        needs: traits a patient must have, all of them.
        unless: traits it must not have.
        onset: the step at which it begins.
        layers: gives the layers in which it is, from what the overrides say they changed; None where it is in none, or
            in all.
        quick: part of the quick round.
        deadly: numbers that are not finite come of it, and a program may refuse them with an error of its own.
    """

    name: str
    overrides: tuple[str, ...]
    rules: frozenset[str]
    needs: frozenset[str] = frozenset()
    unless: frozenset[str] = frozenset()
    onset: int = 0
    layers: Callable[[Visit], list[str]] | None = None
    quick: bool = False
    deadly: bool = False

    def suits(self, patient: Patient) -> bool:
        """Whether it makes sense for a patient."""
        return self.needs <= patient.traits and not self.unless & patient.traits


def _left_out(visit: Visit) -> list[str]:
    """In the layers whose parameters were kept out of the optimizer (the first of them are told by name)."""
    told = [phrase.partition(": without ")[2] for phrase in visit.overrides.get("leave-out", [])]
    names = [name.split(" and ")[0] for phrase in told for name in phrase.split(", ")]
    return list(dict.fromkeys(name.rpartition(".")[0] or name for name in names if name))


def _before_the_cut(visit: Visit) -> list[str]:
    """In the layer whose output was detached, and in those called before it."""
    cuts = [phrase.split("the output of ")[-1].split(" is ")[0] for phrase in visit.overrides.get("detach", [])]
    places = [
        place for place, layer in enumerate(visit.layers) for cut in cuts if layer == cut or layer.startswith(f"{cut}.")
    ]
    return visit.layers[: max(places) + 1] if places else cuts


def _set(*words: str) -> frozenset[str]:
    return frozenset(words)


FAULTS = (
    # How fast it learns.
    Fault("lr-times-100", ("lr=scale:100",), _set("lr-high", "diverged"), quick=True),
    Fault("lr-by-1000", ("lr=scale:0.001",), _set("lr-low"), quick=True),
    Fault("decay-half", ("weight-decay=0.5",), _set("decay-dominates")),
    Fault("tiny-clip", ("clip-norm=1e-5",), _set("clip-dominates", "lr-low")),
    Fault("no-clipping", ("no-clip",), _set("exploding", "recurrent-explode", "grad-spike", "diverged"), _set("clips")),
    # The loop.
    Fault("no-zero-grad", ("zero-grad=skip",), _set("stale-grad"), unless=_set("closure"), quick=True),
    Fault("zero-before-step", ("zero-grad=before-step",), _set("extra-zero"), unless=_set("closure")),
    Fault(
        "half-left-out", ("leave-out=share:0.5",), _set("not-in-optimizer"), _set("layers"), layers=_left_out,
        quick=True,
    ),
    Fault("detached", ("detach",), _set("detached", "zero-grad-param"), _set("layers"), layers=_before_the_cut),
    Fault("eval-left-on", ("mode=eval",), _set("eval-mode", "bn-mode"), _set("modes")),
    Fault("train-in-evaluation", ("mode=train",), _set("eval-mode", "train-mode-in-eval"), _set("modes", "evaluates")),
    Fault("optimizer-reborn", ("reinit-optimizer",), _set("optimizer-reborn"), _set("stateful")),
    # The weights.
    Fault("zero-init", ("init=zeros",), _set("constant-init"), _set("layers"), quick=True),
    Fault(
        "init-times-10", ("init=scale,factor:10",), _set("init-gain", "initial-loss", "recurrent-explode"),
        _set("layers"),
    ),
    Fault("dead-bias", ("dead-bias",), _set("dead-units"), _set("relu")),
    # The model.
    Fault("sigmoid-at-depth", ("activation=sigmoid",), _set("vanishing", "saturated"), _set("deep")),
    Fault(
        "no-normalisation", ("norm=none",), _set("vanishing", "exploding", "activation-growth", "init-gain"),
        _set("normalised"),
    ),
    Fault("tiny-batch-norm", ("batch-size=2",), _set("bn-small-batch"), _set("batch-norm", "loader")),
    Fault("dropout-95", ("dropout=0.95",), _set("dropout-extreme"), _set("layers")),
    # The loss.
    Fault("softmax-first", ("softmax-first",), _set("loss-head-mismatch"), _set("classifier"), quick=True),
    Fault("loss-broadcast", ("loss-broadcast",), _set("loss-broadcast"), _set("regression")),
    # The data.
    Fault("raw-input", ("scale-input=255",), _set("input-scale"), _set("float-input"), quick=True),
    Fault("raw-target", ("scale-target=1000",), _set("label-range"), _set("regression")),
    Fault("sorted-labels", ("sort-labels",), _set("label-sorted"), _set("classifier", "loader")),
    Fault("label-noise", ("shuffle-labels=1.0",), _set("overfit", "plateau", "label-noise"), _set("classifier")),
    Fault("too-few-data", ("limit-data=0.03",), _set("overfit"), _set("loader", "evaluates")),
    # Numbers.
    Fault(
        "nan-input", ("poison=input,step:100",), _set("non-finite-input"), _set("float-input"), onset=100,
        quick=True, deadly=True,
    ),
    Fault("nan-gradient", ("poison=gradient,step:100",), _set("non-finite-grad"), onset=100, deadly=True),
    Fault(
        "half-without-scaler", ("precision=float16,pure:on",), _set("fp16-underflow", "never-updated", "update-lost"),
        deadly=True,
    ),
    Fault("bfloat16-weights", ("precision=bfloat16,pure:on",), _set("update-lost", "never-updated")),
)  # fmt: skip
