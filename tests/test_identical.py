"""A watched program computes what it computes unwatched: to the last bit, with the same random numbers and output."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import probed
import pytest
import zoo

from wellfit.record import Record, Run, open_run

ZOO = str(Path(zoo.__file__).resolve())
QUICK = [name for name in zoo.NAMES if name not in zoo.SLOW]
# torch.func takes gradients without a backward call: nothing to record.
WITHOUT_BACKWARD = {"func_grad"}
# No module names these parameters; statistics of complex numbers are not taken.
NOT_MEASURED = {"by_hand_without_modules", "complex_layer"}


def by_program(out: str) -> dict[str, dict]:
    lines = [json.loads(line) for line in out.splitlines()]
    return {line["program"]: line for line in lines}


def under_wellfit(words: list[str], folder: Path) -> subprocess.CompletedProcess:
    """`wellfit run`, as a user types it."""
    return probed.plain(["-m", "wellfit", "run", "--no-report", "--quiet", *words], folder)


def run_of(folder: Path) -> Run:
    (file,) = (folder / ".wellfit").glob("2*/run.json")
    return open_run(file.parent)


def sound(record: Record) -> bool:
    """Whether the probe saw training and had no trouble of its own."""
    return record.step_count > 0 and not record.damage and not record.events("switched-off")


@pytest.fixture(scope="module")
def unwatched(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess:
    return probed.plain([ZOO, *QUICK], tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess, Run]:
    folder = tmp_path_factory.mktemp("watched")
    return under_wellfit([ZOO, *QUICK], folder), run_of(folder)


@pytest.fixture(scope="module")
def each_step(tmp_path_factory: pytest.TempPathFactory) -> probed.Probed:
    """Every program in a fresh process of its own and every step of it watched: all of the probe runs in all."""
    return probed.probed([ZOO, "--fork", *QUICK], tmp_path_factory.mktemp("each"))


def test_the_zoo_is_large_and_runs(unwatched: subprocess.CompletedProcess) -> None:
    assert unwatched.returncode == 0, unwatched.stderr
    assert list(by_program(unwatched.stdout)) == QUICK
    assert len(QUICK) >= 18


@pytest.mark.parametrize("name", QUICK)
def test_run_changes_no_number(unwatched, watched, name: str) -> None:
    assert by_program(watched[0].stdout)[name] == by_program(unwatched.stdout)[name]


@pytest.mark.parametrize("name", QUICK)
def test_watching_each_step_changes_no_number(unwatched, each_step, name: str) -> None:
    assert by_program(each_step.out)[name] == by_program(unwatched.stdout)[name]


def test_run_changes_no_output(unwatched, watched, each_step) -> None:
    done, _ = watched
    assert (done.returncode, done.stdout, done.stderr) == (0, unwatched.stdout, unwatched.stderr)
    assert (each_step.code, each_step.out, each_step.err) == (0, unwatched.stdout, unwatched.stderr)


def test_run_saw_the_training(watched) -> None:
    run = watched[1]
    (record,) = run.records
    assert run.damage == [] and sound(record)
    assert record.step_count > 300 and len(record.watched_steps) >= 5
    assert len(record.optimizers) > 3 and len(record.layers) > 10  # how many depends on which steps are watched


def test_each_process_was_seen(each_step) -> None:
    assert each_step.run.damage == []
    records = sorted(each_step.run.records, key=lambda record: record.process["started"])
    names = [name for name in QUICK if name not in WITHOUT_BACKWARD]
    assert len(records) == len(names)
    for name, record in zip(names, records, strict=True):
        assert sound(record), name
        last = [float.fromhex(line["last"]) for line in by_program(each_step.out).values() if line["program"] == name]
        steps = record.step_count
        assert list(record.watched_steps) == list(range(steps)), name
        assert len(record.loss()) >= 4 and last, name
        if name in NOT_MEASURED:
            assert not record.subjects("update"), name
            continue
        assert record.subjects("parameter") and record.subjects("gradient") and record.subjects("update"), name
        if not name.startswith("compiled"):
            assert record.graphs and record.graphs[0].loss is not None, name


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.SLOW)
def test_slow_programs(tmp_path: Path, name: str) -> None:
    unwatched = probed.plain([ZOO, name], tmp_path)
    watched = under_wellfit([ZOO, name], tmp_path)
    assert unwatched.returncode == 0, unwatched.stderr
    assert by_program(watched.stdout) == by_program(unwatched.stdout)
    assert (watched.returncode, watched.stdout) == (0, unwatched.stdout)
    run = run_of(tmp_path)
    (record,) = run.records
    assert run.damage == [] and sound(record)


def test_a_changed_number_would_show() -> None:
    """The hashes tell one bit: without this all of the above could pass for nothing."""
    import torch

    weight = torch.ones(3)
    other = weight.clone()
    other[1] = torch.nextafter(other[1], torch.tensor(2.0))
    assert zoo.hashed(zoo.tensor_bytes(weight)) != zoo.hashed(zoo.tensor_bytes(other))
    assert sys.modules["zoo"].hashed(b"a", b"b") != zoo.hashed(b"ab")
