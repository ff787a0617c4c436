"""Reports as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wellfit.finding import Finding
from wellfit.report.safe import printable
from wellfit.slim.findings import told as findings_told
from wellfit.slim.planning.plan import Skipped
from wellfit.slim.planning.text import FASTER, points, skipped_lines
from wellfit.slim.printing import NAME, SHOWN, table


def report_text(told: Mapping[str, Any], findings: Sequence[Finding]) -> str:
    """The tables of a report, of `Report.told`, and what the rules say of it."""
    metric, size_of = told["metric"], told["bytes"]
    rows = [
        ("", metric["name"], "bytes", "smaller", *(f"ms, batch {one['batch']}" for one in told["latency"]), "to read")
    ]
    rows.append((
        "dense", _metric(metric["dense"], metric), f"{size_of['dense']:,}", "",
        *(_span(one, "dense") for one in told["latency"]), "",
    ))  # fmt: skip
    rows.append((
        "slim", f"{_metric(metric['slim'], metric)} ({0.0 - metric['lost']:+.2f})", f"{size_of['slim']:,}",
        f"{size_of['ratio']:.1f}x", *(speed(one) for one in told["latency"]), f"{told['decode_ms']:.1f} ms",
    ))  # fmt: skip
    lines = [f"Proof: {printable(told['file'], 300)}, measured after it was read again", *table(rows, (0,))]
    lines += latency_lines(told["latency"], told["left_out"])
    if not metric["is_evaluated"]:
        lines.append(
            f"  Agreement with the dense model on the example inputs ({metric['compared']:,} compared) is all that is "
            "known: give evaluate= (--check) for accuracy."
        )
    lines += [f"  Outputs moved by {metric['moved']:.1%} of their spread.", "", "Layers", *layer_lines(told["layers"])]
    lines += skipped_lines([Skipped(**one) for one in told["skipped"]])
    lines += findings_told(findings).splitlines()
    lines += [""] * bool(told["shortfalls"])
    lines += [f"Not met: {sentence}." for sentence in told["shortfalls"]]
    if metric["allowed"] is not None and metric["lost"] <= metric["allowed"]:
        may = f"{metric['allowed']:g} {points(metric['allowed'])} that may be lost"
        lines += ["", f"Lost {max(0.0, metric['lost']):.2f} of the {may}."]
    return "\n".join(lines) + "\n"


def latency_lines(latency: Sequence[Mapping[str, Any]], left_out: Sequence[Mapping[str, Any]]) -> list[str]:
    """How the times of a table are meant, and what was not timed."""
    lines = []
    if latency:
        lines.append(f"  Times are medians (p50) of calls in turn; faster is said from {FASTER} times on.")
    if not all(one["is_calm"] for one in latency):
        lines.append("  ~ The machine was busy: the fastest tenth of the calls, not the median.")
    return lines + left_out_lines(left_out)


def left_out_lines(left_out: Sequence[Mapping[str, Any]]) -> list[str]:
    """Batch sizes that were not timed, and why."""
    return [f"  A batch of {one['batch']} is left out: {printable(one['reason'], 200)}" for one in left_out]


def layer_lines(layers: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table of a report's layers."""
    rows = [("layer", "kind", "numbers", "then", "kept", "values", "bits each", "bytes", "then", "ms", "then")]
    for one in layers[:SHOWN]:
        there = bool(one["numbers"])
        count = (
            f"{one['numbers']:,}" if there else f"as {printable(one['tied_to'], NAME)}" if one["tied_to"] else "gone"
        )
        stored = (f"{one['kept']:.1%}", f"{one['values']:,}", f"{one['bits']:.2f}") if there else ("", "", "")
        name = printable(one["name"], NAME) or "(in no layer)"
        times = ("" if one[key] is None else f"{one[key]:.3f}" for key in ("dense_ms", "slim_ms"))
        bytes_of = (f"{one['dense_bytes']:,}", f"{one['bytes']:,}")
        rows.append((name, one["kind"], f"{one['parameters']:,}", count, *stored, *bytes_of, *times))
    more = len(layers) - SHOWN
    return [*table(rows, (0, 1)), *[f"  ... and {more} more layers"] * (more > 0)]


def _metric(value: float, metric: Mapping[str, Any]) -> str:
    if not metric["is_evaluated"]:
        return f"{value:.2f} %"
    return f"{value:.4f}"


def speed(one: Mapping[str, Any]) -> str:
    """Milliseconds of the slim model, and how many times as fast it is where it may be said."""
    speedup = f" ({one['speedup']:.1f}x as fast)" if one["is_faster"] else ""
    return f"{_span(one, 'slim')}{speedup}"


def _span(one: Mapping[str, Any], which: str) -> str:
    return f"{'' if one['is_calm'] else '~'}{milliseconds(one, which):.3g}"


def milliseconds(one: Mapping[str, Any], which: str) -> float:
    """Of a call, for people: the median; on a busy machine the fastest tenth.

    Args:
        one: of `latency` in a report.
        which: "dense" or "slim".
    """
    return float(one[which]["p50" if one["is_calm"] else "p10"])
