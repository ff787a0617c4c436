"""docs/wfz.md is enough to write a decoder: one that was written from it reads what wellfit writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stranger
from test_wfz import GOLDEN, golden_tensors

from wellfit.slim import wfz
from wellfit.slim.wfz import Same, streams
from wellfit.slim.wfz.numbers import patterns_of, taken


def assert_read_by_a_stranger(data: bytes, given: dict[str, Any]) -> int:
    """Compare all tensors; how many could be read without the mixing coder."""
    found = stranger.decoded(data)
    assert list(found) == list(given)
    read = 0
    for name, value in given.items():
        array, dtype = taken(name, given[value.name] if isinstance(value, Same) else value)
        if found[name] != "mixing":
            assert found[name] == patterns_of(array, dtype).reshape(-1).tolist(), name
            read += 1
    return read


def test_a_stranger_reads_the_golden_file() -> None:
    assert assert_read_by_a_stranger(GOLDEN.read_bytes(), golden_tensors()) >= 15


@pytest.mark.parametrize("only", ["packed", "huffman", "rans", None])
def test_a_stranger_reads_every_kind_and_coder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, only: str | None
) -> None:
    """Of streams, the one way that is asked for; all of a tensor are left to the choice where None is."""
    quickest = streams.quickest

    def chosen(sizes: dict[str, int], small: bool) -> str:
        return only if only in sizes else quickest(sizes, small)

    monkeypatch.setattr(streams, "quickest", chosen)
    chance = np.random.default_rng(0)
    given = {
        **golden_tensors(),
        "many": np.where(chance.random((150, 200)) < 0.3, chance.integers(-9, 9, (150, 200)), 0).astype("f4") * 0.25,
        "words": chance.zipf(1.5, 3000).clip(0, 60_000),
        "half": (chance.integers(-30, 30, 500) * 0.11).astype("f2"),
        "double": chance.normal(size=9).astype("f4").astype("f8").repeat(30),
        "meaning nothing": np.full((7, 7), np.nan, "f4"),
    }
    wfz.write(tmp_path / "a.wfz", given, small=False, meta={"a long text": "that is worth deflating " * 20})
    assert assert_read_by_a_stranger((tmp_path / "a.wfz").read_bytes(), given) == len(given)
