"""Overrides of data, each against the same change written into the script by hand: to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
from fed import BY_INDEX, LOADED, MAKE, OWN
from forked import Forks
from overridden import Ran
from written import changed, each, said, same_as_by_hand, stopped

from wellfit.errors import WellfitError
from wellfit.overrides.catalogue import parse

NORMALIZED = "a = (a - mean) / std"
BY_HAND = [
    ("batch-size=16", LOADED, [("batch_size=10", "batch_size=16")], "DataLoader at train.py:13: batch size 10 -> 16"),
    (
        "batch-size=5,loaders:all",
        LOADED,
        [("batch_size=10", "batch_size=5"), ("batch_size=20", "batch_size=5")],
        "20 -> 5",
    ),
    ("shuffle=off", LOADED, [("shuffle=True", "shuffle=False")], "train.py:13: always in the data's order"),
    (
        "shuffle=on",
        LOADED.replace("shuffle=True", "shuffle=False"),
        [("shuffle=False", f"sampler=RandomSampler(train_set, generator={OWN})")],
        "another order in each epoch",
    ),
    (
        "limit-batches=3",
        LOADED,
        [("print(len(loader), ", "print(3, "), ("in loader:", "in itertools.islice(loader, 3):")],
        "DataLoader at train.py:19: an epoch ends after 3 of 4 batches",
    ),
    (
        "limit-data=0.5",
        LOADED,
        [
            (
                MAKE,
                MAKE.replace("train_set", f"Subset(train_set, torch.randperm(40, generator={OWN})[:20].sort().values)"),
            )
        ],
        "20 of 40 items",
    ),
    (
        "limit-data=items:7",
        LOADED,
        [
            (
                MAKE,
                MAKE.replace("train_set", f"Subset(train_set, torch.randperm(40, generator={OWN})[:7].sort().values)"),
            )
        ],
        "7 of 40 items",
    ),
    (
        "one-batch",
        LOADED,
        [("# made", "first = None"), ("# batch", "first = first or (a, b); a, b = first")],
        "DataLoader",
    ),
    (
        "one-batch",
        BY_INDEX,
        [("# made", "first = None"), ("# batch", "first = first or (a, b); a, b = (part[: len(a)] for part in first)")],
        "Sequential at train.py:15: its first input again and again; cross_entropy at train.py:15: the first target",
    ),
    (
        "zero-input",
        BY_INDEX,
        [("# batch", "a = a * 0"), ("# tested", "a = a * 0")],
        "input of Sequential at train.py:15: zeros",
    ),
    (
        "normalize-input=1",
        BY_INDEX,
        [
            ("# made", "mean = None"),
            (
                "# batch",
                "d = a.double(); mean = d.mean((0, 2, 3)).float().view(2, 1, 1) if mean is None else mean; "
                "std = d.var((0, 2, 3), correction=0).sqrt().float().view(2, 1, 1) if epoch == 0 and len(a) == 16 and "
                f"'std' not in dir() else std; {NORMALIZED}",
            ),
            ("# tested", NORMALIZED),
        ],
        "mean 0 and std 1 for each of 2 channels (were 2.5",
    ),
    (
        "shuffle-features",
        BY_INDEX,
        [
            ("# made", f"g = {OWN}"),
            ("# batch", "f = a.flatten(1); a = f.gather(0, torch.rand(f.shape, generator=g).argsort(0)).view(a.shape)"),
            (
                "# tested",
                "f = a.flatten(1); a = f.gather(0, torch.rand(f.shape, generator=g).argsort(0)).view(a.shape)",
            ),
        ],
        "each of 50 features permuted over the batch",
    ),
    (
        "shuffle-features=features",
        BY_INDEX,
        [
            ("# made", f"order = torch.randperm(50, generator={OWN})"),
            ("# batch", "a = a.flatten(1)[:, order].view(a.shape)"),
            ("# tested", "a = a.flatten(1)[:, order].view(a.shape)"),
        ],
        "its 50 features in another order",
    ),
    (
        "augment=0.1",
        BY_INDEX,
        [
            ("# made", f"g = {OWN}"),
            ("# batch", "a = a + torch.randn(a.shape, generator=g) * (0.1 * a.std(correction=0))"),
        ],
        "noise of 0.1 of its std, in training",
    ),
    (
        "augment=flip:on",
        BY_INDEX,
        [
            ("# made", f"g = {OWN}"),
            ("# batch", "a = torch.where(torch.rand(len(a), 1, 1, 1, generator=g) < 0.5, a.flip(3), a)"),
        ],
        "mirrored",
    ),
    (
        "shuffle-labels=0.5,per:batch",
        BY_INDEX,
        [
            ("# made", f"g = {OWN}"),
            (
                "# batch",
                "c = torch.randperm(len(b), generator=g)[: round(len(b) / 2)]; b = b.clone(); "
                "b[c] = b[c[torch.randperm(len(c), generator=g)]]",
            ),
        ],
        "50% of the targets of each batch dealt out anew",
    ),
]


@each("override, script, pairs, what", BY_HAND)
def test_as_by_hand(
    forks: Forks, tmp_path: Path, override: str, script: str, pairs: list[tuple[str, str]], what: str
) -> None:
    same_as_by_hand(forks, tmp_path, override, script, pairs, what)


MET = [
    (
        "shuffle=on",
        LOADED.replace("shuffle=True", "sampler=torch.utils.data.WeightedRandomSampler(torch.ones(40), 40)").replace(
            "batch_size=20", "batch_size=20, shuffle=True"
        ),
        "its sampler (WeightedRandomSampler) decides the order",
    ),
    ("limit-batches=4", LOADED, "it has only 4 batches"),
    ("limit-data=items:40", LOADED, "it has only 40 items"),
]


@each("override, script, sentence", MET)
def test_what_is_so_already_is_left(forks: Forks, tmp_path: Path, override: str, script: str, sentence: str) -> None:
    ran = forks.run(tmp_path, script, override)
    changes, omissions = said(ran, override.partition("=")[0])
    assert ran.code == 0 and not changes
    assert sentence in [why for _, why in omissions]


UNFIT = [
    (
        "batch-size=16",
        BY_INDEX,
        "found nothing to change by the first step: no DataLoader of the script makes batches for training",
    ),
    (
        "batch-size=16",
        LOADED.replace("shuffle=True", "shuffle=False"),
        "it does not shuffle, as loaders for tests do not",
    ),
    (
        "batch-size=64",
        LOADED.replace("shuffle=True", "shuffle=True, drop_last=True"),
        "has only 40 items, fewer than a batch",
    ),
    ("limit-batches=3", BY_INDEX, "no DataLoader of the script gives more batches to the training"),
    ("limit-data=0.5", BY_INDEX, "data that it indexes itself stays"),
    (
        "one-batch",
        changed(BY_INDEX, ("nn.functional.cross_entropy(model(a), b)", "-model(a).log_softmax(1)[:, 0].mean()")),
        "the script computes its loss by hand",
    ),
    (
        "one-batch",
        changed(BY_INDEX, ("model(a), b", "model(a) + model(a.flip(3)), b")),
        "several times for one backward pass",
    ),
    (
        "one-batch",
        changed(BY_INDEX, ("model(a), b", "model(a)[b > 0], b[b > 0]")),
        "between model and loss other data come in",
    ),
    (
        "one-batch",
        changed(BY_INDEX, ("# made", "maker = nn.Conv2d(2, 2, 1)"), ("# batch", "a = maker(a).detach()")),
        "is fed with what another model made",
    ),
    (
        "normalize-input",
        changed(
            BY_INDEX,
            ("nn.Conv2d(2, 4, 3)", "nn.Embedding(9, 2), nn.Flatten(), nn.Linear(100, 36)"),
            ("# batch", "a = a.long()"),
            ("model(a).sum()", "model(a.long()).sum()"),
        ),
        "its input are whole numbers",
    ),
    ("augment=shift:1", LOADED, "its input is no batch of images"),
    ("shuffle-labels", changed(BY_INDEX, ("# batch", "b = b * 0")), "its targets are all the same"),
]


@each("override, script, sentence", UNFIT)
def test_where_it_does_not_fit(forks: Forks, tmp_path: Path, override: str, script: str, sentence: str) -> None:
    ran = forks.run(tmp_path, script, override)

    stopped(ran, sentence)
    assert not any(line.startswith("0x") for line in ran.lines)


@pytest.mark.parametrize(
    "override",
    [
        "batch-size=0",
        "shuffle=perhaps",
        "limit-batches=0",
        "limit-data",
        "limit-data=0.5,items:3",
        "limit-data=1.5",
        "normalize-input=0",
        "augment",
        "augment=-1",
        "shuffle-features=rows",
        "shuffle-labels=0",
    ],
)
def test_refused(override: str) -> None:
    with pytest.raises(WellfitError):
        parse([override])


# A model that does not learn and tells each item's label by its loss.
TELLING = """
import torch
from torch import nn

torch.manual_seed(0)
x, y = torch.randn(200, 6), torch.randint(3, (200,))
model = nn.Linear(6, 3)
with torch.no_grad():
    model.weight.zero_()
    model.bias.copy_(torch.tensor([0.0, 1.0, 3.0]))
optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
for epoch in range(3):
    for rows in torch.randperm(200).split(48):
        losses = nn.functional.cross_entropy(model(x[rows]), y[rows], reduction="none")
        losses.mean().backward()
        optimizer.step()
        told = (model.bias.detach().logsumexp(0) - losses.detach().unsqueeze(1) - model.bias.detach()).abs().argmin(1)
        print(*(f"{row}:{label}:{true}" for row, label, true in zip(rows.tolist(), told.tolist(), y[rows].tolist())))
"""


def told(ran: Ran) -> dict[int, set[tuple[int, int]]]:
    """The pairs (label in the loss, true label) of each item."""
    found: dict[int, set[tuple[int, int]]] = {}
    for word in ran.out.split():
        item, label, true = map(int, word.split(":"))
        found.setdefault(item, set()).add((label, true))
    return found


def test_a_false_label_is_the_same_for_the_whole_run(forks: Forks, tmp_path: Path) -> None:
    ran = forks.run(tmp_path, TELLING, "shuffle-labels=0.5")

    labels = told(ran)
    assert ran.code == 0 and len(labels) == 200
    assert all(len(pairs) == 1 for pairs in labels.values())
    false = sum(label != true for pairs in labels.values() for label, true in pairs)
    assert 45 <= false <= 89  # binomial: 200 * 1/2 * 2/3 = 67, standard deviation 6.7
    assert "a false target for 50% of the items" in said(ran, "shuffle-labels")[0][0]


def test_labels_dealt_out_anew_are_those_of_the_batch(forks: Forks, tmp_path: Path) -> None:
    ran = forks.run(tmp_path, TELLING, "shuffle-labels=1,per:batch")

    assert any(len(pairs) > 1 for pairs in told(ran).values())
    for line in ran.lines:
        pairs = [word.split(":")[1:] for word in line.split()]
        assert sorted(label for label, _ in pairs) == sorted(true for _, true in pairs)


def test_shifts_move_each_image(forks: Forks, tmp_path: Path) -> None:
    # GIVEN a model that prints what it is given: images that tell their own rows and columns
    script = """
        import torch
        from torch import nn
        torch.manual_seed(0)
        images = (10 * torch.arange(6.0).view(6, 1) + torch.arange(6.0)).expand(40, 1, 6, 6)
        class Telling(nn.Linear):
            def forward(self, x):
                if self.training:
                    print(*{int(image[0, 2, 3]) for image in x}, *{int(image[0, 0, 0]) for image in x})
                return super().forward(x.flatten(1))
        model = Telling(36, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
        model(images).sum().backward()
        optimizer.step()
        with torch.no_grad():
            model(images)
    """
    # WHEN they are shifted by one pixel at most
    trained, tested = forks.run(tmp_path, script, "augment=shift:1").lines
    # THEN all nine places are met in training, at the rim as far as there are pixels, and nothing moves in evaluation
    assert set(map(int, trained.split())) == {row * 10 + column for row in (1, 2, 3) for column in (2, 3, 4)} | {
        0,
        1,
        10,
        11,
    }
    assert tested.split() == ["23", "0"]
