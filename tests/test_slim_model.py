"""Reports of slim models, models of unusual kinds, and `wellfit slim --model` with all that users give it."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slim_models
import torch
from overridden import ENV
from torch import nn

from wellfit import slim
from wellfit.errors import WellfitError
from wellfit.overrides.slim import _safetensors
from wellfit.slim.from_model.launch import ModelOptions
from wellfit.slim.from_model.work import run
from wellfit.slim.planning.reached import shortfalls
from wellfit.slim.planning.step import Step


class Complex(nn.Module):
    """A layer of complex numbers, and a real one."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Parameter(torch.randn(8, 16, dtype=torch.complex64))
        self.out = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out((x.to(torch.complex64) @ self.turn.T).abs())


class Tied(nn.Module):
    """An embedding whose table is the head's too."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(30, 12), nn.Linear(12, 30, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.table(x).tanh())


KINDS: dict[str, Any] = {
    "tied": lambda: (Tied(), torch.randint(30, (40, 5))),
    "complex": lambda: (Complex(), torch.randn(50, 16)),
    "lstm": lambda: slim_models.made("lstm"),
    "attention": lambda: slim_models.made("vision"),
    "several outputs": lambda: slim_models.made("two-outputs"),
    "by name": lambda: (slim_models.made("mlp")[0], {"x": slim_models.made("mlp")[1]}),
    "sixteen bits": lambda: (
        nn.Sequential(nn.Linear(9, 20), nn.Linear(20, 3)).bfloat16(),
        torch.randn(9, 9).bfloat16(),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_models_of_all_kinds_come_back_from_their_files(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = KINDS[kind]()
    model.eval()
    before = copy.deepcopy(model.state_dict())
    few = ["svd", "prune", "grid"] if kind in ("lstm", "attention") else None  # the others take long
    plan = slim.plan(model, x, keep=5.0, methods=few)
    slimmed = slim.apply(model, plan)
    assert slimmed.steps == plan.steps and str(plan)
    written = slim.save(slimmed.model, tmp_path / "x.wfz", slimmed.changes)
    report = slim.report(model, tmp_path / "x.wfz", x, slimmed=slimmed, seconds=0.05)
    assert report.told["metric"]["lost"] == pytest.approx(plan.whole.lost, abs=1e-3)  # type: ignore[union-attr]
    assert report.told["bytes"]["slim"] == written.bytes and report.text()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    if kind == "tied":
        assert slimmed.model.head.weight is slimmed.model.table.weight and "head" not in str(report.told["skipped"])
    if kind == "complex":
        assert not any(step.layer == "" and step.method != "prune" for step in plan.steps)


def test_what_does_not_fit_complex_numbers_is_told() -> None:
    steps = tuple(Step("", "share", 4) if n else Step("", "prune", 0.5) for n in range(2))
    slimmed = slim.apply(Complex(), slim.Plan("size", 1.0, steps))
    assert [(one.method, one.reason) for one in slimmed.skipped] == [("share", "its weights are complex numbers")]
    assert int((slimmed.model.turn == 0).sum()) == 64


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a user's module, trained weights, inputs."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "random.py").write_text("raise RuntimeError('a module of the user, not the one of the library')\n")
    (folder / "mine.py").write_text(
        """
import sys
import torch
from torch import nn

class Build(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(20, 48), nn.ReLU(), nn.Linear(48, 5))

torch.manual_seed(1)
x = torch.randn(400, 20)
y = (x @ torch.randn(20, 5)).argmax(1)

def accuracy(model):
    return (model(x).argmax(1) == y).float().mean()

def number(): return 3
def fails(): return inner()
def inner(): raise ValueError("my own mistake")
def leaves(): sys.exit(0)
def dies(): import ctypes; ctypes.string_at(0)
def no_number(model): return "high"
def judge_fails(model): return {}["key"]
"""
    )
    sys.path.insert(0, str(folder))
    try:
        import mine  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(folder))
    torch.manual_seed(0)
    model = mine.Build()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(80):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(mine.x), mine.y).backward()
        optimizer.step()
    _safetensors.write(str(folder / "w.safetensors"), model.state_dict(), {})
    np.save(folder / "x.npy", mine.x.double().numpy())
    return folder


def cli(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wellfit", "slim", *words]
    return subprocess.run(command, cwd=folder, env=ENV, capture_output=True, text=True, check=False, timeout=120)


WORDS = ("--model", "mine:Build", "--weights", "w.safetensors", "--inputs", "x.npy")


def loaded(folder: Path) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """The model with its weights, inputs and labels."""
    mine = sys.modules["mine"]
    model = mine.Build().eval()
    model.load_state_dict(_safetensors.read(str(folder / "w.safetensors")))
    return model, mine.x, mine.y


def test_a_report_says_what_can_be_measured_otherwise(digits: Path, tmp_path: Path) -> None:
    model, x, y = loaded(digits)
    steps = (Step("0", "prune", 0.5), Step("0", "share", 4), Step("2", "svd", 2), Step("2", "tucker", (1, 1)))
    slimmed = slim.apply(model, slim.Plan("size", 10.0, steps[:3]))
    path = tmp_path / "x.wfz"
    slim.save(slimmed.model, path, slimmed.changes)

    def accuracy(candidate: nn.Module) -> float:
        return float((candidate(x).argmax(1) == y).double().mean())

    told = slim.report(model, path, x, evaluate=accuracy, slimmed=slimmed, seconds=0.1).as_json()
    again = slim.load(path, sys.modules["mine"].Build()).eval()
    with torch.no_grad():
        dense, now = model(x), again(x)
    assert told["metric"]["dense"] == accuracy(model) and told["metric"]["slim"] == accuracy(again)
    assert told["metric"]["lost"] == pytest.approx(100 * (accuracy(model) - accuracy(again)))
    assert told["metric"]["same"] == pytest.approx(float((dense.argmax(1) == now.argmax(1)).double().mean()))
    moved = (dense - now).double().square().mean().sqrt() / dense.double().std(correction=0)
    assert told["metric"]["moved"] == pytest.approx(float(moved), rel=1e-5)
    assert told["bytes"]["slim"] == path.stat().st_size and told["bytes"]["dense"] == 4 * (21 * 48 + 49 * 5)
    assert told["bytes"]["ratio"] == told["bytes"]["dense"] / path.stat().st_size
    first, second = told["layers"]
    assert first["kept"] == pytest.approx(0.5, abs=0.001) and first["values"] == 4 and first["numbers"] == 21 * 48
    assert second["numbers"] == sum(tensor.numel() for tensor in again[2].state_dict().values())
    assert [one["batch"] for one in told["latency"]] == [1, 32] and told["decode_ms"] > 0
    for one in told["latency"]:
        assert one["is_faster"] == (one["speedup"] >= 1.2) and one["slim"]["p25"] <= one["slim"]["p50"]
    json.dumps(told)


def test_a_report_without_evaluate_says_so(digits: Path, tmp_path: Path) -> None:
    model, x, _ = loaded(digits)
    slim.save(model, tmp_path / "x.wfz")
    report = slim.report(model, tmp_path / "x.wfz", x, seconds=0.05)
    assert report.told["metric"]["lost"] == 0 and report.told["metric"]["moved"] == 0
    assert "(400 compared) is all that is known" in report.text() and report.as_json()["findings"] == []
    for name in ("r.html", "r.json"):
        report.save(tmp_path / name)
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
    assert json.loads((tmp_path / "r.json").read_text()) == report.as_json()
    with pytest.raises(WellfitError, match="cannot be written"):
        report.save(tmp_path / "none" / "r.html")


def told_of(target: str, speedup: float = 1.0, bytes: int = 1000, lost: float = 0.0) -> dict[str, Any]:
    timed = {"batch": 1, "speedup": speedup, "slim": {"p50": 6.0 / speedup}, "is_calm": True}
    return {
        "target": target, "latency": [timed, {**timed, "batch": 32, "speedup": 9.0}],
        "bytes": {"slim": bytes, "dense": 4000}, "metric": {"name": "accuracy", "allowed": 1.0, "lost": lost},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (told_of("size", bytes=9000, lost=1.0), None),
        (told_of("4x"), None),
        (told_of("4x", bytes=1001), "4x was not reached: the file has 1,001 bytes"),
        (told_of("1kB", bytes=1001), "1,000 bytes was not reached: the file has 1,001 bytes"),
        (told_of("latency", 1.2), None),
        (told_of("latency", 1.19), "nothing is 1.2x faster: a call is 1.19x as fast"),
        (told_of("3x-faster", 3.0), None),
        (told_of("3x-faster", 2.9), "3x-faster was not reached: a call is 2.90x as fast"),
        (told_of("2ms", 3.0), None),
        (told_of("2ms", 2.0), "2 ms was not reached: a call takes 3 ms"),
        ({**told_of("2ms"), "latency": []}, "2 ms was not reached: the model takes no single sample"),
        (told_of("size", lost=float("inf")), "the model of the file has no finite accuracy"),
        (told_of("size", lost=1.01), "1.01 points of accuracy are lost, where 1 may be"),
    ],
)
def test_what_is_not_reached_is_told_by_the_file(told: dict[str, Any], said: str | None) -> None:
    found = shortfalls(told)
    assert len(found) == (said is not None) and "".join(found).startswith(said or "")


def test_a_judge_that_gives_no_finite_number_is_refused(digits: Path) -> None:
    model, x, _ = loaded(digits)
    with pytest.raises(WellfitError, match="evaluate gives nan for the dense model"):
        slim.plan(model, x, evaluate=lambda model: float("nan"))


def test_a_report_of_another_model(digits: Path, tmp_path: Path) -> None:
    model, x, _ = loaded(digits)
    slim.save(nn.Linear(20, 5), tmp_path / "x.wfz")
    with pytest.raises(WellfitError, match="does not fit"):
        slim.report(model, tmp_path / "x.wfz", x)


def test_the_command_slims_and_proves(digits: Path) -> None:
    ran = cli(digits, *WORDS, "--check", "mine:accuracy", "--keep-acc", "2", "--to", "y.wfz")
    assert ran.returncode == 0, ran.stderr
    assert "Plan for size, may lose 2 points of accuracy" in ran.stdout and "Proof: y.wfz" in ran.stdout
    told = json.loads((digits / "y.report.json").read_text())
    assert told["bytes"]["slim"] == (digits / "y.wfz").stat().st_size < told["bytes"]["dense"] / 4
    assert "Report: y.report.html" in ran.stdout and told["tries"] and told["seconds"] > 0
    page = (digits / "y.report.html").read_text()
    assert f">All {len(told['tries']) + 1} tries<" in page and "from mine import Build" in page
    assert f"wellfit slim {' '.join(WORDS)} --check mine:accuracy --keep-acc 2 --to y.wfz" in page
    again = slim.load(digits / "y.wfz", sys.modules["mine"].Build()).eval()
    assert float(sys.modules["mine"].accuracy(again)) == pytest.approx(told["metric"]["slim"], abs=1e-6)


def test_a_plan_is_written_edited_and_run(digits: Path) -> None:
    ran = cli(digits, *WORDS, "--only-plan", "p.json", "--methods", "grid,round")
    assert ran.returncode == 0 and not (digits / "w.wfz").exists(), ran.stderr
    told = json.loads((digits / "p.json").read_text())
    assert {step["method"] for step in told["steps"]} <= {"grid", "round"}
    told["steps"] = [
        {"layer": "0", "method": "grid", "strength": 6},
        {"layer": "2", "method": "tucker", "strength": [1, 1]},
    ]
    told["keep"] = 20
    (digits / "p.json").write_text(json.dumps(told))
    ran = cli(digits, *WORDS, "--plan", "p.json")
    assert ran.returncode == 0 and "note SLM003 slim-layer-skipped: 2" in ran.stdout and "2, tucker: " in ran.stdout, (
        ran.stderr
    )
    assert (digits / "w.wfz").exists()


@pytest.fixture
def in_process(digits: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """What the child does with some options, without the child."""
    monkeypatch.chdir(digits)
    monkeypatch.setattr(sys, "path", [*sys.path])
    files = (Path("w.safetensors"), "x.npy")
    given = ModelOptions("mine:Build", *files, None, "size", 1.0, None, None, None, Path("m.wfz"), True)
    return lambda **words: run("phase", json.dumps({**given.as_json(), **words}))


def test_a_target_that_cannot_be_met_ends_with_1(
    in_process: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert in_process(target="2000x", methods=["share"], to="z.wfz") == 1
    assert "2000x cannot be met" in capsys.readouterr().out and Path("z.wfz").exists()


def test_more_lost_than_may_be_ends_with_1(in_process: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    steps = [{"layer": "0", "method": "prune", "strength": 0.99}]
    Path("harsh.json").write_text(json.dumps({"steps": steps, "keep": 1}))
    assert in_process(plan="harsh.json", check="mine:accuracy", to="h.wfz") == 1
    assert "error SLM004 slim-accuracy-lost" in capsys.readouterr().out


def test_random_inputs_are_named(in_process: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert in_process(inputs="20", methods=["grid"], only_plan="r.json") == 0
    assert "The example batch is 256 random samples" in capsys.readouterr().out and Path("r.json").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"model": "mine:leaves"}, "mine:leaves() ended the program (sys.exit(0))"),
        ({"model": "mine:number"}, "gives a torch.nn.Module, not int"),
        ({"model": "mine:Biuld"}, "mine has no 'Biuld' (did you mean \"Build\"?)"),
        ({"model": "nowhere:Build"}, "importing nowhere failed with ModuleNotFoundError"),
        ({"inputs": "19"}, "the model fails with the example inputs"),
        ({"inputs": "mine.py"}, "neither a .npy or .safetensors file nor the shape of a sample"),
        ({"inputs": "none.npy"}, "there is no file none.npy"),
        ({"inputs": "text.npy"}, "text.npy cannot be read as an array of numbers"),
        ({"check": "mine:no_number"}, "evaluate is to return one number"),
        ({"check": "mine:x"}, "--check mine:x is to be a function of the model, not Tensor"),
        ({"check": "mine:judge_fails"}, "mine:judge_fails(model) failed with KeyError"),
        ({"weights": "x.npy"}, "x.npy cannot be read as weights"),
        ({"weights": "slim.wfz"}, "slim.wfz is a slim model whose structure was changed"),
    ],
    ids=lambda value: str(next(iter(value.values()))) if isinstance(value, dict) else "",
)
def test_mistakes_in_what_is_given(
    in_process: Callable[..., int], digits: Path, words: dict[str, str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("text.npy").write_text("no array")
    model, _, _ = loaded(digits)
    slimmed = slim.apply(model, slim.Plan("size", 1.0, (Step("0", "svd", 2),)))
    slim.save(slimmed.model, "slim.wfz", slimmed.changes)
    assert in_process(**words) == 2
    told = capfd.readouterr().err
    assert said in told.splitlines()[-1] and "wellfit/slim" not in told


def test_the_users_own_traceback_is_shown_and_none_of_ours(digits: Path) -> None:
    ran = cli(digits, *WORDS, "--model", "mine:fails")
    assert ran.returncode == 2 and "wellfit/slim" not in ran.stderr
    assert "in inner" in ran.stderr and "ValueError: my own mistake" in ran.stderr
    assert ran.stderr.endswith("wellfit: mine:fails() failed with ValueError; the traceback is above\n")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_crash_of_the_users_code_is_one_sentence(digits: Path) -> None:
    ran = cli(digits, *WORDS, "--model", "mine:dies")
    assert ran.returncode == 2 and "Traceback" not in ran.stderr
    assert ran.stderr.endswith("was killed by SIGSEGV while making the model with mine:dies\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--model", "mine"), "--model wants a module and a name in it"),
        (("--weights", "none.pt"), "--weights: there is no file none.pt"),
        (("--target", "soon"), "not 'soon'"),
        (("--methods", "svt"), 'there is no method "svt"'),
        (("--seeds", "3"), "--seeds is for scripts"),
        (("--plan", "none.json"), "--plan: there is no file none.json"),
        (("--plan", "a", "--only-plan", "b"), "leave one"),
        (("train.py",), "no script is run"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_options_that_do_not_fit(
    digits: Path, words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from wellfit.cli import main

    monkeypatch.chdir(digits)
    assert main(["slim", *WORDS, *words]) == 2
    assert said in capsys.readouterr().err


def test_options_of_models_want_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    from wellfit.cli import main

    assert main(["slim", "--weights", "w.pt", "train.py"]) == 2
    assert "--weights goes with --model" in capsys.readouterr().err
