"""Another kind of recurrent layer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wellfit.errors import WellfitError
from wellfit.overrides.override import Override
from wellfit.overrides.parameters import choice

if TYPE_CHECKING:
    from torch import nn

    from wellfit.overrides.calls import ForwardCall
    from wellfit.overrides.program import Program


@dataclass(kw_only=True, eq=False)
class Recurrent(Override):
    """Another kind of recurrent layer.

    What it changes: every `nn.RNN`, `nn.GRU` and `nn.LSTM`, and every cell of these, becomes one of the given kind with
    the same sizes and settings and with new weights. The script goes on with the states it knows: where it was written
    for one state, h, an LSTM keeps its c beside the h that it gives and finds it again when that h comes back, also
    detached; to any other state it is given as h belongs c = 0. Where it was written for (h, c), a GRU or RNN gives
    (h, h) and takes the first of the two.

    When it helps: rnn -> lstm or gru where a gradient has to come back over many steps (vanishing, exploding).

    Safety: unsafe; another network is trained.

    Where it does not apply: classes that the script derived from torch's, cells it wrote itself, LSTM with projection;
    an LSTM cell for a script that changes its state between two steps (a mask, dropout): c would be lost at each;
    layers that the script also keeps outside of the model (in a plain list). Copies of the model that the script made
    before, or gives its weights later, are changed with it; weights saved in another run do not fit.

    References: Hochreiter, Schmidhuber, Long short-term memory (1997); Cho et al., Learning phrase representations
    using RNN encoder-decoder (2014), section 2.3.
    """

    name = "recurrent"
    summary = "another kind of recurrent layer: rnn, gru, lstm"
    example = "recurrent=lstm"
    safe = False
    misfit = "no model has a recurrent layer of another kind"
    rank = 10

    kind: str = choice("the kind", ("rnn", "gru", "lstm"))

    def begin(self, program: Program) -> None:
        """See `Override`."""
        from wellfit.overrides.model._copies import follow_loading

        follow_loading(self, program)

    def model(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        from wellfit.overrides.model._copies import changing
        from wellfit.overrides.model._exchange import exchange_all
        from wellfit.overrides.tree import acts_on, forbid_compiled, forbid_parallel, is_new, mark

        if not acts_on(self, root):
            return
        forbid_compiled(root)
        wanted: dict[nn.Module, tuple[str, nn.Module]] = {}
        for name, old in list(root.named_modules()):
            new = self._new(program, name or type(old).__name__, old) if is_new(self, old) else None
            if new is not None:
                if old is root:
                    raise WellfitError(
                        "the model is nothing but a recurrent layer: the script holds it, so it cannot be exchanged"
                    )
                wanted[old] = name, new
        if wanted:
            forbid_parallel(root)
            with changing(self, program, root):
                exchanged = exchange_all(self, program, root, call, wanted)
                _whole_states(exchanged.values())
                mark(self, root)
                for old, (name, _) in exchanged.items():
                    cell = "Cell" if type(old).__name__.endswith("Cell") else ""
                    self.changed(f"{name}: {type(old).__name__} -> {self.kind.upper()}{cell}")
        mark(self, root)

    def _new(self, program: Program, name: str, old: Any) -> nn.Module | None:
        """The layer that takes the place of another; None if that stays."""
        from torch import nn

        from wellfit.overrides.layers import recurrent as layers

        if not isinstance(old, (nn.RNNBase, nn.RNNCellBase)):
            return None
        if type(old).__module__ != nn.RNN.__module__:
            self.left_out(name, "its class is the script's own")
            return None
        was = {"RNN": "rnn", "GRU": "gru", "LSTM": "lstm"}[type(old).__name__.removesuffix("Cell")]
        if was == self.kind or vars(old).get("proj_size"):
            if was == self.kind:
                self.met(name, "it is one already")
            else:
                self.left_out(name, "it has a projection")
            return None
        word = self.kind.upper() + ("Cell" if isinstance(old, nn.RNNCellBase) else "")
        if self.kind == "lstm":
            made: Any = getattr(layers, f"{word}WithOneState")
        else:
            made = getattr(layers, f"{word}WithTwoStates") if was == "lstm" else getattr(nn, word)
        bias = bool(old.bias)
        with program.randomness():
            if isinstance(old, nn.RNNCellBase):
                new = made(old.input_size, old.hidden_size, bias=bias)
            else:
                new = made(
                    old.input_size, old.hidden_size, old.num_layers, bias=bias, batch_first=old.batch_first,
                    dropout=old.dropout, bidirectional=old.bidirectional,
                )  # fmt: skip
        return new.to(next(old.parameters()))  # type: ignore[no-any-return]


def _whole_states(exchanged: Iterable[tuple[str, Any]]) -> None:
    """Refuse where an LSTM would lose its cell between two steps of one call."""
    from wellfit.overrides.layers.recurrent import foreign_states

    for name, new in exchanged:
        if foreign_states.pop(new, 0) > 1:
            raise WellfitError(
                f"the script changes the state of {name} between two steps, and an LSTM's cell would be lost there"
            )
