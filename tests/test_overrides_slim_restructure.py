"""Smaller structures of a script's model: made, timed, started from, trained, kept, and taught."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from overridden import Run
from torch import nn
from written import changed, said

import wellfit.slim
from wellfit.slim import wfz
from wellfit.slim.changes import Unfit, as_json
from wellfit.slim.drive.filing import write_file
from wellfit.slim.drive.layers import Network
from wellfit.slim.measure import Inputs
from wellfit.slim.methods.named import METHODS, Given, done

SCRIPT = """
import copy
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(0)
x = torch.randn(120, 6)
y = (x @ torch.randn(6, 3)).argmax(1)
train, test = (DataLoader(TensorDataset(x[part], y[part]), 20) for part in (slice(0, 80), slice(80, 120)))
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.head = nn.Linear(64, 3)
    def forward(self, x):
        return self.head(self.body(x))
model = Net()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
# made
for epoch in range(3):
    model.train()
    for a, b in train:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(a), b)
        loss.backward()
        optimizer.step()
        # stepped
    model.eval()
    with torch.no_grad():
        right = sum((model(a).argmax(1) == b).sum().item() for a, b in test)
    print(epoch, right / 40)
# end
"""
BUILDER = """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.head = nn.Linear(64, 3)
    def forward(self, x):
        return self.head(self.body(x))
def build():
    return Net()
def broken():
    raise ValueError("no such width")
"""
CUT = [("body.0.weight", [32, 6]), ("body.3.weight", [32, 32]), ("head.weight", [3, 32])]


def network(folder: Path) -> nn.Module:
    """A fresh instance of the script's class."""
    space: dict[str, Any] = {}
    exec(BUILDER, space)
    made: nn.Module = space["build"]()
    return made


@pytest.fixture
def dense(run: Run, tmp_path: Path) -> Path:
    """The weights of the script as it is."""
    run(SCRIPT, "keep-weights=../dense.safetensors")
    return tmp_path / "dense.safetensors"


@pytest.fixture
def cut(run: Run, dense: Path, tmp_path: Path) -> Path:
    """The file with half of the units of the two hidden layers."""
    ran = run(SCRIPT, "start=../dense.safetensors", "evaluate", "restructure=structured=0.5,folder:..,seconds:0.02")
    assert ran.code == 0, ran.err
    return tmp_path / "restructured-structured-0.5.wfz"


def shapes(file: Path) -> list[tuple[str, list[int]]]:
    """Of the weights that keep-weights has written."""
    tensors = json.loads(file.with_suffix(".json").read_text())["tensors"]
    return [(one["name"], one["shape"]) for one in tensors if len(one["shape"]) == 2]


def test_each_method_is_tried_timed_and_written_or_skipped_with_a_reason(run: Run, dense: Path, tmp_path: Path) -> None:
    methods = "structured=0.5;fold;fold+structured=0.5;drop=1;grouped=0.5"
    how = f"restructure={methods},batch:4,seconds:0.02,folder:.."
    ran = run(SCRIPT, "start=../dense.safetensors", "evaluate", how)
    assert (ran.code, len(ran.lines)) == (0, 1), ran.err
    told = json.loads((tmp_path / "restructured.json").read_text())
    made = {one["method"]: one for one in told["made"]}
    assert told["model"] == "Net" and told["samples"] == 20
    assert made["structured"]["changes"] == ["Cut"] and made["fold"]["changes"] == ["Fold"]
    assert made["fold+structured"]["changes"] == ["Fold", "Cut"]
    assert made["drop"]["changes"] == ["Drop"], "the layer from 64 to 64"
    assert [one["batch"] for one in made["fold"]["times"]] == [4]
    assert all(one["after"]["p50"] > 0 for one in made["fold"]["times"])
    assert made["grouped"]["file"] is None and made["grouped"]["problem"] == "there is no layer that it fits"
    assert made["structured"]["parameters"] < 3000
    dense_model, folded = network(tmp_path), network(tmp_path)
    dense_model.load_state_dict(_read(dense))
    wellfit.slim.load(tmp_path / made["fold"]["file"], folded)
    example = torch.randn(8, 6)
    with torch.no_grad():
        assert torch.allclose(dense_model.eval()(example), folded.eval()(example), atol=1e-5)
    assert isinstance(folded.get_submodule("body.1"), nn.Identity)


def test_an_evaluation_at_the_very_end_is_one_too(run: Run, dense: Path, tmp_path: Path) -> None:
    ran = run(changed(SCRIPT, ("range(3)", "range(1)")), "start=../dense.safetensors", "evaluate",
              "restructure=structured=0.5,folder:..,seconds:0.02", "time-model=../times.json,seconds:0.02")  # fmt: skip
    assert ran.code == 0 and "Traceback" not in ran.err, ran.err
    assert (tmp_path / "restructured-structured-0.5.wfz").is_file() and (tmp_path / "times.json").is_file()


@pytest.mark.parametrize(
    "optimizer",
    [
        "torch.optim.Adam(model.parameters(), lr=0.01)",
        "torch.optim.SGD([{'params': model.body.parameters()}, {'params': [*model.head.parameters()]}], lr=0.05)",
        "(model.eval()(x), torch.optim.Adam(model.train().parameters(), lr=0.01))[1]",
    ],
)
def test_training_goes_on_with_the_cut_model_and_its_optimizer_follows(
    run: Run, cut: Path, tmp_path: Path, optimizer: str
) -> None:
    script = changed(SCRIPT, ("torch.optim.Adam(model.parameters(), lr=0.01)", optimizer),
                     ("# end", "print(len({id(p) for g in optimizer.param_groups for p in g['params']} "
                               "^ {id(p) for p in model.parameters()}), len(optimizer.state))"))  # fmt: skip
    ran = run(script, f"start={cut}", "distil=../dense.safetensors,temperature:1,weight:0.5",
              "keep-weights=../tuned.safetensors")  # fmt: skip
    assert ran.code == 0, ran.err
    unheld, states = map(int, ran.lines[-1].split())
    assert unheld == 0, "the optimizer holds all parameters of the cut model, and no others"
    assert states in (8, 0)
    assert said(ran, "distil")[0], "the dense network taught"
    assert shapes(tmp_path / "tuned.safetensors") == CUT
    before, after = _read_wfz(cut), _read(tmp_path / "tuned.safetensors")
    assert not torch.equal(before["head.weight"], after["head.weight"]), "it was trained"


def test_what_was_trained_becomes_a_file_that_is_evaluated_alike(run: Run, cut: Path, tmp_path: Path) -> None:
    first = run(SCRIPT, f"start={cut}", "keep-weights=../tuned.safetensors")
    changes = json.loads((tmp_path / "tuned.json").read_text())["changes"]
    assert changes == list(wfz.read(cut).changes)
    empty = Network("Net", {}, {}, {}, {}, {})
    write_file(tmp_path / "tuned.safetensors", empty, tmp_path / "tuned.wfz", is_rounded=False)
    ran = run(SCRIPT, "start=../tuned.wfz", "evaluate", "time-model=../times.json,batch:3,seconds:0.05")
    assert ran.lines[0].split()[1:] == first.lines[-1].split()[1:], ran.err
    told = json.loads((tmp_path / "times.json").read_text())
    assert [one["batch"] for one in told["times"]] == [1, 32, 3]
    assert {one["name"] for one in told["after"]} == {"body.0", "body.1", "body.2", "body.3", "body.4", "head"}
    again = run(SCRIPT, "start=../tuned.wfz", "restructure=fold,folder:..,seconds:0.02")
    assert again.code == 0, again.err
    assert [event["by"] for event in again.record.events("stopped")] == ["restructure"]  # type: ignore[union-attr]
    chain = [one["change"] for one in wfz.read(tmp_path / "restructured-fold-0.5.wfz").changes]
    assert chain == ["cut", "fold"], "what a file went through before stays in it"


def test_an_average_of_weights_follows_the_changed_structure(run: Run, cut: Path) -> None:
    follow = "[p.data.lerp_(q.detach(), 0.1) for p, q in zip(average.parameters(), model.parameters())]"
    script = changed(SCRIPT, ("# made", "average = copy.deepcopy(model)"), ("# stepped", follow),
                     ("# end", "later = Net(); later.load_state_dict(model.state_dict()); "
                               "print(*average.body[0].weight.shape, *later.head.weight.shape)"))  # fmt: skip
    ran = run(script, f"start={cut}")
    assert ran.code == 0, ran.err
    assert ran.lines[-1] == "32 6 3 32"


def test_a_script_that_loads_the_weights_of_the_teacher_itself_has_one_that_stays_dense(
    run: Run, cut: Path, tmp_path: Path
) -> None:
    torch.save(_read(tmp_path / "dense.safetensors"), tmp_path / "mine.pt")
    script = changed(SCRIPT, ("# made", 'model.load_state_dict(torch.load("../mine.pt"))'))
    ran = run(script, f"start={cut}", "distil=../dense.safetensors", "time-model=../t.json,seconds:0.05")
    assert ran.code == 0, ran.err
    assert said(ran, "start")[0] == ["Net: 11 tensors are those of restructured-structured-0.5.wfz"]
    assert said(ran, "distil")[0]


@pytest.mark.parametrize(
    ("wrap", "why"),
    [("model = torch.compile(model, backend='eager')", "compiled"), ("model = nn.DataParallel(model)", "DataParallel")],
)
def test_wrappers_that_hold_on_to_parameters_are_said(run: Run, cut: Path, tmp_path: Path, wrap: str, why: str) -> None:
    script = changed(SCRIPT, ("# made", wrap))
    ran = run(script, f"start={cut}")
    assert ran.code == 2 and why in ran.err
    again = run(script, "evaluate", "restructure=structured=0.5,folder:..,seconds:0.02")
    assert again.code == 0, again.err
    (made,) = json.loads((tmp_path / "restructured.json").read_text())["made"]
    assert made["file"] is None and why in made["problem"]


def test_a_student_of_another_structure_learns_from_a_teacher_of_the_users_own(
    run: Run, dense: Path, tmp_path: Path
) -> None:
    (tmp_path / "teachers.py").write_text(BUILDER)
    # The runs have folders of their own below this one, from where the script starts.
    look = "import sys; sys.path.insert(0, '..')\n"
    small = look + SCRIPT.replace("64", "8")
    alone = run(small)
    taught = run(small, "distil=../dense.safetensors,teacher:teachers:build")
    assert taught.code == 0, taught.err
    assert said(taught, "distil")[0] == ["cross_entropy at train.py:26: 0.9 of it is the teacher's, dense.safetensors"]
    assert taught.record is not None and alone.record is not None


@pytest.mark.parametrize(
    ("teacher", "why"),
    [
        ("teachers:broken", "teachers:broken cannot be built (ValueError: no such width)"),
        ("teachers:nothing", "cannot be built (AttributeError"),
        ("nowhere:build", "cannot be built (ModuleNotFoundError"),
        ("teachers", 'is "package.module:function", not "teachers"'),
        ("teachers:dict", "cannot be built"),
    ],
)
def test_a_teacher_that_cannot_be_built_is_said_before_anything_is_trained(
    run: Run, dense: Path, tmp_path: Path, teacher: str, why: str
) -> None:
    (tmp_path / "teachers.py").write_text(BUILDER)
    script = "import sys; sys.path.insert(0, '..')\n" + SCRIPT
    ran = run(script, f"distil=../dense.safetensors,teacher:{teacher}")
    assert ran.code == 2 and why in ran.err, ran.err
    assert ran.lines == []


@pytest.mark.parametrize(
    ("methods", "why"),
    [
        ("structred=0.5", 'has no method "structred" (did you mean "structured"?)'),
        ("svd=2", 'the strength in "svd=2" of restructure is a number above 0 to 1'),
        (";", "restructure needs a method"),
    ],
)
def test_wishes_that_make_no_sense_are_refused(run: Run, methods: str, why: str) -> None:
    ran = run(SCRIPT, f"restructure={methods}")
    assert ran.code == 2 and why in ran.err, ran.err


@pytest.mark.parametrize("by", ["magnitude", "scale", "taylor", "output"])
def test_every_importance_cuts_as_many_units(by: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    made = done("structured", Given(model, Inputs.of(torch.randn(10, 6)), 1, 0.5, by))
    assert made.model[0].weight.shape == (8, 6)  # type: ignore[index, union-attr]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model[0].weight.shape == (16, 6)
    assert as_json(made.changes)[0]["change"] == "cut"


def test_convolutions_are_given_every_form() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.Flatten(), nn.Linear(64 * 16, 5))
    given = Given(model, Inputs.of(torch.randn(4, 3, 8, 8)), 4, 0.9)
    for method in ("tucker", "separable", "reduced"):
        assert done(method, given).model(torch.randn(2, 3, 8, 8)).shape == (2, 5), method
    assert set(METHODS) >= {"heads", "drop", "svd", "cp", "grouped", "fold", "int8"}


def test_layers_that_take_packed_sequences_are_timed_too() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(64, 256, batch_first=True)

        def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            return nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0]

    example = Inputs.of((torch.randn(8, 12, 64), torch.tensor([12, 3, 5, 12, 1, 2, 9, 12])))
    try:
        changes = done("int8", Given(Reader(), example, 8, 1.0)).changes
    except Unfit as error:  # what is faster hangs on the machine; that it was timed does not
        assert "times as fast here" in str(error)
    else:
        assert [type(change).__name__ for change in changes] == ["Quantised"]


def _read(file: Path) -> dict[str, torch.Tensor]:
    from wellfit.slim.wfz import safetensors

    return {name: torch.from_numpy(array) for name, array in safetensors.read(file)[0].items()}  # type: ignore[arg-type]


def _read_wfz(file: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = wellfit.slim.load(file)
    return found
