"""The search for the strength of a try, on curves that are made up; and how a plan shares out what is kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from wellfit.overrides.catalogue import from_json
from wellfit.slim.drive.layers import Network, Tensor
from wellfit.slim.drive.plan import FEWEST, Plan, again, planned
from wellfit.slim.drive.search import STRONGEST, Outcome, front, next_at_size, next_within
from wellfit.slim.drive.search_plan import FAMILIES, MOST_TRIES, Family, best_of, next_plan
from wellfit.slim.drive.setting import Setting
from wellfit.slim.drive.tries import Try
from wellfit.slim.target import Target

Curve = Callable[[float], float]


def walked(follow: Callable[[list[Outcome]], float | None], size: Curve, lost: Curve, most: int = 40) -> list[Outcome]:
    """The tries that a search makes on two curves over the share that is kept."""
    outcomes: list[Outcome] = []
    while (keep := follow(outcomes)) is not None:
        assert STRONGEST <= keep <= 1
        outcomes.append(Outcome(keep, round(size(keep)), lost(keep)))
        assert len(outcomes) < most, "it does not end"
    return outcomes


@given(limit=st.floats(0.0021, 0.9), first=st.floats(0.002, 1), scale=st.floats(1e3, 1e8))
def test_the_smallest_file_that_is_good_enough_is_found(limit: float, first: float, scale: float) -> None:
    """Whoever keeps more than `limit` loses little."""
    outcomes = walked(
        lambda done: next_within(done, 1.0, first), lambda keep: scale * keep + 500, lambda keep: 2.0 * (keep < limit)
    )
    least = min(one.keep for one in outcomes if one.lost <= 1)
    assert limit <= least <= limit * 1.13
    assert len(outcomes) <= 14


@given(first=st.floats(0.002, 1))
def test_where_nothing_is_good_enough_all_is_kept_in_the_end(first: float) -> None:
    outcomes = walked(lambda done: next_within(done, 1.0, first), lambda keep: 1e6 * keep, lambda keep: math.inf)
    assert max(one.keep for one in outcomes) == 1


@given(first=st.floats(0.002, 1))
def test_where_everything_is_good_enough_the_least_is_kept(first: float) -> None:
    outcomes = walked(lambda done: next_within(done, 1.0, first), lambda keep: 1e6 * keep, lambda keep: 0.0)
    assert min(one.keep for one in outcomes) == pytest.approx(STRONGEST)


@given(st.lists(st.booleans(), min_size=40, max_size=40), st.floats(0.002, 1))
def test_it_ends_whatever_the_noise(coins: list[bool], first: float) -> None:
    tosses = iter(coins)
    walked(lambda done: next_within(done, 1.0, first), lambda keep: 1e6 * keep, lambda keep: 2.0 * next(tosses))


@given(
    target=st.integers(2_000, 900_000), slope=st.floats(0.4, 1.4), around=st.integers(0, 1_500),
    wrong=st.floats(0.3, 3.0),
)  # fmt: skip
def test_a_size_is_met_though_the_prediction_is_wrong(target: int, slope: float, around: int, wrong: float) -> None:
    def size(keep: float) -> float:
        return around + 1e6 * keep**slope

    assume(size(0.0022) < 0.9 * target and size(1) > 1.1 * target)
    outcomes = walked(lambda done: next_at_size(done, target, lambda keep: wrong * 1e6 * keep), size, lambda keep: 0.0)
    assert any(0.92 * target <= one.bytes <= target for one in outcomes)
    assert len(outcomes) <= 12


def test_a_size_that_cannot_be_met_ends_the_search() -> None:
    outcomes = walked(lambda done: next_at_size(done, 100, lambda keep: 1e5 * keep), lambda keep: 1000 + 1e5 * keep,
                      lambda keep: 0.0)  # fmt: skip
    assert outcomes[-1].keep == STRONGEST


def test_a_size_above_that_of_all_weights_is_met_at_once() -> None:
    outcomes = walked(lambda done: next_at_size(done, 10**9, lambda keep: 1e5 * keep), lambda keep: 1e5 * keep,
                      lambda keep: 0.0)  # fmt: skip
    assert [one.keep for one in outcomes] == [1.0]


@given(
    st.lists(st.builds(Outcome, st.just(0.5), st.integers(1, 50), st.floats(-5, 5) | st.just(math.inf)), max_size=30)
)
def test_nothing_beats_the_front_and_the_front_beats_the_rest(outcomes: list[Outcome]) -> None:
    best = front(outcomes)
    for one in outcomes:
        beaten = any(other.bytes <= one.bytes and other.lost <= one.lost for other in best)
        assert beaten or not math.isfinite(one.lost)
    for one in best:
        assert not any((other.bytes < one.bytes and other.lost <= one.lost) for other in outcomes)


def network(counts: list[int], errors: list[float]) -> Network:
    names = [f"layer{place}.weight" for place in range(len(counts))]
    tensors = {name: Tensor(name, (count,), "float32", "Linear", True) for name, count in zip(names, counts)}
    tensors["norm.weight"] = Tensor("norm.weight", (7,), "float32", "LayerNorm", True)
    weights = {name: error**2 / count for name, error, count in zip(names, errors, counts)}
    return Network("Net", tensors, {}, dict(zip(names, errors)), weights, {})


LAYERS = st.lists(st.tuples(st.integers(1, 10**6), st.floats(0.001, 1)), min_size=1, max_size=8)


@given(LAYERS, st.floats(0.002, 1))
def test_a_plan_keeps_what_it_should(layers: list[tuple[int, float]], keep: float) -> None:
    net = network([count for count, _ in layers], [error for _, error in layers])
    plan = planned(net, keep, 16)
    least = sum(min(count, max(FEWEST, count * (count < 64))) for count, _ in layers)
    total = sum(count for count, _ in layers)
    wanted = max(keep, least / total)
    assert plan.keep == pytest.approx(wanted, rel=0.02, abs=2e-5)
    assert again(net, plan.told, True) == plan
    assert all(0 < layer.keep <= 1 and layer.predicted > 0 for layer in plan.layers)


@given(st.floats(0.01, 0.5), st.floats(0.02, 0.9))
def test_of_two_layers_the_one_that_matters_more_keeps_more(one: float, keep: float) -> None:
    plan = planned(network([10_000, 10_000], [one, 2 * one]), keep, 16)
    first, second = (layer.keep for layer in plan.layers)
    assert first < second or second == 1


@given(LAYERS, st.floats(0.002, 0.5), st.floats(1.1, 2))
def test_a_plan_that_keeps_more_is_predicted_to_be_larger(
    layers: list[tuple[int, float]], keep: float, more: float
) -> None:
    net = network([count for count, _ in layers], [error for _, error in layers])
    assert planned(net, keep, 16).predicted <= planned(net, min(1.0, keep * more), 16).predicted + 1e-6


def searched(
    net: Network, target: Target, within: float, lost: Callable[[float, Family], float], *, taught: bool
) -> list[Try]:
    """The tries that the whole search makes where files are a fifth larger than predicted."""
    tries: list[Try] = []
    while (following := next_plan(net, target, within, tries, taught)) is not None:
        plan, family = following
        points = lost(plan.keep, family)
        size, value = round(1.2 * plan.predicted), 0.9 - points / 100
        tries.append(Try(
            Path(), plan.keep, family.values, plan.told, plan.together, 100, size, value, points, 10.0,
            family.is_taught, None, True, str(len(tries)),
        ))  # fmt: skip
        assert len(tries) <= len(FAMILIES) * MOST_TRIES
    return tries


@settings(max_examples=20, deadline=None)
@given(limit=st.floats(0.01, 0.9), taught=st.booleans())
def test_the_whole_search_finds_a_small_file_that_is_good_enough(limit: float, taught: bool) -> None:
    """Fewer values cost nothing here but for 4, which are never good enough: then files of 8 values are smallest."""
    net = network([20_000, 100_000], [0.3, 0.2])
    tries = searched(net, Target(), 1.0, lambda keep, family: 9.0 if keep < limit or family.values == 4 else 0.5,
                     taught=taught)  # fmt: skip
    best = best_of(tries, Target(), 1.0, net)
    assert best is not None
    assert best.lost <= 1
    assert best.bytes <= 1.2 * planned(net, min(1.0, 1.13 * limit), 16).predicted + 1
    assert taught or not any(one.is_taught for one in tries)


@settings(max_examples=20, deadline=None)
@given(st.integers(5_000, 100_000), st.integers(0, 3))
def test_the_whole_search_finds_the_best_family_of_a_size(most: int, place: int) -> None:
    net, target = network([20_000, 100_000], [0.3, 0.2]), Target("bytes", most)
    tries = searched(net, target, 1.0, lambda keep, family: 3.0 * (family != FAMILIES[place]), taught=True)
    best = best_of(tries, target, 1.0, net)
    assert best is not None
    assert FAMILIES[place].has(best)
    assert 0.9 * most <= best.bytes <= most or best.keep > 0.99


def test_where_nothing_is_good_enough_the_best_is_given() -> None:
    net = network([20_000, 100_000], [0.3, 0.2])
    tries = searched(net, Target(), 1.0, lambda keep, family: 2 + 1 / keep, taught=False)
    best = best_of(tries, Target(), 1.0, net)
    assert best is not None
    assert best.keep == 1
    assert best_of([], Target(), 1.0, net) is None


def test_layers_are_judged_together_unless_the_plan_or_the_steps_say_otherwise() -> None:
    net = network([10_000, 20_000, 50], [0.5, 0.2, 0.3])
    plan = planned(net, 0.1, 8)

    def told(plan: Plan, steps: int | None) -> dict[str, dict[str, Any]]:
        made = Setting(plan, steps, False).overrides(Path("w.safetensors"))
        from_json(made)  # each is one that there is
        return {one["override"]: one for one in made}

    together = told(plan, 1000)
    assert together["prune"]["scope"] == "bits"
    assert together["prune"]["layers"] == "layer2.weight=0", "it is too small to be pruned"
    kept = sum(layer.keep * layer.parameters for layer in plan.layers if layer.keep < 1) / 30_000
    assert together["prune"]["amount"] == pytest.approx(1 - kept, abs=1e-5)
    assert together["prune"]["biases"] is together["share"]["biases"] is True
    for alone in (told(replace(plan, together=False), 1000), told(plan, None)):
        assert alone["prune"]["scope"] == "layer"
        assert alone["prune"]["layers"].startswith(f"layer0.weight={1 - plan.layers[0].keep:.5f};")
        assert alone["share"]["biases"] is False
    assert "start" not in told(plan, None)["prune"]


@given(LAYERS, st.floats(0.002, 0.99))
def test_layers_that_are_judged_together_are_predicted_to_be_smaller(
    layers: list[tuple[int, float]], keep: float
) -> None:
    plan = planned(network([count for count, _ in layers], [error for _, error in layers]), keep, 16)
    alone = replace(plan, together=False).predicted
    assert 0.55 * alone <= plan.predicted <= alone
