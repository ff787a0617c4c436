"""The bias of the forget gate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wellfit.overrides.model._loaded import may_set_weights, note_loading
from wellfit.overrides.override import Override
from wellfit.overrides.parameters import number
from wellfit.overrides.words import listed

if TYPE_CHECKING:
    from torch import nn

    from wellfit.overrides.calls import ForwardCall
    from wellfit.overrides.program import Program


@dataclass(kw_only=True, eq=False)
class ForgetBias(Override):
    """The bias of the forget gate of LSTM layers.

    What it changes: when a model is called for the first time the bias b_f in f = sigmoid(W x + U h + b_f) is set to
    `value` for every `nn.LSTM` and `nn.LSTMCell`. torch keeps two biases, whose sum counts: the second quarter
    (the order is i, f, g, o) of `bias_ih` becomes the value and that of `bias_hh` becomes 0.

    When it helps: at the start the cell then remembers (sigmoid(1) = 0.73, where 0 forgets half of everything at each
    step), so that a gradient comes back over many steps: long sequences that are not learned, vanishing.

    Safety: safe; the network can represent the same as before and only begins elsewhere.

    Where it does not apply: to LSTM layers without bias, to other recurrent layers, and to cells the script wrote; to
    models whose first call comes after the first step and whose parameters no optimizer holds (averages of weights),
    unless they are copies, which get the same biases as their model.

    References: Gers, Schmidhuber, Cummins, Learning to forget (2000); Jozefowicz, Zaremba, Sutskever, An empirical
    exploration of recurrent network architectures (2015), section 2.2: "the bias of the forget gate".
    """

    name = "forget-bias"
    summary = "let LSTM layers begin by remembering"
    example = "forget-bias=1.0"
    safe = True
    misfit = "no model has an LSTM layer with a bias"
    rank = 27

    value: float = number("the bias of the forget gate", low=-20, high=20, default=1.0)

    def begin(self, program: Program) -> None:
        """See `Override`."""
        note_loading(self, program)

    def model(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        from torch import nn

        from wellfit.overrides.model._copies import setting
        from wellfit.overrides.tree import forbid_compiled, is_new, mark

        if not may_set_weights(self, program, root):
            return
        forbid_compiled(root)
        changed = []
        with setting(self, program, root):
            for name, module in root.named_modules():
                if isinstance(module, (nn.LSTM, nn.LSTMCell)) and is_new(self, module):
                    if module.bias:
                        with program.unseen():
                            self._set(module)
                        changed.append(name or type(module).__name__)
                    else:
                        self.left_out(name or type(module).__name__, "it has no bias")
            if changed:
                self.changed(f"forget gates of {listed(changed)}: bias {self.value:g}")
        mark(self, root)

    def _set(self, module: Any) -> None:
        import torch

        hidden = module.hidden_size
        with torch.no_grad():
            for name, parameter in module.named_parameters(recurse=False):
                if name.startswith("bias_"):
                    parameter[hidden : 2 * hidden] = self.value if name.startswith("bias_ih") else 0.0
