"""By layer: what became of it, what it costs, and why others were left alone; and the plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wellfit.report.safe import printable
from wellfit.slim.page.markup import Column, Html, bar, code, joined, table, tag
from wellfit.slim.page.reading import Report

_ROWS = 300
"""Of a table."""

_NAMES = 60
"""Of layers with the same reason."""


def layers(report: Report) -> Html:
    """The layers that were made smaller, what they cost in time, and those that were left alone."""
    told: Sequence[Mapping[str, Any]] = (report.slim or {}).get("layers") or []
    if isinstance(told, Mapping):  # of a slimming for speed: milliseconds, before and after
        return joined((_times(told), _skipped_structures(report)))
    return joined(
        (_changed([one for one in told if not one.get("skipped")]), _left([*told]), _skipped_structures(report))
    )


def _changed(told: Sequence[Mapping[str, Any]]) -> Html:
    if not told:
        return tag("p", "No layer was made smaller.", class_="note")
    largest = max(one["bytes"] for one in told) or 1
    columns = [
        Column("layer", "text"), Column("what was done", "wide"), Column("shape", "text"), Column("numbers"),
        Column("kept", "number", "weights that are not 0"), Column("values", "number", "different ones, besides 0"),
        Column("bits", "number", "of a weight"), Column("bytes"), Column("stored as", "text"),
        Column("ms", "number", "of a call with one sample"),
    ]  # fmt: skip
    rows = [
        [
            _layer(one), printable(one.get("done") or one.get("method") or "", 80),
            " × ".join(str(size) for size in one.get("shape", ())),
            _change(one.get("dense_numbers"), one.get("numbers", one.get("parameters")), ","),
            "" if one["kept"] is None else bar(f"{one['kept']:.1%}", one["kept"]),
            _change(None, one["values"], ","), _change(None, one["bits"], ".2f"),
            bar(_change(one.get("dense_bytes"), one["bytes"], ","), one["bytes"] / largest, "slim"),
            printable(one.get("stored_as", ""), 30), _change(one.get("dense_ms"), one.get("ms"), ".3f"),
        ]
        for one in told[:_ROWS]
    ]  # fmt: skip
    return joined((tag("div", table(columns, rows, "Layers"), class_="narrow"), _more(len(told), "layers")))


def _layer(one: Mapping[str, Any]) -> Html:
    """Its name, and its class where that is told."""
    kind = [" ", tag("small", printable(one["kind"], 40), class_="note")] if one.get("kind") else []
    return tag("span", code(one["name"]) if one["name"] else "in no layer", *kind)


def _change(before: float | None, now: float | str | None, form: str) -> str:
    """ "64 → 12"; one number where there is no other, or they read the same. A word stands for itself."""
    shown = [value if isinstance(value, str) else format(value, form) for value in (before, now) if value is not None]
    return " → ".join(dict.fromkeys(shown))


def _left(told: Sequence[Mapping[str, Any]]) -> Html:
    """Tensors that were left alone, by reason."""
    reasons: dict[str, list[Mapping[str, Any]]] = {}
    for one in told:
        if one.get("skipped"):
            reasons.setdefault(str(one["skipped"]), []).append(one)
    if not reasons:
        return Html("")
    whole = sum(one["bytes"] for one in told) or 1
    columns = [
        Column("reason", "text"),
        Column("tensors"),
        Column("bytes"),
        Column("of the file"),
        Column("which", "wide"),
    ]
    rows = []
    for reason, ones in list(reasons.items())[:_ROWS]:
        size = sum(one["bytes"] for one in ones)
        names = _listed([one["name"] for one in ones])
        rows.append(
            [printable(reason, 200), f"{len(ones):,}", f"{size:,}", bar(f"{size / whole:.1%}", size / whole), names]
        )
    return joined((tag("h3", "Left alone"), table(columns, rows, "Tensors that were left alone")))


def _times(told: Mapping[str, Any]) -> Html:
    """Milliseconds of each layer, before and after."""
    before = {one["name"]: one for one in told.get("before") or []}
    after = {one["name"]: one for one in told.get("after") or []}
    most = max((one["p50"] for one in [*before.values(), *after.values()]), default=1.0) or 1.0
    columns = [Column("layer", "text"), Column("was", "text"), Column("ms"), Column("is", "text"), Column("ms now")]
    names = [*before, *(name for name in after if name not in before)]
    rows = []
    for name in names[:_ROWS]:
        was, now = before.get(name), after.get(name)
        rows.append([
            code(name), printable(was["kind"], 60) if was else "",
            bar(f"{was['p50']:.3f}", was["p50"] / most) if was else "", printable(now["kind"], 60) if now else "",
            bar(f"{now['p50']:.3f}", now["p50"] / most, "slim") if now else "",
        ])  # fmt: skip
    return joined((table(columns, rows, "Milliseconds by layer"), _more(len(names), "layers"))) if rows else Html("")


def _skipped_structures(report: Report) -> Html:
    """Methods and structures of which nothing came, and layers that a method does not fit."""
    whole = [(what, "", why) for what, why in report.told.get("skipped") or []]
    by_layer: dict[tuple[str, str], list[str]] = {}
    for method, name, why in report.told.get("skipped_layers") or []:
        by_layer.setdefault((method, why), []).append(name)
    rows: list[list[object]] = [[printable(what, 60), "", printable(why, 400)] for what, _, why in whole]
    rows += [[printable(method, 60), _listed(names), printable(why, 400)] for (method, why), names in by_layer.items()]
    columns = [Column("method", "text"), Column("layers", "wide"), Column("why", "wide")]
    return (
        joined((tag("h3", "Skipped"), table(columns, rows[:_ROWS], "Skipped"), _more(len(rows), "rows")))
        if rows
        else Html("")
    )


def plan(report: Report) -> Html:
    """The plan of the file, and what it promised; the structures that were looked at where speed was the target."""
    told = report.told.get("plan")
    if told:
        return _sizes(told)
    columns = [Column("structure", "text"), Column("ms"), Column("speed")]
    looked: Sequence[Mapping[str, Any]] = sorted(report.told.get("survey") or [], key=lambda one: -one["speedup"])
    rows = [
        [f"{printable(one['method'], 60)} {one['strength']:g}", f"{one['milliseconds']:.3g}", f"{one['speedup']:.2f}x"]
        for one in looked[:_ROWS]
    ]
    words = tag("p", "Structures that are at least 1.2x faster before anything is trained.", class_="note")
    return joined((table(columns, rows, "Structures"), words)) if rows else Html("")


def _sizes(told: Mapping[str, Any]) -> Html:
    most = max((one["sensitivity"] for one in told["layers"]), default=1.0) or 1.0
    columns = [
        Column("layer", "text"), Column("parameters"), Column("of all bytes"),
        Column("sensitivity", "number", "how far the outputs move with 80 % of this layer alone set to 0, untrained"),
        Column("method", "text"), Column("keep"), Column("values"), Column("predicted bytes"),
    ]  # fmt: skip
    rows = [
        [
            code(one["name"]), f"{one['parameters']:,}", f"{one['share_of_bytes']:.1%}",
            bar(f"{one['sensitivity']:.1%}", one["sensitivity"] / most), printable(one["method"], 40),
            f"{one['keep']:.3g}", f"{one['values']}" if one["values"] else "", f"{one['predicted_bytes']:,.0f}",
        ]
        for one in told["layers"][:_ROWS]
    ]  # fmt: skip
    promise = (
        f"Predicted: {told['predicted_bytes']:,.0f} of {told['bytes']:,} bytes, {told['predicted_ratio']:.1f}x smaller."
    )
    about = "Sensitivity: how far the outputs move with 80 % of that layer alone set to 0, before training."
    settled = "What each layer keeps is settled while it is trained, biases with them; the sum holds."
    sentences = (promise, about, *[settled] * bool(told.get("together")))
    notes = (tag("p", words, class_="note") for words in sentences)
    return joined((table(columns, rows, "Plan"), _more(len(told["layers"]), "layers"), *notes))


def _listed(names: Sequence[str]) -> Html:
    shown = [code(name) for name in names[:_NAMES]]
    spaced = [part for name in shown for part in (", ", name)][1:]
    more = [f" and {len(names) - _NAMES:,} more"] if len(names) > _NAMES else []
    return tag("span", *spaced, *more, class_="names")


def _more(count: int, what: str) -> Html:
    return tag("p", f"… and {count - _ROWS:,} more {what}", class_="note") if count > _ROWS else Html("")
