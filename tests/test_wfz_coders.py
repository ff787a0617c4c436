"""The three coders: round trips, the C library beside its twin bit for bit, and data that no encoder writes."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from types import ModuleType
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wellfit.errors import WellfitError
from wellfit.slim.wfz.coders import frequencies, huffman, lengths, mixing, native, rans
from wellfit.slim.wfz.coders.bits import BitReader, BitWriter
from wellfit.slim.wfz.coders.engine import Engine
from wellfit.slim.wfz.coders.twin import Twin
from wellfit.slim.wfz.damage import Damaged

CODERS = [huffman, rans, mixing]
ENGINES = ["native", "twin"]
BUILT = ENGINES if native.library is not None else ["twin"]

quick = settings(max_examples=40, deadline=None, derandomize=True, database=None)


@contextmanager
def by(name: str) -> Iterator[Engine]:
    """All coders by the C library, or by its twin."""
    made: Engine | None = Twin() if name == "twin" else native.library
    if made is None:
        pytest.skip("the C library is not built (python setup.py build_ext --inplace)")
    with (
        patch.object(huffman, "engine", lambda: made),
        patch.object(rans, "engine", lambda: made),
        patch.object(mixing, "engine", lambda: made),
    ):
        yield made


@st.composite
def tensors(draw: st.DrawFn, largest: int = 400) -> tuple[np.ndarray, int, tuple[int, ...]]:
    """Symbols, alphabet and shape: empty, scalar, long, flat, kernels; from all zeros to all different."""
    shape = tuple(draw(st.lists(st.integers(0, 9), max_size=4)))
    if draw(st.booleans()):
        shape = (draw(st.integers(0, largest)),)
    alphabet = draw(st.sampled_from([1, 2, 3, 17, 33, 256, 257, 5000, 65536]))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    numbers = generator.integers(0, draw(st.integers(1, alphabet)), prod(shape))
    numbers[generator.random(len(numbers)) < draw(st.sampled_from([0.0, 0.5, 0.9, 1.0]))] = 0
    return numbers.astype(np.uint16), alphabet, shape


def pruned(rows: int, columns: int, kernel: tuple[int, ...] = (), values: int = 16) -> np.ndarray:
    """Symbols like those of a pruned layer: columns and rows differ in density, columns in sign."""
    generator = np.random.default_rng(3)
    density = generator.random((rows, 1)) * generator.random((1, columns)) * 0.4
    density = density.reshape(rows, columns, *[1] * len(kernel))
    kept = generator.random((rows, columns, *kernel)) < density
    sizes = np.rint(generator.exponential(values / 8, kept.shape)).clip(0, values // 2 - 1)
    positive = generator.random(kept.shape) < (generator.random(density.shape[1:]) < 0.5) * 0.8 + 0.1
    return np.where(kept, values // 2 + np.where(positive, 1 + sizes, -sizes), 0).astype(np.uint16)


@pytest.mark.parametrize("coder", CODERS)
@quick
@given(tensors())
def test_what_goes_in_comes_out_and_both_engines_write_the_same(coder, tensor) -> None:
    symbols, alphabet, shape = tensor
    written = []
    for name in BUILT:
        with by(name):
            written.append(coder.encode(symbols, alphabet, shape))
    assert len(set(written)) == 1
    for name in BUILT:
        with by(name):
            for data in (written[0], memoryview(b"." + written[0])[1:]):
                found = coder.decode(data, alphabet, shape)
                assert found.dtype == np.uint16 and found.tolist() == symbols.tolist()


@pytest.mark.parametrize("coder", CODERS)
def test_long_tensors_are_the_same_in_both_engines(coder) -> None:
    """Long enough for several streams and states, and for more than one part of the twin's loops."""
    symbols = pruned(25, 160) if coder is mixing else pruned(300, 784)
    with by("native"):
        data = coder.encode(symbols.reshape(-1), 17, symbols.shape)
        assert (coder.decode(data, 17, symbols.shape) == symbols.reshape(-1)).all()
    with by("twin"):
        assert coder.encode(symbols.reshape(-1), 17, symbols.shape) == data
        assert (coder.decode(data, 17, symbols.shape) == symbols.reshape(-1)).all()


@pytest.mark.parametrize("coder", [huffman, rans])
@pytest.mark.parametrize("name", ENGINES)
def test_an_alphabet_of_65536_of_which_all_occur(coder, name: str) -> None:
    generator = np.random.default_rng(0)
    symbols = np.concatenate((generator.permutation(65536), np.zeros(30000))).astype(np.uint16)
    with by(name):
        data = coder.encode(symbols, 65536, symbols.shape)
        assert (coder.decode(data, 65536, symbols.shape) == symbols).all()


@pytest.mark.parametrize("coder", CODERS)
def test_where_all_is_known_next_to_nothing_is_written(coder) -> None:
    for alphabet, shape, size in [(1, (5, 5), 0), (9, (0, 5), 0), (9, (), 2), (9, (100, 100), 2)]:
        data = coder.encode(np.zeros(prod(shape), np.uint16), alphabet, shape)
        assert len(data) == size
        assert (coder.decode(data, alphabet, shape) == 0).all()
        with pytest.raises(Damaged):
            coder.decode(data + b"\1", alphabet, shape)
    assert (coder.decode(coder.encode(np.full(7, 300, np.uint16), 301, (7,)), 301, (7,)) == 300).all()
    with pytest.raises(Damaged, match="300"):
        coder.decode(coder.encode(np.full(7, 300, np.uint16), 301, (7,)), 300, (7,))


@pytest.mark.parametrize("coder", CODERS)
def test_symbols_that_do_not_fit_are_refused(coder) -> None:
    for symbols, alphabet, shape, words in [
        (np.array([3], np.uint16), 3, (1,), "not in the alphabet of 3"),
        (np.zeros(3, np.uint16), 3, (2, 2), "do not fit the shape"),
        (np.zeros(4, np.int64), 3, (2, 2), "int64"),
        (np.zeros(4, np.uint16), 65537, (2, 2), "65537"),
        (np.zeros(4, np.uint16), 0, (2, 2), "alphabet of 0"),
    ]:
        with pytest.raises(WellfitError, match=words):
            coder.encode(symbols, alphabet, shape)


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("name", ENGINES)
def test_data_cut_off_or_too_long_are_damaged(coder, name: str) -> None:
    symbols = pruned(12, 30)
    with by(name):
        data = coder.encode(symbols.reshape(-1), 17, symbols.shape)
        missed = 0
        for end in range(len(data)):
            try:
                coder.decode(data[:end], 17, symbols.shape)
                missed += 1
            except Damaged:
                pass
        # The end of the mixing coder's data has no check of its own: a byte less may be the end of other symbols.
        assert missed <= (len(data) // 50 if coder is mixing else 0)
        for more in (b"\0", b"\1", b"\xff" * 9):
            with pytest.raises(Damaged):
                coder.decode(data + more, 17, symbols.shape)


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("name", ENGINES)
def test_a_flipped_bit_is_damage_or_other_symbols_and_nothing_else(coder, name: str) -> None:
    symbols = pruned(6, 16)
    seen = set()
    with by(name):
        data = coder.encode(symbols.reshape(-1), 17, symbols.shape)
        for bit in range(8 * len(data)):
            spoilt = bytearray(data)
            spoilt[bit >> 3] ^= 1 << (bit & 7)
            try:
                found = coder.decode(bytes(spoilt), 17, symbols.shape)
            except Damaged:
                seen.add("damaged")
                continue
            assert len(found) == symbols.size and found.max() < 17
            assert found.tolist() != symbols.reshape(-1).tolist()
    assert "damaged" in seen


@pytest.mark.parametrize("coder", CODERS)
@quick
@given(st.binary(max_size=80), st.sampled_from([1, 2, 17, 300, 65536]), st.integers(0, 2000))
def test_any_bytes_are_damage_or_symbols_and_both_engines_agree(coder, data: bytes, alphabet: int, count: int) -> None:
    results = []
    for name in BUILT:
        with by(name):
            try:
                results.append(coder.decode(data, alphabet, (count,)).tolist())
            except Damaged:
                results.append("damaged")
    assert results[0] == results[-1]
    if results[0] != "damaged":
        assert len(results[0]) == count and max(results[0], default=0) < alphabet


def huffman_data(numbers: list[int], streams: int = 1) -> bytes:
    """A header with a table, and some bytes of stream."""
    writer = BitWriter()
    lengths.pack(numbers, writer)
    return bytes([streams]) + writer.done() + bytes(20)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [([1, 1, 1], "over-full"), ([1, 2], "incomplete"), ([0, 1], "incomplete"), ([2, 2, 2], "incomplete")],
)
def test_huffman_tables_that_are_no_complete_code(numbers: list[int], words: str) -> None:
    with pytest.raises(Damaged, match=words):
        huffman.decode(huffman_data(numbers), 3, (100,))


def test_huffman_tables_and_streams_that_cannot_be() -> None:
    good = huffman_data([1, 2, 2])
    with pytest.raises(Damaged, match="number"):
        huffman.decode(good, 2, (100,))  # a third symbol, of an alphabet of two
    with pytest.raises(Damaged, match="3 streams"):
        huffman.decode(b"\3" + good[1:], 3, (100,))
    with pytest.raises(Damaged, match="longer than"):
        huffman.decode(huffman_data([1, 2, 2], 4)[:-20] + b"\x7f\x01\x01" + bytes(40), 3, (100,))
    with pytest.raises(Damaged, match="cut off or too long"):
        huffman.decode(huffman_data([1, 2, 2], 4)[:-20] + b"\xff" * 40, 3, (100,))


def rans_data(widths: list[int], digits: int, bits: int = 9) -> bytes:
    """A header with the bit lengths of frequencies, and some bytes after it."""
    writer = BitWriter()
    writer.add(1 | (bits - frequencies.SMALLEST) << 2 | digits << 5, 8)
    lengths.pack(widths, writer)
    writer.add_gamma(1)
    return writer.done() + bytes(20)


@pytest.mark.parametrize("widths", [[10], [9, 9, 9], [3, 2], [1] * 4])
def test_frequencies_that_do_not_sum_up(widths: list[int]) -> None:
    with pytest.raises(Damaged, match="do not sum up"):
        rans.decode(rans_data(widths, 0), 5, (10,))


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("name", ENGINES)
def test_a_count_that_the_data_cannot_hold_takes_no_memory(coder: ModuleType, name: str) -> None:
    symbols = pruned(12, 30)
    with by(name):
        data = coder.encode(symbols.reshape(-1), 17, symbols.shape)
        tracemalloc.start()
        with pytest.raises(Damaged, match="10000000000000 symbols"):
            coder.decode(data, 17, (10**6, 10**7))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 1_000_000


def test_the_best_lengths_under_a_limit() -> None:
    """Beside all complete codes of four symbols within the limit, and where the limit binds."""
    generator = np.random.default_rng(1)
    codes = [(1, 2, 3, 3), (2, 2, 2, 2)]
    for _ in range(200):
        counts = generator.integers(1, 40, 4)
        for limit, allowed in ((2, codes[1:]), (3, codes)):
            best = min(int(np.sort(counts)[::-1] @ code) for code in allowed)
            assert counts @ lengths.optimal_lengths(counts, limit) == best
    fibonacci = np.array([1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 1597, 2584, 4181])
    assert lengths.optimal_lengths(fibonacci, 30).max() == 18
    within = lengths.optimal_lengths(fibonacci, 15).astype(int)
    assert within.max() == 15 and (2.0**-within).sum() == 1


@quick
@given(st.lists(st.integers(0, 16), max_size=50), st.integers(1, 16))
def test_packed_tables(numbers: list[int], last: int) -> None:
    writer = BitWriter()
    lengths.pack([*numbers, last], writer)
    assert lengths.unpack(BitReader(writer.done()), 51) == [*numbers, last]


def test_mixing_is_smaller_than_the_entropy_of_the_symbols() -> None:
    """Where rows and columns differ as they do in pruned layers."""
    for symbols in (pruned(200, 300), pruned(60, 50, (3, 3))):
        counts = np.bincount(symbols.reshape(-1))
        counts = counts[counts > 0]
        entropy = -(counts @ np.log2(counts / counts.sum())) / 8
        assert len(mixing.encode(symbols.reshape(-1), 17, symbols.shape)) < 0.92 * entropy
        ideal = rans.encode(symbols.reshape(-1), 17, symbols.shape)
        assert entropy < len(ideal) < 1.01 * entropy + 40


@pytest.mark.parametrize("name", ENGINES)
def test_files_of_today_can_be_read_tomorrow(name: str) -> None:
    """Whatever encoders become: these bytes stay these symbols, on every machine."""
    flat = [0, 0, 3, 0, 1, 0, 0, 4, 2, 0, 0, 0]
    kernels = [0, 0, 0, 6, 0, 0, 6, 0, 0, 0, 0, 0, 10, 0, 0, 3, 0, 0, 1, 0, 0, 4, 0, 0]
    kernels += [1, 0, 0, 3, 0, 0, 10, 0, 0, 0, 0, 0, 6, 0, 0, 6, 0, 0, 0, 0, 0, 10, 0, 0]
    with by(name):
        for coder, data in ((huffman, "01ec70014c7801"), (rans, "25ec79c307e475080000d6"), (mixing, "01b329f2")):
            assert coder.decode(bytes.fromhex(data), 5, (3, 4)).tolist() == flat
        for coder, data in (
            (huffman, "01b8c367d3cd0c2805231ccf11064ac100"),
            (rans, "25b8e76b656fb30f197e0200bf03547ce8161048"),
            (mixing, "0503a6051b1d1b5544e90a73"),
        ):
            assert coder.decode(bytes.fromhex(data), 17, (4, 3, 2, 2)).tolist() == kernels


@pytest.mark.parametrize("data", ["02", "04b329", "0501b329f2", "0504b329f2", "0905b329f2", "11b329f2", "0980"])
def test_headers_of_the_mixing_coder_that_cannot_be(data: str) -> None:
    """Kinds that are none, a lag of one or as long as the row, more negative values than values, a varint cut off."""
    with pytest.raises(Damaged):
        mixing.decode(bytes.fromhex(data), 5, (3, 4))


def test_all_that_a_header_of_the_mixing_coder_can_say_is_used() -> None:
    """Turned, with a lag, with values of which most are positive: in one tensor."""
    generator = np.random.default_rng(0)
    kept = generator.random((90, 60)) < np.tile([0.6, 0.05, 0.05, 0.05, 0.05], 18)[:, None]
    signs = np.tile(generator.random(15) < 0.5, 4)
    symbols = np.where(
        kept, np.where(signs, 4 + generator.integers(0, 6, kept.shape), generator.integers(1, 4, kept.shape)), 0
    )
    with by("native"):
        data = mixing.encode(symbols.astype(np.uint16).reshape(-1), 10, kept.shape)
        assert data[0] == 15
        assert mixing.decode(data, 10, kept.shape).tolist() == symbols.reshape(-1).tolist()
    with by("twin"):
        assert mixing.decode(data, 10, kept.shape).tolist() == symbols.reshape(-1).tolist()


def test_the_library_can_be_switched_off_and_torch_is_not_imported() -> None:
    program = (
        "import sys, wellfit.slim.wfz.coders.engine as e; from wellfit.slim.wfz import coders;"
        "print(e.engine().name, 'torch' in sys.modules)"
    )
    environment = {**os.environ, "WELLFIT_NATIVE": "0"}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["twin", "False"]
