"""What the script saves goes into the run's folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wellfit.overrides.override import Override

if TYPE_CHECKING:
    from wellfit.overrides.program import Program

_FOLDER = "saved"


@dataclass(kw_only=True, eq=False)
class SaveAside(Override):
    """What the script saves goes into the run's folder.

    What it changes: `torch.save` to a file writes into the folder `saved` of the run instead, so that no checkpoint of
    another run is overwritten. For the script it is as if the file lay where it was meant to: `torch.load`,
    `os.path.exists`, `os.path.isfile`, `os.path.getsize`, `os.replace`, `os.rename`, `os.remove`, `shutil.copyfile`,
    `copy`, `copy2` and `move` find it there. A copy is made where it is meant to be.

    When it helps: in runs that only try something out; `wellfit check` sets it for all its runs.

    Safety: safe; the program means the same.

    Where it does not apply: to files that are written in another way (`open`, numpy, safetensors, TensorBoard), to
    `torch.save` into an open file, and to other processes, which look for a saved file where it was meant to be.

    References: none.
    """

    name = "save-aside"
    summary = "torch.save writes into the run's folder, and overwrites nothing"
    example = "save-aside"
    safe = True
    misfit = ""
    rank = 1

    _moved: dict[str, str] = field(default_factory=dict, init=False)  # where a file should be: where it is
    _folder: str = field(default="", init=False)

    def begin(self, program: Program) -> None:
        """See `Override`."""
        import shutil

        import torch

        self.is_met = True  # a script that saves nothing is as it was asked for
        self._folder = os.path.join(program.folder, _FOLDER)
        program.patch(torch, "save", self._with_save)
        program.patch(torch, "load", self._found)
        for name in ("exists", "isfile", "getsize"):
            program.patch(os.path, name, self._found)
        for name in ("copyfile", "copy", "copy2"):
            program.patch(shutil, name, self._with_copy)
        for name in ("replace", "rename"):
            program.patch(os, name, self._with_rename)
        for name in ("remove", "unlink"):
            program.patch(os, name, self._with_remove)

    def _with_save(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def save(obj: Any, f: Any, *args: Any, **kwargs: Any) -> Any:
            path = _path(f)
            return original(obj, f if path is None else self._aside(path), *args, **kwargs)

        return save

    def _aside(self, path: str) -> str:
        """Where to write what should go to a path."""
        if path not in self._moved:
            os.makedirs(self._folder, exist_ok=True)
            name = f"{len(os.listdir(self._folder))}-{os.path.basename(path)}"
            self._moved[path] = os.path.join(self._folder, name)
            self.changed(f"{os.path.basename(path)} is saved in the run's folder")
        return self._moved[path]

    def _found(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """A function whose first argument is a file that is there."""

        def found(f: Any, *args: Any, **kwargs: Any) -> Any:
            return original(self._moved.get(_path(f) or "", f), *args, **kwargs)

        return found

    def _with_copy(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def copy(src: Any, dst: Any, **kwargs: Any) -> Any:
            path = _path(src)
            there = self._moved.get(path or "")
            if path is not None and there is not None and os.path.isdir(dst):
                dst = os.path.join(dst, os.path.basename(path))
            return original(src if there is None else there, dst, **kwargs)

        return copy

    def _with_rename(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def rename(src: Any, dst: Any, **kwargs: Any) -> Any:
            there, wanted = self._moved.pop(_path(src) or "", None), _path(dst)
            if there is None or wanted is None:
                return original(src, dst, **kwargs)
            self._moved[wanted] = there  # the name alone moves: what has that name already stays as it is
            return None

        return rename

    def _with_remove(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def remove(path: Any, **kwargs: Any) -> Any:
            return original(self._moved.pop(_path(path) or "", path), **kwargs)

        return remove


def _path(file: Any) -> str | None:
    """An absolute path; None of what is no path (an open file, a descriptor)."""
    if not isinstance(file, (str, os.PathLike)):
        return None
    path = os.fspath(file)
    return os.path.abspath(path) if isinstance(path, str) else None
