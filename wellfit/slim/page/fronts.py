"""The fronts: all tries by size and by time against the figure, and as a table."""

from __future__ import annotations

import math
from collections.abc import Callable

from wellfit.report.safe import printable
from wellfit.slim.page.markup import Column, Html, joined, table, tag
from wellfit.slim.page.plot import Plot, Point
from wellfit.slim.page.reading import (
    Report,
    Try,
    bytes_text,
    front,
    milliseconds_text,
    ratio_text,
    seconds_text,
)

_TRIES = 300
"""Rows of the table."""


def fronts(report: Report) -> Html:
    """The plots, and the table of the tries."""
    batches = sorted({batch for one in report.tries for batch in one.milliseconds})
    drawn = [_times(report, batch, 2 if len(batches) > 1 else 1) for batch in batches[:2]]
    spans = [one for one in drawn if one]
    silent = sum(one.value is None for one in report.tries)
    words = [tag("p", f"Of {silent} of the tries the script said no number.", class_="note")] if silent else []
    timed = [tag("div", *spans, class_="timed")] if spans else []
    plots = joined((_sizes(report), *timed))
    return joined((plots, *words, _keys(is_cut="<polygon" in plots), _table(report)))


def _sizes(report: Report) -> Html:
    dense = report.dense["bytes"]
    return _figure(
        report, "Size", "bytes of the file, and how many times smaller", lambda one: one.bytes, dense,
        report.told.get("target_bytes"), bytes_text, lambda x: ratio_text(dense / x), 1,
    )  # fmt: skip


def _times(report: Report, batch: int, beside: int) -> Html:
    dense = next((one["before_ms"] for one in report.times if one["batch"] == batch), None)
    if dense is None:
        return Html("")
    title, across = f"Time at batch {batch}", "milliseconds of a call (p50), and how many times faster"
    return _figure(
        report, title, across, lambda one: one.milliseconds.get(batch), dense, None, milliseconds_text,
        lambda x: ratio_text(dense / x), beside,
    )  # fmt: skip


def _figure(
    report: Report, title: str, across: str, x_of: Callable[[Try], float | None], dense: float, wanted: float | None,
    x_text: Callable[[float], str], x_more: Callable[[float], str], beside: int,
) -> Html:  # fmt: skip
    judged = [(one, x) for one in report.tries if one.value is not None and (x := x_of(one)) is not None and x > 0]
    on = {judged[at][0].name for at in front([(x, one.lost) for one, x in judged])}
    points = [
        Point(x, one.value, _lines(report, one, on), _kind(one, on), one.name in on)
        for one, x in judged
        if one.value is not None
    ]
    told = (f"dense: {report.metric.shown(report.dense['metric'])}", f"{report.dense['bytes']:,} bytes")
    points.append(Point(dense, report.dense["metric"], told, "dense"))
    name = f"{report.metric.name} against {title[0].lower()}{title[1:]}"
    width = 1064 if beside == 1 else 526
    plot = Plot(name, points, report.metric, report.allowed, wanted, across, x_text, x_more, width)
    return tag("figure", tag("h3", title), plot.svg())


def _kind(one: Try, on: set[str]) -> str:
    return "chosen" if one.is_chosen else "front" if one.name in on else "try"


def _lines(report: Report, one: Try, on: set[str]) -> tuple[str, ...]:
    """What is told of a try when it is pointed at."""
    spans = [f"{milliseconds_text(span)} at batch {batch}" for batch, span in sorted(one.milliseconds.items())]
    state = "the file that was given" if one.is_chosen else "on the front" if one.name in on else ""
    lines = (
        f"{report.metric.shown(one.value)} ({report.metric.points_text(one.lost)})",
        f"{one.bytes:,} bytes, {ratio_text(report.dense['bytes'] / one.bytes)} smaller", ", ".join(spans),
        one.setting, f"{seconds_text(one.seconds)} to make" if one.seconds is not None else "", state,
    )  # fmt: skip
    return tuple(printable(line, 200) for line in lines if line)


def _keys(*, is_cut: bool) -> Html:
    """What the marks mean."""
    marks = (("try", "a try"), ("front", "a try that no other beats"), ("chosen", "the file"), ("dense", "dense"))
    keys = (
        tag(
            "span",
            tag(
                "svg",
                tag("g", tag("circle", cx=8, cy=8, r=5, class_="dot"), class_=f"point {kind}"),
                viewBox="0 0 16 16",
            ),
            words,
            class_="key",
        )
        for kind, words in marks
    )
    cut = [tag("span", "A triangle lies beyond the edge.")] if is_cut else []
    hint = tag("span", "Point at a try, or choose it with Tab, to see its setting.")
    return tag("p", *keys, *cut, hint, class_="legend")


def _table(report: Report) -> Html:
    metric, dense = report.metric, report.dense["bytes"]
    batches = sorted({batch for one in report.tries for batch in one.milliseconds})
    columns = [
        Column("bytes"), Column("smaller"), *(Column(f"ms at batch {batch}") for batch in batches),
        Column(metric.name), Column("against dense"), Column("setting", "wide"), Column("to make"), Column("", "text"),
    ]  # fmt: skip
    shown = report.tries[:_TRIES]
    rows = [
        [
            f"{one.bytes:,}", ratio_text(dense / one.bytes),
            *(f"{one.milliseconds[batch]:.3g}" if batch in one.milliseconds else "" for batch in batches),
            metric.shown(one.value), metric.points_text(one.lost) if math.isfinite(one.lost) else "",
            printable(one.setting, 200), seconds_text(one.seconds), "the file" if one.is_chosen else "",
        ]
        for one in shown
    ]  # fmt: skip
    chosen = next((at for at, one in enumerate(shown) if one.is_chosen), None)
    count = len(report.tries)
    title = (
        "The one try" if count == 1 else f"All {count} tries" if count == len(shown) else f"{_TRIES} of {count} tries"
    )
    return tag("details", tag("summary", title), table(columns, rows, "Tries", chosen)) if shown else Html("")
