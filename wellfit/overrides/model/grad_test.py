"""Whether functions of the script's own have the backward that belongs to their forward."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from wellfit.overrides.override import Override
from wellfit.overrides.places import made_at
from wellfit.overrides.words import in_short

if TYPE_CHECKING:
    from wellfit.overrides.program import Program

_TIMES = 2  # calls of a function that are looked at


@dataclass(kw_only=True, eq=False)
class GradTest(Override):
    """Whether functions of the script's own have the backward that belongs to their forward.

    What it changes: nothing. Subclasses of `torch.autograd.Function` that the script's own files define are called some
    more times, on float64 copies of what they are given in their first two calls with a gradient, and their backward is
    compared with central differences: along random directions, from the given point and from one beside it. A direction
    counts only where differences of two step sizes and of both sides agree, so not across a kink. Random numbers are
    put back.

    When it helps: after writing a backward by hand.

    Safety: safe; the program means the same. What a function counts or prints outside of itself it does more often.

    Where it does not apply: to functions that take float32 alone, draw random numbers, are nowhere smooth (rounding,
    steps), or hand on what they are given (a gradient that is reversed or scaled on purpose). What installed packages
    define is not looked at.

    References: PyTorch documentation, torch.autograd.gradcheck; Goodfellow, Bengio and Courville, Deep Learning (2016),
    section 11.5.
    """

    name = "grad-test"
    summary = "compare the backward of the script's own functions with finite differences"
    example = "grad-test"
    safe = True
    misfit = "the script calls no autograd.Function of its own that could be tested"
    looks: ClassVar[bool] = True
    rank = 96

    _times: dict[str, int] = field(default_factory=dict, init=False)
    _inside: bool = field(default=False, init=False)

    def begin(self, program: Program) -> None:
        """See `Override`."""
        import torch

        # Not `program.patch`: what is patched is a class method, which has to know the class that it is called on.
        own = vars(torch.autograd.Function)["apply"]

        def apply(function: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._inside and self._is_asked(function, args, kwargs):
                self._inside = True
                try:
                    self._look(program, function, args)
                except Exception as error:  # the script must not suffer
                    self.left_out(function.__qualname__, in_short(error))
                finally:
                    self._inside = False
            return own.__get__(None, function)(*args, **kwargs)

        torch.autograd.Function.apply = classmethod(apply)  # type: ignore[assignment,method-assign]
        program.patches.undo.append(lambda: setattr(torch.autograd.Function, "apply", own))

    def _is_asked(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        import torch

        name = f"{function.__module__}.{function.__qualname__}"
        if kwargs or not torch.is_grad_enabled() or self._times.get(name, 0) >= _TIMES or not _wanted(args):
            return False
        if made_at(function.backward) is None:
            return False
        self._times[name] = self._times.get(name, 0) + 1
        return True

    def _look(self, program: Program, function: Any, args: tuple[Any, ...]) -> None:
        import torch

        from wellfit.overrides.model._gradients import TOLERANCE, Unclear, compared
        from wellfit.overrides.traceless import same_random_numbers

        with contextlib.ExitStack() as stack:
            stack.enter_context(program.unseen())
            stack.enter_context(same_random_numbers())
            stack.enter_context(torch.no_grad())
            stack.enter_context(torch.autocast(_device(args), enabled=False))
            torch.manual_seed(0)
            try:
                found = compared(function, args, _wanted(args))
            except Unclear as unclear:
                self.left_out(function.__qualname__, str(unclear))
                return
        known = [one for one in found if not one.flat]
        if not known:
            self.left_out(function.__qualname__, "it is nowhere smooth, or its output does not move")
            return
        file, line = made_at(function.backward) or (None, None)
        for one in known:
            program.note(
                "gradient-test", function=function.__qualname__, file=file,
                line=line, argument=one.argument, error=one.error, wrong=one.wrong,
                analytic=one.analytic, numeric=one.numeric, directions=one.directions, straight=one.straight,
            )  # fmt: skip
        wrong = any(one.error > TOLERANCE for one in known)
        self.changed(f"{function.__qualname__}: backward and finite differences {'dis' * wrong}agree")


def _wanted(args: tuple[Any, ...]) -> list[int]:
    """The places of the arguments by which the script differentiates."""
    import torch

    return [
        place
        for place, arg in enumerate(args)
        if isinstance(arg, torch.Tensor) and arg.requires_grad and arg.is_floating_point() and arg.numel()
    ]


def _device(args: tuple[Any, ...]) -> str:
    import torch

    return next((arg.device.type for arg in args if isinstance(arg, torch.Tensor)), "cpu")
