"""Whether samples of a batch are mixed."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from wellfit.overrides.inputs import is_taught
from wellfit.overrides.override import Override
from wellfit.overrides.places import here_text, made_at

if TYPE_CHECKING:
    from torch import nn

    from wellfit.overrides.calls import ForwardCall, LossCall
    from wellfit.overrides.program import Program

_TIMES = 3  # calls of a model that are looked at: a head that starts at 0 shows nothing at first


@dataclass
class _Waiting:
    """A call in training, until the loss tells how many samples it had."""

    root: weakref.ref[Any]
    call: ForwardCall
    place: str


@dataclass(kw_only=True, eq=False)
class LeakTest(Override):
    """Whether samples of a batch are mixed.

    What it changes: nothing. For the first three calls of each model in training, it is called some more times, in eval
    mode, with one sample of the batch replaced by another one, and the outputs for all other samples are compared.
    Random numbers, buffers and the attributes of the modules are put back. Which axis is the batch is told by the
    target of the loss; where it leaves two possible, samples are mixed only if they are along both.

    When it helps: to see whether a view, a layer that takes the batch for time, or a mean over the wrong axis lets the
    answer for one sample depend on what else is in its batch.

    Safety: safe; the program means the same. The calls take time, and what a model does outside of itself (a counter in
    a global variable, a line that it prints) it does some more times.

    Where it does not apply: to models that give another output each time in eval mode too, that are given a graph,
    whose output has no axis for the samples, or where two axes of the input are of the same length. Batch norm mixes
    samples in training, as it should, and is in eval mode here.

    References: Karpathy, A Recipe for Training Neural Networks (2019), "use backprop to chart dependencies".
    """

    name = "leak-test"
    summary = "look whether the answer for a sample depends on others of its batch"
    example = "leak-test"
    safe = True
    misfit = "no model could be tested"
    looks: ClassVar[bool] = True
    rank = 95

    _waiting: list[_Waiting] = field(default_factory=list, init=False)
    _size: int | None = field(default=None, init=False)
    _times: weakref.WeakKeyDictionary[Any, int] = field(default_factory=weakref.WeakKeyDictionary, init=False)
    _inputs: weakref.WeakKeyDictionary[Any, list[Any]] = field(default_factory=weakref.WeakKeyDictionary, init=False)

    def before_forward(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        if is_taught(root) and self._times.get(root, 0) < _TIMES:
            self._times[root] = self._times.get(root, 0) + 1
            self._waiting.append(_Waiting(weakref.ref(root), _kept(call), here_text()))

    def loss(self, program: Program, call: LossCall) -> None:
        """See `Override`."""
        shape: Any = getattr(call.target, "shape", ())
        if call.training and len(shape):
            self._size = int(shape[0])

    def before_backward(self, program: Program, loss: Any) -> None:
        """See `Override`."""
        size, self._size = self._size, None
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            root = one.root()
            if root is not None:
                self._look(program, root, one, size)

    def _look(self, program: Program, root: nn.Module, one: _Waiting, size: int | None) -> None:
        from wellfit.overrides.model._leaks import Unclear, axes_of, leak_along, same_input
        from wellfit.overrides.nested import tensors_in

        name = f"{type(root).__name__}{one.place}"
        leak, why = None, ""
        try:
            axes = axes_of(one.call, size)
        except Unclear as unclear:
            self.left_out(name, str(unclear))
            return
        for axis in axes:
            try:
                found = leak_along(program, root, one.call, axis)
            except Unclear as unclear:
                why = why or str(unclear)
                continue
            if axis == axes[0] or found is None:
                leak = found
            if found is None:  # independent along this axis: it is the batch
                self.changed(f"{name}: no answer depends on another sample of the batch")
                return
        if leak is None:
            self.left_out(name, why)
            return
        given = list(tensors_in((one.call.args, one.call.kwargs)))
        whole = same_input(self._inputs.get(root, []), iter(given))
        self._inputs[root] = given
        self.changed(f"{name}: answers depend on other samples of the batch")
        self._note(program, root, leak, whole)

    def _note(self, program: Program, root: nn.Module, leak: Any, whole: bool) -> None:
        place = made_at(type(leak.module).forward)
        program.note(
            "leak", root=program.layer_name(root), layer=program.layer_name(leak.module),
            **{"class": type(leak.module).__name__}, file=place and place[0], line=place and place[1], share=leak.share,
            sample=leak.changed, same_batch=whole,
        )  # fmt: skip


def _kept(call: ForwardCall) -> ForwardCall:
    """What a model is given, as it is now: the script may write over it."""
    from wellfit.overrides.calls import ForwardCall
    from wellfit.overrides.nested import mapped

    args, kwargs = mapped((call.args, call.kwargs), lambda tensor: tensor.detach().clone())
    return ForwardCall(args, kwargs)
