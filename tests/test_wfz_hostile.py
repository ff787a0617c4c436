"""Whatever the bytes of a `.wfz` file: Damaged or the right numbers; no crash, and no memory to speak of."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forged import Pieces, entry, signed, taken_apart, tie
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_wfz import golden_tensors

from wellfit.slim import wfz
from wellfit.slim.wfz import Same, contents
from wellfit.slim.wfz.damage import Damaged
from wellfit.slim.wfz.numbers import DTYPES
from wellfit.slim.wfz.streams import CODERS
from wellfit.slim.wfz.varint import Cursor, varint

TWO = np.array([1.5, -2.5], "f4").tobytes()


def read_all(path: Path, data: bytes, **options: Any) -> wfz.Contents:
    """Read a file of these bytes, and everything about it."""
    path.write_bytes(data)
    found = wfz.read(path, **options)
    found.tensors()
    for stored in found.stored.values():
        assert isinstance(stored.coder, str)
    return found


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    chance = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("small") / "a.wfz"
    tensors = {
        "fc.weight": np.where(chance.random((20, 30)) < 0.2, chance.integers(-3, 4, (20, 30)) * 0.25, 0).astype("f4"),
        "fc.bias": chance.normal(size=20).astype("f4"),
        "tied": Same("fc.weight"),
    }
    wfz.write(path, tensors, changes=[{"name": "cut"}], meta={"accuracy": 0.98})
    return path.read_bytes()


# Damage ------------------------------------------------------------------------------------------------------------


def test_every_flipped_byte_is_noticed(small: bytes, tmp_path: Path) -> None:
    for place in range(len(small)):
        for flip in (1, 128, 255):
            bad = bytearray(small)
            bad[place] ^= flip
            with pytest.raises(Damaged):
                read_all(tmp_path / "a.wfz", bytes(bad))


def test_every_cut_is_noticed(small: bytes, tmp_path: Path) -> None:
    for end in range(len(small)):
        with pytest.raises(Damaged):
            read_all(tmp_path / "a.wfz", small[:end])
    for more in (b"\0", b"x" * 100, small):
        with pytest.raises(Damaged):
            read_all(tmp_path / "a.wfz", small + more)


def test_the_damaged_tensor_is_named(small: bytes, tmp_path: Path) -> None:
    bad = bytearray(small)
    bad[-40] ^= 1  # before the SHA-256 lie the CRC and the last bytes of fc.bias
    with pytest.raises(Damaged, match=r"a\.wfz: it is damaged in 'fc\.bias': its SHA-256"):
        read_all(tmp_path / "a.wfz", bytes(bad))


def test_a_wrong_crc_behind_a_right_sha_is_noticed(small: bytes, tmp_path: Path) -> None:
    with pytest.raises(Damaged, match=r"'fc\.bias' is damaged: its CRC-32"):
        read_all(tmp_path / "a.wfz", signed(small[:-33] + bytes([small[-33] ^ 1])))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=120), known=st.booleans())
def test_garbage(tmp_path: Path, data: bytes, known: bool) -> None:
    with pytest.raises(Damaged):
        read_all(tmp_path / "a.wfz", b"\x8aWFZ\x01" * known + data)


# Versions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        (b"\x050.7.2and so on" + bytes(90), r"version 2 .* install wellfit 0\.7\.2 or newer"),
        (b"\x05rm -rand so on" + bytes(90), "install wellfit in a newer version"),
        (b"\xff0.7", "install wellfit in a newer version"),
        (b"", "install wellfit in a newer version"),
    ],
)
def test_later_versions_say_which_wellfit_reads_them(tmp_path: Path, rest: bytes, said: str) -> None:
    with pytest.raises(Damaged, match=said):
        read_all(tmp_path / "a.wfz", b"\x8aWFZ\x02" + rest)


def test_there_is_no_version_0(small: bytes, tmp_path: Path) -> None:
    with pytest.raises(Damaged, match="never been"):
        read_all(tmp_path / "a.wfz", small[:4] + b"\0" + small[5:])


# Forged headers, with sums that are right --------------------------------------------------------------------------


def test_a_file_put_together_from_its_pieces_is_good(small: bytes, tmp_path: Path) -> None:
    good = read_all(tmp_path / "a.wfz", taken_apart(small).file())
    assert good.meta == {"accuracy": 0.98}
    assert read_all(tmp_path / "a.wfz", Pieces(varint(1) + entry(), [TWO]).file()).tensor("w").tobytes() == TWO


def text(told: Any) -> bytes:
    return varint(0) + (told if isinstance(told, bytes) else json.dumps(told).encode())


one = entry()
FORGED = {
    "more tensors than bytes": varint(1 << 40),
    "a length beyond the file": varint(1) + entry(length=1 << 40),
    "a length too small: a gap": varint(1) + entry(length=7, shape=(1,)),
    "a length too large": varint(1) + entry(length=9),
    "a second tensor beyond the end": varint(2) + one + entry(b"v"),
    "two tensors of one name": varint(2) + entry(shape=(0,), length=0) + one,
    "an alias of the name of another": varint(2) + one + tie(b"w", 0),
    "an alias of itself": varint(2) + one + tie(b"v", 1),
    "aliases in a ring": varint(3) + one + tie(b"v", 2) + tie(b"u", 1),
    "an alias of an alias": varint(3) + one + tie(b"v", 0) + tie(b"u", 1),
    "an alias of nothing": varint(2) + one + tie(b"v", 9),
    "an unknown kind": varint(1) + entry(kind=7),
    "an unknown type": varint(1) + entry(dtype=17),
    "a type that takes more": varint(1) + entry(dtype=12),
    "a shape that overflows": varint(1) + entry(shape=(1 << 40, 1 << 40)),
    "a shape that overflows to 0": varint(1) + entry(shape=(1 << 32, 1 << 32)),
    "an empty shape that overflows": varint(1) + entry(shape=(0, 1 << 62), length=0),
    "an empty shape with bytes": varint(1) + entry(shape=(0, 3)),
    "too many dimensions": varint(1) + entry(shape=(1,) * 33),
    "a huge tensor": varint(1) + entry(shape=(1 << 36,)),
    "a huge tensor of one value": varint(1) + entry(kind=2, shape=(1 << 36,)),
    "a name that is no UTF-8": varint(1) + entry(name=b"\xff"),
    "half a pair of UTF-16 in a name": varint(1) + entry(name=b"\xed\xa0\x80"),
    "a name longer than the header": varint(1) + b"\0" + varint(1 << 20) + b"w",
    "a name beyond the limit": varint(1) + entry(name=b"w" * 4097),
    "a name of a name that is not there": varint(1) + entry(shared=3),
    "a number written too long": varint(1) + b"\0\x81\0w\0\x0b\x01\x02\x08",
    "a number of 70 bits": b"\xff" * 9 + b"\x01",
    "an empty header": b"",
    "no JSON": varint(1) + one + b"{",
    "JSON that is no UTF-8": text(b'{"meta":{"a":"\xff"}}'),
    "half a pair of UTF-16 in JSON": text(b'{"meta":{"a":"\\ud800"}}'),
    "JSON of something else": text([1]),
    "JSON of more": text({"code": "import os"}),
    "changes that are no list": text({"changes": {}}),
    "changes that are no objects": text({"changes": [1]}),
    "meta that is no object": text({"meta": []}),
    "a name twice in JSON": text(b'{"meta":{"a":1,"a":2}}'),
    "JSON that is not finite": text(b'{"meta":{"a":NaN}}'),
    "JSON too large for a float": text(b'{"meta":{"a":1e999}}'),
    "JSON of many digits": text(b'{"meta":{"a":' + b"9" * 100_000 + b"}}"),
    "JSON nested deep": text(b'{"meta":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}"),
    "JSON nested deep in a string that does not end": text(b'{"meta":{"a":"' + b"[" * 1000),
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_headers(tmp_path: Path, name: str) -> None:
    header = FORGED[name]
    payloads = [TWO] if header[:1] not in (b"\0", b"") else []
    with pytest.raises(Damaged) as refused:
        read_all(tmp_path / "a.wfz", Pieces(header, payloads).file())
    assert "a.wfz: " in str(refused.value)
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize("flags", [2, 3, 128])
def test_unknown_flags(tmp_path: Path, flags: int) -> None:
    with pytest.raises(Damaged, match="flags"):
        read_all(tmp_path / "a.wfz", Pieces(varint(0), flags=flags).file())


def deflated(plain: bytes, told: int | None = None, rest: bytes = b"") -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(plain) + packer.flush() + rest
    return varint(len(packed)) + varint(len(plain) if told is None else told) + packed


@pytest.mark.parametrize(
    "header",
    [
        deflated(bytes(200 << 20)),  # a bomb that says what it is
        deflated(bytes(200 << 20), 10),  # and one that does not
        deflated(varint(0), 2),
        deflated(varint(0) + b"{}", 1),
        deflated(varint(0), rest=b"more"),
        varint(4) + varint(4) + b"\xff\xff\xff\xff",
        varint(1) + varint(0) + b"\0",
    ],
)
def test_deflated_headers(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "a.wfz"
    path.write_bytes(signed(b"\x8aWFZ\x01\x01" + header))
    tracemalloc.start()
    with pytest.raises(Damaged, match="header"):
        wfz.read(path)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


# Numbers -----------------------------------------------------------------------------------------------------------


def test_limits_of_what_a_file_decodes_to(tmp_path: Path) -> None:
    path = tmp_path / "a.wfz"
    wfz.write(path, {"zeros": np.zeros(5 << 20), "tied": Same("zeros")})
    with pytest.raises(Damaged, match="max_bytes=83886080"):
        wfz.read(path)  # 80 MiB, with the tied one that `expand` would write again
    assert wfz.read(path, max_bytes=80 << 20).tensor("tied").nbytes == 40 << 20
    with pytest.raises(Damaged, match="max_bytes"):
        wfz.read(path, max_bytes=(80 << 20) - 1)
    assert contents.LEAST_LIMIT == 64 << 20


def test_a_pruned_layer_may_be_a_thousand_times_as_large_as_its_file(tmp_path: Path) -> None:
    weights = np.zeros((1000, 4000), "f4")
    weights.reshape(-1)[np.random.default_rng(0).integers(0, weights.size, 1000)] = 1.5
    written = wfz.write(tmp_path / "a.wfz", {"w": weights}, small=False)
    assert written.decoded > 1000 * written.bytes
    assert (wfz.read(tmp_path / "a.wfz").tensor("w") == weights).all()


def test_memory_of_refused_files(tmp_path: Path) -> None:
    """Each claims as much as it may: what is taken stays within a few times of that, and mostly is nothing."""
    most = contents.LEAST_LIMIT
    payloads = [
        b"\1",
        b"\2\0",
        bytes(20),
        b"\0\xff\xff\xff\xff\xff\xff\x7f\0",
        b"\0\1\0\1\0\2" + bytes(12),
        b"\1\0\4" + bytes(9),
    ]
    for kind in range(6):
        for dtype in (0, 1, 11, 12, 14):
            shape = (most // DTYPES[dtype].size,)
            for payload in payloads:
                header = varint(1) + entry(kind=kind, dtype=dtype, shape=shape, length=len(payload))
                (tmp_path / "a.wfz").write_bytes(Pieces(header, [payload]).file())
                found = wfz.read(tmp_path / "a.wfz")
                tracemalloc.start()
                try:
                    found.tensor("w")
                except Damaged:
                    assert tracemalloc.get_traced_memory()[1] < 3 * most
                tracemalloc.stop()


def test_mixing_that_would_remember_too_much_is_refused(tmp_path: Path) -> None:
    """It takes some memory for each place of a row: a row of 60 million would take 2 GB for 60 MB of numbers."""
    for shape in ((60_000_000,), (2, 30_000_000), (30_000_000, 2), (2, 2, 15_000_000)):
        payload = b"\0\2\0\1\0\1" + bytes([CODERS.index("mixing")]) + b"\1\0" + bytes(20)
        header = varint(1) + entry(kind=2, dtype=1, shape=shape, length=len(payload))
        with pytest.raises(Damaged, match="rows are too long"):
            read_all(tmp_path / "a.wfz", Pieces(header, [payload]).file())


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_changed_bytes_behind_right_sums(pieces: Pieces, tmp_path: Path, data: st.DataObject) -> None:
    """Numbers that anyone may have made: they decode to something of the right shape, or are refused."""
    payloads = list(pieces.payloads)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from([place for place, payload in enumerate(payloads) if payload]))
        bad = bytearray(payloads[place])
        start = data.draw(st.integers(0, min(len(bad) - 1, data.draw(st.sampled_from([6, 40, 10_000])))))
        fresh = data.draw(st.binary(min_size=1, max_size=3))
        bad[start : start + len(fresh)] = fresh
        payloads[place] = bytes(bad[: len(payloads[place])])
    (tmp_path / "a.wfz").write_bytes(Pieces(pieces.header, payloads).file())
    found = wfz.read(tmp_path / "a.wfz")
    for stored in found.stored.values():
        try:
            assert found.tensor(stored.name).shape == stored.shape
            assert isinstance(stored.coder, str)
            assert 0 <= stored.kept <= 1
        except Damaged as refused:
            assert stored.name in str(refused)


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Pieces:
    path = tmp_path_factory.mktemp("golden") / "a.wfz"
    wfz.write(path, golden_tensors())
    return taken_apart(path.read_bytes())


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_changed_headers_behind_right_sums(pieces: Pieces, tmp_path: Path, data: st.DataObject) -> None:
    header = bytearray(pieces.header)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(header) - 1))
        header[start : start + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
        header = header or bytearray(1)
    try:
        read_all(tmp_path / "a.wfz", Pieces(bytes(header), pieces.payloads).file(), max_bytes=1 << 24)
    except Damaged:
        pass


def test_hostile_files_in_a_small_process(tmp_path: Path) -> None:
    """With hardly more memory than numpy itself takes, every forged header is refused, not run out of memory at."""
    for place, header in enumerate(FORGED.values()):
        (tmp_path / f"{place}.wfz").write_bytes(Pieces(header, [TWO]).file())
    code = """
import resource, sys
from pathlib import Path
from wellfit.slim import wfz
from wellfit.slim.wfz import contents, writer
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (48 << 20),) * 2)
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        wfz.read(path).tensors()
    except wfz.Damaged:
        continue
    raise SystemExit(f"{path} was read")
"""
    if sys.platform != "linux":
        pytest.skip("memory is limited and measured as on Linux")
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=60)


def test_numbers_of_every_length() -> None:
    for number in [0, 1, 127, 128, 300, (1 << 62) + 5, (1 << 63) - 1]:
        cursor = Cursor(varint(number), "it")
        assert cursor.varint() == number
        cursor.finish()
    with pytest.raises(Damaged, match="too many"):
        Cursor(b"x", "it").finish()
