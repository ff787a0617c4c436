"""Text of a run is hostile: layer names, file names, source lines and messages are made harmless here, in one place."""

from __future__ import annotations

import html
import re

# ESC sequences: CSI (colours, cursor), OSC and the other strings up to their terminator (or the end), two-byte escapes.
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c|$)"
    r"|\x1b[ -/]*[0-~]?"
)
# What separates lines or columns becomes a space, so that words stay apart on the one line that is left.
_BREAKS = re.compile("[\t\n\v\f\r\x1c-\x1f\x85\u2028\u2029]+")
# Control characters, direction marks and overrides ("trojan source"), invisible characters, tag characters.
_INVISIBLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff]"
)
_SURROGATES = re.compile("[\ud800-\udfff]")


def printable(text: object, limit: int = 2000) -> str:
    """One line of text that can neither move a cursor nor turn the reading direction.

    Args:
        text: anything; `str()` of it is taken.
        limit: longest result in characters; longer text ends in an ellipsis.

    Returns:
        the text without escape sequences, control, bidirectional and invisible characters. Line breaks and tabs become
        one space; lone surrogates (undecodable file names) become U+FFFD, so that the result is always valid UTF-8.
    """
    raw = str(text)
    cut = raw[: 4 * limit]
    cut = _ESCAPES.sub("", cut)
    cut = _BREAKS.sub(" ", cut)
    cut = _INVISIBLE.sub("", cut)
    cut = valid(cut)
    return cut if len(cut) <= limit else cut[: limit - 1] + "…"


def valid(text: str) -> str:
    """The text with lone surrogates (undecodable file names) as U+FFFD: what strict JSON and UTF-8 can hold."""
    return _SURROGATES.sub("\ufffd", text)


def source_line(text: str, limit: int = 200) -> str:
    """A line of source code made `printable`, with its indentation kept (tabs count four)."""
    return printable(text.rstrip().expandtabs(4), limit)


def html_text(text: object) -> str:
    """`printable` text for an HTML text node or a quoted attribute."""
    return html.escape(printable(text), quote=True)


def github_message(text: object) -> str:
    """`printable` text for the message of a GitHub workflow command: one line, and no second command in it."""
    return printable(text).replace("%", "%25").replace("::", ": :")


def github_property(text: object) -> str:
    """`printable` text for a property (`file=`, `title=`) of a GitHub workflow command."""
    return printable(text).replace("%", "%25").replace(":", "%3A").replace(",", "%2C")


def script_json(text: str) -> str:
    """JSON text that may stand inside a `<script>` element: no `<`, so nothing in it can end the element."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
