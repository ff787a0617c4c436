"""Normalisation between the layers: put in, exchanged or taken away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wellfit.errors import WellfitError
from wellfit.overrides.override import Override
from wellfit.overrides.parameters import choice, whole
from wellfit.overrides.words import listed

if TYPE_CHECKING:
    from torch import nn

    from wellfit.overrides.calls import ForwardCall
    from wellfit.overrides.program import Program
    from wellfit.overrides.trial import Call, Trial

_KINDS = ("batch", "layer", "instance", "group", "weight", "none")
_NAME = "added_norm"


@dataclass(kw_only=True, eq=False)
class Norm(Override):
    """Normalisation between the layers: put in, exchanged or taken away.

    What it changes: with `where` = insert, what every hidden linear layer and convolution gives is normalised before it
    goes on: (y - mean) / sqrt(variance + eps) * gamma + beta with gamma = 1 and beta = 0 at first, the mean and the
    variance taken over the batch for each channel (*batch*), over all channels of a sample (*layer*; over channels
    and places after a convolution), over the places of each channel of a sample (*instance*), or over `groups` groups
    of channels of a sample (*group*). *weight* gives each unit the weight g v / |v|, with g = |v| at first. With
    exchange, the norms that are there become those. *auto*: exchange where a model has norms, else insert. *none* takes
    the norms away that are there. Running statistics begin as those of the first batch.

    When it helps: deep networks whose signal or gradient grows or shrinks from layer to layer; *layer* and *group*
    where batches are small.

    Safety: unsafe; another network is trained. *none* is a fault at depth.

    Where it does not apply: to the layers that give the model's output; to layers that a norm follows already; to the
    inside of attention and recurrent layers; to norms that the script also keeps outside of the model (in a plain
    list); *instance* where a channel has one place only. Copies of the model that the script made before, or gives its
    weights later, are changed with it; weights saved in another run do not fit.

    References: Ioffe, Szegedy, Batch normalization (2015), algorithm 1; Ba, Kiros, Hinton, Layer normalization (2016);
    Ulyanov et al., Instance normalization (2016); Wu, He, Group normalization (2018); Salimans, Kingma, Weight
    normalization (2016), equation 2.
    """

    name = "norm"
    summary = "put norms behind the hidden layers, exchange those that are there, or take them away"
    example = "norm=batch"
    safe = False
    misfit = "no model has a hidden layer to normalise, or a norm to change"
    rank = 16

    kind: str = choice("what is normalised", _KINDS)
    where: str = choice(
        "put in new ones, or exchange those that are there", ("auto", "insert", "exchange"), default="auto"
    )
    groups: int = whole("largest number of groups, for group", low=1, default=8)

    def begin(self, program: Program) -> None:
        """See `Override`."""
        from wellfit.overrides.model._copies import follow_loading

        follow_loading(self, program)

    def check(self) -> None:
        """See `Override`."""
        if self.kind == "weight" and self.where == "exchange":
            raise WellfitError("norm=weight is no layer: it can be put in only, --override norm=weight,where:insert")
        if self.kind == "none" and self.where == "insert":
            raise WellfitError("norm=none takes norms away: leave `where` out")

    def model(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        from wellfit.overrides.model._copies import changing
        from wellfit.overrides.tree import acts_on, forbid_compiled, forbid_parallel, is_new, is_norm, mark
        from wellfit.overrides.trial import try_call

        if not acts_on(self, root):
            return
        forbid_compiled(root)
        forbid_parallel(root)
        trial = try_call(program, root, call)
        present = [each for each in trial.calls if each.module is not None and is_norm(each.module)]
        present = [each for each in present if each.module is not None and is_new(self, each.module)]
        insert = self.where == "insert" or (self.where == "auto" and not present) or self.kind == "weight"
        with changing(self, program, root):
            if self.kind != "none" and insert:
                layers = [each for each in trial.layers if each.module and is_new(self, each.module)]
                new = self._insert(root, trial, layers)
            else:
                new = self._exchange(program, root, call, present)
            _first_statistics(program, root, call, new)
            mark(self, root)

    # Put in ---------------------------------------------------------------------------------------------------------

    def _insert(self, root: nn.Module, trial: Trial, layers: list[Call]) -> list[nn.Module]:
        from wellfit.overrides.tree import leave_fast_path

        new: dict[nn.Module, str] = {}
        for call in layers:
            layer = call.module
            if layer is None or layer in new or not self._takes(trial, call):
                continue
            norm = self._norm_for(call)
            if norm is not None:
                self._put(layer, norm, call)
                new[layer] = call.name
        if new:
            self.changed(f"{self.kind} norm behind {listed(new.values())}")
        leave_fast_path(root, new)
        return [getattr(layer, _NAME) for layer in new]

    def _takes(self, trial: Trial, call: Call) -> bool:
        """Whether a layer gets a norm; says so where not."""
        from torch import nn

        from wellfit.overrides.tree import is_norm

        if not isinstance(call.module, (nn.Linear, nn.modules.conv._ConvNd)):
            self.left_out(
                call.name, f"norms are put behind linear layers and convolutions, not {type(call.module).__name__}"
            )
            return False
        if trial.is_head(call.name):
            self.left_out(call.name, "it gives the model's output")
            return False
        for other in trial.calls:
            if other.module is None or not is_norm(other.module) or call not in other.sources:
                continue
            if len(other.sources) == 1 and not any(passed.activation for passed in other.passed):
                self.left_out(call.name, f"{other.name} follows it already")
                return False
        return True

    def _put(self, layer: nn.Module, norm: nn.Module, call: Call) -> None:
        from torch import nn

        from wellfit.overrides.layers.hooks import Normalise, NormaliseWeight

        linear = isinstance(layer, nn.Linear)
        layer.add_module(_NAME, norm.to(next(layer.parameters())))
        norm.train(layer.training)
        if self.kind == "weight":
            layer.register_forward_hook(NormaliseWeight(_NAME, linear, bool(getattr(layer, "transposed", False))))
        else:
            layer.register_forward_hook(Normalise(_NAME, linear))

    def _norm_for(self, call: Call) -> nn.Module | None:
        from torch import nn

        from wellfit.overrides.layers.hooks import Length, lengths

        layer: Any = call.module
        shape = call.output or ()
        linear = isinstance(layer, nn.Linear)
        places = len(shape) - 2
        if self.kind == "weight":
            return Length(lengths(layer.weight.detach(), bool(getattr(layer, "transposed", False))).clone())
        if not linear and len(shape) != layer.weight.dim():
            self.left_out(call.name, "it is called without a batch")
            return None
        channels = layer.out_features if linear else layer.out_channels
        return self._norm(channels, places, linear, call.name)

    def _norm(self, channels: int, places: int, linear: bool, name: str) -> nn.Module | None:
        """A new norm for `channels` channels, each of which has `places` axes."""
        from torch import nn

        if self.kind == "layer":
            return nn.LayerNorm(channels) if linear else nn.GroupNorm(1, channels)
        if self.kind == "group":
            return nn.GroupNorm(max(n for n in range(1, self.groups + 1) if channels % n == 0), channels)
        if self.kind == "instance":
            if places < 1 or (linear and places != 1):
                self.left_out(name, "each of its channels has one place only")
                return None
            kinds = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
            return kinds[places - 1](channels, affine=True)  # type: ignore[no-any-return]
        batch = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
        return batch[0 if linear else places](channels)

    # Exchange -------------------------------------------------------------------------------------------------------

    def _exchange(self, program: Program, root: nn.Module, call: ForwardCall, present: list[Call]) -> list[nn.Module]:
        from torch import nn

        from wellfit.overrides.model._exchange import exchange_all
        from wellfit.overrides.tree import leave_fast_path

        wanted: dict[nn.Module, tuple[str, nn.Module]] = {}
        for each in {each.module: each for each in present}.values():
            old: Any = each.module
            new = nn.Identity() if self.kind == "none" else self._instead(old, each)
            if new is not None and old is not root:
                weight = next(old.parameters(), None)
                wanted[old] = each.name, new if weight is None else new.to(weight)
        exchanged = exchange_all(self, program, root, call, wanted)
        done: dict[str, list[str]] = {}
        for old, (name, _) in exchanged.items():
            done.setdefault(type(old).__name__, []).append(name)
        for kind, names in done.items():
            self.changed(
                f"{kind} {listed(names)}: " + ("taken away" if self.kind == "none" else f"-> {self.kind} norm")
            )
        made = [new for _, new in exchanged.values()]
        leave_fast_path(root, made)
        return made

    def _instead(self, old: Any, call: Call) -> nn.Module | None:
        from torch import nn

        from wellfit.overrides.layers.norms import ChannelsLast

        same = {"batch": nn.modules.batchnorm._BatchNorm, "layer": nn.LayerNorm, "group": nn.GroupNorm}
        if isinstance(old, same.get(self.kind, nn.modules.instancenorm._InstanceNorm)):
            self.met(call.name, f"it is {self.kind} norm already")
            return None
        shape = call.output or ()
        channels = getattr(old, "num_features", getattr(old, "num_channels", None))
        if channels is not None:
            return self._norm(channels, max(len(shape) - 2, 0), len(shape) == 2, call.name)
        sizes = tuple(getattr(old, "normalized_shape", ()))  # LayerNorm and RMSNorm: over the last axes
        if len(sizes) != 1:
            self.left_out(call.name, "it does not normalise channels alone")
            return None
        norm = self._norm(sizes[0], len(shape) - 2, True, call.name)
        return norm if norm is None or len(shape) == 2 or self.kind == "layer" else ChannelsLast(norm)


def _first_statistics(program: Program, root: nn.Module, call: ForwardCall, new: list[nn.Module]) -> None:
    """Let the running statistics of new norms begin as the first batch's."""
    import torch
    from torch import nn

    from wellfit.overrides.traceless import no_trace
    from wellfit.overrides.trial import called

    norms = [m for norm in new for m in norm.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    seen: dict[nn.Module, Any] = {}

    def look(module: Any, args: Any, kwargs: Any) -> None:
        tensor = args[0] if args else kwargs["input"]
        if module not in seen and tensor.numel() > tensor.shape[1]:
            axes = [axis for axis in range(tensor.dim()) if axis != 1]
            seen[module] = tensor.mean(axes).detach().clone(), tensor.var(axes).detach().clone()

    handles = [norm.register_forward_pre_hook(look, with_kwargs=True) for norm in norms]
    try:
        with no_trace(program, root), torch.no_grad():
            called(root, call)
    finally:
        for handle in handles:
            handle.remove()
    for norm, (mean, variance) in seen.items():
        norm.running_mean.copy_(mean)  # type: ignore[union-attr,operator]
        norm.running_var.copy_(variance)  # type: ignore[union-attr,operator]
