"""The page of a rule for the terminal and for other programs, made from its docstring and its fields."""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import Any

from wellfit.catalogue import thresholds_of
from wellfit.rule import Rule

HEADINGS = ("What it checks", "Why it hurts", "Cure", "Fix safety", "When it is wrong", "References")
_LINE_COMMENT = re.compile(r"#:?\s*(.*\S)\s*$")


def rule_json(rule: type[Rule]) -> dict[str, Any]:
    """Everything there is to know about a rule, as an object that is strict JSON but for infinite thresholds."""
    comments = threshold_comments(rule)
    return {
        "code": rule.code,
        "name": rule.name,
        "family": rule.family,
        "summary": rule.summary,
        "since": rule.since,
        "status": rule.status,
        "reads": list(rule.reads),
        "consequences": list(rule.consequences),
        "thresholds": {
            name: {"value": value, "comment": comments.get(name, "")} for name, value in thresholds_of(rule).items()
        },
        "fixes": [{"title": fix.title, "override": fix.override, "safe": fix.safe} for fix in rule.fixes],
        "page": sections(rule),
    }


def sections(rule: type[Rule]) -> dict[str, str]:
    """The parts of a rule's docstring by heading; what stands before the first heading is under ""."""
    parts: dict[str, list[str]] = {"": []}
    current = ""
    for line in inspect.cleandoc(rule.__doc__ or "").splitlines():
        heading = _heading(line)
        if heading is not None:
            current, rest = heading
            parts[current] = [rest] if rest else []
        elif line.strip() and not line.strip("-=~ "):
            continue  # a line under a heading
        else:
            parts[current].append(line)
    return {name: inspect.cleandoc("\n".join(lines)).strip() for name, lines in parts.items() if "".join(lines).strip()}


def _heading(line: str) -> tuple[str, str] | None:
    """Heading and what follows it on its line, if a line begins with one of the fixed headings."""
    bare = line.strip().lstrip("#*").lstrip()
    for name in HEADINGS:
        if bare.lower().startswith(name.lower()):
            rest = bare[len(name) :]
            if re.fullmatch(r"\s*[:.*]*\s*", rest) or rest.lstrip("*").startswith((":", ".")):
                return name, rest.lstrip("*:. ").strip()
    return None


def threshold_comments(rule: type[Rule]) -> dict[str, str]:
    """By name of a threshold, the comment beside its field in the source; none where the source is not there."""
    try:
        lines = inspect.getsource(rule).splitlines()
    except (OSError, TypeError):
        return {}
    comments: dict[str, str] = {}
    for number, line in enumerate(lines):
        field = re.match(r"\s+(\w+)\s*:\s*(?:int|float|bool)\s*=", line)
        if field is None:
            continue
        found = _LINE_COMMENT.search(line)
        above: list[str] = []
        for before in reversed(lines[:number]):
            if not before.strip().startswith("#"):
                break
            above.insert(0, before.strip().lstrip("#: "))
        comments[field[1]] = found[1] if found else " ".join(above)
    return comments


def rule_text(rule: type[Rule], width: int = 88) -> str:
    """A rule's page for the terminal."""
    lines = [f"{rule.code} {rule.name}", "", *textwrap.wrap(rule.summary, width)]
    facts = f"family {rule.family} · since {rule.since} · {rule.status}"
    lines += ["", facts]
    page = sections(rule)
    if page.get("") and page[""] != rule.summary:
        lines += ["", *_paragraphs(page[""], width)]
    for heading in HEADINGS:
        if heading in page:
            lines += ["", heading, *("  " + line if line else "" for line in _paragraphs(page[heading], width - 2))]
    lines += _thresholds(rule, width)
    if rule.fixes:
        lines += ["", "Fixes"]
        for fix in rule.fixes:
            trial = f": --override {fix.override}" if fix.override else ""
            lines.append(f"  {fix.title} ({fix.safety}){trial}")
    if rule.consequences:
        lines += [
            "",
            "Explains",
            *textwrap.wrap(", ".join(rule.consequences), width - 2, initial_indent="  ", subsequent_indent="  "),
        ]
    if rule.judges_proofs():
        lines += ["", f"Silence it: wellfit slim --ignore {rule.name}"]
    else:
        lines += ["", f"Silence it on a line of your source: # wellfit: ignore[{rule.name}] why"]
    return "\n".join(lines) + "\n"


def _thresholds(rule: type[Rule], width: int) -> list[str]:
    values = thresholds_of(rule)
    if not values:
        return []
    comments = threshold_comments(rule)
    lines = ["", f"Thresholds, to be set in [tool.wellfit.rules.{rule.name}] of pyproject.toml"]
    for name, value in values.items():
        shown = str(value).lower() if isinstance(value, bool) else str(value)
        text = f"{name} = {shown}" + (f"  # {comments[name]}" if comments.get(name) else "")
        lines += textwrap.wrap(text, width, initial_indent="  ", subsequent_indent="      ")
    return lines


def _paragraphs(text: str, width: int) -> list[str]:
    """Text with each paragraph wrapped, and lists and code left as they are."""
    lines: list[str] = []
    for block in re.split(r"\n\s*\n", text):
        kept = any(line.startswith((" ", "-", "*", ">>>")) for line in block.splitlines())
        lines += ["", *(block.splitlines() if kept else textwrap.wrap(block, width))]
    return lines[1:]
