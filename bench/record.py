"""How long it takes to write the record of a long run, and to read one of its series.

    python bench/record.py [steps] [series]

Writes 10,000 steps of 2,000 series (about 640 MB) into a temporary folder, reads one series, deletes the folder.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
import time
from array import array

from wellfit.probe.frames import ROW_BACKWARD, ROW_STEP
from wellfit.probe.writer import Writer
from wellfit.record import open_run

LIMIT_SECONDS = 0.5


def write(folder: str, steps: int, series: int) -> float:
    """Write the record; the seconds it took."""
    writer = Writer(folder, 0, os.getpid(), quota=1 << 40)
    ids = tuple(writer.series("gradient", f"parameter.{number}") for number in range(series))
    numbers = array("f", [float(number % 97) for number in range(series * 8)])
    begun = time.perf_counter()
    for step in range(steps):
        numbers[8 * (series // 2) + 2] = step
        writer.row(ROW_BACKWARD, 0, 0, step, 1.0, step * 0.01)
        writer.statistics(step, (ids, numbers))
        writer.row(ROW_STEP, 0, 0, step, step * 0.01, 0.0)
        writer.tick(step + 1, time.perf_counter())
    writer.close()
    return time.perf_counter() - begun


def forget_cached_pages(folder: str) -> None:
    """Ask the system to drop the files from its page cache, so that they are read from the disk."""
    for name in os.listdir(folder):
        fd = os.open(os.path.join(folder, name), os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def row_cost(folder: str) -> float:
    """Seconds for one row, the best of ten."""
    writer = Writer(folder, 9, os.getpid(), quota=1 << 40)
    best = 1.0
    for _ in range(10):
        begun = time.perf_counter()
        for step in range(1000):
            writer.row(ROW_BACKWARD, 0, 0, step, 1.0, 2.0)
        best = min(best, (time.perf_counter() - begun) / 1000)
        writer.flush()
    return best


def main() -> int:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    series = int(sys.argv[2]) if len(sys.argv) > 2 else 2_000
    folder = tempfile.mkdtemp(prefix="wellfit-bench-")
    try:
        seconds = write(folder, steps, series)
        size = sum(os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder))
        print(f"written: {size / 1e6:.0f} MB in {seconds:.1f} s, {seconds / steps * 1e3:.3f} ms a step")
        slowest = 0.0
        for state in ("cached", "from disk"):
            if state == "from disk":
                forget_cached_pages(folder)
            begun = time.perf_counter()
            record = open_run(folder).records[0]
            opened = time.perf_counter()
            read = record.series("gradient", f"parameter.{series // 2}")
            done = time.perf_counter()
            assert len(read) == steps and read.rms[-1] == steps - 1
            record.series("gradient", f"parameter.{series // 2 + 1}")
            again = time.perf_counter() - done
            print(f"{state}: opened in {opened - begun:.3f} s, one series read in {done - opened:.3f} s", end="")
            print(f" (its neighbour in {again * 1e3:.2f} ms)")
            if state == "cached":
                slowest = done - begun
        print(f"one row: {row_cost(folder) * 1e6:.2f} us")
        print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
        return 0 if slowest < LIMIT_SECONDS else 1
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
