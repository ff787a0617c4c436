"""What the probe records of programs that something is wrong with, each from a real run in a process of its own."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import probed
import pytest

BEGIN = """
    torch.manual_seed(0)
    x, y = torch.randn(32, 4), torch.arange(32) % 2
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
"""
OPTIMIZER = "    opt = torch.optim.SGD(net.parameters(), lr=.1)\n"
ILL = {
    "cleared": """
    for step in range(4):
        F.cross_entropy(net(x), y).backward()
        opt.zero_grad()  # cleared
        opt.step()
    """,
    "cut": """
    for step in range(4):
        opt.zero_grad()
        h = net[0](x).detach()  # cut
        F.cross_entropy(net[2](h), y).backward()
        opt.step()
    """,
    "log of zero": """
    for step in range(60):
        opt.zero_grad()
        p = torch.softmax(net(x), 1)
        if step == 50:
            p = p * 0
        loss = -torch.log(p)[:, 0].sum() * 0  # log
        loss.backward()
        opt.step()
    """,
    "sqrt of zero": """
    for step in range(6):
        opt.zero_grad()
        out = net(x)
        distance = torch.sqrt((out - out * 1.0).square().sum(1))  # sqrt
        distance.mean().backward()
        opt.step()
    """,
    "nan in the data": """
    x[3, 2] = float("nan")
    for step in range(4):
        opt.zero_grad()
        F.cross_entropy(net(x), y).backward()
        opt.step()
    """,
    "huge lr": """
    opt = torch.optim.SGD(net.parameters(), lr=1e15)
    for step in range(30):
        opt.zero_grad()
        F.mse_loss(net(x)[:, 0], y.float()).backward()
        opt.step()
    """,
    "dead units": """
    with torch.no_grad():
        net[0].bias[:4] = -100.0
    for step in range(30):
        opt.zero_grad()
        F.cross_entropy(net(x), y).backward()
        opt.step()
    """,
    "scaler": """
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(5):
        opt.zero_grad()
        loss = F.cross_entropy(net(x), y)
        print(loss.item())
        scaler.scale(loss).backward()
        scaler.step(opt)
        scaler.update()
    """,
    "by hand": """
    for step in range(6):
        w = net[0].weight.detach().clone()
        net.zero_grad()
        F.cross_entropy(net(x), y).backward()
        with torch.no_grad():
            for p in net.parameters():
                p -= 0.1 * p.grad
        print((net[0].weight.detach() - w).square().mean().sqrt().item())
    """,
    "frozen": """
    net[0].requires_grad_(False)
    net[2].bias.requires_grad_(False)
    for step in range(5):
        opt.zero_grad()
        F.cross_entropy(net(x), y).backward()
        opt.step()
    """,
    "second cleared": """
    opt = torch.optim.SGD(net[0].parameters(), lr=.1)
    second = torch.optim.SGD(net[2].parameters(), lr=.1)
    for step in range(4):
        F.cross_entropy(net(x), y).backward()
        opt.step()
        opt.zero_grad()
        second.zero_grad()  # cleared
        second.step()
    """,
    "loss anew": """
    for step in range(5):
        opt.zero_grad()
        scores = net(x).detach().numpy()  # cut
        loss = torch.tensor(float(scores.sum()), requires_grad=True)  # anew
        loss.backward()
        opt.step()
    """,
    "score anew": """
    for step in range(5):
        opt.zero_grad()
        scores = net(x).detach()
        scores.requires_grad = True  # anew
        F.cross_entropy(scores, y).backward()
        opt.step()
    """,
    "functional dropout": """
    class Careless(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(4, 2)

        def forward(self, x):
            return F.dropout(self.body(x), 0.25)  # dropout

    net = Careless()
    opt = torch.optim.SGD(net.parameters(), lr=.1)
    for step in range(3):
        net.train()
        opt.zero_grad()
        F.cross_entropy(net(x), y).backward()
        opt.step()
        net.eval()
        with torch.no_grad():
            net(x)
    """,
    "in a list": """
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 8)
            self.others = [nn.Linear(8, 8), nn.Linear(8, 2)]  # loose

        def forward(self, x):
            x = self.first(x)
            for other in self.others:
                x = other(x)
            return x

    net = Listed()
    opt = torch.optim.SGD(net.parameters(), lr=.1)
    for step in range(3):
        opt.zero_grad()
        F.cross_entropy(net(x), y).backward()
        opt.step()
    """,
}


def ill_script(name: str) -> str:
    return BEGIN + ("" if name == "by hand" else OPTIMIZER) + ILL[name]


@pytest.fixture(scope="module")
def ill(tmp_path_factory: pytest.TempPathFactory) -> dict[str, probed.Part]:
    return probed.many(tmp_path_factory.mktemp("ill"), {name: ill_script(name) for name in ILL})


def numbers(part: probed.Part) -> list[float]:
    return [float(line) for line in part.out.split()]


def test_gradient_cleared(ill) -> None:
    events = ill["cleared"].record.events("gradient-cleared")
    assert [event["step"] for event in events] == [0, 1, 2, 3]
    assert events[0]["optimizer"] == 0 and events[0]["location"]["line"] == ill["cleared"].line("# cleared")


def test_the_gradient_of_a_second_optimizer_cleared(ill) -> None:
    part = ill["second cleared"]
    events = part.record.events("gradient-cleared")
    assert [event["count"] for event in events] == [1, 2, 3, 4] and len({e["optimizer"] for e in events}) == 1
    assert all(event["location"]["line"] == part.line("# cleared") for event in events)


def test_a_cut_of_the_graph(ill) -> None:
    part = ill["cut"]
    (cut,) = part.record.graphs[0].cuts
    assert cut.function == "detach" and part.at(cut.location, "# cut")
    (event,) = part.record.events("no-gradient")
    assert (event["step"], event["parameters"], event["total"]) == (0, ["0.weight", "0.bias"], 4)


def test_a_loss_without_history(ill) -> None:
    part = ill["loss anew"]
    events = part.record.events("leaf-loss")
    assert [event["count"] for event in events] == [1, 2, 3, 4, 5]
    assert events[0]["location"]["line"] == part.line("# anew")
    assert events[0]["cuts"][0]["line"] == part.line("# cut")
    assert all(event["backward"] == 0 for event in events) and not part.record.graphs


def test_a_graph_that_ends_at_a_new_tensor_knows_where_it_was_made(ill) -> None:
    part = ill["score anew"]
    leaf = next(node for node in part.record.graphs[0].nodes if node.op == "AccumulateGrad")
    assert leaf.parameter is None and part.at(leaf.location, "# anew")
    assert part.record.events("leaf-loss") == []


def test_a_layer_in_a_list_is_unregistered(ill) -> None:
    part = ill["in a list"]
    loose = [layer for layer in part.record.layers.values() if not layer.registered]
    assert len(loose) == 2 and all(part.at(layer.location, "# loose") for layer in loose)
    names = {layer.name for layer in loose}
    assert [p.optimizer for p in part.record.parameters.values() if p.layer in names] == [None] * 4


def test_parameters_that_are_frozen_have_no_gradient(ill) -> None:
    record = ill["frozen"].record
    assert {name for name, p in record.parameters.items() if not p.requires_grad} == {"0.weight", "0.bias", "2.bias"}


@pytest.mark.parametrize(
    ("name", "where", "step", "function", "mark"),
    [
        ("log of zero", "forward", 50, "log", "# log"),
        ("sqrt of zero", "gradient", 0, "sqrt", "# sqrt"),
    ],
)
def test_where_the_first_nan_came_from(ill, name: str, where: str, step: int, function: str, mark: str) -> None:
    part = ill[name]
    event = part.record.events("non-finite")[0]
    assert (event["where"], event["step"], event["function"]) == (where, step, function)
    assert (event["file"], event["line"]) == (str(part.script), part.line(mark))
    assert event["inputs_finite"]


def test_nan_in_the_data(ill) -> None:
    event = ill["nan in the data"].record.events("non-finite")[0]
    assert (event["where"], event["step"], event["value"]) == ("input", 0, "nan")
    assert not event["inputs_finite"]


def test_a_huge_learning_rate(ill) -> None:
    part = ill["huge lr"]
    events = part.record.events("non-finite")
    assert events and events[0]["step"] >= 1 and events[0]["value"] in ("inf", "nan")
    assert not np.isfinite(part.record.loss().value[-1])


def test_dead_units(ill) -> None:
    series = ill["dead units"].record.series("activation", "1")
    assert series.a[-1] >= 0.5 and series.low_share[-1] >= 0.5
    assert series.a[0] == 0.0  # nothing is called dead before it was silent for 20 batches


def test_the_loss_under_a_scaler_is_unscaled(ill) -> None:
    curve = ill["scaler"].record.loss()
    np.testing.assert_allclose(curve.value, numbers(ill["scaler"]), rtol=1e-6)


def test_a_loop_without_an_optimizer_is_measured(ill) -> None:
    record = ill["by hand"].record
    assert record.step_count == 6 and set(record.steps["a"]) == {255}
    updates = record.series("update", "0.weight")
    np.testing.assert_allclose(updates.rms, numbers(ill["by hand"])[: len(updates)], rtol=1e-4)
    assert len(updates) >= 5 and len(record.series("gradient", "2.bias")) == len(updates)


def test_dropout_that_is_on_in_evaluation(ill) -> None:
    part = ill["functional dropout"]
    found = [d for event in part.record.events("evaluation") for d in event["functional_dropout"]]
    assert {(d["function"], d["p"], d["line"]) for d in found} == {("dropout", 0.25, part.line("# dropout"))}


@pytest.mark.parametrize("every", [0, 7])
def test_an_unwatched_step_still_has_its_rows(tmp_path: Path, every: int) -> None:
    """NaN at a step that is not watched is told with its line; loss and pattern of all steps are there."""
    script = probed.written(tmp_path, ill_script("log of zero"))
    found = probed.probed([str(script)], tmp_path, every=every, overhead=0.001)
    record = found.record
    assert (found.code, found.err) == (0, "") and len(record.watched_steps) < 50
    event = record.events("non-finite")[0]
    assert (event["step"], event["function"], event["line"]) == (50, "log", found.line("# log"))
    assert len(record.loss()) == len(record.steps) == 60
    assert math.isnan(record.loss().value[50])
