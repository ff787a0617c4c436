"""What each operation of torch does with the labels of its tensors. One table in each file, joined here.

An operation that no table has, or that does with an axis what cannot be followed, freezes what goes into it.
"""

from __future__ import annotations

from wellfit.slim.methods.coupled.operations.contractions import CONTRACTIONS
from wellfit.slim.methods.coupled.operations.elementwise import ELEMENTWISE, made, pointwise
from wellfit.slim.methods.coupled.operations.layers import LAYERS
from wellfit.slim.methods.coupled.operations.reductions import REDUCTIONS
from wellfit.slim.methods.coupled.operations.shapes import SHAPES
from wellfit.slim.methods.coupled.trace import Call, Rule

_RULES: dict[str, Rule] = {**ELEMENTWISE, **SHAPES, **REDUCTIONS, **CONTRACTIONS, **LAYERS}


def rule_of(call: Call) -> Rule:
    """The rule for a call of an operator."""
    if (rule := _RULES.get(call.name)) is not None:
        return rule
    if not call.tensors():
        return made
    return pointwise if call.pointwise else Call.freeze_all
