"""Training and evaluation, told apart by how the script calls a model."""

from __future__ import annotations


class Modes:
    """How the script calls a model.

    Attributes:
        evaluates: it was called in evaluation mode: from then on its mode tells evaluation from training.
        trains: it was called in training mode with gradients: with gradients in evaluation mode is evaluation then.
    """

    def __init__(self) -> None:
        self.evaluates = self.trains = False

    def is_evaluated(self, training: bool, gradients: bool) -> bool:
        """Whether a call in this mode is an evaluation."""
        self.evaluates |= not training
        self.trains |= training and gradients
        if not training:
            return not gradients or self.trains
        return not gradients and not self.evaluates
