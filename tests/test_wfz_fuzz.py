"""The fuzzer of `.wfz` files finds nothing in some seconds, and would find something if it were there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is limited and measured as on Linux")


def fuzz(keep: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "bench" / "fuzz_wfz.py"), "--seed", "1", "--keep", str(keep), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_nothing_is_found_in_some_seconds(tmp_path: Path) -> None:
    done = fuzz(tmp_path / "kept", "--seconds", "4")
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 failures" in done.stdout
    assert "reached codebook, " in done.stdout and "reached a damaged tensor" in done.stdout
    assert not (tmp_path / "kept").exists()


def test_too_much_memory_is_found_and_its_file_kept(tmp_path: Path) -> None:
    """With no memory to spare, ordinary tensors are too much."""
    done = fuzz(tmp_path / "kept", "--seconds", "8", "--memory", "0")
    assert done.returncode == 1
    assert "MemoryError" in done.stdout or "crash" in done.stdout
    assert list((tmp_path / "kept").glob("1-*.wfz"))
