"""The overrides of optimizers, each against the same change written into the script by hand: to the bit."""

from __future__ import annotations

import contextlib
import functools
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
import torch
from forked import Forks
from overridden import Ran

from wellfit.catalogue import known_rules
from wellfit.errors import WellfitError
from wellfit.overrides.catalogue import parse

SCRIPT = """
import copy
import math
import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(64, 6)
y = (x[:, 0] + x[:, 1] > 0).long()
model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 2))
weights, vectors = [p for p in model.parameters() if p.dim() > 1], [p for p in model.parameters() if p.dim() < 2]
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
# made
for step in range(12):
    rows = slice(step % 4 * 16, step % 4 * 16 + 16)
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
    loss.backward()
    # before
    optimizer.step()
    # after
    print(loss.item().hex())
print([float(p.detach().double().sum()).hex() for p in model.parameters()])
"""
SGD = "torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)"
ZERO = "    optimizer.zero_grad()\n"
STEP = "    optimizer.step()\n"


class Run(Protocol):
    """Runs a script under overrides."""

    def __call__(self, script: str, *overrides: str) -> Ran: ...


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks() as server:
        yield server


@pytest.fixture
def run(forks: Forks, tmp_path: Path) -> Run:
    return functools.partial(forks.run, tmp_path)


def found(ran: Ran) -> set[str]:
    """The rules that find something in the record."""
    assert ran.record is not None, ran.err
    return {finding.rule for rule in known_rules()[0] for finding in rule().check(ran.record)}


def changed(*pairs: tuple[str, str], script: str = SCRIPT) -> str:
    """The script with pieces of it replaced; lines for its places are given as ("# before", "one; two")."""
    for old, new in pairs:
        assert old in script
        if old.startswith("#"):
            indent = "" if old == "# made" else "    "
            new = f"\n{indent}".join(new.split("; "))
        script = script.replace(old, new)
    return script


def by_hand(*pairs: tuple[str, str], script: str = SCRIPT) -> list[str]:
    """What the changed script prints, run in this process."""
    threads, out = torch.get_num_threads(), io.StringIO()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(), contextlib.redirect_stdout(out):
            exec(compile(changed(*pairs, script=script), "train.py", "exec"), {"__name__": "__main__"})
    finally:
        torch.set_num_threads(threads)
    return out.getvalue().splitlines()


def said(ran: Ran, name: str) -> tuple[list[str], list[tuple[str, str]]]:
    """What an override says it changed and left out."""
    assert ran.record is not None, ran.err
    entry = next(entry for entry in ran.record.overrides.values() if entry.name == name)
    return list(entry.changed), list(entry.left_out)


def hyper(ran: Ran, name: str, steps: int = 12) -> list[float]:
    """An option of the first optimizer in each step, as recorded."""
    assert ran.record is not None, ran.err
    return [round(float(value), 7) for value in ran.record.hyper(name, 0).at(list(range(steps)))]


# Rates --------------------------------------------------------------------------------------------------------------

SET = "for g in optimizer.param_groups: g['lr'] = "


def test_warmup_is_the_factor_written_by_hand(run: Run) -> None:
    ran = run(SCRIPT, "warmup=5,start:0.1")
    assert ran.lines == by_hand(("# before", SET + "0.1 * (0.1 + (1 - 0.1) * step / 5 if step < 5 else 1)"))
    assert hyper(ran, "lr")[:7] == pytest.approx([0.01, 0.028, 0.046, 0.064, 0.082, 0.1, 0.1], rel=1e-6)
    assert said(ran, "warmup") == (["SGD at train.py:12: lr from 10 % to 100 % over the first 5 steps"], [])


def test_rates_compose_and_the_script_reads_its_own(run: Run) -> None:
    """schedule replaces the script's scheduler, lr and warmup multiply; an optimizer that is made anew goes on."""
    script = changed(
        ("    loss.backward()\n", "    loss.backward()\n    if step == 6:\n        make()\n"),
        ("# made", "scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)"),
        ("# after", "scheduler.step(); print(optimizer.param_groups[0]['lr'])"),
        (f"optimizer = {SGD}\n", ""),
        ("scheduler = ", f"def make():\n    global optimizer, scheduler\n    optimizer = {SGD}\n    scheduler = "),
        ("for step in", "make()\nfor step in"),
    )
    ran = run(script, "warmup=4,start:0.5", "lr=0.05", "schedule=cosine,steps:8,floor:0.2")
    cosine = "(0.2 + 0.8 * (1 + math.cos(math.pi * min(step / 8, 1.0))) / 2)"
    rate = f"0.1 * {cosine} * 0.5 * (0.5 + 0.5 * step / 4 if step < 4 else 1)"
    hand = by_hand(
        ("    optimizer.step()\n", f"    kept = optimizer.param_groups[0]['lr']\n    {SET}{rate}\n"
         f"    optimizer.step()\n    {SET}kept\n"),
        script=script,
    )  # fmt: skip
    assert ran.lines == hand
    expected = [
        0.05 * (0.2 + 0.8 * (1 + math.cos(math.pi * min(k / 8, 1))) / 2) * min(0.5 + k / 8, 1) for k in range(7)
    ]
    assert hyper(ran, "lr", 6) == pytest.approx(expected[:6], rel=1e-5)
    where = "SGD at train.py:14"
    assert said(ran, "schedule")[0] == [f"{where}: lr 0.1 -> 0.02 in 8 steps, cosine"]
    assert said(ran, "lr")[0] == [f"{where}: lr 0.1 -> 0.05"]  # once, though it is made twice


def test_constant_undoes_a_schedule_by_hand(run: Run) -> None:
    script = changed(("# before", SET + "0.1 * (step + 1) / 12"))
    ran = run(script, "schedule=constant")
    assert ran.lines == by_hand()
    assert said(ran, "schedule")[0] == ["SGD at train.py:12: lr 0.1, constant"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("schedule=linear,steps:4,floor:0.2", [1, 0.8, 0.6, 0.4, 0.2, 0.2]),
        ("schedule=step,steps:4", [1, 1, 0.1, 0.01, 0.01, 0.01]),
        ("schedule=step,steps:4,floor:0.05", [1, 1, 0.1, 0.05, 0.05, 0.05]),
        ("schedule=exponential,steps:4", [1, 0.01**0.25, 0.1, 0.01**0.75, 0.01, 0.01]),
        ("schedule=cosine,steps:2", [1, 0.5, 0, 0, 0, 0]),
        ("schedule=constant", [1] * 6),
    ],
)
def test_courses(text: str, expected: list[float]) -> None:
    (schedule,) = parse([text])
    assert [schedule.factor(step) for step in range(6)] == pytest.approx(expected)  # type: ignore[attr-defined]


def test_momentum_of_sgd_and_beta_of_adam(run: Run) -> None:
    adam = "torch.optim.Adam([vectors[0]], lr=0.01, betas=(0.8, 0.99))"
    script = changed(
        (SGD, "torch.optim.SGD(weights, lr=0.1, momentum=0.5)"),
        ("# made", f"adam = {adam}; cycle = torch.optim.lr_scheduler.CyclicLR(optimizer, 0.05, 0.1, 3)"),
        ("# before", "adam.step(); adam.zero_grad()"),
        ("# after", "cycle.step()"),
    )
    ran = run(script, "momentum=0.7")
    seven = "for g in optimizer.param_groups: g['momentum'] = 0.7"
    assert ran.lines == by_hand(("betas=(0.8", "betas=(0.7"), (STEP, f"    {seven}\n{STEP}"), script=script)
    assert set(hyper(ran, "momentum")[2:]) == {0.7}
    # The scheduler has set 0.9 by then.
    assert said(ran, "momentum")[0] == [
        "Adam at train.py:13: beta1 0.8 -> 0.7", "SGD at train.py:12: momentum 0.9 -> 0.7"
    ]  # fmt: skip


# Gradients ----------------------------------------------------------------------------------------------------------


def test_penalty_and_bounds_act_in_the_order_of_their_ranks(run: Run) -> None:
    ran = run(SCRIPT, "clip-norm=0.3", "clip-value=0.05", "l1=0.01")
    hand = by_hand(
        ("# before", "[p.grad.add_(p.detach().sign(), alpha=0.01) for p in weights]; "
         "nn.utils.clip_grad_value_(model.parameters(), 0.05); nn.utils.clip_grad_norm_(model.parameters(), 0.3)")
    )  # fmt: skip
    assert ran.lines == hand
    assert said(ran, "l1") == (["SGD at train.py:12: L1 penalty 0.01 on 2 weights"], [])
    assert "at most 0.05" in said(ran, "clip-value")[0][0]


@pytest.mark.parametrize("zero", ["before", "after"])
def test_accumulation_is_the_mean_of_micro_batches(run: Run, zero: str) -> None:
    """Wherever the script clears."""
    script = SCRIPT if zero == "before" else changed((ZERO, ""), ("# after", "optimizer.zero_grad()"))
    ran = run(script, "accumulate=3")
    hand = by_hand(
        (ZERO, "    if step % 3 == 0:\n        optimizer.zero_grad()\n"),
        (
            STEP,
            "    if step % 3 == 2:\n        [p.grad.div_(3) for p in model.parameters()]\n        optimizer.step()\n",
        ),
    )
    assert ran.lines == hand
    assert said(ran, "accumulate")[0] == ["SGD at train.py:12: one step for 3 of the script's"]
    assert not found(ran)  # clearing in between is out of the probe's sight
    assert ran.record is not None and len(ran.record.steps) == 4


def test_accumulation_leaves_out_what_other_losses_gave(run: Run) -> None:
    """Another loss reaches the parameters between two steps, as a generator's reaches the discriminator's."""
    script = changed(("# after", "(10 * model(x[:8]).square().mean()).backward()"))
    ran = run(script, "accumulate=2")
    hand = by_hand(
        (
            STEP,
            "    if step % 2 == 0:\n        first = [p.grad.clone() for p in model.parameters()]\n"
            "    else:\n        [p.grad.add_(g).div_(2) for p, g in zip(model.parameters(), first)]\n"
            "        optimizer.step()\n",
        ),
        script=script,
    )
    assert ran.lines == hand


def test_accumulation_refuses_a_closure(run: Run) -> None:
    script = changed(("optimizer.step()", "optimizer.step(lambda: loss)"))
    ran = run(script, "accumulate=2")
    assert (ran.code, ran.lines) == (2, [])
    assert "SGD at train.py:12 is given a closure" in ran.err and "nothing was trained" in ran.err


def test_missing_clearing_is_put_in(run: Run) -> None:
    ran = run(changed((ZERO, "")), "zero-grad=insert")
    assert ran.lines == by_hand()
    assert not found(ran) and said(ran, "zero-grad")[1] == []
    tidy = run(changed((ZERO, "    model.zero_grad()\n")), "zero-grad=insert")
    assert tidy.lines == by_hand()
    assert said(tidy, "zero-grad")[1] == [("SGD at train.py:12", "the script clears its gradients itself")]


def test_clearing_done_wrong_is_found(run: Run) -> None:
    ran = run(changed((ZERO, "    optimizer.zero_grad()\n    model.zero_grad()\n")), "zero-grad=skip")
    assert ran.lines == by_hand((ZERO, ""))
    assert found(ran) == {"stale-grad"}
    ran = run(SCRIPT, "zero-grad=before-step")
    assert ran.lines == by_hand(("# before", "optimizer.zero_grad()"))
    assert "extra-zero" in found(ran)


# Weights ------------------------------------------------------------------------------------------------------------

SPLIT = "torch.optim.{}([{{'params': weights, 'weight_decay': {}}}, {{'params': vectors, 'weight_decay': 0}}], {})"
SGD_REST = "lr=0.1, momentum=0.5"


@pytest.mark.parametrize(
    ("text", "own", "hand", "kind"),
    [
        ("weight-decay=0.1", SGD, SPLIT.format("SGD", 0.1, SGD_REST), "coupled"),
        ("weight-decay=0.1,all:on", SGD, SGD.replace("lr", "weight_decay=0.1, lr"), "coupled"),
        (
            "weight-decay=0.1,kind:coupled", "torch.optim.AdamW(model.parameters())",
            SPLIT.format("Adam", 0.1, "lr=0.001"), "coupled",
        ),
        (
            "weight-decay=0.1,kind:decoupled", "torch.optim.Adam(model.parameters(), weight_decay=0.5)",
            SPLIT.format("AdamW", 0.1, "lr=0.001"), "decoupled",
        ),
    ],
)  # fmt: skip
def test_weight_decay_is_that_of_groups_made_by_hand(run: Run, text: str, own: str, hand: str, kind: str) -> None:
    ran = run(changed((SGD, own), ("# after", "assert len(optimizer.param_groups) == 1")), text)
    assert ran.lines == by_hand((SGD, hand))
    assert set(hyper(ran, "weight_decay")) == {0.1}
    ((what,), left) = said(ran, "weight-decay")
    assert what.endswith(f"-> 0.1 ({kind})" if "all" in text else f"-> 0.1 on 2 of 6 parameters ({kind})")
    names = "0.bias, 1.weight, 1.bias, 3.bias"
    assert left == ([] if "all" in text else [(names, "biases and norm parameters; all:on includes them")])


def test_weight_decay_beside_an_optimizer_without_it(run: Run) -> None:
    """Rprop has none; the rate that the decay takes part in is that of the warm-up."""
    script = changed((SGD, "torch.optim.Rprop(model.parameters(), lr=0.5)"))
    ran = run(script, "weight-decay=0.5,kind:decoupled", "warmup=4,start:0.5")
    rate = "(0.5 * (0.5 + 0.5 * step / 4) if step < 4 else 0.5)"
    hand = by_hand(("# before", f"{SET}{rate}; [p.data.mul_(1 - {rate} * 0.5) for p in weights]"), script=script)
    assert ran.lines == hand
    ran = run(script, "weight-decay=0.5")
    assert ran.code == 2 and ran.lines == []
    assert "(Rprop at train.py:12: it has no weight decay; kind:decoupled does it beside the optimizer)" in ran.err


EVALUATE = """
def evaluate():
    model.eval()
    with torch.no_grad():
        print("evaluated", float(nn.functional.cross_entropy(model(x), y)).hex())
    model.train()
    return copy.deepcopy(model.state_dict())
def show(state):
    print([float(value.double().sum()).hex() for value in state.values()])
"""
AVERAGE = """
averages = [p.detach().clone() for p in model.parameters()]
def average():
    d = min(0.8, (2 + step) / (11 + step))
    with torch.no_grad():
        for value, p in zip(averages, model.parameters()):
            value.lerp_(p, 1 - d)
def swap():
    for value, p in zip(averages, model.parameters()):
        kept = p.detach().clone()
        p.data.copy_(value)
        value.copy_(kept)
def load(state):
    model.load_state_dict(state)
    for value, p in zip(averages, model.parameters()):
        value.copy_(p.detach())
"""


def test_averages_are_evaluated_and_saved_but_not_trained(run: Run) -> None:
    """The loop evaluates after each fourth step, saves what it evaluated, and goes on from a saved state once."""
    script = changed(
        ("    # after\n", "    if step % 4 == 3:\n        best = evaluate()\n        show(best)\n"
         "    if step == 7:\n        model.load_state_dict(best)\n    show(model.state_dict())\n"),
        ("# made\n", EVALUATE),
    )  # fmt: skip
    ran = run(script, "ema=0.8")
    hand = by_hand(
        (STEP, f"{STEP}    average()\n"),
        ("        best = evaluate()\n", "        swap()\n        best = evaluate()\n"),
        ("        model.load_state_dict(best)\n    show(model.state_dict())\n",
         "        swap()\n        load(best)\n    show(model.state_dict())\n    if step in (3, 11):\n        swap()\n"),
        ("\ndef evaluate", AVERAGE + "def evaluate"),
        ("print([float(p", "swap()\nprint([float(p"),
        script=script,
    )  # fmt: skip
    assert ran.lines == hand
    losses = [line for line in ran.lines if line.startswith(("0x", "-0x"))]
    assert (
        losses[:8] == [line for line in by_hand() if line.startswith("0x")][:8]
    )  # until it loads, training is the same
    assert said(ran, "ema") == (["Sequential: 6 parameters are averaged for evaluation, decay 0.8"], [])


def test_averages_without_evaluation_mode(run: Run) -> None:
    """A model that is never put into evaluation mode is evaluated without gradients; another script calls no model."""
    script = changed(
        ("# after", "with torch.inference_mode(): print(float(nn.functional.cross_entropy(model(x), y)).hex())")
    )
    ran = run(script, "ema=0.8")
    hand = by_hand(
        ("    with torch.inf", "    average()\n    swap()\n    with torch.inf"),
        ("    print(loss.item()", "    swap()\n    print(loss.item()"),
        ("# made\n", AVERAGE), ("print([float(p", "swap()\nprint([float(p"), script=script,
    )  # fmt: skip
    assert ran.lines == hand
    functional = changed(
        ("model(x[rows])", "nn.functional.linear(x[rows], w)"),
        ("optimizer = ", "w = torch.zeros(2, 6, requires_grad=True)\noptimizer = "),
        (SGD, "torch.optim.SGD([w], lr=0.1)"),
    )
    ran = run(functional, "ema=0.8")
    assert ran.code == 2 and ran.lines == []
    assert "its parameters belong to no model that was called" in ran.err


# Optimizers ---------------------------------------------------------------------------------------------------------

GROUPS = (
    "torch.optim.SGD([{'params': weights, 'lr': 0.5, 'part': 'w'}, {'params': vectors, 'weight_decay': 0.0}], "
    "lr=0.25, momentum=0.5, weight_decay=0.0625)"
)
KINDS = {  # class, rate of the first group, options
    "sgd": ("SGD", 0.5, ""),
    "momentum": ("SGD", 0.5, "momentum=0.9"),
    "nag": ("SGD", 0.5, "momentum=0.9, nesterov=True"),
    "adagrad": ("Adagrad", 0.01, ""),
    "adadelta": ("Adadelta", 1.0, ""),
    "rmsprop": ("RMSprop", 0.001, ""),
    "adam": ("Adam", 0.001, ""),
    "adamw": ("AdamW", 0.001, ""),
    "adamax": ("Adamax", 0.001, ""),
    "nadam": ("NAdam", 0.001, ""),
    "rprop": ("Rprop", 0.01, ""),
}


@pytest.mark.parametrize("kind", KINDS)
def test_another_optimizer_is_the_one_written_by_hand(run: Run, kind: str) -> None:
    script = changed((SGD, GROUPS), ("# after", "print([g.get('part') for g in optimizer.param_groups])"))
    ran = run(script, f"optimizer={kind}")
    name, rate, options = KINDS[kind]
    decay, none = ("", "") if name == "Rprop" else (", 'weight_decay': 0.0625", ", 'weight_decay': 0.0")
    scale = f"({rate} / 0.5)"
    hand = (
        f"torch.optim.{name}([{{'params': weights, 'lr': 0.5 * {scale}, 'part': 'w'{decay}}}, "
        f"{{'params': vectors, 'lr': 0.25 * {scale}{none}}}], {options})"
    )
    assert ran.lines == by_hand((GROUPS, hand), script=script)
    assert hyper(ran, "lr") == [round(rate, 7)] * 12
    where = "SGD at train.py:12"
    assert said(ran, "optimizer")[0] == [f"{where}: {kind} instead, lr 0.5 -> {rate:g}"]
    assert said(ran, "optimizer")[1] == ([("weight decay 0.0625", "Rprop has none")] if kind == "rprop" else [])
    assert ran.record is not None
    ((_, made),) = ran.record.optimizers.items()  # the one that the script meant to make is not recorded
    assert made.class_name == name and made.location is not None and made.location.line == 12


CLOSURE = (
    "    def closure():\n        optimizer.zero_grad()\n        loss = nn.functional.cross_entropy(model(x), y)\n"
    "        loss.backward()\n        return loss\n    optimizer.step(closure)\n"
)


def test_lbfgs_needs_a_closure(run: Run) -> None:
    script = changed((ZERO, ""), ("    loss.backward()\n", ""), (STEP, CLOSURE))
    ran = run(script, "optimizer=lbfgs", "clip-value=0.2")
    clipped = CLOSURE.replace("return", "nn.utils.clip_grad_value_(model.parameters(), 0.2)\n        return")
    lbfgs = "torch.optim.LBFGS(model.parameters(), lr=0.1 * (1 / 0.1), line_search_fn='strong_wolfe')"
    assert ran.lines == by_hand((SGD, lbfgs), (CLOSURE, clipped), script=script)
    ran = run(SCRIPT, "optimizer=lbfgs")
    assert (ran.code, ran.lines) == (2, [])
    assert "LBFGS computes the loss several times in a step, and the script gives step no closure; nothing" in ran.err


@pytest.mark.parametrize(
    ("kind", "own", "hand", "cycle"),
    [
        ("adam", SGD, "torch.optim.Adam(model.parameters(), lr=0.1)", True),
        ("adagrad", SGD, "torch.optim.Adagrad(model.parameters(), lr=0.1)", False),
        (  # AdamW is an Adam, so Python would call its constructor once more
            "adamw", "torch.optim.Adam(model.parameters(), lr=0.1, betas=(0.5, 0.9))",
            "torch.optim.AdamW(model.parameters(), lr=0.1, betas=(0.5, 0.9), weight_decay=0)", True,
        ),
    ],
)  # fmt: skip
def test_schedulers_keep_their_shape(run: Run, kind: str, own: str, hand: str, cycle: bool) -> None:
    """Also one that cycles the momentum, which torch refuses for an optimizer without one."""
    script = changed(
        (SGD, own),
        ("# made", "cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=13)"),
        ("# after", "cycle.step()"),
    )
    rate = 0.01 if kind == "adagrad" else 0.001
    ran = run(script, f"optimizer={kind},lr:{rate}")
    step = f"    kept = optimizer.param_groups[0]['lr']\n    {SET}kept * ({rate} / 0.5)\n{STEP}    {SET}kept\n"
    total = f"total_steps=13, cycle_momentum={cycle}"
    assert ran.lines == by_hand((own, hand), (STEP, step), ("total_steps=13", total), script=script)
    assert max(hyper(ran, "lr")) == pytest.approx(rate, rel=1e-3)


def test_an_optimizer_of_the_users_that_is_made_in_each_epoch(run: Run) -> None:
    """With a saved state of its own, with a copy, and with a rate that falls from one to the next."""
    script = changed(
        ("model = nn", "class Mine(torch.optim.SGD):\n    def __init__(self, p, extra, **more):\n"
         "        super().__init__(p, **more)\n        self.extra = extra\nmodel = nn"),
        (f"optimizer = {SGD}\n", ""),
        (ZERO, "    if step % 6 == 0:\n        optimizer = Mine(model.parameters(), 3, lr=0.1 * 0.5 ** (step // 6))\n"
         "        print(type(optimizer).__name__)\n"
         "        saved = {'state': {}, 'param_groups': [{'lr': 9., 'momentum': 0, 'params': list(range(6))}]}\n"
         "        optimizer.load_state_dict(saved)\n        copy.deepcopy(optimizer)\n" + ZERO),
    )  # fmt: skip
    ran = run(script, "optimizer=adam")
    hand = by_hand(
        ("Mine(model.parameters(), 3, lr=0.1 *", "torch.optim.Adam(model.parameters(), lr=(0.001 / 0.1) * 0.1 *"),
        ("        optimizer.load_state_dict(saved)\n", ""),
        script=script,
    )
    assert ran.lines == hand and ran.lines.count("Adam") == 2
    assert said(ran, "optimizer") == (
        ["Mine at train.py:20: adam instead, lr 0.1 -> 0.001"],
        [("a saved state that the script loads", "it is another optimizer's")],
    )


def test_which_optimizers_are_replaced(run: Run) -> None:
    script = changed(
        (SGD, "torch.optim.SGD(weights, lr=0.1)"),
        ("# made", "other = torch.optim.SGD(vectors, lr=0.1); print(type(optimizer).__name__, type(other).__name__)"),
        ("# after", "other.step()"),
    )
    ran = run(script, "optimizer=adam,only:2,lr:0.01")
    adam = "torch.optim.Adam(vectors, lr=0.1 * (0.01 / 0.1))"
    assert ran.lines == by_hand(("torch.optim.SGD(vectors, lr=0.1)", adam), script=script)
    assert said(ran, "optimizer")[1] == [("SGD at train.py:12", "only 2 was asked for")]


SAM = """
class SAM(torch.optim.Optimizer):
    def __init__(self, params, **more):
        super().__init__(params, {})
        self.base = torch.optim.SGD(self.param_groups, **more)
        self.param_groups = self.base.param_groups
    def first_step(self):
        pass
    def step(self, closure=None):
        self.base.step()
"""


@pytest.mark.parametrize(
    ("pairs", "kind", "sentence"),
    [
        ([(SGD, "SAM(model.parameters(), lr=0.1)")], "adam", "it has methods that others lack (first_step)"),
        ([], "sgd", ""),
        ([("momentum=0.5", "momentum=0")], "sgd", "(SGD at train.py:22: it is sgd already)"),
        (
            [
                ("nn.Linear(6, 8)", "nn.EmbeddingBag(9, 8, sparse=True)"),
                ("model(x[rows])", "model(x[rows].long() % 9)"),
            ],
            "adam",
            "the gradient of 0.weight is sparse, and Adam takes none",
        ),
    ],
)
def test_where_no_other_optimizer_fits(run: Run, pairs: list[tuple[str, str]], kind: str, sentence: str) -> None:
    ran = run(changed(("model = nn", SAM + "model = nn"), *pairs), f"optimizer={kind}")
    assert (ran.code, ran.lines == []) == ((2, True) if sentence else (0, False))
    assert sentence in ran.err


def test_a_step_within_a_step_is_part_of_it(run: Run) -> None:
    """SAM shares its groups with an optimizer of its own: the rate is multiplied once."""
    script = changed(("model = nn", SAM + "model = nn"), (SGD, "SAM(model.parameters(), lr=0.1)"))
    ran = run(script, "lr=scale:0.5", "l1=0.01")
    signs = "[p.grad.add_(p.detach().sign(), alpha=0.01) for p in weights]"
    assert ran.lines == by_hand((SGD, "torch.optim.SGD(model.parameters(), lr=0.1 * 0.5)"), ("# before", signs))


@pytest.mark.parametrize("fused", [False, True])
def test_bounds_hold_for_gradients_without_the_scale_of_amp(run: Run, fused: bool) -> None:
    """A fused optimizer is given gradients that are still multiplied with the scale."""
    script = changed(
        (SGD, f"torch.optim.Adam(model.parameters(), lr=0.1, fused={fused})"),
        ("# made", "scaler = torch.amp.GradScaler('cpu', init_scale=1024.0)"),
        ("    loss.backward()\n", "    scaler.scale(loss).backward()\n"),
        (STEP, "    scaler.step(optimizer)\n    scaler.update()\n"),
    )
    ran = run(script, "clip-value=0.001")
    hand = (
        "    scaler.unscale_(optimizer)\n    nn.utils.clip_grad_value_(model.parameters(), 0.001)\n"
        "    scaler.step(optimizer)\n"
    )
    assert ran.lines == by_hand(("    scaler.step(optimizer)\n", hand), script=script)


@pytest.mark.parametrize(
    "text",
    ["accumulate=1", "clip-value=0", "ema=1", "l1=0", "lr=0", "momentum=1", "optimizer=sdg", "optimizer=adam,lr:0",
     "schedule=cosine,steps:0", "schedule=cosine,steps:9,floor:2", "warmup=0", "warmup=9,start:-1", "weight-decay=-1",
     "weight-decay=1,kind:l2", "zero-grad=always"],
)  # fmt: skip
def test_out_of_range(text: str) -> None:
    with pytest.raises(WellfitError, match=r" is (a|one of|a whole) "):
        parse([text])
