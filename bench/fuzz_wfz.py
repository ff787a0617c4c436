"""Throws changed `.wfz` files at the reader, and says what became of them.

    python bench/fuzz_wfz.py --seconds 600 --keep FOLDER [--seed N] [--memory MEGABYTES]

Good files are changed: bits flipped, bytes replaced by telling ones, pieces cut out, doubled and exchanged; in the
header, in the numbers, or anywhere. Mostly the checksums are then made right again, so that what lies behind them is
reached; and some files are made anew, of well-formed parts that do not fit (wfz_forger.py). A child process reads each
file, under a limit of memory; every tensor is decoded. It must end as numbers of the right shape or as `Damaged`;
anything else - another exception, a crash, memory beyond the limit, a minute for one file - is a failure, and the file
that did it is kept.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import select
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
from forged import Pieces, entry, signed, taken_apart, with_crc  # noqa: E402
from test_wfz import golden_tensors  # noqa: E402
from wfz_forger import forged  # noqa: E402

from wellfit.slim import wfz  # noqa: E402
from wellfit.slim.wfz.varint import varint  # noqa: E402

PATIENCE = 60  # seconds for one file
MOST_DECODED = 8 << 20  # bytes that a file may decode to: so that many files are read in the time there is
TELLING = [0, 1, 2, 3, 4, 5, 6, 7, 8, 0x0F, 0x10, 0x1F, 0x3F, 0x40, 0x7F, 0x80, 0x81, 0xC0, 0xFE, 0xFF]


def main() -> int:
    """Fuzz for a while; 1 if anything failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"), help="folder for files that failed")
    parser.add_argument("--memory", type=int, default=256, help="megabytes the child may take beyond its start")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)  # the child: this is its file
    options = parser.parse_args()
    if options.read is not None:
        return _child(options.read, options.memory << 20)
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    return _fuzz(random.Random(seed), seed, options)


# The parent --------------------------------------------------------------------------------------------------------


def _fuzz(chance: random.Random, seed: int, options: argparse.Namespace) -> int:
    counts: Counter[str] = Counter()
    failures = 0
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        seeds = _good_files(Path(folder))
        path = Path(folder) / "changed.wfz"
        child: subprocess.Popen[bytes] | None = None
        end = time.monotonic() + options.seconds
        while time.monotonic() < end:
            way, data = _changed(chance, seeds)
            path.write_bytes(data)
            if child is None:
                child = _start(path, options.memory)
            begun = time.monotonic()
            answer = _ask(child)
            slowest = max(slowest, time.monotonic() - begun)
            counts[f"{way}: {answer['end']}"] += 1
            for kind in answer.get("kinds", ()):
                counts[f"reached {kind}"] += 1
            if answer["end"] not in ("numbers", "Damaged"):
                failures += 1
                options.keep.mkdir(parents=True, exist_ok=True)
                (options.keep / f"{seed}-{sum(counts.values())}.wfz").write_bytes(data)
                print(f"FAILED ({way}): {answer}", flush=True)
                child = _stop(child)
        _stop(child)
    for name, count in sorted(counts.items()):
        print(f"{count:9,}  {name}")
    files = sum(count for name, count in counts.items() if not name.startswith("reached"))
    print(f"seed {seed}: {files:,} files in {options.seconds:.0f} s, {failures} failures, slowest {slowest:.2f} s")
    return 1 if failures else 0


def _start(path: Path, memory: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, __file__, "--read", str(path), "--memory", str(memory)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _ask(child: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Let the child read the file; how that ended."""
    assert child.stdin is not None and child.stdout is not None and child.stderr is not None
    try:
        child.stdin.write(b"\n")
        child.stdin.flush()
        if not select.select([child.stdout], [], [], PATIENCE)[0]:
            return {"end": "too slow"}
        line = child.stdout.readline()
    except BrokenPipeError:
        line = b""
    if line:
        answer: dict[str, Any] = json.loads(line)
        return answer
    return {"end": "crash", "code": child.wait(), "told": child.stderr.read().decode(errors="replace")[-2000:]}


def _stop(child: subprocess.Popen[bytes] | None) -> None:
    if child is not None:
        child.kill()
        child.communicate()


# The child ---------------------------------------------------------------------------------------------------------


def _child(path: Path, memory: int) -> int:
    """Read the file each time a line comes, and say how that ended."""
    wfz.read(ROOT / "tests" / "data" / "golden-1.wfz").tensors()  # everything is imported before memory is counted
    if sys.platform == "linux":
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
    for _ in sys.stdin:
        print(json.dumps(_read(path)), flush=True)
    return 0


def _read(path: Path) -> dict[str, Any]:
    kinds = []
    try:
        contents = wfz.read(path, max_bytes=MOST_DECODED)
        for stored in contents.stored.values():
            try:
                kinds.append(f"{stored.kind}, {stored.coder}")
                array = contents.tensor(stored.name)
            except wfz.Damaged:
                kinds[-1:] = ["a damaged tensor"]
                continue
            if array.shape != stored.shape or array.dtype.itemsize * array.size != _bytes(stored):
                return {"end": "another shape", "tensor": stored.name}
    except wfz.Damaged:
        return {"end": "Damaged"}
    except BaseException as error:
        return {"end": f"{type(error).__name__}", "told": str(error)[:500], "kinds": kinds}
    return {"end": "numbers", "kinds": kinds}


def _bytes(stored: wfz.Stored) -> int:
    from wellfit.slim.wfz.numbers import DTYPE_NAMED

    return int(np.prod(stored.shape, dtype=object)) * DTYPE_NAMED[stored.dtype].size


# Changing files ----------------------------------------------------------------------------------------------------


def _good_files(folder: Path) -> list[Pieces]:
    """The golden file, files of each of its tensors alone, and larger ones of each kind."""
    files = [(ROOT / "tests" / "data" / "golden-1.wfz").read_bytes()]
    chance = np.random.default_rng(0)
    shared = np.where(chance.random((150, 200)) < 0.1, chance.integers(-9, 9, (150, 200)), 0) * 0.25
    scales = chance.uniform(0.01, 0.1, (64, 1)).astype("f4")
    tensors = {
        **{name: value for name, value in golden_tensors().items() if not isinstance(value, wfz.Same)},
        "large shared": shared.astype("f4"),
        "large dense": chance.normal(size=(100, 200)).astype("f4"),
        "large sparse": np.where(chance.random((100, 200)) < 0.1, chance.normal(size=(100, 200)), 0),
        "large grid": np.clip(np.round(chance.normal(size=(64, 300)) * 40), -127, 127).astype("f4") * scales + 0,
        "large words": chance.zipf(1.5, 40_000).clip(0, 60_000),
    }
    for name, value in tensors.items():
        for small in (True, False):
            wfz.write(folder / "good.wfz", {name: value}, small=small, meta={"name": name})
            files.append((folder / "good.wfz").read_bytes())
    return [taken_apart(data) for data in files]


def _changed(chance: random.Random, seeds: list[Pieces]) -> tuple[str, bytes]:
    """How a file was changed, and its bytes."""
    good = chance.choice(seeds)
    way = chance.choice([*["forged"] * 6, *["numbers"] * 4, "header", "both", "deflated", "signed", "unsigned"])
    if way == "forged":
        kind, dtype, shape, payload = forged(chance)
        header = varint(1) + entry(b"forged", kind, dtype.code, shape, len(payload))
        return way, Pieces(header, [payload]).file()
    pieces = Pieces(good.header, list(good.payloads))
    if way in ("numbers", "both"):
        place = chance.choice([place for place, payload in enumerate(good.payloads) if payload] or [0])
        if good.payloads[place:]:
            changed = _mutated(chance, good.payloads[place], seeds)
            pieces.payloads[place] = changed[: len(good.payloads[place])].ljust(len(good.payloads[place]), b"\0")
    if way in ("header", "both"):
        pieces.header = _mutated(chance, good.header, seeds)
    data = pieces.file()
    if way == "deflated":
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed = packer.compress(good.header) + packer.flush()
        head = varint(len(packed)) + varint(len(good.header))
        blobs = b"".join(map(with_crc, good.payloads))
        data = signed(b"\x8aWFZ\x01\x01" + _mutated(chance, head + packed, seeds) + blobs)
    elif way == "signed":
        data = signed(_mutated(chance, data[:-32], seeds))
    elif way == "unsigned":
        data = _mutated(chance, data, seeds)
    return way, data


def _mutated(chance: random.Random, data: bytes, seeds: list[Pieces]) -> bytes:
    """One to six changes, mostly near the front, where the tables are."""
    out = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 3, 6])):
        reach = chance.choice([4, 16, 64, len(out) + 1])
        at = chance.randrange(min(len(out) + 1, reach))
        length = chance.choice([1, 1, 2, 4, 16])
        change = chance.randrange(7)
        if change == 0 and at < len(out):
            out[at] ^= 1 << chance.randrange(8)
        elif change == 1:
            out[at : at + length] = bytes(chance.choice(TELLING) for _ in range(length))
        elif change == 2:
            out[at : at + length] = chance.randbytes(length)
        elif change == 3:
            del out[at : at + length]
        elif change == 4:
            out[at:at] = out[at : at + length]
        elif change == 5:
            other = chance.choice(seeds)
            source = chance.choice([other.header, *other.payloads])
            start = chance.randrange(len(source) + 1)
            out[at : at + length] = source[start : start + length]
        else:
            del out[at + chance.randrange(len(out) + 1) :]
    return bytes(out)


if __name__ == "__main__":
    sys.exit(main())
