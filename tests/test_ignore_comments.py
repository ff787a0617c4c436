"""Ignore comments that name no rule are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from wellfit.ignore_comments import misspelt_comments
from wellfit.record import Run, open_run
from wellfit.testing import MadeRun


def run_of(folder: Path, line: str) -> Run:
    """A run whose program is one line behind an import."""
    script = folder / "train.py"
    script.write_text(f"import torch\n{line}\n")
    (folder / "run").mkdir()
    made = MadeRun(folder / "run")
    made.out.declare({"type": "process", "rank": 0, "main_file": str(script)})
    made.out.close()
    return open_run(folder / "run")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("step()  # wellfit: ignore[stale-gra]", ['"stale-gra" (did you mean "stale-grad"?)']),
        ("step()  #wellfit:ignore[dead-units, nosuch,xyz]", ['"nosuch"', '"xyz"']),
        ("step()  # wellfit: ignore[stale-grad, FWD302, FWD, ] why", []),
        ("step()  # wellfit: ignore", []),
        ("this is no Python  # wellfit: ignore[nosuch]", ['"nosuch"']),
    ],
)
def test_names_that_mean_no_rule(tmp_path: Path, line: str, said: list[str]) -> None:
    told = misspelt_comments(run_of(tmp_path, line))
    assert len(told) == len(said)
    for sentence, part in zip(told, said):
        assert "train.py:2: " in sentence and f"no rule is called {part}" in sentence


def test_a_hostile_name_is_harmless(tmp_path: Path) -> None:
    [told] = misspelt_comments(run_of(tmp_path, "step()  # wellfit: ignore[a\x1b[2J]"))
    assert "\x1b" not in told
