"""Statistics of labels, norms, gates, clipping and samples: against the same computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from overridden import Run

HEAD = """
import torch
from torch import nn
import torch.nn.functional as F

torch.manual_seed(0)
"""


def test_labels_are_counted(run: Run) -> None:
    ran = run(
        HEAD
        + """
model = nn.Linear(4, 3)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
for label in (0, 0, 1):
    optimizer.zero_grad()
    target = torch.tensor([label, label, 2, -100])
    F.cross_entropy(model(torch.randn(4, 4)), target).backward()
    optimizer.step()
"""
    )
    assert ran.record is not None, ran.err
    labels = ran.record.series("labels", "0")
    assert labels["count"].tolist() == [4, 4, 4]
    assert labels["classes"].tolist() == [2, 2, 3]
    assert labels["ignored"] == pytest.approx(0.25)
    assert labels["batch_most"] == pytest.approx(2 / 3)
    assert labels["most"] == pytest.approx([2 / 3, 2 / 3, 4 / 9])
    assert labels["least"] == pytest.approx([1 / 3, 1 / 3, 2 / 9])
    batch = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert labels["entropy"] == pytest.approx(batch)
    pool = -sum(share * math.log(share) for share in (4 / 9, 2 / 9, 3 / 9))
    assert labels["pool_entropy"] == pytest.approx([batch, batch, pool])


@pytest.mark.parametrize(
    ("loss", "classes"),
    [
        ("F.binary_cross_entropy_with_logits(model(x)[:, 0], torch.tensor([0.0, 1.0, 1.0, 0.0]))", [2]),
        ("F.cross_entropy(model(x), torch.eye(3)[[0, 1, 2, 0]])", [3]),
        ("F.cross_entropy(model(x), torch.full((4, 3), 1 / 3))", []),
        ("F.mse_loss(model(x), torch.zeros(4, 3))", []),
        ("F.cross_entropy(torch.cat([model(x), torch.zeros(4, 2000)], 1), torch.tensor([0, 1, 2000, 0]))", []),
    ],
)
def test_what_are_labels(run: Run, loss: str, classes: list[int]) -> None:
    ran = run(
        HEAD
        + f"""
model = nn.Linear(4, 3)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
x = torch.randn(4, 4)
{loss}.backward()
optimizer.step()
"""
    )
    assert ran.record is not None, ran.err
    labels = ran.record.series("labels", "0")
    assert len(labels) == len(classes)
    if classes:
        assert labels["classes"].tolist() == classes


def test_batch_norm_beside_its_running_statistics(run: Run) -> None:
    ran = run(
        HEAD
        + """
model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1))
optimizer = torch.optim.SGD(model.parameters(), 0.0)
x = torch.tensor([[1.0, 4.0], [3.0, 8.0]])
model(x).sum().backward()
optimizer.step()
"""
    )
    assert ran.record is not None, ran.err
    norm = ran.record.series("norm", "0")
    mean, variance = np.array([2.0, 6.0]), np.array([1.0, 4.0])
    running_mean, running_variance = 0.1 * mean, 0.9 + 0.1 * 2 * variance  # torch keeps the unbiased variance
    gap = np.abs(mean - running_mean) / np.sqrt(running_variance)
    assert norm["elements"].tolist() == [2]
    assert norm["gap"][0] == pytest.approx(np.sort(gap)[0], rel=1e-5)  # torch's median is the lower of two
    assert norm["largest_gap"][0] == pytest.approx(gap.max(), rel=1e-5)
    assert norm["largest_spread"][0] == pytest.approx((variance / running_variance).max(), rel=1e-5)
    with pytest.raises(KeyError, match="norm has no column mean"):
        norm["mean"]


@pytest.mark.parametrize("batch_first", [False, True])
def test_the_gates_of_an_lstm(run: Run, batch_first: bool) -> None:
    ran = run(
        HEAD
        + f"""
class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 8, batch_first={batch_first})
        with torch.no_grad():
            self.lstm.bias_ih_l0[8:16] = 20.0  # forget gates: open
            self.lstm.bias_ih_l0[24:28] = -20.0  # half of the output gates: shut

    def forward(self, x):
        return self.lstm(x)[0]

model = Cell()
optimizer = torch.optim.SGD(model.parameters(), 0.1)
x = torch.randn(5, 7, 3)
out = model(x)
out.sum().backward()
cell = nn.LSTMCell(3, 8)
steps = x.transpose(0, 1) if {batch_first} else x
before = out.detach().transpose(0, 1)[-2] if {batch_first} else out.detach()[-2]
lstm = model.lstm
gates = steps[-1] @ lstm.weight_ih_l0.T + before @ lstm.weight_hh_l0.T + lstm.bias_ih_l0 + lstm.bias_hh_l0
print(gates[:, :8].sigmoid().mean().item())
optimizer.step()
"""
    )
    assert ran.record is not None, ran.err
    gates = ran.record.series("gates", "lstm")
    assert gates["count"].tolist() == [5 if batch_first else 7]
    assert gates["forget_open"].tolist() == [1.0]
    assert gates["output_shut"].tolist() == [0.5]
    assert gates["input"][0] == pytest.approx(float(ran.lines[0]), rel=1e-5)


def test_clipping_is_seen(run: Run) -> None:
    ran = run(
        HEAD
        + """
from torch.nn.utils import clip_grad_norm_
model = nn.Linear(2, 1, bias=False)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
for step in range(3):
    optimizer.zero_grad()
    model(torch.tensor([[3.0, 4.0]])).sum().backward()
    total = clip_grad_norm_(parameters=model.parameters(), max_norm=2.5)
    nn.utils.clip_grad_value_(model.parameters(), 0.1)
    optimizer.step()
print(model.weight.grad.tolist())
"""
    )
    assert ran.record is not None, ran.err
    assert ran.lines == ["[[0.10000000149011612, 0.10000000149011612]]"]
    functions = {clip.function: clip for clip in ran.record.clips.values()}
    assert set(functions) == {"clip_grad_norm_", "clip_grad_value_"}
    assert functions["clip_grad_norm_"].location is not None
    norm, limit = ran.record.clipping(functions["clip_grad_norm_"].id)
    assert (norm.step.tolist(), norm.value.tolist(), limit.value.tolist()) == ([0, 1, 2], [5.0] * 3, [2.5] * 3)
    norm, limit = ran.record.clipping(functions["clip_grad_value_"].id)
    assert np.isnan(norm.value).all() and limit.value.tolist() == [0.1] * 3


def test_samples_of_training_that_come_back_in_evaluation(run: Run) -> None:
    ran = run(
        HEAD
        + """
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
x = torch.randint(0, 9, (40, 4)).float()
for epoch in range(2):
    for batch in x[:30].split(10):
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()
with torch.no_grad():
    model(x[20:40])
print(len(x.unique(dim=0)))
"""
    )
    assert ran.record is not None, ran.err
    assert ran.lines == ["40"]
    (samples,) = ran.record.samples.values()
    assert (samples.trained, samples.trained_calls, samples.evaluated, samples.shared) == (30, 60, 20, 10)


@pytest.mark.parametrize("width", [3000, 100_000])
def test_sparse_rows_that_differ_in_one_element_are_no_repeats(run: Run, width: int) -> None:
    ran = run(
        HEAD
        + f"""
x = torch.zeros(60, {width})
for row in range(60):
    x[row, torch.randint(0, {width}, (9,))] = 1.0
model = nn.Linear({width}, 1)
optimizer = torch.optim.SGD(model.parameters(), 0.01)
for batch in x[:40].split(4):
    optimizer.zero_grad()
    model(batch).square().mean().backward()
    optimizer.step()
with torch.no_grad():
    for batch in x[40:].split(4):
        model(batch)
"""
    )
    assert ran.record is not None, ran.err
    assert all(samples.shared == 0 for samples in ran.record.samples.values())


def test_what_layers_are_given_and_give(run: Run) -> None:
    ran = run(
        HEAD
        + """
class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.rnn = nn.GRU(4, 5)
        self.head = nn.Linear(5, 2)

    def forward(self, words):
        with torch.autocast("cpu", torch.bfloat16):
            return self.head(self.rnn(self.embed(words))[0])

model = Reader()
optimizer = torch.optim.SGD(model.parameters(), 0.1)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=7)
model(torch.randint(0, 9, (6, 3))).float().sum().backward(retain_graph=True)
optimizer.step()
"""
    )
    assert ran.record is not None, ran.err
    assert ran.record.layers["rnn"].input_shape == (6, 3, 4)
    assert ran.record.layers["head"].output_dtype == "bfloat16"
    assert ran.record.schedulers[0].settings["T_max"] == 7
    assert ran.record.backward_sites[0].retain_graph


def test_an_average_of_the_weights_is_seen_when_it_is_evaluated(run: Run) -> None:
    """Neither a loss module that is called at each step nor a block under no_grad in each uses up what is looked at."""
    ran = run(
        HEAD
        + """
import copy
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
ema = copy.deepcopy(model)
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), 0.1)
for step in range(300):
    optimizer.zero_grad()
    criterion(model(torch.randn(6, 4)), torch.randint(0, 3, (6,))).backward()
    optimizer.step()
    with torch.no_grad():
        for mean, now in zip(ema.parameters(), model.parameters()):
            mean.lerp_(now, 0.1)
    if step % 100 == 99:
        ema.eval()
        with torch.no_grad():
            ema(torch.randn(6, 4))
"""
    )
    assert ran.record is not None, ran.err
    events = ran.record.events("evaluation")
    assert [(event["root"], event["step"]) for event in events] == [("ema", 100), ("ema", 200), ("ema", 300)]


def test_what_the_first_weights_are_given_is_measured_where_the_model_changes_it(run: Run) -> None:
    ran = run(
        HEAD
        + """
class Net(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale, self.first, self.second = scale, nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, x):
        return self.second(self.first(x / 10 if self.scale else x.flatten(1)))

scaled, plain = Net(True), Net(False)
optimizer = torch.optim.SGD([*scaled.parameters(), *plain.parameters()], 0.1)
for _ in range(3):
    optimizer.zero_grad()
    x = torch.full((8, 2, 2), 5.0).flatten(1)
    (scaled(x) + plain(x)).sum().backward()
    optimizer.step()
"""
    )
    assert ran.record is not None, ran.err
    assert ran.record.subjects("given") == ["scaled.first"]
    given = ran.record.series("given", "scaled.first")
    assert given.count.tolist() == [32, 32, 32]
    assert given.rms == pytest.approx(0.5) and given.amax == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("ids", "leading", "trailing"),
    [
        ("[[1, 2, 3, 4, 0, 0], [3, 1, 0, 0, 0, 0], [2, 4, 1, 0, 0, 0]]", 1 / 18, 9 / 18),
        ("[[1, 3, 2], [2, 1, 4], [3, 0, 1], [4, 0, 0], [0, 0, 0], [0, 0, 0]]", 1 / 18, 9 / 18),  # time comes first
        ("[[0, 0, 4, 3, 2, 1], [0, 0, 0, 0, 1, 3], [0, 0, 0, 1, 4, 2]]", 9 / 18, 1 / 18),
    ],
)
def test_runs_of_one_id_at_the_ends_of_sequences(run: Run, ids: str, leading: float, trailing: float) -> None:
    ran = run(
        HEAD
        + f"""
model = nn.Embedding(5, 2)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
for _ in range(3):
    optimizer.zero_grad()
    model(torch.tensor({ids})).sum().backward()
    optimizer.step()
"""
    )
    assert ran.record is not None, ran.err
    tokens = ran.record.series("tokens", "model")
    assert tokens["count"].tolist() == [18, 18, 18]
    assert tokens["trailing"] == pytest.approx(trailing)
    assert tokens["leading"] == pytest.approx(leading)
