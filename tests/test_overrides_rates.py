"""Overrides of learning rates and momentum, each against the same change by hand: to the bit."""

from __future__ import annotations

import math

import pytest
from overridden import Run
from stepped import SCRIPT, SET, SGD, STEP, by_hand, changed, hyper
from written import said

from wellfit.errors import WellfitError
from wellfit.overrides.catalogue import parse


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


@pytest.mark.parametrize(
    "text",
    [
        "lr=0",
        "momentum=1",
        "schedule=cosine,steps:0",
        "schedule=cosine,steps:9,floor:2",
        "warmup=0",
        "warmup=9,start:-1",
    ],
)
def test_out_of_range(text: str) -> None:
    with pytest.raises(WellfitError, match=r" is (a|one of|a whole) "):
        parse([text])
