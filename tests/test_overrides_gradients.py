"""Overrides of what optimizers get as gradients, each against the same change by hand: to the bit."""

from __future__ import annotations

import pytest
from overridden import Run
from stepped import SCRIPT, SGD, STEP, ZERO, by_hand, changed, found
from written import said

from wellfit.errors import WellfitError
from wellfit.overrides.catalogue import parse


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


SPARSE = [
    ("nn.Linear(6, 8)", "nn.EmbeddingBag(9, 8, sparse=True)"),
    ("model(x[rows])", "model((x[rows] * 4).long() % 9)"),
    (SGD, "torch.optim.SGD(model.parameters(), lr=0.1)"),
]


@pytest.mark.parametrize(
    ("override", "clip"),
    [
        ("clip-norm=0.3", "nn.utils.clip_grad_norm_(model.parameters(), 0.3)"),
        ("clip-value=0.01", "nn.utils.clip_grad_value_(model.parameters(), 0.01)"),
    ],
)
def test_bounds_hold_for_sparse_gradients(run: Run, override: str, clip: str) -> None:
    """As for the same gradients dense."""
    script = changed(*SPARSE)
    ran = run(script, override)
    hand = by_hand(("sparse=True", "sparse=False"), ("# before", clip), script=script)
    assert ran.code == 0 and "goes on without" not in ran.err, ran.err
    numbers = [[float.fromhex(line) for line in lines if line.startswith("0x")] for lines in (ran.lines, hand)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-5)
    assert numbers[0] != pytest.approx([float.fromhex(line) for line in by_hand(script=script)[:-1]], rel=1e-5)


def test_accumulation_goes_on_where_an_optimizer_is_made_anew(run: Run) -> None:
    script = changed(
        (f"optimizer = {SGD}\n", ""),
        (ZERO, f"    if step % 5 == 0:\n        optimizer = {SGD.replace(', momentum=0.5', '')}\n{ZERO}"),
    )
    ran = run(script, "accumulate=2")
    hand = by_hand(
        (STEP, "    if step % 2 == 0:\n        first = [p.grad.clone() for p in model.parameters()]\n"
               "    else:\n        [p.grad.add_(g).div_(2) for p, g in zip(model.parameters(), first)]\n"
               "        optimizer.step()\n"),
        script=script,
    )  # fmt: skip
    assert ran.lines == hand
    assert not found(ran)


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


@pytest.mark.parametrize("fused", [False, True])
def test_accumulation_knows_the_scale_of_amp(run: Run, fused: bool) -> None:
    """A batch that is not finite does not count, and the scale that it halves does not stay in the sum."""
    script = changed(
        (SGD, f"torch.optim.Adam(model.parameters(), lr=0.1, fused={fused})"),
        ("# made", "scaler = torch.amp.GradScaler('cpu', init_scale=1024.0, growth_interval=2)"),
        ("    loss.backward()\n", "    (scaler.scale(loss) * (math.inf if step in (4, 7) else 1)).backward()\n"),
        (STEP, "    scaler.step(optimizer)\n    scaler.update()\n"),
    )
    ran = run(script, "accumulate=2")
    hand = changed(
        ("# made", "kept = []"),
        (SGD, f"torch.optim.Adam(model.parameters(), lr=0.1, fused={fused})"),
        (
            STEP,
            "    if step not in (4, 7):\n        kept.append([p.grad.clone() for p in model.parameters()])\n"
            "    if len(kept) == 2:\n        for p, a, b in zip(model.parameters(), *kept):\n"
            "            p.grad = (a + b) / 2\n        optimizer.step()\n        kept = []\n",
        ),
    )
    assert ran.lines == by_hand(script=hand), ran.err


def test_clearing_keeps_its_arguments_while_gradients_accumulate(run: Run) -> None:
    script = changed((ZERO, "    optimizer.zero_grad(set_to_none=False)\n    print(weights[0].grad)\n"))
    ran = run(script, "accumulate=2")
    shown = [line for line in ran.lines if line == "None"]
    assert len(shown) == 1, ran.lines  # before the first backward pass
    script = changed((ZERO, "    model.zero_grad(set_to_none=False)\n    print(weights[0].grad)\n"))
    assert run(script, "accumulate=2").lines == ran.lines


@pytest.mark.parametrize("text", ["accumulate=1", "clip-value=0", "l1=0", "zero-grad=always"])
def test_out_of_range(text: str) -> None:
    with pytest.raises(WellfitError, match=r" is (a|one of|a whole) "):
        parse([text])
