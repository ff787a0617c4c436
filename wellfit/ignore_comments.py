"""`# wellfit: ignore[rule]` in the user's source: what it silences, and that a misspelt one silences nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from wellfit.catalogue import known_rules, matches
from wellfit.finding import Finding
from wellfit.nearest import did_you_mean

if TYPE_CHECKING:
    from wellfit.record import Record, Run

_SOURCE_LIMIT = 4_000_000  # bytes of a source file that are read
_COMMENT = re.compile(r"#\s*wellfit:\s*ignore(?![\w-])(?:\s*\[([^\]]*)\])?")


class Comments:
    """The ignore comments in the user's source; each file is read once."""

    def __init__(self) -> None:
        self._files: dict[str, list[str]] = {}

    def silence(self, finding: Finding) -> bool:
        """Whether the finding's line, or a line of comment just above it, says `# wellfit: ignore`."""
        where = finding.location
        if where is None:
            return False
        lines = self._lines(where.file)
        if not 1 <= where.line <= len(lines):
            return False
        texts = [lines[where.line - 1]]
        if where.line >= 2 and lines[where.line - 2].lstrip().startswith("#"):
            texts.append(lines[where.line - 2])
        return any(_says_ignore(text, finding) for text in texts)

    def _lines(self, file: str) -> list[str]:
        if file not in self._files:
            self._files[file] = _read_lines(file)
        return self._files[file]


def _read_lines(file: str) -> list[str]:
    """The lines of a regular source file of sane size; none if it cannot be read."""
    path = Path(file)
    try:
        if not path.is_file() or path.stat().st_size > _SOURCE_LIMIT:
            return []
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except (OSError, ValueError):
        return []


def _says_ignore(text: str, finding: Finding) -> bool:
    for match in _COMMENT.finditer(text):
        if match[1] is None:
            return True
        if any(matches(name, finding.rule, finding.code) for name in match[1].split(",")):
            return True
    return False


def misspelt_comments(run: Run) -> list[str]:
    """One sentence for each name in an ignore comment that means no rule, in the user's files that the run knows."""
    from wellfit.report.source import shown_path

    said = []
    for file in sorted({file for record in run.records for file in _files(record)}):
        for number, line in enumerate(_read_lines(file), 1):
            said += [f"{shown_path(file)}:{number}: {sentence}" for sentence in _misspelt(line)]
    return said


def _files(record: Record) -> Iterator[str]:
    """The program, and where its layers, optimizers, losses and calls of backward stand."""
    main = record.process.get("main_file")
    if isinstance(main, str):
        yield main
    tables = (record.layers, record.optimizers, record.losses, record.backward_sites)
    for table in tables:
        yield from (entry.location.file for entry in table.values() if entry.location is not None)


def _misspelt(line: str) -> Iterator[str]:
    """What is wrong with the ignore comments of a line."""
    from wellfit.report.safe import printable

    for match in _COMMENT.finditer(line):
        for name in filter(None, map(str.strip, (match[1] or "").split(","))):
            rules = known_rules()[0]
            if not any(matches(name, rule.name, rule.code) for rule in rules):
                near = did_you_mean(name, [word for rule in rules for word in (rule.name, rule.code)])
                word = printable(name, 60)
                yield f'the comment "ignore[{word}]" silences nothing: no rule is called "{word}"{near}'
