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


class Detached:
    """Forward hook: what a layer gives back has no history. A class, so that models can be copied and pickled."""

    def __call__(self, module: Any, args: Any, output: Any) -> Any:
        from wellfit.overrides.nested import mapped

        return mapped(output, lambda tensor: tensor.detach())


@dataclass(kw_only=True, eq=False)
class Detach(Override):
    """A model cut in two.

    What it changes: the output of some layers is detached from the graph, so that what stands before them gets no
    gradient by this way. The layers (or parts of the model) whose name matches `pattern`; without one the middle of the
    model's parts with parameters, in the order of its definition.

    When it helps: never; here to be found (`.detach()`, `.data`, `.numpy()` or `no_grad` in a forward pass).

    Safety: not safe; a fault.

    Where it does not apply: to models of one layer. Around a layer with a skip connection gradients still find a way;
    so they do where the order of the definition is not the order of the calls: give a pattern then.

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
        from wellfit.overrides.tree import is_new, mark

        if not is_new(self, root):
            return  # a copy of a model has its hooks
        name = f"{type(root).__name__}{here_text()}"
        if self.pattern is None:
            parts = stages(root)
            meant = parts[(len(parts) - 1) // 2 :][:1] if len(parts) > 1 else []
        else:
            meant = [(part, module) for part, module in root.named_modules() if part and _is_meant(part, self.pattern)]
        if not meant:
            self.left_out(name, "it has only one layer" if self.pattern is None else f"it has no layer {self.pattern}")
        for part, module in meant:
            module.register_forward_hook(Detached())
            mark(self, root)
            self.changed(f"{name}: the output of {part} is detached")


def _is_meant(name: str, pattern: str) -> bool:
    """Whether a layer's own name matches; that of a part of it does not count."""
    return matches(name, pattern) and ("." in pattern or "*" in pattern or name.count(".") == pattern.count("."))
