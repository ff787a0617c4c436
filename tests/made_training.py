"""A small record of a training run, told step by step, for the tests of rules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wellfit.probe import frames
from wellfit.probe.writer import Writer
from wellfit.record import Record, open_run

NAN = float("nan")
FILE = "/home/user/train.py"


def place(line: int) -> dict[str, Any]:
    return {"file": FILE, "line": line}


class Training:
    """Layers, losses and statistics are declared first; `record` writes them and reads them back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out = Writer(str(folder), 0, 7, 1 << 40)
        self.out.declare({"type": "process", "rank": 0, "world_size": 1})
        self.out.declare({"type": "backward", "id": 0, "location": place(90)})
        self.out.declare({"type": "optimizer", "id": 0, "class": "SGD", "location": place(80), "parameters": []})
        self.series: dict[tuple[str, str], list[Sequence[float]]] = {}
        self.order = 0

    def layer(self, name: str, line: int, kind: str = "linear", parameters: bool = True, **fields: Any) -> None:
        """A layer in call order; with a weight and a bias that optimizer 0 holds."""
        names = [f"{name}.weight", f"{name}.bias"] if parameters and kind == "linear" else []
        told = {"name": name, "class": "Linear", "kind": kind, "location": place(line), "order": self.order}
        self.out.declare({"type": "layer", **told, "parameters": names, **fields})
        self.order += 1
        for parameter, shape in zip(names, ([4, 4], [4])):
            initial = {"std": 0.5, "rms": 0.5, "amax": 1.0}
            told = {"name": parameter, "layer": name, "shape": shape, "optimizer": 0, "initial": initial}
            self.out.declare({"type": "parameter", "requires_grad": True, **told})

    def loss_function(self, function: str = "cross_entropy", batch: int = 32, outputs: int = 2) -> None:
        told = {"id": 0, "function": function, "location": place(89), "training": True, "reduction": "mean"}
        self.out.declare({"type": "loss", **told, "prediction_shape": [batch, outputs], "target_shape": [batch]})

    def event(self, name: str, step: int, **fields: Any) -> None:
        self.out.declare({"type": "event", "event": name, "step": step, **fields})

    def graph(self, nodes: list[dict[str, Any]], cuts: list[dict[str, Any]] | None = None) -> None:
        self.out.declare({"type": "graph", "step": 0, "backward": 0, "nodes": nodes, "cuts": cuts or []})

    def measure(self, what: str, subject: str, rows: Sequence[Sequence[float]]) -> None:
        """Eight numbers for each of the first steps."""
        self.series[what, subject] = list(rows)

    def record(
        self, losses: Sequence[float], patterns: Sequence[Sequence[str]] = (("zero_grad:0", "backward", "step:0"),)
    ) -> Record:
        """Write one step for each loss; the patterns take turns."""
        for id, events in enumerate(patterns):
            self.out.declare({"type": "pattern", "id": id, "events": list(events)})
        for step, value in enumerate(losses):
            self.out.row(frames.ROW_BACKWARD, 0, 0, step, value, float(step))
            self.out.row(frames.ROW_STEP, 0, step % len(patterns), step, float(step), 0.0)
            rows = [
                (self.out.series(*key), *numbers[step]) for key, numbers in self.series.items() if step < len(numbers)
            ]
            if rows:
                self.out.statistics(step, rows)
        self.out.close()
        record = open_run(self.folder).records[0]
        record.finished = True
        return record


def row(
    rms: float = 1.0, *, amax: float | None = None, low: float = 0.0, high: float = 0.0, a: float = NAN, b: float = NAN
) -> tuple[float, ...]:
    """The eight numbers of a series whose count is 100."""
    return (100.0, 0.0, rms, rms if amax is None else amax, low, high, a, b)


FALLING = [2.0 * 0.95**step for step in range(80)]
FLAT = [2.0 + 0.001 * (step % 2) for step in range(80)]
