"""Runs at the start of every Python process of a watched command, and waits for torch.

`wellfit run` puts this folder first on PYTHONPATH. So this file must work in any Python 3, import nothing but `sys` and
`os` before torch is there, and leave no trace: it takes its folder off `sys.path`, and ends by importing the
`sitecustomize` that Python would have found without it (whose errors, and whose absence, `site` then sees as ever).
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any


def _arrive(torch: "Any", path: "list[str]", run: "str") -> None:
    """Load `arrive.py` by its file, under no user's name or path, and let it attach; never raise an error of ours."""
    try:
        _note(run, "imported")
        folder = os.path.dirname(os.path.dirname(os.path.abspath(_FILE)))
        external = sys.modules["_frozen_importlib_external"]
        loader = external.SourceFileLoader("wellfit.probe.arrive", os.path.join(folder, "arrive.py"))
        names: dict[str, Any] = {
            "__name__": "wellfit.probe.arrive",
            "__file__": loader.path,
            "__builtins__": __builtins__,
        }
        exec(loader.get_code("wellfit.probe.arrive"), names)
        names["arrive"](torch, path, run, os.environ.get("WELLFIT_OPTIONS", "{}"))
    except Exception as error:
        try:
            _note(run, f"failed {type(error).__name__}: {error}")
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            sys.stderr.write(f"wellfit: could not attach ({reason}); the script runs unwatched\n")
        except Exception:  # stderr is closed or broken: there is nobody left to tell
            return


def _note(run: "str", text: "str") -> None:
    """Leave a line for the parent, which must tell "no torch" from "no training"."""
    try:
        file = os.open(os.path.join(run, "torch.txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(file, (text.replace("\n", " ") + "\n").encode("utf-8", "replace"))
        finally:
            os.close(file)
    except OSError:  # the folder is gone or read-only: the parent will know less
        return


class _TorchFinder:
    """First on `sys.meta_path` until torch has been imported: lets the others find it and wraps its execution."""

    def __init__(self, path: "list[str]", run: "str") -> None:
        self.path = path
        self.run = run

    def find_spec(self, name: "str", path: "Any" = None, target: "Any" = None) -> "Any":
        if name != "torch":
            return None
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            if finder is self or find is None:
                continue
            spec = find(name, path, target)
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    self._wrap(spec.loader)
                return spec
        return None

    def _wrap(self, loader: "Any") -> None:
        plain = loader.exec_module

        def exec_module(module: "Any") -> None:
            plain(module)
            if module.__name__ == "torch":
                loader.__dict__.pop("exec_module", None)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                    _arrive(module, self.path, self.run)

        exec_module.__code__ = _as_importlib(exec_module.__code__)
        try:
            loader.exec_module = exec_module
        except AttributeError:  # a loader of a foreign kind, without a __dict__: torch is imported unwatched
            return


def _as_importlib(code: "CodeType") -> "CodeType":
    """The same code under importlib's file name: Python leaves such frames out of the traceback of a failing import."""
    return code.replace(co_filename="<frozen importlib._bootstrap_external>")


def _start() -> None:
    folder = os.path.dirname(_FILE)  # exactly the entry of sys.path that led here
    sys.path[:] = [entry for entry in sys.path if entry != folder]
    sys.path_importer_cache.pop(folder, None)
    run = os.environ.get("WELLFIT_RUN")
    if not run:
        return
    path = list(sys.path)
    if "torch" in sys.modules:
        _arrive(sys.modules["torch"], path, run)
    else:
        _TorchFinder.find_spec.__code__ = _as_importlib(_TorchFinder.find_spec.__code__)
        sys.meta_path.insert(0, _TorchFinder(path, run))


_FILE = __file__
_start()
# As if this file had never been: the next `sitecustomize` takes its name. If there is none, the ImportError that
# names it goes to `site`, which expects it.
sys.modules.pop("sitecustomize", None)
import sitecustomize  # type: ignore[import-not-found]  # noqa: E402, F401
