"""Another activation function between the layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wellfit.errors import WellfitError
from wellfit.overrides.override import Override
from wellfit.overrides.parameters import choice, whole
from wellfit.overrides.words import listed

if TYPE_CHECKING:
    from torch import nn

    from wellfit.overrides.calls import ForwardCall
    from wellfit.overrides.layers.functional import Exchanged
    from wellfit.overrides.program import Program
    from wellfit.overrides.trial import Call, Trial

_KINDS = {
    "relu": "ReLU", "leaky-relu": "LeakyReLU", "elu": "ELU", "selu": "SELU", "gelu": "GELU", "silu": "SiLU",
    "tanh": "Tanh", "sigmoid": "Sigmoid", "maxout": "Identity",
}  # fmt: skip


@dataclass(kw_only=True, eq=False)
class Activation(Override):
    """Another activation function between the layers.

    What it changes: every activation whose output goes into a layer with weights becomes the given one, with torch's
    own settings (leaky-relu with slope 0.01, gelu with the normal distribution): modules (`nn.ReLU`) and functions
    (`F.relu`, `torch.relu`, `x.relu()`). *maxout*: the layer before gives the largest of `pieces` linear maps, each
    with weights of its own, max_j (x W_j + b_j), and the activation falls away. The weights stay as they were
    initialised (`--override init=he` suits them to the new function).

    When it helps: sigmoid and tanh saturate (saturated, vanishing), ReLU units die (dead-units).

    Safety: unsafe; another network is trained.

    Where it does not apply: activations at the model's end; values that are multiplied with others (the gates of cells
    written by hand, SiLU as x * sigmoid(x)); softmax; the inside of nn.LSTM, nn.GRU and nn.RNN.

    References: Goodfellow, Bengio, Courville, Deep Learning (2016), chapter 6.3; Glorot, Bordes, Bengio, Deep sparse
    rectifier neural networks (2011); Klambauer et al., Self-normalizing neural networks (2017); Goodfellow et al.,
    Maxout networks (2013), section 3.
    """

    name = "activation"
    summary = "another activation function between the layers"
    example = "activation=relu"
    safe = False
    misfit = "no model has an activation function between two layers"
    rank = 14

    kind: str = choice("the activation function", tuple(_KINDS))
    pieces: int = whole("linear pieces of a maxout unit", low=2, high=16, default=2)

    _exchanged: Exchanged | None = field(default=None, init=False)

    def begin(self, program: Program) -> None:
        """See `Override`."""
        import torch
        import torch.nn.functional as F
        from torch import nn

        from wellfit.overrides.layers.functional import ACTIVATION_FUNCTIONS, Exchanged

        if self.kind == "maxout":

            def change(original: Any, args: Any, kwargs: Any) -> Any:
                return args[0] if args else kwargs["input"]
        else:
            new = getattr(F, self.kind.replace("-", "_")) if self.kind not in ("tanh", "sigmoid") else None
            new = new or getattr(torch, self.kind)

            def change(original: Any, args: Any, kwargs: Any) -> Any:
                return new(args[0] if args else kwargs["input"])

        self._exchanged = Exchanged(change)
        relu = F.relu
        for name in ACTIVATION_FUNCTIONS:
            for holder in (F, torch, torch.Tensor):
                for each in (name, f"{name}_"):
                    if callable(getattr(holder, each, None)):
                        program.patch(holder, each, self._exchanged.wrap)
                        if holder is torch:  # as a builtin it had none, and saved models name it
                            wrapper = getattr(holder, each)
                            wrapper.__module__, wrapper.__qualname__ = "torch", each
        for layer in (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer):  # they ask: is it F.relu?
            defaults: Any = layer.__init__.__defaults__  # type: ignore[misc]
            layer.__init__.__defaults__ = tuple(F.relu if each is relu else each for each in defaults)  # type: ignore[misc]

    def model(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        from wellfit.overrides.tree import forbid_compiled, forbid_parallel, is_new, mark
        from wellfit.overrides.trial import try_call

        if not is_new(self, root):
            return
        forbid_compiled(root)
        if self.kind == "maxout":
            forbid_parallel(root)
        assert self._exchanged is not None
        self._exchanged.asleep = True  # another model of this class may have been here before
        try:
            trial = try_call(program, root, call)
        finally:
            self._exchanged.asleep = False
        staying, hidden = self._sorted(trial)
        if self.kind == "maxout":
            hidden = self._with_pieces(program, hidden)
        self._modules(root, hidden, staying)
        self._functions(hidden, staying)
        self._transformers(root)
        self._again(program, root, call)
        mark(self, root)

    def before_forward(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        if self._exchanged is not None and self._exchanged.some:
            from wellfit.overrides.layers.functional import begin_forward

            begin_forward()

    def _sorted(self, trial: Trial) -> tuple[list[Call], list[Call]]:
        """The activations that stay, with the reason said, and those that are changed."""
        from torch import nn

        staying, hidden = [], []
        for call in trial.calls:
            if isinstance(call.module, (nn.RNNBase, nn.RNNCellBase)):
                self.left_out(call.name, "the functions inside a recurrent layer are its own")
            if call.activation is None or (call.module is not None and not _is_new(self, call.module)):
                continue
            where = f"{call.name} at {call.site}" if call.site is not None else call.name
            if not trial.hidden(call):
                self.left_out(where, "no layer follows it")
                staying.append(call)
            elif call.gates:
                self.left_out(where, "it is multiplied with another value, as a gate is")
                staying.append(call)
            else:
                hidden.append(call)
        return staying, hidden

    def _with_pieces(self, program: Program, hidden: list[Call]) -> list[Call]:
        """Give the layers before these activations their pieces; returns the activations where that is possible."""
        import copy

        from torch import nn

        from wellfit.overrides.layers.hooks import Largest

        possible = []
        for call in hidden:
            before = {source.module for source in call.sources}
            kinds = (nn.Linear, nn.modules.conv._ConvNd)
            if not before or not all(isinstance(layer, kinds) for layer in before):
                self.left_out(call.name, "no linear layer stands before it")
                continue
            possible.append(call)
            for layer in before:
                assert layer is not None
                if not hasattr(layer, "maxout_pieces"):
                    with program.randomness():
                        pieces = [copy.deepcopy(layer) for _ in range(self.pieces - 1)]
                        for piece in pieces:
                            _reset(piece)
                    layer.maxout_pieces = nn.ModuleList(pieces)
                    layer.register_forward_hook(Largest())
        return possible

    def _modules(self, root: nn.Module, hidden: list[Call], staying: list[Call]) -> None:
        from torch import nn

        from wellfit.overrides.tree import exchange

        stay = {call.module for call in staying}
        done: dict[str, list[str]] = {}
        for module in dict.fromkeys(call.module for call in hidden if call.module is not None):
            name = next(call.name for call in hidden if call.module is module)
            if module in stay:
                self.left_out(name, "the same module is also called where it has to stay")
                continue
            if type(module).__name__ == _KINDS[self.kind]:
                continue
            exchange(root, module, getattr(nn, _KINDS[self.kind])())
            done.setdefault(type(module).__name__, []).append(name)
        for kind, names in done.items():
            self.changed(f"{listed(names)}: {kind} -> {self.kind}")

    def _functions(self, hidden: list[Call], staying: list[Call]) -> None:
        assert self._exchanged is not None
        new = self.kind.replace("-", "_")
        change = [call for call in hidden if call.site is not None and call.name != new]
        sites = [call.site for call in change if call.site is not None]
        self._exchanged.add(sites, [call.site for call in staying if call.site is not None])
        for call in change:
            self.changed(f"{call.name} at {call.site} -> {self.kind}")

    def _transformers(self, root: nn.Module) -> None:
        """The layers of torch's transformers keep their function in an attribute."""
        import torch
        import torch.nn.functional as F
        from torch import nn

        for name, module in root.named_modules():
            if isinstance(module, (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)) and _is_new(self, module):
                if self.kind == "maxout":
                    self.left_out(name, "a transformer layer's function cannot become maxout")
                    continue
                if isinstance(module.activation, nn.Module):
                    continue  # exchanged as a module
                old = getattr(module.activation, "__name__", "its function")
                module.activation = getattr(F, self.kind.replace("-", "_"), None) or getattr(torch, self.kind)
                module.activation_relu_or_gelu = 0  # torch's fast path knows these two only
                self.changed(f"{name}: {old} -> {self.kind}")

    def _again(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """A second trial shows whether the model still works, and which functions could not be exchanged."""
        from wellfit.overrides.trial import try_call

        new = "" if self.kind == "maxout" else self.kind.replace("-", "_")
        trial = try_call(program, root, call)
        for left in trial.calls:
            if left.kind == "function" and left.activation not in (None, new) and trial.hidden(left) and not left.gates:
                assert left.site is not None
                if self._exchanged is not None and left.site.key in self._exchanged.all:
                    raise WellfitError(f"{left.name} at {left.site} is held where it cannot be exchanged")


def _is_new(override: Override, module: nn.Module) -> bool:
    from wellfit.overrides.tree import is_new

    return is_new(override, module)


def _reset(layer: Any) -> None:
    """Draw a layer's weights anew, by the rule of its class, on the CPU: other generators are the script's."""
    device = layer.weight.device
    layer.to("cpu")
    layer.reset_parameters()
    layer.to(device)
