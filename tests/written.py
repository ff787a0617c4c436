"""The change that an override makes, written into the script by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from forked import Forks
from overridden import Ran

from wellfit.overrides.draws import own_seed


def changed(script: str, *pairs: tuple[str, str]) -> str:
    """The script with pieces of it replaced; lines for its places are given as ("# batch", "one; two")."""
    for old, new in pairs:
        assert old in script, old
        if old.startswith("#"):
            line = next(line for line in script.splitlines() if line.strip() == old.strip())
            new = f"\n{line[: line.index('#')]}".join(new.split("; "))
        script = script.replace(old, new)
    return script


def seeded(lines: str) -> str:
    """Lines that draw as an override does in a script with the seed 0: from a stream of their own."""
    return f"state = torch.get_rng_state()\ntorch.manual_seed({own_seed(0)})\n{lines}\ntorch.set_rng_state(state)\n"


def each(names: str, rows: Sequence[tuple[Any, ...]]) -> pytest.MarkDecorator:
    """A test for each row of a table, called by its number and the override, which comes first."""
    return pytest.mark.parametrize(names, rows, ids=[f"{number}-{row[0]}" for number, row in enumerate(rows)])


def said(ran: Ran, name: str) -> tuple[list[str], list[tuple[str, str]]]:
    """What an override says it changed and left out."""
    assert ran.record is not None, ran.err
    entry = next(entry for entry in ran.record.overrides.values() if entry.name == name)
    return list(entry.changed), list(entry.left_out)


def same_as_by_hand(
    forks: Forks, folder: Path, override: str, script: str, pairs: list[tuple[str, str]], what: str
) -> None:
    """A script under an override prints what it prints with the change written in, and not what it prints without.

    Args:
        pairs: the change, as for `changed`; none if nothing shall change.
        what: a part of what the override says it changed.
    """
    # GIVEN the change written into the script
    before, wanted = forks.run(folder, script), forks.run(folder, changed(script, *pairs))
    assert before.code == wanted.code == 0, wanted.err
    # WHEN the script runs as it is, under the override
    ran = forks.run(folder, script, override)
    # THEN it prints the same, which is not what it prints without
    assert (ran.code, ran.lines) == (0, wanted.lines), ran.err
    assert ran.lines != before.lines or not pairs
    assert what in "; ".join(said(ran, override.partition("=")[0])[0])


def stopped(ran: Ran, sentence: str) -> None:
    """The run ended before anything was trained, with one sentence."""
    assert (ran.code, ran.err.count("\n")) == (2, 1), ran.err
    assert sentence in ran.err and "nothing was trained" in ran.err
    assert ran.record is None or ran.record.step_count == 0
