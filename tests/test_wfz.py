"""A `.wfz` file gives back what was written, bit for bit; what it cannot hold is refused with a sentence."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from wellfit.errors import WellfitError
from wellfit.slim import wfz
from wellfit.slim.wfz import BFloat16, Float8, Same, marked, numbers

GOLDEN = Path(__file__).parent / "data" / "golden-1.wfz"
NAMES = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
NAMES += ["float16", "float32", "float64", "complex64", "complex128"]


def bits_of(value: Any) -> tuple[str, tuple[int, ...], bytes]:
    """Type, shape and bits of a tensor as it was given or came back."""
    array, dtype = numbers.taken("it", value)
    return dtype.name, array.shape, array.tobytes()


def assert_same(contents: wfz.Contents, given: dict[str, Any]) -> None:
    assert list(contents.stored) == list(given)
    for name, array in contents.tensors().items():
        meant = given[name]
        while isinstance(meant, Same):
            meant = given[meant.name]
        stored = contents.stored[name]
        assert bits_of(marked(array, stored.dtype)) == bits_of(meant), name
        assert stored.shape == array.shape


# What comes back ---------------------------------------------------------------------------------------------------

some_arrays = st.sampled_from(NAMES).flatmap(
    lambda name: arrays.arrays(np.dtype(name), arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6))
)
some_tensors = st.one_of(
    some_arrays,
    arrays.arrays(np.uint16, arrays.array_shapes(max_dims=3, max_side=8)).map(BFloat16),
    arrays.arrays(np.uint8, arrays.array_shapes(max_dims=3, max_side=8)).map(Float8),
    arrays.arrays(np.uint8, (3, 4)).map(lambda array: Float8(array, "e5m2")),
)
some_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.text(max_size=12), some_tensors, max_size=5),
    st.lists(st.dictionaries(st.text(max_size=4), some_json, max_size=3), max_size=3),
    st.dictionaries(st.text(max_size=4), some_json, max_size=3),
    st.booleans(),
    st.data(),
)
def test_what_is_written_is_read(
    tmp_path: Path, tensors: dict[str, Any], changes: list[Any], meta: dict[str, Any], small: bool, data: st.DataObject
) -> None:
    for place in range(data.draw(st.integers(0, 2)) if tensors else 0):
        tensors = {**tensors, f"tied {place}": Same(data.draw(st.sampled_from(list(tensors))))}
    tensors = {name: tensors[name] for name in data.draw(st.permutations(list(tensors)))}
    path = tmp_path / "a.wfz"
    written = wfz.write(path, tensors, changes=changes, meta=meta, small=small)
    assert written.bytes == path.stat().st_size
    contents = wfz.read(path)
    assert contents.changes == changes
    assert contents.meta == meta
    assert_same(contents, tensors)
    assert {name: stored.bytes for name, stored in contents.stored.items()} == {
        name: tensor.bytes for name, tensor in written.tensors.items()
    }


SPECIAL = [0.0, -0.0, math.nan, math.inf, -math.inf, 1e-45, -1e-45, 1.1754942e-38, 3.4028235e38, 1.0, 5e-324, 65504.0]


@pytest.mark.parametrize("name", ["float16", "float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("repeats", [1, 500])
def test_special_numbers_keep_their_bits(tmp_path: Path, name: str, repeats: int) -> None:
    with np.errstate(all="ignore"):
        array = np.array(SPECIAL * repeats, "f8").astype(name)
    payload_of_nan = np.array([0x7F800001, 0xFFC12345], np.uint32).view("f4")
    given = {"all": array, "nan": payload_of_nan, "column": array.reshape(-1, 1), "minus": np.full((7, 9), -0.0, name)}
    wfz.write(tmp_path / "a.wfz", given)
    assert_same(wfz.read(tmp_path / "a.wfz"), given)


def test_arrays_of_any_order_in_memory(tmp_path: Path) -> None:
    base = np.arange(24, dtype="f4").reshape(4, 6)
    given = {
        "turned": base.T,
        "strided": base[::2, 1::2],
        "backwards": base[::-1],
        "big end first": base.astype(">f4"),
        "broadcast": np.broadcast_to(np.float32(3), (5, 7)),
        "scalar": np.float64(7),
        "no dimension": np.array(3, "i8"),
        "empty": np.zeros((3, 0, 5), "i2"),
    }
    wfz.write(tmp_path / "a.wfz", given)
    assert_same(wfz.read(tmp_path / "a.wfz"), given)


def test_tied_tensors_are_one_array(tmp_path: Path) -> None:
    given = {"head": Same("middle"), "middle": Same("embedding"), "embedding": np.arange(6.0)}
    written = wfz.write(tmp_path / "a.wfz", given)
    assert written.tensors["head"].bytes == written.tensors["head"].decoded == 0
    contents = wfz.read(tmp_path / "a.wfz")
    assert [stored.tied_to for stored in contents.stored.values()] == ["embedding", "embedding", None]
    found = contents.tensors()
    assert found["head"] is found["embedding"]
    assert contents.stored["head"].shape == (6,)
    assert (contents.tensor("head") == np.arange(6.0)).all()


# What is known of a tensor -----------------------------------------------------------------------------------------


def test_what_is_known_of_each_tensor(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    pruned = np.where(chance.random((100, 50)) < 0.1, chance.choice([0.5, 1.5, -0.37], (100, 50)), 0).astype("f4")
    given = {
        "pruned": pruned,
        "minus zero": np.array([0.0, -0.0, 1.0]),
        "complex": np.array([0, 1, 1j, 1], "c8"),
        "bits": np.array([0, 1, -1, 3], "i1"),
        "empty": np.zeros(0),
    }
    wfz.write(tmp_path / "a.wfz", given)
    stored = wfz.read(tmp_path / "a.wfz").stored
    assert stored["pruned"].kind == "codebook"
    assert stored["pruned"].coder in ("rans", "mixing")
    assert stored["pruned"].distinct == 3
    assert stored["pruned"].kept == np.count_nonzero(pruned) / pruned.size
    assert stored["minus zero"].distinct == 1
    assert stored["minus zero"].kept == 1 / 3
    assert (stored["complex"].distinct, stored["complex"].kept) == (2, 0.75)
    assert (stored["bits"].distinct, stored["bits"].kept) == (3, 0.75)
    assert (stored["empty"].distinct, stored["empty"].kept, stored["empty"].bytes) == (0, 1.0, 0)


def test_little_is_spent_around_the_numbers(tmp_path: Path) -> None:
    shapes = {"fc1": (300, 784), "fc2": (100, 300), "fc3": (10, 100)}
    given = {}
    for name, shape in shapes.items():
        given[f"{name}.weight"] = np.zeros(shape, "f4")
        given[f"{name}.bias"] = np.zeros(shape[:1], "f4")
    written = wfz.write(tmp_path / "a.wfz", given)
    payloads = sum(tensor.bytes - 4 for tensor in written.tensors.values())
    assert (written.bytes - payloads - 32) / 6 < 25


def test_names_that_begin_alike_cost_little(tmp_path: Path) -> None:
    tensors = {f"module.transformer.blocks.{place}.attention.projection.weight": np.zeros(0) for place in range(100)}
    assert wfz.write(tmp_path / "a.wfz", tensors).bytes < 100 * 8
    assert list(wfz.read(tmp_path / "a.wfz").stored) == list(tensors)


def test_dense_weights_are_smaller_without_loss(tmp_path: Path) -> None:
    weights = (np.random.default_rng(0).normal(size=(300, 400)) * 0.05).astype("f4")
    written = wfz.write(tmp_path / "a.wfz", {"w": weights})
    assert written.decoded / written.bytes >= 1.16
    written = wfz.write(tmp_path / "a.wfz", {"w": BFloat16((weights.view("u4") >> 16).astype("u2"))})
    assert written.decoded / written.bytes >= 1.36


def test_files_that_are_quick_to_read_are_nearly_as_small(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).normal(size=(300, 400)).astype("f4")
    given = {"w": weights, "q": np.round(weights * 5)}
    small, quick = (wfz.write(tmp_path / "a.wfz", given, small=small).bytes for small in (True, False))
    assert small <= quick <= 1.2 * small
    assert_same(wfz.read(tmp_path / "a.wfz"), given)


# What is refused when writing --------------------------------------------------------------------------------------


class FakeSparse:
    layout = "torch.sparse_coo"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([1.0, 2.0], "numpy arrays"),
        (FakeSparse(), "dense"),
        (np.array(["a"]), "array of <U1"),
        (np.array([None]), "array of object"),
        (np.zeros(2, np.longdouble), "array of"),
        (np.zeros(2, "M8[s]"), "datetime64"),
        (np.zeros(2, [("a", "f4")]), "array of"),
        (np.ma.masked_array(np.zeros(3), [0, 1, 0]), "mask"),
        (BFloat16(np.zeros(2, "f4")), "uint16"),
        (Float8(np.zeros(2, "u1"), "e3m4"), "float8_e3m4"),
        (Same("nothing"), "not among"),
        (Same("bad"), "tied to itself"),
        (Same("round"), "tied to itself"),
    ],
)
def test_tensors_that_no_file_holds(tmp_path: Path, value: Any, said: str) -> None:
    with pytest.raises(WellfitError, match=said):
        wfz.write(tmp_path / "a.wfz", {"bad": value, "round": Same("bad")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [3, "\ud800", "x" * 5000])
def test_names_that_no_file_holds(tmp_path: Path, name: Any) -> None:
    with pytest.raises(WellfitError):
        wfz.write(tmp_path / "a.wfz", {name: np.zeros(2)})


deep: list[Any] = []
for _ in range(100):
    deep = [deep]


@pytest.mark.parametrize("meta", [{"a": math.nan}, {"a": object()}, {"a": deep}, {"a": 10**50}, {"a": "\ud800"}])
def test_meta_that_is_no_plain_json(tmp_path: Path, meta: dict[str, Any]) -> None:
    with pytest.raises(WellfitError, match="plain JSON"):
        wfz.write(tmp_path / "a.wfz", {}, meta=meta)


def test_paths_that_cannot_be_written_or_read(tmp_path: Path) -> None:
    with pytest.raises(WellfitError, match="cannot be written"):
        wfz.write(tmp_path / "no folder" / "a.wfz", {})
    with pytest.raises(WellfitError, match="cannot be read"):
        wfz.read(tmp_path / "nothing.wfz")
    with pytest.raises(WellfitError, match="cannot be read"):
        wfz.read(tmp_path)


def test_an_old_file_stays_whole_when_writing_fails(tmp_path: Path) -> None:
    wfz.write(tmp_path / "a.wfz", {"w": np.arange(4)})
    before = (tmp_path / "a.wfz").read_bytes()
    with pytest.raises(WellfitError):
        wfz.write(tmp_path / "a.wfz", {"w": np.arange(4), "bad": "text"})  # type: ignore[dict-item]
    assert (tmp_path / "a.wfz").read_bytes() == before


def test_an_unknown_tensor_is_asked_for(tmp_path: Path) -> None:
    wfz.write(tmp_path / "a.wfz", {"weight": np.arange(4)})
    with pytest.raises(WellfitError, match="did you mean"):
        wfz.read(tmp_path / "a.wfz").tensor("wieght")


def test_a_file_is_the_same_each_time_it_is_written(tmp_path: Path) -> None:
    given = golden_tensors()
    wfz.write(tmp_path / "a.wfz", given)
    wfz.write(tmp_path / "b.wfz", given)
    assert (tmp_path / "a.wfz").read_bytes() == (tmp_path / "b.wfz").read_bytes()


def test_neither_torch_nor_numpy_before_they_are_needed() -> None:
    code = (
        "import sys; import wellfit.slim.wfz.safetensors; assert 'numpy' not in sys.modules; "
        "from wellfit.slim.wfz import read, write; assert 'numpy' in sys.modules; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no /dev/zero here")
def test_a_file_without_end_is_not_read_to_its_end() -> None:
    with pytest.raises(wfz.Damaged, match="this is no"):
        wfz.read("/dev/zero")


# The golden file ---------------------------------------------------------------------------------------------------


def golden_tensors() -> dict[str, Any]:
    """Every kind, coder and type of version 1, from whole numbers alone: the same on every machine for ever."""

    def chance(count: int, seed: int) -> NDArray[Any]:
        data = b"".join(hashlib.sha256(f"{seed} {place}".encode()).digest() for place in range(count // 8 + 1))
        return np.frombuffer(data, "<u4")[:count]

    many = chance(6000, 1)
    normal = ((many & 1023).astype("f8") + (many >> 10 & 1023) + (many >> 20 & 1023) - 1534) / 4096
    normal = np.sign(normal) * np.sqrt(np.abs(normal))  # rounded as IEEE 754 asks for, so the same everywhere
    shared = np.where(many % 10 < 2, many // 16 % 7 + 1, 0).astype("f4") * np.float32(0.25)
    scales = np.array([0.5, 0.013, 2.75, 0.3], "f4")
    tensors: dict[str, Any] = {
        "shared": shared.reshape(60, 100),
        "shared too": shared.reshape(60, 100)[::-1],
        "kernels": shared[:900].reshape(10, 10, 3, 3),
        "planes": normal[:400].astype("f4").reshape(20, 20),
        "planes.bf16": BFloat16((normal.astype("f4").view("u4") >> 16).astype("u2")[:600]),
        "sparse": np.where(many % 4 == 0, normal, 0).astype("f4").reshape(100, 60)[:40],
        "bits": np.where(many[:400] & 1, 1, -1).astype("f4").reshape(4, 100) * scales[:, None],
        "grid": ((many[:1000] & 255).astype("f4") - 128).reshape(4, 250) * scales[:, None],
        "few": np.bincount([5, 70_000], weights=[1.5, -3], minlength=100_000).astype("f4"),
        "zeros": np.zeros((300, 40), "f2"),
        "one": np.int64(-5),
        "empty": np.zeros((0, 3)),
        "tied": Same("shared"),
        "special": np.array([0.0, -0.0, np.inf, -np.inf, 1e-45], "f4"),
        "float8": Float8((many[:64] & 15).astype("u1")),
        "complex": (normal[:8] + 1j * normal[8:16]).astype("c16"),
    }
    for name in NAMES[:9]:
        tensors[name] = (many[:40] & 1 if name == "bool" else many[:40] & 63).astype(name)
    return tensors


@pytest.mark.filterwarnings("error")
def test_files_of_version_1_are_read_for_ever() -> None:
    """Made by `python tests/test_wfz.py`; never made again, for such files are out in the world."""
    contents = wfz.read(GOLDEN)
    assert contents.changes == [{"name": "cut", "layer": "fc1", "kept": [0, 2, 5]}]
    assert contents.meta == {"accuracy": 0.984, "text": "größe"}
    assert_same(contents, golden_tensors())
    kinds = {stored.kind for stored in contents.stored.values()}
    assert kinds == {"raw", "planes", "codebook", "bits", "grid", "sparse", "alias"}
    assert {stored.coder for stored in contents.stored.values()} == GOLDEN_CODERS


GOLDEN_CODERS = {"none", "packed", "huffman", "positions", "rans", "mixing"}


def make_golden() -> None:
    """Write the golden file, of streams of every coder."""
    from unittest import mock

    from wellfit.slim.wfz import streams

    def any_coder(sizes: dict[str, int], small: bool) -> str:
        """As good as drawn by lot, so that all come to use; but positions wherever they are possible."""
        if not sizes.keys() <= set(streams.CODERS):
            return quickest(sizes, small)
        return "positions" if "positions" in sizes else list(sizes)[sum(sizes.values()) % len(sizes)]

    quickest = streams.quickest
    changes, meta = [{"name": "cut", "layer": "fc1", "kept": [0, 2, 5]}], {"accuracy": 0.984, "text": "größe"}
    GOLDEN.parent.mkdir(exist_ok=True)
    with mock.patch.object(streams, "quickest", any_coder):
        wfz.write(GOLDEN, golden_tensors(), changes=changes, meta=meta)


if __name__ == "__main__":
    make_golden()
