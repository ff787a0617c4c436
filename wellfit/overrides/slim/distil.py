"""A student that learns from a teacher: the same model with the weights of a file."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wellfit.errors import WellfitError
from wellfit.overrides.inputs import is_taught
from wellfit.overrides.override import Override
from wellfit.overrides.parameters import number, text
from wellfit.overrides.places import here_text

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from wellfit.overrides.calls import ForwardCall, LossCall
    from wellfit.overrides.program import Program


@dataclass(kw_only=True, eq=False)
class Distil(Override):
    """A student that learns from a teacher: the same model with the weights of a file.

    What it changes: the teacher is a copy of the model as the script made it, before other overrides change it, with
    the weights of the file, in evaluation mode; or, with teacher:package.module:build, what that function of the
    user's returns when it is called without arguments: the script's model may have another structure then, and those
    of its outputs learn that have the shape of the teacher's. In training the teacher is called with what the model is
    called with, without gradients, random numbers put back. A loss of the model's output becomes
    (1 - weight) * loss + weight * T^2 * KL(softmax(z_teacher / T) || softmax(z / T)) for cross_entropy and nll_loss
    (mean or sum over the samples as the loss has it; what `ignore_index` leaves out is left out);
    (1 - weight) * loss + weight * T^2 * bce(z / T, sigmoid(z_teacher / T)) for binary_cross_entropy_with_logits; and
    (1 - weight) * loss + weight * loss(z, z_teacher) for mse_loss, l1_loss, smooth_l1_loss and huber_loss.

    When it helps: a model that is pruned, rounded or smaller comes nearer to what it was, as the teacher's answers say
    more than the labels.

    Safety: unsafe; another loss is trained. Each step takes one more forward pass, and memory for one more model.

    Where it does not apply: to losses that the script computes itself or that are given no output of the model (a part
    of it, or what is viewed or cast otherwise, will do); to evaluations, whose loss stays what it is.

    References: Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network (2015), section 2.
    """

    name = "distil"
    summary = "learn from the same model with the weights of a file"
    example = "distil=weights.safetensors"
    safe = False
    misfit = "no loss function of torch is given the output of a model that has the weights of the file"
    rank = 3

    file: str = text("path of a .pt, .safetensors or .wfz file with the teacher's weights")
    temperature: float = number("what scores are divided by before softmax", above=0, default=4.0)
    weight: float = number("share of the teacher's term in the loss", low=0, high=1, default=0.9)

    teacher: str | None = text("package.module:function that makes the teacher; else the same model", default=None)

    _weights: Any = field(default=None, init=False)
    _built: Any = field(default=None, init=False)  # the user's own teacher
    _teachers: weakref.WeakKeyDictionary[Any, Any] = field(default_factory=weakref.WeakKeyDictionary, init=False)
    _answers: dict[int, list[tuple[Any, Any]]] = field(default_factory=dict, init=False)  # student's, teacher's outputs

    def begin(self, program: Program) -> None:
        """See `Override`."""
        from wellfit.overrides.slim._files import checked_path, weights_in

        self._weights = weights_in(program, checked_path(self.file, "distil"))

    def model(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        from wellfit.overrides.model._copies import own_copy
        from wellfit.overrides.slim._files import Unlike
        from wellfit.overrides.words import in_short

        if self.teacher is not None:
            self._teachers[root] = self._own_teacher(program, root)
            return
        with program.unseen():
            try:
                teacher = own_copy(root)
            except Exception as error:
                raise WellfitError(f"{type(root).__name__} cannot be copied ({in_short(error)})") from None
            try:
                self._weights.put_into(teacher)
            except Unlike as unlike:
                self.left_out(type(root).__name__, str(unlike))
                return
            self._teachers[root] = teacher.eval().requires_grad_(False)

    def _own_teacher(self, program: Program, root: nn.Module) -> nn.Module:
        """The user's own, on the device of the student; built once."""
        from wellfit.overrides.slim._builder import built
        from wellfit.overrides.slim._files import Unlike
        from wellfit.overrides.traceless import same_random_numbers

        if self._built is None:
            with program.unseen(), same_random_numbers():
                made = built(self.teacher or "", "teacher of distil")
                try:
                    self._weights.put_into(made)
                except Unlike as unlike:
                    raise WellfitError(f"teacher of distil: {unlike}") from None
                self._built = made.eval().requires_grad_(False)
        return self._built.to(next(root.parameters()).device)  # type: ignore[no-any-return]

    def after_forward(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        import torch

        from wellfit.overrides.nested import reals_in
        from wellfit.overrides.traceless import same_random_numbers

        teacher = self._teachers.get(root)
        if teacher is None or call.result is None or not is_taught(root):
            return
        with program.unseen(), same_random_numbers(), torch.no_grad():
            told = teacher(*call.args, **call.kwargs)
        pairs = list(zip(reals_in(call.result), reals_in(told)))
        self._answers[id(root)] = [(own, its) for own, its in pairs if own.shape == its.shape and own.requires_grad]

    def after_loss(self, program: Program, call: LossCall) -> None:
        """See `Override`."""
        from wellfit.overrides.slim._teaching import Untold, matched, term

        if not call.training or not self._answers:
            return
        where = f"{call.function}{here_text()}"
        try:
            told = matched(call, [pair for pairs in self._answers.values() for pair in pairs])
            with program.unseen():
                added = term(call, told, self.temperature)
        except Untold as untold:
            self.left_out(where, str(untold))
            return
        call.result = (1 - self.weight) * call.result + self.weight * added.to(call.result.dtype)
        self.changed(f"{where}: {self.weight:g} of it is the teacher's, {self._weights.file}")

    def after_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        self._answers.clear()
