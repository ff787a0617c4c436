"""What several test files share."""

from __future__ import annotations

import functools
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked import Forks
from overridden import Run


def pytest_configure() -> None:
    """Signals that our caller ignores (`nohup`, `&` of a script) would stay ignored in the programs of the tests."""
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL if number == signal.SIGHUP else signal.default_int_handler)


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """The process that runs scripts under overrides."""
    with Forks() as made:
        yield made


@pytest.fixture
def run(forks: Forks, tmp_path: Path) -> Run:
    """Runs a script in that process."""
    return functools.partial(forks.run, tmp_path)
