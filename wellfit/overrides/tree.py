"""What an override must know of a model before it changes it: its leaves, what was changed before, what forbids it."""

from __future__ import annotations

from collections.abc import Container

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from wellfit.errors import WellfitError
from wellfit.overrides.override import Override
from wellfit.overrides.places import here_text

_MARK = "_wellfit_overrides"
_CONTAINERS = (
    nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder,
    nn.TransformerEncoderLayer, nn.TransformerDecoderLayer,
)  # fmt: skip
_PARALLEL = ("DistributedDataParallel", "FullyShardedDataParallel", "DataParallel")


def is_leaf(module: nn.Module) -> bool:
    """Whether a module counts as one layer: one of torch's that is no container, or one without modules inside."""
    if isinstance(module, _CONTAINERS):
        return False
    return not module._modules or any(
        kind.__module__.startswith("torch.nn.modules.") for kind in type(module).__mro__[:-2] if kind is not nn.Module
    )


def is_norm(module: nn.Module) -> bool:
    """Whether a module is one of torch's normalisations."""
    return isinstance(
        module, (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)
    )


def is_layer(module: nn.Module) -> bool:
    """Whether a leaf mixes its inputs with weights: a linear map, a convolution, an embedding, a recurrent layer."""
    return not is_norm(module) and any(parameter.dim() >= 2 for parameter in module.parameters())


def is_new(override: Override, module: nn.Module) -> bool:
    """Whether an override has not acted on a module yet, nor on the one of which it is a copy."""
    return override.name not in vars(module).get(_MARK, ())


def acts_on(override: Override, root: nn.Module) -> bool:
    """Whether an override may change a model: it has not done so yet, and the sizes of all layers are known.

    Says so where they are not: a trial would decide them, and draw their weights, in the place of the script.
    """
    if not is_new(override, root):
        return False
    lazy = next((name for name, module in root.named_modules() if has_lazy(module)), None)
    if lazy is not None:
        where = f"{type(root).__name__}{here_text()}"
        override.left_out(where, f"{lazy or 'it'} is lazy: before its first call its sizes are not known")
    return lazy is None


def has_lazy(module: nn.Module) -> bool:
    """Whether torch has yet to make parameters or buffers of a module's own (`nn.LazyLinear` before its first call)."""
    held = (*module._parameters.values(), *module._buffers.values())
    return any(tensor is not None and is_lazy(tensor) for tensor in held)


def mark(override: Override, root: nn.Module) -> None:
    """An override has acted on a model: copies of it, and parts that are called by themselves, stay as they are."""
    for module in root.modules():
        if is_new(override, module):
            vars(module)[_MARK] = (*vars(module).get(_MARK, ()), override.name)


def forbid_compiled(root: nn.Module) -> None:
    """Refuse a model that a compiler has been given, as it runs another program than the one that can be changed.

    Raises:
        WellfitError: it is one.
    """
    for module in root.modules():
        if type(module).__name__ == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None:
            raise WellfitError("the model is compiled (torch.compile): leave that out for this run")
        if isinstance(module, torch.jit.ScriptModule):
            raise WellfitError("the model is scripted (torch.jit): leave that out for this run")


def forbid_parallel(root: nn.Module) -> None:
    """Refuse a model whose processes have agreed on its parameters.

    Raises:
        WellfitError: it is one.
    """
    wrapper = next((type(m).__name__ for m in root.modules() if type(m).__name__ in _PARALLEL), None)
    if wrapper is not None:
        raise WellfitError(f"the model is in {wrapper}, which has noted its parameters: run it in one process")


def leave_fast_path(root: nn.Module, changed: Container[nn.Module]) -> None:
    """Let torch's transformers call their modules, where some of these were changed.

    The fast path of evaluation computes an encoder's layer without calling what is in it, and hands the layers a nested
    tensor, which they do not take when they are called.
    """
    for module in root.modules():
        if isinstance(module, nn.TransformerEncoderLayer) and any(part in changed for part in module.modules()):
            module.activation_relu_or_gelu = 0
        elif isinstance(module, nn.TransformerEncoder) and any(part in changed for part in module.modules()):
            module.use_nested_tensor = False


def holders(root: nn.Module, module: nn.Module) -> list[tuple[nn.Module, str]]:
    """Where in a model a module is held: (holder, name), once for each."""
    return [(parent, name) for parent in root.modules() for name, child in parent._modules.items() if child is module]


def exchange(root: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in the place of another, everywhere in a model; the mode (training or not) goes over."""
    new.train(old.training)
    for parent, name in holders(root, old):
        parent._modules[name] = new
