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


CYCLE = "cycle = torch.optim.lr_scheduler.CyclicLR(optimizer, 0.001, {}, 3)"


def test_the_peak_of_a_cycle_is_the_rate(run: Run) -> None:
    """A CyclicLR writes nothing of it into the groups."""
    script = changed(("# made", CYCLE.format(0.2)), ("# after", "cycle.step()"))
    ran = run(script, "lr=0.1")
    step = f"    kept = optimizer.param_groups[0]['lr']\n    {SET}kept * (0.1 / 0.2)\n{STEP}    {SET}kept\n"
    assert ran.lines == by_hand((STEP, step), script=script)
    assert max(hyper(ran, "lr")) == pytest.approx(0.1)
    assert said(ran, "lr")[0] == ["SGD at train.py:12: lr 0.2 -> 0.1"]
    # `constant` is constant there
    assert set(hyper(run(script, "schedule=constant"), "lr")) == {0.2}
    # another optimizer reaches its own rate there
    assert max(hyper(run(script, "optimizer=adam"), "lr")) == pytest.approx(0.001)


OWN_RATE = """
class Own(torch.optim.SGD):
    def __init__(self, p):
        super().__init__(p, lr=0.0, momentum=0.5)
        for group in self.param_groups:
            group["lr"] = None
    def step(self, closure=None):
        for group in self.param_groups:
            assert group["lr"] is None
            group["lr"] = 0.1
        super().step(closure)
        for group in self.param_groups:
            group["lr"] = None
model = nn"""


@pytest.mark.parametrize("override", ["lr=0.5", "warmup=3", "schedule=constant"])
def test_an_optimizer_that_finds_its_own_rate_is_left_out(run: Run, override: str) -> None:
    """As Adafactor of transformers does, whose groups hold None."""
    script = changed(
        ("model = nn", OWN_RATE),
        (SGD, "Own(model.parameters())"),
        ("# made", "other = torch.optim.SGD([vectors[0]], lr=0.0001)"),
        ("# before", "other.step()"),
    )
    ran = run(script, override)
    assert ran.code == 0, ran.err
    changes, left = said(ran, override.partition("=")[0])
    assert [what.split(" at ")[0] for what in changes] == ["SGD"]
    assert [what.split(" at ")[0] for what, _ in left] == ["Own"]


def test_a_rate_that_is_a_tensor_is_known_as_it_was_made(run: Run) -> None:
    script = changed((SGD, "torch.optim.SGD(model.parameters(), lr=torch.tensor(0.1), momentum=0.5)"))
    falls = "[group['lr'].mul_(0.5) for group in optimizer.param_groups]"
    ran = run(changed(("# after", falls), script=script), "schedule=constant")
    assert (ran.code, ran.lines) == (0, by_hand(script=script)), ran.err


def test_steps_that_a_scaler_leaves_to_a_fused_optimizer_to_skip_are_none(run: Run) -> None:
    script = changed(
        (SGD, "torch.optim.Adam(model.parameters(), lr=0.1, fused=True)"),
        ("# made", "scaler = torch.amp.GradScaler('cpu', init_scale=1024.0)"),
        ("    loss.backward()\n", "    (scaler.scale(loss) * (math.inf if step < 3 else 1)).backward()\n"),
        (STEP, "    scaler.step(optimizer)\n    scaler.update()\n"),
    )
    override = "warmup=4,start:0.1"
    ran, unfused = run(script, override), run(script.replace("fused=True", "fused=False"), override)
    losses = [[float.fromhex(line) for line in each.lines if line.startswith("0x")] for each in (ran, unfused)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and len(losses[0]) == 12
    decayed = run(script, "weight-decay=0.9,kind:decoupled", "ema=0.9", "stop-after=2")
    assert len([line for line in decayed.lines if line.startswith("0x")]) == 4  # three skipped, one, and the end


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
