"""What the probe records of ordinary training, each time from a real run in a process of its own."""

from __future__ import annotations

import json

import numpy as np
import probed
import pytest

ORDINARY = """
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(8, 16)  # fc1
            self.norm = nn.BatchNorm1d(16)
            self.fc2 = nn.Linear(16, 3)  # fc2

        def forward(self, x):
            h = F.relu(self.fc1(x))  # relu
            return self.fc2(self.norm(h))

    net = Net()
    x, y = torch.randn(60, 8), torch.arange(60) % 3
    data = torch.utils.data.TensorDataset(x, y)
    loader = torch.utils.data.DataLoader(data, batch_size=20, shuffle=True, drop_last=True)  # loader
    opt = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)  # optimizer
    sched = torch.optim.lr_scheduler.StepLR(opt, 3, gamma=0.1)  # scheduler
    seen = {"loss": [], "eval": [], "update": [], "weight": [], "lr": [], "gradient": [], "zeros": []}
    for epoch in range(3):
        net.train()
        for bx, by in loader:
            opt.zero_grad()
            loss = F.cross_entropy(net(bx), by, label_smoothing=0.1)  # loss
            loss.backward()  # backward
            w, g = net.fc1.weight.detach().clone(), net.fc1.weight.grad.clone()
            seen["lr"].append(opt.param_groups[0]["lr"])
            opt.step()
            sched.step()
            seen["loss"].append(loss.item())
            seen["weight"].append(w.square().mean().sqrt().item())
            seen["gradient"].append(g.square().mean().sqrt().item())
            seen["update"].append((net.fc1.weight.detach() - w).square().mean().sqrt().item())
        net.eval()  # eval
        with torch.no_grad():
            seen["eval"].append(F.cross_entropy(net(x), y).item())  # evaluated
    import json
    print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> probed.Probed:
    folder = tmp_path_factory.mktemp("ordinary")
    found = probed.probed([str(probed.written(folder, ORDINARY))], folder)
    assert (found.code, found.err, found.run.damage) == (0, "", [])
    return found


@pytest.fixture(scope="module")
def seen(ordinary: probed.Probed) -> dict:
    return json.loads(ordinary.out)


def test_the_loss_is_the_loss(ordinary, seen) -> None:
    curve = ordinary.record.loss()
    assert list(curve.step) == list(range(9))
    np.testing.assert_allclose(curve.value, seen["loss"], rtol=1e-6)
    np.testing.assert_allclose(ordinary.record.training_losses(0).value, seen["loss"], rtol=1e-6)


def test_the_learning_rate_changes_at_its_step(ordinary, seen) -> None:
    curve = ordinary.record.hyper("lr")
    assert list(curve.step) == [0, 3, 6]
    np.testing.assert_allclose(curve.at(range(9)), seen["lr"])
    assert list(ordinary.record.hyper("momentum").value) == [0.9]


def test_each_step_has_its_pattern(ordinary) -> None:
    record = ordinary.record
    patterns = {record.patterns[int(row["b"])] for row in record.steps}
    assert patterns == {("zero_grad:0", "backward", "step:0")}
    assert list(record.steps["step"]) == list(range(9)) == list(record.watched_steps)


def test_epochs_of_the_loader(ordinary) -> None:
    (loader,) = ordinary.record.loaders.values()
    assert ordinary.at(loader.location, "# loader")
    assert (loader.batch_size, loader.shuffle, loader.drop_last, loader.num_workers) == (20, True, True, 0)
    assert [event["step"] for event in ordinary.record.events("epoch")] == [0, 3, 6]


def test_evaluations(ordinary, seen) -> None:
    record = ordinary.record
    events = record.events("evaluation")
    assert [(event["step"], event["training"]) for event in events] == [(3, False), (6, False), (9, False)]
    assert events[0]["eval_layers"] == ["norm"] and events[0]["batch"] == [60, 8]
    assert list(record.evaluations().step) == [3, 6, 9]
    np.testing.assert_allclose(record.evaluations().value, seen["eval"], rtol=1e-6)
    modes = [(event["training"], event["location"]["line"]) for event in record.events("mode")]
    assert modes == [(True, ordinary.line("net.train()")), (False, ordinary.line("net.eval()"))] * 3
    assert [event["training_layers"] for event in record.events("forward-mode")] == [["norm"]]


def test_losses_and_where_they_are(ordinary) -> None:
    training, evaluated = ordinary.record.losses.values()
    assert (training.training, evaluated.training) == (True, False)
    assert ordinary.at(training.location, "# loss") and ordinary.at(evaluated.location, "# evaluated")
    assert training.function == "cross_entropy" and training.attributes["label_smoothing"] == 0.1
    assert (training.prediction_shape, training.target_shape) == ((20, 3), (20,))
    assert (training.prediction_dtype, training.target_dtype) == ("float32", "int64")


def test_layers(ordinary) -> None:
    layers = ordinary.record.layers
    assert list(layers) == ["fc1", "norm", "fc2", "net"]
    assert [layers[name].order for name in ("fc1", "norm", "fc2")] == [0, 1, 2]
    assert ordinary.at(layers["fc1"].location, "# fc1") and ordinary.at(layers["fc2"].location, "# fc2")
    assert layers["fc1"].class_name == "Linear" and layers["fc1"].kind == "linear" and layers["net"].kind == "container"
    assert layers["fc1"].attributes["in_features"] == 8
    assert layers["fc1"].activation == "relu" and ordinary.at(layers["fc1"].activation_location, "# relu")
    assert layers["fc2"].activation is None


def test_parameters_and_their_optimizer(ordinary) -> None:
    record = ordinary.record
    (optimizer,) = record.optimizers.values()
    assert ordinary.at(optimizer.location, "# optimizer") and optimizer.unknown_parameters == 0
    own = ["fc1.weight", "fc1.bias", "norm.weight", "norm.bias", "fc2.weight", "fc2.bias"]
    assert list(optimizer.parameters) == own
    assert [record.parameters[name].optimizer for name in own] == [0] * 6
    weight = record.parameters["fc1.weight"]
    assert (weight.layer, weight.shape, weight.fan_in, weight.requires_grad) == ("fc1", (16, 8), 8, True)
    (scheduler,) = record.schedulers.values()
    assert ordinary.at(scheduler.location, "# scheduler") and scheduler.optimizer == 0


def test_the_graph(ordinary) -> None:
    graph = ordinary.record.graphs[0]
    nodes = {node.op: node for node in graph.nodes}
    assert ordinary.at(nodes["ReluBackward0"].location, "# relu")
    assert graph.loss.function == "cross_entropy" and ordinary.at(graph.loss.location, "# loss")
    linear = next(node for node in graph.nodes if node.op == "AddmmBackward0" and node.layer == "fc1")
    assert linear.function == "linear" and linear.shapes == ((20, 8), (16, 8), (16,))
    assert nodes["LogSoftmaxBackward0"].dim == 1 and linear.dim is None
    assert {node.parameter for node in graph.nodes} >= {"fc1.weight", "fc2.bias", "norm.weight"}
    assert [node.layer for node in graph.path_to("fc1")][-1] == "fc1"
    assert list(graph.cuts) == []
    (site,) = ordinary.record.backward_sites.values()
    assert ordinary.at(site.location, "# backward")


def test_statistics_equal_a_direct_computation(ordinary, seen) -> None:
    record = ordinary.record
    np.testing.assert_allclose(record.series("parameter", "fc1.weight").rms, seen["weight"], rtol=1e-5)
    np.testing.assert_allclose(record.series("gradient", "fc1.weight").rms, seen["gradient"], rtol=1e-4)
    np.testing.assert_allclose(record.series("update", "fc1.weight").rms, seen["update"], rtol=1e-3)
    after = record.series("update", "fc1.weight").a
    np.testing.assert_allclose(after[:-1], seen["weight"][1:], rtol=1e-5)
    assert record.series("target", "0").a.tolist() == [3.0] * 9
    assert record.series("input", "net#0").count.tolist() == [160.0] * 9


# Event patterns, several loops in one process --------------------------------------------------------------------

STALE = "stale"
LOOPS = {
    "to none": "opt.zero_grad(set_to_none=True); lossy().backward(); opt.step()",
    "to zero": "opt.zero_grad(set_to_none=False); lossy().backward(); opt.step()",
    "zero after": "lossy().backward(); opt.step(); opt.zero_grad(set_to_none=False)",
    "none after": "lossy().backward(); opt.step(); opt.zero_grad()",
    "grad is None": "lossy().backward(); opt.step(); drop()",
    "data zero": "lossy().backward(); opt.step(); wipe()",
    "module": "net.zero_grad(); lossy().backward(); opt.step()",
    "accumulate 2": "opt.zero_grad(); [lossy().backward() for _ in range(2)]; opt.step()",
    "accumulate 4": "[lossy().backward() for _ in range(4)]; opt.step(); opt.zero_grad(set_to_none=False)",
    "clipped": "opt.zero_grad(False); lossy().backward(); nn.utils.clip_grad_norm_(net.parameters(), .1); opt.step()",
    "fused": "opt.zero_grad(set_to_none=False); lossy().backward(); opt.step()",
    "gan": "gan()",
    STALE: "lossy().backward(); opt.step()",
}
LOOP = """
    import wellfit.probe.attach as watcher
    torch.manual_seed(0)
    x, y = torch.randn(16, 4), torch.arange(16) % 2
    net = nn.Linear(4, 2)
    made = {{"fused": lambda p: torch.optim.AdamW(p, lr=.01, fused=True)}}
    opt = made.get({name!r}, lambda p: torch.optim.SGD(p, lr=.1))(net.parameters())
    other = nn.Linear(2, 4)
    opt_other = torch.optim.Adam(other.parameters(), lr=.01)

    def lossy():
        return F.cross_entropy(net(x), y)

    def drop():
        for p in net.parameters():
            p.grad = None

    def wipe():
        for p in net.parameters():
            p.grad.data.zero_()

    def gan():
        fake = other(torch.randn(16, 2))
        opt.zero_grad(set_to_none=False)
        (F.cross_entropy(net(x), y) + F.cross_entropy(net(fake.detach()), 1 - y)).backward()
        opt.step()
        opt_other.zero_grad(set_to_none=False)
        F.cross_entropy(net(fake), y).backward()
        opt_other.step()

    for step in range(8):
        {body}
"""


@pytest.fixture(scope="module")
def loops(tmp_path_factory: pytest.TempPathFactory) -> dict[str, probed.Part]:
    bodies = {name: LOOP.format(name=name, body=body) for name, body in LOOPS.items()}
    return probed.many(tmp_path_factory.mktemp("loops"), bodies)


@pytest.mark.parametrize("name", [name for name in LOOPS if name != STALE])
def test_a_correct_loop_has_no_stale_gradient(loops, name: str) -> None:
    record = loops[name].record
    assert record.events("stale-gradient") == [] and record.events("gradient-cleared") == []
    assert record.step_count == (16 if name == "gan" else 8)


def test_a_loop_without_zero_grad_has_one(loops) -> None:
    events = loops[STALE].record.events("stale-gradient")
    assert [event["step"] for event in events] == [1, 2, 3, 4, 5]
    assert (
        events[0]["confirmed"] and events[0]["optimizer"] == 0 and events[0]["parameter"] in ("net.bias", "net.weight")
    )


def test_patterns_of_accumulation(loops) -> None:
    record = loops["accumulate 4"].record
    assert set(record.patterns.values()) == {
        ("backward",) * 4 + ("step:0",), ("zero_grad:0",) + ("backward",) * 4 + ("step:0",)
    }  # fmt: skip
    assert ("zero_grad:0", "backward", "backward", "step:0") in loops["accumulate 2"].record.patterns.values()
    assert ("zero_grad:module", "backward", "step:0") in loops["module"].record.patterns.values()


def test_two_roots_are_named_by_their_variables(loops) -> None:
    record = loops["gan"].record
    assert {"net", "other"} <= set(record.layers)
    assert {"net.weight", "other.bias"} <= set(record.parameters)
    wiring = {name: parameter.optimizer for name, parameter in record.parameters.items()}
    assert wiring["net.weight"] == wiring["net.bias"] != wiring["other.weight"] == wiring["other.bias"]


# Illnesses, several scripts in one process ------------------------------------------------------------------------


def test_the_rate_of_dropout_is_in_the_graph(tmp_path) -> None:
    script = probed.written(
        tmp_path,
        """
        first, last = nn.Linear(8, 8), nn.Linear(8, 2)
        optimizer = torch.optim.SGD([*first.parameters(), *last.parameters()], lr=0.1)
        rate = 0.3
        for _ in range(3):
            x = F.dropout(first(torch.randn(6, 8)), rate, training=True)
            x = F.dropout(torch.relu(x), p=0.9, training=False)
            x = torch.dropout(last(x), 2 * rate, True)
            optimizer.zero_grad()
            x.square().mean().backward()
            optimizer.step()
        """,
    )
    found = probed.probed([str(script)], tmp_path)
    assert (found.code, found.err) == (0, "")
    rates = [node.rate for node in found.run.records[0].graphs[0].nodes if not np.isnan(node.rate)]
    assert rates == [0.6, 0.3]
