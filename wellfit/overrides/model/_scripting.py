"""torch.jit.script and functions of torch that an override has put its own in the place of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wellfit.overrides.program import Program


def keep_scriptable(program: Program, wrappers: list[Any]) -> None:
    """Let scripted code call what torch has under these names: it is compiled, and sees no override.

    Args:
        wrappers: what stands in the place of torch's functions now.
    """
    from torch.jit import _builtins, _recursive

    known = getattr(_builtins, "_find_builtin", None)
    register = getattr(_builtins, "_register_builtin", None)
    written = {}  # in Python: compiled from their source
    for wrapper in wrappers:
        original = _unwrapped(wrapper)
        name = known(original) if known is not None else None
        if name is None:
            written[wrapper] = original
        elif register is not None:
            register(wrapper, name)

    def with_compile(compile_function: Any) -> Any:
        def try_compile_fn(function: Any, *args: Any, **kwargs: Any) -> Any:
            return compile_function(_known(function), *args, **kwargs)

        return try_compile_fn

    def _known(function: Any) -> Any:
        try:
            return written.get(function, function)
        except TypeError:  # not hashable
            return function

    if hasattr(_recursive, "try_compile_fn"):
        program.patch(_recursive, "try_compile_fn", with_compile)


def _unwrapped(function: Any) -> Any:
    """What torch had before it, and the probe, were patched."""
    from wellfit.probe.tracebacks import UNCOUNTED

    while getattr(getattr(function, "__code__", None), "co_filename", None) == UNCOUNTED:
        function = function.__wrapped__
    return function
