"""Labels that say nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wellfit.overrides.draws import Draws
from wellfit.overrides.inputs import first_input
from wellfit.overrides.override import Override
from wellfit.overrides.parameters import choice, number

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from wellfit.overrides.calls import ForwardCall, LossCall
    from wellfit.overrides.program import Program

_CLASSES = ("cross_entropy", "nll_loss")
_RESOLUTION = 2**20  # steps between 0 and 1 that a fingerprint can take


@dataclass(kw_only=True, eq=False)
class ShuffleLabels(Override):
    """Labels that say nothing.

    What it changes: the target of loss functions where gradients are taken, for a share of the items. `per:item`: such
    an item has one false label for the whole run, found from a fingerprint of what the model was given, so that it can
    be learned by heart: any class with equal probability where targets are class numbers, else the target of some item
    of the first batch. `per:batch`: the targets of a share of each batch are dealt out anew among these items at each
    step, so that there is nothing to learn. Targets to be ignored (`ignore_index`) stay.

    When it helps: `item` shows how much a network can memorise, and how little a training loss says then. `batch` is a
    baseline: what is reached with it needs no label.

    Safety: not safe; the labels are false.

    Where it does not apply: to losses that the script computes by hand and to targets that are all the same. With
    `per:item`, to scripts in which items of input and target do not correspond; an item that is augmented is another
    one each time, so its label is new each time too.

    References: Zhang et al., Understanding Deep Learning Requires Rethinking Generalization (2017).
    """

    name = "shuffle-labels"
    summary = "false labels for a share of the training items"
    example = "shuffle-labels=1.0"
    safe = False
    misfit = "no loss function of torch is called with labels that differ from each other"
    rank = 20

    share: float = number("share of the items", above=0, high=1, default=1.0)
    per: str = choice(
        "item: one false label for the whole run; batch: dealt out anew", ("item", "batch"), default="item"
    )

    _draws: Draws = field(default_factory=Draws, init=False)
    _input: Any = field(default=None, init=False)
    _pools: dict[Any, Any] = field(default_factory=dict, init=False)

    def before_forward(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        import torch

        if self.per == "item" and torch.is_grad_enabled():
            given = first_input(call)
            self._input = given.tensor if given is not None else None

    def loss(self, program: Program, call: LossCall) -> None:
        """See `Override`."""
        target = call.target
        if not call.training or not hasattr(target, "dim") or target.dim() == 0 or len(target) < 2:
            return
        if self.per == "item":
            self._false_for_ever(call)
        elif self._differ(call):
            call.target = self._dealt(target, call.options.get("ignore_index", -100))
            self.changed(f"{call.function}: {self.share:.0%} of the targets of each batch dealt out anew")

    def after_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        self._input = None  # not to keep a batch alive

    def _differ(self, call: LossCall) -> bool:
        """Whether there is anything to be shuffled; asked until it was so once."""
        if self.changes:
            return True
        same = bool((call.target == call.target[:1]).all())
        if same:
            self.left_out(call.function, "its targets are all the same")
        return not same

    def _dealt(self, target: Tensor, ignored: int) -> Tensor:
        import torch

        generator = self._draws.on(target.device)
        order = torch.randperm(len(target), generator=generator, device=target.device)
        if target.dim() == 1 and not target.is_floating_point():
            order = order[target[order] != ignored]
        chosen = order[: round(self.share * len(order))]
        dealt = target.clone()
        dealt[chosen] = target[chosen[torch.randperm(len(chosen), generator=generator, device=target.device)]]
        return dealt

    def _false_for_ever(self, call: LossCall) -> None:
        import torch

        target = call.target
        items = self._input
        if items is None or items.dim() == 0 or len(target) % len(items):
            self.left_out(call.function, "the items of its target are not those of a model's input (per:batch fits)")
            return
        if not self._differ(call):
            return
        prints = fingerprints(items, len(target) // len(items), self._draws.seed).to(target.device)
        is_false = (prints % _RESOLUTION) < self.share * _RESOLUTION
        labels = self._labels(call, prints // _RESOLUTION)
        is_false = is_false.view(-1, *[1] * (target.dim() - 1))
        if not target.is_floating_point():
            is_false = is_false & (target != call.options.get("ignore_index", -100))
        call.target = torch.where(is_false, labels, target)
        self.changed(f"{call.function}: a false target for {self.share:.0%} of the items, the same for the whole run")

    def _labels(self, call: LossCall, drawn: Tensor) -> Tensor:
        """A false target for each item."""
        target, prediction = call.target, call.prediction
        if call.function in _CLASSES and not target.is_floating_point() and target.dim() == 1:
            return drawn % int(prediction.shape[-1 if prediction.dim() == 1 else 1])
        key = (call.function, target.dtype, target.shape[1:])
        if key not in self._pools:
            self._pools[key] = target.detach().clone()
        pool: Tensor = self._pools[key]
        return pool[drawn % len(pool)]


def fingerprints(items: Tensor, repeats: int, seed: int) -> Tensor:
    """A number from 0 to 2**62 for each item, and for each of `repeats` places in it, from what it holds alone."""
    import torch

    flat = items.detach().reshape(len(items), -1)
    if flat.is_floating_point():
        flat = flat.to(torch.float32).contiguous().view(torch.int32)
    flat = flat.to(torch.int64)
    generator = torch.Generator().manual_seed(seed)
    odd = torch.randint(2**62, (flat.shape[1] + repeats,), generator=generator).to(flat.device) * 2 + 1
    mixed = (flat * odd[: flat.shape[1]]).sum(1, keepdim=True) + odd[flat.shape[1] :] * (repeats > 1)
    for shift in (31, 27, 33):  # what a product leaves in the high bits comes down to the low ones
        mixed = (mixed ^ (mixed >> shift)) * 0x5851F42D4C957F2D
    return (mixed.reshape(-1) >> 1) & (2**62 - 1)
