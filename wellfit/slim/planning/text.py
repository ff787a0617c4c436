"""Plans and reports as tables for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from wellfit.report.safe import printable
from wellfit.slim.planning.step import METHODS
from wellfit.slim.printing import NAME, SHOWN, table

if TYPE_CHECKING:
    from wellfit.slim.planning.plan import Plan, Point, Skipped
    from wellfit.slim.planning.step import Step

FASTER = 1.2  # as in `methods.trial`, which imports torch
_REASON = 160


def plan_text(plan: Plan) -> str:
    """The tables of a plan."""
    budget = f"may lose {plan.keep:g} {points(plan.keep)}" + (f" of {plan.measure}" if plan.measure else "")
    lines = [f"Plan for {plan.target}, {budget}, no training"]
    lines += [""] + (_layers(plan) if plan.layers else _steps(plan.steps))
    if plan.whole is not None and plan.dense is not None:
        lines += ["", "The whole model under these steps, measured", *_whole(plan.whole, plan.dense)]
        if plan.measure.startswith("agreement of "):
            lines.append(
                f"Judged by {plan.measure} with the dense model on the example inputs alone: what that means for "
                "accuracy, only evaluate= (--check) can tell."
            )
    lines += skipped_lines(plan.skipped)
    if not plan.met:
        within = f"within {plan.keep:g} {points(plan.keep)} without training"
        what = (
            f"nothing is {FASTER} times as fast {within}"
            if plan.target == "latency"
            else f"{plan.target} cannot be met {within}"
        )
        lines += ["", f"{what[0].upper()}{what[1:]}; what was found:"]
        lines += front_lines(plan.front, plan.dense)
    return "\n".join(lines) + "\n"


def points(number: float) -> str:
    """The word for so many."""
    return "point" if number == 1 else "points"


def front_lines(front: Sequence[Point], dense: Point | None) -> list[str]:
    """Whole models that no other beats."""
    timed = any(point.ms is not None for point in front)
    rows: list[tuple[str, ...]] = [("bytes", "smaller", "points lost", "outputs moved", "ms" if timed else "")]
    for point in front[:SHOWN]:
        smaller = f"{dense.bytes / max(point.bytes, 1):.1f}x" if dense else ""
        rows.append((f"{point.bytes:,}", smaller, f"{point.lost:.2f}", f"{point.moved:.1%}", _milliseconds(point.ms)))
    return table(rows, ())


def skipped_lines(skipped: Sequence[Skipped]) -> list[str]:
    """What is not done, and why; layers of one reason together."""
    if not skipped:
        return []
    by_reason: dict[tuple[str, str], list[str]] = {}
    for one in skipped:
        by_reason.setdefault((one.method, one.reason), []).append(printable(one.layer, NAME) or "(the model itself)")
    lines = ["", "Left as they are"]
    for (method, reason), layers in list(by_reason.items())[:SHOWN]:
        more = f" and {len(layers) - 4} more" if len(layers) > 4 else ""
        what = f", {method}" if method else ""
        lines.append(f"  {', '.join(layers[:4])}{more}{what}: {printable(reason, _REASON)}")
    if len(by_reason) > SHOWN:
        lines.append(f"  ... and {len(by_reason) - SHOWN} more")
    return lines


def _layers(plan: Plan) -> list[str]:
    timed = any(layer.ms_after is not None for layer in plan.layers)
    head = ("layer", "kind", "numbers", "what is done", "bytes", "then", "outputs moved")
    rows: list[tuple[str, ...]] = [(*head, "ms", "then") if timed else head]
    for layer in plan.layers[:SHOWN]:
        steps = ", ".join(str(step) for step in plan.steps if step.layer == layer.layer)
        norm = next((step for step in plan.steps if step.method == "fold" and step.strength == layer.layer), None)
        what = steps or (f"folded into {norm.layer}" if norm else "as it is")
        gone = norm is not None and not layer.after
        name = printable(layer.layer, NAME) or "(the model itself)"
        sizes = (f"{layer.before:,}", "" if gone else f"{layer.after:,}")
        moved = "" if layer.moved is None else f"{layer.moved:.1%}"
        row = (name, layer.kind, f"{layer.parameters:,}", printable(what, 80), *sizes, moved)
        rows.append((*row, *map(_milliseconds, (layer.ms_before, layer.ms_after))) if timed else row)
    more = len(plan.layers) - SHOWN
    lines = table(rows, (0, 1, 3)) + [f"  ... and {more} more layers"] * (more > 0)
    used = dict.fromkeys(step.method for step in plan.steps)
    legend = {
        METHODS[name].shown.split(" {")[0] if name != "round" else "bf16, fp16": METHODS[name].meaning for name in used
    }
    note = "Bytes in memory as it is, then in the file; outputs moved: by this layer's steps alone, of their spread"
    return [
        *lines,
        f"  {note}{'; ms with one sample' if timed else ''}.",
        *(f"  {n}: {why}." for n, why in legend.items()),
    ]


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _steps(steps: Sequence[Step]) -> list[str]:
    rows = [("layer", "what is done")] + [
        (printable(step.layer, NAME) or "(the model itself)", str(step)) for step in steps
    ]
    return table(rows, (0, 1)) if steps else ["  nothing is done"]


def _whole(whole: Point, dense: Point) -> list[str]:
    rows = [("", "bytes", "smaller", "points lost", "outputs moved", "ms" if whole.ms is not None else "")]
    rows.append(("dense", f"{dense.bytes:,}", "", "", "", _milliseconds(dense.ms) if whole.ms is not None else ""))
    smaller = f"{dense.bytes / max(whole.bytes, 1):.1f}x"
    rows.append(
        ("slim", f"{whole.bytes:,}", smaller, f"{whole.lost:.2f}", f"{whole.moved:.1%}", _milliseconds(whole.ms))
    )
    return table(rows, (0,))
