"""Overrides of data and run, each against the same change written into the script by hand: to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from forked import Forks
from overridden import Ran, run

from wellfit.errors import WellfitError
from wellfit.overrides.catalogue import parse

SCRIPT = """
import itertools
import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, Subset, TensorDataset

torch.manual_seed(0)
x = torch.rand(60, 6) + 2
y = (x[:, 0] > x[:, 1]).long() + (x[:, 2] > 2.5).long()
train_set = TensorDataset(x[:40], y[:40])
model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.2), nn.BatchNorm1d(8), nn.Linear(8, 3))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
loader = DataLoader(train_set, batch_size=10, shuffle=True)
test = DataLoader(TensorDataset(x[40:], y[40:]), batch_size=20)
print(len(loader), len(test))
# made
for epoch in range(3):
    model.train()
    for a, b in loader:
        # batch
        loss = nn.functional.cross_entropy(model(a), b)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(len(a), a.double().sum().item().hex(), loss.item().hex())
    model.eval()
    with torch.no_grad():
        for a, b in test:
            # tested
            print("test", len(a), nn.functional.cross_entropy(model(a), b).item().hex())
print("end", torch.rand(1).item())
"""
MAKE = "DataLoader(train_set, batch_size=10, shuffle=True)"
OWN = "torch.Generator().manual_seed(0)"
# Without a DataLoader; the last batch is smaller, and the input an image or what else is put there.
BY_INDEX = """
import torch
from torch import nn

torch.manual_seed(0)
x = 3 * torch.rand(50, 2, 5, 5) + 1
y = torch.randint(3, (50,))
model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
# made
for epoch in range(2):
    for rows in torch.randperm(40).split(16):
        a, b = x[rows], y[rows]
        # batch
        loss = nn.functional.cross_entropy(model(a), b)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(loss.item().hex())
    with torch.no_grad():
        a = x[40:]
        # tested
        print("test", model(a).sum().item().hex())
print("end", torch.rand(1).item())
"""


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks() as made:
        yield made


def changed(script: str, *pairs: tuple[str, str]) -> str:
    """The script with pieces of it replaced; lines for its places are given as ("# batch", "one; two")."""
    for old, new in pairs:
        assert old in script
        if old.startswith("#"):
            line = next(line for line in script.splitlines() if line.strip() == old)
            new = f"\n{line[: len(line) - len(old)]}".join(new.split("; "))
        script = script.replace(old, new)
    return script


def said(ran: Ran, name: str) -> str:
    """What an override says it changed."""
    assert ran.record is not None
    return "; ".join(next(made for made in ran.record.overrides.values() if made.name == name).changed)


def stopped(ran: Ran, sentence: str) -> None:
    """The run ended before anything was trained, with one sentence."""
    assert (ran.code, ran.err.count("\n")) == (2, 1), ran.err
    assert sentence in ran.err and "nothing was trained" in ran.err
    assert ran.record is None or ran.record.step_count == 0


NORMALIZED = "a = (a - mean) / std"
BY_HAND = [
    ("batch-size=16", SCRIPT, [("batch_size=10", "batch_size=16")], "DataLoader at train.py:13: batch size 10 -> 16"),
    (
        "batch-size=5,loaders:all",
        SCRIPT,
        [("batch_size=10", "batch_size=5"), ("batch_size=20", "batch_size=5")],
        "20 -> 5",
    ),
    ("shuffle=off", SCRIPT, [("shuffle=True", "shuffle=False")], "train.py:13: always in the data's order"),
    (
        "shuffle=on",
        SCRIPT.replace("shuffle=True", "shuffle=False"),
        [("shuffle=False", f"sampler=RandomSampler(train_set, generator={OWN})")],
        "another order in each epoch",
    ),
    (
        "limit-batches=3",
        SCRIPT,
        [("print(len(loader), ", "print(3, "), ("in loader:", "in itertools.islice(loader, 3):")],
        "DataLoader at train.py:19: an epoch ends after 3 of 4 batches",
    ),
    (
        "limit-data=0.5",
        SCRIPT,
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
        SCRIPT,
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
        SCRIPT,
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
    (
        "precision=float64",
        BY_INDEX,
        [("# made", "model.double()"), ("# batch", "a = a.double()"), ("# tested", "a = a.double()")],
        "Sequential at train.py:15: float32 -> float64",
    ),
    (
        "precision=bfloat16",
        BY_INDEX,
        [
            (
                "# batch",
                "amp = torch.autocast('cpu', torch.bfloat16); amp.__enter__(); out = model(a); "
                "amp.__exit__(None, None, None)",
            ),
            ("model(a), b", "out.float(), b"),
            ("        # tested", "        amp.__enter__()"),
            ("model(a).sum()", "model(a).float().sum()"),
            ('.hex())\nprint("end"', '.hex())\n        amp.__exit__(None, None, None)\nprint("end"'),
        ],
        "under autocast to bfloat16",
    ),
    (
        "precision=bfloat16,pure:on",
        BY_INDEX,
        [
            ("# made", "model.bfloat16()"),
            ("# batch", "a = a.bfloat16()"),
            ("# tested", "a = a.bfloat16()"),
            ("model(a), b", "model(a).float(), b"),
            ("model(a).sum()", "model(a).float().sum()"),
        ],
        "float32 -> bfloat16, weights too",
    ),
    (
        "precision=float32",
        changed(BY_INDEX, ("# made", "model.double()"), ("# batch", "a = a.double()"), ("# tested", "a = a.double()")),
        [("model.double()", "pass"), ("a.double()", "a")],
        "Sequential at train.py:15: float64 -> float32",
    ),
    ("mode=train", SCRIPT, [("model.eval()", "pass")], "always in train mode"),
    ("mode=eval", SCRIPT, [("model.train()", "model.eval()")], "always in eval mode"),
    (
        "mode=correct",
        changed(SCRIPT, ("model.eval()", "pass")),
        [("    pass", "    model.eval()")],
        "train mode where gradients",
    ),
    ("device=auto", SCRIPT, [], "on cpu, as it was"),
    (
        "stop-after=5",
        SCRIPT,
        [
            (
                "        print(len(a)",
                "        if optimizer.state[model[0].weight]['step'] == 5: raise SystemExit\n        print(len(a)",
            )
        ],
        "the program ends after step 5",
    ),
]


@pytest.mark.parametrize(
    ("override", "script", "pairs", "what"), BY_HAND, ids=[f"{n}-{row[0]}" for n, row in enumerate(BY_HAND)]
)
def test_as_by_hand(
    forks: Forks, tmp_path: Path, override: str, script: str, pairs: list[tuple[str, str]], what: str
) -> None:
    # GIVEN the change written into the script
    before, wanted = forks.run(tmp_path, script), forks.run(tmp_path, changed(script, *pairs))
    assert before.code == wanted.code == 0, wanted.err
    # WHEN the script runs as it is, under the override
    ran = forks.run(tmp_path, script, override)
    # THEN it prints the same, which is not what it prints without
    assert (ran.code, ran.lines) == (0, wanted.lines), ran.err
    assert ran.lines != before.lines or not pairs
    assert what in said(ran, override.partition("=")[0])


UNFIT = [
    ("batch-size=16", BY_INDEX, "found nothing to change: no DataLoader of the script makes batches for training"),
    (
        "batch-size=16",
        SCRIPT.replace("shuffle=True", "shuffle=False"),
        "it does not shuffle, as loaders for tests do not",
    ),
    (
        "batch-size=64",
        SCRIPT.replace("shuffle=True", "shuffle=True, drop_last=True"),
        "has only 40 items, fewer than a batch",
    ),
    (
        "shuffle=on",
        SCRIPT.replace("shuffle=True", "sampler=torch.utils.data.WeightedRandomSampler(torch.ones(40), 40)").replace(
            "batch_size=20", "batch_size=20, shuffle=True"
        ),
        "its sampler (WeightedRandomSampler) decides the order",
    ),
    ("limit-batches=3", BY_INDEX, "no DataLoader of the script gives more batches to the training"),
    ("limit-batches=4", SCRIPT, "it has only 4 batches"),
    ("limit-data=0.5", BY_INDEX, "data that it indexes itself stays"),
    ("limit-data=items:40", SCRIPT, "it has only 40 items"),
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
    ("augment=shift:1", SCRIPT, "its input is no batch of images"),
    ("shuffle-labels", changed(BY_INDEX, ("# batch", "b = b * 0")), "its targets are all the same"),
    ("precision=float32", SCRIPT, "it computes in float32"),
    ("device=cpu", SCRIPT, "it is on cpu already"),
    ("mode=eval", BY_INDEX, "it has neither dropout nor batch norm"),
]


@pytest.mark.parametrize(
    ("override", "script", "sentence"), UNFIT, ids=[f"{n}-{row[0]}" for n, row in enumerate(UNFIT)]
)
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
        "stop-after",
        "stop-after=0",
        "device=tpu",
        "precision=int8",
        "precision=float64,pure:on",
        "mode=both",
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
    assert "a false target for 50% of the items" in said(ran, "shuffle-labels")


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


def test_several_optimizers_end_together_and_the_exit_is_clean(tmp_path: Path) -> None:
    # GIVEN two optimizers, the second of which steps after the first
    script = """
        import atexit
        import torch
        from torch import nn
        atexit.register(lambda: print("goodbye"))
        one, two = nn.Linear(2, 1), nn.Linear(2, 1)
        first, second = (torch.optim.SGD(model.parameters(), lr=0.1) for model in (one, two))
        for step in range(9):
            for model, optimizer in ((one, first), (two, second)):
                model(torch.ones(1, 2)).sum().backward()
                optimizer.step()
                print(step, optimizer is second)
    """
    # WHEN the program shall end after three steps
    ran = run(tmp_path, script, "stop-after=3")
    # THEN both have made three, and the script's own goodbye is said
    assert ran.code == 0 and ran.lines[:7] == [f"{step} {second}" for step in range(3) for second in (False, True)] + [
        "goodbye"
    ]
    assert "stopped after step 3" in ran.err and "override stop-after=3: the program ends after step 3" in ran.err


def test_seconds_end_a_program(forks: Forks, tmp_path: Path) -> None:
    ran = forks.run(tmp_path, SCRIPT.replace("range(3)", "range(10**6)"), "stop-after=seconds:0.2")

    assert ran.code == 0 and ran.record is not None and ran.record.step_count > 1
    assert not any(line.startswith("end") for line in ran.lines)


def test_no_cuda_is_said_at_once(forks: Forks, tmp_path: Path) -> None:
    hidden = "import os\nos.environ['CUDA_VISIBLE_DEVICES'] = ''\n" + SCRIPT
    ran = forks.run(tmp_path, hidden, "device=cuda")

    stopped(ran, "here; nothing was trained")
    assert ran.lines == []


def test_training_in_eval_mode_is_led_back_to_train_mode(forks: Forks, tmp_path: Path) -> None:
    # GIVEN a script that trains in eval mode, and tests on the same model with gradients on
    ill = changed(SCRIPT, ("model.train()", "model.eval()"), ("    with torch.no_grad():", "    if True:"))
    # WHEN modes are made to fit
    ran = forks.run(tmp_path, ill, "mode=correct")
    # THEN all training but the first pass is in train mode, and the test, which no backward pass follows, is not
    by_hand = changed(
        ill, ("# made", "begun = False"), ("# batch", "model.train(begun); begun = True"), ("# tested", "model.eval()")
    )
    assert ran.lines == forks.run(tmp_path, by_hand).lines
    assert "Sequential at train.py:21: train mode from the second pass on" in said(ran, "mode")
    # THEN the record shows it
    assert ran.record is not None
    states = ran.record.events("forward-mode")
    assert states and states[-1]["training_layers"] and not states[-1]["eval_layers"]
