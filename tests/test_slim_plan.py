"""Plans of a model that is made small without training: making them, reading and editing them, carrying them out."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import slim_models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from overridden import ENV
from torch import nn

from wellfit import slim
from wellfit.errors import WellfitError
from wellfit.slim.measure.inputs import Inputs
from wellfit.slim.planning.applying import carried_out
from wellfit.slim.planning.judge import Judge
from wellfit.slim.planning.plan import FORMAT
from wellfit.slim.planning.scan import scan
from wellfit.slim.planning.step import METHODS, Step, checked_steps
from wellfit.slim.target import Target


class Net(nn.Module):
    """Two hidden layers, trained a little to tell which of ten directions an input has."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.out = nn.Linear(20, 64), nn.Linear(64, 32), nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.two(torch.relu(self.one(x)))))


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, torch.Tensor, Any]:
    """A model, inputs, and its accuracy."""
    torch.manual_seed(0)
    x = torch.randn(512, 20)
    y = (x @ torch.randn(20, 10)).argmax(1)
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    model.eval()

    def accuracy(candidate: nn.Module) -> float:
        return float((candidate(x).argmax(1) == y).double().mean())

    return model, x, accuracy


@pytest.fixture(scope="module")
def small(trained: Any) -> slim.Plan:
    model, x, accuracy = trained
    return slim.plan(model, x, target="size", keep=2.0, evaluate=accuracy)


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_a_plan_is_small_keeps_its_promise_and_leaves_the_model(trained: Any, small: slim.Plan) -> None:
    model, _, accuracy = trained
    before, weight, mode = state_of(model), model.one.weight, model.training
    assert small.met and small.dense is not None and small.whole is not None
    assert small.dense.bytes == 4 * sum(p.numel() for p in model.parameters())
    assert small.whole.bytes < small.dense.bytes / 5
    slimmed = slim.apply(model, small)
    assert slimmed.steps == small.steps and all(one in small.skipped for one in slimmed.skipped)
    assert 100 * (accuracy(model) - accuracy(slimmed.model)) == pytest.approx(small.whole.lost, abs=1e-9)
    assert small.whole.lost <= 2.0
    assert model.one.weight is weight and model.training == mode
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("goal", ["size", "latency"])
def test_each_look_is_undone_bit_for_bit(goal: str) -> None:
    model, x = slim_models.made("vgg")
    model.eval()
    given = Inputs.of(x)
    found, base = scan(model, given, given.resized(1), Judge(model, given), list(METHODS), goal, lambda *told: None)
    again = carried_out(model, found.folds, given).model
    assert found.folds and found.cuts and (goal == "latency" or all(len(own) > 5 for own in found.layers.values()))
    assert [*map(str, base.modules())] == [*map(str, again.modules())]
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, base.state_dict()[name]), name


def test_the_bytes_of_the_whole_are_those_of_the_file(trained: Any, small: slim.Plan, tmp_path: Path) -> None:
    slimmed = slim.apply(trained[0], small)
    written = slim.save(slimmed.model, tmp_path / "x.wfz", slimmed.changes)
    assert small.whole is not None and written.bytes == small.whole.bytes == (tmp_path / "x.wfz").stat().st_size


def test_the_front_falls(small: slim.Plan) -> None:
    assert len(small.front) >= 3
    assert [point.bytes for point in small.front] == sorted(point.bytes for point in small.front)
    losses = [(point.lost, point.moved) for point in small.front]
    assert losses == sorted(losses, reverse=True) and len(set(losses)) == len(losses)


def test_milder_where_less_may_be_lost(trained: Any, small: slim.Plan) -> None:
    model, x, accuracy = trained
    none = slim.plan(model, x, keep=0.0, evaluate=accuracy)
    assert none.whole is not None and small.whole is not None
    assert none.met and none.whole.lost == 0 and none.whole.bytes >= small.whole.bytes


@pytest.mark.parametrize("target", ["2kB", "4x"])
def test_a_limit_is_kept(trained: Any, target: str) -> None:
    model, x, accuracy = trained
    made = slim.plan(model, x, target=target, keep=3.0, evaluate=accuracy)
    assert made.met and made.whole is not None and made.dense is not None
    limit = Target.of(target).bytes_of(made.dense.bytes)
    assert limit is not None and made.whole.bytes <= limit and made.whole.lost <= 3.0


def test_a_target_that_cannot_be_met_gives_the_front(trained: Any) -> None:
    model, x, accuracy = trained
    made = slim.plan(model, x, target="100B", keep=1.0, evaluate=accuracy)
    assert not made.met and made.whole is not None and made.whole.lost <= 1.0 and made.front
    assert "100B cannot be met within 1 point without training" in str(made)


def test_only_the_methods_that_were_named(trained: Any) -> None:
    model, x, _ = trained
    made = slim.plan(model, x, keep=5.0, methods=["grid"])
    assert made.steps and {step.method for step in made.steps} == {"grid"}
    assert made.measure == "agreement of classes" and "only evaluate=" in str(made)


def test_what_was_named_and_does_not_fit_is_told() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 3))
    made = slim.plan(model, torch.randn(4, 1, 8, 8), keep=50.0, methods=["int8"])
    assert made.steps == (Step("2", "int8"),)
    assert [(one.layer, one.parameters, one.reason) for one in made.skipped] == [("0", 40, "no method fits it")]


def test_few_samples_do_not_count_as_agreement(trained: Any) -> None:
    model, x, _ = trained
    made = slim.plan(model, x[:4], keep=1.0, methods=["share"])
    assert made.measure == "agreement of outputs" and made.whole is not None and made.whole.moved <= 0.01


def test_latency_is_claimed_only_from_a_fifth_on(trained: Any) -> None:
    model, x, accuracy = trained
    made = slim.plan(model, x, target="latency", keep=1.0, methods=["svd"], evaluate=accuracy)
    assert made.whole is not None and made.dense is not None and made.whole.ms and made.dense.ms
    assert made.met == (made.dense.ms >= 1.2 * made.whole.ms)
    if not made.met:
        assert not made.steps and "Nothing is 1.2 times as fast" in str(made)


def test_a_model_that_takes_no_single_sample(trained: Any) -> None:
    class Paired(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(torch.stack([x[::2], x[1::2]]).sum(0))

    model = Paired(20, 10).eval()
    with pytest.raises(WellfitError, match="does not take a batch of one sample"):
        slim.plan(model, trained[1], target="latency")
    assert slim.plan(model, trained[1], methods=["grid"]).met


def test_the_table_names_every_layer_and_step(small: slim.Plan) -> None:
    text = str(small)
    for layer in ("one", "two", "out"):
        assert layer in text
    for step in small.steps:
        assert str(step) in text
    assert f"{small.whole.bytes:,}" in text  # type: ignore[union-attr]


def test_a_file_gives_the_plan_back(small: slim.Plan, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    small.save(path)
    assert slim.Plan.load(path) == small


def test_an_edited_plan_forgets_what_was_measured(trained: Any, small: slim.Plan, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    small.save(path)
    told = json.loads(path.read_text())
    told["steps"] = [{"layer": "one", "method": "prune", "strength": 0.25}]
    path.write_text(json.dumps(told))
    edited = slim.Plan.load(path)
    assert edited.steps == (Step("one", "prune", 0.25),) and edited.whole is None and not edited.layers
    zeros = (slim.apply(trained[0], edited).model.one.weight == 0).double().mean()
    assert float(zeros) == 0.25 and "prune 25%" in str(edited)


MISTAKES = [
    ("[]", "a plan is a JSON object"),
    ("{", "is no JSON: line 1"),
    ("[" * 100_000, "is no JSON"),
    ('{"steps": 3}', '"steps" is to be a list'),
    ('{"target": "size"}', 'the field "steps" is missing'),
    ('{"stepps": []}', 'no field "stepps" (did you mean "steps"?)'),
    ('{"steps": [], "format": "wellfit slim plan 9"}', FORMAT),
    ('{"steps": [], "target": "fast"}', "not 'fast'"),
    ('{"steps": [], "target": 4}', "not '4'"),
    ('{"steps": [], "keep": -1}', "keep is to be points"),
    ('{"steps": [], "keep": "1"}', "keep is to be points"),
    ('{"steps": [], "expected": {"whole": 7}}', '"expected" is not as it was written'),
    ('{"steps": [7]}', "step 1: an object"),
    ('{"steps": [{"layer": "one"}]}', 'step 1: the field "method" is missing'),
    ('{"steps": [{"method": "prune", "strength": 0.5}]}', 'step 1: the field "layer" is missing'),
    ('{"steps": [{"layer": 1, "method": "prune"}]}', 'step 1: "layer" is to be text'),
    ('{"steps": [{"layer": "one", "method": "prunes"}]}', 'no method "prunes" (did you mean "prune"?)'),
    ('{"steps": [{"layer": "one", "method": "prune", "strenght": 1}]}', "no field strenght"),
    ('{"steps": [{"layer": "one", "method": "prune", "strength": 50}]}', "weights between 0 and 1, not 50"),
    ('{"steps": [{"layer": "one", "method": "prune"}]}', "between 0 and 1, not None"),
    ('{"steps": [{"layer": "one", "method": "share", "strength": 0}]}', "values from 1 to 4096, not 0"),
    ('{"steps": [{"layer": "one", "method": "share", "strength": true}]}', "values from 1 to 4096, not True"),
    ('{"steps": [{"layer": "one", "method": "grid", "strength": 99}]}', "bits, a whole number from 2 to 12"),
    ('{"steps": [{"layer": "one", "method": "round", "strength": "bf8"}]}', '"bf16" or "fp16", not bf8'),
    ('{"steps": [{"layer": "one", "method": "tucker", "strength": [1]}]}', "two ranks"),
    ('{"steps": [{"layer": "one", "method": "int8", "strength": 8}]}', "no strength, null"),
    (
        '{"steps": [{"layer": "a", "method": "round", "strength": "bf16"}, {"layer": "a", "method": "int8"}]}',
        "step 2: int8 after round on a: put int8 before round",
    ),
    (
        '{"steps": [{"layer": "", "method": "share", "strength": 5}, {"layer": "", "method": "grid", "strength": 2}]}',
        "leave one of them out",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), MISTAKES, ids=[said[:30] for _, said in MISTAKES])
def test_each_mistake_is_one_sentence(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(WellfitError) as error:
        slim.Plan.load(path)
    assert said in str(error.value) and "\n" not in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize("value", ["x", None, [1]])
def test_an_expectation_that_is_none(small: slim.Plan, value: Any) -> None:
    for name, key in (("whole", "bytes"), ("dense", "bytes"), ("whole", "lost")):
        told = json.loads(json.dumps(small.as_json()))
        told["expected"][name][key] = value
        with pytest.raises(WellfitError, match='"expected" is not as it was written'):
            slim.Plan.from_json(told)


def test_there_is_no_such_file_or_folder(small: slim.Plan, tmp_path: Path) -> None:
    with pytest.raises(WellfitError, match="cannot be read"):
        slim.Plan.load(tmp_path / "none.json")
    with pytest.raises(WellfitError, match="cannot be written"):
        small.save(tmp_path / "none" / "plan.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["layer", "method", "strength", "steps", "target", "keep", "expected", "whole", "x"]) | st.text(max_size=3),
        inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(told=st.dictionaries(st.sampled_from(["steps", "target", "keep", "expected", "format"]), JSON))
def test_whatever_is_in_a_file_gives_a_plan_or_a_sentence(told: Any) -> None:
    try:
        plan = slim.Plan.from_json(told)
    except WellfitError as error:
        assert str(error)
    else:
        assert str(plan) and all(METHODS[step.method].fits(step.strength) for step in plan.steps)


@settings(max_examples=60, deadline=None)
@given(entry=st.dictionaries(st.sampled_from(["layer", "method", "strength"]), JSON | st.sampled_from([*METHODS])))
def test_whatever_a_step_is_it_fits_or_is_named(entry: Any) -> None:
    try:
        (step,) = checked_steps([entry])
    except WellfitError as error:
        assert "step 1" in str(error)
    else:
        assert METHODS[step.method].fits(step.strength) and str(step)


def test_a_layer_that_is_not_there(trained: Any) -> None:
    with pytest.raises(WellfitError, match=r'step 1: Net has no layer "ones" \(did you mean "one"\?\)'):
        slim.apply(trained[0], slim.Plan("size", 1.0, (Step("ones", "prune", 0.5),)))


def test_a_step_that_cannot_be_taken_is_skipped_and_told(trained: Any) -> None:
    model, x, _ = trained
    steps = (Step("one", "svd", 60), Step("two", "tucker", (2, 2)), Step("out", "prune", 0.5))
    slimmed = slim.apply(model, slim.Plan("size", 1.0, steps))
    assert slimmed.steps == steps[2:] and not slimmed.changes
    assert [(one.layer, one.method, one.parameters) for one in slimmed.skipped] == [
        ("one", "svd", 1344),
        ("two", "tucker", 2080),
    ]
    assert all(one.reason for one in slimmed.skipped) and slimmed.model(x).shape == (512, 10)


def test_cuts_of_a_read_plan_want_inputs(trained: Any) -> None:
    model, x, _ = trained
    plan = slim.Plan("size", 1.0, (Step("one", "cut", 0.25),))
    with pytest.raises(WellfitError, match="give example inputs"):
        slim.apply(model, plan)
    slimmed = slim.apply(model, plan, x[:4])
    assert slimmed.model.one.weight.shape == (48, 20) and slimmed.model.two.weight.shape == (32, 48)


def test_arguments_that_are_none(trained: Any) -> None:
    model, x, _ = trained
    for what, said in (({"methods": ["svt"]}, "no method"), ({"keep": math.nan}, "keep"), ({"target": "x"}, "target")):
        with pytest.raises(WellfitError, match=said):
            slim.plan(model, x, **what)  # type: ignore[arg-type]
    with pytest.raises(WellfitError, match="fails with the example inputs"):
        slim.plan(model, x[:, :3])
    with pytest.raises(WellfitError, match="call the model once"):
        slim.plan(nn.LazyLinear(3), x)
    with pytest.raises(WellfitError, match="returned NoneType"):
        slim.plan(model, x, evaluate=lambda candidate: None)  # type: ignore[arg-type, return-value]


def test_to_import_the_plan_needs_no_torch() -> None:
    code = "import sys; import wellfit.slim.planning.plan, wellfit.slim.from_model.launch, wellfit.slim.findings; "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=ENV, check=False).returncode == 0


class Fives(nn.Linear):
    """Takes five samples."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.reshape(5, 4))


def test_batches_that_a_model_does_not_take_are_told(tmp_path: Path) -> None:
    model = Fives(4, 3).eval()
    slim.save(model, tmp_path / "x.wfz")
    report = slim.report(model, tmp_path / "x.wfz", torch.randn(5, 4))
    assert report.told["latency"] == [] and "A batch of 32 is left out: RuntimeError: shape '[5, 4]'" in report.text()
