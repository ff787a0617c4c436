"""Rules of the family `data`, and the search for where data are made, on small records written by hand."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wellfit.finding import Location
from wellfit.probe import frames
from wellfit.probe.writer import Writer
from wellfit.record import Record, open_run
from wellfit.rules.data.constant_input import ConstantInput
from wellfit.rules.data.dtype_cast import DtypeCast
from wellfit.rules.data.input_scale import InputScale
from wellfit.rules.data.label_range import LabelRange
from wellfit.rules.data.non_finite_input import NonFiniteInput
from wellfit.source import source_of, target_origin
from wellfit.testing import MadeRun

Row = tuple[float, float, float, float, float, float, float, float]
NAN = float("nan")
FLAT = [1.0] * 60
FALLING = [1.0 - 0.016 * step for step in range(60)]


def record_of(folder: Path, losses: list[float], series: dict[tuple[str, str], Row], **more: Any) -> Record:
    """A record of `model`, one linear layer `first`, and series that stay the same at every step."""
    folder.mkdir(parents=True, exist_ok=True)
    out = Writer(str(folder), 0, 7, 1 << 30)
    out.declare({"type": "process", "rank": 0, "world_size": 1, "main_file": more.get("main_file")})
    place = {"file": more.get("main_file") or "/u/train.py", "line": more.get("line", 30)}
    out.declare(
        {"type": "layer", "name": "first", "kind": more.get("kind", "linear"), "order": 0, "location": place,
         "parameters": ["first.weight"], "root": more.get("root", "first")}
    )  # fmt: skip
    out.declare({"type": "layer", "name": "model", "kind": "container", "order": 1, "location": place})
    out.declare(
        {"type": "parameter", "name": "first.weight", "layer": "first", "shape": [10, 4], "fan_in": 4,
         "initial": {"std": 0.3, "rms": 0.3, "amax": 0.5}}
    )  # fmt: skip
    out.declare(
        {"type": "loss", "id": 0, "function": more.get("function", "cross_entropy"), "location": place,
         "reduction": "mean",
         "prediction_shape": [32, 10], "target_shape": more.get("target_shape", [32]), "training": True,
         "attributes": {"ignore_index": more.get("ignored", -100)}}
    )  # fmt: skip
    if more.get("entries"):
        attributes = {"num_embeddings": more["entries"]}
        out.declare({"type": "layer", "name": "words", "kind": "embedding", "order": 2, "attributes": attributes})
    nodes = [
        {"id": 0, "op": "NllLossBackward0", "function": "cross_entropy", "next": [1]},
        {"id": 1, "op": "AddmmBackward0", "function": "linear", "layer": "first", "next": [2]},
        {"id": 2, "op": "AccumulateGrad", "parameter": "first.weight", "shape": [10, 4]},
    ]
    out.declare({"type": "graph", "step": 0, "backward": 0, "nodes": nodes})
    for step, value in enumerate(losses):
        out.row(frames.ROW_BACKWARD, 0, 0, step, value, 0.0)
        ids = tuple(out.series(what, subject) for what, subject in series)
        out.statistics(step, (ids, array("f", [number for row in series.values() for number in row])))
        out.row(frames.ROW_STEP, 0, 0, step, 0.0, 0.0)
    out.close()
    record = open_run(folder).records[0]
    record.finished = True
    return record


def inputs(rms: float, amax: float, zeros: float = 0.0, spread: float = 1.0) -> dict[tuple[str, str], Row]:
    return {("input", "model#0"): (128, 0.0, rms, amax, zeros, NAN, spread, 0.0)}


@pytest.mark.parametrize(
    ("series", "losses", "severities"),
    [
        (inputs(100, 255), FLAT, ["error"]),
        (inputs(100, 255), FALLING, ["note"]),
        (inputs(1, 4), FLAT, []),
        (inputs(0.0005, 0.004), FLAT, ["error"]),
        (inputs(0.005, 0.9), FLAT, []),  # sparse, such as tf-idf
        (inputs(1, 40, spread=500), FLAT, ["error"]),
        (inputs(1, 4, spread=500), FLAT, []),  # standardised images with constant borders
        (inputs(1, 4, zeros=100, spread=500), FLAT, []),
    ],
)
def test_input_scale(
    tmp_path: Path, series: dict[tuple[str, str], Row], losses: list[float], severities: list[str]
) -> None:
    assert [found.severity for found in InputScale().check(record_of(tmp_path, losses, series))] == severities


def test_a_model_that_scales_its_input_itself_is_left_alone(tmp_path: Path) -> None:
    scaled = {**inputs(100, 255), ("activation", "first"): (128, 0.0, 0.3, 1.0, 0.0, NAN, NAN, 0.5)}
    assert list(InputScale().check(record_of(tmp_path / "a", FLAT, scaled))) == []
    assert list(InputScale().check(record_of(tmp_path / "b", FLAT, inputs(100, 255), kind="norm"))) == []


@pytest.mark.parametrize(
    ("rms", "amax", "outside", "losses", "severities"),
    [
        (0.0013, 0.004, 0.3, FLAT, ["error"]),
        (0.0013, 0.004, 0.3, FALLING, ["note"]),
        (0.0013, 0.9, 0.3, FLAT, []),  # sparse
        (0.3, 1.0, 100.0, FLAT, []),  # the model divides by 255
        (0.3, 1.0, 0.5, FLAT, []),
        (80.0, 255.0, 0.3, FLAT, ["error"]),
        (80.0, 255.0, 0.3, FALLING, []),
        (90.0, 255.0, 100.0, FALLING, ["note"]),  # moved or cast, not scaled
    ],
)
def test_what_the_first_layer_is_given(
    tmp_path: Path, rms: float, amax: float, outside: float, losses: list[float], severities: list[str]
) -> None:
    script = tmp_path / "train.py"
    script.write_text("def forward(self, x):\n    x = x / 255.0\n    y = x * 1.0\n    return self.first(y)\n")
    series = {**inputs(outside, 3 * outside), ("given", "first"): (128.0, 0.0, rms, amax, 0.0, NAN, NAN, NAN)}
    record = record_of(tmp_path / "run", losses, series, main_file=str(script), root="model")
    found = list(InputScale().check(record))
    assert [one.severity for one in found] == severities
    if found and outside < 1:
        assert found[0].location is not None and found[0].location.line == 2


def test_an_autoencoder_is_left_alone(tmp_path: Path) -> None:
    series = {**inputs(100, 255), ("target", "0"): (128.0, 80.0, 100.0, 255.0, 0.0, 255.0, 99.0, 0.0)}
    assert list(InputScale().check(record_of(tmp_path, FLAT, series, function="mse_loss"))) == []


def test_nan_in_the_input_is_an_error_and_in_a_finite_run_nothing(tmp_path: Path) -> None:
    bad = {("input", "model#0"): (128.0, NAN, NAN, NAN, 0.0, NAN, NAN, 0.0)}
    (found,) = NonFiniteInput().check(record_of(tmp_path / "a", [NAN] * 20, bad))
    assert (found.severity, found.step) == ("error", 0)
    assert found.evidence == {"step": 0, "first_bad_loss": 0, "bad_losses": 20, "losses": 20}
    assert list(NonFiniteInput().check(record_of(tmp_path / "b", FLAT, bad))) == []
    assert list(NonFiniteInput().check(record_of(tmp_path / "c", [NAN] * 20, inputs(1, 4)))) == []


def test_nan_in_the_target_is_an_error(tmp_path: Path) -> None:
    bad = {**inputs(1, 4), ("target", "0"): (32.0, NAN, NAN, NAN, NAN, NAN, 1.0, 0.0)}
    (found,) = NonFiniteInput().check(record_of(tmp_path, [NAN] * 20, bad, function="mse_loss"))
    assert found.severity == "error" and "target" in found.message


def labels(
    low: float, high: float, distinct: float, integer: float = 1.0, rms: float = 5.0
) -> dict[tuple[str, str], Row]:
    return {
        ("target", "0"): (32, 4.0, rms, high, low, high, distinct, integer),
        ("output", "0"): (320, 0.0, 0.5, 1.0, -1.0, 1.0, 0.3, 0.0),
    }


@pytest.mark.parametrize(
    ("series", "function", "severities"),
    [
        (labels(0, 9, 10), "cross_entropy", []),
        (labels(1, 9, 9), "cross_entropy", ["error"]),
        (labels(0, 0, 1), "cross_entropy", ["error"]),
        (labels(0, 2, 3, integer=0), "binary_cross_entropy_with_logits", ["error"]),
        (labels(0, 1, 2, integer=0), "binary_cross_entropy_with_logits", []),
        (labels(0, 9000, 32, integer=0, rms=4000), "mse_loss", ["error"]),
        (labels(-3, 3, 32, integer=0, rms=1), "mse_loss", []),
    ],
)
def test_label_range(tmp_path: Path, series: dict[tuple[str, str], Row], function: str, severities: list[str]) -> None:
    record = record_of(tmp_path, FLAT, series, function=function)
    assert [found.severity for found in LabelRange().check(record)] == severities


@pytest.mark.parametrize(
    ("entries", "ignored", "severities"),
    [(10, -100, []), (500, -100, ["note"]), (None, 0, []), (None, 255, ["error"]), (None, -100, ["error"])],
)
def test_ids_of_a_vocabulary_need_not_begin_at_0(
    tmp_path: Path, entries: int | None, ignored: int, severities: list[str]
) -> None:
    record = record_of(tmp_path, FLAT, labels(1, 9, 9), ignored=ignored, entries=entries)
    assert [found.severity for found in LabelRange().check(record)] == severities


PROGRAM = """import torch
x, y = load()
x = torch.tensor(x)
y = y / 255
y = torch.tensor(y, dtype=torch.long)
train = TensorDataset(x[:100], y[:100])
loader = DataLoader(train, batch_size=10)
model = make()
for inputs, targets in loader:
    inputs = inputs.to("cpu")
    loss = criterion(model(inputs), targets)
"""


def test_findings_point_to_where_the_data_are_made(tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    file.write_text(PROGRAM)
    record = record_of(tmp_path / "in", FLAT, inputs(100, 255), main_file=str(file), line=11)
    (found,) = InputScale().check(record)
    assert found.location == Location(str(file), 3)
    record = record_of(tmp_path / "out", FLAT, labels(0, 0, 1), main_file=str(file), line=11)
    (found,) = LabelRange().check(record)
    assert found.location == Location(str(file), 4)  # the division, not the cast
    assert target_origin(Location(str(file), 11))[0] == Location(str(file), 5)


@pytest.mark.parametrize("text", ["x = (", "\0", "a = a\nb = c\nc = b\nmodel(b)\nloss = f(model(b), c)\n"])
def test_odd_programs_give_no_answer(tmp_path: Path, text: str) -> None:
    file = tmp_path / "odd.py"
    file.write_text(text)
    source_of(str(file))
    record = record_of(tmp_path / "run", FLAT, inputs(100, 255), main_file=str(file), line=5)
    assert len(list(InputScale().check(record))) == 1
    target_origin(Location(str(file), 5))
    assert source_of(str(tmp_path / "missing.py")) is None


def test_what_a_file_says_of_a_variable_and_of_a_call(tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    file.write_text("x, y = load()\nx = x / 255\nmake(x)\nmodel = make(y)\nloss = CrossEntropyLoss()\n")
    source = source_of(str(file))
    assert source is not None
    assert [(made.line, made.place) for made in source.made("x")] == [(1, 0), (2, None)]
    assert [(made.line, made.place) for made in source.made("y")] == [(1, 1)] and source.made("z") == []
    call = source.only_call(["CrossEntropyLoss", "NLLLoss"])
    assert call is not None and call.lineno == 5
    assert source.only_call(["make"]) is None and source.only_call(["NLLLoss"]) is None


def batches(folder: Path, losses: list[float], row: Row, shape: tuple[int, ...] = (32, 64), **more: Any) -> MadeRun:
    """A run of `model`, all batches of whose input are told by one row; `text` is its program."""
    folder.mkdir(exist_ok=True)
    file = folder / "train.py"
    file.write_text(more.get("text", ""))
    made = MadeRun(folder)
    made.declare("process", rank=0, world_size=1, main_file=str(file))
    made.loss_function(more.get("function", "cross_entropy"))
    made.declare("layer", name="model", root="model", kind="container", order=1, input_shape=list(shape))
    for loss in losses:
        made.out.statistics(made.steps, [(made.out.series(more.get("what", "input"), more.get("of", "model#0")), *row)])
        made.step(loss)
    return made


@pytest.mark.parametrize(
    ("constant", "losses", "shape", "found"),
    [
        (1.0, FLAT, (32, 64), True),
        (1.0, FALLING, (32, 64), False),  # it learns from something
        (0.9, FLAT, (32, 64), False),
        (1.0, FLAT, (4, 64), False),
        (1.0, FLAT[:5], (32, 64), False),
    ],
)
def test_batches_of_one_and_the_same_sample(
    tmp_path: Path, constant: float, losses: list[float], shape: tuple[int, ...], found: bool
) -> None:
    made = batches(tmp_path, losses, (2048, 0.0, 0.0, 0.0, 2048, NAN, NAN, constant), shape)
    told = list(ConstantInput().check(made.record()))
    assert [one.severity for one in told] == ["error"] * found
    made.declare("layer", name="words", root="model", kind="embedding", order=0)
    assert not list(ConstantInput().check(made.record()))


ANEW = """loader = DataLoader(data, batch_size={size})
for step in range(60):
    x, y = next(iter(loader))
    loss = criterion(model(x), y)
    loss.backward()
"""


@pytest.mark.parametrize(
    ("size", "shuffle", "count", "found"),
    [
        ("32", False, 32, True),
        ("batch_size", False, 32, True),
        ("len(data)", False, 32, False),  # all the data in one batch
        ("32", True, 32, False),
        ("32", False, 4, False),  # epochs
    ],
)
def test_a_loader_begun_anew_in_each_step(tmp_path: Path, size: str, shuffle: bool, count: int, found: bool) -> None:
    made = batches(tmp_path, FALLING, (2048, 0.1, 1.0, 3.0, 0, NAN, 1.0, 0.0), text=ANEW.format(size=size))
    place = {"file": str(tmp_path / "train.py"), "line": 1}
    made.declare("loader", id=0, batch_size=32, shuffle=shuffle, location=place)
    made.event("epoch", loader=0, count=count)
    told = list(ConstantInput().check(made.record()))
    assert [(one.severity, one.location) for one in told] == [("error", Location(place["file"], 3))] * found
    assert all("was begun anew at least 32 times in 60 steps" in one.message for one in told)


WHOLE: Row = (2048, 600 / 2048, (600 / 2048) ** 0.5, 1.0, 1448, NAN, 1.0, 0.2)  # 600 ones, all others 0
COLUMNS: Row = (2048, 100 / 2048, (1500 / 2048) ** 0.5, 6.0, 900, NAN, 1.0, 0.2)  # from -6 to 6
FRACTIONS: Row = (2048, 0.3, 0.5, 1.0, 100, NAN, 1.0, 0.2)


@pytest.mark.parametrize(
    ("made", "row", "lines"),
    [
        ("x = torch.tensor(x / 255, dtype=torch.long)", WHOLE, [3]),
        ("x = (x / 255.0).astype(np.uint8)", WHOLE, [3]),
        ("x = torch.LongTensor((x - mean) / std)", COLUMNS, [3]),
        ("x = x / 255\nx = torch.tensor(x).long()", WHOLE, [4]),
        ("x = MinMaxScaler().fit_transform(x)\nx, xt = train_test_split(x, t)\nx = x.astype(int)", WHOLE, [5]),
        ("x = torch.tensor(x / 255, dtype=torch.long)", COLUMNS, []),  # a coarser unit
        ("x = torch.tensor(x / 255, dtype=torch.long)", FRACTIONS, []),
        ("x = torch.tensor(x / 255 > 0.5, dtype=torch.long)", WHOLE, []),
        ("x = (x / 255).round().long()", WHOLE, []),
        ("x = torch.tensor(x, dtype=torch.long)", WHOLE, []),
        ("x = torch.tensor(x / 255, dtype=torch.float32)", WHOLE, []),
        ("x = OneHotEncoder().fit_transform(x).astype(int)", WHOLE, []),
        ("n = int(len(x) / 255)", WHOLE, []),
    ],
)
def test_a_cast_that_cuts_fractions_off(tmp_path: Path, made: str, row: Row, lines: list[int]) -> None:
    text = f"import torch\nx, y = load()\n{made}\nloss = criterion(model(x.float()), y)\n"
    told = list(DtypeCast().check(batches(tmp_path, FLAT, row, text=text).record()))
    assert [one.location.line for one in told if one.location] == lines
    assert all(one.severity == "error" for one in told)


def test_a_cast_in_a_run_that_learns_is_noted_and_few_batches_say_nothing(tmp_path: Path) -> None:
    text = "x = torch.tensor(x / 255, dtype=torch.long)\nmodel(x.float())\n"
    (found,) = DtypeCast().check(batches(tmp_path / "a", FALLING, WHOLE, text=text).record())
    assert found.severity == "note"
    assert not list(DtypeCast().check(batches(tmp_path / "b", FLAT[:3], WHOLE, text=text).record()))
    assert not list(DtypeCast().check(batches(tmp_path / "c", FLAT, WHOLE, text="x = (").record()))


def test_a_target_of_a_regression_that_was_cut_off(tmp_path: Path) -> None:
    text = "y = StandardScaler().fit_transform(y)\n\ny = torch.tensor(y, dtype=torch.long)\n\n\n"
    text += "loss = mse_loss(model(x), y.float())\n"
    made = batches(tmp_path, FLAT, (32, 0.25, 1.0, 3.0, -2.0, 3.0, NAN, 0.0), what="target", of="0", text=text)
    place = {"file": str(tmp_path / "train.py"), "line": 6}
    made.declare("loss", id=0, function="mse_loss", location=place, training=True, reduction="mean")
    (found,) = DtypeCast().check(made.record())
    assert found.location == Location(place["file"], 3) and "the target" in found.message


@pytest.mark.parametrize("rule", [ConstantInput, DtypeCast, InputScale, LabelRange, NonFiniteInput])
@pytest.mark.parametrize("losses", [[], [NAN], [float("inf")] * 3])
def test_nothing_raises_on_short_or_broken_records(
    tmp_path: Path, rule: Callable[[], Any], losses: list[float]
) -> None:
    nothing: Row = (NAN, NAN, NAN, NAN, NAN, NAN, NAN, 1.0)
    series = {("input", "model#0"): nothing, ("target", "0"): nothing, ("output", "0"): nothing}
    assert isinstance(list(rule().check(record_of(tmp_path, losses, series))), list)
