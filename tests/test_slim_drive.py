"""`wellfit slim train.py`, as a user calls it: one small network from nothing to its file, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from overridden import ENV

import wellfit.slim
from wellfit.errors import WellfitError
from wellfit.slim.drive.layers import Network, Tensor
from wellfit.slim.drive.plan import planned
from wellfit.slim.drive.plan_file import as_json, checked, read_plan_text, write_plan

SCRIPT = """
import torch
import torch.nn.functional as F
from torch import nn
torch.manual_seed(1)
x = torch.randn(600, 20)
y = (x @ torch.randn(20, 4)).argmax(1)
model = nn.Sequential(nn.Linear(20, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for epoch in range(6):
    model.train()
    for rows in torch.randperm(400).split(50):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        right = (model(x[400:]).argmax(1) == y[400:]).float().mean().item()
    print(f"epoch {epoch} right {right:.3f}")
torch.save(model.state_dict(), "mine.pt")
"""


def slim(folder: Path, *words: str, script: str = SCRIPT) -> subprocess.CompletedProcess[str]:
    """Run `wellfit slim` in a folder that holds the script."""
    (folder / "train.py").write_text(dedent(script))
    return subprocess.run(
        [sys.executable, "-m", "wellfit", "slim", *words, "train.py"],
        cwd=folder, env=ENV, text=True, capture_output=True, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[subprocess.CompletedProcess[str]]]:
    """The plan is written, edited, run; run again; and then a target is given that cannot be met."""
    folder = tmp_path_factory.mktemp("slim")
    (folder / "train.wfz").write_text("mine")
    done = [slim(folder, "--only-plan", "plan.json")]
    plan = json.loads((folder / "plan.json").read_text()) | {"together": False}
    for layer in plan["layers"]:
        layer |= {"method": "prune, share", "keep": 0.5, "values": 16} if layer["name"] == "3.weight" else {"keep": 0.6}
    (folder / "plan.json").write_text(json.dumps(plan))
    planned = ("--plan", "plan.json", "--control", "--seeds", "2")
    following = (planned, planned, ("--target", "5000x", "--budget", "1s"))
    return folder, [*done, *(slim(folder, "--keep-acc", "10", *words) for words in following)]


def test_the_plan_is_shown_and_nothing_is_tried(made: tuple[Path, list[subprocess.CompletedProcess[str]]]) -> None:
    folder, (plan, *_) = made
    assert plan.returncode == 0, plan.stderr
    assert "judged by accuracy, counted in the script's own evaluation: " in plan.stderr
    assert "try 1" not in plan.stderr
    assert "3.weight" in plan.stdout
    assert "Predicted: " in plan.stdout
    told = json.loads((folder / "plan.json").read_text())
    assert [layer["name"] for layer in told["layers"]] == ["0.weight", "3.weight", "5.weight"]
    assert told["skipped"]["1.weight"] == "norm"
    assert told["skipped"]["1.running_mean"] == "buffer"
    assert told["skipped"]["0.bias"] == "bias"


def test_an_edited_plan_becomes_a_file_that_was_proved(
    made: tuple[Path, list[subprocess.CompletedProcess[str]]],
) -> None:
    folder, (_, ran, *_) = made
    assert ran.returncode == 0, ran.stderr
    assert (folder / "train.wfz").read_text() == "mine"
    assert "train.wfz is there already, and no file of this slimming: train-2.wfz is written instead" in ran.stderr
    assert not (folder / "mine.pt").exists(), "what the script saves goes aside"
    report = json.loads(next((folder / ".wellfit" / "slim").glob("train-*/report.json")).read_text())
    page = next((folder / ".wellfit" / "slim").glob("train-*/report.html"))
    assert f"Report: {page.relative_to(folder)}" in ran.stdout
    assert f"{report['slim']['bytes']:,}" in page.read_text(encoding="utf-8")
    assert report["typed"][-1] == "train.py"
    found = {layer["name"]: layer for layer in report["slim"]["layers"]}
    assert found["3.weight"]["kept"] == 0.5
    assert found["3.weight"]["values"] <= 16
    assert found["0.weight"]["kept"] == 0.6
    assert found["1.weight"]["skipped"] == "norm"
    assert report["front"] == [report["slim"]["folder"]]
    assert report["slim"]["bytes"] == (folder / "train-2.wfz").stat().st_size
    assert report["dense"]["bytes"] == sum(4 * n for n in (1280, 64, 64, 64, 64, 64, 2048, 32, 128, 4)) + 8
    assert f"{report['slim']['bytes']:,}" in ran.stdout
    assert report["proof"]["metric"]["lost"] == report["slim"]["lost"] and report["proof"]["skipped"] == []
    assert [step["layer"] for step in report["proof"]["steps"]] == ["0.weight", "3.weight", "5.weight"]
    assert abs(_accuracy(folder / "train-2.wfz") - report["slim"]["metric"]) < 1e-6


def test_calls_are_timed_and_the_dense_network_is_trained_on(
    made: tuple[Path, list[subprocess.CompletedProcess[str]]],
) -> None:
    folder, (_, ran, *_) = made
    work = next((folder / ".wellfit" / "slim").glob("train-*"))
    tries = [_told(path) for path in sorted(work.glob("try-*.json"))]
    control, again = (told for told in tries if all(keep == 1 for _, keep, _ in told["plan"]))
    assert (control["seed"], again["seed"]) == (None, 1)
    assert control["bytes"] != again["bytes"], "a seed that the script sets itself would make the same run"
    assert min(control["bytes"], again["bytes"]) > 5000, "nothing was pruned or shared"
    assert "dense, trained on alike" in ran.stdout and f"{100 * control['metric']:.2f} %" in ran.stdout
    mean = f"{50 * (control['metric'] + again['metric']):.2f} %"
    assert f"dense, trained on alike, 2 seeds: mean {mean}" in ran.stdout and ran.stdout.count("2 seeds: mean ") == 2
    assert "p50 at batch 1 " in ran.stdout and "p50 at batch 32" in ran.stdout
    times = _told(next(work.glob("times-*.json")))
    assert [one["batch"] for one in times["batches"]] == [1, 32]
    assert {one["name"] for one in times["layers"]["after"]} == {"0", "1", "2", "3", "4", "5"}


def test_the_same_command_makes_nothing_twice(made: tuple[Path, list[subprocess.CompletedProcess[str]]]) -> None:
    folder, (_, first, second, _) = made
    assert second.returncode == 0, second.stderr
    assert "run 1" not in second.stderr
    assert len(list((folder / ".wellfit" / "slim").glob("train-*/try-*.json"))) == 4
    assert _proof(second.stdout) == _proof(first.stdout)
    assert not (folder / "train-3.wfz").exists(), "the file is ours, and written over"


def test_a_target_that_is_not_met_is_said_and_exits_with_1(
    made: tuple[Path, list[subprocess.CompletedProcess[str]]],
) -> None:
    folder, (*_, ran) = made
    assert ran.returncode == 1
    report = json.loads(next((folder / ".wellfit" / "slim").glob("train-*/report.json")).read_text())
    assert report["proof"]["bytes"]["slim"] == report["slim"]["bytes"] < report["proof"]["bytes"]["dense_coded"]
    assert [one["rule"] for one in report["findings"]] == ["slim-accuracy-lost"] * (report["slim"]["lost"] > 10)
    assert ("error SLM004 slim-accuracy-lost" in ran.stdout) == (report["slim"]["lost"] > 10)
    assert "5000x was not reached: the smallest file has " in ran.stderr
    assert "the budget of 1.0 s is over (--budget): this is the best so far" in ran.stdout.lower()
    assert "Front: " in ran.stdout


def _told(path: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(path.read_text())
    return told


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        ("print('no data')\nraise SystemExit(3)", 3, "nothing was tried: the script ended with exit code 3 (no data)"),
        ("print('accuracy 0.5')", 2, "the script trains nothing that wellfit sees"),
        (SCRIPT.split("    model.eval()")[0], 2, "the script says nothing of how good its network is"),
        (
            SCRIPT.replace("optimizer =", "other = nn.Linear(4, 4)\noptimizer =").replace(
                "Adam(model.parameters()", "Adam([*model.parameters(), *other.parameters()]"
            ).replace("model(x[rows])", "other(model(x[rows]))"),
            2, "the script trains 2 models (Linear, Sequential), and slim cannot tell which one is to be small",
        ),
    ],
    ids=["fails", "trains nothing", "says nothing", "two models"],
)  # fmt: skip
def test_a_script_that_does_not_fit_is_told_so(tmp_path: Path, script: str, code: int, said: str) -> None:
    ran = slim(tmp_path, script=script)
    assert (ran.returncode, said in ran.stderr) == (code, True), ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "train.wfz").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--target", "tiny"), "the target is size, a ratio"),
        (("--keep-acc", "-1"), "--keep-acc is a number of points"),
        (("--seeds", "0"), "--seeds is a whole number"),
        (("--from", "gone.pt"), "--from gone.pt: there is no such file"),
        (("--plan", "gone.json"), "--plan gone.json cannot be read: No such file or directory"),
        (("--plan", "train.py"), "--plan train.py is no JSON"),
        (("--to", "train.pt"), "--to train.pt: the file is a .wfz"),
        (("--to", "gone/train.wfz"), "there is no folder gone"),
        (("--override", "prune=0.5"), "--override prune=0.5 is what slim sets itself"),
        (("--ignore", "slim-slow"), 'no rule is called "slim-slow"'),
        (("--only-plan", "a", "--plan", "b"), "leave one"),
        (("--metrics", "a"), 'slim has no option --metrics (did you mean "--metric"?)'),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_run(
    tmp_path: Path,
    words: tuple[str, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from wellfit.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("raise SystemExit(9)")
    assert main(["slim", *words, "train.py"]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


NAMES = ("fc1.weight", "fc2.weight", "fc2.bias")
NETWORK = Network(
    "Net", {name: Tensor(name, (1000,), "float32", "Linear", True) for name in NAMES}, {},
    {"fc1.weight": 0.1, "fc2.weight": 0.2}, {"fc1.weight": 1e-5, "fc2.weight": 4e-5}, {},
)  # fmt: skip


def test_a_plan_that_is_read_again_is_the_same(tmp_path: Path) -> None:
    for keep, values in ((0.1, 16), (1.0, 8), (0.3, 0), (1.0, 0)):
        plan = planned(NETWORK, keep, values)
        write_plan(plan, NETWORK, tmp_path / "plan.json")
        again = checked(read_plan_text(tmp_path / "plan.json"), NETWORK, tmp_path / "plan.json")
        assert again == plan


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (
            lambda plan: plan["layers"][0].update(name="conv.weight"),
            "for another network: Net has no layer conv.weight",
        ),
        (lambda plan: plan["layers"][0].update(parameters=7), "fc1.weight has 1000 parameters, not 7"),
        (lambda plan: plan["layers"].pop(), "says nothing of fc2.weight"),
        (lambda plan: plan["layers"].append(plan["layers"][0]), "the layer fc1.weight is there twice"),
        (lambda plan: plan["layers"][1].update(keep=0), '"keep" is the share of weights that stay'),
        (lambda plan: plan["layers"][1].update(keep="half"), '"keep" is the share of weights that stay'),
        (lambda plan: plan["layers"][1].update(keep=True), '"keep" is the share of weights that stay'),
        (lambda plan: plan["layers"][1].update(values=-1), '"values" is a whole number'),
        (lambda plan: plan["layers"][1].update(values=0), 'needs "values"'),
        (lambda plan: plan["layers"][1].update(method="cut"), '"method" is one of prune, share; prune; share; keep'),
        (lambda plan: plan["layers"][1].pop("name"), 'layer 2 has no "name"'),
        (lambda plan: plan["layers"].insert(0, 3), 'layer 1 has no "name"'),
        (lambda plan: plan.update(version=2), "has the version 2"),
        (lambda plan: plan.pop("layers"), "is no plan"),
    ],
)
def test_each_mistake_in_a_plan_is_named(tmp_path: Path, edit: object, said: str) -> None:
    path = tmp_path / "plan.json"
    told = as_json(planned(NETWORK, 0.1, 16), NETWORK)
    edit(told)  # type: ignore[operator]
    path.write_text(json.dumps(told))
    with pytest.raises(WellfitError) as caught:
        checked(read_plan_text(path), NETWORK, path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def _accuracy(file: Path) -> float:
    """Of the script's network with the weights of a file, without any of wellfit's runs."""
    space: dict[str, object] = {}
    exec(SCRIPT.split("optimizer =")[0], space)
    model = wellfit.slim.load(file, space["model"]).eval()
    x, y = space["x"], space["y"]
    with torch.no_grad():
        return (model(x[400:]).argmax(1) == y[400:]).float().mean().item()  # type: ignore[index]


def _proof(out: str) -> list[str]:
    """The tables by layer and of all tries: no times are in them."""
    return out[out.index("Layers") : out.index("File:")].splitlines()
