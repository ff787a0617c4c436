"""From the bootstrap to `attach`: imports the probe where the user's own files can neither shadow it nor be shadowed.

The script's folder comes first on `sys.path`, so a user's `json.py` or `grp.py` is what `import json` finds. The probe
needs the true ones, the user goes on with theirs: while the probe is imported, `sys.path` is the one of the start of
the process and shadowed standard modules are out of the way; afterwards everything is as it was.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

if sys.version_info < (3, 10):  # the user's Python may be any  # noqa: UP036
    raise RuntimeError(f"wellfit needs Python 3.10 or newer, this is {sys.version.split()[0]}")

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def _standard_folders() -> tuple[str, ...]:
    """Folders of the standard library, as named and as they really are, each with its separator at the end."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    named = [os.path.dirname(os.path.abspath(os.__file__))]
    named += [os.path.join(prefix, sys.platlibdir, version) for prefix in (sys.base_prefix, sys.base_exec_prefix)]
    return tuple({form + os.sep for folder in named for form in (folder, os.path.realpath(folder))})


_STANDARD = _standard_folders()


def arrive(torch: ModuleType, path: list[str], run: str, options_text: str) -> None:
    """Attach the probe to the torch that has just been imported.

    Args:
        torch: the module.
        path: `sys.path` as it was before the script's folder was put in front.
        run: absolute folder of the run.
        options_text: JSON object of the options of `wellfit run`.

    Raises:
        Exception: whatever went wrong; the caller says so once and goes on.
        SystemExit: an override cannot be applied: what would run is not what was asked for.
    """
    attach, install, options = _imported(path, options_text)
    options["run"] = run
    attachment = attach(torch, options)
    if install is not None:
        install(options["overrides"], attachment)


def _imported(
    path: list[str], options_text: str
) -> tuple[Callable[[ModuleType, dict[str, Any]], Any], Callable[[Any, Any], object] | None, dict[str, Any]]:
    """`attach`, `install` where there are overrides, and the parsed options, imported in a clean room."""
    before = dict(sys.modules)
    user_path = sys.path
    shadowed = _shadowed(before)
    for name in shadowed:
        del sys.modules[name]
    try:
        sys.path = _standard_first(path)
        import json

        _load_package()
        from wellfit.probe.attach import attach

        options = json.loads(options_text)
        if not options.get("overrides"):
            return attach, None, options
        from wellfit.overrides.catalogue import known_overrides
        from wellfit.overrides.points import install

        known_overrides()
        return attach, install, options
    finally:
        sys.path = user_path
        _put_back(before, shadowed)


def _load_package() -> None:
    """Make our folder the package `wellfit`, whether or not it is installed in this environment."""
    from importlib.util import module_from_spec, spec_from_file_location

    if "wellfit" in sys.modules:
        return
    where = os.path.join(_PACKAGE, "__init__.py")
    spec = spec_from_file_location("wellfit", where, submodule_search_locations=[_PACKAGE])
    assert spec is not None and spec.loader is not None
    package = module_from_spec(spec)
    sys.modules["wellfit"] = package
    try:
        spec.loader.exec_module(package)
    except BaseException:
        sys.modules.pop("wellfit", None)
        raise


def _shadowed(modules: dict[str, ModuleType]) -> list[str]:
    """Names of standard modules (and a foreign `wellfit`) that a user's file took, with their submodules."""
    tops = set()
    for name, module in modules.items():
        file = getattr(module, "__file__", None)
        if "." in name or not isinstance(file, str):
            continue
        if name == "wellfit":
            foreign = os.path.dirname(os.path.abspath(file)) != _PACKAGE
        else:
            foreign = name in sys.stdlib_module_names and not _is_standard(file)
        if foreign:
            tops.add(name)
    return [name for name in modules if name.partition(".")[0] in tops]


def _is_standard(file: str) -> bool:
    """True if a file lies in the standard library's folders (not in site-packages below them)."""
    if "site-packages" in file or "dist-packages" in file:
        return False
    return file.startswith(_STANDARD) or os.path.realpath(file).startswith(_STANDARD)


def _standard_first(path: list[str]) -> list[str]:
    """The same entries, the standard library's before all others: PYTHONPATH shadows nothing of ours either."""
    standard = [entry for entry in path if _is_standard(os.path.join(entry, "os.py"))]
    return standard + [entry for entry in path if entry not in standard]


def _put_back(before: dict[str, ModuleType], shadowed: list[str]) -> None:
    """Restore what was shadowed, and forget standard modules that only we asked for: the user may have their own."""
    swapped = {name.partition(".")[0] for name in shadowed}
    for name in list(sys.modules):
        top = name.partition(".")[0]
        only_ours = top in sys.stdlib_module_names and top not in before
        if only_ours or top in swapped:
            del sys.modules[name]
    for name in shadowed:
        sys.modules[name] = before[name]
