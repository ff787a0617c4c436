"""Overrides of DataLoaders: which of them a batch belongs to, samplers, and what scripts ask of what they iterate."""

from __future__ import annotations

import pytest
from fed import OWN
from overridden import Run
from written import changed, said

# One batch -----------------------------------------------------------------------------------------------------------

EPOCHS = """
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

torch.manual_seed(0)
x = torch.randn(48, 4)
y = x.sum(1, keepdim=True)
models = [nn.Linear(4, 1), nn.Linear(7, 1)]
optimizer = torch.optim.SGD([p for model in models for p in model.parameters()], lr=0.01)
def loaded(*tensors):
    return DataLoader(TensorDataset(*tensors), batch_size=16, shuffle=True)
def train(loader, model=models[0]):
    seen = set()
    for a, b in loader:
        seen.add(a.sum().item())
        optimizer.zero_grad()
        nn.functional.mse_loss(model(a), b).backward()
        optimizer.step()
    return seen
# epochs
"""


@pytest.mark.parametrize(
    "epochs",
    [
        "print(len(set().union(*(train(loaded(x, y)) for _ in range(3)))))",
        "seen = set()\nfor _ in range(3):\n    loader = loaded(x.clone(), y)\n    seen |= train(loader)\n"
        "print(len(seen))",
        "loader = loaded(x, y)\nprint(len(set().union(*(train(loader) for _ in range(3)))))",
        # more and more data
        "print(len(set().union(*(train(loaded(x[:end], y[:end])) for end in (16, 32, 48)))))",
        # no longer there by name, with series of changing length
        "texts = [torch.randn(2 + i % 5, 4) for i in range(12)]\nseen, model = set(), models[0]\n"
        "pad = nn.utils.rnn.pad_sequence\nfor batch in DataLoader(texts, batch_size=4, shuffle=True, collate_fn=pad):\n"
        "    seen.add(batch.sum().item())\n    model(batch).square().mean().backward()\n    optimizer.step()\n"
        "print(len(seen))",
        # streams, made anew
        "class Stream(IterableDataset):\n    def __iter__(self):\n        return zip(x[torch.randperm(48)], y)\n"
        "print(len(set().union(*(train(DataLoader(Stream(), batch_size=16)) for _ in range(3)))))",
    ],
)
def test_one_batch_is_one_where_its_loader_is_made_anew(run: Run, epochs: str) -> None:
    ran = run(changed(EPOCHS, ("# epochs", "XX")).replace("XX", epochs), "one-batch")
    assert (ran.code, ran.lines) == (0, ["1"]), ran.err
    assert len(said(ran, "one-batch")[0]) == 1


@pytest.mark.parametrize(
    "epochs",
    [
        # both there at once
        "one, two = (loaded(part, y) for part in (x, x + 100))\nprint([len(train(l)) for l in (one, two)])\n"
        "print(len(train(one) | train(two)), train(one) != train(two))",
        # the first is gone, and the second gives items of another shape
        "print(len(train(loaded(x, y))))\nprint(len(train(loaded(torch.randn(48, 7), y), models[1])))",
    ],
)
def test_loaders_of_one_line_that_give_other_data_have_batches_of_their_own(run: Run, epochs: str) -> None:
    ran = run(changed(EPOCHS, ("# epochs", "XX")).replace("XX", epochs), "one-batch")
    assert ran.code == 0, ran.err
    assert ran.out in ("[1, 1]\n2 True\n", "1\n1\n")


def test_batches_of_changing_length_are_one_batch(run: Run) -> None:
    """The last is smaller, texts are longer or shorter, images come in lists."""
    ran = run(
        """
        import torch
        from torch import nn
        from torch.utils.data import DataLoader
        torch.manual_seed(0)
        texts = [torch.randint(9, (3 + i % 5,)) for i in range(10)]
        def padded(items):
            ids = nn.utils.rnn.pad_sequence(items, batch_first=True)
            return {"ids": ids, "each": items, "names": ["a"] * len(items)}
        model = nn.EmbeddingBag(9, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        seen = set()
        for epoch in range(3):
            for batch in DataLoader(texts, batch_size=4, shuffle=True, collate_fn=padded):
                seen.add((str(batch["ids"].tolist()), str(batch["each"])))
                optimizer.zero_grad()
                model(batch["ids"]).square().mean().backward()
                optimizer.step()
        print(len(seen))
        """,
        "one-batch",
    )  # fmt: skip
    assert (ran.code, ran.lines) == (0, ["1"]), ran.err


# Samplers ------------------------------------------------------------------------------------------------------------

SAMPLED = """
import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, Subset, TensorDataset

torch.manual_seed(0)
small, large = TensorDataset(torch.arange(20.0)), TensorDataset(torch.arange(100.0))
def drawn(data, **options):
    return RandomSampler(data, generator=torch.Generator().manual_seed(1), **options)
model = nn.Linear(1, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
one = DataLoader(small, batch_size=5, sampler=drawn(small, replacement=True, num_samples=10))
two = DataLoader(large, batch_size=10, sampler=drawn(large, replacement=True, num_samples=200))
three = DataLoader(large, batch_size=10, sampler=drawn(large))
for loader in (one, two, three):
    print(len(loader))
    for (x,) in loader:
        print(x.tolist())
        model(x[:, None]).square().mean().backward()
        optimizer.step()
"""


def test_samplers_keep_their_meaning_where_data_is_limited(run: Run) -> None:
    ran = run(SAMPLED, "limit-data=items:30")
    part = f"large = Subset(large, torch.randperm(100, generator={OWN})[:30].sort().values.tolist())"
    by_hand = run(changed(SAMPLED, ("model = nn", f"{part}\nmodel = nn")))
    assert (ran.code, ran.lines) == (0, by_hand.lines), ran.err
    assert [line for line in ran.lines if "[" not in line] == ["2", "20", "3"]
    assert said(ran, "limit-data") == (
        [f"DataLoader at train.py:{line}: 30 of 100 items" for line in (13, 14)],
        [("DataLoader at train.py:12", "it has only 20 items")],
    )


# What is iterated over -----------------------------------------------------------------------------------------------

ASKED = """
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

class Stream(IterableDataset):
    def __iter__(self):
        return iter(torch.ones(12, 4))
torch.manual_seed(0)
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loader = DataLoader(torch.randn(12, 4), batch_size=4, shuffle=True)
batches = iter(loader)
print(len(batches), batches._num_workers, iter(batches) is batches, hasattr(batches, "nothing"))
for number in range(len(batches)):
    optimizer.zero_grad()
    model(next(batches)).square().mean().backward()
    optimizer.step()
print(next(batches, "end"), next(batches, "end"))
try:
    len(iter(DataLoader(Stream(), batch_size=4)))
except TypeError:
    print("no length")
print(len(list(DataLoader(Stream(), batch_size=4))))
"""


@pytest.mark.parametrize(("override", "length"), [("limit-batches=2", 2), ("one-batch", 3)])
def test_what_is_iterated_over_answers_as_torchs_does(run: Run, override: str, length: int) -> None:
    ran, plain = run(ASKED, override), run(ASKED)
    assert plain.lines == ["3 0 True False", "end end", "no length", "3"], plain.err
    assert ran.lines == [f"{length} 0 True False", "end end", "no length", str(length)], ran.err
