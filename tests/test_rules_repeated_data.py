"""Where the text of a program, and the loaders it ran, say that random numbers repeat themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from wellfit.finding import Finding
from wellfit.rules.data.repeated_data import RepeatedData
from wellfit.testing import MadeRun

KEPT = """
class Noisy(Dataset):
    def __init__(self):
        self.random = np.random.default_rng(0)  # ill

    def __getitem__(self, index):
        return self.random.normal(size=8)


data = Noisy()
loader = DataLoader(data, batch_size=8, num_workers=2)
optimizer = SGD()
for epoch in range(3):
    for x in loader:
        loss.backward()
"""

LOOP = """
optimizer = SGD()
for epoch in range(3):
    for x in data:
        torch.manual_seed(0)  # ill
        loss.backward()
"""


def judged(folder: Path, text: str, workers: int = 2) -> list[Finding]:
    script = folder / "train.py"
    script.write_text(text)
    lines = text.splitlines()

    def place(word: str) -> dict[str, object] | None:
        at = next((number for number, line in enumerate(lines, 1) if word in line), None)
        return None if at is None else {"file": str(script), "line": at}

    (folder / "run").mkdir()
    made = MadeRun(folder / "run")
    made.declare("process", rank=0, main_file=str(script))
    made.declare("optimizer", id=0, **{"class": "SGD"}, location=place("SGD("), groups=[], parameters=[])
    if "DataLoader(" in text:
        made.declare("loader", id=0, location=place("DataLoader("), batch_size=8, num_workers=workers)
    for _ in range(5):
        made.step(2.3)
    found = list(RepeatedData().check(made.record()))
    assert all("# ill" in lines[one.location.line - 1] for one in found if one.location is not None)
    return found


ILL = {
    "a kept generator": KEPT,
    "made in the call": KEPT.replace("DataLoader(data,", "DataLoader(Noisy(),"),
    "of unknown data": KEPT.replace("data = Noisy()", "data = build"),
    "by a method of its own": KEPT.replace("__getitem__(self, index)", "noise(self)").replace(
        "\n\ndata =", "\n    def __getitem__(self, index):\n        return self.noise()\n\n\ndata ="
    ),
    "by RandomState": KEPT.replace("default_rng(0)", "RandomState(1)"),
    "by torch": KEPT.replace("np.random.default_rng(0)", "torch.Generator().manual_seed(0)"),
    "of workers": KEPT.replace("  # ill", "").replace(
        "num_workers=2)", "num_workers=2, worker_init_fn=lambda id: np.random.seed(0))  # ill"
    ),
    "of each sample": KEPT.replace("self.random = np.random.default_rng(0)  # ill", "pass").replace(
        "        return self.random", "        np.random.seed(0)  # ill\n        return np.random"
    ),
    "of each step": LOOP,
    "of each step, numpy": LOOP.replace("torch.manual_seed", "np.random.seed"),
}
FINE = {
    "another class holds it": KEPT.replace("data = Noisy()", "data = TensorDataset(x)"),
    "workers are seeded": KEPT.replace("num_workers=2)", "num_workers=2, worker_init_fn=seeded)"),
    "by the worker's id": KEPT.replace("default_rng(0)", "choice").replace(
        "num_workers=2)", "num_workers=2, worker_init_fn=lambda id: np.random.seed(id))"
    ),
    "never drawn from": KEPT.replace("self.random.normal(size=8)", "np.random.normal(size=8)"),
    "drawn from at the start only": KEPT.replace("__getitem__(self, index)", "build(self)").replace(
        "\n\ndata =", "\n    def __getitem__(self, index):\n        return index\n\n\ndata ="
    ),
    "a sampler": KEPT.replace("Noisy(Dataset)", "Noisy(Sampler)").replace("__getitem__(self, index)", "__iter__(self)"),
    "by the index": KEPT.replace("self.random = np.random.default_rng(0)", "pass").replace(
        "        return self.random", "        np.random.seed(index)\n        return np.random"
    ),
    "each epoch": LOOP.replace("    for x in data:", "    torch.manual_seed(0)\n    for x in data:").replace(
        "        torch.manual_seed(0)  # ill\n", ""
    ),
    "now and then": LOOP.replace("        torch.manual_seed(0)", "        if x:\n            torch.manual_seed(0)"),
    "by the step": LOOP.replace("manual_seed(0)", "manual_seed(epoch)"),
    "trials": LOOP.replace("optimizer = SGD()\n", "").replace(
        "        loss", "        optimizer = SGD()\n        loss"
    ),
    "of an environment": LOOP.replace("torch.manual_seed(0)", "env.seed(0)"),
    "no Python": "this is none",
}


@pytest.mark.parametrize("name", ILL)
def test_the_same_numbers_again(tmp_path: Path, name: str) -> None:
    assert [one.severity for one in judged(tmp_path, ILL[name])] == ["error"]


@pytest.mark.parametrize("name", FINE)
def test_numbers_that_differ(tmp_path: Path, name: str) -> None:
    assert judged(tmp_path, FINE[name]) == []


def test_without_workers_a_generator_goes_on(tmp_path: Path) -> None:
    assert judged(tmp_path, KEPT, workers=0) == []
