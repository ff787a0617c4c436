"""What stays as the script meant it under overrides: which optimizer steps what, randomness, counts, its exceptions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from forked import Forks
from overridden import Run
from torch import nn
from written import changed, said

from wellfit.overrides.draws import Draws, own_seed
from wellfit.overrides.following import follow_parameters
from wellfit.overrides.nested import mapped

TWO = """
import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(32, 6)
model = nn.ModuleDict({"body": nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)), "head": nn.Linear(6, 1)})
model.forward = lambda x: model["head"](model["body"](x).relu())
# made
for step in range(3):
    loss = model(x).square().mean()
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
names = {id(p): name for name, p in model.named_parameters()}
for optimizer in optimizers:
    print([names[id(p)] for group in optimizer.param_groups for p in group["params"]])
print([name for name, p in model.named_parameters() if not p.requires_grad])
"""
SGD = "torch.optim.SGD({}.parameters(), lr=0.1)"


def names_in(run: Run, made: str, *overrides: str) -> list[list[str]]:
    """What each optimizer holds, and what is frozen."""
    ran = run(changed(TWO, ("# made", made)), *overrides)
    assert ran.code == 0, ran.err
    return [eval(line) for line in ran.lines]


def test_a_new_norm_belongs_to_the_optimizer_of_its_layer(run: Run) -> None:
    body, head = SGD.format("model['body']"), SGD.format("model['head']")
    in_head, in_body, frozen = names_in(run, f"optimizers = [{head}, {body}]", "norm=layer,where:insert")
    assert sum("norm" in name for name in in_body) == 4 and all(name.startswith("body") for name in in_body)
    assert in_head == ["head.weight", "head.bias"] and not frozen


def test_a_frozen_body_stays_frozen_with_its_new_norms(run: Run) -> None:
    head = SGD.format("model['head']")
    held, frozen = names_in(
        run, f"model['body'].requires_grad_(False); optimizers = [{head}]", "norm=layer,where:insert"
    )
    assert held == ["head.weight", "head.bias"]
    assert len(frozen) == 8 and all(name.startswith("body") for name in frozen)


def test_wrapped_optimizers_that_share_their_groups_get_a_parameter_once() -> None:
    root = nn.Sequential(nn.Linear(1, 1, bias=False))
    before = list(root.named_parameters())
    inner, outer = (torch.optim.SGD(root.parameters(), lr=1.0) for _ in range(2))
    outer.param_groups = inner.param_groups
    root[0].add_module("norm", nn.LayerNorm(1))

    follow_parameters(root, before, [inner, outer])

    assert [id(p) for p in inner.param_groups[0]["params"]] == [id(p) for p in root.parameters()]


def test_what_replaces_a_parameter_that_no_optimizer_held_is_held_by_none() -> None:
    root = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    before = list(root.named_parameters())
    optimizer = torch.optim.SGD(root[1].parameters(), lr=1.0)
    root[0] = nn.Linear(1, 1, bias=False)

    follow_parameters(root, before, [optimizer])

    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(root[1].weight)]


# Randomness ---------------------------------------------------------------------------------------------------------

EQUAL = """
import torch
from torch import nn

torch.manual_seed(0)
script = torch.randn(6, 6)
torch.manual_seed(0)
x = torch.randn(32, 6)
model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 1))
members = [nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 1)) for _ in range(2)]
own = model[0].weight.detach().clone()
optimizer = torch.optim.SGD([*model.parameters(), *members[0].parameters(), *members[1].parameters()], lr=0.0)
for step in range(2):
    optimizer.zero_grad()
    (model(x).square().mean() + sum(member(x).square().mean() for member in members)).backward()
    optimizer.step()
weights = [p.detach() for each in (model, *members) for p in each.parameters() if p.dim() == 2 and len(p) > 1]
weights += [own, script]
alike = lambda a, b: a.shape == b.shape and abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) > 0.9
pairs = [(a, b) for i, a in enumerate(weights) for b in weights[:i] if not (a is own and b is weights[0])]
print(sum(map(bool, (alike(a, b) for a, b in pairs))))
print(torch.rand(1).item())
"""


@pytest.mark.parametrize("override", ["activation=maxout", "init=he", "width=2", "init=normal,std:0.1"])
def test_new_weights_are_no_copies_of_others(forks: Forks, tmp_path: Path, override: str) -> None:
    ran, plain = forks.run(tmp_path, EQUAL, override), forks.plain(tmp_path, EQUAL)
    assert ran.code == 0, ran.err
    assert ran.lines == ["0", plain[1]]  # the script's own stream goes on as ever


def test_draws_are_not_those_of_the_script() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        ours = torch.randn(1000, generator=Draws().on())
        script = torch.randn(1000)
    assert abs(float(torch.corrcoef(torch.stack([ours, script]))[0, 1])) < 0.2
    assert Draws().seed == own_seed(torch.initial_seed()) != torch.initial_seed()


def test_initialising_recurrent_layers_leaves_the_probe_on(run: Run) -> None:
    ran = run(
        """
        import torch
        from torch import nn
        models = [nn.LSTM(3, 4), nn.LSTM(3, 4)]
        optimizer = torch.optim.SGD([p for model in models for p in model.parameters()], lr=0.1)
        x = torch.randn(5, 2, 3)
        for step in range(3):
            optimizer.zero_grad()
            sum(model(x)[0].square().mean() for model in models).backward()
            optimizer.step()
        """,
        "init=zeros", "forget-bias=1",
    )  # fmt: skip
    assert ran.code == 0 and "the probe failed" not in ran.err, ran.err
    assert ran.record is not None and ran.record.step_count == 3


# When an override fails ---------------------------------------------------------------------------------------------

LOADED = """
import torch
from torch import nn
from torch.utils.data import DataLoader
from wellfit.overrides.data.one_batch import OneBatch

torch.manual_seed(0)
model = nn.Linear(1, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
loader = DataLoader(torch.arange(8.0).view(8, 1), batch_size=2)
def fails(self, dataset, batches, name):
    self._from_loader = True
    self.changed("something")
    for number, batch in enumerate(batches):
        if number == 2:
            # fails
        yield batch + 100
OneBatch._repeated = fails
for epoch in range(2):
    for batch in loader:
        print(batch.flatten().tolist())
        optimizer.zero_grad()
        model(batch).mean().backward()
        optimizer.step()
"""


def test_batches_go_on_where_an_override_fails_between_them(run: Run) -> None:
    ran = run(changed(LOADED, ("# fails", "raise ValueError('no such batch')")), "one-batch")
    own = [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 7.0]]
    assert ran.code == 0 and [eval(line) for line in ran.lines] == [[100.0, 101.0], [102.0, 103.0], *own[2:], *own]
    assert ran.err.count("no such batch") == 1 and "failed at batches" in ran.err
    assert said(ran, "one-batch")[1] == [("from step 2 on", "failed at batches (ValueError: no such batch)")]


def test_an_error_of_the_data_is_the_scripts(run: Run) -> None:
    script = LOADED.replace("torch.arange(8.0).view(8, 1)", "Data()").replace(
        "model =", "class Data(torch.utils.data.Dataset):\n"
        "    def __len__(self): return 8\n"
        "    def __getitem__(self, i): return torch.full((1,), 8 / (3 - i))\nmodel =", 1
    )  # fmt: skip
    ran = run(changed(script, ("# fails", "pass")), "one-batch")
    assert ran.code == 1 and "ZeroDivisionError" in ran.err and "the script goes on without" not in ran.err


STEPS = """
import torch
from torch import nn
from wellfit.overrides.optimizer.lr import LearningRate

torch.manual_seed(0)
model = nn.Linear(1, 1)
optimizer = torch.optim.SGD([{"params": [model.weight]}, {"params": [model.bias]}], lr=0.5)
original, calls = LearningRate.before_step, []
def before_step(self, program, optimizer):
    original(self, program, optimizer)
    calls.append(1)
    if len(calls) == 3:
        raise # error
LearningRate.before_step = before_step
for step in range(5):
    optimizer.zero_grad()
    model(torch.ones(4, 1)).mean().backward()
    try:
        optimizer.step()
    except KeyboardInterrupt:
        print("stopped")
    print([group["lr"] for group in optimizer.param_groups])
"""


@pytest.mark.parametrize("error", ["ValueError('no')", "KeyboardInterrupt"])
def test_a_rate_comes_back_where_its_change_fails_halfway(run: Run, error: str) -> None:
    ran = run(STEPS.replace("# error", error), "lr=scale:3")
    assert ran.code == 0, ran.err
    assert [line for line in ran.lines if line != "stopped"] == ["[0.5, 0.5]"] * 5
    assert ("goes on without it" in ran.err) == (error != "KeyboardInterrupt")


THREADS = """
import threading
import torch
from torch import nn
from wellfit.overrides.optimizer.zero_grad import ZeroGrad

seen = []
ZeroGrad.before_backward = lambda self, program, loss: seen.append(threading.current_thread().name)
model = nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
class Waits(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 1
    @staticmethod
    def backward(ctx, gradient):
        other = threading.Thread(target=lambda: model(torch.ones(1, 2)).mean().backward(), name="other")
        other.start()
        other.join()
        return gradient
Waits.apply(model(torch.ones(1, 2))).mean().backward()
optimizer.step()
print(seen)
"""


def test_a_backward_pass_is_no_part_of_another_threads(run: Run) -> None:
    ran = run(THREADS, "zero-grad=insert")
    assert ran.lines == ["['MainThread', 'other']"], ran.err


class Pair(tuple[Any, ...]):
    """A tuple that is made of two arguments."""

    def __new__(cls, left: Any, right: Any) -> Pair:
        return super().__new__(cls, (left, right))


def test_a_tuple_that_cannot_be_made_again_is_given_back() -> None:
    pair = Pair(torch.ones(1), torch.ones(1))
    assert mapped(pair, lambda tensor: tensor + 1) is pair


# Counts and what is kept --------------------------------------------------------------------------------------------


def test_steps_of_optimizers_made_anew_in_each_epoch_count_on(run: Run) -> None:
    ran = run(
        """
        import torch
        from torch import nn
        model = nn.Linear(2, 1)
        for epoch in range(100):
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for step in range(4):
                print(epoch * 4 + step)
                optimizer.zero_grad()
                model(torch.ones(3, 2)).mean().backward()
                optimizer.step()
        """,
        "stop-after=10",
    )  # fmt: skip
    assert ran.code == 0 and len(ran.lines) in (10, 11) and "stopped after step 10" in ran.err


def test_a_held_target_belongs_to_its_model(run: Run) -> None:
    ran = run(
        """
        import torch
        from torch import nn
        models = [nn.Linear(2, 1), nn.Linear(2, 3)]
        optimizers = [torch.optim.SGD(model.parameters(), lr=0.01) for model in models]
        for step in range(3):
            for model, optimizer, size in zip(models, optimizers, (1, 3)):
                optimizer.zero_grad()
                loss = nn.functional.mse_loss(model(torch.randn(4, 2)), torch.full((4, size), float(size)))
                loss.backward()
                optimizer.step()
        print("ended")
        """,
        "one-batch",
    )  # fmt: skip
    assert ran.code == 0 and ran.lines == ["ended"] and "Using a target size" not in ran.err, ran.err


@pytest.mark.parametrize("override", ["freeze=0.*", "mode=correct", "shuffle-labels=1"])
def test_nothing_keeps_models_and_batches_alive(run: Run, override: str) -> None:
    ran = run(
        """
        import gc, weakref
        import torch
        from torch import nn

        def train():
            model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1), nn.Linear(2, 2)).eval()
            optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
            for step in range(3):
                x = torch.randn(4, 2)
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x), torch.tensor([0, 1, 0, 1])).backward()
                optimizer.step()
            if "shuffle" not in OVERRIDE:
                model(x)
            return [weakref.ref(model), weakref.ref(model[0].weight), weakref.ref(x)]

        for round in range(2):
            references = train()
            gc.collect()
            print([reference() is None for reference in references])
        """.replace("OVERRIDE", repr(override)),
        override,
    )
    assert ran.code == 0 and ran.lines[0] == ran.lines[1] == "[True, True, True]", (ran.out, ran.err)
    if override.startswith("mode"):
        assert any("train mode from the second pass on" in what for what in said(ran, "mode")[0])
