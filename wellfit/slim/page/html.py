"""Putting the page together, and writing it beside the report."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wellfit.record.writing import replace_file, write_json
from wellfit.report.packing import packed, part
from wellfit.report.safe import html_text, printable
from wellfit.slim.page.findings import findings
from wellfit.slim.page.fronts import fronts
from wellfit.slim.page.layers import layers, plan
from wellfit.slim.page.markup import Html, joined, tag
from wellfit.slim.page.reading import Report
from wellfit.slim.page.summary import head, proof

PAGE = "report.html"


def to_html(told: Mapping[str, Any]) -> str:
    """A slimming as one self-contained HTML page.

    Args:
        told: what `report.json` holds.

    Returns:
        the page. Its text is written here, escaped; the one script in it shows what is told of a try that is pointed
        at, and the content security policy allows no other.
    """
    report = Report(told)
    sections = [
        _section("Proof", proof(report)),
        _section("Findings", findings(report)),
        _section("What was tried", fronts(report)),
        _section("Layers", layers(report)),
        _section("Plan", plan(report)),
        _section("Use it", _use(report)),
    ]
    pieces = {
        "title": html_text(f"wellfit slim · {told.get('model', '')}"),
        "head": head(report),
        "sections": joined(sections),
        "foot": tag("p", f"wellfit {told.get('wellfit', '')}"),
    }
    here = "wellfit.slim.page"
    styles = [part("wellfit.report", "page/base.css"), part(here, "slim.css")]
    return packed(part(here, "slim.html"), styles, [part(here, "slim.js")], pieces)


def write_report(folder: Path, told: Mapping[str, Any]) -> Path:
    """Write `report.json` and the page beside it.

    Args:
        folder: that is there.
        told: the report.

    Returns:
        the page.

    Raises:
        OSError: a file cannot be written.
    """
    write_json(folder / "report.json", told)
    replace_file(folder / PAGE, to_html(told).encode("utf-8", "backslashreplace"))
    return folder / PAGE


def _section(title: str, body: Html) -> Html:
    return tag("section", tag("h2", title), body) if body else Html("")


def _use(report: Report) -> Html:
    """How the file is loaded, and the command that made it."""
    words = [printable(word, 400) for word in report.told.get("typed") or report.told.get("command") or []]
    found = []
    if report.slim is not None:
        file = printable(report.slim.get("file", "model.wfz"), 300)
        found += [tag("h3", "Load it"), _lines(_loading(report, file))]
        looking = ((f"wellfit slim inspect {shlex.quote(file)}", "what is in it"),
                   (f"wellfit slim expand {shlex.quote(file)}", "plain safetensors"))  # fmt: skip
        found += [tag("h3", "Look at it"), _lines(looking)]
    if words:
        found += [tag("h3", "Make it again"), _lines(((f"wellfit slim {shlex.join(words)}", ""),))]
    return joined(found)


def _loading(report: Report, file: str) -> tuple[tuple[str, str], ...]:
    """Of a script, of a model that a function makes, and of one that a program had in its hand."""
    told, importing = report.told, []
    made, comment = "model", "a fresh one of the same class"
    if told.get("command") is not None:
        made, comment = f"{printable(told.get('model') or 'Net', 80)}()", "a fresh instance of the script's class"
    elif told.get("made_by"):
        module, _, name = printable(told["made_by"], 200).partition(":")
        importing = [(f"from {module} import {name.partition('.')[0]}", "")]
        made, comment = f"{name}()", "a fresh one"
    load = f"model = wellfit.slim.load({file!r}, {made})"
    return (("import wellfit.slim", ""), *importing, ("", ""), (load, comment))


def _lines(lines: tuple[tuple[str, str], ...]) -> Html:
    """Lines of code with their comments."""
    shown = (
        joined((line, *([tag("span", f"  # {comment}", class_="quiet")] if comment else []), Html("\n")))
        for line, comment in lines
    )
    return tag("pre", tag("code", *shown))
