"""Plain safetensors, written and read with numpy alone: what the format says, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_wfz import bits_of, some_tensors

from wellfit.errors import WellfitError
from wellfit.slim.wfz import BFloat16, Damaged, safetensors


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.text(max_size=10).filter(lambda name: name != "__metadata__"), some_tensors, max_size=5),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
)
def test_what_is_written_is_read(tmp_path: Path, tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    size = safetensors.write(tmp_path / "a.safetensors", tensors, metadata)
    assert size == (tmp_path / "a.safetensors").stat().st_size
    found, told = safetensors.read(tmp_path / "a.safetensors")
    assert {name: bits_of(value) for name, value in found.items()} == {
        name: bits_of(value) for name, value in tensors.items()
    }
    assert {name: text for name, text in told.items() if name != safetensors.PAIRS} == metadata


def test_the_bytes_are_those_of_the_format(tmp_path: Path) -> None:
    """As the package of that name writes them: larger types first, the header filled up to a multiple of 8."""
    tensors = {
        "b": np.array([1, 2], "i1"),
        "a": np.array([[1.0, 2.0]], "f4"),
        "h": BFloat16(np.array([7], "u2")),
    }
    safetensors.write(tmp_path / "a.safetensors", tensors, {"format": "pt"})
    data = (tmp_path / "a.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0
    assert json.loads(data[8 : 8 + length]) == {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]},
        "h": {"dtype": "BF16", "shape": [1], "data_offsets": [8, 10]},
        "b": {"dtype": "I8", "shape": [2], "data_offsets": [10, 12]},
    }
    assert data[8 + length :] == np.array([1, 2], "<f4").tobytes() + b"\7\0\1\2"


def test_complex128_is_written_as_pairs(tmp_path: Path) -> None:
    value = np.array([[1 + 2j, -3j]])
    safetensors.write(tmp_path / "a.safetensors", {"c": value})
    _, [place], metadata = safetensors.take_header(
        (tmp_path / "a.safetensors").read_bytes(), (tmp_path / "a.safetensors").stat().st_size
    )
    assert (place.dtype, place.shape) == ("float64", (1, 2, 2))
    assert json.loads(metadata[safetensors.PAIRS]) == ["c"]
    assert (safetensors.read(tmp_path / "a.safetensors")[0]["c"] == value).all()


def test_names_and_paths_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(WellfitError, match="rename"):
        safetensors.write(tmp_path / "a.safetensors", {"__metadata__": np.zeros(1)})
    with pytest.raises(WellfitError, match="array of <U1"):
        safetensors.write(tmp_path / "a.safetensors", {"a": np.array(["a"])})
    with pytest.raises(WellfitError, match="cannot be written"):
        safetensors.write(tmp_path / "nowhere" / "a.safetensors", {})
    with pytest.raises(WellfitError, match="cannot be read"):
        safetensors.read(tmp_path / "nothing.safetensors")


def file_of(header: Any, data: bytes = bytes(8)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def one(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


BAD = {
    "nothing": b"",
    "a length alone": bytes(7),
    "a header longer than the file": (100).to_bytes(8, "little") + b"{}",
    "a huge header": b"\xff" * 8 + b"{}",
    "no JSON": file_of(b"{"),
    "no UTF-8": file_of(b'{"\xff": 1}'),
    "half a pair of UTF-16": file_of(b'{"\\ud800": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'),
    "nested deep": file_of(b"[" * 100_000),
    "many digits": file_of(b'{"a": ' + b"9" * 5000 + b"}"),
    "no object": file_of([]),
    "a name twice": file_of(b'{"a": 1, "a": 2}'),
    "an entry that is none": file_of({"a": 1}),
    "an entry with more": file_of({"a": {**one(), "code": 1}}),
    "an entry with less": file_of({"a": {"dtype": "F32", "shape": [2]}}),
    "an unknown type": file_of({"a": one("F33")}),
    "a type that is a list": file_of({"a": one(["F32"])}),
    "a shape that is none": file_of({"a": one(shape=2)}),
    "a negative shape": file_of({"a": one(shape=[-2, -1])}),
    "a shape of a float": file_of({"a": one(shape=[2.0])}),
    "a shape of a bool": file_of({"a": one(shape=[True, 2])}),
    "a shape that overflows": file_of({"a": one(shape=[1 << 32, 1 << 32], offsets=[0, 0])}),
    "an empty shape that overflows": file_of({"a": one(shape=[0, 1 << 62], offsets=[0, 0])}, b""),
    "many dimensions": file_of({"a": one(shape=[1] * 33)}),
    "offsets that are none": file_of({"a": one(offsets=[0])}),
    "offsets beyond the end": file_of({"a": one(offsets=[0, 8])}, bytes(7)),
    "bytes behind the end": file_of({"a": one()}, bytes(9)),
    "offsets of another size": file_of({"a": one(offsets=[0, 4])}),
    "offsets backwards": file_of({"a": one(offsets=[8, 0])}),
    "an overlap": file_of({"a": one(), "b": one(offsets=[4, 12])}, bytes(12)),
    "a gap": file_of({"a": one(), "b": one(offsets=[9, 17])}, bytes(17)),
    "two in one place": file_of({"a": one(), "b": one()}),
    "a bool of 2": file_of({"a": one("BOOL", [1], [0, 1])}, b"\2"),
    "metadata that is no text": file_of({"__metadata__": {"a": 1}}, b""),
    "metadata that is none": file_of({"__metadata__": 1}, b""),
    "pairs of no tensor": file_of({"__metadata__": {safetensors.PAIRS: '["b"]'}, "a": one()}),
    "pairs that are no names": file_of({"__metadata__": {safetensors.PAIRS: "{"}, "a": one()}),
    "pairs of a float32": file_of({"__metadata__": {safetensors.PAIRS: '["a"]'}, "a": one()}),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.safetensors").write_bytes(BAD[name])
    with pytest.raises(Damaged, match=r"a\.safetensors: "):
        safetensors.read(tmp_path / "a.safetensors")


def test_a_good_file_of_that_form_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(file_of({"b": one(offsets=[8, 16]), "a": one()}, bytes(16)))
    assert list(safetensors.read(tmp_path / "a.safetensors")[0]) == ["a", "b"]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60), st.integers(0, 400), st.integers(0, 10))
def test_changed_bytes_are_tensors_or_damaged(tmp_path: Path, fresh: bytes, start: int, replaced: int) -> None:
    good = file_of({"__metadata__": {"a": "b"}, "a": one(), "b": one("I16", (3, 1), (8, 14))}, bytes(14))
    (tmp_path / "a.safetensors").write_bytes(good[:start] + fresh + good[start + replaced :])
    try:
        safetensors.read(tmp_path / "a.safetensors")
    except Damaged:
        pass
