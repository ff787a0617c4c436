"""The same batch for ever."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wellfit.errors import WellfitError
from wellfit.overrides.inputs import first_input, is_taught
from wellfit.overrides.override import Override
from wellfit.overrides.places import here_text

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wellfit.overrides.calls import ForwardCall, LossCall
    from wellfit.overrides.program import Program

# Nodes of the graph where other data of a batch enter between model and loss.
_OTHER_DATA = ("GatherBackward", "IndexBackward", "IndexSelectBackward", "MaskedSelectBackward", "TakeBackward")
_NODES = 200
_KEY = "_wellfit_output"


@dataclass
class _Held:
    """What a model was given in the first step: all its arguments, and how many items they are."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    items: int


class _Pass:
    """Where a forward pass without a DataLoader is.

    Attributes:
        inside: a model is running.
        share: how many of the held items the model was given, and how many there are; None if it was left alone.
        root: the model that was given it.
        losses: loss functions called since.
        mark: stands where the graphs of the models' outputs begin (of models not yet proved), in the graphs
            themselves, so that none is kept alive; None if there are no such outputs.
        has_loss: a loss function was called behind a held input since the last backward pass.
        seen: models that were given what is held since the last backward pass.
        made: where the numbers lie that models gave back in this step.
        step: the step.
    """

    def __init__(self) -> None:
        self.inside = False
        self.share: tuple[int, int] | None = None
        self.root: weakref.ref[Any] | None = None
        self.losses = 0
        self.mark: object | None = None
        self.has_loss = False
        self.seen: weakref.WeakSet[Any] = weakref.WeakSet()
        self.made: list[Any] = []
        self.step = 0


@dataclass(kw_only=True, eq=False)
class OneBatch(Override):
    """The same batch for ever.

    What it changes: training goes on with the first batch alone. Where the script trains on a DataLoader, the loader
    gives its first batch again and again while gradients are taken, as often as it would give others, and other
    batches are read and thrown away: all that belongs to the batch stays together. A loader that is made anew in each
    epoch goes on with it. Else all arguments of the model's first call in training (train mode, gradients taken) are
    kept and given again, and the targets of the loss functions that follow it with them; of a smaller batch as many
    items as it has. Evaluation (under `no_grad`, or in eval mode where there is no DataLoader) sees the true data.

    When it helps: as the first test of any network and training loop: it must bring the training loss to nearly 0. If
    it does not, model, loss or optimizer are wrong, and more data would not help.

    Safety: not safe; the model learns a batch by heart.

    Where it does not apply: without a DataLoader, to scripts in which it cannot be known what belongs together. They
    are refused: a loss computed by hand, a model that is called several times for one backward pass (a discriminator,
    Siamese networks, a decoder step by step), a model fed with what another made without a gradient, and data that come
    in between model and loss (the chosen actions of Q-learning, a mask). Random numbers that the script draws itself
    (a generator's noise, dropout) stay random where there is a DataLoader.

    References: Karpathy, A Recipe for Training Neural Networks (2019), "overfit one batch".
    """

    name = "one-batch"
    summary = "train on the first batch again and again: it must be learned by heart"
    example = "one-batch"
    safe = False
    misfit = "neither a DataLoader nor a model's input and a loss function of torch were seen in training"
    rank = 15

    _from_loader: bool = field(default=False, init=False)
    _batches: Any = field(default=None, init=False)
    _held: weakref.WeakKeyDictionary[Any, _Held] = field(default_factory=weakref.WeakKeyDictionary, init=False)
    _targets: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = field(
        default_factory=weakref.WeakKeyDictionary, init=False
    )
    _proved: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet, init=False)  # models held with their targets
    _now: _Pass = field(default_factory=_Pass, init=False)

    # With a DataLoader ----------------------------------------------------------------------------------------------

    def batches(self, program: Program, loader: Any, batches: Iterator[Any]) -> Iterator[Any]:
        """See `Override`."""
        from wellfit.overrides.data._first_batches import FirstBatches

        if self._batches is None:
            self._batches = FirstBatches()
        # The loader is there as long as it is iterated over, also where the script has no name for it.
        known = functools.partial(self._batches.of, loader, program.place(loader))
        return self._repeated(known, batches, f"DataLoader{here_text()}")

    def _repeated(self, known: Callable[[Any], tuple[Any, bool]], batches: Iterator[Any], name: str) -> Iterator[Any]:
        import torch

        from wellfit.overrides.nested import mapped

        for batch in batches:
            if not torch.is_grad_enabled():
                yield batch
                continue
            first, new = known(batch)
            if new:
                self._from_loader = True
                self.changed(f"{name}: its first batch again and again")
            yield mapped(first, torch.clone)  # the script may change what it is given

    # Without one ----------------------------------------------------------------------------------------------------

    def before_forward(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        if self._from_loader or not is_taught(root):
            return
        self._now.inside = True
        given = first_input(call)
        if given is None or given.tensor.requires_grad or given.tensor.dim() == 0:
            return  # fed by another model: what it makes of the held batch follows by itself
        self._now.share, self._now.root, self._now.losses = None, weakref.ref(root), 0
        held = self._held.get(root)
        if held is not None and len(given.tensor) > held.items:
            self.left_out(f"batches of more than {held.items} items", "the first had no more")
            return
        self._refuse_unclear(program, root, given.tensor)
        if held is None:
            self._hold(root, call, len(given.tensor))
        else:
            self._give(held, call, len(given.tensor))

    def after_forward(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        if self._now.inside:
            from torch.multiprocessing.reductions import StorageWeakRef

            from wellfit.overrides.nested import tensors_in

            results = list(tensors_in(call.result))
            if root not in self._proved:
                self._now.mark = self._now.mark or object()
                nodes: list[Any] = [result.grad_fn for result in results if result.grad_fn is not None]
                for node in nodes:
                    node.metadata[_KEY] = self._now.mark
            self._now.made += [StorageWeakRef(result.untyped_storage()) for result in results]  # type: ignore[no-untyped-call]
        self._now.inside = False

    def loss(self, program: Program, call: LossCall) -> None:
        """See `Override`."""
        now = self._now
        if self._from_loader or not call.training or now.share is None:
            return
        now.has_loss = True
        if now.inside:
            return  # the model computes its own loss, of arguments that are held
        kept, items = now.share
        key = (call.function, now.losses)
        now.losses += 1
        if not hasattr(call.target, "requires_grad") or call.target.requires_grad or call.target.dim() == 0:
            return
        root = now.root() if now.root is not None else None
        if root is None:
            return  # the script has thrown the model away
        targets = self._targets.setdefault(root, {})
        if key not in targets:
            if now.mark is not None:
                _refuse_other_data(call.prediction, now.mark)
            targets[key] = call.target.detach().clone()
            self.changed(f"{call.function}{here_text()}: the first target again and again")
            return
        target = targets[key]
        call.target = target if kept == items else target[: len(target) * kept // items]

    def before_backward(self, program: Program, loss: Any) -> None:
        """See `Override`."""
        now = self._now
        if self._from_loader or not now.seen:
            return
        by_hand = not now.has_loss and not _begins(getattr(loss, "grad_fn", None), now.mark)
        if by_hand and not all(root in self._proved for root in now.seen):
            raise WellfitError("the script computes its loss by hand, so the targets cannot be held")
        self._proved |= now.seen
        now.has_loss = False
        now.seen.clear()
        now.mark = None

    def _refuse_unclear(self, program: Program, root: nn.Module, tensor: Tensor) -> None:
        name, now = type(root).__name__, self._now
        if root in now.seen:
            raise WellfitError(
                f"{name} is called several times for one backward pass: what belongs to what is not known"
            )
        now.seen.add(root)
        if now.step != program.step:
            now.step = program.step
            now.made.clear()
        storage = tensor.untyped_storage()._cdata
        if any(other.cdata == storage for other in now.made):
            raise WellfitError(f"{name} is fed with what another model made: that is another thing at each step")

    def _hold(self, root: nn.Module, call: ForwardCall, items: int) -> None:
        from wellfit.overrides.nested import mapped

        args, kwargs = mapped((call.args, call.kwargs), lambda tensor: tensor.detach().clone())
        self._held[root] = _Held(args, kwargs, items)
        self._now.share = (items, items)
        self.changed(f"{type(root).__name__}{here_text()}: its first input again and again")

    def _give(self, held: _Held, call: ForwardCall, items: int) -> None:
        from wellfit.overrides.nested import mapped

        def part(tensor: Tensor) -> Tensor:
            return (tensor[:items] if tensor.dim() and len(tensor) == held.items else tensor).clone()

        call.args, call.kwargs = mapped((held.args, held.kwargs), part)
        self._now.share = (items, held.items)


def _begins(node: Any, mark: object | None) -> bool:
    """Whether this is where the graph of a model's output begins."""
    return node is not None and mark is not None and node.metadata.get(_KEY) is mark


def _refuse_other_data(prediction: Tensor, mark: object) -> None:
    """Where something picks from the model's output on the way to the loss, what it picks belongs to the batch too."""
    waiting: list[Any] = [prediction.grad_fn]
    seen: set[Any] = set()
    while waiting and len(seen) < _NODES:
        node = waiting.pop()
        if node is None or node in seen or _begins(node, mark):
            continue
        seen.add(node)
        if node.name().startswith(_OTHER_DATA):
            raise WellfitError("between model and loss other data come in, which cannot be held (a choice of outputs)")
        waiting += [below for below, _ in node.next_functions]
