"""The page: one HTML file with everything in it, that opens from disk and asks the network for nothing."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING

from wellfit.finding import Finding
from wellfit.report.page_data import Limits, page_data
from wellfit.report.safe import html_text, script_json

if TYPE_CHECKING:
    from wellfit.record import Run

LARGEST = 1_000_000
"""Bytes that a page never exceeds, however long the run and however large the model."""

STYLES = ("vendor/uPlot.min.css", "page.css")
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
    styles, scripts = [_part(name) for name in STYLES], [_part(name) for name in SCRIPTS]
    policy = (
        f"default-src 'none'; script-src {_hashes(scripts)}; style-src {_hashes(styles)}; "
        "base-uri 'none'; form-action 'none'"
    )
    pieces = {
        "policy": policy,
        "title": html_text(f"wellfit · {data['run']['id']}"),
        "licence": _part("vendor/LICENSE").strip(),
        "styles": "\n".join(f"<style>{style}</style>" for style in styles),
        "data": script_json(json.dumps(data, separators=(",", ":"), allow_nan=False)),
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
    }
    # Split once, so that nothing inside a piece is ever taken for another placeholder.
    halves = _part("page.html").split("{{")
    return halves[0] + "".join(pieces[key] + rest for key, rest in (half.split("}}", 1) for half in halves[1:]))


def _part(name: str) -> str:
    """A file of `page/` with plain line ends: the hash of a script must not depend on how it was checked out."""
    text = resources.files("wellfit.report").joinpath("page", *name.split("/")).read_text(encoding="utf-8")
    return text.replace("\r\n", "\n")


def _hashes(parts: Sequence[str]) -> str:
    digests = (base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in parts)
    return " ".join(f"'sha256-{digest}'" for digest in digests)
