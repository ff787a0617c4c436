"""The structure of a model: as it was before an override changed it, and what was changed, to be done to others too."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from wellfit.overrides.model._sizes import give

Shape = tuple[int, ...]
Layout = tuple[tuple[str, type, tuple[tuple[str, Shape], ...]], ...]

_REGISTERS = ("_parameters", "_buffers", "_modules")
_PLAIN = (bool, int, float, str, tuple, type(None), type(lambda: None), type(len))


def layout_of(root: nn.Module) -> Layout:
    """The modules of a model with their classes and the shapes of what they hold: alike in a model and its copies."""
    return tuple(
        (name, type(module), tuple((key, tuple(tensor.shape)) for key, tensor in _tensors(module)))
        for name, module in root.named_modules()
    )


def _tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """A module's own parameters and buffers."""
    for key, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None:
            yield key, tensor


@dataclass(eq=False)
class Change:
    """What was changed of the structure of a model. Nothing of that model is kept.

    Attributes:
        before: its layout before.
        after: its layout since.
        children: modules that were put in (without their contents), exchanged or taken away (None): holder, name.
        shapes: parameters and buffers that have another shape: module, name.
        attributes: those of a module that are others now.
        hooks: forward hooks (and those before it) that were put in: module, whether before, hook, given kwargs too.
    """

    before: Layout
    after: Layout
    children: list[tuple[str, str, nn.Module | None]]
    shapes: dict[tuple[str, str], Shape]
    attributes: list[tuple[str, str, Any]]
    hooks: list[tuple[str, bool, Any, bool]]

    @property
    def is_some(self) -> bool:
        """Whether anything was changed."""
        return bool(self.children or self.shapes or self.attributes or self.hooks)

    def fits(self, state: Mapping[str, Any], prefix: str) -> bool:
        """Whether weights are those of a model after the change, not of one before it."""
        before, after = _names(self.before), _names(self.after)
        new = {name: shape for name, shape in after.items() if before.get(name) != shape}
        gone = [name for name in before if name not in after]
        return (
            bool(new or gone)
            and all(getattr(state.get(prefix + name), "shape", None) == shape for name, shape in new.items())
            and not any(prefix + name in state for name in gone)
        )

    def make(self, other: nn.Module, source: nn.Module | None = None) -> None:
        """Change another model of the same layout in the same way; raises what goes wrong halfway.

        Args:
            source: the model that was changed: what is new is a copy of what is there. Without it that is to be loaded.
        """
        modules = dict(other.named_modules())
        like = next(other.parameters())
        for (holder, name, _), child in zip(self.children, self._children(source)):
            if child is None:
                del modules[holder]._modules[name]
                continue
            old = modules[holder]._modules.get(name)
            child = child.to(like) if like.is_floating_point() else child.to(like.device)
            modules[holder]._modules[name] = child.train((modules[holder] if old is None else old).training)
        sources = dict(source.named_modules()) if source is not None else {}
        for (name, key), shape in self.shapes.items():
            mine = dict(_tensors(modules[name]))[key]
            value = dict(_tensors(sources[name]))[key].detach() if sources else torch.zeros(shape)
            give(modules[name], key, mine, value.to(mine.device, mine.dtype, copy=True))
        for name, key, value in self.attributes:
            setattr(modules[name], key, value)
        for name, before, hook, kwargs in self.hooks:
            register: Any = modules[name].register_forward_pre_hook if before else modules[name].register_forward_hook
            register(hook, with_kwargs=kwargs)
        for module in {modules[name] for name, _ in self.shapes}:
            if isinstance(module, nn.RNNBase):
                module.flatten_parameters()

    def _children(self, source: nn.Module | None) -> list[nn.Module | None]:
        if source is not None:
            modules = dict(source.named_modules())
            # Together, as one may be held in several places.
            return copy.deepcopy([modules[holder]._modules.get(name) for holder, name, _ in self.children])
        made = copy.deepcopy([child for _, _, child in self.children])
        for child in {child for child in made if child is not None}:
            child.to_empty(device="cpu")
            for _, tensor in (pair for module in child.modules() for pair in _tensors(module)):
                tensor.detach().zero_()
        return made


def _names(layout: Layout) -> dict[str, Shape]:
    return {f"{name}.{key}".lstrip("."): shape for name, _, tensors in layout for key, shape in tensors}


class Structure:
    """The modules of a model with what they hold, as they are now."""

    def __init__(self, root: nn.Module) -> None:
        self._root = root
        self._layout = layout_of(root)
        self._held = [_Held(name, module) for name, module in root.named_modules()]

    def put_back(self) -> None:
        """Make the model what it was."""
        for held in self._held:
            held.put_back()

    def change(self) -> Change:
        """What was changed since."""
        children: list[tuple[str, str, nn.Module | None]] = []
        change = Change(self._layout, layout_of(self._root), children, {}, [], [])
        for held in self._held:
            held.look(change)
        memo = {id(tensor): _empty(tensor) for _, _, child in children if child is not None for tensor in _all(child)}
        change.children = copy.deepcopy(children, memo)
        return change


def _all(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def _empty(tensor: torch.Tensor) -> torch.Tensor:
    """The same without contents."""
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


class _Held:
    """A module as it was."""

    def __init__(self, name: str, module: nn.Module) -> None:
        self._name = name
        self._module = module
        self._attributes = dict(vars(module))
        self._registers = {key: value.copy() for key, value in vars(module).items() if _is_register(key, value)}
        self._tensors = [
            (key, tensor, tensor.data, tensor.grad if tensor.is_leaf else None) for key, tensor in _tensors(module)
        ]

    def put_back(self) -> None:
        own = vars(self._module)
        for key in [key for key in own if key not in self._attributes]:
            del own[key]
        own.update(self._attributes)
        for key, register in self._registers.items():
            own[key].clear()
            (own[key].extend if isinstance(register, list) else own[key].update)(register)
        for _, tensor, data, grad in self._tensors:
            if tensor.shape != data.shape or tensor.data_ptr() != data.data_ptr():
                tensor.data = data
                tensor.grad = grad

    def look(self, change: Change) -> None:
        """Add what is other than it was to a change."""
        module, before = self._module, self._registers["_modules"]
        for key in {**before, **module._modules}:
            child = module._modules.get(key)
            if child is not before.get(key):
                change.children.append((self._name, key, child))
        shapes = {key: data.shape for key, _, data, _ in self._tensors}
        for key, tensor in _tensors(module):
            if key in shapes and shapes[key] != tensor.shape:
                change.shapes[self._name, key] = tuple(tensor.shape)
        for key, value in vars(module).items():
            if isinstance(value, _PLAIN) and not key.startswith("_") and self._attributes.get(key) is not value:
                change.attributes.append((self._name, key, value))
        for before_it, hooks in ((False, "_forward_hooks"), (True, "_forward_pre_hooks")):
            now, with_kwargs = vars(module)[hooks], vars(module)[f"{hooks}_with_kwargs"]
            for key in [key for key in now if key not in self._registers[hooks]]:
                change.hooks.append((self._name, before_it, now[key], key in with_kwargs))


def _is_register(key: str, value: Any) -> bool:
    """Whether a module has under this name what torch knows of it: parameters, modules, hooks, a recurrent layer's
    list of weights."""
    return isinstance(value, (dict, list)) and (key in _REGISTERS or "_hooks" in key or key == "_flat_weights")
