"""The fused kernel beside eager torch, on 1 MB of float32: `python bench/kernel.py`.

Both give mean, spread, absolute maximum and the share of zeros. The candidates take turns in one process, and the
best time of each is shown: what else the machine does can only add to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from wellfit.probe import native

ELEMENTS = 262_144
ROUNDS = 200


def eager(x: torch.Tensor) -> tuple[float, ...]:
    """What a hook does without the kernel: four passes and three temporaries."""
    return x.mean().item(), x.std().item(), x.abs().amax().item(), (x == 0).float().mean().item()


def best_times(candidates: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Microseconds of the fastest of ROUNDS turns of each."""
    best = dict.fromkeys(candidates, float("inf"))
    for _ in range(ROUNDS):
        for name, candidate in candidates.items():
            start = time.perf_counter()
            candidate()
            best[name] = min(best[name], (time.perf_counter() - start) * 1e6)
    return best


def show(title: str, candidates: dict[str, Callable[[], object]], first: str) -> None:
    """Print a table; ratios are to the candidate named `first`."""
    times = best_times(candidates)
    print(title)
    for name, microseconds in times.items():
        print(f"  {name:24} {microseconds:9.1f} us   {times[first] / microseconds:6.1f}x")


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    kernel = native.kernel
    if kernel is None:
        raise SystemExit("the kernel is not built: python setup.py build_ext --inplace")
    x = torch.randn(ELEMENTS).relu()

    def at(level: str, cap: int = 0, mode: int = native.ABSOLUTE) -> Callable[[], object]:
        def run() -> object:
            kernel.set_level(level)
            return kernel.summaries([x], [mode], [0.0], [3.0], cap, 1)

        return run

    levels = [level for level in ("scalar", "avx2", "avx512", "neon") if kernel.set_level(level) == level]
    candidates: dict[str, Callable[[], object]] = {"eager torch": lambda: eager(x)}
    candidates |= {f"kernel, {level}": at(level) for level in levels}
    candidates[f"{levels[-1]}, cap 65,536"] = at(levels[-1], cap=65_536)
    candidates["twin"] = lambda: native.twin.summaries([x], [0], [0.0], [3.0], 0, 1)
    show(f"summary of {ELEMENTS * 4 // 2**20} MB float32, one thread", candidates, "eager torch")

    kernel.set_level(levels[-1])
    rows = x.reshape(512, 512)
    show(
        "units of (512, 512), one thread",
        {
            "eager torch": lambda: (rows.amax(0), rows.abs().amax(0), rows.sum(0), rows.square().sum(0)),
            f"kernel, {levels[-1]}": lambda: kernel.units(rows, 1, 0, 1),
        },
        "eager torch",
    )
    many = [torch.randn(64) for _ in range(200)]
    modes, lows, highs = [0] * 200, [0.0] * 200, [3.0] * 200
    before = kernel.take(many, 4096, 1)
    times = best_times(
        {
            "summaries": lambda: kernel.summaries(many, modes, lows, highs, 0, 1),
            "take": lambda: kernel.take(many, 4096, 1),
            "change": lambda: kernel.change(many, many, before),
            "supports": lambda: [native.supports(x) for x in many],
        }
    )
    print("overhead of a call, each of 200 tensors of 64 elements")
    for name, microseconds in times.items():
        print(f"  {name:24} {microseconds / 200:9.2f} us")


if __name__ == "__main__":
    main()
