"""Overrides of the loss, each against the same change written into the script by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from forked import Forks
from written import changed, said

HEADS = """
import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
x, y = torch.randn(32, 6), torch.randint(0, 3, (32,))
b = (x[:, :1] > 0).float()
many = nn.Sequential(nn.Linear(6, 3), nn.Softmax(dim=1))
plain = nn.Linear(6, 3)
one = nn.Sequential(nn.Linear(6, 1), nn.Sigmoid())
optimizer = torch.optim.SGD([*many.parameters(), *plain.parameters(), *one.parameters()], lr=0.5)
for _ in range(3):
    losses = [F.cross_entropy(many(x), y), F.nll_loss(plain(x), y), F.binary_cross_entropy(one(x).squeeze(1), b[:, 0])]
    optimizer.zero_grad()
    sum(losses).backward()
    optimizer.step()
    print([loss.item() for loss in losses], many(x).sum().item())
"""


def test_losses_get_what_they_expect(forks: Forks, tmp_path: Path) -> None:
    hand = changed(
        HEADS,
        ("cross_entropy(many(x)", "cross_entropy(many[0](x)"),
        ("nll_loss(plain(x)", "nll_loss(plain(x).log_softmax(1)"),
        ("F.binary_cross_entropy(one(x)", "F.binary_cross_entropy_with_logits(one[0](x)"),
    )
    ran = forks.run(tmp_path, HEADS, "loss=pair")
    assert ran.lines == forks.plain(tmp_path, hand)
    assert "gets the raw scores instead of softmax's output" in str(said(ran, "loss"))


OTHERS = """
import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
x, y = torch.randn(32, 6), torch.randint(0, 3, (32,))
numbers, b = 3 * x[:, :2] + torch.randn(32, 2), (x[:, :1] > 0).float()
onehot, pixels = F.one_hot(y, 3).float(), torch.randint(0, 3, (32, 2, 2))
pixels[::4] = 7
many, two, one, picture = nn.Linear(6, 3), nn.Linear(6, 2), nn.Linear(6, 1), nn.Linear(6, 12)
models = nn.ModuleList([many, two, one, picture])
optimizer = torch.optim.SGD(models.parameters(), lr=0.1)
for _ in range(3):
    losses = [
        F.cross_entropy(many(x), y, weight=torch.tensor([1.0, 2.0, 3.0]), label_smoothing=0.1),
        F.cross_entropy(picture(x).view(32, 3, 2, 2), pixels, ignore_index=7, reduction="sum"),
        F.nll_loss(many(x).log_softmax(1), y),
        F.mse_loss(two(x), numbers),
        F.mse_loss(many(x).softmax(1), onehot),
        F.mse_loss(one(x).sigmoid(), b),
        F.binary_cross_entropy_with_logits(one(x), b),
        F.binary_cross_entropy(one(x).sigmoid(), b),
        F.kl_div(many(x).log_softmax(1), onehot, reduction="batchmean"),
    ]
    optimizer.zero_grad()
    sum(losses).backward()
    optimizer.step()
    print([loss.item() for loss in losses])
"""
ROWS = "picture(x).view(32, 3, 4).transpose(1, 2).reshape(-1, 3)[used]"
CLASSES = "F.one_hot(pixels.reshape(-1)[used], 3).float(), reduction='sum'"
USED = ("optimizer = ", "used = pixels.reshape(-1) != 7\noptimizer = ")


def regression(name: str) -> list[tuple[str, str]]:
    """What is written by hand for a loss of numbers."""
    return [
        USED,
        ("cross_entropy(many(x), y, weight=torch.tensor([1.0, 2.0, 3.0]), label_smoothing=0.1)",
         f"{name}(many(x).softmax(1), onehot)"),
        ("cross_entropy(picture(x).view(32, 3, 2, 2), pixels, ignore_index=7, reduction=\"sum\")",
         f"{name}({ROWS}.softmax(1), {CLASSES})"),
        ("nll_loss(many(x).log_softmax(1), y)", f"{name}(many(x).log_softmax(1).exp(), onehot)"),
        ("mse_loss", name),
        ("binary_cross_entropy_with_logits(one(x)", f"{name}(one(x).sigmoid()"),
        ("binary_cross_entropy(", f"{name}("),
    ]  # fmt: skip


BCE = "binary_cross_entropy_with_logits"
BY_HAND = {
    "mse": regression("mse_loss"),
    "l1": regression("l1_loss"),
    "smooth-l1": regression("smooth_l1_loss"),
    "huber": regression("huber_loss"),
    "bce": [
        USED,
        ("cross_entropy(many(x), y, weight=torch.tensor([1.0, 2.0, 3.0]), label_smoothing=0.1)",
         f"{BCE}(many(x), onehot)"),
        ("cross_entropy(picture(x).view(32, 3, 2, 2), pixels, ignore_index=7, reduction=\"sum\")",
         f"{BCE}({ROWS}, {CLASSES})"),
        ("nll_loss(many(x).log_softmax(1), y)", "binary_cross_entropy(many(x).log_softmax(1).exp(), onehot)"),
        ("mse_loss(many(x).softmax(1)", "binary_cross_entropy(many(x).softmax(1)"),
        ("mse_loss(one(x).sigmoid()", f"{BCE}(one(x)"),
    ],
    "cross-entropy": [
        ("nll_loss(", "cross_entropy("),
        ("mse_loss(many(x).softmax(1), onehot)", "cross_entropy(many(x), y)"),
    ],
}  # fmt: skip
LEFT = {  # the line of OTHERS, why
    "bce": {16: "its targets are not between 0 and 1"},
    "cross-entropy": {
        16: "its targets are no classes",
        **dict.fromkeys((18, 19, 20), "the model has one output, and cross-entropy needs one for each class"),
    },
}


@pytest.mark.parametrize("kind", BY_HAND)
def test_another_loss(forks: Forks, tmp_path: Path, kind: str) -> None:
    ran = forks.run(tmp_path, OTHERS, f"loss={kind}")
    assert ran.lines == forks.plain(tmp_path, changed(OTHERS, *BY_HAND[kind])) != forks.plain(tmp_path, OTHERS)
    left = said(ran, "loss")[1]
    assert sorted(why for _, why in left) == sorted([*LEFT.get(kind, {}).values(), "its targets mean something else"])


def test_what_a_softmax_was_made_of_is_not_saved_with_it(forks: Forks, tmp_path: Path) -> None:
    script = HEADS + "import io\nsaved = io.BytesIO()\ntorch.save(many(x), saved)\nsaved.seek(0)\n"
    script += "print(vars(torch.load(saved)), vars(many(x)))\n"
    assert forks.run(tmp_path, script, "loss=pair").lines[-1] == "{} {}"


def test_scores_inside_of_a_model_are_not_kept(forks: Forks, tmp_path: Path) -> None:
    script = """
    import gc, weakref
    import torch
    import torch.nn.functional as F
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.scores, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
        def forward(self, x):
            scores = self.scores(x)
            alive.append(weakref.ref(scores))
            return self.head(scores.softmax(1)).softmax(1)
    alive, x, y = [], torch.randn(8, 4), torch.randint(0, 3, (8,))
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(2):
        given = model(x)
        print(alive[-1]() is None)
        loss = F.cross_entropy(given, y)
        loss.backward()
        optimizer.step()
    """
    ran = forks.run(tmp_path, script, "loss=pair")
    assert ran.lines[-1] == "True" and "gets the raw scores" in str(said(ran, "loss")), ran.err
