"""The top of the page: what was reached or not, and the proof."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wellfit.slim.drive.seeds import Seeds, sentences, spread_text
from wellfit.slim.page.markup import Column, Html, bar, joined, table, tag
from wellfit.slim.page.reading import Report, Try, milliseconds_text, ratio_text, seconds_text
from wellfit.slim.printing import tries_text


def head(report: Report) -> Html:
    """The headline, in red where something was not met, and what was asked for."""
    told = report.told
    brand = tag("p", tag("b", "wellfit slim"), tag("span", told.get("model", "")), class_="brand")
    asked = [tag("p", _asked(report), class_="quiet")] if told["keep_accuracy"] is not None else []
    if told["met"]:
        return joined((brand, tag("h1", _reached(report) or "", class_="well"), *asked))
    # What follows the semicolon points to the tables of the terminal.
    missed = [sentence.partition("; the front")[0] for sentence in told.get("shortfalls") or ["what was asked for"]]
    title = tag("h1", "Not met: ", "; ".join(missed), class_="error")
    best = _reached(report)
    found = [tag("p", f"The best that was found: {best}.", class_="best")] if best else []
    return joined((brand, title, *found, *asked))


def _reached(report: Report) -> str | None:
    """ "29x smaller, accuracy +1.01 points"; None without a file."""
    best, metric = report.chosen, report.metric
    if best is None:
        return None
    faster = [
        f"{ratio_text(one['speedup'])} faster at batch {one['batch']}"
        for one in report.times
        if one["speedup"] >= 1.2 and one["batch"] == report.told.get("batch", one["batch"])
    ]
    ratio = report.dense["bytes"] / best.bytes
    size = f"{ratio_text(ratio)} smaller" if ratio >= 1 else f"{ratio_text(1 / ratio)} larger"
    points = "unchanged" if best.lost == 0 else metric.points_text(best.lost)
    return ", ".join([*faster[:1], size, f"{metric.name} {points}"])


def _asked(report: Report) -> str:
    target, within = str(report.told["target"]), report.told["keep_accuracy"]
    what = {"size": "as small as can be", "latency": "as fast as can be"}.get(target, target)
    unit = {"number": " %", "own": ""}.get(report.metric.unit, " point" if within == 1 else " points")
    return f"Asked for: {what}, with at most {within:g}{unit} of {report.metric.name} lost."


def proof(report: Report) -> Html:
    """The dense network and the file, side by side, and how that was found out."""
    metric, dense, best, slim = report.metric, report.dense, report.chosen, report.slim or {}
    spans = report.times
    columns = [
        Column("", "text"), Column(metric.name, "number", report.told["metric"].get("source")), Column("bytes"),
        Column("smaller"), *(Column(f"p50 at batch {one['batch']}") for one in spans),
        Column("to read", "number", "the file: all checks, and all tensors"),
        Column("to make", "number", "training, writing and judging"),
    ]  # fmt: skip
    rows: list[list[object]] = [[
        tag("b", "dense"), _value(report, None), bar(f"{dense['bytes']:,}", 1.0), "",
        *(bar(_span(one, "before_ms"), _share(one, "before_ms")) for one in spans), "",
        seconds_text(dense.get("seconds")),
    ]]  # fmt: skip
    if report.control is not None:
        rows.append([
            tag("b", "dense, trained on alike"), _value(report, report.control), "", "", *("" for _ in spans), "",
            seconds_text(report.control.seconds),
        ])  # fmt: skip
    if best is not None:
        decode = slim.get("decode_seconds")
        size = bar(f"{best.bytes:,}", best.bytes / dense["bytes"], "slim")
        ratio = tag("b", ratio_text(dense["bytes"] / best.bytes))
        rows.append([
            tag("b", "slim"), _value(report, best), size, ratio,
            *(_faster(one) for one in spans), "" if decode is None else milliseconds_text(1000 * decode),
            seconds_text(best.seconds),
        ])  # fmt: skip
    return joined(
        (
            tag("div", table(columns, rows, "Proof"), class_="proof"),
            *(tag("p", words, class_="note") for words in _notes(report)),
        )
    )


def _value(report: Report, one: Try | None) -> Html:
    """What the metric is, of the dense network where `one` is None."""
    metric = report.metric
    if one is None:
        return tag("span", metric.shown(report.dense["metric"]))
    told = report.told if one.is_chosen else report.told["control"]
    allowed = report.told["keep_accuracy"]
    judged = None if allowed is None else "well" if one.lost <= allowed else "error"
    points = tag("small", metric.points_text(one.lost), class_=judged)
    seeds = told.get("seeds") or {}
    several = seeds.get("count", 1) > 1 and seeds.get("mean") is not None
    spread = f" ± {spread_text(metric, seeds['spread'])}" if several and seeds.get("spread") is not None else ""
    mean = [tag("small", f"mean of {seeds['count']}: {metric.shown(seeds['mean'])}{spread}")] if several else []
    return joined((tag("span", metric.shown(one.value)), points, *mean))


def _span(one: object, which: str) -> str:
    assert isinstance(one, dict)
    return f"{'' if one.get('calm', True) else '~'}{milliseconds_text(one[which])}"


def _share(one: object, which: str) -> float:
    assert isinstance(one, dict)
    return float(one[which] / max(one["before_ms"], one["after_ms"]))


def _faster(one: object) -> Html:
    assert isinstance(one, dict)
    is_faster = one["speedup"] >= 1.2  # what rounds to it reads as 1.1
    words = f"{ratio_text(one['speedup'])} faster" if is_faster else f"{min(one['speedup'], 1.1):.1f}x: not faster"
    return joined((bar(_span(one, "after_ms"), _share(one, "after_ms"), "slim"), tag("small", words)))


def _seeds(told: Mapping[str, Any]) -> Seeds:
    seeds = told.get("seeds") or {}
    return Seeds(seeds.get("metrics") or [], seeds.get("bytes") or [])


def _notes(report: Report) -> list[str]:
    """Sentences under the table."""
    told, metric = report.told, report.metric
    source = told["metric"].get("source", metric.name)
    found = [f"Judged by {source}, with the weights read from the file.", *told.get("notes", [])]
    runs = (_seeds(told), _seeds(told.get("control") or {}))
    found += [f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences(*runs, metric)]
    if report.times:
        found.append("Times are medians of calls in turn on one machine; less than 1.2x is not called faster.")
    if not all(one.get("calm", True) for one in report.times):
        found.append("~ The machine was busy: the fastest tenth of the calls, not the median.")
    spent = [f"{seconds_text(told['seconds'])} this time"] if told.get("seconds") is not None else []
    found.append("; ".join([f"{tries_text(len(report.tries))} in all", *spent]) + ".")
    found += [f"{sentence[0].upper()}{sentence[1:]}." for sentence in told.get("ends", []) if sentence]
    return found
