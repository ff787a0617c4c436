"""HTML that is written here: all text in it is escaped, in one place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wellfit.report.safe import html_text, printable

NAME = 120
"""Characters of a name."""


class Html(str):
    """Markup that is harmless as it is; any other text is escaped where it is put into some."""

    __slots__ = ()


def tag(name: str, *children: object, **attributes: object) -> Html:
    """An element. Text is escaped; attributes that are None or False are left out, `class_` is `class`."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html_text("" if value is True else value)}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Html(f"<{name}{given}>{joined(children)}</{name}>")


def joined(children: Iterable[object]) -> Html:
    """Elements and text, one after the other."""
    return Html("".join(child if isinstance(child, Html) else html_text(child) for child in children))


def code(name: object) -> Html:
    """A name of the user's."""
    return tag("code", printable(name, NAME))


@dataclass(frozen=True)
class Column:
    """Of a table.

    Args:
        title: its head.
        kind: "text", "number", or "wide" (text that takes the room that is left).
        about: told when the mouse rests on the head.
    """

    title: str
    kind: str = "number"
    about: str | None = None


def table(columns: Sequence[Column], rows: Sequence[Sequence[object]], label: str, chosen: int | None = None) -> Html:
    """A table in a frame that scrolls where the window is narrow; columns with nothing in them are left out.

    Args:
        columns: of it.
        rows: cells; None and "" are empty.
        label: what the table is, for those who hear it.
        chosen: the row that is marked.
    """
    used = [at for at in range(len(columns)) if at == 0 or any(row[at] not in (None, "") for row in rows)]
    heads = (tag("th", columns[at].title, class_=columns[at].kind, title=columns[at].about, scope="col") for at in used)
    lines = (
        tag("tr", *(_cell(columns[at], row[at], at) for at in used), class_="chosen" if place == chosen else None)
        for place, row in enumerate(rows)
    )
    whole = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *lines), aria_label=label)
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=label)


def _cell(column: Column, value: object, place: int) -> Html:
    text = "" if value is None else value
    return tag("th", text, class_=column.kind, scope="row") if place == 0 else tag("td", text, class_=column.kind)


def bar(text: str, share: float, kind: str = "") -> Html:
    """A number with a bar under it.

    Args:
        text: the number.
        share: of the bar, from 0 to 1.
        kind: a class more.
    """
    width = f"{100 * min(1.0, max(0.0, share)):.2f}"
    drawn = tag("rect", width="100", height="4", class_="groove") + tag("rect", width=width, height="4", class_="fill")
    picture = tag(
        "svg", Html(drawn), viewBox="0 0 100 4", preserveAspectRatio="none", class_=f"bar {kind}".strip(),
        aria_hidden="true",
    )  # fmt: skip
    return joined((tag("span", text), picture))
