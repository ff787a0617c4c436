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
    written by hand, SiLU as x * sigmoid(x)); softmax; the inside of nn.LSTM, nn.GRU and nn.RNN; modules that the model
    does not hold (made in its forward pass, or kept in a plain list too); what torch.jit has compiled. Copies of the
    model that the script made before, or gives its weights later, are changed with it; weights saved in another run do
    not fit where maxout added some.

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
    lasting = ("before_forward",)  # models that were changed go on

    kind: str = choice("the activation function", tuple(_KINDS))
    pieces: int = whole("linear pieces of a maxout unit", low=2, high=16, default=2)

    _exchanged: Exchanged | None = field(default=None, init=False)

    def begin(self, program: Program) -> None:
        """See `Override`."""
        import torch
        import torch.nn.functional as F
        from torch import nn

        from wellfit.overrides.layers.functional import ACTIVATION_FUNCTIONS, Exchanged
        from wellfit.overrides.model._copies import follow_loading
        from wellfit.overrides.model._scripting import keep_scriptable

        follow_loading(self, program)
        if self.kind == "maxout":

            def change(original: Any, args: Any, kwargs: Any) -> Any:
                return args[0] if args else kwargs["input"]
        else:
            new = getattr(F, self.kind.replace("-", "_")) if self.kind not in ("tanh", "sigmoid") else None
            new = new or getattr(torch, self.kind)

            def change(original: Any, args: Any, kwargs: Any) -> Any:
                return new(args[0] if args else kwargs["input"])

        self._exchanged = Exchanged(change)
        relu, wrappers = F.relu, []
        for name in ACTIVATION_FUNCTIONS:
            for holder in (F, torch, torch.Tensor):
                for each in (name, f"{name}_"):
                    if callable(getattr(holder, each, None)):
                        program.patch(holder, each, self._exchanged.wrap)
                        wrapper = getattr(holder, each)
                        if holder is torch:  # as a builtin it had none, and saved models name it
                            wrapper.__module__, wrapper.__qualname__ = "torch", each
                        if holder is not torch.Tensor:
                            wrappers.append(wrapper)
        keep_scriptable(program, wrappers)
        for layer in (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer):  # they ask: is it F.relu?
            defaults: Any = layer.__init__.__defaults__  # type: ignore[misc]
            layer.__init__.__defaults__ = tuple(F.relu if each is relu else each for each in defaults)  # type: ignore[misc]

    def model(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        from wellfit.overrides.model._copies import changing
        from wellfit.overrides.tree import acts_on, forbid_compiled, forbid_parallel, leave_fast_path, mark
        from wellfit.overrides.trial import try_call

        if not acts_on(self, root):
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
            hidden = self._with_linear(hidden)
        with changing(self, program, root), self._exchanged.undone_on_error():
            exchanged, hidden = self._modules(program, root, call, hidden, staying)
            if self.kind == "maxout":
                self._give_pieces(program, hidden)
            self._functions(hidden, staying)
            leave_fast_path(root, [*exchanged, *self._transformers(root)])
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

        from wellfit.overrides.layers.functional import ACTIVATION_MODULES

        for module, place in trial.strangers.items():
            if type(module).__name__ in ACTIVATION_MODULES:
                self.left_out(f"{type(module).__name__}{place}", "the model does not hold it")
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

    def _with_linear(self, hidden: list[Call]) -> list[Call]:
        """The activations before which stand layers that can have pieces."""
        from torch import nn

        kinds = (nn.Linear, nn.modules.conv._ConvNd)
        possible = []
        for call in hidden:
            layers = [source.module for source in call.sources]
            if not layers or not all(isinstance(layer, kinds) for layer in layers):
                self.left_out(call.name, "no linear layer stands before it")
            elif any(layer is None or "weight" not in layer._parameters for layer in layers):
                self.left_out(call.name, "the weight of the layer before it is computed from other parameters")
            else:
                possible.append(call)
        return possible

    def _give_pieces(self, program: Program, hidden: list[Call]) -> None:
        """Give the layers before these activations their pieces."""
        import copy

        from torch import nn

        from wellfit.overrides.layers.hooks import Largest

        for layer in dict.fromkeys(source.module for call in hidden for source in call.sources):
            if layer is not None and not hasattr(layer, "maxout_pieces"):
                with program.randomness():
                    pieces = [copy.deepcopy(layer) for _ in range(self.pieces - 1)]
                    for piece in pieces:
                        _reset(piece)
                layer.maxout_pieces = nn.ModuleList(pieces)
                layer.register_forward_hook(Largest(), with_kwargs=True)

    def _modules(
        self, program: Program, root: nn.Module, call: ForwardCall, hidden: list[Call], staying: list[Call]
    ) -> tuple[list[nn.Module], list[Call]]:
        """Exchange the modules; gives the new ones, and the activations without those that stay."""
        from torch import nn

        from wellfit.overrides.model._exchange import exchange_all

        stay = {each.module for each in staying}
        wanted: dict[nn.Module, tuple[str, nn.Module]] = {}
        for module in dict.fromkeys(each.module for each in hidden if each.module is not None):
            name = next(each.name for each in hidden if each.module is module)
            if module in stay:
                self.left_out(name, "the same module is also called where it has to stay")
            elif type(module).__name__ == _KINDS[self.kind]:
                self.met(name, f"it is {self.kind} already")
            else:
                wanted[module] = name, getattr(nn, _KINDS[self.kind])()
        exchanged = exchange_all(self, program, root, call, wanted)
        done: dict[str, list[str]] = {}
        for module, (name, _) in exchanged.items():
            done.setdefault(type(module).__name__, []).append(name)
        for kind, names in done.items():
            self.changed(f"{listed(names)}: {kind} -> {self.kind}")
        left = [each for each in hidden if each.module is None or each.module in exchanged]
        return [new for _, new in exchanged.values()], left

    def _functions(self, hidden: list[Call], staying: list[Call]) -> None:
        assert self._exchanged is not None
        new = self.kind.replace("-", "_")
        called = [call for call in hidden if call.site is not None]
        for call in called:
            if call.name == new:
                self.met(f"{call.name} at {call.site}", f"it is {self.kind} already")
        change = [call for call in called if call.name != new]
        sites = [call.site for call in change if call.site is not None]
        self._exchanged.add(sites, [call.site for call in staying if call.site is not None])
        for call in change:
            self.changed(f"{call.name} at {call.site} -> {self.kind}")

    def _transformers(self, root: nn.Module) -> list[nn.Module]:
        """The layers of torch's transformers keep their function in an attribute; gives those that were changed."""
        import torch
        import torch.nn.functional as F
        from torch import nn

        changed: list[nn.Module] = []
        name = self.kind.replace("-", "_")
        for where, module in root.named_modules():
            if isinstance(module, (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)) and _is_new(self, module):
                old = getattr(module.activation, "__name__", "its function")
                if isinstance(module.activation, nn.Module):
                    continue  # exchanged as a module
                named = f"{old} of {where or type(module).__name__}"
                if self.kind == "maxout":
                    self.left_out(named, "its function cannot become maxout")
                    continue
                if old == name:
                    self.met(named, f"it is {self.kind} already")
                    continue
                module.activation = getattr(F, name, None) or getattr(torch, name)
                changed.append(module)
                self.changed(f"{where or type(module).__name__}: {old} -> {self.kind}")
        return changed

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
