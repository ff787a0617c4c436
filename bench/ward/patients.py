"""The patients: healthy programs of every family, from `examples/`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@dataclass(frozen=True)
class Patient:
    """A healthy program.

    Args:
        name: of the family.
        script: file in `examples/`.
        better: whether a higher or a lower metric is better.
        chance: the metric of the untrained program.
        traits: what faults ask for, see `Fault.needs`.
        arguments: of the script.
        quick: part of the quick round.
    """

    name: str
    script: str
    better: Literal["higher", "lower"]
    chance: float
    traits: frozenset[str]
    arguments: tuple[str, ...] = ()
    quick: bool = False

    @property
    def path(self) -> Path:
        """The script's file."""
        return EXAMPLES / self.script

    def hurt(self, metric: float | None, healthy: list[float]) -> bool:
        """Whether a run did clearly worse than healthy ones.

        It lost a tenth of what healthy runs gain over the untrained program, and twice the spread among them.

        Args:
            metric: of the run; None if it crashed or gave no number.
            healthy: of healthy runs, one a seed; at least one.
        """
        if metric is None or metric != metric:
            return True
        usual = sorted(healthy)[len(healthy) // 2]
        lost = usual - metric if self.better == "higher" else metric - usual
        return lost > max(0.1 * abs(usual - self.chance), 2 * (max(healthy) - min(healthy)))


def _traits(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Traits: layers (hidden ones that can be left out, cut off, initialised anew), deep (four hidden activations or more,
# without normalisation), relu, normalised, batch-norm, modes (dropout or batch norm, with train() and eval()),
# evaluates (a loss or output under no_grad while it trains), stateful (the optimizer keeps moments), classifier
# (cross-entropy), regression (mean squared error), float-input, loader (a DataLoader), clips, closure.
PATIENTS = (
    Patient("perceptron", "perceptron.py", "higher", 0.53, _traits("float-input")),
    Patient("mlp", "mlp.py", "higher", 0.1, _traits("layers relu stateful classifier float-input loader"), quick=True),
    Patient(
        "deep-mlp",
        "digits.py",
        "higher",
        0.1,
        _traits("layers deep relu stateful classifier float-input evaluates"),
        quick=True,
    ),
    Patient("lenet", "lenet.py", "higher", 0.1, _traits("layers stateful classifier float-input loader")),
    Patient(
        "vgg",
        "vgg.py",
        "higher",
        0.1,
        _traits("layers relu normalised batch-norm modes stateful classifier float-input loader evaluates"),
    ),
    Patient(
        "resnet",
        "resnet.py",
        "higher",
        0.1,
        _traits("layers relu normalised batch-norm modes stateful classifier float-input evaluates"),
    ),
    Patient(
        "autoencoder", "autoencoder.py", "lower", 2.46, _traits("layers relu stateful regression float-input loader")
    ),
    Patient("rbm", "rbm.py", "lower", 1.0, _traits("float-input loader stateful")),
    Patient("gan", "gan.py", "lower", 2.42, _traits("layers normalised batch-norm modes stateful")),
    Patient("maxout", "maxout.py", "higher", 0.1, _traits("layers modes stateful classifier float-input loader")),
    Patient("boosting", "boosting.py", "higher", -0.23, _traits("layers stateful regression float-input")),
    Patient(
        "ensemble",
        "ensemble.py",
        "higher",
        0.1,
        _traits("layers normalised stateful classifier float-input loader clips"),
    ),
    Patient("adding-lstm", "adding.py", "lower", 0.167, _traits("layers stateful regression float-input clips")),
    Patient(
        "adding-gru",
        "adding.py",
        "lower",
        0.167,
        _traits("layers stateful regression float-input clips"),
        ("--cell", "gru"),
    ),
    Patient(
        "adding-rnn",
        "adding.py",
        "lower",
        0.167,
        _traits("layers stateful regression float-input clips"),
        ("--cell", "rnn"),
    ),
    Patient(
        "temperatures",
        "temperatures.py",
        "lower",
        3.05,
        _traits("layers stateful regression float-input loader evaluates"),
        quick=True,
    ),
    Patient(
        "pollution", "pollution.py", "lower", 1.02, _traits("layers relu stateful regression float-input evaluates")
    ),
    Patient(
        "sentiment-cnn",
        "sentiment_cnn.py",
        "higher",
        0.5,
        _traits("layers relu modes stateful classifier loader evaluates"),
    ),
    Patient(
        "sentiment-lstm",
        "sentiment_lstm.py",
        "higher",
        0.5,
        _traits("layers modes stateful classifier loader clips evaluates"),
    ),
    Patient("answer-selection", "answer_selection.py", "higher", 0.1, _traits("layers stateful")),
    Patient("char-lstm", "char_lstm.py", "lower", 6.52, _traits("layers stateful classifier clips evaluates")),
    Patient("char-gpt", "char_gpt.py", "lower", 6.52, _traits("layers normalised stateful classifier clips evaluates")),
    Patient("translate", "translate.py", "higher", 0.0, _traits("layers stateful classifier clips")),
    Patient("style-transfer", "style_transfer.py", "lower", 1.0, _traits("closure")),
    Patient("reinforce", "reinforce.py", "higher", 24.0, _traits("layers stateful float-input")),
    Patient("dqn", "dqn.py", "higher", 9.7, _traits("layers relu stateful float-input")),
    Patient("board-game", "board_game.py", "higher", 0.09, _traits("layers relu modes stateful float-input evaluates")),
)
