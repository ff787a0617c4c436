"""Overrides where the script gives its optimizer a closure, which may call the model for the first time."""

from __future__ import annotations

import pytest
from overridden import Run
from stepped import SCRIPT, SGD, STEP, ZERO, by_hand, changed
from written import said

EVALUATING = changed(
    ("nn.ReLU()", "nn.ReLU(), nn.Dropout(0.1)"),
    ("    # after\n", "    model.eval(); print(float(model(x[:8]).sum()).hex()); model.train()\n"),
)
LOSS = "    loss = nn.functional.cross_entropy(model(x[rows]), y[rows])\n    loss.backward()\n"
CLOSURE = (
    "    def closure():\n        optimizer.zero_grad()\n"
    "        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])\n"
    "        loss.backward()\n        return loss\n"
)
LBFGS = "torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)"


def with_closure(step: str = "    loss = optimizer.step(closure)\n", script: str = EVALUATING) -> str:
    """A script in which everything but the step itself happens in a closure."""
    return changed((ZERO, ""), (LOSS, CLOSURE), (STEP, step), script=script)


@pytest.mark.parametrize(
    "override",
    [
        "ema=0.8",
        "zero-input",
        "normalize-input",
        "shuffle-features=batch",
        "one-batch",
        "shuffle-labels=0.5",
        "precision=float64",
        "precision=bfloat16",
        "dropout=0.5",
        "norm=batch",
        "width=2",
        "init=he",
        "freeze=0",
        "leave-out=share:0.5",
        "label-shift",
        "weight-decay=0.1,kind:decoupled",
        "momentum=0.9",
        "optimizer=adam",
        "warmup=3",
        "l1=0.01",
        "reinit-optimizer",
    ],
)
def test_a_closure_changes_nothing(run: Run, override: str) -> None:
    # GIVEN a script whose model is called for the first time within its first step
    script = with_closure()
    # WHEN it runs under an override
    ran, straight = run(script, override), run(EVALUATING, override)
    # THEN it is as without a closure
    assert (ran.code, ran.lines) == (0, straight.lines), ran.err
    name = override.partition("=")[0]
    changes, left = said(straight, name)
    assert ([what.split(" at ")[0] for what in said(ran, name)[0]], len(said(ran, name)[1])) == (
        [what.split(" at ")[0] for what in changes], len(left)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("override", "hand"),
    [
        ("zero-input", ("model(x[rows])", "model(x[rows] * 0)")),
        ("label-shift=1", ("y[rows])", "(y[rows] + 1) % 2)")),
        ("clip-value=0.1", ("return loss", "nn.utils.clip_grad_value_(model.parameters(), 0.1)\n        return loss")),
    ],
)
def test_a_closure_that_is_called_again_and_again(run: Run, override: str, hand: tuple[str, str]) -> None:
    script = with_closure(script=changed((SGD, LBFGS)))
    assert run(script, override).lines == by_hand(hand, script=script) != by_hand(script=script)


def test_a_closure_that_is_given_by_name(run: Run) -> None:
    named = with_closure("    loss = optimizer.step(closure=closure)\n")
    assert run(named, "zero-input").lines == run(EVALUATING, "zero-input").lines


def test_what_fits_nothing_stops_the_run_in_the_closure(run: Run) -> None:
    script = with_closure(script=changed(("# before", "print('before')"), ("import copy", "import copy, atexit")))
    script = changed(
        ("for step in", "start = model[0].weight.detach().clone()\n"
         "atexit.register(lambda: print('same', torch.equal(start, model[0].weight)))\nfor step in"),
        script=script,
    )  # fmt: skip
    ran = run(script, "lr=0.5", "no-clip")
    assert (ran.code, ran.lines) == (2, ["before", "same True"]), ran.err
    assert "--override no-clip found nothing to change" in ran.err and "nothing was trained" in ran.err


def test_a_later_optimizer_is_asked_for_its_own_model(run: Run) -> None:
    """What its first step leaves out is not what was not yet there."""
    script = changed(
        ("# made", "other = nn.Linear(6, 1); two = torch.optim.SGD(other.parameters(), lr=0.1)"),
        (
            STEP,
            "    optimizer.step()\n    def closure():\n        two.zero_grad()\n        l = other(x).square().mean()\n"
            "        l.backward()\n        return l\n    two.step(closure)\n",
        ),
    )
    ran = run(script, "ema=0.8")
    assert said(ran, "ema") == (
        [f"{name}: {count} parameters are averaged for evaluation, decay 0.8" for name, count in
         (("Sequential", 6), ("Linear", 2))], [("all of it", "no model was evaluated")]
    )  # fmt: skip


def test_sparse_gradients_of_a_closure_are_met_before_a_step_with_them(run: Run) -> None:
    script = with_closure(script=SCRIPT)
    script = changed(
        ("nn.Linear(6, 8)", "nn.EmbeddingBag(9, 8, sparse=True)"),
        ("model(x[rows])", "model(x[rows].long() % 9)"),
        script=script,
    )
    ran = run(script, "optimizer=adam")
    assert (ran.code, ran.lines) == (2, []) and "Traceback" not in ran.err
    assert "the gradient of 0.weight is sparse, and Adam takes none" in ran.err
