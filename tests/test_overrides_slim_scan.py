"""The override scan: it sees what each layer matters, and leaves no trace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from overridden import run

SCRIPT = """
import torch
import torch.nn.functional as F
from torch import nn
torch.manual_seed(0)
x = torch.randn(256, 20)
y = (x @ torch.randn(20, 4)).argmax(1)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(20, 32)
        self.norm = nn.BatchNorm1d(32)
        self.drop = nn.Dropout(0.2)
        self.idle = nn.Linear(32, 32)
        self.head = nn.Linear(32, 4)
        self.calls = 0
    def forward(self, x):
        self.calls += 1
        h = torch.relu(self.norm(self.first(x)))
        return self.head(self.drop(h + 1e-4 * self.idle(h)))
model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(30):
    optimizer.zero_grad()
    F.cross_entropy(model(x[:128]), y[:128]).backward()
    optimizer.step()
    if step % 10 == 9:
        #mode
        with torch.no_grad():
            for rows in torch.arange(128, 256).split(32):
                right = model(x[rows]).argmax(1) == y[rows]
        model.train()
print([float(p.double().sum()) for p in model.state_dict().values()], model.calls, float(torch.rand(())))
"""


@pytest.mark.parametrize("mode", ["model.eval()", "pass"])
def test_layers_are_seen_and_the_run_is_as_without(tmp_path: Path, mode: str) -> None:
    script = SCRIPT.replace("#mode", mode)
    for name in ("plain", "scanned"):
        (tmp_path / name).mkdir()
    plain = run(tmp_path / "plain", script)
    ran = run(tmp_path / "scanned", script, "scan=layers.json")
    assert ran.code == plain.code == 0, ran.err
    assert ran.out == plain.out
    told = json.loads((tmp_path / "scanned" / "layers.json").read_text())
    layers = {layer["name"]: layer for layer in told["layers"]}
    assert list(layers) == ["first.weight", "idle.weight", "head.weight"]
    assert (told["model"], told["rows"]) == ("Net", 128)
    for layer in layers.values():
        assert [amount for amount, *_ in layer["prune"]] == [0.8, 0.5, 0.95]
        assert [count for count, *_ in layer["share"]] == [16, 4]
    errors = {name: [error for _, error, _ in layer["prune"]] for name, layer in layers.items()}
    assert max(errors["idle.weight"]) < 1e-2 < min(errors["first.weight"])
    assert errors["first.weight"][1] < errors["first.weight"][0] < errors["first.weight"][2]
    assert layers["idle.weight"]["prune"][2][2] > 0.99
    assert ran.record is not None
    seen = next(entry for entry in ran.record.overrides.values() if entry.name == "scan")
    assert "3 layers of Net" in seen.changed[0]


def test_a_script_that_never_evaluates_is_left_alone(tmp_path: Path) -> None:
    ran = run(tmp_path, SCRIPT.partition("    if step % 10")[0], "scan=layers.json")
    assert ran.code == 0, ran.err
    assert not (tmp_path / "layers.json").exists()


def test_a_model_without_layers_is_told(tmp_path: Path) -> None:
    script = SCRIPT.replace("model = Net()", "model = nn.BatchNorm1d(20)").replace("model.calls, ", "")
    ran = run(tmp_path, script, "scan=layers.json")
    assert ran.code == 0, ran.err
    assert json.loads((tmp_path / "layers.json").read_text())["layers"] == []


@pytest.mark.parametrize("overrides", [["scan=layers.json"], ["scan=layers.json", "evaluate"]])
def test_a_model_that_is_gone_when_the_program_ends(tmp_path: Path, overrides: list[str]) -> None:
    """Evaluated last, in a function: nobody but us holds it when the evaluation is known to be over."""
    body, after = (
        SCRIPT.partition("model = Net()")[0],
        """
def main():
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    F.cross_entropy(model(x[:128]), y[:128]).backward()
    optimizer.step()
    with torch.no_grad():
        right = model(x[128:]).argmax(1) == y[128:]
main()
""",
    )
    ran = run(tmp_path, body + after, *overrides)
    assert ran.code == 0 and "Traceback" not in ran.err, ran.err
    assert json.loads((tmp_path / "layers.json").read_text())["model"] == "Net"
