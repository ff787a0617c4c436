"""The pages of the rules as Markdown: from their own docstrings, thresholds and experiments."""

from __future__ import annotations

import shutil
from pathlib import Path

from experiments import Shown

from wellfit.catalogue import FAMILIES, thresholds_of
from wellfit.rule import Rule
from wellfit.rule_page import HEADINGS, sections, threshold_comments
from wellfit.testing import experiment, script_of


def write_rules(rules: list[type[Rule]], shown: dict[str, Shown], folder: Path) -> None:
    """One page for each rule, and their index."""
    folder.mkdir(exist_ok=True)
    for rule in rules:
        figure = shown[rule.name].figure
        if figure is not None:
            shutil.copyfile(figure, folder / f"{rule.name}.svg")
        (folder / f"{rule.name}.md").write_text(_page(rule, shown[rule.name], rules), encoding="utf-8")
    (folder / "index.md").write_text(_index(rules), encoding="utf-8")


def _index(rules: list[type[Rule]]) -> str:
    lines = ["# Rules", ""]
    for family in FAMILIES:
        lines += [f"## {family.capitalize()}", "", "| code | rule | means |", "|---|---|---|"]
        lines += [
            f"| {rule.code} | [{rule.name}]({rule.name}.md) | {rule.summary} |"
            for rule in rules
            if rule.family == family
        ]
        lines.append("")
    return "\n".join([*lines, "```{toctree}", ":hidden:", "", *(rule.name for rule in rules), "```", ""])


def _page(rule: type[Rule], shown: Shown, rules: list[type[Rule]]) -> str:
    page = sections(rule)
    lines = [
        f"# {rule.name}",
        "",
        f"`{rule.code}` · {rule.family} · {rule.status} since {rule.since}",
        "",
        page.get("", rule.summary),
        "",
    ]
    if shown.figure is not None:
        lines += [
            f"![loss and what the rule looks at, over steps]({rule.name}.svg)", "",
            "The ill and the healthy experiment below; the dotted line is where the illness became certain.", "",
        ]  # fmt: skip
    for heading in HEADINGS:
        lines += [f"## {heading}", "", page[heading], ""]
    lines += [*_thresholds(rule), *_fixes(rule), *_links(rule, rules)]
    lines += ["## An ill program", "", "```python", script_of(experiment(rule, "sick")).rstrip(), "```", ""]
    verb = "diagnose digits.report.json" if rule.judges_proofs() else "check" if rule.trials else "run"
    lines += [f"`wellfit {verb}` says:", "", "```text", shown.said.rstrip(), "```", ""]
    lines += ["## A healthy one", "", "```python", script_of(experiment(rule, "healthy")).rstrip(), "```", ""]
    return "\n".join(lines)


def _thresholds(rule: type[Rule]) -> list[str]:
    values, comments = thresholds_of(rule), threshold_comments(rule)
    if not values:
        return []
    lines = ["## Thresholds", "", f"To be set in `[tool.wellfit.rules.{rule.name}]` of `pyproject.toml`.", ""]
    lines += ["| name | value | meaning |", "|---|---|---|"]
    for name, value in values.items():
        shown = str(value).lower() if isinstance(value, bool) else str(value)
        lines.append(f"| `{name}` | {shown} | {comments.get(name, '').replace('|', chr(92) + '|')} |")
    return [*lines, ""]


def _fixes(rule: type[Rule]) -> list[str]:
    if not rule.fixes:
        return []
    lines = ["## Fixes", ""]
    for fix in rule.fixes:
        how = (
            f" ([`--override {fix.override}`](../overrides/{fix.override.partition('=')[0]}.md))"
            if fix.override
            else ""
        )
        lines.append(f"- {fix.title}{how}: {fix.safety}.")
    return [*lines, ""]


def _links(rule: type[Rule], rules: list[type[Rule]]) -> list[str]:
    causes = [other.name for other in rules if rule.name in other.consequences]
    lines = []
    for title, names in (("It explains", rule.consequences), ("It may be explained by", causes)):
        if names:
            lines += [f"{title} " + ", ".join(f"[{name}]({name}.md)" for name in names) + ".", ""]
    return ["## Causes and consequences", "", *lines] if lines else []
