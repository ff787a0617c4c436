"""Overrides that decay weights and average them, each against the same change by hand: to the bit."""

from __future__ import annotations

import pytest
from overridden import Run
from stepped import SET, SGD, STEP, by_hand, changed, hyper
from written import said

from wellfit.errors import WellfitError
from wellfit.overrides.catalogue import parse

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


FAILS = """
from wellfit.overrides.optimizer.weight_decay import WeightDecay

begun = []
original = WeightDecay.before_step
def before_step(self, program, optimizer):
    begun.append(1)
    if len(begun) == 3:
        raise ValueError("no")
    original(self, program, optimizer)
WeightDecay.before_step = before_step
"""


def test_weights_do_not_decay_on_where_the_override_was_left_out(run: Run) -> None:
    script = changed((SGD, "torch.optim.Rprop(model.parameters(), lr=0.5)"), ("for step in", FAILS + "for step in"))
    ran = run(script, "weight-decay=0.5,kind:decoupled")
    decay = "if step < 2:\n        [p.data.mul_(1 - 0.5 * 0.5) for p in weights]"
    assert ran.lines == by_hand(("# before", decay), (FAILS, ""), script=script)
    assert ran.err.count("the script goes on without it") == 1


def test_a_failure_within_a_step_is_not_the_scripts(run: Run) -> None:
    """As a step of torch's calls what decays weights."""
    fails = FAILS.replace("before_step", "_before").replace("program, optimizer", "optimizer, args, kwargs")
    ran = run(changed(("for step in", fails + "for step in")), "weight-decay=0.5")
    assert ran.code == 0 and "failed at step (ValueError: no); the script goes on without it" in ran.err
    assert len([line for line in ran.lines if line.startswith("0x")]) == 12


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


def test_averages_where_the_model_is_evaluated_before_the_first_step(run: Run) -> None:
    script = changed(
        ("# made", EVALUATE + "first"), ("    # after\n", "    if step % 4 == 3:\n        evaluate()\n")
    )  # fmt: skip
    plain, early = (run(changed(("first", first), script=script), "ema=0.8") for first in ("pass", "evaluate()"))
    assert early.lines[1:] == plain.lines and early.lines[0].startswith("evaluated")
    assert plain.lines != by_hand(("first", "pass"), script=script)


def test_averages_of_what_an_optimizer_takes_up_later(run: Run) -> None:
    """What is shown is shown anew when there are averages of more."""
    script = changed(
        (SGD, "torch.optim.SGD(weights, lr=0.1)"),
        ("# made", EVALUATE + "other = torch.optim.SGD(vectors, lr=0.1); seen = []"),
        ("# after", "evaluate(); other.step(); evaluate()"),
    )
    ran, hand = run(script, "ema=0"), by_hand(script=script)  # averages that are the weights
    assert ran.lines == hand, ran.err


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


@pytest.mark.parametrize("text", ["ema=1", "weight-decay=-1", "weight-decay=1,kind:l2"])
def test_out_of_range(text: str) -> None:
    with pytest.raises(WellfitError, match=r" is (a|one of|a whole) "):
        parse([text])
