"""Overrides of what a model is given where that is unusual: with a gradient, with one axis."""

from __future__ import annotations

import pytest
from overridden import Run
from written import changed, said

PENALTY = """
import torch
from torch import nn
torch.manual_seed(0)
critic = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
optimizer = torch.optim.Adam(critic.parameters(), lr=0.01)
def penalty(given):
    (gradient,) = torch.autograd.grad(critic(given).sum(), given, create_graph=True)
    return gradient, ((gradient.norm(dim=1) - 1) ** 2).mean()
for step in range(3):
    real, fake, share = torch.randn(8, 4), torch.randn(8, 4), torch.rand(8, 1)
    between = share * real + (1 - share) * fake
    # between
    between.requires_grad_()
    # first
    loss = critic(fake).mean() - critic(real).mean()
    gradient, extra = penalty(between)
    optimizer.zero_grad()
    (loss + 10 * extra).backward()
    optimizer.step()
    print(loss.item(), extra.item(), gradient.abs().sum().item())
"""


@pytest.mark.parametrize("first", ["pass", "penalty(between)"])
@pytest.mark.parametrize("between", ["pass", "between[0, 0] = torch.nan"])
def test_a_penalty_on_the_gradient_for_zeros(run: Run, between: str, first: str) -> None:
    ran = run(changed(PENALTY, ("# between", between), ("# first", first)), "zero-input")
    assert (ran.code, ran.lines) == (0, ["0.0 1.0 0.0"] * 3), ran.err


def test_what_another_model_or_an_optimizer_makes_is_no_data(run: Run) -> None:
    ran = run(
        """
        import torch
        from torch import nn
        torch.manual_seed(0)
        picture, maker, judge = torch.ones(4, 3, requires_grad=True), nn.Linear(3, 3), nn.Linear(3, 1)
        class Judge(nn.Linear):
            pass
        other = Judge(3, 1)
        optimizer = torch.optim.SGD([picture, *maker.parameters()], lr=0.1)
        for step in range(2):
            optimizer.zero_grad()
            given = maker(torch.ones(4, 3))
            (judge(given).mean() + other(picture).mean()).backward()
            print(given.equal(maker.bias.expand(4, 3)), picture.grad.abs().sum().item() > 0)
            optimizer.step()
        """,
        "zero-input",
    )  # fmt: skip
    assert ran.lines == ["True True"] * 2, ran.err
    changes, left = said(ran, "zero-input")
    assert [what.split(" at ")[0] for what in changes] == ["input of Linear"]
    assert [(what.split(" at ")[0], why) for what, why in left] == [
        ("Linear", "another model feeds it"), ("Judge", "its input is trained")
    ]  # fmt: skip


AXIS = """
import torch
from torch import nn
torch.manual_seed(0)
class Model(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.layer = nn.Linear(size, 1)
    def forward(self, x):
        print([round(number, 4) for number in (x.mean().item(), x.std(correction=0).item())])
        return self.layer(x if x.shape[-1] == self.layer.in_features else x[:, None])
model = Model(1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for step in range(3):
    x = torch.rand(8) * 100 + 7
    # given
    loss = model(x).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""


def test_numbers_that_are_single_items_are_one_feature(run: Run) -> None:
    ran = run(AXIS, "normalize-input=1")
    assert ran.code == 0 and eval(ran.lines[0]) == pytest.approx([0, 1], abs=1e-3), ran.out
    assert all(abs(mean) < 2 and 0.2 < std < 3 for mean, std in map(eval, ran.lines))
    assert "mean 0 and std 1 (were " in said(ran, "normalize-input")[0][0]


def test_a_single_item_has_features(run: Run) -> None:
    """First a state, as in an environment, then a batch of them."""
    states = "x = x.view(2, 4) * torch.tensor([1.0, 10.0, 100.0, 1000.0]); model(x[0])"
    script = changed(AXIS, ("Model(1)", "Model(4)"), ("# given", states))
    ran = run(script, "normalize-input=4")
    assert ran.code == 0, ran.err
    assert "for each of 4 features" in said(ran, "normalize-input")[0][0]
