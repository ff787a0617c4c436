"""A doctor for neural networks on PyTorch: watches a training run and says what is ill, where, and what helps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wellfit.errors import WellfitError
    from wellfit.finding import Finding, Location
    from wellfit.record import open_run
    from wellfit.rule import Rule
    from wellfit.session import watch

__version__ = "0.1.0"

__all__ = ["Finding", "Location", "Rule", "WellfitError", "__version__", "open_run", "watch"]

_HOMES = {
    "Finding": "wellfit.finding",
    "Location": "wellfit.finding",
    "Rule": "wellfit.rule",
    "WellfitError": "wellfit.errors",
    "open_run": "wellfit.record",
    "watch": "wellfit.session",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: `import wellfit` itself stays light."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'wellfit' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
