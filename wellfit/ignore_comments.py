"""Ignore comments that name no rule: a misspelt one silences nothing, and nobody would know why."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from wellfit.catalogue import known_rules, matches
from wellfit.nearest import did_you_mean
from wellfit.source import source_of

if TYPE_CHECKING:
    from wellfit.record import Record, Run

_NAMED = re.compile(r"#\s*wellfit:\s*ignore\s*\[([^\]]*)\]")


def misspelt_comments(run: Run) -> list[str]:
    """One sentence for each name in an ignore comment that means no rule, in the user's files that the run knows."""
    from wellfit.report.source import shown_path

    said = []
    for file in sorted({file for record in run.records for file in _files(record)}):
        source = source_of(file)
        for number, line in enumerate(source.lines if source is not None else (), 1):
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

    for match in _NAMED.finditer(line):
        for name in filter(None, map(str.strip, match[1].split(","))):
            rules = known_rules()[0]
            if not any(matches(name, rule.name, rule.code) for rule in rules):
                near = did_you_mean(name, [word for rule in rules for word in (rule.name, rule.code)])
                word = printable(name, 60)
                yield f'the comment "ignore[{word}]" silences nothing: no rule is called "{word}"{near}'
