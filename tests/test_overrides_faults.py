"""Faults, each against the same fault written into the script by hand, to the bit; and the findings they lead to."""

from __future__ import annotations

from pathlib import Path

import pytest
from forked import Forks
from overridden import Run
from written import changed, each, said, same_as_by_hand, stopped

from wellfit.catalogue import rules
from wellfit.diagnose import diagnose
from wellfit.errors import WellfitError
from wellfit.overrides.catalogue import parse
from wellfit.record import open_run

CLASSES = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
x = torch.randn(60, 6)
y = (x[:, 0] > x[:, 1]).long() + (x[:, 2] > 0.5).long()
model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
parameters = list(model.parameters())
optimizer = torch.optim.Adam(parameters, lr=0.01)
loader = DataLoader(TensorDataset(x[:40], y[:40]), batch_size=10, shuffle=True)
# made
step = 0
for epoch in range(6):
    for a, b in loader:
        step += 1
        # batch
        out = model(a)
        # out
        loss = nn.functional.cross_entropy(out, b)
        model.zero_grad()
        loss.backward()
        # before
        optimizer.step()
        print(step, len(a), loss.item().hex())
    with torch.no_grad():
        # tested
        a = x[40:]
        out = model(a)
        print("test", nn.functional.cross_entropy(out, y[40:]).item().hex())
print([float(p.detach().double().sum()).hex() for p in model.parameters()], torch.rand(1).item())
"""
NUMBERS = """
import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(40, 3)
y = x.sum(1, keepdim=True)
model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for step in range(20):
    for rows in torch.randperm(40).split(20):
        target = y[rows]
        # batch
        loss = nn.functional.mse_loss(model(x[rows]), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(loss.item().hex())
"""


def found(folder: Path) -> set[str]:
    """The findings of the last run, those that others explain too."""
    last = max(folder.glob("run*"), key=lambda run: int(run.name.removeprefix("run")))
    diagnosis = diagnose(open_run(last), rules())
    return {one.rule for one in diagnosis.findings} | {one.rule for _, one in diagnosis.folded}


ONCE = "if step == 3: "
# override, script, by hand, what it says, finding
BY_HAND = [
    (
        "leave-out=share:0.3",
        CLASSES,
        [("Adam(parameters,", "Adam(parameters[2:],")],
        "Adam at train.py:11: without 0.weight, 0.bias",
        "not-in-optimizer",
    ),
    (
        "leave-out=4",
        CLASSES,
        [("Adam(parameters,", "Adam(parameters[:4],")],
        "without 4.weight, 4.bias",
        "not-in-optimizer",
    ),
    (
        "leave-out=*.bias",
        CLASSES,
        [("Adam(parameters,", "Adam(parameters[::2],")],
        "without 0.bias, 2.bias, 4.bias",
        None,
    ),
    (
        "detach",
        CLASSES,
        [("out = model(a)", "out = model[3:](model[:3](a).detach())")],
        "the output of 2 is detached",
        "detached",
    ),
    (
        "detach=0",
        CLASSES,
        [("out = model(a)", "out = model[1:](model[:1](a).detach())")],
        "the output of 0 is detached",
        None,
    ),
    (
        "softmax-first",
        CLASSES,
        [("cross_entropy(out", "cross_entropy(out.softmax(1)")],
        "softmax of the prediction",
        "loss-head-mismatch",
    ),
    (
        "scale-input=255,offset:3",
        CLASSES,
        [("out = model(a)", "out = model(a * 255 + 3)")],
        "times 255, plus 3",
        "input-scale",
    ),
    ("scale-target=1000", NUMBERS, [("# batch", "target = target * 1000")], "mse_loss: target times 1000", None),
    (
        "scale-target=9",
        NUMBERS.replace("(model(x[rows]), target)", "(target, model(x[rows]))"),
        [("# batch", "target = target * 9")],
        "mse_loss: target (the first argument) times 9",
        None,
    ),
    ("label-shift", CLASSES, [("# out", "b = (b + 1) % 3")], "labels plus 1 modulo 3", None),
    (
        "loss-broadcast",
        NUMBERS,
        [("# batch", "target = target.squeeze(1)")],
        "prediction (N, 1) with target (N)",
        "loss-broadcast",
    ),
    ("lose-graph", CLASSES, [("# out", "out = out.detach().requires_grad_()")], "without its history", None),
    (
        "reinit-optimizer",
        CLASSES,
        [("# before", "optimizer = torch.optim.Adam(parameters, lr=0.01)")],
        "thrown away",
        None,
    ),
    (
        "dead-bias=-50",
        CLASSES,
        [("# made", "[nn.init.constant_(p, -50.0) for p in (parameters[1], parameters[3])]")],
        "bias of 0 = -50; Sequential at train.py:19: bias of 2 = -50",
        "dead-units",
    ),
    (
        "sort-labels",
        CLASSES,
        [("shuffle=True", "sampler=sorted(range(40), key=y.tolist().__getitem__)")],
        "40 items in the order of their 3 labels",
        None,
    ),
    (
        "poison=input,step:3",
        CLASSES,
        [("# batch", ONCE + "a[0, 0] = torch.nan")],
        "input of Sequential at train.py:19: nan at step 3",
        "non-finite-input",
    ),
    (
        "poison=loss,step:3",
        CLASSES,
        [("# out", ONCE + "out = out + torch.nan")],
        "cross_entropy: nan at step 3",
        "non-finite-forward",
    ),
    (
        "poison=gradient,step:3,what:inf",
        CLASSES,
        [("# before", ONCE + "parameters[0].grad[0, 0] = torch.inf")],
        "inf in a gradient at step 3",
        "non-finite-grad",
    ),
    (
        "poison=weight,step:3",
        CLASSES,
        [("# before", ONCE + "parameters[0].data[0, 0] = torch.nan")],
        "nan in a weight at step 3",
        None,
    ),
]


@each("override, script, pairs, what, finding", BY_HAND)
def test_as_by_hand(
    forks: Forks,
    tmp_path: Path,
    override: str,
    script: str,
    pairs: list[tuple[str, str]],
    what: str,
    finding: str | None,
) -> None:
    same_as_by_hand(forks, tmp_path, override, script, pairs, what)
    # THEN the rule for it speaks
    assert finding is None or finding in found(tmp_path)


UNFIT = [
    ("leave-out=head.*", CLASSES, "it holds no such parameters"),
    ("leave-out=*", CLASSES, "would have nothing left to train"),
    ("detach=head", CLASSES, "it has no layer head"),
    ("detach=4", CLASSES, "4 of Sequential at train.py:19: no layer follows it"),
    (
        "detach",
        NUMBERS.replace("nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)", "nn.Linear(3, 1)"),
        "it has only one layer",
    ),
    ("softmax-first", NUMBERS, "it has no softmax and no sigmoid of its own"),
    (
        "scale-input=2",
        NUMBERS.replace("nn.Linear(3, 8)", "nn.Embedding(9, 8), nn.Flatten(), nn.Linear(24, 8)").replace(
            "model(x[rows])", "model(x[rows].abs().long())"
        ),
        "its input are whole numbers",
    ),
    ("scale-target=2", CLASSES, "its target are no real numbers"),
    ("label-shift", NUMBERS, "its target are no class numbers"),
    ("loss-broadcast", CLASSES, "it refuses different shapes"),
    (
        "lose-graph",
        NUMBERS.replace("nn.functional.mse_loss(model(x[rows]), target)", "(model(x[rows]) - target).square().mean()"),
        "no loss function of torch is called",
    ),
    ("reinit-optimizer", NUMBERS, "SGD at train.py:9: without momentum it keeps nothing"),
    (
        "dead-bias",
        NUMBERS.replace("nn.Linear(3, 8)", "nn.Linear(3, 8, bias=False)"),
        "no model is called that has a hidden layer",
    ),
    ("sort-labels", NUMBERS, "no DataLoader shuffles items that end in a class number"),
    (
        "sort-labels",
        CLASSES.replace("y[:40])", "x[:40])").replace("(out, b)", "(out, b[:, 0].long().clamp(0, 2))"),
        "its items do not end in a whole number",
    ),
    (
        "poison=loss",
        NUMBERS.replace("nn.functional.mse_loss(model(x[rows]), target)", "(model(x[rows]) - target).square().mean()"),
        "there is no such place in this script",
    ),
]


@each("override, script, sentence", UNFIT)
def test_where_it_does_not_fit(forks: Forks, tmp_path: Path, override: str, script: str, sentence: str) -> None:
    ran = forks.run(tmp_path, script, override)

    stopped(ran, sentence)
    assert ran.lines == []


@pytest.mark.parametrize(
    "override",
    [
        "leave-out=share:0",
        "leave-out=share:2",
        "scale-input",
        "scale-input=1",
        "scale-target=1",
        "label-shift=0",
        "dead-bias=1",
        "sort-labels=some",
        "poison",
        "poison=loss,step:0",
        "poison=label",
        "poison=loss,what:0",
    ],
)
def test_refused(override: str) -> None:
    with pytest.raises(WellfitError):
        parse([override])


def test_ignored_labels_stay_ignored(forks: Forks, tmp_path: Path) -> None:
    ignoring = CLASSES.replace("\nmodel =", "\ny[::4] = -100\nmodel =")
    wanted = changed(ignoring, ("# out", "b = torch.where(b == -100, b, (b + 2) % 3)"))

    ran = forks.run(tmp_path, ignoring, "label-shift=2")

    assert ran.code == 0 and ran.lines == forks.run(tmp_path, wanted).lines


def test_a_cure_acts_on_a_fault(forks: Forks, tmp_path: Path) -> None:
    # Normalising undoes any scale; shuffling undoes any order.
    scaled = forks.run(tmp_path, CLASSES, "scale-input=256", "normalize-input", "sort-labels", "shuffle=on")
    plain = forks.run(tmp_path, CLASSES, "normalize-input", "sort-labels", "shuffle=on")

    assert scaled.code == 0 and scaled.lines == plain.lines
    assert scaled.record is not None and len(scaled.record.overrides) == 4
    assert [loader.shuffle for loader in scaled.record.loaders.values()] == [True]


def test_a_detached_model_can_be_copied_and_saved(forks: Forks, tmp_path: Path) -> None:
    script = CLASSES + "import copy, io\ntwin = copy.deepcopy(model)\ntorch.save(model, io.BytesIO())\n"
    script += "print(twin(a).grad_fn is not None, [p.grad is None for p in model.parameters()], *twin.state_dict())\n"

    ran = forks.run(tmp_path, script, "detach=2")

    nothing = [True] * 4 + [False] * 2
    assert ran.lines[-1] == f"True {nothing} 0.weight 0.bias 2.weight 2.bias 4.weight 4.bias", ran.err


def test_a_copy_that_has_learned_keeps_its_biases(forks: Forks, tmp_path: Path) -> None:
    script = CLASSES + "import copy\ntwin = copy.deepcopy(model)\nwith torch.no_grad():\n"
    script += "    twin[0].bias.fill_(7)\n    twin(a)\nprint(twin[0].bias.tolist())\n"

    assert forks.run(tmp_path, script, "dead-bias").lines[-1] == str([7.0] * 8)


def test_biases_are_dead_after_an_initialisation_too(run: Run) -> None:
    script = CLASSES + "print(model[0].bias.tolist())\n"

    assert run(script, "init=he", "dead-bias=-50", "leave-out=0").lines[-1] == str([-50.0] * 8)


def test_a_bound_of_wellfits_own_holds_without_the_scripts(run: Run) -> None:
    script = CLASSES.replace("# before", "nn.utils.clip_grad_value_(parameters, 1e-6)")
    wanted = CLASSES.replace("# before", "nn.utils.clip_grad_value_(parameters, 0.01)")
    wanted_too = wanted.replace("0.01)\n", "0.01); nn.utils.clip_grad_norm_(parameters, 0.02)\n")

    assert run(script, "no-clip", "clip-value=0.01").lines == run(wanted).lines
    assert run(script, "no-clip", "clip-value=0.01", "clip-norm=0.02").lines == run(wanted_too).lines


def test_a_poison_that_never_came_is_told(run: Run) -> None:
    assert said(run(CLASSES, "poison=loss,step:99"), "poison")[1] == [("the run", "it ended before step 99")]
    assert said(run(CLASSES, "poison=loss,step:3"), "poison")[1] == []


def test_inputs_that_do_not_lie_in_order_are_poisoned(run: Run) -> None:
    strange = CLASSES.replace("model(a)", "model(a.t().contiguous().t())")
    hand = changed(strange, ("# batch", ONCE + "a[0, 0] = torch.nan"))

    assert run(strange, "poison=input,step:3").lines == run(hand).lines


def test_only_one_share_is_left_out_where_another_optimizer_steps_first(run: Run) -> None:
    script = CLASSES.replace("# made", "other = nn.Parameter(x[0]); first = torch.optim.SGD([other], lr=0.1)")
    script = script.replace("# before", "other.grad = x[1]; first.step()")
    hand = changed(script, ("Adam(parameters,", "Adam(parameters[2:],"))

    ran = run(script, "leave-out=share:0.3")
    assert ran.lines == run(hand).lines, ran.err


def test_what_is_left_out_does_not_count_for_a_bound(run: Run) -> None:
    hand = changed(
        CLASSES,
        ("Adam(parameters,", "Adam(parameters[2:],"),
        ("# before", "nn.utils.clip_grad_norm_(parameters[2:], 0.01)"),
    )

    assert run(CLASSES, "leave-out=share:0.3", "clip-norm=0.01").lines == run(hand).lines


def test_looking_at_the_labels_draws_nothing(run: Run) -> None:
    drawn = "(random.random(), np.random.rand(), torch.rand(1).item())"
    script = CLASSES.replace("\nimport torch\n", "\nimport random\nimport numpy as np\nimport torch\n", 1).replace(
        "# made", f"print({drawn})"
    )
    script = script.replace("\nmodel =", f"\nclass Drawn(TensorDataset):\n    def __getitem__(self, index):\n"
                            f"        {drawn}\n        return super().__getitem__(index)\nmodel =", 1)  # fmt: skip
    script = script.replace("DataLoader(TensorDataset(", "DataLoader(Drawn(").replace(
        "torch.manual_seed(0)", "torch.manual_seed(0); random.seed(0); np.random.seed(0)"
    )
    ran = run(script, "sort-labels")
    assert ran.code == 0 and ran.lines[0] == run(script, "lr=0.01").lines[0], ran.err
    assert said(ran, "sort-labels")[0]
