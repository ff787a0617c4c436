"""The probe keeps nothing of the program's alive, and remembers what is gone."""

from __future__ import annotations

from overridden import Run

TRAIN = """
import gc, weakref
import torch
from torch import nn

def train(parameters, steps=6):
    optimizer = torch.optim.Adam(list(parameters), 0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
    return weakref.ref(optimizer)
"""


def test_models_and_optimizers_are_freed_as_ever(run: Run) -> None:
    ran = run(
        TRAIN
        + """
references = []
for _ in range(20):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    references += [weakref.ref(parameter) for parameter in model.parameters()]
    references.append(train(model.parameters()))
del model
gc.collect()
print(sum(reference() is not None for reference in references))
"""
    )
    assert (ran.code, ran.lines) == (0, ["0"]), ran.err
    assert ran.record is not None
    assert ran.record.step_count == 120
    assert len(ran.record.optimizers) == 20


def test_a_model_that_outlives_its_optimizer_was_held_by_it(run: Run) -> None:
    ran = run(TRAIN + "model = nn.Linear(4, 1)\nassert train(model.parameters())() is None\nmodel(torch.randn(2, 4))")
    assert ran.record is not None, ran.err
    assert {name: parameter.optimizer for name, parameter in ran.record.parameters.items()} == {"weight": 0, "bias": 0}


def test_an_optimizer_that_took_over_some_parameters_replaces_the_one_before(run: Run) -> None:
    ran = run(TRAIN + "model = nn.Linear(4, 1)\ntrain(model.parameters())\ntrain([model.bias])")
    assert ran.record is not None, ran.err
    assert {name: parameter.optimizer for name, parameter in ran.record.parameters.items()} == {
        "weight": None,
        "bias": 1,
    }


def test_optimizers_of_two_models_are_both_remembered(run: Run) -> None:
    ran = run(
        TRAIN
        + """
kept = []
for _ in range(2):
    model = nn.Linear(4, 1)
    kept.append(model)
    train(model.parameters())
"""
    )
    assert ran.record is not None, ran.err
    assert {parameter.optimizer for parameter in ran.record.parameters.values()} == {0, 1}


def test_a_model_that_is_used_by_methods_of_its_own_has_its_names_from_the_first_step(run: Run) -> None:
    ran = run("""
import torch
from torch import nn

class Energy(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3))

    def forward(self, x):
        return x @ self.weight

    def energy(self, x):
        return (x @ self.weight).square().mean()

head = nn.Linear(4, 2)
head(torch.randn(2, 4))
model = Energy()
optimizer = torch.optim.SGD(model.parameters(), 0.01)
for _ in range(6):
    optimizer.zero_grad()
    model.energy(torch.randn(8, 4)).backward()
    optimizer.step()
model(torch.randn(2, 4))
""")
    assert ran.record is not None, ran.err
    assert ran.record.subjects("update") == ["model.weight"]
    assert ran.record.parameters["model.weight"].optimizer == 0


FORWARD_ONLY = """
import gc, torch
from torch import nn
model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))

def alive():
    gc.collect()
    return sum(isinstance(one, torch.Tensor) and one.grad_fn is not None for one in gc.get_objects())

for _ in range(50):
    loss = model(torch.randn(8, 4)).square().mean()
print(alive() < 10)
optimizer = torch.optim.SGD(model.parameters(), 0.01)
for _ in range(50):
    optimizer.zero_grad()
    loss = model(torch.randn(8, 4)).square().mean()
    loss.backward()
    optimizer.step()
print(alive() < 10)
with torch.no_grad():
    model(torch.randn(8, 4))
"""


def test_graphs_of_forward_passes_that_no_backward_follows_are_freed_as_ever(run: Run) -> None:
    assert run(FORWARD_ONLY).lines == ["True", "True"]


def test_graphs_are_freed_where_an_override_leaves_backward_out(run: Run) -> None:
    assert run(FORWARD_ONLY, "evaluate").lines == ["True", "True"]
