"""Which changes of its structure a model has gone through, as files of weights tell them."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from torch import nn

_made: weakref.WeakKeyDictionary[nn.Module, tuple[Any, ...]] = weakref.WeakKeyDictionary()


def note_changes(root: nn.Module, changes: Sequence[Any]) -> None:
    """A model was changed.

    Args:
        changes: as JSON, see `wellfit.slim.changes.as_json`.
    """
    _made[root] = (*_made.get(root, ()), *changes)


def changes_of(root: nn.Module) -> list[Any]:
    """All that a model went through, as JSON, in its order."""
    return list(_made.get(root, ()))
