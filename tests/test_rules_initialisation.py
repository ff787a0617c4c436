"""Rules of the family `initialisation`, each on small records written by hand."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wellfit.probe import frames
from wellfit.probe.writer import Writer
from wellfit.record import Record, open_run
from wellfit.rules.initialisation.constant_init import ConstantInit
from wellfit.rules.initialisation.init_gain import InitGain
from wellfit.rules.initialisation.initial_loss import InitialLoss
from wellfit.rules.initialisation.linear_stack import LinearStack
from wellfit.rules.initialisation.loss_broadcast import LossBroadcast
from wellfit.rules.initialisation.loss_head_mismatch import LossHeadMismatch
from wellfit.rules.initialisation.not_in_optimizer import NotInOptimizer

ALL = (ConstantInit, InitGain, InitialLoss, LinearStack, LossBroadcast, LossHeadMismatch, NotInOptimizer)
Row = tuple[float, float, float, float, float, float, float, float]
NAN = float("nan")


def record_of(
    folder: Path,
    declared: list[dict[str, Any]],
    losses: list[float] | None = None,
    series: dict[tuple[str, str], Row] | None = None,
) -> Record:
    """A record with these declarations, a loss curve, and series that stay the same at every step."""
    folder.mkdir(parents=True, exist_ok=True)
    out = Writer(str(folder), 0, 7, 1 << 30)
    out.declare({"type": "process", "rank": 0, "world_size": 1})
    for one in declared:
        out.declare(one)
    for step, value in enumerate(losses or []):
        out.row(frames.ROW_LOSS, 0, 0, step, value, 0.0)
        out.row(frames.ROW_BACKWARD, 0, 0, step, value, 0.0)
        if series:
            ids = tuple(out.series(what, subject) for what, subject in series)
            out.statistics(step, (ids, array("f", [number for row in series.values() for number in row])))
        out.row(frames.ROW_STEP, 0, 0, step, 0.0, 0.0)
    out.close()
    record = open_run(folder).records[0]
    record.finished = True
    return record


def loss_of(function: str, prediction: list[int], target: list[int], **more: Any) -> dict[str, Any]:
    place = {"file": "/u/train.py", "line": 30}
    return {
        "type": "loss", "id": 0, "function": function, "location": place, "prediction_shape": prediction,
        "target_shape": target, "target_dtype": "int64", "reduction": "mean", "training": True, **more,
    }  # fmt: skip


def layer(name: str, order: int, kind: str = "linear", line: int = 10, **more: Any) -> dict[str, Any]:
    return {
        "type": "layer", "name": name, "class": "Linear", "kind": kind, "order": order,
        "location": {"file": "/u/train.py", "line": line}, "parameters": [f"{name}.weight"], **more,
    }  # fmt: skip


def weight(name: str, shape: list[int], rms: float = 0.2, std: float | None = None, **more: Any) -> dict[str, Any]:
    spread = rms if std is None else std
    return {
        "type": "parameter", "name": f"{name}.weight", "layer": name, "shape": shape, "requires_grad": True,
        "initial": {"std": spread, "rms": rms, "amax": 2 * rms}, "fan_in": shape[1], "optimizer": 0, **more,
    }  # fmt: skip


def circuit(*operations: tuple[str, str, str | None], function: str | None = None) -> dict[str, Any]:
    """A graph: the loss, then (op, function, layer) one below the other; linear ones get a weight of their own."""
    nodes: list[dict[str, Any]] = []
    weights: list[dict[str, Any]] = []
    for place, (op, called, name) in enumerate(operations):
        below = [place + 1] if place + 1 < len(operations) else []
        node = {"id": place, "op": op, "function": called, "layer": name, "file": "/u/train.py", "line": 20 + place}
        if op.startswith("Addmm"):
            number = 100 + place
            below.append(number)
            weights.append({"id": number, "op": "AccumulateGrad", "parameter": f"{name}.weight", "shape": [8, 8]})
        nodes.append({**node, "next": below})
    return {"type": "graph", "step": 0, "backward": 0, "nodes": nodes + weights}


CE = [("NllLossBackward0", "cross_entropy", None), ("LogSoftmaxBackward0", "cross_entropy", None)]
HEAD = ("AddmmBackward0", "linear", "head")


@pytest.mark.parametrize("op", ["SoftmaxBackward0", "SigmoidBackward0", "ReluBackward0", "TanhBackward0"])
def test_a_squashing_function_before_cross_entropy_is_an_error_at_its_line(tmp_path: Path, op: str) -> None:
    graph = circuit(*CE, (op, "f", None), ("ViewBackward0", "view", None), HEAD)
    record = record_of(tmp_path, [layer("head", 0), loss_of("cross_entropy", [4, 8], [4]), graph])
    (found,) = LossHeadMismatch().check(record)
    assert found.severity == "error"
    assert found.location is not None and found.location.line == 22


def test_raw_scores_before_cross_entropy_are_right(tmp_path: Path) -> None:
    record = record_of(tmp_path, [layer("head", 0), loss_of("cross_entropy", [4, 8], [4]), circuit(*CE, HEAD)])
    assert list(LossHeadMismatch().check(record)) == []


def test_a_hidden_relu_is_not_the_head(tmp_path: Path) -> None:
    graph = circuit(*CE, HEAD, ("ReluBackward0", "relu", None), ("AddmmBackward0", "linear", "first"))
    record = record_of(tmp_path, [layer("first", 0), layer("head", 1), loss_of("cross_entropy", [4, 8], [4]), graph])
    assert list(LossHeadMismatch().check(record)) == []


def test_log_softmax_before_cross_entropy_is_a_note(tmp_path: Path) -> None:
    graph = circuit(*CE, ("LogSoftmaxBackward0", "log_softmax", None), HEAD)
    record = record_of(tmp_path, [layer("head", 0), loss_of("cross_entropy", [4, 8], [4]), graph])
    assert [found.severity for found in LossHeadMismatch().check(record)] == ["note"]


@pytest.mark.parametrize(
    ("middle", "errors", "line"),
    [
        ([("SoftmaxBackward0", "softmax", None)], 1, 21),
        ([], 1, 30),
        ([("LogSoftmaxBackward0", "log_softmax", None)], 0, 0),
        ([("LogBackward0", "log", None), ("SoftmaxBackward0", "softmax", None)], 0, 0),
    ],
)
def test_nll_loss_takes_log_probabilities(
    tmp_path: Path, middle: list[tuple[str, str, str | None]], errors: int, line: int
) -> None:
    graph = circuit(("NllLossBackward0", "nll_loss", None), *middle, HEAD)
    record = record_of(tmp_path, [layer("head", 0), loss_of("nll_loss", [4, 8], [4]), graph])
    found = list(LossHeadMismatch().check(record))
    assert len(found) == errors
    assert not errors or (found[0].location is not None and found[0].location.line == line)


@pytest.mark.parametrize(
    ("shape", "dim", "prediction", "view", "right"),
    [
        ([50, 10], 0, [50, 10], None, 1),
        ([50, 10], -2, [50, 10], None, 1),
        ([50, 10], 1, [50, 10], None, None),
        ([50, 10], -1, [50, 10], None, None),
        ([10], 0, [10], None, None),  # one sample
        ([10, 10], 0, [10, 10], None, None),  # all pairs of a batch
        ([4, 7, 6, 6], 3, [4, 7, 6, 6], None, 1),
        ([4, 7, 6, 6], 1, [4, 7, 6, 6], None, None),
        ([4, 20, 7], 1, [80, 7], "ViewBackward0", 2),
        ([4, 20, 7], 2, [80, 7], "ViewBackward0", None),
        ([10, 50], 0, [50, 10], "TBackward0", None),
        ([50, 10], 0, [30, 10], "IndexBackward0", 1),  # some nodes of a graph
        ([10, 50], 0, [50, 10], "ViewBackward0", None),
    ],
)
def test_log_softmax_sums_over_the_classes(
    tmp_path: Path, shape: list[int], dim: int, prediction: list[int], view: str | None, right: int | None
) -> None:
    between = [(view, "view", None)] if view else []
    graph = circuit(
        ("NllLossBackward0", "nll_loss", None), *between, ("LogSoftmaxBackward0", "log_softmax", None), HEAD
    )
    node = next(node for node in graph["nodes"] if node["op"] == "LogSoftmaxBackward0")
    node.update(shapes=[shape], dim=dim)
    record = record_of(tmp_path, [layer("head", 0), loss_of("nll_loss", prediction, [50]), graph])
    found = list(LossHeadMismatch().check(record))
    assert [one.evidence["class_axis"] for one in found] == ([] if right is None else [right])
    assert all(one.severity == "error" and one.location and one.location.line == node["line"] for one in found)


@pytest.mark.parametrize(("losses", "errors"), [([0.693] * 200, 1), ([1 / (2 + i) for i in range(200)], 0)])
def test_a_softmax_over_the_samples_before_bce_is_told_where_the_run_fails(
    tmp_path: Path, losses: list[float], errors: int
) -> None:
    graph = circuit(
        ("BinaryCrossEntropyBackward0", "binary_cross_entropy", None), ("SoftmaxBackward0", "softmax", None), HEAD
    )
    graph["nodes"][1].update(shapes=[[32, 2]], dim=0)
    record = record_of(tmp_path, [layer("head", 0), loss_of("binary_cross_entropy", [32, 2], [32, 2]), graph], losses)
    assert len(list(LossHeadMismatch().check(record))) == errors


def test_cross_entropy_with_one_output_is_an_error_at_the_loss(tmp_path: Path) -> None:
    record = record_of(tmp_path, [loss_of("cross_entropy", [32, 1], [32, 1])])
    (found,) = LossHeadMismatch().check(record)
    assert found.severity == "error" and found.location is not None and found.location.line == 30


@pytest.mark.parametrize(("low", "errors"), [(-3.0, 1), (0.0, 0)])
def test_a_relu_head_needs_targets_above_zero(tmp_path: Path, low: float, errors: int) -> None:
    graph = circuit(("MseLossBackward0", "mse_loss", None), ("ReluBackward0", "relu", None), HEAD)
    target: Row = (8, 1, 2, 4, low, 4, 8, 0)
    declared = [layer("head", 0), loss_of("mse_loss", [8, 8], [8, 8]), graph]
    record = record_of(tmp_path, declared, [1.0] * 5, {("target", "0"): target})
    assert len(list(LossHeadMismatch().check(record))) == errors


@pytest.mark.parametrize(
    ("prediction", "target", "errors"),
    [([32, 1], [32], 1), ([32], [32, 1], 1), ([32], [32], 0), ([32, 1], [32, 1], 0),
     ([1, 1], [1], 0), ([32, 5], [32, 1], 0)],
)  # fmt: skip
def test_only_n_by_one_against_n_broadcasts(
    tmp_path: Path, prediction: list[int], target: list[int], errors: int
) -> None:
    record = record_of(tmp_path, [loss_of("mse_loss", prediction, target)])
    assert len(list(LossBroadcast().check(record))) == errors


@pytest.mark.parametrize(("below", "errors"), [("AddmmBackward0", 1), ("UnsqueezeBackward0", 0)])
def test_arithmetic_by_hand_broadcasts_too(tmp_path: Path, below: str, errors: int) -> None:
    graph = circuit(("MeanBackward0", "mean", None), ("SubBackward0", "sub", None), (below, "f", "head"))
    graph["nodes"][1]["shapes"] = [[32, 1], [32]]
    record = record_of(tmp_path, [graph])
    found = list(LossBroadcast().check(record))
    assert len(found) == errors
    assert all(one.location is not None and one.location.line == 21 for one in found)


@pytest.mark.parametrize(
    ("between", "end", "severities"),
    [
        ([], 0.99, ["error"]),
        ([], 0.05, ["note"]),
        ([("ReluBackward0", "relu", None)], 0.99, []),
        ([("MaxPool2DWithIndicesBackward0", "max_pool2d", None)], 0.99, []),
        ([("NativeDropoutBackward0", "dropout", None)], 0.99, ["error"]),
        ([("AddBackward0", "alpha_dropout", None), ("MulBackward0", "alpha_dropout", None)], 0.99, ["error"]),
    ],
)
def test_two_linear_layers_in_series(
    tmp_path: Path, between: list[tuple[str, str, str | None]], end: float, severities: list[str]
) -> None:
    graph = circuit(("MseLossBackward0", "mse_loss", None), HEAD, *between, ("AddmmBackward0", "linear", "first"))
    curve = [1.0 - (1.0 - end) * min(step / 40, 1.0) for step in range(80)]
    record = record_of(tmp_path, [layer("first", 0), layer("head", 1, line=11), graph], curve)
    assert [found.severity for found in LinearStack().check(record)] == severities


def optimizer(*names: str) -> dict[str, Any]:
    return {"type": "optimizer", "id": 0, "parameters": list(names), "location": {"file": "/u/train.py", "line": 15}}


def two_layers(registered: bool = True, **more: Any) -> list[dict[str, Any]]:
    graph = circuit(*CE, HEAD, ("ReluBackward0", "relu", None), ("AddmmBackward0", "linear", "first"))
    return [
        layer("first", 0, line=12, registered=registered), layer("head", 1), graph,
        weight("head", [8, 8]), weight("first", [8, 8], optimizer=None, **more),
    ]  # fmt: skip


def test_unregistered_layers_are_an_error_where_they_are_made(tmp_path: Path) -> None:
    record = record_of(tmp_path, [*two_layers(registered=False), optimizer("head.weight")], [1.0] * 10)
    (found,) = NotInOptimizer().check(record)
    assert (found.severity, found.layer) == ("error", "first")
    assert found.location is not None and found.location.line == 12


def test_a_fresh_layer_forgotten_is_an_error_and_a_loaded_one_a_note(tmp_path: Path) -> None:
    bound = 8**-0.5
    fresh = {"initial": {"std": bound / 3**0.5, "rms": bound / 3**0.5, "amax": 0.98 * bound}}
    falling = [1.0 - 0.01 * step for step in range(50)]
    record = record_of(tmp_path / "fresh", [*two_layers(**fresh), optimizer("head.weight")], falling)
    (found,) = NotInOptimizer().check(record)
    assert found.severity == "error" and found.location is not None and found.location.line == 15
    loaded = record_of(tmp_path / "loaded", [*two_layers(), optimizer("head.weight")], falling)
    assert [one.severity for one in NotInOptimizer().check(loaded)] == ["note"]


def test_frozen_layers_and_loops_without_optimizer_are_silent(tmp_path: Path) -> None:
    frozen = [*two_layers(requires_grad=False), optimizer("head.weight")]
    assert list(NotInOptimizer().check(record_of(tmp_path / "a", frozen, [1.0] * 10))) == []
    assert list(NotInOptimizer().check(record_of(tmp_path / "b", two_layers(), [1.0] * 10))) == []


def test_an_optimizer_of_frozen_parameters_is_an_error(tmp_path: Path) -> None:
    declared = [
        layer("head", 0),
        weight("head", [8, 8], requires_grad=False),
        circuit(*CE, HEAD),
        optimizer("head.weight"),
    ]
    (found,) = NotInOptimizer().check(record_of(tmp_path, declared, [1.0] * 10))
    assert found.severity == "error"


def pair(first: tuple[float, float], second: tuple[float, float]) -> list[dict[str, Any]]:
    """Two layers of 16 units with (rms, std) of their weights."""
    return [
        layer("a", 0), layer("b", 1),
        weight("a", [16, 16], *first), weight("b", [16, 16], *second),
    ]  # fmt: skip


def test_neighbouring_constant_layers_are_an_error_and_one_alone_is_not(tmp_path: Path) -> None:
    both = record_of(tmp_path / "both", pair((0.5, 0.0), (0.5, 0.0)), [1.0] * 30)
    assert [found.severity for found in ConstantInit().check(both)] == ["error"]
    falling = [1.0 - 0.03 * step for step in range(30)]
    alone = record_of(tmp_path / "alone", pair((0.2, 0.2), (0.5, 0.0)), falling)
    assert list(ConstantInit().check(alone)) == []


def test_zero_layers_count_only_without_gradient(tmp_path: Path) -> None:
    def run(folder: str, gradient: float) -> list[str]:
        row: Row = (256, 0, gradient, gradient, 256, NAN, NAN, NAN)
        series = {("gradient", "a.weight"): row, ("gradient", "b.weight"): row}
        record = record_of(tmp_path / folder, pair((0.0, 0.0), (0.0, 0.0)), [1.0] * 30, series)
        return [found.severity for found in ConstantInit().check(record)]

    assert run("dead", 0.0) == ["error"]
    assert run("alive", 0.1) == []


def test_large_weights_count_only_with_large_outputs(tmp_path: Path) -> None:
    def run(folder: str, output: float) -> list[str]:
        row: Row = (256, 0, output, output, 0, 0, NAN, 0.5)
        series = {("activation", "a"): row, ("activation", "b"): row}
        record = record_of(tmp_path / folder, pair((2.0, 2.0), (2.0, 2.0)), [1.0] * 30, series)
        return [found.severity for found in InitGain().check(record)]

    assert run("large", 9.0) == ["error"]
    assert run("sparse input", 1.0) == []


def test_small_weights_are_an_error_only_while_nothing_is_learned(tmp_path: Path) -> None:
    flat = record_of(tmp_path / "flat", pair((0.005, 0.005), (0.005, 0.005)), [1.0] * 30)
    assert [found.severity for found in InitGain().check(flat)] == ["error"]
    falling = [1.0 - 0.03 * step for step in range(30)]
    learns = record_of(tmp_path / "learns", pair((0.005, 0.005), (0.005, 0.005)), falling)
    assert [found.severity for found in InitGain().check(learns)] == ["note"]


@pytest.mark.parametrize(
    ("first", "last", "severities"),
    [(2.3, 0.1, []), (6.0, 0.1, ["note"]), (40.0, 39.9, ["error"]), (0.01, 0.01, ["note"])],
)
def test_the_first_loss_against_chance(tmp_path: Path, first: float, last: float, severities: list[str]) -> None:
    curve = [first + (last - first) * step / 49 for step in range(50)]
    record = record_of(tmp_path, [loss_of("cross_entropy", [32, 10], [32])], curve)
    assert [found.severity for found in InitialLoss().check(record)] == severities


def test_a_weighted_loss_is_not_judged(tmp_path: Path) -> None:
    declared = [loss_of("cross_entropy", [32, 10], [32], attributes={"weight": True})]
    assert list(InitialLoss().check(record_of(tmp_path, declared, [40.0] * 50))) == []


@pytest.mark.parametrize("rule", ALL)
@pytest.mark.parametrize("values", [[], [NAN] * 3, [float("inf")]])
def test_nothing_raises_on_empty_or_broken_records(
    tmp_path: Path, rule: Callable[[], Any], values: list[float]
) -> None:
    declared = [
        layer("a", 0),
        weight("a", [1, 1], NAN),
        loss_of("cross_entropy", [], []),
        {"type": "graph", "nodes": []},
    ]
    for number, parts in enumerate(([], declared)):
        assert isinstance(list(rule().check(record_of(tmp_path / str(number), parts, values))), list)
