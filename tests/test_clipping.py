"""Norms of gradients that lie on a device: written later, for the step they belong to, and not waited for."""

from __future__ import annotations

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from wellfit.probe import clipping as module  # noqa: E402
from wellfit.probe.clipping import Clipping  # noqa: E402
from wellfit.probe.governor import Governor  # noqa: E402
from wellfit.probe.moment import Moment  # noqa: E402
from wellfit.probe.patterns import Patterns  # noqa: E402


class Event:
    """The arrival of a copy."""

    arrived = False

    def query(self) -> bool:
        return self.arrived

    def synchronize(self) -> None:
        self.arrived = True


@pytest.fixture
def rows() -> list[tuple[Any, ...]]:
    return []


@pytest.fixture
def clipping(rows: list[tuple[Any, ...]]) -> Clipping:
    now = Moment(lambda *row: None, Patterns(lambda fields: None), Governor(0.01, 1, 0), 0.0)
    return Clipping(now, lambda fields: None, lambda *row: rows.append(row))


def test_norms_on_a_device_come_together_and_later(
    clipping: Clipping, rows: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way: list[Event] = []

    def sent(tensor: torch.Tensor) -> tuple[torch.Tensor, Event]:
        under_way.append(Event())
        return tensor, under_way[-1]

    monkeypatch.setattr(module, "sent", sent)
    clipping._take(7, (0, torch.tensor(3.0), 1.0))
    clipping._take(8, (1, torch.tensor(math.nan, dtype=torch.float64), 2.0))
    clipping._take(9, (0, 5.0, 1.0))  # on the host: no need to wait
    clipping.send()
    clipping.collect()
    assert rows == [(ord("C"), 0, 0, 9, 5.0, 1.0)] and len(under_way) == 1
    under_way[0].arrived = True
    clipping.collect()
    assert rows[1] == (ord("C"), 0, 0, 7, 3.0, 1.0)
    assert rows[2][:4] == (ord("C"), 0, 1, 8) and math.isnan(rows[2][4])


def test_at_the_end_they_are_waited_for(clipping: Clipping, rows: list[tuple[Any, ...]]) -> None:
    clipping._take(1, (0, torch.tensor(3.0), 1.0))
    clipping.send()
    clipping.collect(wait=True)
    clipping.send()
    assert rows == [(ord("C"), 0, 0, 1, 3.0, 1.0)]
