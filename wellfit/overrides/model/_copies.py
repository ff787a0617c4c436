"""Copies of a model that the script made before the model's first call, or gives its weights later.

Averages of weights and target networks are made so. An override that changes the model changes them too: what is copied
between the two from then on must fit, and training begins from the same weights.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from wellfit.overrides.catalogue import as_text
from wellfit.overrides.following import follow_parameters
from wellfit.overrides.model._structure import Change, Layout, Structure, layout_of
from wellfit.overrides.override import Override
from wellfit.overrides.program import Program
from wellfit.overrides.tree import is_new, mark
from wellfit.probe.fence import say


class _Known:
    """What overrides do to the structure of a program's models.

    Attributes:
        overrides: those that do so.
        changes: what they did, in this order.
    """

    def __init__(self) -> None:
        self.overrides: list[Override] = []
        self.changes: list[tuple[Override, Change]] = []
        self._told = False

    def add(self, override: Override, change: Change) -> None:
        """Note what was done; what was done to several models alike is kept once."""
        if not any(
            other is override and (known.before, known.after) == (change.before, change.after)
            for other, known in self.changes
        ):
            self.changes.append((override, change))

    def tell(self, module: nn.Module, error: RuntimeError) -> None:
        """Weights could not be loaded: say once what overrides may have to do with it."""
        if not self._told and "loading state_dict" in str(error):
            self._told = True
            texts = ", ".join(as_text(override) for override in self.overrides)
            say(
                f"weights that do not fit were loaded into {type(module).__name__}: --override {texts} changes a model "
                "when it is first called, and weights from before that, or from another run, do not fit one after it"
            )


_known: weakref.WeakKeyDictionary[Program, _Known] = weakref.WeakKeyDictionary()
_own: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # copies that are no part of the script


def follow_loading(override: Override, program: Program) -> None:
    """From here on a model that was not called yet, and is given the weights of one whose structure overrides have
    changed, is changed in the same way first."""
    if program in _known:
        _known[program].overrides.append(override)
        return
    known = _known[program] = _Known()
    known.overrides.append(override)

    def with_load(original: Any) -> Any:
        def load_state_dict(module: Any, *args: Any, **kwargs: Any) -> Any:
            state = args[0] if args else kwargs.get("state_dict")
            if known.changes and isinstance(state, Mapping):
                with program.unseen():
                    _prepare(known.changes, module, state)
            try:
                return original(module, *args, **kwargs)
            except RuntimeError as error:
                known.tell(module, error)
                raise

        return load_state_dict

    program.patch(nn.Module, "load_state_dict", with_load)


@contextlib.contextmanager
def changing(override: Override, program: Program, root: nn.Module) -> Iterator[None]:
    """Where an override changes the structure of a model: where it fails in here, all is put back; else what it did is
    done to the copies of the model as well."""
    before, copies, said = Structure(root), _copies(override, root), len(override.changes)
    try:
        yield
    except BaseException:
        before.put_back()
        del override.changes[said:]
        raise
    change = before.change()
    if change.is_some:
        _known.setdefault(program, _Known()).add(override, change)
        _change_copies(override, program, root, copies, change)


@contextlib.contextmanager
def setting(override: Override, program: Program, root: nn.Module) -> Iterator[None]:
    """Where an override sets weights of a model: copies get the same where an optimizer trains it and not them, or them
    and not it."""
    held = {id(each) for made in program.optimizers for group in made.param_groups for each in group["params"]}

    def is_trained(model: nn.Module) -> bool:
        return any(id(parameter) in held for parameter in model.parameters())

    copies = [copy for copy in _copies(override, root) if is_trained(copy) != is_trained(root)] if held else []
    layout = layout_of(root)
    yield
    _change_copies(override, program, root, [copy for copy in copies if not _alike(root, copy, layout)])


def own_copy(root: nn.Module) -> nn.Module:
    """A copy of a model for an override's own use: no copy of the script's, which would be changed with the model."""
    made = copy.deepcopy(root)
    _own.add(made)
    return made


def is_copy_of_changed(override: Override, root: nn.Module) -> bool:
    """Whether a model has all its weights from one that an override has changed already."""
    return any(not is_new(override, other) for other in _twins(root))


def _copies(override: Override, root: nn.Module) -> list[nn.Module]:
    """The copies of a model on which an override has not acted yet."""
    return [other for other in _twins(root) if all(is_new(override, module) for module in other.modules())]


def _twins(root: nn.Module) -> list[nn.Module]:
    """The other models of its class that have the same weights."""
    kind, layout = type(root), layout_of(root)
    others = (each for each in gc.get_objects() if type(each) is kind and each is not root and each not in _own)
    return [each for each in others if _alike(root, each, layout)]


def _alike(root: nn.Module, other: nn.Module, layout: Layout) -> bool:
    """Whether two models have the same weights, each its own, that did not become so by chance."""
    try:
        if layout_of(other) != layout:
            return False
        pairs = list(zip(root.parameters(), other.parameters(), strict=True))
        if any(mine is its for mine, its in pairs) or not any(_varies(mine.detach()) for mine, _ in pairs):
            return False
        return all(torch.equal(mine.detach(), its.detach().to(mine.device, mine.dtype)) for mine, its in pairs)
    except Exception:  # one that is half made, or whose sizes are not known yet
        return False


def _varies(tensor: torch.Tensor) -> bool:
    return tensor.numel() > 1 and bool((tensor != tensor.flatten()[0]).any())


def _change_copies(
    override: Override, program: Program, root: nn.Module, copies: list[nn.Module], change: Change | None = None
) -> None:
    kind = type(root).__name__
    done = 0
    for other in copies:
        before, parameters = Structure(other), list(other.named_parameters())
        try:
            if change is not None:
                change.make(other, root)
            for mine, its in zip(root.parameters(), other.parameters(), strict=True):
                its.data.copy_(mine.detach())
            mark(override, other)
            follow_parameters(other, parameters, program.optimizers)
            done += 1
        except Exception as error:
            before.put_back()
            override.left_out(f"a copy of {kind}", f"it cannot be changed alike ({type(error).__name__}: {error})")
    if done:
        override.changed(f"{kind}: its copy too" if done == 1 else f"{kind}: its {done} copies too")


def _prepare(changes: list[tuple[Override, Change]], module: nn.Module, state: Mapping[str, Any]) -> None:
    """Change a model, or parts of it, whose weights come from one that was changed."""
    kinds = {change.before[0][1] for _, change in changes}
    done: list[str] = []
    for name, part in list(module.named_modules()):
        prefix = f"{name}." if name else ""
        if type(part) not in kinds or any(prefix.startswith(outer) for outer in done):
            continue
        before = None
        try:
            steps = _steps(changes, layout_of(part), state, prefix)
            if steps and all(is_new(override, part) for override, _ in steps):
                before = Structure(part)
                for override, change in steps:
                    change.make(part)
                    mark(override, part)
                done.append(prefix)
        except Exception:  # then it is `load_state_dict` that refuses
            if before is not None:
                before.put_back()


def _steps(
    changes: list[tuple[Override, Change]], layout: Layout, state: Mapping[str, Any], prefix: str
) -> list[tuple[Override, Change]]:
    """The changes, one after the other, that make a model of this layout one that these weights fit."""
    for number, (override, change) in enumerate(changes):
        if change.before == layout:
            further = _steps(changes[number + 1 :], change.after, state, prefix)
            if further or change.fits(state, prefix):
                return [(override, change), *further]
    return []
