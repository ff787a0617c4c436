"""Whether a target stands among the inputs, and how inputs of evaluation are scaled: against the same by hand."""

from __future__ import annotations

import pytest
from overridden import Run

HEAD = """
import torch
from torch import nn
import torch.nn.functional as F

torch.manual_seed(0)
"""


def program(model: str, batch: str, loss: str, evaluate: str = "") -> str:
    return (
        HEAD
        + f"""
model = {model}
optimizer = torch.optim.SGD(model.parameters(), 0.01)
for step in range(4):
    {batch}
    optimizer.zero_grad()
    {loss}.backward()
    optimizer.step()
{evaluate}
"""
    )


TABLE = "x = torch.randn(16, 5); y = x[:, 3].clone()"
LAST = "x = torch.randn(16, 7, 2); y = x[:, -1, 1:].clone()"
FIRST_TIME = "x = torch.randn(7, 16, 2); y = x[-1, :, 0].clone()"
LABELS = "y = torch.arange(16) % 3; x = torch.cat([torch.randn(16, 4), y.float()[:, None]], 1)"
SEQUENCE = "nn.Sequential(nn.Flatten(), nn.Linear(14, 1))"


@pytest.mark.parametrize(
    ("model", "batch", "loss", "wanted"),
    [
        ("nn.Linear(5, 1)", TABLE, "F.mse_loss(model(x)[:, 0], y)", [16, 16, 5, 1, 3]),
        (SEQUENCE, LAST, "F.mse_loss(model(x), y)", [16, 16, 9, 2, 1]),  # of the last step, and the last of its feature
        ("nn.Linear(2, 1)", FIRST_TIME, "F.mse_loss(model(x)[-1, :, 0], y)", [16, 16, 2, 1, 0]),
        ("nn.Linear(5, 3)", LABELS, "F.cross_entropy(model(x), y)", [16, 3, 5, 1, 4]),
        ("nn.Linear(5, 1)", "x = torch.randn(16, 5); y = x[:, 3] + 1", "F.mse_loss(model(x)[:, 0], y)",
         [16, 16, 5, 0, -1]),
        ("nn.Linear(5, 1)", "x = torch.randn(16, 5); y = x[:, step].clone()", "F.mse_loss(model(x)[:, 0], y)",
         [16, 16, 5, 0, -1]),
    ],
)  # fmt: skip
def test_a_target_among_the_columns(run: Run, model: str, batch: str, loss: str, wanted: list[int]) -> None:
    ran = run(program(model, batch, loss))
    assert ran.record is not None, ran.err
    answer = ran.record.series("answer", "0")
    names = ("rows", "distinct", "columns", "always", "column")
    assert len(answer) >= 2
    assert [answer[name][-1] for name in names] == wanted


@pytest.mark.parametrize(
    ("model", "batch", "loss"),
    [
        ("nn.Linear(5, 5)", "x = torch.randn(16, 5)", "F.mse_loss(model(x), x)"),  # an autoencoder
        ("nn.Linear(1, 1)", "x = torch.randn(16, 1)", "F.mse_loss(model(x), x)"),
        ("nn.Linear(5, 1)", "x = torch.randn(4, 5); y = x[:, 0]", "F.mse_loss(model(x)[:, 0], y)"),  # few rows
        ("nn.Linear(5, 1)", "x = torch.zeros(16, 5); y = x[:, 0]", "F.mse_loss(model(x)[:, 0], y)"),  # all alike
    ],
)  # fmt: skip
def test_what_is_not_compared(run: Run, model: str, batch: str, loss: str) -> None:
    ran = run(program(model, batch, loss))
    assert ran.record is not None, ran.err
    assert not ran.record.subjects("answer")


TOKENS = "ids = torch.randint(9, (4, 11))"
LANGUAGE = "nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 9))"
OWN_LOSS = """
class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 9))

    def forward(self, ids, target):
        return F.cross_entropy(self.layers(ids).flatten(0, 1), target.reshape(-1))
"""


@pytest.mark.parametrize(
    ("loss", "same"),
    [
        ("F.cross_entropy(model(ids).flatten(0, 1), ids.flatten())", 1.0),
        ("F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())", None),
        ("F.cross_entropy(model(ids).flatten(0, 1), ids.where(ids > 4, -100).flatten())", 1.0),
    ],
)
def test_tokens_that_are_their_own_target(run: Run, loss: str, same: float | None) -> None:
    ran = run(program(LANGUAGE, TOKENS, loss))
    assert ran.record is not None, ran.err
    answer = ran.record.series("answer", "0")
    assert answer["argument"].tolist() == [0] * len(answer)
    assert answer["tokens"].tolist() == [1] * len(answer)
    assert (answer["same"] == 1).all() if same else (answer["same"] < 0.5).all()


def test_a_model_that_is_given_the_target_for_its_loss_does_not_see_it(run: Run) -> None:
    ran = run(HEAD + OWN_LOSS + """
model = Own()
optimizer = torch.optim.SGD(model.parameters(), 0.1)
for step in range(3):
    ids = torch.randint(9, (4, 11))
    model(ids[:, :-1], ids[:, 1:]).backward()
    optimizer.step()
""")  # fmt: skip
    assert ran.record is not None, ran.err
    answer = ran.record.series("answer", "0")
    assert len(answer) and (answer["same"] < 0.5).all() and (answer["argument"] == 0).all()


def test_the_scale_of_evaluation_inputs(run: Run) -> None:
    evaluate = "model.eval()\nwith torch.no_grad():\n    model(torch.tensor([[3.0, -1.0], [5.0, 1.0]]))"
    ran = run(program("nn.Linear(2, 1)", "x = torch.randn(8, 2)", "model(x).mean()", evaluate))
    assert ran.record is not None, ran.err
    (event,) = ran.record.events("evaluation")
    assert event["input"] == pytest.approx([4.0, 2.0, 3.0, 5.0])


def test_a_part_of_a_model_is_not_compared_with_the_whole(run: Run) -> None:
    model = "nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))"
    evaluate = "model.eval()\nwith torch.no_grad():\n    model[1](torch.randn(8, 2))"
    ran = run(program(model, "x = torch.randn(8, 2)", "model(x).mean()", evaluate))
    assert ran.record is not None, ran.err
    assert [event["input"] for event in ran.record.events("evaluation")] == [[]]
