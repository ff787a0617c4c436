"""The page of a slimming: what `report.json` holds, as one HTML file that opens from disk."""

from wellfit.slim.page.html import to_html, write_report
from wellfit.slim.page.of_model import of_model

__all__ = ["of_model", "to_html", "write_report"]
