"""Weights from a file, weights kept in one, and what the script's own evaluation says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from overridden import Ran, Run
from overridden import run as run_whole
from written import changed, said, stopped

from wellfit.slim import wfz
from wellfit.slim.wfz import safetensors

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
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.head = nn.Linear(8, 3)
    def forward(self, x):
        return self.head(self.body(x))
def main():
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    # made
    for epoch in range(3):
        model.train()
        for a, b in train:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(a), b)
            loss.backward()
            optimizer.step()
        # epoch
        model.eval()
        right = total = lost = 0
        with torch.no_grad():
            for a, b in test:
                out = model(a)
                lost += F.cross_entropy(out, b, reduction="sum").item()
                right += (out.argmax(1) == b).sum().item()
                total += len(b)
        print(epoch, right / total, lost / total)
    # end
    torch.save(SAVED, "../saved.pt")
main()
"""
PLAIN = SCRIPT.replace("SAVED", "model.state_dict()")


def told(ran: Ran) -> list[dict[str, Any]]:
    """The evaluations in the record."""
    assert ran.record is not None, ran.err
    return list(ran.record.events("evaluated"))


def kept(folder: Path) -> dict[str, Any]:
    """What stands beside the weights of the last run."""
    file = sorted(folder.glob("run*/weights.json"))[-1]
    about: dict[str, Any] = json.loads(file.read_text())
    return about


@pytest.mark.parametrize(
    "saved",
    [
        "model.state_dict()",
        "{'model': model.state_dict(), 'epoch': 3}",
        "{'state_dict': {'model.' + n: v for n, v in model.state_dict().items()}}",
        "{'net': {'module._orig_mod.' + n: v for n, v in model.state_dict().items()}, 'step': torch.tensor(3)}",
    ],
)
def test_the_first_evaluation_says_of_a_file_what_the_last_one_said(run: Run, saved: str) -> None:
    first = run(SCRIPT.replace("SAVED", saved))
    ran = run(PLAIN, "start=../saved.pt", "evaluate")
    assert (ran.code, len(ran.lines)) == (0, 1), ran.err
    assert ran.lines[0].split()[1:] == first.lines[-1].split()[1:]
    assert said(ran, "start")[0] == ["Net: 9 tensors are those of saved.pt"]
    (event,) = told(ran)
    accuracy, loss = map(float, ran.lines[0].split()[1:])
    assert event["samples"] == 40 and event["accuracy"] == pytest.approx(accuracy)
    assert event["loss"] == pytest.approx(loss)
    assert [event["by"] for event in ran.record.events("stopped")] == ["evaluate"]  # type: ignore[union-attr]
    assert f"evaluate asks: evaluated 40 samples: loss {loss:.5g}, accuracy {accuracy:.5g}\n" in ran.err


def test_the_parent_does_not_complain_of_a_run_that_only_evaluates(tmp_path: Path) -> None:
    ran = run_whole(tmp_path, PLAIN, "evaluate")
    assert ran.code == 0 and ran.err.count("\n") == 1, ran.err
    assert "saw no training" not in ran.err and len(told(ran)) == 1


def test_kept_weights_are_those_of_the_end_and_start_anew(run: Run, tmp_path: Path) -> None:
    first = run(PLAIN, "keep-weights", "prune=0.5,steps:12", "share=4,start:0.6,steps:12")
    tensors, _ = safetensors.read(tmp_path / "run0" / "weights.safetensors")
    for name, value in torch.load(tmp_path / "saved.pt").items():
        assert np.array_equal(tensors[name], value.numpy())
    about = kept(tmp_path)
    assert [part["name"] for part in about["tensors"]] == list(torch.load(tmp_path / "saved.pt"))
    body = about["tensors"][0]
    assert body["shape"] == [8, 6] and body["class"] == "Linear" and body["kind"] == "parameter"
    assert body["shared"] <= 4 and 0 < body["pruned"] < 1
    zeros = sum(int((tensors[name] == 0).sum()) for name in ("body.0.weight", "head.weight"))
    assert zeros == 36 and about["steps"] == 12
    assert [one["after_steps"] for one in about["evaluations"]] == [4, 8, 12]
    assert [one["accuracy"] for one in about["evaluations"]] == [
        pytest.approx(float(line.split()[1])) for line in first.lines
    ]
    ran = run(PLAIN, "start=../run0/weights.safetensors", "evaluate", "keep-weights")
    assert ran.lines[0].split()[1:] == first.lines[-1].split()[1:]
    assert kept(tmp_path)["evaluations"][0]["accuracy"] == about["evaluations"][-1]["accuracy"]
    again, _ = safetensors.read(tmp_path / "run1" / "weights.safetensors")
    assert all(np.array_equal(tensors[name], again[name]) for name in tensors)  # batch norm's statistics too


def test_a_wfz_file(run: Run, tmp_path: Path) -> None:
    first = run(PLAIN, "keep-weights=../kept.safetensors")
    tensors, _ = safetensors.read(tmp_path / "kept.safetensors")
    wfz.write(tmp_path / "small.wfz", tensors)
    ran = run(PLAIN, "start=../small.wfz", "evaluate")
    assert ran.lines[0].split()[1:] == first.lines[-1].split()[1:], ran.err


def test_a_run_that_goes_on_begins_with_the_loss_that_was_left(run: Run) -> None:
    first = run(changed(PLAIN, ("# end", "model.train(); print(F.cross_entropy(model(x[:20]), y[:20]).item())")))
    backward = "            loss.backward()\n"
    ran = run(changed(PLAIN, (backward, f"            print(loss.item())\n{backward}")), "start=../saved.pt")
    assert ran.lines[0] == first.lines[-1]


def test_training_with_a_scaler_and_a_scheduler_is_left_out_too(run: Run) -> None:
    script = changed(
        PLAIN,
        ("# made", "scaler = torch.amp.GradScaler('cpu'); plan = torch.optim.lr_scheduler.StepLR(optimizer, 1); "
                   "before = copy.deepcopy(model.state_dict())"),
        ("            loss.backward()\n            optimizer.step()\n",
         "            scaler.scale(loss).backward(); scaler.unscale_(optimizer)\n"
         "            nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n"
         "            scaler.step(optimizer); scaler.update()\n"),
        ("# epoch", "plan.step(); print(all(torch.equal(v, before[n]) for n, v in model.state_dict().items()), "
                    "max(float(p.grad.abs().max()) for p in model.parameters()))"),
    )  # fmt: skip
    ran = run(script, "evaluate")
    assert ran.code == 0 and ran.lines[0] == "True 0.0", ran.err
    assert len(ran.lines) == 2


OUT = '                lost += F.cross_entropy(out, b, reduction="sum").item()\n'
RIGHT = "                right += (out.argmax(1) == b).sum().item()\n"


@pytest.mark.parametrize(
    ("loss", "right", "seen"),
    [
        (OUT, "", ("loss", "accuracy")),
        ("", RIGHT, ("accuracy",)),
        ("", "                right += out.max(1)[1].eq(b.view(-1)).sum().item()\n", ("accuracy",)),
        ("", "                right += torch.eq(torch.argmax(out, dim=1), b).sum().item()\n", ("accuracy",)),
        ("", "                guess = torch.max(out, 1).indices.view_as(b); right += (b == guess).sum().item()\n",
         ("accuracy",)),
        ("                lost += nn.CrossEntropyLoss()(out, b).item() * len(b)\n", RIGHT, ("loss", "accuracy")),
        ("                lost += F.mse_loss(out[:, 0], b.float()).item() * len(b)\n", "", ("loss",)),
        ("", "                right += sum(int(p == q) for p, q in zip(out.argmax(1).tolist(), b.tolist()))\n", ()),
    ],
)  # fmt: skip
def test_what_an_evaluation_says_is_what_the_script_computes(
    run: Run, loss: str, right: str, seen: tuple[str, ...]
) -> None:
    ran = run(changed(PLAIN, (OUT, loss), (RIGHT, right)), "evaluate")
    assert ran.code == 0 and len(ran.lines) == 1, ran.err
    (event,) = told(ran)
    accuracy, lost = map(float, ran.lines[0].split()[1:])
    for name, value in (("accuracy", accuracy), ("loss", lost)):
        wanted = pytest.approx(value, rel=1e-5) if name in seen else None
        if not (name == "accuracy" and "accuracy" in seen and not right):
            assert event[name] == wanted
    assert event["samples"] == 40


def test_passes_over_several_sets_are_told_apart(run: Run) -> None:
    evaluate = """
        model.eval()
        with torch.no_grad():
            for name, loader in (("train", train), ("test", test)):
                print(name, sum((model(a).argmax(1) == b).sum().item() for a, b in loader))
"""
    ran = run(
        changed(PLAIN, ("        # epoch\n", evaluate)).replace("right = total = lost = 0", "continue"), "evaluate"
    )
    (event,) = told(ran)
    assert [one["samples"] for one in event["passes"]] == [80, 40] and event["samples"] == 40
    assert [round(one["accuracy"] * one["samples"]) for one in event["passes"]] == [
        int(line.split()[1]) for line in ran.lines
    ]


def test_a_script_without_an_evaluation_says_so(run: Run) -> None:
    ran = run(PLAIN[: PLAIN.index("        model.eval()")] + "main()", "evaluate")
    assert ran.code == 0 and ("the evaluation", "the script evaluated no model") in said(ran, "evaluate")[1]


TIED = """
import torch
from torch import nn
torch.manual_seed(0)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
        self.head.weight = self.table.weight
    def forward(self, tokens):
        return self.head(self.table(tokens))
small, model = nn.Linear(2, 2), Net().to(torch.bfloat16)
optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (small, model)]
for step in range(3):
    small(torch.randn(2, 2)).sum().backward()
    nn.functional.cross_entropy(model(torch.arange(5)), torch.arange(5)).backward()
    for optimizer in optimizers: optimizer.step(); optimizer.zero_grad()
with torch.no_grad():
    print(nn.functional.cross_entropy(model(torch.arange(5)).float(), torch.arange(5)).item())
"""


def test_shared_tensors_and_the_larger_of_two_models(run: Run, tmp_path: Path) -> None:
    first = run(TIED, "keep-weights")
    about = kept(tmp_path)
    assert about["model"] == "Net" and about["tied"] == [["head.weight", "table.weight"]]
    assert [(part["name"], part["dtype"]) for part in about["tensors"]] == [("table.weight", "bfloat16")]
    ran = run(TIED, "start=../run0/weights.safetensors", "evaluate")
    assert ran.lines == first.lines, ran.err
    ((what, why),) = said(ran, "start")[1]
    assert what == "Linear" and why.startswith("weights.safetensors has the weights of another model: table.weight")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("state.pop('head.bias')", "saved.pt does not have head.bias (Net)"),
        (
            "state['tail.weight'] = state['head.bias']",
            "saved.pt has too many weights for this model: tail.weight (Net)",
        ),
        ("state['head.bias'] = torch.zeros(7)", "head.bias has the shape [7] in saved.pt, and [3] in Net"),
        ("state = [1, 2]", "saved.pt holds no weights: neither tensors by name, nor such under model, state_dict"),
        ("state = {'model': Net()}", "saved.pt cannot be read as weights: UnpicklingError"),
    ],
)
def test_files_that_do_not_fit_are_refused(run: Run, change: str, sentence: str) -> None:
    script = changed(
        PLAIN, ("# end", f"state = dict(model.state_dict()); {change}"), ('(model.state_dict(), "../', '(state, "../')
    )
    assert run(script).code == 0
    for override in ("start=../saved.pt", "distil=../saved.pt"):
        stopped(run(PLAIN, override), sentence)


def test_files_that_are_not_there_or_damaged(run: Run, tmp_path: Path) -> None:
    stopped(run(PLAIN, "start=nowhere.pt"), 'there is no file "nowhere.pt"; start wants one with weights')
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 40)
    stopped(run(PLAIN, "start=../bad.safetensors"), "it is no .safetensors file")
    (tmp_path / "bad.wfz").write_bytes(b"\xff" * 40)
    assert run(PLAIN, "start=../bad.wfz").code == 2


def test_copies_keep_what_they_have(run: Run) -> None:
    script = changed(
        PLAIN,
        ("# epoch", "best = copy.deepcopy(model); other = Net(); other.load_state_dict(model.state_dict()); "
                    "a, b, c = (m.eval()(x) for m in (model, best, other)); print([a.equal(b), a.equal(c)])"),
    )  # fmt: skip
    run(PLAIN)
    ran = run(script, "start=../saved.pt")
    assert [line for line in ran.lines if line.startswith("[")] == ["[True, True]"] * 3, ran.err
