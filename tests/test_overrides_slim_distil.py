"""A student beside its teacher: the loss is that of the same script with the teacher written into it."""

from __future__ import annotations

import pytest
from overridden import Run
from written import changed, said, stopped

SCRIPT = """
import copy
import torch
import torch.nn.functional as F
from torch import nn
torch.manual_seed(0)
x = torch.randn(96, 6)
y = (x @ torch.randn(6, 3)).argmax(1)
class Net(nn.Module):
    def __init__(self, last=nn.Identity()):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.ReLU())
        self.head = nn.Linear(8, 3)
        self.last = last
    def forward(self, x):
        return self.last(self.head(self.body(x)))
def added(out, told, T=4.0):
    p = F.softmax(told / T, 1)
    return T * T * F.kl_div(F.log_softmax(out / T, 1), p, reduction="batchmean")
model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
# made
for step in range(6):
    rows = slice(step % 3 * 32, step % 3 * 32 + 32)
    optimizer.zero_grad()
    out = model(x[rows])
    loss = F.cross_entropy(out, y[rows])
    loss.backward()
    optimizer.step()
    print(loss.item())
    # step
model.eval()
print(F.cross_entropy(model(x), y).item(), torch.rand(2).tolist())
"""
LOSS = "    loss = F.cross_entropy(out, y[rows])\n"
TEACHER = "teacher = copy.deepcopy(model); teacher.load_state_dict(torch.load('../saved.pt')); teacher.eval()"
SAVE = ("print(F.cross_entropy(model(x), y).item()", "torch.save(model.state_dict(), '../saved.pt'); print(0")
NLL = "    loss = F.nll_loss(F.log_softmax(out, 1), y[rows])\n"


def same(run: Run, script: str, override: str, hand: str) -> None:
    """The script under the override prints what it prints with the teacher written in, and not what it prints else."""
    assert run(changed(SCRIPT, SAVE)).code == 0
    ran = run(script, override)
    by_hand = script.replace(
        "    loss.backward()\n",
        f"    with torch.no_grad(): told = teacher(x[rows])\n    loss = {hand}\n    loss.backward()\n",
    )
    wanted = run(changed(by_hand, ("# made", TEACHER)))
    assert ran.code == wanted.code == 0, ran.err + wanted.err
    for mine, its in zip(ran.lines[:-1], wanted.lines[:-1], strict=True):
        assert float(mine) == pytest.approx(float(its), rel=1e-5)
    mine, its = ran.lines[-1].split(maxsplit=1), wanted.lines[-1].split(maxsplit=1)
    assert float(mine[0]) == pytest.approx(float(its[0]), rel=1e-4)
    assert mine[1] == its[1]  # random numbers go on as if there were no teacher
    assert ran.lines != run(script).lines


@pytest.mark.parametrize(
    ("loss", "override", "hand"),
    [
        (LOSS, "", "0.1 * loss + 0.9 * added(out, told)"),
        (LOSS, ",temperature:2,weight:0.5", "0.5 * loss + 0.5 * added(out, told, 2.0)"),
        (LOSS, ",weight:1", "added(out, told)"),
        (LOSS.replace("y[rows])", "y[rows], reduction='sum')"), "", "0.1 * loss + 0.9 * 32 * added(out, told)"),
        (LOSS.replace("y[rows])", "y[rows], reduction='none').mean()"), "", "0.1 * loss + 0.9 * added(out, told)"),
        (LOSS.replace("y[rows])", "y[rows].where(y[rows] > 0, -100))"), "",
         "0.1 * loss + 0.9 * added(out[y[rows] > 0], told[y[rows] > 0])"),
        (LOSS.replace("out,", "out.double(),"), "", "0.1 * loss + 0.9 * added(out, told)"),
        (LOSS.replace("out,", "out[:16],").replace("y[rows]", "y[rows][:16]"), "",
         "0.1 * loss + 0.9 * added(out[:16], told[:16])"),
        (NLL, "", "0.1 * loss + 0.9 * added(out, told)"),
        ("    loss = F.mse_loss(out, F.one_hot(y[rows], 3).float())\n", "", "0.1 * loss + 0.9 * F.mse_loss(out, told)"),
        ("    loss = F.smooth_l1_loss(out, F.one_hot(y[rows], 3).float(), beta=0.5)\n", "",
         "0.1 * loss + 0.9 * F.smooth_l1_loss(out, told, beta=0.5)"),
        ("    loss = F.binary_cross_entropy_with_logits(out, F.one_hot(y[rows], 3).float())\n", "",
         "0.1 * loss + 0.9 * 16 * F.binary_cross_entropy_with_logits(out / 4, (told / 4).sigmoid())"),
    ],
)  # fmt: skip
def test_the_loss_is_the_one_written_by_hand(run: Run, loss: str, override: str, hand: str) -> None:
    script = SCRIPT if loss == LOSS else changed(SCRIPT, (LOSS, loss))
    same(run, script, f"distil=../saved.pt{override}", hand)


def test_a_model_that_ends_in_log_softmax_or_softmax(run: Run) -> None:
    for last, loss in (
        ("nn.LogSoftmax(1)", "F.nll_loss(out, y[rows])"),
        ("nn.Softmax(1)", "F.nll_loss(out.log(), y[rows])"),
    ):
        script = changed(SCRIPT, ("model = Net()", f"model = Net({last})"), ("F.cross_entropy(out, y[rows])", loss))
        logs = ("out", "told") if "Log" in last else ("out.log()", "told.log()")
        same(run, script, "distil=../saved.pt", f"0.1 * loss + 0.9 * added({logs[0]}, {logs[1]})")


def test_tokens_in_a_row(run: Run) -> None:
    """A view of the output, and the batch norm of student and teacher apart."""
    script = changed(
        SCRIPT, ("torch.randn(96, 6)", "torch.randn(96, 5, 6)"), (".argmax(1)", ".argmax(2)"),
        ("    def forward(self, x):\n        return self.last(self.head(self.body(x)))",
         "    def forward(self, x):\n        return self.head(self.body(x.flatten(0, 1))).view(-1, 5, 3)"),
        (LOSS, "    loss = F.cross_entropy(out.view(-1, 3), y[rows].view(-1))\n"),
        ("F.cross_entropy(model(x), y).item()", "F.cross_entropy(model(x).transpose(1, 2), y).item()"),
    )  # fmt: skip
    same(run, script, "distil=../saved.pt", "0.1 * loss + 0.9 * added(out.view(-1, 3), told.view(-1, 3))")


@pytest.mark.parametrize(
    ("loss", "why"),
    [
        ("F.cross_entropy(out * 2, y[rows])", "it is given something that is made of the model's output in an unknown"),
        ("F.cross_entropy(out[:, [0, 1, 2, 2]], y[rows])", "it is given no output of the model"),
        ("F.multi_margin_loss(out, y[rows])", "there is no term of a teacher for this loss"),
    ],
)
def test_a_loss_that_no_teacher_fits_is_left_as_it_is(run: Run, loss: str, why: str) -> None:
    assert run(changed(SCRIPT, SAVE)).code == 0
    script = changed(SCRIPT, ("F.cross_entropy(out, y[rows])", loss))
    ran = run(script, "distil=../saved.pt")
    assert ran.code == 2 and why in ran.err
    beside = "    loss = loss + 0.1 * F.cross_entropy(out, y[rows])\n    loss.backward()\n"
    ran = run(changed(script, ("    loss.backward()\n", beside)), "distil=../saved.pt")
    assert ran.code == 0, ran.err
    changes, left = said(ran, "distil")
    assert len(changes) == 1 and any(why in reason for _, reason in left)


def test_the_teacher_is_the_model_as_the_script_made_it(run: Run) -> None:
    assert run(changed(SCRIPT, SAVE)).code == 0
    ran = run(SCRIPT, "distil=../saved.pt", "width=0.5", "prune=0.5,steps:6")
    assert ran.code == 0, ran.err
    assert said(ran, "distil")[0] == ["cross_entropy at train.py:27: 0.9 of it is the teacher's, saved.pt"]


def test_a_model_that_cannot_be_copied_is_refused(run: Run) -> None:
    assert run(changed(SCRIPT, SAVE)).code == 0
    stopped(run(changed(SCRIPT, ("# made", "model.held = open('../saved.pt')")), "distil=../saved.pt"),
            "Net cannot be copied (TypeError: ")  # fmt: skip
