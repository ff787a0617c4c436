"""Other initial weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wellfit.errors import WellfitError
from wellfit.overrides.model._loaded import may_set_weights, note_loading
from wellfit.overrides.model._weights import Weight, gain_after, weights_of
from wellfit.overrides.override import Override
from wellfit.overrides.parameters import choice, number, text
from wellfit.overrides.words import listed

if TYPE_CHECKING:
    import torch
    from torch import nn

    from wellfit.overrides.calls import ForwardCall
    from wellfit.overrides.program import Program
    from wellfit.overrides.trial import Trial

_KINDS = ("he", "xavier", "orthogonal", "lsuv", "normal", "scale", "zeros")


@dataclass(kw_only=True, eq=False)
class Init(Override):
    """Other initial weights.

    What it changes: when a model is called for the first time its weights (parameters of two dimensions and more, but
    for norms and embeddings) are set anew, and the biases beside them to 0. *he*: normal, with standard deviation
    gain / sqrt(fan_in), the gain being that of the activation that follows (sqrt 2 for ReLU and its smooth relatives,
    1 at the model's end). *xavier*: uniform within sqrt(6 / (fan_in + fan_out)). *orthogonal*: a random orthogonal
    matrix times the same gain as for he. *lsuv*: orthogonal, then each layer in the order of the calls is scaled until
    its output for the first batch has variance 1. *normal*: standard deviation `std`. *zeros*: all weights 0, the
    classic fault: units stay alike, and behind two such layers no gradient comes. *scale*: what is there times
    `factor`; biases stay. Each gate of a recurrent layer counts as a matrix of its own.

    When it helps: where wellfit finds init-gain, vanishing, exploding, dead-units or initial-loss.

    Safety: unsafe; another network is trained, and pretrained weights are lost.

    Where it does not apply: to weights shared with an embedding, or from which a weight is computed (weight
    normalisation), which are left out; to weights that the script loads or sets after the model's first call; to models
    whose first call comes after the first step and whose parameters no optimizer holds (averages of weights), unless
    they are copies, which get the same weights as their model.

    References: Glorot, Bengio, Understanding the difficulty of training deep feedforward neural networks (2010),
    equation 16; He et al., Delving deep into rectifiers (2015), equation 10; Saxe, McClelland, Ganguli, Exact solutions
    to the nonlinear dynamics of learning (2014); Mishkin, Matas, All you need is a good init (2016), algorithm 1.
    """

    name = "init"
    summary = "other initial weights: he, xavier, orthogonal, lsuv, normal, scale, zeros"
    example = "init=he"
    safe = False
    misfit = "no model has a layer of that name with weights"
    rank = 22

    kind: str = choice("the way of initialising", _KINDS)
    layers: str = text("pattern of module names (`*` and `?`)", default="*")
    std: float | None = number("standard deviation, for normal only", above=0, default=None)
    factor: float | None = number("factor, for scale only", low=0, default=None)

    def check(self) -> None:
        """See `Override`."""
        for kind, value, word in (("normal", self.std, "std:0.02"), ("scale", self.factor, "factor:0.1")):
            if (self.kind == kind) != (value is not None):
                raise WellfitError(
                    f"init={kind} needs its number: --override init={kind},{word}"
                    if value is None
                    else f"{word.split(':')[0]} of init belongs to {kind}: --override init={kind},{word}"
                )

    def begin(self, program: Program) -> None:
        """See `Override`."""
        note_loading(self, program)

    def model(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        from wellfit.overrides.model._copies import setting
        from wellfit.overrides.tree import forbid_compiled, forbid_parallel, is_new, mark
        from wellfit.overrides.trial import try_call

        if not may_set_weights(self, program, root):
            return
        forbid_compiled(root)
        forbid_parallel(root)
        weights = [weight for weight in self._weights(root) if is_new(self, weight.module)]
        if weights:
            needs_trial = self.kind in ("he", "orthogonal", "lsuv")
            trial = try_call(program, root, call) if needs_trial else None
            with setting(self, program, root):
                with program.randomness(), program.unseen():
                    gains = [self._set(weight, trial) for weight in weights]
                if self.kind == "lsuv":
                    self._unit_variance(program, root, call, {weight.layer for weight in weights})
                self._say(listed(weight.layer for weight in weights), gains)
        mark(self, root)

    def _weights(self, root: nn.Module) -> list[Weight]:
        from torch import nn

        embeddings = {
            id(module.weight) for module in root.modules() if isinstance(module, (nn.Embedding, nn.EmbeddingBag))
        }
        found: list[Weight] = []
        shared: dict[int, str] = {}  # by parameter the layer with which it is set
        for weight in weights_of(root, self.layers):
            if id(weight.parameter) in embeddings:
                self.left_out(weight.layer, "its weight is also an embedding's")
            elif weight.obstacle:
                self.left_out(weight.layer, weight.obstacle)
            elif id(weight.parameter) in shared:
                self.left_out(weight.layer, f"its weight is that of {shared[id(weight.parameter)]}")
            elif self.kind == "lsuv" and (weight.recurrent or weight.name != "weight"):
                self.left_out(weight.layer, "the variance of what it gives is not set by its weight alone")
            else:
                found.append(weight)
                shared[id(weight.parameter)] = weight.layer
        return found

    def _set(self, weight: Weight, trial: Trial | None) -> str:
        """Set one weight; returns the activation that it was made for."""
        import torch

        gain, activation = 1.0, ""
        if trial is not None and not weight.recurrent:
            gain, activation = gain_after(trial, weight.layer.removesuffix(".maxout_pieces"))
        with torch.no_grad():
            for part in weight.parts():
                if self.kind == "scale":
                    part.mul_(self.factor or 0.0)
                else:  # drawn on the CPU: the generators of other devices are the script's
                    wide = torch.promote_types(part.dtype, torch.float32)  # not all can be drawn with less precision
                    part.copy_(self._drawn(torch.empty(part.shape, dtype=wide), gain))
            if self.kind != "scale" and weight.bias is not None:
                weight.bias.zero_()
        return activation if self.kind in ("he", "orthogonal") else ""

    def _drawn(self, empty: torch.Tensor, gain: float) -> torch.Tensor:
        from torch import nn

        if self.kind == "he":
            fan_in, _ = nn.init._calculate_fan_in_and_fan_out(empty)
            return nn.init.normal_(empty, 0.0, gain / fan_in**0.5)
        if self.kind == "xavier":
            return nn.init.xavier_uniform_(empty)
        if self.kind == "normal":
            return nn.init.normal_(empty, 0.0, self.std or 0.0)
        if self.kind == "zeros":
            return nn.init.zeros_(empty)
        return nn.init.orthogonal_(empty, gain if self.kind == "orthogonal" else 1.0)

    def _unit_variance(self, program: Program, root: nn.Module, call: ForwardCall, names: set[str]) -> None:
        """Mishkin & Matas's algorithm in one pass: a layer is scaled before what it gives goes on."""
        import torch

        from wellfit.overrides.traceless import no_trace
        from wellfit.overrides.trial import called, leaves

        done: set[str] = set()

        def scale(name: str) -> Any:
            def hook(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
                if name in done or not isinstance(output, torch.Tensor):
                    return None
                done.add(name)
                for _ in range(10):
                    deviation = float(output.std())
                    if not 0 < deviation < float("inf") or abs(deviation**2 - 1) < 0.01:
                        break
                    module.weight.div_(deviation)
                    output = module.forward(*args, **kwargs)
                return output

            return hook

        with no_trace(program, root), torch.no_grad():
            handles = [
                module.register_forward_hook(scale(name), prepend=True, with_kwargs=True)
                for name, module in leaves(root)
                if name in names
            ]
            try:
                called(root, call)
            finally:
                for handle in handles:
                    handle.remove()

    def _say(self, names: str, gains: list[str]) -> None:
        how = {"normal": f"normal, standard deviation {self.std}", "scale": f"times {self.factor}"}.get(
            self.kind, self.kind
        )
        before = sorted({gain for gain in gains if gain not in ("", "nothing")})
        self.changed(f"weights of {names}: {how}" + (f" (gain for {', '.join(before)})" if before else ""))
