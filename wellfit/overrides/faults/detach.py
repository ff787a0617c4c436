"""A model cut in two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wellfit.overrides.modules import matches, stages
from wellfit.overrides.override import Override
from wellfit.overrides.parameters import text
from wellfit.overrides.places import here_text

if TYPE_CHECKING:
    from torch import nn

    from wellfit.overrides.calls import ForwardCall
    from wellfit.overrides.program import Program
    from wellfit.overrides.trial import Trial


class Detached:
    """Forward hook: what a layer gives back has no history. A class, so that models can be copied and pickled."""

    def __call__(self, module: Any, args: Any, output: Any) -> Any:
        from wellfit.overrides.nested import mapped

        return mapped(output, lambda tensor: tensor.detach())


@dataclass(kw_only=True, eq=False)
class Detach(Override):
    """A model cut in two.

    What it changes: the output of some layers is detached from the graph, so that what stands before them gets no
    gradient by this way. The layers (or parts of the model) whose name matches `pattern`; without one that of the
    model's parts with parameters which is nearest to the middle, in the order of its definition, and can be cut off.

    When it helps: never; here to be found (`.detach()`, `.data`, `.numpy()` or `no_grad` in a forward pass).

    Safety: not safe; a fault.

    Where it does not apply: to parts that no layer follows, that give back something else than tensors (in tuples,
    lists, dictionaries or data classes), or that are never called themselves, as an `nn.ModuleList` is: mean those in
    it then (`layers.*`). Around a layer with a skip connection gradients still find a way; so they do where the order
    of the definition is not the order of the calls: give a pattern then.

    References: documentation of `torch.Tensor.detach`.
    """

    name = "detach"
    summary = "cut the graph behind a layer: what is before it gets no gradient"
    example = "detach"
    safe = False
    misfit = "no model is called that has such a layer with layers behind it"
    rank = 20

    pattern: str | None = text("names of layers, with * and ? as in a shell", default=None)

    def model(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        from wellfit.overrides.tree import acts_on, forbid_compiled, leave_fast_path, mark
        from wellfit.overrides.trial import try_call

        if not acts_on(self, root):
            return  # a copy of a model has its hooks
        forbid_compiled(root)
        name = f"{type(root).__name__}{here_text()}"
        meant = dict(self._meant(root))
        if not meant:
            self.left_out(name, "it has only one layer" if self.pattern is None else f"it has no layer {self.pattern}")
        else:
            trial = try_call(program, root, call, meant)
            fit = {part: module for part, module in meant.items() if _fits(trial, part)}
            if self.pattern is None and fit:
                first = next(iter(fit))
                meant = fit = {first: fit[first]}
            for part, module in meant.items():
                if part in fit:
                    module.register_forward_hook(Detached())
                    self.changed(f"{name}: the output of {part} is detached")
                else:
                    self.left_out(f"{part} of {name}", _misfit(trial, part))
            leave_fast_path(root, fit.values())
        mark(self, root)

    def _meant(self, root: nn.Module) -> list[tuple[str, nn.Module]]:
        """The layers that may be cut off, the best first."""
        if self.pattern is not None:
            return [(part, module) for part, module in root.named_modules() if part and _is_meant(part, self.pattern)]
        parts = stages(root)
        middle = (len(parts) - 1) // 2
        order = sorted(range(len(parts)), key=lambda number: (abs(number - middle), number))
        return [parts[number] for number in order] if len(parts) > 1 else []


def _fits(trial: Trial, part: str) -> bool:
    """Whether the output of a part can be detached, and a layer takes from it."""
    return any(call.output is not None and trial.leads_on(call) for call in trial.parts if call.name == part)


def _misfit(trial: Trial, part: str) -> str:
    calls = [call for call in trial.parts if call.name == part]
    if not calls:
        return "it is not called itself"
    if all(call.output is None for call in calls):
        return "what it gives back holds no tensors that are known"
    return "no layer follows it"


def _is_meant(name: str, pattern: str) -> bool:
    """Whether a layer's own name matches; that of a part of it does not count."""
    return matches(name, pattern) and ("." in pattern or "*" in pattern or name.count(".") == pattern.count("."))
