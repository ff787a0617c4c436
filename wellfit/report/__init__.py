"""Telling and showing: every function here is `(findings, run) -> text`, and none of them imports torch."""

from wellfit.report.as_github import to_github
from wellfit.report.as_json import to_json
from wellfit.report.as_sarif import to_sarif
from wellfit.report.html import to_html
from wellfit.report.text import finding_text, findings_text, summary_text

__all__ = ["finding_text", "findings_text", "summary_text", "to_github", "to_html", "to_json", "to_sarif"]
