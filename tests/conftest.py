"""What several test files share."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked import Forks
from overridden import Run


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """The process that runs scripts under overrides."""
    with Forks() as made:
        yield made


@pytest.fixture
def run(forks: Forks, tmp_path: Path) -> Run:
    """Runs a script in that process."""
    return functools.partial(forks.run, tmp_path)
