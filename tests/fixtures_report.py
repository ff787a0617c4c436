"""Runs for the tests of the reports: written with the probe's own writer, so that they are what a real run leaves."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

from wellfit.finding import Finding, Fix, Location
from wellfit.probe import frames
from wellfit.probe.writer import Writer
from wellfit.record import Run, open_run

HOSTILE = "</script><img src=x onerror=alert(1)>\x1b[31m\u202eevil`${alert(2)}"
"""A layer's name that tries everything: ending the script, an element, an escape sequence, a direction override."""

NAN = math.nan


def write_script(folder: Path) -> Path:
    """A user's script with a line 5 to blame."""
    script = folder / "train.py"
    lines = [
        "import torch",
        "",
        "model = torch.nn.Sequential(",
        "    torch.nn.Linear(784, 256),",
        "    torch.nn.ReLU(),",
    ]
    lines += ["    torch.nn.Linear(256, 10),", ")", "optimizer = torch.optim.SGD(model.parameters(), lr=3.0)", ""]
    script.write_text("\n".join(lines), encoding="utf-8")
    return script


def findings_of(script: Path) -> list[Finding]:
    """Two errors (one hostile, one with numbers that are not finite) and a note without a place."""
    return [
        Finding(
            "lr-high",
            "UPD501",
            "error",
            "the optimizer moves the weights by 2.9 times their own size in one step, so nothing learned survives it; "
            "divide the learning rate by 10",
            step=12,
            layer="blocks.0.weight",
            location=Location(str(script), 8),
            evidence={"update_ratio": 2.9123456, "healthy": 0.03, "steps": 12, "largest": math.inf},
            consequences=["dead-units", "diverged"],
            fixes=(Fix("Divide the learning rate by 10", "scale-lr", True), Fix("Use `LeakyReLU`", "leaky", False)),
        ),
        Finding(
            "dead-units",
            "FWD302",
            "error",
            f"`{HOSTILE}` is dead: 93 % of its units gave 0\nfor 20 batches ::error::forged",
            step=40,
            layer=HOSTILE,
            location=Location(str(script), 5),
            evidence={"dead_share": NAN, "units": 256, "names": ["a", HOSTILE]},
            fixes=(Fix("Lower the learning rate", "scale-lr", True),),
        ),
        Finding(
            "class-imbalance", "DAT105", "note", "one class is 12 times as frequent as another", evidence={"ratio": 12}
        ),
    ]


def write_run(
    folder: Path, *, steps: int = 400, layers: int = 6, hostile: bool = True, every: int = 1, diverge: bool = True
) -> Run:
    """A recorded run of a small network; its first activation has the hostile name.

    Args:
        folder: an empty folder for it.
        steps: training steps.
        layers: how many pairs of a linear layer and an activation.
        hostile: whether one layer has the hostile name.
        every: statistics at each so many steps.
        diverge: whether the last loss is NaN.
    """
    folder.mkdir(parents=True, exist_ok=True)
    meta = {
        "command": ["python", "train.py", "--lr", "3"],
        "exit_code": 0,
        "started": 1.0,
        "ended": 2.0,
        "seconds": 31.5,
    }
    (folder / "run.json").write_text(json.dumps(meta), encoding="utf-8")
    writer = Writer(str(folder), 0, 4711, 10**9)
    names = [
        (f"blocks.{index}", HOSTILE if hostile and index == 0 else f"blocks.{index}.act") for index in range(layers)
    ]
    _declare(writer, names)
    noise = random.Random(0)
    for step in range(steps):
        loss = 2.3 * math.exp(-step / (steps / 4)) * (1 + 0.25 * noise.gauss(0, 1) ** 2 / 2) + 0.05
        writer.row(frames.ROW_BACKWARD, 0, 0, step, NAN if diverge and step == steps - 1 else loss, step / 10)
        warm = min(1.0, (step + 1) / 40)
        rate = 3e-3 * warm * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        writer.row(frames.ROW_HYPER, 0, 0, step, rate, 0)
        if step % 50 == 0:
            writer.declare({"type": "event", "event": "epoch", "step": step, "loader": 0, "count": step // 50})
        if step % 50 == 49:
            writer.row(frames.ROW_EVALUATION, 0, 0, step, loss * 1.2 + 0.1, step / 10)
        if step % every == 0 or step < 20:
            writer.statistics(step, _statistics(writer, names, step / steps, noise))
        writer.row(frames.ROW_STEP, 0, 0, step, step / 10, step / 1000)
        writer.tick(step, step / 10)
    writer.declare(
        {
            "type": "cost",
            "watched": steps // every,
            "steps": steps,
            "seconds": 31.5,
            "probe_seconds": 0.29,
            "period": every,
        }
    )
    writer.declare(
        {"type": "unseen", "what": "torch.compile", "why": "the layers inside a compiled model are not seen"}
    )
    writer.close()
    return open_run(folder)


def _declare(writer: Writer, names: list[tuple[str, str]]) -> None:
    where = {"file": "/somewhere/train.py", "line": 4}
    writer.declare(
        {
            "type": "process",
            "rank": 0,
            "world_size": 1,
            "pid": 4711,
            "python": "3.12.3",
            "torch": "2.13.0",
            "device": "cpu",
        }
    )
    writer.declare(
        {"type": "optimizer", "id": 0, "class": "SGD", "location": where, "groups": [{"lr": 3.0}], "parameters": []}
    )
    writer.declare({"type": "hyper", "id": 0, "optimizer": 0, "group": 0, "name": "lr"})
    writer.declare({"type": "backward", "id": 0, "location": where})
    for order, (linear, activation) in enumerate(names):
        weights = [f"{linear}.weight", f"{linear}.bias"]
        writer.declare(
            {
                "type": "layer",
                "name": linear,
                "class": "Linear",
                "kind": "linear",
                "order": 2 * order,
                "location": where,
                "parameters": weights,
            }
        )
        writer.declare(
            {"type": "layer", "name": activation, "class": "ReLU", "kind": "activation", "order": 2 * order + 1}
        )
        writer.declare({"type": "parameter", "name": weights[0], "layer": linear, "shape": [256, 256], "optimizer": 0})
        writer.declare({"type": "parameter", "name": weights[1], "layer": linear, "shape": [256], "optimizer": 0})


def _statistics(
    writer: Writer, names: list[tuple[str, str]], at: float, noise: random.Random
) -> list[tuple[float, ...]]:
    """Eight numbers for each series: gradients that vanish towards the first layer, units that die over time."""
    rows: list[tuple[float, ...]] = []

    def add(what: str, subject: str, count: float, rms: float, a: float = NAN) -> None:
        rms *= math.exp(0.25 * noise.gauss(0, 1))
        rows.append((writer.series(what, subject), count, 0.0, rms, 3 * rms, 0.0, NAN, a, NAN))

    for index, (linear, activation) in enumerate(names):
        depth = len(names) - 1 - index
        shrink = 10 ** (-4.0 * depth / len(names) * (0.6 + at))
        add("activation", linear, 8192, 1.0 + 0.3 * index)
        add("activation", activation, 8192, 0.7 + 0.2 * index, min(1.0, max(0.0, at * 1.3 - 0.2 * depth / len(names))))
        add("activation_gradient", linear, 8192, 2e-3 * shrink)
        add("activation_gradient", activation, 8192, 3e-3 * shrink)
        for name, count in ((f"{linear}.weight", 65536), (f"{linear}.bias", 256)):
            dead = index == 0 and at > 0.9
            add(
                "gradient",
                name,
                count,
                0.0 if dead else NAN if index == len(names) - 1 and at > 0.985 else 5e-2 * shrink,
            )
            add("update", name, min(count, 4096), 4e-4 * shrink * (1 - 0.8 * at), 0.04)
    return rows
