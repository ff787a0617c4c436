"""`inspect` says what is in a file; `expand` makes plain safetensors of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forged import Pieces, entry, taken_apart
from test_wfz import bits_of, golden_tensors

from wellfit.errors import WellfitError
from wellfit.slim.file_verbs.expand import run_expand
from wellfit.slim.file_verbs.inspect import run_inspect
from wellfit.slim.wfz import Damaged, Same, safetensors, write
from wellfit.slim.wfz.varint import varint

CHANGES = [{"name": "cut", "layer": "fc1", "kept": [0, 2]}]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "a.wfz", golden_tensors(), changes=CHANGES, meta={"accuracy": 0.98})
    return tmp_path / "a.wfz"


def test_the_table_says_what_is_in_a_file(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_inspect(path, "text") == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split() for line in lines if line}
    assert rows["tensor"][-1] == "ratio"
    assert rows["few"][1:7] == ["codebook,", "positions", "float32", "100000", "0.00%", "2"]
    assert rows["tied"][1:3] == ["as", "shared"]
    assert rows["bits"][1] == "bits,"
    assert " ".join(rows["one"][1:7]) == "codebook int64 one number 100.00% 1"
    assert f"{path.stat().st_size:,} bytes for" in "\n".join(lines)
    assert 'change 1: {"name": "cut", "layer": "fc1", "kept": [0, 2]}' in lines
    assert "accuracy: 0.98" in lines
    assert lines[-1] == "The SHA-256 of the file and the CRC-32 of every tensor are right."


def test_json_says_the_same(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_inspect(path, "json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["bytes"] == path.stat().st_size
    assert told["changes"] == CHANGES
    tensors = {tensor["name"]: tensor for tensor in told["tensors"]}
    assert list(tensors) == list(golden_tensors())
    assert tensors["few"]["kept"] == 2e-5
    assert tensors["tied"]["tied_to"] == "shared"
    assert told["decoded"] == sum(tensor["decoded"] for tensor in told["tensors"])
    with pytest.raises(WellfitError, match="text or json"):
        run_inspect(path, "sarif")


def test_a_damaged_tensor_is_found(path: Path) -> None:
    pieces = taken_apart(path.read_bytes())
    pieces.payloads[0] = b"\xff" + pieces.payloads[0][1:]
    path.write_bytes(pieces.file())
    with pytest.raises(Damaged, match="'shared'"):
        run_inspect(path, "text")


def test_names_are_hostile_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = b"\x1b]0;gone\x07\x1b[2Jw\xe2\x80\xae\n" + b"x" * 500
    header = (
        varint(1) + entry(name) + json.dumps({"changes": [{"\x1b[2J": 1}], "meta": {"\x1b[2J\n": "\x9b2J"}}).encode()
    )
    (tmp_path / "a.wfz").write_bytes(Pieces(header, [bytes(8)]).file())
    run_inspect(tmp_path / "a.wfz", "text")
    shown = capsys.readouterr().out
    assert all(character.isprintable() or character == "\n" for character in shown)
    assert max(map(len, shown.splitlines())) < 250
    run_inspect(tmp_path / "a.wfz", "json")
    assert "\x1b" not in capsys.readouterr().out


def test_expand_gives_plain_safetensors(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_expand(path, None) == 0
    to = path.with_suffix(".safetensors")
    assert str(to) in capsys.readouterr().out
    tensors, metadata = safetensors.read(to)
    given: dict[str, Any] = golden_tensors()
    for name, value in given.items():
        value = given[value.name] if isinstance(value, Same) else value
        assert bits_of(tensors[name]) == bits_of(value), name
    assert json.loads(metadata["wellfit.changes"]) == CHANGES
    assert json.loads(metadata["wellfit.meta"]) == {"accuracy": 0.98}
    assert metadata["format"] == "pt"


def test_expand_overwrites_nothing_unless_forced(path: Path) -> None:
    to = path.parent / "mine.safetensors"
    to.write_text("precious")
    with pytest.raises(WellfitError, match="--force"):
        run_expand(path, to)
    assert to.read_text() == "precious"
    assert run_expand(path, to, force=True) == 0
    assert "few" in safetensors.read(to)[0]


def test_limits_can_be_raised(tmp_path: Path) -> None:
    write(tmp_path / "a.wfz", {"zeros": np.zeros(9 << 20)})
    for run in (
        lambda **more: run_inspect(tmp_path / "a.wfz", "json", **more),
        lambda **more: run_expand(tmp_path / "a.wfz", None, **more),
    ):
        with pytest.raises(Damaged, match="max_bytes"):
            run()
        assert run(max_bytes=1 << 30) == 0
