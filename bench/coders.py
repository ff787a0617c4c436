"""The coders of slim models on real weights: `python bench/coders.py`.

Bytes of each tensor of the corpus (see coders_corpus.py): the entropy of its symbols (no coder of single symbols can be
smaller), the ANS coder of the package `constriction` where that is installed (without a table of frequencies, which
it leaves to its user), Huffman, Huffman of runs of zeros and of values (as in Deep Compression), rANS and mixing, these
with everything that is needed to decode them. Then how fast each
decodes, in millions of weights a second of processor time, on one thread; and dense float32 and bfloat16.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from coders_corpus import Part, corpus, dense
from numpy.typing import NDArray

from wellfit.slim.wfz.coders import huffman, mixing, rans
from wellfit.slim.wfz.coders.engine import engine

CODERS: dict[str, Any] = {"Huffman": huffman, "rANS": rans, "mixing": mixing}
LARGE = 1 << 24


def entropy(symbols: NDArray[np.uint16]) -> float:
    """Bytes of an ideal order-0 coder that knows the frequencies."""
    counts = np.bincount(symbols)
    counts = counts[counts > 0]
    return float(counts @ -np.log2(counts / counts.sum())) / 8


def constriction_bytes(part: Part) -> int | None:
    """Bytes of the symbols by constriction's ANS coder; None where it is not installed."""
    try:
        import constriction
    except ImportError:
        return None
    counts = np.bincount(part.symbols, minlength=part.alphabet)
    model = constriction.stream.model.Categorical(counts / counts.sum(), perfect=False)
    coder = constriction.stream.stack.AnsCoder()
    coder.encode_reverse(part.symbols.astype(np.int32), model)
    return 4 * len(coder.get_compressed())


def seconds(work: Callable[[], object], turns: int = 5) -> float:
    """The least processor time of some turns."""
    best = float("inf")
    for _ in range(turns):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def runs_bytes(part: Part) -> int:
    """Bytes as in Deep Compression: how many zeros come before each kept weight, and its value, both by Huffman."""
    places = np.flatnonzero(part.symbols)
    gaps = np.diff(places, prepend=-1) - 1
    # A gap over 254 is 255 as often as it takes, each for 255 zeros.
    runs = np.full(int((1 + gaps // 255).sum()), 255, np.uint16)
    runs[np.cumsum(1 + gaps // 255) - 1] = gaps % 255
    values = part.symbols[places]
    return len(huffman.encode(runs, 256, runs.shape)) + len(huffman.encode(values, part.alphabet, values.shape))


def sizes(parts: list[Part]) -> None:
    """The table of bytes, and the totals."""
    names = ("entropy", "constr.", "Huffman", "runs", "rANS", "mixing")
    print(f"{'tensor':52} {'weights':>7} {'kept':>5} " + " ".join(f"{name:>7}" for name in names))
    rows = []
    for part in parts:
        data = {name: coder.encode(part.symbols, part.alphabet, part.shape) for name, coder in CODERS.items()}
        for name, coder in CODERS.items():
            assert (coder.decode(data[name], part.alphabet, part.shape) == part.symbols).all()
        ideal = [round(entropy(part.symbols)), constriction_bytes(part)]
        ours = [len(data["Huffman"]), runs_bytes(part), len(data["rANS"]), len(data["mixing"])]
        rows.append(ideal + ours)
        kept = np.count_nonzero(part.symbols) / len(part.symbols)
        print(f"{part.name:52} {len(part.symbols):7} {kept:5.1%} " + shown(rows[-1]))
    totals = [sum(column) if None not in column else None for column in zip(*rows)]
    print(f"{'total':66} " + shown(totals))
    for total, name in zip(
        totals,
        (
            "the entropy of the symbols",
            "constriction's ANS",
            "Huffman",
            "Huffman-coded runs and values",
            "rANS with its tables",
        ),
    ):
        if total is None:
            print(f"{name}: absent (pip install constriction)")
        else:
            print(f"mixing is {1 - totals[-1] / total:.1%} under {name}")


def shown(row: list[int | None]) -> str:
    """Numbers under their titles."""
    return " ".join(f"{'absent' if size is None else size:>7}" for size in row)


def speeds(parts: list[Part]) -> None:
    """Decoding of all tensors in turn, and of a large one: the symbols of the largest, over and over."""
    largest = max(parts, key=lambda part: len(part.symbols))
    shape = (LARGE // largest.shape[1], largest.shape[1])
    large = Part("large", np.resize(largest.symbols, shape).reshape(-1), largest.alphabet, shape)
    sparse = [part for part in parts if np.count_nonzero(part.symbols) < 0.1 * len(part.symbols)]
    print(f"\ndecoding with the {engine().name} engine, M weights/s   {'corpus':>8} {'sparse':>8} {'large':>8}")
    for name, coder in CODERS.items():
        figures = []
        for group in (parts, sparse, [large]):
            data = [coder.encode(part.symbols, part.alphabet, part.shape) for part in group]

            def work(group: list[Part] = group, data: list[bytes] = data, coder: Any = coder) -> None:
                for part, coded in zip(group, data):
                    coder.decode(coded, part.alphabet, part.shape)

            weights = sum(len(part.symbols) for part in group)
            figures.append(weights / seconds(work, 2 if coder is mixing else 5) / 1e6)
        print(f"  {name:52} " + " ".join(f"{figure:8.1f}" for figure in figures))


def planes(bits: NDArray[Any], width: int) -> tuple[NDArray[np.uint16], NDArray[Any]]:
    """The exponents of floats, and the rest: mantissas, the sign lowest."""
    turned = bits << 1 | bits >> (width - 1)
    return (turned >> (width - 8)).astype(np.uint16), turned & ((1 << (width - 8)) - 1)


def lossless() -> None:
    """Dense weights: exponents by Huffman, the rest as it is."""
    print()
    weights = np.resize(dense(), 1 << 22)
    bfloat16 = (weights.view(np.uint32) >> 16).astype(np.uint16)
    for name, bits, width in (("float32", weights.view(np.uint32), 32), ("bfloat16", bfloat16, 16)):
        exponents, rest = planes(bits, width)
        raw = rest.astype("<u4").view(np.uint8).reshape(-1, 4)[:, : width // 8 - 1].tobytes()
        data = huffman.encode(exponents, 256, exponents.shape)

        def work(
            data: bytes = data, raw: bytes = raw, count: int = len(bits), width: int = width, kind: Any = bits.dtype
        ) -> NDArray[Any]:
            turned = huffman.decode(data, 256, (count,)).astype(kind) << (width - 8)
            for plane in range(width // 8 - 1):
                turned |= np.frombuffer(raw, np.uint8)[plane :: width // 8 - 1].astype(kind) << 8 * plane
            return turned >> 1 | turned << (width - 1)

        assert (work() == bits).all()
        speed = bits.nbytes / seconds(work) / 1e6
        print(f"dense {name:8}: {bits.nbytes / (len(data) + len(raw)):.2f}x smaller, decoded at {speed:.0f} MB/s")


def main() -> None:
    parts = corpus()
    sizes(parts)
    speeds(parts)
    lossless()


if __name__ == "__main__":
    main()
