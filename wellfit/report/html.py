"""The page: one HTML file with everything in it, that opens from disk and asks the network for nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from wellfit.finding import Finding
from wellfit.report.packing import packed, part
from wellfit.report.page_data import Limits, page_data
from wellfit.report.safe import html_text, script_json

if TYPE_CHECKING:
    from wellfit.record import Run

LARGEST = 1_000_000
"""Bytes that a page never exceeds, however long the run and however large the model."""

STYLES = ("vendor/uPlot.min.css", "base.css", "page.css")
SCRIPTS = ("vendor/uPlot.iife.min.js", "words.js", "findings.js", "curves.js", "heat.js", "page.js")


def to_html(findings: Sequence[Finding], run: Run) -> str:
    """The report of a run as one self-contained HTML page.

    Args:
        findings: of `diagnose`, most important first.
        run: the run they are about.

    Returns:
        the page, at most `LARGEST` bytes in UTF-8. The numbers are JSON in a data element; the scripts put every name
        into the page as text; the content security policy allows these scripts and nothing else.
    """
    limits = Limits()
    page = _page(findings, run, limits)
    while len(page.encode()) > LARGEST and limits.cells > 1000:
        limits = limits.smaller()
        page = _page(findings, run, limits)
    return page


def _page(findings: Sequence[Finding], run: Run, limits: Limits) -> str:
    data = page_data(findings, run, limits)
    pieces = {
        "title": html_text(f"wellfit · {data['run']['id']}"),
        "licence": _part("vendor/LICENSE").strip(),
        "data": script_json(json.dumps(data, separators=(",", ":"), allow_nan=False)),
    }
    return packed(_part("page.html"), [_part(name) for name in STYLES], [_part(name) for name in SCRIPTS], pieces)


def _part(name: str) -> str:
    return part("wellfit.report", f"page/{name}")
