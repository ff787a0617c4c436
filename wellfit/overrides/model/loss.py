"""A loss that goes with the model's output."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wellfit.errors import WellfitError
from wellfit.overrides.model import _losses
from wellfit.overrides.override import Override
from wellfit.overrides.parameters import choice

if TYPE_CHECKING:
    from torch import nn

    from wellfit.overrides.calls import ForwardCall, LossCall
    from wellfit.overrides.program import Program

_KINDS = ("pair", "cross-entropy", "bce", "mse", "l1", "smooth-l1", "huber")


@dataclass(kw_only=True, eq=False)
class Loss(Override):
    """A loss that goes with the model's output.

    What it changes: *pair*: the loss is given what it expects. cross_entropy and binary_cross_entropy_with_logits get
    the raw scores where the model ends in softmax or sigmoid; nll_loss gets log_softmax of the scores where it was
    given scores or probabilities; binary_cross_entropy of sigmoid outputs is computed from the raw scores, which is the
    same and exact. The model's output stays what it is for the rest of the script.
    The other choices put another loss in the place of the script's. Classes become one-hot vectors for mse, l1,
    smooth-l1, huber and bce. mse and its kin compare them with the probabilities that belong to the scores (softmax
    after cross_entropy, sigmoid after binary_cross_entropy_with_logits), bce with each class's sigmoid. For
    cross-entropy, one-hot targets become classes. `weight` and `label_smoothing` fall away.

    When it helps: where wellfit finds loss-head-mismatch; l1, smooth-l1 and huber where outliers rule a regression.

    Safety: unsafe; the loss means something else, and its numbers cannot be compared.

    Where it does not apply: losses that the script computes itself; cross-entropy for targets that are no classes, or
    with one output; what was reshaped by more than squeeze or view after softmax or sigmoid.

    References: Goodfellow, Bengio, Courville, Deep Learning (2016), sections 6.2.2.2 and 6.2.2.3; Huber, Robust
    estimation of a location parameter (1964).
    """

    name = "loss"
    summary = "give the loss what it expects, or use another one"
    example = "loss=pair"
    safe = False
    misfit = "no loss function of torch was called that can be changed so"
    rank = 30

    kind: str = choice("pair: mend what the loss is given; else the loss to use", _KINDS, default="pair")

    _decided: dict[tuple[str, str], Any] = field(default_factory=dict, init=False)

    _raws: _losses.Raw | None = field(default=None, init=False)

    def begin(self, program: Program) -> None:
        """See `Override`."""
        self._raws = _losses.Raw(program)

    def before_forward(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        assert self._raws is not None
        self._raws.begin_forward()

    def after_forward(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        assert self._raws is not None
        self._raws.end_forward(call.result)

    def loss(self, program: Program, call: LossCall) -> None:
        """See `Override`."""
        from wellfit.overrides.places import here_text

        assert self._raws is not None
        before, where = call.function, f"{call.function}{here_text()}"
        try:
            if self.kind == "pair":
                said = _losses.paired(call, self._raws, self._decided, where)
            else:
                said = _losses.swapped(call, self._raws, self.kind)
        except WellfitError as error:
            self.left_out(where, str(error))
            call.function = before
            return
        if said:
            self.changed(f"{where}: {said}")
