"""Overrides that make another optimizer, each against the same change by hand: to the bit."""

from __future__ import annotations

import pytest
from overridden import Run
from stepped import SCRIPT, SET, SGD, STEP, ZERO, by_hand, changed, hyper
from written import said

from wellfit.errors import WellfitError
from wellfit.overrides.catalogue import parse

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
    assert said(ran, "optimizer")[1] == [("SGD at train.py:12", "it is number 1, and only:2 was asked for")]


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


@pytest.mark.parametrize("text", ["optimizer=sdg", "optimizer=adam,lr:0"])
def test_out_of_range(text: str) -> None:
    with pytest.raises(WellfitError, match=r" is (a|one of|a whole) "):
        parse([text])
