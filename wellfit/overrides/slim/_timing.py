"""Two models timed beside each other in the user's process, past all that wellfit has put around calls."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torch import nn

from wellfit.errors import WellfitError
from wellfit.overrides.traceless import same_random_numbers
from wellfit.slim.measure import Inputs, Pair, by_layer, compare_calmly

if TYPE_CHECKING:
    from wellfit.overrides.program import Program

ALWAYS = (1, 32)
"""Samples in a call, of which times are told in any case."""


@contextlib.contextmanager
def plain_calls(program: Program) -> Iterator[None]:
    """Models are called as torch has it: neither the probe nor overrides see it, and it costs nothing.

    Random numbers, warnings and what models print stay out of the script's.
    """
    ours = nn.Module.__call__
    with contextlib.ExitStack() as stack:
        stack.enter_context(program.unseen())
        stack.enter_context(same_random_numbers())
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        nn.Module.__call__ = nn.Module._wrapped_call_impl  # type: ignore[assignment, method-assign]
        try:
            yield
        finally:
            nn.Module.__call__ = ours  # type: ignore[method-assign]


def timed(before: nn.Module, after: nn.Module, inputs: Inputs, batches: Sequence[int], seconds: float) -> list[Any]:
    """Both models with so many samples, in turn; as JSON.

    A model that takes no batch of such a size (its state has the size of another) is timed with the example as it is.

    Args:
        batches: samples in a call.
        seconds: for each.

    Returns:
        of each `batch`, `samples` that there were, `before` and `after` (as `Timing`), `speedup`, `calm` (whether the
        medians are those of undisturbed calls), `before_ms` and `after_ms` (the median; the fastest tenth if not calm).

    Raises:
        WellfitError: a model fails with the example.
    """
    return [_told(batch, _compared(before, after, inputs, batch, seconds)) for batch in batches]


def _told(batch: int, pair: Pair) -> dict[str, Any]:
    times = [one.p50 if pair.is_calm else one.p10 for one in (pair.first, pair.second)]
    return {
        "batch": batch, "samples": pair.first.batch, "before": asdict(pair.first), "after": asdict(pair.second),
        "speedup": pair.speedup, "calm": pair.is_calm, "before_ms": times[0], "after_ms": times[1],
    }  # fmt: skip


def _compared(before: nn.Module, after: nn.Module, inputs: Inputs, batch: int, seconds: float) -> Pair:
    try:
        return compare_calmly(before, after, inputs, batch=batch, seconds=seconds)
    except Exception:
        pass
    try:
        return compare_calmly(before, after, inputs, seconds=seconds)
    except Exception as error:
        raise WellfitError(
            f"{type(before).__name__} cannot be called again ({type(error).__name__}: {error})"
        ) from None


def layer_times(model: nn.Module, inputs: Inputs, batch: int, seconds: float) -> list[dict[str, Any]]:
    """Milliseconds of each module without modules in it, as JSON; none where the model takes no such batch."""
    try:
        return [asdict(one) for one in by_layer(model, inputs, batch=batch, seconds=seconds)]
    except Exception:
        return []
