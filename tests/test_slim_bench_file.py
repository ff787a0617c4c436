"""`wellfit slim bench`: what a file takes here, alone and in the user's class; and sizes that files may decode to."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from overridden import ENV
from test_wfz import golden_tensors
from torch import nn

from wellfit import slim
from wellfit.cli import main
from wellfit.slim.decoding import decoding
from wellfit.slim.file_verbs.bench_text import bench_text
from wellfit.slim.from_model import timing
from wellfit.slim.planning.step import Step
from wellfit.slim.target import bytes_in
from wellfit.slim.wfz import Same, read, write

USERS = """
import torch
from torch import nn

print("loading mine")

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(20, 48), nn.ReLU(), nn.Linear(48, 5))

class NoSingle(Net):
    def forward(self, x):
        if len(x) == 1:
            raise ValueError("one sample is too few")
        return super().forward(x)

class Other(nn.Linear):
    def __init__(self):
        super().__init__(20, 5)

net = Net()
def fails(): raise ValueError("my own mistake")
"""
MODEL = ("--model", "mine_timed:Net", "--inputs", "20", "--seconds", "0.05")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: a module, and the file of its network with a factored layer."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "mine_timed.py").write_text(USERS)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 48), nn.ReLU(), nn.Linear(48, 5))
    steps = (Step("0", "svd", 4), Step("2", "share", 4))
    slimmed = slim.apply(model, slim.Plan("size", 100.0, steps), torch.randn(9, 20))
    slim.save(slimmed.model, folder / "net.wfz", slimmed.changes)
    return folder


def bench(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wellfit", "slim", "bench", "net.wfz", *words]
    return subprocess.run(command, cwd=folder, env=ENV, capture_output=True, text=True, check=False, timeout=120)


def test_every_number_is_counted_once(tmp_path: Path) -> None:
    write(tmp_path / "a.wfz", golden_tensors())
    contents = read(tmp_path / "a.wfz")
    found = decoding(tmp_path / "a.wfz", seconds=0.0)
    own = [stored for stored in contents.stored.values() if stored.tied_to is None]
    assert any(isinstance(value, Same) for value in golden_tensors().values())
    assert sum(part.tensors for part in found.parts) == len(own)
    assert found.numbers == sum(prod(stored.shape) for stored in own)
    assert sum(part.bytes for part in found.parts) == sum(stored.bytes for stored in own)
    assert {(part.kind, part.coder) for part in found.parts} == {(stored.kind, stored.coder) for stored in own}
    assert [part.ms for part in found.parts] == sorted((part.ms for part in found.parts), reverse=True)
    assert found.rounds == 5 and 0 < found.open_ms < found.ms
    assert found.numbers_per_second == pytest.approx(1000 * found.numbers / found.ms)


def test_the_file_alone_needs_no_model_and_no_torch(folder: Path) -> None:
    ran = bench(folder, "--seconds", "0", "--format", "json")
    told = json.loads(ran.stdout)
    assert ran.returncode == 0 and told["network"] is None
    assert told["bytes"] == (folder / "net.wfz").stat().st_size and told["ratio"] == told["decoded"] / told["bytes"]
    assert told["reading"]["numbers"] * 4 == told["decoded"] == 4 * (4 * 20 + 48 * 4 + 48 + 49 * 5)
    code = "import sys; from wellfit.cli import main; main(['slim', 'bench', 'net.wfz', '--seconds', '0']); "
    code += "print('torch' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=ENV, capture_output=True, text=True, check=False, timeout=60
    )
    lines = ran.stdout.splitlines()
    assert lines[-1] == "False" and "Read and decoded in" in lines[1] and "times smaller" in lines[0], ran.stderr


def test_the_loaded_network_stands_beside_a_fresh_one(folder: Path) -> None:
    ran = bench(folder, *MODEL, "--batch", "2", "--batch", "64", "--batch", "2", "--format", "json")
    assert ran.returncode == 0, ran.stderr
    network = json.loads(ran.stdout)["network"]  # what the module prints is elsewhere
    assert "loading mine" in ran.stderr
    assert [one["batch"] for one in network["latency"]] == [2, 64]
    assert network["parameters"] == {"dense": 21 * 48 + 49 * 5, "slim": 4 * 20 + 48 * 4 + 48 + 49 * 5}
    assert network["bytes_in_memory"]["dense"] == 4 * network["parameters"]["dense"]
    first, second = network["layers"]
    assert (first["name"], first["numbers"], second["values"]) == ("0", 4 * 20 + 48 * 4 + 48, 4)
    assert first["dense_ms"] > 0 and first["slim_ms"] > 0
    for one in network["latency"]:
        assert one["is_faster"] == (one["speedup"] >= 1.2)


@pytest.fixture
def in_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """What the child does with some options, without the child; it writes network.json."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    given = {"file": "net.wfz", "model": "mine_timed:Net", "inputs": "20", "batches": [1, 32], "seconds": 0.0}
    (folder / "network.json").unlink(missing_ok=True)
    return lambda **words: timing.run("phase", json.dumps({**given, "max_bytes": None, "to": "network.json", **words}))


def test_batches_that_the_network_does_not_take_are_named(in_process: Callable[..., int]) -> None:
    assert in_process(model="mine_timed:NoSingle") == 0
    network = json.loads(Path("network.json").read_text())
    assert network["left_out"] == [{"batch": 1, "reason": "ValueError: one sample is too few"}]
    assert [one["batch"] for one in network["latency"]] == [32]
    text = bench_text({**told(1.0, 1.0), "network": {**network, "findings": []}}, [])
    assert "A batch of 1 is left out: ValueError: one sample is too few" in text


def test_a_name_that_is_a_model_gives_two(in_process: Callable[..., int]) -> None:
    assert in_process(model="mine_timed:net") == 0
    network = json.loads(Path("network.json").read_text())
    assert network["parameters"] == {"dense": 21 * 48 + 49 * 5, "slim": 4 * 20 + 48 * 4 + 48 + 49 * 5}


def told(speedup: float, slim_ms: float) -> dict[str, Any]:
    """What a bench found, made up."""
    times = {"p50": 1.0, "p25": 0.9, "p75": 1.1, "p10": 0.8, "p90": 1.2, "calls": 9}
    latency = {"batch": 1, "dense": times, "slim": {**times, "p50": slim_ms, "p25": slim_ms}, "speedup": speedup}
    network = {
        "model": "mine_timed:Net", "parameters": {"dense": 4, "slim": 2}, "bytes_in_memory": {"dense": 16, "slim": 8},
        "latency": [{**latency, "is_faster": speedup >= 1.2, "is_calm": True}], "left_out": [], "layers": [],
        "findings": [],
    }  # fmt: skip
    reading = {"ms": 1.0, "open_ms": 0.5, "rounds": 5, "numbers": 2, "numbers_per_second": 2000.0, "parts": []}
    return {"file": "a\x1b[2J.wfz", "bytes": 9, "decoded": 8, "ratio": 8 / 9, "reading": reading, "network": network}


def test_faster_is_said_from_a_fifth_on() -> None:
    assert "(1.2x as fast)" in bench_text(told(1.2, 0.83), [])
    text = bench_text(told(1.19, 0.84), [])
    assert "as fast)" not in text and "0.84" in text and "\x1b" not in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--format", "xml"), "--format xml is not known"),
        (("--batch", "3"), "give --model MODULE:NAME too"),
        (("--inputs", "20"), "give --model MODULE:NAME too"),
        (("--model", "mine_timed:Net"), "--model wants an example batch"),
        (("--model", "mine", "--inputs", "20"), "--model wants a module and a name in it"),
        ((*MODEL, "--batch", "0"), "--batch is a whole number from 1 to 65536, not 0"),
        (("--seconds", "nan"), "--seconds is a number from 0 to 3600"),
        (("--max-bytes", "much"), "--max-bytes is a size such as 100MB"),
        (("--max-bytes", "2000"), "read it with max_bytes=2260 (--max-bytes 2260)"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes_of_the_command_line(
    folder: Path,
    words: tuple[str, ...],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    assert main(["slim", "bench", "net.wfz", *words]) == 2
    out, err = capsys.readouterr()
    assert said in err and not out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"model": "mine_timed:Other"}, "Other has no layer '0'"),
        ({"inputs": "19"}, "with --inputs 19 the model fails: RuntimeError"),
        ({"model": "mine_timed:fails"}, "mine_timed:fails() failed with ValueError; the traceback is above"),
        ({"max_bytes": 100}, "100 are allowed"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_code_that_does_not_fit(
    in_process: Callable[..., int], words: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert in_process(**words) == 2
    err = capsys.readouterr().err
    assert said in err.splitlines()[-1] and "wellfit/slim" not in err and not Path("network.json").exists()


@pytest.mark.parametrize("verb", ["inspect", "bench", "expand", "export"])
def test_every_verb_limits_what_a_file_may_decode_to(
    verb: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    more = (*MODEL[:4], "--to", "net.pt2") if verb == "export" else ()
    assert main(["slim", verb, "net.wfz", "--max-bytes", "1kB", *more]) == 2
    assert "decode to 2260, and 1000 are allowed" in capsys.readouterr().err
    assert not (folder / "net.pt2").exists() and not (folder / "net.safetensors").exists()


def test_sizes_are_read_as_people_write_them() -> None:
    sizes = {"100MB": 100_000_000, "1.5 GiB": 3 << 29, "30k": 30_000, "4096": 4096, "7b": 7}
    assert {text: bytes_in(text) for text in sizes} == sizes
    assert [bytes_in(text) for text in ("", "MB", "-1MB", "3x", "1e9", "nan", "9" * 400)] == [0] * 7
