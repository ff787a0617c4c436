"""The networks that bench/slim.py slims, what is asked of each, and what others have published of it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

SCRIPTS = Path(__file__).resolve().parent / "slim_scripts"


@dataclass(frozen=True)
class Published:
    """A figure of others, for the same network.

    Args:
        who: method and where it was published.
        ratio: how many times smaller.
        accuracy: in percent, after it.
    """

    who: str
    ratio: float
    accuracy: float


@dataclass(frozen=True)
class Case:
    """A network.

    Args:
        name: on the command line.
        network: class in the script.
        shape: of one input.
        options: of `wellfit slim`, as a user types them.
        goal: the ratio and the metric that are to be reached, as a sentence.
        least_ratio, least_accuracy: the same, as numbers; accuracy in percent, or where it is negative in points
            against the dense network as it was.
        counted: parameters that others divide by; None: those of the network.
        published: figures of others.
        plan: share of weights that is kept and values of a layer, where one plan shall be run and nothing searched.
    """

    name: str
    network: str
    shape: tuple[int, ...]
    options: tuple[str, ...]
    goal: str
    least_ratio: float
    least_accuracy: float
    counted: int | None = None
    published: tuple[Published, ...] = ()
    plan: tuple[float, int] | None = None

    @property
    def script(self) -> Path:
        """Its file."""
        return SCRIPTS / f"{self.name}.py"

    def dense_bytes(self, own: int) -> int:
        """Bytes that the ratio is against.

        Args:
            own: of the network's state_dict.
        """
        return own if self.counted is None else 4 * self.counted

    def model(self) -> nn.Module:
        """A fresh network of the script's own class, with random weights."""
        spec = importlib.util.spec_from_file_location(f"slim_script_{self.name}", self.script)
        assert spec is not None and spec.loader is not None
        module: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        made: nn.Module = getattr(module, self.network)()
        return made


DEEP_COMPRESSION = "Deep Compression (Han, Mao, Dally, 2016)"
BAYESIAN = "Bayesian compression (Louizos, Ullrich, Welling, 2017)"
MIRACLE = "MIRACLE (Havasi, Peharz, Hernandez-Lobato, 2019)"

CASES = [
    Case(
        "lenet_300_100", "LeNet300", (28, 28),
        ("--target", "160x", "--keep-acc", "0.3", "--budget", "10m", "--control"),
        "at least 150x smaller at 98.42 %", 150, 98.42, published=(Published(DEEP_COMPRESSION, 40, 98.42),),
    ),
    Case(
        "lenet_5", "LeNet5", (28, 28), ("--target", "500x", "--keep-acc", "0.5", "--budget", "15m", "--control"),
        "at least 400x smaller at 99.0 %", 400, 99.0, counted=431_080,
        published=(
            Published(DEEP_COMPRESSION, 39, 99.26), Published(BAYESIAN, 771, 99.0),
            Published(MIRACLE, 555, 99.31), Published(MIRACLE, 1110, 99.04),
        ),
    ),
    Case(
        "resnet20", "ResNet20", (3, 32, 32), ("--target", "20x", "--keep-acc", "0.5", "--budget", "45m", "--control"),
        "at least 20x smaller within 0.5 points of its dense self", 20, -0.5,
    ),
]  # fmt: skip

QUICK = [
    Case("digits_mlp", "Net", (64,), ("--keep-acc", "3"), "", 40, -3.0, plan=(0.08, 8)),
    Case("digits_conv", "Net", (1, 8, 8), ("--keep-acc", "3"), "", 20, -3.0, plan=(0.15, 8)),
]
"""Bounds with slack: what is seen is told in docs/slim-results.md."""
