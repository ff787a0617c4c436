"""DAT103: the model is given the same input again and again."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from wellfit.condition import condition
from wellfit.finding import Finding, Fix, Location
from wellfit.record import Loader, Record, Series
from wellfit.rule import Rule
from wellfit.rules.fitness import fits_poorly
from wellfit.source import Source, called, input_origin, source_of


class ConstantInput(Rule):
    """All samples of a batch are the same, or all batches are the first one.

    What it checks
        The model's floating-point inputs, in at least `batches` sampled steps. First, batches of `rows` samples or
        more, all features of which are the same in all samples (`constant` of them), while the loss stays above
        `unlearned` of the loss of guessing. Second, batches whose mean, rms and largest number never change, from a
        DataLoader that does not shuffle and is begun anew again and again: `next(iter(loader))` inside the loop. How
        often is known to within a factor of 2 only; twice the number known must be `begun` of that of the steps.

    Why it hurts
        If the input does not differ between samples, no model can tell them apart: it learns the mean answer. A loader
        that begins anew gives its first batch: the model learns that by heart and never sees the rest.

    Cure
        Print one batch, and look for what overwrites it (a scale that divides by far too much, a cast to whole numbers,
        a buffer that is never filled). Loop over the loader itself; where single batches are wanted, make the iterator
        once, outside the loop.

    Fix safety
        Unsafe: the model is trained on other data, on those that were meant.

    When it is wrong
        A loader whose one batch holds all the data; those whose batch size is written as a length are left alone. A
        model whose real input is another argument, such as words for an embedding, is left alone.

    References
        Karpathy 2019, "A recipe for training neural networks" (visualise just before the net); PyTorch documentation of
        `torch.utils.data.DataLoader`. TheDeepChecker has a rule on constant features.
    """

    code = "DAT103"
    name = "constant-input"
    family = "data"
    summary = "the same input for all samples, or the same batch in each step"
    reads = ("input", "event.epoch", "loss")
    consequences = (
        "output-collapse",
        "rank-collapse",
        "plateau",
        "overfit",
        "underfit",
        "vanishing",
        "lr-low",
        "zero-grad-param",
        "dead-units",
        "label-noise",
    )
    fixes = (Fix("Loop over the loader, or mend what makes the input"),)

    batches: int = 10  # sampled steps
    rows: int = 8  # samples in a batch
    constant: float = 0.999  # share of features that are the same in all samples of a batch; digits reach 0.4
    unlearned: float = 0.9  # share of the lower one of first loss and loss of guessing that is left
    begun: float = 0.8  # twice the times that the loader was known to be begun, for each step; 5, 10, 20 ... are known

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn
        from torch.utils.data import DataLoader, TensorDataset

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        loader = DataLoader(TensorDataset(x[:1400], y[:1400]), batch_size=32)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _step in range(150):
            inputs, targets = next(iter(loader))
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn
        from torch.utils.data import DataLoader, TensorDataset

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        loader = DataLoader(TensorDataset(x[:1400], y[:1400]), batch_size=32, shuffle=True)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _step in range(150):
            inputs, targets = next(iter(loader))  # a random batch each time, since it shuffles
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        given: dict[str, list[Series]] = {}
        for subject in record.subjects("input"):
            series = record.series("input", subject)
            if len(series) >= self.batches:
                given.setdefault(subject.rpartition("#")[0], []).append(series)
        words = any(layer.kind == "embedding" and layer.order >= 0 for layer in record.layers.values())
        for root, inputs in given.items():
            finding = self._begun_anew(record, root, inputs)
            if finding is None and not words:
                finding = self._all_alike(record, root, inputs)
            if finding is not None:
                yield finding
                return

    def _all_alike(self, record: Record, root: str, inputs: list[Series]) -> Finding | None:
        """Batches whose samples are all the same."""
        layer = record.layers.get(root)
        many = layer is not None and len(layer.input_shape or ()) >= 2 and (layer.input_shape or (0,))[0] >= self.rows
        if not many or not all(np.all(series.b >= self.constant) for series in inputs):
            return None
        state = condition(record)
        if not fits_poorly(state, self.unlearned):
            return None
        where, _ = input_origin(record, root)
        zero = all(np.all(series.amax == 0) for series in inputs)
        return self.finding(
            f"all samples of a batch that `{root}` is given are {'0' if zero else 'the same'}, in each of "
            f"{len(inputs[0])} batches seen, so nothing tells them apart and only the mean answer can be learned; look "
            "at what is done to the input before the model gets it",
            severity="error", step=int(inputs[0].step[0]), layer=root,
            location=where or (layer.location if layer is not None else None),
            evidence={"batches": len(inputs[0]), "rms": float(np.median(inputs[0].rms)), "verdict": state.verdict},
            sure=record.finished,
        )  # fmt: skip

    def _begun_anew(self, record: Record, root: str, inputs: list[Series]) -> Finding | None:
        """The first batch of a loader, in each step."""
        first = inputs[0]
        if not (_never_changes(first) and first.step[-1] - first.step[0] >= self.batches):
            return None
        begun: dict[object, int] = {}
        for event in record.events("epoch"):
            begun[event["loader"]] = max(begun.get(event["loader"], 0), event["count"])
        for id, count in begun.items():
            loader = record.loaders.get(id) if isinstance(id, int) else None
            # Counts are written at 1 to 5 and then at the doublings: the last one written is half of the true at least.
            often = 2 * count > self.begun * record.step_count
            if loader is None or not often or loader.shuffle is not False or not self._is_full(record, root, loader):
                continue
            line = _restart(loader)
            if line is not None and loader.location is not None:
                return self.finding(
                    f"the DataLoader, which does not shuffle, was begun anew at least {count} times in "
                    f"{record.step_count} steps, so the model is given its first {loader.batch_size} samples again and "
                    "again and never sees the rest; loop over the loader, or make the iterator once outside the loop",
                    severity="error", step=int(first.step[0]), layer=root,
                    location=Location(loader.location.file, line),
                    evidence={"steps": record.step_count, "begun_at_least": count, "batch": loader.batch_size or 0},
                    sure=record.finished,
                )  # fmt: skip
        return None

    def _is_full(self, record: Record, root: str, loader: Loader) -> bool:
        """Whether the model's batches are as large as the loader's may be: there is more data than they hold."""
        layer = record.layers.get(root)
        shape = layer.input_shape if layer is not None else None
        return bool(shape) and loader.batch_size is not None and loader.batch_size == (shape or (0,))[0]


def _never_changes(series: Series) -> bool:
    """Whether mean, rms and largest number are the same to the last bit in all steps, and there is something."""
    parts = (series.count, series.mean, series.rms, series.amax)
    return all(math.isfinite(part[0]) and bool(np.all(part == part[0])) for part in parts) and series.amax[0] > 0


def _restart(loader: Loader) -> int | None:
    """The line of `next(iter(...))` within a loop of the loader's file; None if its batch size is a length."""
    where = loader.location
    source = source_of(where.file) if where is not None else None
    return _restart_in(source, where.line) if source is not None and where is not None else None


@lru_cache(maxsize=16)
def _restart_in(source: Source, made: int) -> int | None:
    for call in source.calls(["DataLoader"]):
        if call.lineno <= made <= (call.end_lineno or call.lineno):
            named = [word.value for word in call.keywords if word.arg == "batch_size"]
            size = next(iter([*named, *call.args[1:2]]), None)
            if size is None or not isinstance(size, ast.Constant):
                written = ast.unparse(size) if size is not None else ""
                if "len(" in written or "shape" in written or "size" in written.replace("batch_size", ""):
                    return None
    loops: list[ast.For | ast.While] = [*source.nodes(ast.For), *source.nodes(ast.While)]
    for loop in loops:
        within = [node for part in loop.body for node in ast.walk(part) if isinstance(node, ast.Call)]
        if any(called(call) in ("step", "backward") for call in within):
            lines = [call.lineno for call in within if _is_restart(call)]
            if lines:
                return lines[0]
    return None


def _is_restart(call: ast.Call) -> bool:
    """Whether a call is `next(iter(...))`."""
    if called(call) != "next" or not call.args:
        return False
    inner = call.args[0]
    return isinstance(inner, ast.Call) and called(inner) in ("iter", "__iter__")
