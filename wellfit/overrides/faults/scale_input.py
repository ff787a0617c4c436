"""Input of another size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wellfit.errors import WellfitError
from wellfit.overrides.inputs import InputOverride
from wellfit.overrides.parameters import number

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wellfit.overrides.program import Program


@dataclass(kw_only=True, eq=False)
class ScaleInput(InputOverride):
    """Input of another size.

    What it changes: the first tensor x that a model is given becomes factor * x + offset, in training and in
    evaluation. 255 makes raw pixels of pixels from 0 to 1.

    When it helps: to make a program whose data were not scaled; small factors show whether a first layer can be reached
    by its gradients.

    Safety: not safe; a fault.

    Where it does not apply: to tokens and other whole numbers, to models fed by another model.

    References: LeCun et al., Efficient BackProp (1998), section 4.3.
    """

    name = "scale-input"
    summary = "multiply the model's input: data that nobody has scaled"
    example = "scale-input=255"
    safe = False
    rank = 20

    factor: float = number("factor on the input")
    offset: float = number("added to it after that", default=0.0)

    def check(self) -> None:
        """See `Override`."""
        if self.factor == 1 and self.offset == 0:
            raise WellfitError("scale-input with factor 1 and offset 0 changes nothing")

    def says(self, root: nn.Module, tensor: Tensor) -> str:
        """See `InputOverride`."""
        return f"times {self.factor:g}" + f", plus {self.offset:g}" * (self.offset != 0)

    def replaced(self, program: Program, root: nn.Module, tensor: Tensor) -> Tensor:
        """See `InputOverride`."""
        return tensor * self.factor + self.offset if tensor.is_floating_point() else tensor
