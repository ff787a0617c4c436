"""Training goes on from the weights in a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wellfit.overrides.model._loaded import may_set_weights, note_loading
from wellfit.overrides.override import Override
from wellfit.overrides.parameters import text

if TYPE_CHECKING:
    from torch import nn

    from wellfit.overrides.calls import ForwardCall
    from wellfit.overrides.program import Program


@dataclass(kw_only=True, eq=False)
class Start(Override):
    """Training goes on from the weights in a file.

    What it changes: when a model is called for the first time its parameters and buffers become those of the file: a
    state_dict of `torch.save`, alone or in a checkpoint under "model", "state_dict", "model_state_dict" or the like; a
    .safetensors file; a .wfz file, whose changes of the model's structure are made first. "module." and "_orig_mod."
    before names are left out. A file that has names in common with the model but lacks some, has some more or has other
    shapes ends the run. Where a .wfz file changes the structure, optimizers follow, and copies that the script has made
    of the model, and models of its class into which it loads the model's weights later.

    When it helps: to fine-tune, and to see with evaluate what a file is worth, where the script itself loads nothing.

    Safety: unsafe; the weights that the script made are lost.

    Where it does not apply: to the state of optimizers, which begin anew; to weights that the script loads or sets
    after the model's first call; to files that cannot be read without running code of theirs; to models whose first
    call comes after the first step and whose parameters no optimizer holds (averages of weights).

    References: none.
    """

    name = "start"
    summary = "begin with the weights of a file"
    example = "start=weights.safetensors"
    safe = False
    misfit = "no model is called that has the weights of the file"
    rank = 4

    file: str = text("path of a .pt, .safetensors or .wfz file")

    _weights: Any = field(default=None, init=False)

    def begin(self, program: Program) -> None:
        """See `Override`."""
        from wellfit.overrides.model._copies import follow_loading
        from wellfit.overrides.slim._files import checked_path, weights_in

        self._weights = weights_in(program, checked_path(self.file, "start"))
        note_loading(self, program)
        if self._weights.changes:
            follow_loading(self, program)

    def model(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        from wellfit.overrides.model._copies import changing, setting
        from wellfit.overrides.slim._changed import note_changes
        from wellfit.overrides.slim._files import Unlike
        from wellfit.overrides.traceless import same_random_numbers
        from wellfit.overrides.tree import forbid_compiled, forbid_parallel, mark

        if not may_set_weights(self, program, root):
            return
        if self._weights.changes:
            forbid_compiled(root)
            forbid_parallel(root)
        placing = changing if self._weights.changes else setting
        try:
            with placing(self, program, root), program.unseen(), same_random_numbers():
                count = self._weights.put_into(root)
        except Unlike as unlike:
            self.left_out(type(root).__name__, str(unlike))
            return
        note_changes(root, self._weights.changes)
        self.changed(f"{type(root).__name__}: {count} tensors are those of {self._weights.file}")
        mark(self, root)
