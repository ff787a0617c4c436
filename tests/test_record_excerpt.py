"""`excerpt`: a run as it stood after a step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_records import ask_everything, fill, write_run

from wellfit.errors import WellfitError
from wellfit.probe.writer import Writer
from wellfit.record import open_run
from wellfit.record.excerpt import excerpt
from wellfit.record.writing import write_json


@pytest.mark.parametrize("last", [0, 4, 17, 58, 59, 1000])
def test_it_is_the_record_of_a_shorter_run(tmp_path: Path, last: int) -> None:
    for name in ("whole", "short"):
        (tmp_path / name).mkdir()
    write_run(tmp_path / "whole")
    excerpt(tmp_path / "whole", last, tmp_path / "part")
    shorter = Writer(str(tmp_path / "short"), 0, 7, 1 << 40)
    fill(shorter, min(last + 1, 60), 70)
    shorter.close()
    part, short = open_run(tmp_path / "part"), open_run(tmp_path / "short")
    ask_everything(part)
    (ours,), (expected,) = part.records, short.records
    assert ours.step_count == expected.step_count == min(last + 1, 60)
    assert np.array_equal(ours.loss().value, expected.loss().value)
    assert np.array_equal(ours.evaluations().step, expected.evaluations().step)
    assert [event["step"] for event in ours.events()] == [event["step"] for event in expected.events()]
    assert ours.subjects("gradient") == expected.subjects("gradient")
    for subject in ("0", "69"):
        theirs = expected.series("gradient", subject)
        assert np.array_equal(ours.series("gradient", subject).data, theirs.data)
        assert np.array_equal(ours.series("gradient", subject).step, theirs.step)


def test_it_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    write_run(tmp_path / "whole", steps=3)
    with pytest.raises(WellfitError, match="exists already"):
        excerpt(tmp_path / "whole", 1, tmp_path / "whole")


def test_it_still_goes_on(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    write_run(tmp_path / "whole", steps=30)
    write_json(tmp_path / "whole" / "run.json", {"version": 1, "status": "ended", "ended": 2.0, "exit_code": 0})
    excerpt(tmp_path / "whole", 10, tmp_path / "part")
    assert open_run(tmp_path / "whole").records[0].finished
    assert not open_run(tmp_path / "part").records[0].finished


def test_what_cannot_be_written_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "whole").mkdir()
    write_run(tmp_path / "whole")
    (tmp_path / "file").write_text("")
    with pytest.raises(WellfitError, match="part could not be made: Not a directory"):
        excerpt(tmp_path / "whole", 3, tmp_path / "file" / "part")

    def full(path: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(WellfitError, match="No space left"):
        excerpt(tmp_path / "whole", 3, tmp_path / "part")
    assert not (tmp_path / "part").exists()
