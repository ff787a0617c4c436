"""DAT104: the targets do not lie where the loss or the model's output can meet them."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator

import numpy as np

from wellfit.condition import REGRESSIONS, condition
from wellfit.finding import Finding, Fix, Location
from wellfit.record import Loss, Record, Series
from wellfit.rule import Rule
from wellfit.rules import wiring
from wellfit.rules.fitness import fits_poorly, settled
from wellfit.source import target_origin

_PROBABILITIES = ("binary_cross_entropy", "binary_cross_entropy_with_logits")


class LabelRange(Rule):
    """Labels that are all the same, start at one, are no probabilities, or dwarf the model's output.

    What it checks
        Class labels over all sampled batches: only one class ever occurs (`label_count` labels seen); or class 0 never
        does, though `per_class` labels per class were seen and the last class occurs. Targets of a binary
        cross-entropy outside [0, 1]. Targets of a regression whose rms is more than `times_output` times that of the
        first outputs, and above `large_target`.

    Why it hurts
        With one class the loss falls to 0 and nothing is learned. Labels off by one train an output that never occurs
        and shift every prediction. Outside [0, 1] a binary cross-entropy has no minimum. Targets in the thousands give
        huge losses and gradients, or an output that never gets there.

    Cure
        Encode classes as 0 .. C-1 without a division or cast that collapses them; use a cross-entropy for more than
        two classes; standardise the targets of a regression.

    Fix safety
        Unsafe: the labels change, and predictions must be decoded accordingly.

    When it is wrong
        Class 0 may be kept for padding or "unknown": where an embedding has an entry for each class, or one class is
        ignored, nothing is said; with other embeddings or more than `most_classes` classes it is only a note.
        Large targets are an error only if the loss fits poorly.

    References
        TheDeepChecker (2022); DeepDiagnosis (2021).
    """

    code = "DAT104"
    name = "label-range"
    family = "data"
    summary = "labels collapsed, off by one, outside [0, 1], or targets not scaled"
    reads = ("target", "output", "loss")
    consequences = (
        "diverged",
        "plateau",
        "lr-low",
        "lr-high",
        "exploding",
        "initial-loss",
        "activation-growth",
        "output-collapse",
        "rank-collapse",
        "non-finite-forward",
        "non-finite-grad",
        "dead-units",
        "overfit",
        "zero-grad-param",
        "overflow-near",
    )
    fixes = (Fix("Encode the labels as the loss expects them, or scale the targets"),)

    label_count: int = 300  # labels seen before "only one class" is believed
    batches: int = 5  # sampled batches before labels are judged
    per_class: float = 20.0  # labels seen for each class before a class that is missing counts
    most_classes: int = 100  # classes; with more, a missing class 0 may be a reserved word
    times_output: float = 100.0  # rms(target) / rms(first output)
    large_target: float = 20.0  # rms of a regression's target; below it the output gets there in time
    unlearned: float = 0.4  # share of the first loss that is left
    steps: int = 100  # steps before the fit of a growing run is judged

    @staticmethod
    def sick() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(256, 8)
        classes = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
        y = (classes / 255).long()
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(60):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(256, 8)
        y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(60):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        lines = set()
        for loss in record.losses.values():
            target = record.series("target", str(loss.id))
            if not loss.training or not len(target) or not np.all(np.isfinite(target.amax[:1])):
                continue
            if loss.function in ("cross_entropy", "nll_loss") and target.b[0] == 1:
                found = self._classes(record, loss, target)
            elif loss.function in (*_PROBABILITIES, "cross_entropy"):
                found = self._probabilities(record, loss, target)
            elif loss.function in REGRESSIONS:
                found = self._scale(record, loss, target)
            else:
                found = None
            if found is not None and found.location not in lines:
                lines.add(found.location)
                yield found

    def _classes(self, record: Record, loss: Loss, target: Series) -> Finding | None:
        shape = loss.prediction_shape or ()
        count = shape[1] if len(shape) > 1 else 0
        seen = float(np.sum(target.count))
        if count < 2 or len(target) < self.batches or not self._from_linear(record, loss, count):
            return None
        low, high = float(np.min(target.low)), float(np.max(target.high))
        where, makers = target_origin(loss.location)
        ignored = loss.attributes.get("ignore_index", -100)
        if low == high and low != ignored and np.all(target.a == 1) and seen >= self.label_count:
            where = _division(where, makers) or where or loss.location
            return self.finding(
                f"all {seen:.0f} labels seen are {low:.0f}, though the model has {count} outputs: there is nothing to "
                "tell apart, so the loss falls to 0 and nothing is learned; look for a cast or division that collapses "
                "them",
                severity="error", step=int(target.step[-1]), location=where,
                evidence={"labels": int(seen), "classes": count, "label": low, "label_count": self.label_count},
            )  # fmt: skip
        if low != 1 or high != count - 1 or count < 3 or seen < self.per_class * count:
            return None
        if (isinstance(ignored, int) and 0 <= ignored < count) or _are_tokens(record, count):
            return None  # id 0 is padding, a separator or the beginning of a sentence
        reserved = count > self.most_classes or any(layer.kind == "embedding" for layer in record.layers.values())
        return self.finding(
            f"class 0 never occurs in {seen:.0f} labels, which go from 1 to {high:.0f}, while the model has {count} "
            "outputs: the labels seem to count from 1, so one output is wasted and predictions are shifted by one; "
            f"count them from 0 and give the model {count - 1} outputs",
            severity="note" if reserved else "error", step=int(target.step[-1]), location=where or loss.location,
            evidence={"lowest": low, "highest": high, "classes": count, "labels": int(seen),
                      "per_class": self.per_class},
        )  # fmt: skip

    def _from_linear(self, record: Record, loss: Loss, count: int) -> bool:
        """Whether the scores come from a layer with one output for each class (and are no similarities of pairs)."""
        for graph in wiring.early_graphs(record):
            for prediction in wiring.predictions(graph, loss.function):
                links = wiring.chain(graph, prediction)
                weight = wiring.weight_of(graph, links[-1]) if links else None
                if weight is not None and weight.shape is not None and count in weight.shape:
                    return True
        return False

    def _probabilities(self, record: Record, loss: Loss, target: Series) -> Finding | None:
        low, high = float(np.min(target.low)), float(np.max(target.high))
        lone = loss.function == "cross_entropy" and len(loss.target_shape or ()) < 2  # another illness
        if lone or not (low < -1e-4 or high > 1 + 1e-3):
            return None
        where, _ = target_origin(loss.location)
        classes = "labels of several classes need cross_entropy and one output each; " if high >= 2 else ""
        return self.finding(
            f"{loss.function} is given targets from {low:.3g} to {high:.3g}, but takes probabilities from 0 to 1: "
            f"beyond them the loss falls without end; {classes}bring the targets into [0, 1]",
            severity="error", step=int(target.step[0]), location=where or loss.location,
            evidence={"lowest": low, "highest": high},
        )  # fmt: skip

    def _scale(self, record: Record, loss: Loss, target: Series) -> Finding | None:
        output = record.series("output", str(loss.id))
        if not len(output) or output.step[0] != target.step[0]:
            return None
        rms, first = float(np.median(target.rms[:5])), float(output.rms[0])
        ratio = rms / first if first > 0 else math.inf
        if not (math.isfinite(rms) and rms > self.large_target and ratio > self.times_output):
            return None
        poor = fits_poorly(condition(record), self.unlearned)
        where, _ = target_origin(loss.location)
        return self.finding(
            f"the targets of {loss.function} have an rms of {rms:.3g}, the model's first outputs one of {first:.3g}: "
            "losses and gradients are huge, or the output takes for ever to get there; standardise the targets and "
            "scale predictions back",
            severity="error" if poor else "note", step=int(target.step[0]), location=where or loss.location,
            evidence={"target_rms": rms, "output_rms": first, "times_output": self.times_output},
            sure=settled(record, self.steps),
        )  # fmt: skip


def _are_tokens(record: Record, count: int) -> bool:
    """Whether the classes are ids of a vocabulary: an embedding has an entry for each."""
    return any(
        layer.kind == "embedding" and layer.order >= 0 and layer.attributes.get("num_embeddings") == count
        for layer in record.layers.values()
    )


def _division(where: Location | None, makers: list[tuple[int, ast.expr]]) -> Location | None:
    """The assignment of the labels that divides: what a later cast to integers rounds to 0."""
    if where is None:
        return None
    for line, value in reversed(makers):
        if any(isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) for node in ast.walk(value)):
            return Location(where.file, line)
    return None
