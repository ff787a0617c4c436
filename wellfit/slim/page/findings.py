"""What the rules say of a slimming."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wellfit.report.amounts import evidence_pairs
from wellfit.report.safe import printable
from wellfit.slim.page.markup import Html, joined, tag
from wellfit.slim.page.reading import Report


def findings(report: Report) -> Html:
    """One block for each, errors first; nothing if there is none."""
    return joined(_finding(one) for one in report.told.get("findings") or [])


def _finding(told: Mapping[str, Any]) -> Html:
    layer = [": ", tag("code", printable(told["layer"], 120))] if told.get("layer") else []
    title = tag("h3", tag("span", told["severity"], class_=told["severity"]), f" {told['code']} ", told["rule"], *layer)
    pairs = [f"{name} {value}" for name, value in evidence_pairs(told.get("evidence") or {})]
    return tag(
        "div", title, tag("p", printable(told["message"], 400)), tag("p", " · ".join(pairs), class_="note"),
        tag("p", tag("code", f"wellfit rule {printable(told['rule'], 60)}"), class_="note"), class_="finding",
    )  # fmt: skip
