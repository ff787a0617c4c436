"""When a run under overrides is ended, and when it goes on with a word about it."""

from __future__ import annotations

from pathlib import Path

import pytest
from overridden import Run
from overridden import run as run_whole
from stepped import SGD, STEP, by_hand, changed
from written import said

# A script that catches everything ------------------------------------------------------------------------------------

CATCHING = """
import torch
from torch import nn
torch.manual_seed(0)
model = nn.Linear(4, 1)
start = model.weight.detach().clone()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for step in range(4):
    try:
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
        print("trained")
    except:
        print("bad batch")
print(torch.equal(start, model.weight))
"""
BY_HAND = CATCHING.replace("optimizer = torch.optim.SGD(model.parameters(), lr=0.01)", "weight = model.weight").replace(
    "optimizer.zero_grad()", "pass").replace("optimizer.step()", "weight.data -= 0.01 * weight.grad")  # fmt: skip


@pytest.mark.parametrize("script", [CATCHING, BY_HAND], ids=["optimizer", "by hand"])
def test_a_script_that_catches_everything_trains_nothing(run: Run, script: str) -> None:
    ran = run(script, "zero-input", "no-clip")
    assert ran.lines == ["bad batch"] * 4 + ["True"]
    assert ran.err.count("--override no-clip found nothing to change") == 1
    assert ran.err.count("nothing was trained") == 1


# What cannot be trained with -----------------------------------------------------------------------------------------

SPARSE = """
import torch
from torch import nn
torch.manual_seed(0)
table, head = nn.Embedding(10, 4, sparse=True), nn.Linear(4, 2)
one, two = torch.optim.SGD(head.parameters(), lr=0.1), torch.optim.SparseAdam(table.parameters(), lr=0.1)
for step in range(3):
    tokens = torch.randint(0, 10, (8,))
    one.zero_grad(); two.zero_grad()
    nn.functional.cross_entropy(head(table(tokens)), tokens % 2).backward()
    one.step(); print("one")
    two.step(); print("two")
"""
CLOSED = """
import torch
from torch import nn
torch.manual_seed(0)
model, bias = nn.Linear(4, 1), nn.Parameter(torch.zeros(1))
one, two = torch.optim.Adam(model.parameters(), lr=0.1), torch.optim.SGD([bias], lr=0.1)
def closure():
    one.zero_grad(); two.zero_grad()
    loss = (model(torch.ones(8, 4)) + bias - 1).square().mean()
    loss.backward()
    return loss
for step in range(3):
    one.step(closure); print("one")
    two.step(); print("two")
"""


def test_an_optimizer_that_cannot_step_second_is_met_at_the_first_step(run: Run) -> None:
    ran = run(SPARSE, "optimizer=adam")
    assert (ran.code, ran.lines) == (2, []) and "Traceback" not in ran.err
    assert "the gradient of weight is sparse, and Adam takes none; nothing was trained" in ran.err.replace("table.", "")


def test_an_optimizer_that_turns_out_not_to_step_ends_the_run(run: Run) -> None:
    ran = run(CLOSED, "optimizer=lbfgs")
    assert (ran.code, ran.lines) == (2, ["one"]) and "Traceback" not in ran.err
    assert "the script gives step no closure; the script cannot go on, and was stopped at step 1" in ran.err
    assert said(ran, "optimizer")[1] == [
        ("from step 1 on", "cannot be applied: LBFGS computes the loss several times in a step, and the script gives "
         "step no closure")
    ]  # fmt: skip
    caught = CLOSED.replace("    two.step();", "    try:\n        two.step()\n    except:\n        pass\n   ")
    ran = run(caught, "optimizer=lbfgs")
    assert ran.code == 2 and ran.lines == ["one", "two"]  # and not a step more
    assert ran.err.count("cannot go on") == 1


REPLACES = """
from wellfit.overrides.optimizer.optimizer import SwapOptimizer

def fails(self, program, optimizer):
    raise ValueError("no more")
"""


def test_an_optimizer_that_was_replaced_keeps_its_rate_where_the_override_is_left_out(run: Run) -> None:
    script = changed(
        (SGD, "torch.optim.SGD(weights, lr=0.1); late = torch.optim.SGD(vectors, lr=0.1)"),
        ("# made", REPLACES),
        ("    # after\n",
         "    if step == 3:\n        SwapOptimizer.replace_optimizer = fails\n"
         "        torch.optim.SGD(weights, lr=1.0)\n    if step > 3:\n        late.step()\n"),
    )  # fmt: skip
    ran = run(script, "optimizer=adam")
    hand = by_hand(
        ("torch.optim.SGD(weights, lr=0.1)", "torch.optim.Adam(weights, lr=0.1 * (0.001 / 0.1))"),
        ("torch.optim.SGD(vectors, lr=0.1)", "torch.optim.Adam(vectors, lr=0.1 * (0.001 / 0.1))"),
        (REPLACES, ""), ("SwapOptimizer.replace_optimizer = fails", "pass"),
        script=script,
    )  # fmt: skip
    assert ran.err.count("failed at replace_optimizer (ValueError: no more); the script goes on without it") == 1
    assert ran.lines == hand


# What is not seen ----------------------------------------------------------------------------------------------------

GRADIENTS = """
import torch
torch.manual_seed(0)
x = torch.randn(64, 4)
w = torch.zeros(4, requires_grad=True)
for step in range(3):
    loss = (x @ w - x.sum(1)).square().mean()
    w = (w - 0.1 * torch.autograd.grad(loss, [w])[0]).detach().requires_grad_()
print("trained")
"""


@pytest.mark.parametrize(
    "script",
    [
        GRADIENTS,
        changed((STEP, "    for p in model.parameters(): p.data -= 0.1 * p.grad\n")),
        "import torch\ndef train():\n    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)\ntrain()",
    ],
    ids=["autograd.grad", "never stepped", "made only"],
)
def test_weights_that_are_changed_unseen(run: Run, script: str) -> None:
    ran, plain = run(script, "lr=0.01", "clip-norm=1"), run(script)
    assert ran.code == 0 and ran.lines == plain.lines
    why = "found nothing to change: the script steps no optimizer"
    assert [line for line in ran.err.splitlines() if "override" in line] == [
        f"wellfit: --override {text} {why}; the script ran without it" for text in ("clip-norm=1.0", "lr=0.01")
    ]
    if plain.record is not None and plain.record.step_count:
        assert said(ran, "lr") == ([], [("the whole run", why)])


ALREADY = {
    "optimizer=sgd": ("SGD at train.py:12", "it is sgd already"),
    "activation=relu": ("2", "it is relu already"),
    "precision=float32": ("Sequential at train.py:17", "it computes in float32"),
    "device=auto": ("Sequential at train.py:17", "it is on cpu already"),
    "width=1": ("0", "8 units times 1 are as many again"),
}


@pytest.mark.parametrize("override", ALREADY)
def test_what_is_as_asked_already_stops_no_run(run: Run, override: str) -> None:
    script = changed(("momentum=0.5", "momentum=0"))
    ran = run(script, override)
    assert ran.code == 0 and ran.lines == run(script).lines
    name = override.partition("=")[0]
    changes, omissions = said(ran, name)
    assert not changes and ALREADY[override] in omissions


SHORTER = {
    "warmup=30": ("the rest of it", "the run ended after 12 steps"),
    "schedule=cosine,steps:30": ("the rest of it", "the run ended after 12 steps"),
    "accumulate=30": ("every step", "the run ended before the script had made 30"),
    "ema=0.9": ("all of it", "no model was evaluated"),
    "stop-after=30": ("the end", "the program ended by itself after step 12"),
}


@pytest.mark.parametrize("override", SHORTER)
def test_what_the_run_was_too_short_for_is_said(run: Run, override: str) -> None:
    name = override.partition("=")[0]
    assert SHORTER[override] in said(run(changed(), override), name)[1]


@pytest.mark.parametrize("override", ["warmup=6", "schedule=cosine,steps:12", "accumulate=4", "stop-after=12"])
def test_what_the_run_was_long_enough_for(run: Run, override: str) -> None:
    assert said(run(changed(), override), override.partition("=")[0])[1] == []


def test_a_run_that_was_refused_says_so_in_its_record(tmp_path: Path) -> None:
    ran = run_whole(tmp_path, changed(), "no-clip")
    assert ran.code == 2 and ran.record is not None
    (left,) = ran.record.overrides[0].left_out
    assert left[0] == "the whole run" and left[1].startswith("found nothing to change by the first step")


@pytest.mark.parametrize("script", ["import torch\nprint(torch.ones(1) + 1)", "import torch\nraise SystemExit(3)"])
def test_nothing_is_said_where_nothing_is_trained(run: Run, script: str) -> None:
    assert run(script, "lr=0.01").err == ""


def test_a_script_that_fails_before_its_first_step_says_that_alone(tmp_path: Path) -> None:
    script = changed(("loss.backward()", "raise ValueError('no')"))
    ran = run_whole(tmp_path, script, "lr=0.01")
    assert ran.code == 1 and "ValueError: no" in ran.err and "ran without it" not in ran.err
