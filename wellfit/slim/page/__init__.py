"""The page of a slimming: what `report.json` holds, as one HTML file that opens from disk."""

from wellfit.slim.page.html import to_html, write_report

__all__ = ["to_html", "write_report"]
