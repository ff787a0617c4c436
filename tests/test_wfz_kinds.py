"""Every kind of storing gives the same bits back, and the kind that fits is found."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wellfit.slim.wfz import streams
from wellfit.slim.wfz.damage import Damaged
from wellfit.slim.wfz.kinds import KINDS, bits, codebook, grid, pack, planes, raw, sparse
from wellfit.slim.wfz.numbers import (
    DTYPE_NAMED,
    DTYPES,
    Dtype,
    array_of,
    keys_of,
    patterns_of,
    patterns_of_keys,
)
from wellfit.slim.wfz.table import pack_table, take_table
from wellfit.slim.wfz.varint import Cursor

FLOAT32 = DTYPE_NAMED["float32"]
dtypes = st.sampled_from([dtype for dtype in DTYPES if dtype.nature != "bool"])
shapes = st.lists(st.integers(1, 6), max_size=4).map(tuple)


@st.composite
def patterns_and_types(draw: st.DrawFn) -> tuple[NDArray[Any], Dtype]:
    """Bits of any tensor: all numbers free, few distinct values, mostly zeros, or plus and minus one value."""
    dtype = draw(dtypes)
    shape = dtype.pattern_shape(draw(shapes))
    top = (1 << (8 * dtype.width)) - 1
    form = draw(st.sampled_from(["free", "few", "zeros", "signs"]))
    number = st.integers(0, top)
    if form == "few":
        number = st.sampled_from(draw(st.lists(number, min_size=1, max_size=4)))
    elif form == "zeros":
        number = st.one_of(*[st.just(0)] * 4, number)
    elif form == "signs":
        size = draw(number) >> 1
        number = st.sampled_from([size, size | top + 1 >> 1])
    count = math.prod(shape)
    numbers = draw(st.lists(number, min_size=count, max_size=count))
    return np.array(numbers, dtype.pattern_type).reshape(shape), dtype


@settings(max_examples=200, deadline=None)
@given(patterns_and_types(), st.booleans())
def test_what_a_kind_packs_it_unpacks(made: tuple[NDArray[Any], Dtype], small: bool) -> None:
    patterns, dtype = made
    packed = 0
    for kind in KINDS:
        payload = kind.pack(patterns, dtype, small)
        if payload is None:
            continue
        packed += 1
        back = kind.unpack(memoryview(payload), dtype, patterns.shape)
        assert back.dtype == dtype.pattern_type
        assert back.shape == patterns.shape
        assert back.tobytes() == patterns.tobytes(), kind.NAME
        assert kind.coder(memoryview(payload), dtype, patterns.shape) in streams.CODERS
    assert packed >= 2  # raw and planes fit everything


@settings(max_examples=100, deadline=None)
@given(patterns_and_types())
def test_the_smallest_kind_is_taken(made: tuple[NDArray[Any], Dtype]) -> None:
    patterns, dtype = made
    sizes = [len(payload) for kind in KINDS if (payload := kind.pack(patterns, dtype, True)) is not None]
    assert len(pack(patterns, dtype, small=True)[1]) == min(sizes)
    quick = len(pack(patterns, dtype, small=False)[1])
    assert quick <= min(sizes) * streams.NEAR**2 + 8  # a tenth for streams and for kinds, and mixing is not tried


def kind_name(values: Any, dtype_name: str = "float32") -> str:
    dtype = DTYPE_NAMED[dtype_name]
    return pack(patterns_of(np.ascontiguousarray(values, dtype.storage), dtype), dtype, small=True)[0].NAME


def test_each_kind_is_found_where_it_belongs() -> None:
    chance = np.random.default_rng(0)
    normal = chance.normal(size=(40, 50)).astype("f4")
    scales = chance.uniform(0.01, 0.1, (40, 1)).astype("f4")
    assert kind_name(normal) == "planes"
    assert kind_name(np.where(chance.random(normal.shape) < 0.1, normal, 0)) == "sparse"
    assert kind_name(np.round(normal * 3) * np.float32(0.37) + 0.0) == "codebook"
    assert kind_name(np.sign(normal) * scales) == "bits"
    assert kind_name(np.clip(np.round(normal * 40), -127, 127) * scales + 0.0) == "grid"
    assert kind_name(chance.integers(0, 1 << 62, 50), "int64") in ("raw", "planes")
    assert kind_name(np.round(normal), "int64") == "codebook"
    assert kind_name(np.zeros((100, 100))) == "codebook"


@pytest.mark.parametrize("bits_used", [4, 8])
@pytest.mark.parametrize("rows", [1, 7, 300])
@pytest.mark.parametrize("dtype_name", ["float32", "float64"])
def test_scales_of_quantised_weights_are_found_again(bits_used: int, rows: int, dtype_name: str) -> None:
    chance = np.random.default_rng(rows)
    dtype = DTYPE_NAMED[dtype_name]
    for _ in range(5):
        scales = np.exp(chance.normal(-5, 2, (rows, 1))).astype("f4")
        limit = (1 << (bits_used - 1)) - 1
        whole = np.clip(np.round(chance.normal(size=(rows, 64)) * limit / 3), -limit - 1, limit)
        values = (scales.astype("f8") * whole).astype(dtype.storage)
        values[0] = 0
        patterns = patterns_of(values + 0.0, dtype)
        payload = grid.pack(patterns, dtype, True)
        assert payload is not None
        assert len(payload) < rows * 64 * bits_used / 8 * 1.1 + rows * 4 + 200
        assert (grid.unpack(memoryview(payload), dtype, patterns.shape) == patterns).all()


@pytest.mark.parametrize("bits_used", range(2, 9))
@pytest.mark.parametrize("columns", [1, 2, 9])
def test_so_are_those_of_few_numbers_whose_distances_are_many_steps(bits_used: int, columns: int) -> None:
    """Filters of a first layer, say: the largest number tells the scale."""
    chance = np.random.default_rng(columns)
    most = (1 << (bits_used - 1)) - 1
    normal = chance.normal(size=(50, columns))
    scales = (np.abs(normal).max(axis=1, keepdims=True) / most).astype("f4")
    values = np.round(normal / scales).clip(-most, most).astype("f4") * scales + np.float32(0)
    patterns = patterns_of(values, DTYPE_NAMED["float32"])
    payload = grid.pack(patterns, DTYPE_NAMED["float32"], True)
    assert payload is not None
    assert (grid.unpack(memoryview(payload), DTYPE_NAMED["float32"], patterns.shape) == patterns).all()


@pytest.mark.parametrize(
    "name", ["float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "int8", "int64", "uint8"]
)
def test_keys_are_in_the_order_of_the_values_and_can_be_turned_back(name: str) -> None:
    dtype = DTYPE_NAMED[name]
    chance = np.random.default_rng(1)
    patterns = np.frombuffer(chance.bytes(8000 * dtype.width), dtype.pattern_type)
    assert (patterns_of_keys(keys_of(patterns, dtype), dtype) == patterns).all()
    if name in ("bfloat16", "float8_e4m3fn"):
        return
    values = patterns.view(dtype.storage)
    if dtype.is_floating:
        keep = np.isfinite(values)
        values, patterns = values[keep], patterns[keep]
    order = np.argsort(keys_of(patterns, dtype), kind="stable")
    assert (values[order][1:] >= values[order][:-1]).all()


def read_table(packed: bytes, count: int, dtype: Dtype, without_zero: bool = False) -> NDArray[Any]:
    cursor = Cursor(packed, "a table")
    table = take_table(cursor, count, dtype, without_zero=without_zero)
    cursor.finish()
    return table


@settings(max_examples=300, deadline=None)
@given(patterns_and_types())
def test_tables_give_back_their_values(made: tuple[NDArray[Any], Dtype]) -> None:
    patterns, dtype = made
    flat = patterns.reshape(-1)
    assert (read_table(pack_table(flat, dtype, rising=False), flat.size, dtype) == flat).all()
    rising = patterns_of_keys(np.unique(keys_of(flat, dtype)), dtype)
    assert (read_table(pack_table(rising, dtype, rising=True), rising.size, dtype) == rising).all()
    others = rising[rising != 0]
    if others.size:
        packed = pack_table(others, dtype, rising=True, without_zero=True)
        assert (read_table(packed, others.size, dtype, without_zero=True) == others).all()


def test_tables_are_short_where_values_are_simple() -> None:
    def size(values: Any, dtype: Dtype = FLOAT32, without_zero: bool = False) -> int:
        array = np.asarray(values, dtype.storage)
        return len(pack_table(patterns_of(array, dtype), dtype, rising=True, without_zero=without_zero))

    assert size([-0.5, 2.0**-60, 0.25, 1.0, 3.0, 7.0]) == 2 + 6 * 2  # the upper halves
    assert size(np.arange(-7, 8) * np.float32(0.0371)) == 1 + 4 + 1  # a step and the first
    assert size(np.array([-3, -2, -1, 1, 2, 3]) * np.float32(0.0371), without_zero=True) == 1 + 4 + 1
    assert size([-2, -1, 1, 3], DTYPE_NAMED["int64"]) == 1 + 1 + 3
    assert size(np.sort(np.random.default_rng(0).normal(size=9).astype("f2"))) == 1 + 9 * 2  # float16 is enough
    assert size(np.sort(np.random.default_rng(0).normal(size=9).astype("f4")), DTYPE_NAMED["float64"]) == 1 + 9 * 4


@pytest.mark.parametrize(
    ("rows", "share", "coder"), [(100, 0.99, "mixing"), (300, 0.99, "rans"), (300, 0.97, "mixing")]
)
def test_mixing_saves_two_percent_of_a_large_tensor_or_is_left(
    rows: int, share: float, coder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes are made up: what counts is how many they are."""
    symbols = np.random.default_rng(0).geometric(0.3, (rows, 300)).clip(max=16).astype(np.uint16).ravel() - np.uint16(1)
    rest = len(streams.rans.encode(symbols, 16, (rows, 300)))
    monkeypatch.setattr(streams.mixing, "encode", lambda *_: bytes(int(share * rest)))
    packed = streams.encode(symbols, 16, (rows, 300), small=True)
    assert streams.coder_of(memoryview(packed)) == coder


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(1, 300), st.booleans(), st.booleans())
def test_streams_give_back_their_symbols(data: st.DataObject, alphabet: int, small: bool, plain: bool) -> None:
    usual = st.just(0) if data.draw(st.booleans()) else st.integers(0, alphabet - 1)
    few = data.draw(st.lists(st.one_of(usual, st.integers(0, alphabet - 1)), max_size=80))
    symbols = np.array(few * data.draw(st.sampled_from([1, 1, 40])), np.uint16)
    packed = streams.encode(symbols, alphabet, symbols.shape, small=small, plain=plain)
    assert (streams.decode(memoryview(packed), alphabet, symbols.shape) == symbols).all()


def test_few_places_in_much_nothing_are_stored_as_positions() -> None:
    symbols = np.zeros(1_000_000, np.uint16)
    symbols[[5, 70_000, 999_999]] = [1, 7, 2]
    packed = streams.encode(symbols, 9, symbols.shape, small=False)
    assert len(packed) < 40
    assert (streams.decode(memoryview(packed), 9, symbols.shape) == symbols).all()
    assert streams.coder_of(memoryview(packed)) == "positions"


@pytest.mark.parametrize("alphabet", [2, 3, 17, 256, 257, 5000, 65536])
def test_packed_symbols(alphabet: int) -> None:
    for count in (1, 2, 7, 8, 9, 65_535, 65_536, 65_537, 200_001):
        symbols = np.random.default_rng(count).integers(0, alphabet, count).astype(np.uint16)
        packed = streams._pack(symbols, alphabet)
        assert len(packed) == (count * (alphabet - 1).bit_length() + 7) // 8
        assert (streams._unpack(memoryview(packed), alphabet, count) == symbols).all()


def test_bools_that_are_neither_0_nor_1_are_refused() -> None:
    with pytest.raises(Damaged, match="bool"):
        array_of(np.array([0, 1, 2], np.uint8), DTYPE_NAMED["bool"], (3,))


@pytest.mark.parametrize("kind", [bits, codebook, grid, planes, raw, sparse], ids=lambda kind: str(kind.NAME))
@pytest.mark.parametrize("name", ["float32", "bfloat16", "int8", "complex64"])
def test_any_bytes_are_numbers_or_damaged(kind: Any, name: str) -> None:
    """The right bytes with a piece replaced, and bytes that never were right."""
    chance = np.random.default_rng(len(kind.NAME))
    dtype = DTYPE_NAMED[name]
    shape = dtype.pattern_shape((6, 20))
    signs = chance.integers(0, 2, shape).astype(dtype.pattern_type) << dtype.pattern_type.type(8 * dtype.width - 1)
    signs |= dtype.pattern_type.type(60)
    few = np.where(chance.random(shape) < 0.3, chance.integers(0, 120, shape), 0).astype(dtype.pattern_type)
    good = next((data for data in (kind.pack(signs, dtype, True), kind.pack(few, dtype, True)) if data), b"\0\1\1\0\0")
    refused = 0
    for _ in range(1000):
        bad = bytearray(good)
        for _ in range(chance.integers(1, 4)):
            bad[chance.integers(0, min(len(bad), chance.choice([8, 200])))] = chance.integers(0, 256)
        if chance.random() < 0.2:
            bad = bad[: chance.integers(0, len(bad) + 1)] + chance.bytes(chance.integers(0, 5))
        try:
            back = kind.unpack(memoryview(bytes(bad)), dtype, shape)
            assert back.shape == shape and back.dtype == dtype.pattern_type
        except Damaged:
            refused += 1
    assert refused > 100
