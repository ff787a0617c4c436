"""The site: Markdown pages beside this file, and one page for each rule and override, written from themselves."""

import sys
from pathlib import Path

from wellfit import __version__
from wellfit.catalogue import known_rules
from wellfit.overrides.catalogue import group_of, known_overrides
from wellfit.overrides.override import GROUPS
from wellfit.overrides.page import override_text

sys.path.insert(0, str(Path(__file__).parent))
from experiments import show_all
from rule_pages import write_rules

project = "wellfit"
author = "the wellfit authors"
release = version = __version__
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 3
html_theme = "furo"
html_title = "wellfit"
exclude_patterns = ["_experiments"]


def write_rule_pages(app: object) -> None:
    """One page a rule and their index, into docs/rules (ignored by git)."""
    rules = list(known_rules()[0])
    write_rules(rules, show_all(rules), Path(__file__).parent / "rules")


def write_overrides(app: object) -> None:
    """One page an override and their index, into docs/overrides (ignored by git)."""
    folder = Path(__file__).parent / "overrides"
    folder.mkdir(exist_ok=True)
    overrides = known_overrides()
    index = [
        "# Overrides",
        "",
        "What `wellfit run --override NAME=VALUE` can change of a run without touching its script.",
        "",
    ]
    for group in GROUPS:
        index += [f"## {group.capitalize()}", "", "| override | does |", "|---|---|"]
        for override in (override for override in overrides if group_of(override) == group):
            index.append(f"| [{override.name}]({override.name}.md) | {override.summary} |")
            page = f"# {override.name}\n\n```text\n{override_text(override)}```\n"
            (folder / f"{override.name}.md").write_text(page, encoding="utf-8")
        index.append("")
    index += ["```{toctree}", ":hidden:", ""] + [override.name for override in overrides] + ["```", ""]
    (folder / "index.md").write_text("\n".join(index), encoding="utf-8")


def setup(app: object) -> None:
    """Called by Sphinx."""
    for write in (write_rule_pages, write_overrides):
        app.connect("builder-inited", write)  # type: ignore[attr-defined]
