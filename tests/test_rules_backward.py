"""Rules of the backward pass, on small records that were written by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from made_training import FALLING, FLAT, NAN, Training, place, row

from wellfit.record import Record
from wellfit.rules.backward.clip_dominates import ClipDominates
from wellfit.rules.backward.exploding import Exploding
from wellfit.rules.backward.extra_zero import ExtraZero
from wellfit.rules.backward.non_finite_grad import NonFiniteGrad
from wellfit.rules.backward.stale_grad import StaleGrad
from wellfit.rules.backward.vanishing import Vanishing
from wellfit.rules.backward.zero_grad_param import ZeroGradParam

RULES = [ClipDominates, Exploding, ExtraZero, NonFiniteGrad, StaleGrad, Vanishing, ZeroGradParam]


def chain(folder: Path, gradients: list[float], activation: str | None = None) -> Training:
    """Linear layers in a row with these rms of gradients, all weights of rms 1."""
    told = Training(folder)
    for number, size in enumerate(gradients):
        last = number == len(gradients) - 1
        told.layer(f"l{number}", 10 + number, activation=None if last else activation, activation_location=place(40))
        told.measure("activation_gradient", f"l{number}", [row(size)] * 30)
        told.measure("gradient", f"l{number}.weight", [row(size)] * 30)
        told.measure("parameter", f"l{number}.weight", [row(1.0)] * 30)
    return told


@pytest.mark.parametrize("rule", RULES)
def test_nothing_is_said_of_an_empty_record(rule: type, tmp_path: Path) -> None:
    assert list(rule().check(Training(tmp_path).record([]))) == []


@pytest.mark.parametrize("rule", RULES)
def test_odd_numbers_raise_nothing(rule: type, tmp_path: Path) -> None:
    told = chain(tmp_path, [NAN, math.inf, 0.0])
    told.measure("time_profile", "rnn", [(NAN, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0)] * 30)
    told.event("stale-gradient", 3, optimizer=9, confirmed=True, count=50)
    told.event("gradient-cleared", 3, optimizer=9, count=50)
    told.event("non-finite", 3, where="parameter")
    told.event("no-gradient", 3, optimizer=None, parameters=["nobody"])
    list(rule().check(told.record([1.0, NAN, math.inf] * 20, [["backward"] * 300, []])))


# vanishing -----------------------------------------------------------------------------------------------------------

SHRINKING = [1e-9, 1e-7, 1e-5, 1e-3, 1e-1, 1.0]


def test_vanishing_names_the_first_layer_and_the_line_of_its_activation(tmp_path: Path) -> None:
    [found] = Vanishing().check(chain(tmp_path, SHRINKING, "sigmoid").record(FLAT))
    assert (found.severity, found.layer) == ("error", "l0")
    assert found.location is not None and found.location.line == 40
    assert "ReLU" in found.message


def test_vanishing_through_relu_names_the_line_of_the_layer(tmp_path: Path) -> None:
    [found] = Vanishing().check(chain(tmp_path, SHRINKING, "relu").record(FLAT))
    assert found.location is not None and found.location.line == 10


def test_vanishing_in_a_run_that_learns_is_a_note(tmp_path: Path) -> None:
    [found] = Vanishing().check(chain(tmp_path, SHRINKING).record(FALLING))
    assert found.severity == "note"


def test_gradients_of_healthy_size_do_not_vanish(tmp_path: Path) -> None:
    assert list(Vanishing().check(chain(tmp_path, [0.01, 0.05, 0.2, 1.0]).record(FLAT))) == []


def test_small_gradients_of_outputs_alone_do_not_vanish(tmp_path: Path) -> None:
    told = chain(tmp_path, SHRINKING)
    for number in range(len(SHRINKING)):  # large images: many outputs with little gradient each, weights get enough
        told.measure("gradient", f"l{number}.weight", [row(0.1)] * 30)
    assert list(Vanishing().check(told.record(FLAT))) == []


# exploding -----------------------------------------------------------------------------------------------------------


def test_exploding_in_depth_names_the_first_layer(tmp_path: Path) -> None:
    [found] = Exploding().check(chain(tmp_path, [30.0, 10.0, 3.0, 1.0]).record(FLAT))
    assert (found.severity, found.layer) == ("error", "l0")


def test_exploding_in_steps_names_the_optimizer(tmp_path: Path) -> None:
    told = chain(tmp_path, [0.5, 1.0])
    told.measure("gradient", "l1.weight", [row(4.0**step) for step in range(30)])
    [found] = Exploding().check(told.record([4.0**step for step in range(30)] + [math.inf] * 5))
    assert found.location is not None and found.location.line == 80


@pytest.mark.parametrize("losses", [FALLING, FLAT])
def test_gradients_of_healthy_size_do_not_explode(tmp_path: Path, losses: list[float]) -> None:
    assert list(Exploding().check(chain(tmp_path, [0.5, 0.7, 1.0]).record(losses))) == []


def test_a_run_that_learns_may_have_larger_gradients_in_front(tmp_path: Path) -> None:
    assert list(Exploding().check(chain(tmp_path, [30.0, 1.0]).record(FALLING))) == []


# zero-grad-param -----------------------------------------------------------------------------------------------------


def zeros(folder: Path, losses: list[float], amax: float = 0.0) -> Record:
    told = chain(folder, [1.0, 1.0])
    for name in ("l0.weight", "l0.bias"):
        told.measure("gradient", name, [row(amax)] * 30)
    return told.record(losses)


def test_a_layer_whose_gradient_is_0_is_named(tmp_path: Path) -> None:
    [found] = ZeroGradParam().check(zeros(tmp_path, FLAT))
    assert (found.severity, found.layer) == ("error", "l0")


def test_it_is_a_note_while_the_run_learns(tmp_path: Path) -> None:
    [found] = ZeroGradParam().check(zeros(tmp_path, FALLING))
    assert found.severity == "note"


def test_small_is_not_zero(tmp_path: Path) -> None:
    assert list(ZeroGradParam().check(zeros(tmp_path, FLAT, amax=1e-30))) == []


def test_a_loss_that_reached_zero_has_no_gradient_left(tmp_path: Path) -> None:
    assert list(ZeroGradParam().check(zeros(tmp_path, [1.0 / (1 + step) for step in range(40)] + [0.0] * 80))) == []


# non-finite-grad -----------------------------------------------------------------------------------------------------

LOST = [2.0 - 0.01 * step for step in range(30)] + [NAN] * 30


def test_the_suspect_and_its_line_are_named(tmp_path: Path) -> None:
    told = chain(tmp_path, [1.0, 1.0])
    told.event(
        "non-finite",
        29,
        where="gradient",
        parameter="l0.weight",
        function="sqrt",
        value="nan",
        bad=2,
        total=4,
        **place(33),
    )
    [found] = NonFiniteGrad().check(told.record(LOST))
    assert (found.severity, found.step, found.layer) == ("error", 29, "l0")
    assert found.location is not None and found.location.line == 33
    assert "under the root" in found.message


def test_a_gradient_measured_once_and_gone_is_a_note(tmp_path: Path) -> None:
    told = chain(tmp_path, [1.0, 1.0])
    told.measure("gradient", "l0.weight", [row(1.0, amax=math.inf if step == 5 else 1.0) for step in range(30)])
    [found] = NonFiniteGrad().check(told.record(FALLING))
    assert found.severity == "note" and found.step == 5


def test_a_bad_number_of_forward_comes_first(tmp_path: Path) -> None:
    told = chain(tmp_path, [1.0, 1.0])
    told.event("non-finite", 28, where="forward", function="log")
    told.event("non-finite", 29, where="parameter", parameter="l0.weight")
    assert list(NonFiniteGrad().check(told.record(LOST))) == []


# stale-grad ----------------------------------------------------------------------------------------------------------


def stale(folder: Path, counts: list[int], *, confirmed: bool = True) -> Record:
    told = Training(folder)
    for count in counts:
        told.event("stale-gradient", count, optimizer=0, parameter="w", confirmed=confirmed, count=count)
    return told.record(FALLING, [["backward", "step:0"]])


def test_a_loop_without_zero_grad_is_found(tmp_path: Path) -> None:
    [found] = StaleGrad().check(stale(tmp_path, [1, 2, 3, 4, 5, 8, 16, 32, 64]))
    assert (found.severity, found.step) == ("error", 1)
    assert found.location is not None and found.location.line == 90


def test_a_gradient_kept_a_few_times_is_no_habit(tmp_path: Path) -> None:
    assert list(StaleGrad().check(stale(tmp_path, [1, 2, 3, 4]))) == []


def test_a_gradient_that_was_zero_is_not_stale(tmp_path: Path) -> None:
    assert list(StaleGrad().check(stale(tmp_path, [1, 2, 4, 8, 16, 32, 64], confirmed=False))) == []


# extra-zero ----------------------------------------------------------------------------------------------------------


def test_cleared_before_the_step(tmp_path: Path) -> None:
    told = Training(tmp_path)
    for count in (1, 2, 3, 4, 5, 8, 16, 32, 64):
        told.event("gradient-cleared", count - 1, optimizer=0, count=count, location=place(91))
    [found] = ExtraZero().check(told.record(FLAT, [["backward", "zero_grad:0", "step:0"]]))
    assert (found.severity, found.step) == ("error", 0)
    assert found.location is not None and found.location.line == 91


def test_cleared_once_is_no_habit(tmp_path: Path) -> None:
    told = Training(tmp_path)
    for count in (1, 2, 3):
        told.event("gradient-cleared", count - 1, optimizer=0, count=count, location=place(91))
    assert list(ExtraZero().check(told.record(FLAT, [["zero_grad:0", "backward", "step:0"]]))) == []


def test_cleared_before_each_micro_batch(tmp_path: Path) -> None:
    [found] = ExtraZero().check(Training(tmp_path).record(FALLING, [["zero_grad:0", "backward"] * 4 + ["step:0"]]))
    assert found.evidence["micro_batches"] == 4


@pytest.mark.parametrize(
    "pattern",
    [
        ["zero_grad:0", "backward", "step:0"],
        ["zero_grad:0", "backward", "backward", "backward", "step:0"],
        ["zero_grad:0", "backward", "step:0", "zero_grad:0"],
        ["zero_grad:0", "backward", "zero_grad:0", "backward", "backward", "step:0"],
    ],
)
def test_accumulation_as_it_should_be(tmp_path: Path, pattern: list[str]) -> None:
    assert list(ExtraZero().check(Training(tmp_path).record(FALLING, [pattern]))) == []


def test_a_second_optimizer_may_be_cleared_between(tmp_path: Path) -> None:
    told = Training(tmp_path)
    told.out.declare({"type": "optimizer", "id": 1, "class": "SGD", "parameters": []})
    pattern = ["zero_grad:0", "backward", "zero_grad:1", "backward", "step:0"]
    assert list(ExtraZero().check(told.record(FALLING, [pattern]))) == []


SECOND = ["zero_grad:0", "zero_grad:1", "step:1", "backward", "step:0"]  # zero_grad and step of 1 follow backward


@pytest.mark.parametrize(
    ("pattern", "found"), [(SECOND, 1), (["zero_grad:0", "step:1", "zero_grad:1", "backward", "step:0"], 0)]
)
def test_the_second_optimizer_is_cleared_before_its_step(tmp_path: Path, pattern: list[str], found: int) -> None:
    told = Training(tmp_path)
    told.out.declare({"type": "optimizer", "id": 1, "class": "SGD", "parameters": ["a", "b"], "location": place(81)})
    for count in (1, 2, 3, 4, 5, 8):
        told.event("gradient-cleared", count, optimizer=1, count=count, location=place(91))
    said = [one.message for one in ExtraZero().check(told.record(FLAT, [pattern]))]
    assert len(said) == found and all("made at line 81 steps on nothing and its 2 param" in one for one in said)


LOOP = """
for epoch in range(9):
    for x, y in loader:
        optimizer.zero_grad()
        loss = error(model(x), y)
        loss.backward()
        {inside}
    {after}
    scheduler.step()
"""


@pytest.mark.parametrize(
    ("inside", "after", "pairs", "line"),
    [
        ("pass", "optimizer.step()", 30, 8),
        ("pass", "scaler.step(optimizer)", 30, 8),
        ("pass", "optimizer.step()", 4, 6),  # so few may be micro-batches
        ("grads += model.weight.grad", "optimizer.step()", 30, 6),
        ("if ready(): optimizer.step()", "pass", 30, 6),
    ],
)
def test_a_step_outside_of_the_loop(tmp_path: Path, inside: str, after: str, pairs: int, line: int) -> None:
    file = tmp_path / "train.py"
    file.write_text(LOOP.format(inside=inside, after=after))
    told = Training(tmp_path)
    told.out.declare({"type": "backward", "id": 0, "location": {"file": str(file), "line": 6}})
    [found] = ExtraZero().check(told.record(FALLING, [["zero_grad:0", "backward"] * pairs + ["step:0"]]))
    assert found.location is not None and found.location.line == line
    assert ("outside of the loop" in found.message) == (line == 8)


# clip-dominates ------------------------------------------------------------------------------------------------------


def clipped(
    folder: Path, losses: list[float], limit: float = 0.01, norm: float = 1.0, path: float = 0.02, decay: float = 0.0,
    **optimizer: object,
) -> Record:  # fmt: skip
    """Each of 80 steps clips this norm to the limit, and all of them move a weight by `path` of its size."""
    told = Training(folder)
    told.out.declare({"type": "hyper", "id": 0, "optimizer": 0, "group": 0, "name": "weight_decay"})
    told.out.row(ord("H"), 0, 0, 0, decay, 0.0)
    if optimizer:
        told.out.declare(
            {"type": "optimizer", "id": 0, "location": place(80), "parameters": ["l0.weight"], **optimizer}
        )
    else:
        told.out.declare(
            {"type": "optimizer", "id": 0, "class": "SGD", "location": place(80), "parameters": ["l0.weight"]}
        )
    told.layer("l0", 10)
    told.out.declare({"type": "clip", "id": 0, "function": "clip_grad_norm_", "location": place(91)})
    for step in range(80):
        told.out.row(ord("C"), 0, 0, step, norm, limit)
    told.measure("update", "l0.weight", [row(path / 80, a=1.0)] * 80)
    told.measure("gradient", "l0.weight", [row(min(norm, limit) / 4)] * 80)
    told.measure("parameter", "l0.weight", [row(1.0)] * 80)
    return told.record(losses)


def test_clipping_that_leaves_nothing_of_the_gradient(tmp_path: Path) -> None:
    [found] = ClipDominates().check(clipped(tmp_path, FLAT))
    assert (found.severity, found.evidence["ratio"]) == ("error", pytest.approx(100))
    assert found.location is not None and found.location.line == 91
    assert "raise the limit to about 1" in found.message and "unscale_" not in found.message


def test_clipping_of_gradients_that_are_still_scaled(tmp_path: Path) -> None:
    [found] = ClipDominates().check(clipped(tmp_path, FLAT, limit=1.0, norm=65536.0))
    assert "scaler.unscale_" in found.message


@pytest.mark.parametrize(
    ("losses", "given"),
    [
        (FALLING, {}),  # it learns
        (FLAT, {"norm": 0.09}),  # nine times the limit
        (FLAT, {"path": 0.3}),  # the weights move all the same
        (FLAT, {"path": 1e-4}),  # without clipping, too, they would hardly move
        (FLAT, {"limit": math.inf}),  # only the norm was wanted
        (FLAT, {"class": "Adam", "groups": [{"eps": 1e-8}]}),  # divides by the size of the gradient
        ([2.0, *[NAN] * 79], {}),
    ],
)
def test_clipping_that_is_not_to_blame(tmp_path: Path, losses: list[float], given: dict[str, Any]) -> None:
    assert list(ClipDominates().check(clipped(tmp_path, losses, **given))) == []


def test_a_limit_near_the_eps_of_adam_slows_it_too(tmp_path: Path) -> None:
    adam = {"class": "Adam", "groups": [{"eps": 1e-8}]}
    [found] = ClipDominates().check(clipped(tmp_path, FLAT, limit=1e-9, norm=1e-4, **adam))
    assert found.severity == "error"


@pytest.mark.parametrize(
    ("kind", "decay", "named"),
    [("Adam", 0.01, True), ("Adam", 0.5, False), ("Adam", 0.001, False), ("AdamW", 0.01, False)],
)
def test_clipping_that_leaves_the_weights_to_their_decay(tmp_path: Path, kind: str, decay: float, named: bool) -> None:
    """The weight has a length of 4; the gradient of 1 is cut to 0.01."""
    given = {"class": kind, "groups": [{"eps": 1e-8}], "path": 5.0}
    found = list(ClipDominates().check(clipped(tmp_path, FLAT, decay=decay, **given)))
    assert ["weight decay decides" in one.message for one in found] == ([True] if named else [])


def same_norm(folder: Path, norms: list[float]) -> Record:
    """Gradients that something has cut, which was not seen."""
    told = Training(folder)
    told.layer("l0", 10)
    told.out.declare({"type": "optimizer", "id": 0, "class": "SGD", "location": place(80), "parameters": ["l0.weight"]})
    told.measure("update", "l0.weight", [row(1e-6, a=1.0)] * 80)
    told.measure("gradient", "l0.weight", [row(norm) for norm in norms])
    told.measure("parameter", "l0.weight", [row(1.0)] * 80)
    return told.record(FLAT)


def test_gradients_of_one_and_the_same_tiny_norm_were_clipped(tmp_path: Path) -> None:
    [found] = ClipDominates().check(same_norm(tmp_path, [1e-5] * 80))
    assert found.location is not None and found.location.line == 80
    assert "100 % of the gradients have the same norm" in found.message and "are cut" not in found.message


def test_each_number_of_a_gradient_may_be_clipped(tmp_path: Path) -> None:
    told = Training(tmp_path)
    told.layer("l0", 10)
    told.out.declare({"type": "optimizer", "id": 0, "class": "SGD", "location": place(80), "parameters": ["l0.weight"]})
    told.out.declare({"type": "clip", "id": 0, "function": "clip_grad_value_", "location": place(91)})
    for step in range(80):
        told.out.row(ord("C"), 1, 0, step, NAN, 1e-3)
    told.measure("update", "l0.weight", [row(1e-4, a=1.0)] * 80)
    told.measure("gradient", "l0.weight", [row(0.9e-3)] * 80)
    told.measure("parameter", "l0.weight", [row(1.0)] * 80)
    [found] = ClipDominates().check(told.record(FLAT))
    assert "most of the gradient's numbers are cut to 0.001" in found.message
    assert found.location is not None and found.location.line == 91


@pytest.mark.parametrize("norms", [[1e-5, 1.2e-5] * 40, [1e-3] * 80, [0.0] * 80])
def test_gradients_that_nothing_has_cut(tmp_path: Path, norms: list[float]) -> None:
    assert list(ClipDominates().check(same_norm(tmp_path, norms))) == []
