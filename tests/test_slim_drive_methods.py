"""`wellfit slim train.py` with N:M, whole numbers and signs: plans that name them, `--methods`, and their files."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from overridden import ENV
from torch import nn

import wellfit.slim
from wellfit.cli import main
from wellfit.errors import WellfitError
from wellfit.overrides.slim import _safetensors
from wellfit.overrides.slim._clusters import clusters
from wellfit.overrides.slim._masks import n_of_m
from wellfit.slim.drive.filing import described, write_file
from wellfit.slim.drive.layers import Network, Tensor
from wellfit.slim.drive.methods import Method, left_out
from wellfit.slim.drive.options import method_of
from wellfit.slim.drive.plan import Plan, again, alike, layer_of, planned
from wellfit.slim.drive.plan_file import checked, read_plan_text, write_plan
from wellfit.slim.drive.search_plan import LADDER, Family, best_of, next_plan
from wellfit.slim.drive.setting import Setting
from wellfit.slim.drive.tries import Try
from wellfit.slim.drive.upheld import broken
from wellfit.slim.layers.binary import BinaryLinear
from wellfit.slim.methods.grid import on_grid
from wellfit.slim.target import Target

SCRIPT = """
import torch
import torch.nn.functional as F
from torch import nn
torch.manual_seed(0)
x = torch.randn(600, 20)
y = (x @ torch.randn(20, 4)).argmax(1)
model = nn.Sequential(
    nn.Linear(20, 64), nn.BatchNorm1d(64), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(),
    nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))
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
"""
MIXED: dict[str, dict[str, Any]] = {
    "0.weight": {"method": "prune 2:4"}, "2.weight": {"method": "binarise xnor"}, "5.weight": {"method": "binarise"},
    "8.weight": {"method": "prune 1:4, share", "values": 8}, "10.weight": {"method": "int4"},
}  # fmt: skip


def slim(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `wellfit slim` in a folder that holds the script."""
    (folder / "train.py").write_text(SCRIPT)
    return subprocess.run(
        [sys.executable, "-m", "wellfit", "slim", *words, "train.py"],
        cwd=folder, env=ENV, text=True, capture_output=True, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[subprocess.CompletedProcess[str]]]:
    """A method for all layers, as a plan; with other methods written into it, run; as it was, run; then asked for, with
    a target too far."""
    folder = tmp_path_factory.mktemp("slim")
    done = [slim(folder, "--only-plan", "asked.json", "--methods", "binarise")]
    plan = json.loads((folder / "asked.json").read_text())
    for layer in plan["layers"]:
        layer |= MIXED[layer["name"]]
    (folder / "plan.json").write_text(json.dumps(plan))
    done.append(slim(folder, "--plan", "plan.json", "--keep-acc", "100"))
    done.append(slim(folder, "--plan", "asked.json", "--to", "signs.wfz"))
    return folder, [*done, slim(folder, "--methods", "binarise", "--target", "50x", "--to", "signs.wfz")]


def report_of(folder: Path) -> dict[str, Any]:
    """That was written last."""
    told: dict[str, Any] = json.loads(next((folder / ".wellfit" / "slim").glob("train-*/report.json")).read_text())
    return told


def test_a_method_for_all_layers_is_a_plan(made: tuple[Path, list[subprocess.CompletedProcess[str]]]) -> None:
    folder, (asked, *_) = made
    assert asked.returncode == 0, asked.stderr
    methods = [layer["method"] for layer in json.loads((folder / "asked.json").read_text())["layers"]]
    assert methods == ["keep", "binarise", "binarise", "binarise", "keep"]


def test_each_layer_of_the_file_is_as_its_method_says(
    made: tuple[Path, list[subprocess.CompletedProcess[str]]],
) -> None:
    folder, (_, ran, *_) = made
    assert ran.returncode == 0, ran.stderr
    space: dict[str, Any] = {}
    exec(SCRIPT.split("optimizer =")[0], space)
    model: nn.Sequential = wellfit.slim.load(folder / "train.wfz", space["model"]).eval()  # type: ignore[assignment]
    weights = [model[place].weight.detach() for place in (0, 5, 8, 10)]
    assert set((weights[0] != 0).view(-1, 4).sum(1).tolist()) == {2}
    assert all(len(row.abs().unique()) == 1 for row in weights[1])
    assert set((weights[2] != 0).view(-1, 4).sum(1).tolist()) == {1}
    assert len(weights[2].unique()) <= 9
    assert all(len(row.unique()) <= 15 for row in weights[3])
    assert isinstance(model[2], BinaryLinear) and model[2].both
    with torch.no_grad():
        right = (model(space["x"][400:]).argmax(1) == space["y"][400:]).float().mean().item()
    first = json.loads(next((folder / ".wellfit" / "slim").glob("train-*/try-001*.json")).read_text())
    assert right == pytest.approx(first["metric"], abs=1e-6)
    assert f"{first['bytes']:,} bytes" in ran.stderr


def test_the_proof_names_each_method(made: tuple[Path, list[subprocess.CompletedProcess[str]]]) -> None:
    folder, (_, ran, *_) = made
    rows = {words[0]: words for line in ran.stdout.split("\nLayers\n")[1].splitlines() if (words := line.split())}
    assert rows["2.bits"][1:4] == ["4,096", "100.0%", "2"] and rows["2.bits"][6:8] == ["binarise", "xnor"]
    assert 1 <= float(rows["2.bits"][4]) < 1.1 and 1 <= float(rows["5.weight"][4]) < 1.3
    assert rows["8.weight"][2] == "25.0%" and rows["8.weight"][6:9] == ["prune", "1:4,", "share"]
    told = report_of(folder)
    by_name = {layer["name"]: layer for layer in told["slim"]["layers"]}
    assert by_name["2.weight"]["method"] == "binarise" and by_name["0.weight"]["skipped"] == "the first layer"
    assert told["plan"]["skipped"]["10.weight"] == "the last layer"
    page = next((folder / ".wellfit" / "slim").glob("train-*/report.html")).read_text(encoding="utf-8")
    assert "the first layer" in page and "prune 1:4, share" in page, "the plots tell of the other try"


def test_a_method_with_nothing_to_search_is_tried_once(
    made: tuple[Path, list[subprocess.CompletedProcess[str]]],
) -> None:
    """It was made as a plan, and is not made again."""
    folder, (*_, ran) = made
    assert ran.returncode == 1
    assert ran.stderr.count("binarise in 3 of 5 layers: that try is made already") == 1
    assert "50x was not reached: the smallest file has " in ran.stderr
    assert len(list((folder / ".wellfit" / "slim").glob("train-*/try-*.json"))) == 2
    assert "0.weight is left alone: the first layer." in ran.stdout
    assert ran.stdout.count("<- the file") == 1


def test_forecasts_of_both_plans_hold(made: tuple[Path, list[subprocess.CompletedProcess[str]]]) -> None:
    _, ran = made
    for done in ran[1:3]:
        promised = int(done.stdout.split("Predicted: ")[1].split()[0].replace(",", ""))
        given = int(done.stdout.split("  slim ")[1].split(")")[1].split()[0].replace(",", ""))
        assert abs(given / promised - 1) < 0.15, done.stdout


# Without a script -----------------------------------------------------------------------------------------------------

SHAPES = {
    "fc1": ("Linear", (48, 64)), "conv": ("Conv2d", (32, 48, 3, 3)), "up": ("ConvTranspose2d", (32, 12, 3, 3)),
    "table": ("Embedding", (100, 24)), "cells": ("LSTM", (64, 32)), "fc2": ("Linear", (10, 42)),
}  # fmt: skip
TENSORS = {f"{name}.weight": Tensor(f"{name}.weight", shape, "float32", kind, True)
           for name, (kind, shape) in SHAPES.items()}  # fmt: skip
NORM = Tensor("norm.weight", (64,), "float32", "BatchNorm1d", True)
NETWORK = Network(
    "Net", {**TENSORS, "norm.weight": NORM}, {}, dict.fromkeys(TENSORS, 0.1), dict.fromkeys(TENSORS, 1e-5), {}
)
METHODS = st.one_of(
    st.just(Method()), st.builds(Method, signs=st.sampled_from(["weights", "both"])),
    st.builds(Method, bits=st.integers(2, 8)), st.builds(Method, shares=st.just(True)),
    st.tuples(st.integers(1, 98), st.integers(1, 98)).flatmap(lambda pair: st.builds(
        Method, prunes=st.just(True), pattern=st.sampled_from([None, (pair[0], min(99, sum(pair)))]),
        shares=st.booleans(),
    )),
    st.builds(Method, prunes=st.just(True), bits=st.integers(2, 8)),
).filter(lambda method: not method.pattern or method.pattern[0] < method.pattern[1])  # fmt: skip


@given(method=METHODS)
def test_a_method_that_is_written_and_read_is_the_same(method: Method) -> None:
    assert Method.of(str(method), "x") == method
    assert Method.of(f"  {method} ".replace(", ", " ,"), "x") == method


@given(methods=st.lists(METHODS, min_size=6, max_size=6), together=st.booleans(), keep=st.floats(0.1, 0.99))
@settings(max_examples=40)
def test_a_plan_that_is_written_and_read_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, methods: list[Method], together: bool, keep: float
) -> None:
    layers = tuple(
        layer_of(NETWORK, name, method, keep if method.is_searched else 1.0, 16 if method.shares else 0)
        for name, wanted in zip(TENSORS, methods, strict=True)
        for method in [Method() if wanted.misfit(NETWORK, name) else wanted]
    )
    plan = replace(planned(NETWORK, 0.1, 8), layers=layers, together=together)
    plan = replace(plan, around=again(NETWORK, plan.told, together).around)
    path = tmp_path_factory.getbasetemp() / "plan.json"
    write_plan(plan, NETWORK, path)
    assert checked(read_plan_text(path), NETWORK, path) == plan
    assert again(NETWORK, json.loads(json.dumps(plan.told)), together) == plan
    names = [one["override"] for one in Setting(plan, 100, False).overrides(Path("dense"))]
    assert ("binarise" in names, "quantise" in names) == (
        any(layer.signs for layer in layers), any(layer.bits for layer in layers)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "method", "said"),
    [
        ("fc1.weight", "cut", '"method" is one of prune, share; prune; share; keep; prune N:M; prune N:M, share; int2'),
        ("fc1.weight", ["prune"], '"method" is one of prune, share; '),
        ("fc1.weight", "binarise, share", '"method" is one of prune, share; '),
        ("fc1.weight", "share, int8", '"method" is one of prune, share; '),
        ("fc1.weight", "prune 5:4", '"method": of M neighbours N stay, 1 <= N < M < 100, as in prune 2:4, not prune 5'),
        ("fc1.weight", "prune 0:4", '"method": of M neighbours N stay, 1 <= N < M < 100, as in prune 2:4, not prune 0'),
        ("fc1.weight", "prune 4", '"method": of M neighbours N stay, 1 <= N < M < 100'),
        ("fc1.weight", "int1", '"method": bits go from int2 to int8, not int1'),
        ("fc1.weight", "int99999999999999999999", '"method": bits go from int2 to int8, not int9999'),
        ("fc1.weight", "prune 2:4, share", '"prune 2:4, share" needs "values"'),
        ("fc2.weight", "prune 2:4", '"prune 2:4" does not fit: its 42 inputs cannot be parted into groups of 4'),
        ("table.weight", "binarise", '"binarise" does not fit: its rows are looked up, and no signs are multiplied'),
        ("up.weight", "binarise", '"binarise" does not fit: its filters do not lie along the first axis'),
        ("cells.weight", "binarise xnor", '"binarise xnor" does not fit: a LSTM has no form that counts bits'),
    ],
)
def test_what_a_plan_cannot_ask_for(tmp_path: Path, name: str, method: object, said: str) -> None:
    path = tmp_path / "plan.json"
    write_plan(alike(NETWORK, Method(bits=8)), NETWORK, path)
    told = json.loads(path.read_text())
    next(layer for layer in told["layers"] if layer["name"] == name)["method"] = method
    with pytest.raises(WellfitError) as caught:
        checked(told, NETWORK, path)
    assert f"{path}: {name}: " in str(caught.value) and said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_norm_has_no_place_in_a_plan(tmp_path: Path) -> None:
    told = {"version": 1, "layers": [{"name": "norm.weight", "method": "binarise"}]}
    with pytest.raises(WellfitError, match=r"norm.weight is left alone \(norm\): plans are for the weights of layers"):
        checked(told, NETWORK, tmp_path / "plan.json")


def test_layers_that_a_method_does_not_fit_are_left_alone_with_the_reason() -> None:
    plan = alike(NETWORK, Method(signs="both"))
    assert {layer.name: str(layer.method) for layer in plan.layers if layer.signs} == {"conv.weight": "binarise xnor"}
    assert plan.left["fc1.weight"] == "the first layer" and plan.left["fc2.weight"] == "the last layer"
    grouped = {**TENSORS, "conv.weight": replace(TENSORS["conv.weight"], groups=4)}
    tied = replace(NETWORK, tied={"head.weight": "conv.weight"})
    assert "4 groups" in left_out(replace(NETWORK, tensors=grouped), Method(signs="both"))["conv.weight"]
    assert left_out(tied, Method(signs="both"))["conv.weight"] == "it is tied to another"
    with pytest.raises(WellfitError, match="binarise xnor fits no layer of Net"):
        alike(tied, Method(signs="both"))
    assert alike(NETWORK, Method(prunes=True, pattern=(2, 4))).left == {
        "fc2.weight": "its 42 inputs cannot be parted into groups of 4"
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--methods", "cut"), "--methods is one of prune, share; "),
        (("--methods", "prune 5:4"), "--methods: of M neighbours N stay"),
        (("--methods", "keep"), "--methods keep leaves all layers alone"),
        (("--methods", "int8", "--plan", "p.json"), "--methods is for the search of a small file, and a plan names"),
        (("--methods", "int8", "--target", "2ms"), "--methods is for the search of a small file, and targets of time"),
        (("--override", "quantise=8"), "--override quantise=8 is what slim sets itself"),
    ],
)
def test_what_methods_cannot_be(
    tmp_path: Path, words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("raise SystemExit(9)")
    assert main(["slim", *words, "train.py"]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1


def test_what_is_searched_anyway_need_not_be_asked_for() -> None:
    assert method_of("prune,share") is None and method_of(None) is None
    assert method_of("prune") == Method(prunes=True)


# What a method makes of weights: as the overrides do it, in one go.
MAKERS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "prune 2:4": lambda w: w * n_of_m(w, 1, 2, 4),
    "prune 1:4": lambda w: w * n_of_m(w, 1, 1, 4),
    "prune 2:4, share": lambda w: shared(w * n_of_m(w, 1, 2, 4)),
    "int8": lambda w: on_grid(w, 8),
    "int4": lambda w: on_grid(w, 4),
    "int3": lambda w: on_grid(w, 3),
    "prune 2:4, int4": lambda w: on_grid(w * n_of_m(w, 1, 2, 4), 4),
    "binarise": lambda w: signs(w),
    "binarise xnor": lambda w: signs(w),
}


def shared(weight: torch.Tensor) -> torch.Tensor:
    """16 values beside 0."""
    made, alive = weight.clone(), weight != 0
    centres, numbers = clusters(weight[alive], 16)
    made[alive] = centres.float()[numbers]
    return made


def signs(weight: torch.Tensor) -> torch.Tensor:
    """Times a scale for each filter."""
    sizes = weight.abs().flatten(1).mean(1).view(-1, *[1] * (weight.dim() - 1))
    return torch.where(weight > 0, sizes, -sizes)


def written(folder: Path, network: Network, method: str, weight: torch.Tensor) -> tuple[int, Plan]:
    """The bytes of a file with one layer, made as the driver makes it, and its plan."""
    name = next(iter(network.weights))
    layer = layer_of(network, name, Method.of(method, "x"), 1.0, 16 if "share" in method else 0)
    noted = {"grid": layer.bits} if layer.bits else {"binary": layer.signs} if layer.signs else {}
    _safetensors.write(str(folder / "w.safetensors"), {name: weight}, {})
    (folder / "w.json").write_text(json.dumps({"tensors": [{"name": name, **noted}]}))
    plan = Plan("Net", (layer,), 60.0)
    return write_file(folder / "w.safetensors", network, folder / "w.wfz", is_rounded=True).bytes, plan


@given(
    rows=st.integers(24, 96), columns=st.integers(16, 48), seed=st.integers(0, 2**30),
    is_conv=st.booleans(), method=st.sampled_from(list(MAKERS)), spread=st.floats(0.03, 0.3),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_the_bytes_of_a_layer_are_foretold(
    tmp_path_factory: pytest.TempPathFactory, rows: int, columns: int, seed: int, is_conv: bool, method: str,
    spread: float,
) -> None:  # fmt: skip
    """Weights are as those of trained layers are: some filters are larger than others."""
    shape = (rows, 4 * (columns // 4), 3, 3) if is_conv else (rows, 4 * columns)
    drawn = torch.Generator().manual_seed(seed)
    sizes = 0.7 + 0.6 * torch.rand(rows, generator=drawn).view(-1, *[1] * (len(shape) - 1))
    weight = MAKERS[method](spread * sizes * torch.randn(shape, generator=drawn))
    name = "fc.weight"
    tensor = Tensor(name, shape, "float32", "Conv2d" if is_conv else "Linear", True)
    network = Network("Net", {name: tensor}, {}, {name: 0.1}, {name: 1e-5}, {})
    folder = tmp_path_factory.getbasetemp()
    size, plan = written(folder, network, method, weight)
    assert abs(size / plan.predicted - 1) < 0.15
    assert broken(folder / "w.wfz", network, plan) == []
    told = described(folder / "w.wfz", network, plan)[0]
    assert told["parameters"] == math.prod(shape) and told["method"] == method


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("prune 2:4", "fc1.weight has 4 of 4 neighbours that are not 0, not 2"),
        ("int4", "fc1.weight has more different values in a filter than 4 bits have"),
        ("binarise", "fc1.weight is no sign times a scale for each filter"),
    ],
)
def test_a_file_that_does_not_hold_what_was_planned_is_found_out(tmp_path: Path, method: str, said: str) -> None:
    """A script may write what it likes into its weights after the last step."""
    torch.manual_seed(0)
    _, plan = written(tmp_path, NETWORK, method, torch.randn(48, 64))
    assert broken(tmp_path / "w.wfz", NETWORK, plan) == [said]


def test_zeros_cannot_be_counted_as_signs(tmp_path: Path) -> None:
    with pytest.raises(WellfitError, match=r'bits cannot hold: give it the method "binarise"'):
        written(tmp_path, NETWORK, "binarise xnor", torch.eye(48, 64))


# The search -----------------------------------------------------------------------------------------------------------


def a_try(plan: Plan, family: Family, size: int, lost: float) -> Try:
    """That is done."""
    return Try(
        Path(), plan.keep, family.values, plan.told, plan.together, 100, size, 0.9, lost, 10.0, family.is_taught, None,
        True, f"{family}{plan.keep}", family.asked,
    )  # fmt: skip


def walked(target: str, asked: Method, lost: Callable[[Family], float]) -> tuple[list[Try], Try | None]:
    """The tries that a search makes where files are as large as is foretold, and the best of them."""
    tries: list[Try] = []
    while following := next_plan(NETWORK, Target.of(target), 1.0, tries, True, asked):
        plan, family = following
        tries.append(a_try(plan, family, round(plan.predicted), lost(family)))
        assert len(tries) < 30, "it does not end"
    return tries, best_of(tries, Target.of(target), 1.0, NETWORK)


@pytest.mark.parametrize("least", [*LADDER, 1000])
@pytest.mark.parametrize("method", ["share", "prune 2:4, share"])
def test_the_fewest_values_that_are_good_enough_are_found(method: str, least: int) -> None:
    tries, best = walked("size", Method.of(method, "x"), lambda family: 5.0 * (family.values < least))
    assert best is not None
    assert best.values == (least if least in LADDER else best.values)
    assert len({one.values for one in tries}) == len(tries) <= 5


@pytest.mark.parametrize("target", ["4x", "8x", "1kB", "200x"])
def test_the_most_values_that_a_size_allows_are_found(target: str) -> None:
    asked = Method(shares=True)
    tries, best = walked(target, asked, lambda family: 10 / family.values)
    most = Target.of(target).bytes_of(NETWORK.bytes)
    fitting = [values for values in LADDER if alike(NETWORK, asked, values).predicted <= most]
    assert best is not None and best.values == max(fitting, default=2)
    assert len(tries) <= 3


@pytest.mark.parametrize("method", ["int8", "binarise", "prune 2:4", "prune 2:4, int4"])
@pytest.mark.parametrize("target", ["size", "500x"])
def test_there_is_one_try_where_nothing_is_open(method: str, target: str) -> None:
    tries, _ = walked(target, Method.of(method, "x"), lambda family: 5.0)
    assert len(tries) == 1


@pytest.mark.parametrize("method", ["prune", "prune, int4"])
def test_the_share_that_is_kept_is_searched_for(method: str) -> None:
    tries, best = walked("size", Method.of(method, "x"), lambda family: 0.0)
    assert len(tries) > 2 and best is not None and best.keep == min(one.keep for one in tries)
    assert all({layer[3] for layer in one.plan if len(layer) > 3} <= {"prune, int4", "int4"} for one in tries)


def test_tries_of_before_count_where_a_plan_names_no_new_method() -> None:
    """Digests of the version that had no other methods."""
    tensors = {
        name: Tensor(name, shape, "float32", "Linear", True)
        for name, shape in {"fc1.weight": (64, 32), "fc1.bias": (64,), "fc2.weight": (32, 64),
                            "fc3.weight": (4, 32)}.items()
    }  # fmt: skip
    weights = {"fc1.weight": 1e-5, "fc2.weight": 4e-5, "fc3.weight": 1e-4}
    network = Network("Net", tensors, {}, dict.fromkeys(weights, 0.1), weights, {})
    found = [
        Setting(replace(planned(network, keep, values), together=together), steps, False).digest
        for keep, values, together, steps in ((0.1, 8, True, 100), (0.1, 16, False, 100), (1.0, 8, True, 50),
                                              (0.3, 0, False, None), (1.0, 0, False, 9))
    ]  # fmt: skip
    assert found == ["20b24ca3", "a47a827a", "c987514f", "8cb831df", "c4708e43"]
