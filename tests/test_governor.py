"""The budget: what the governor chooses when watching costs this much and a step lasts that long."""

import pytest

from wellfit.probe.governor import ALLOWANCE, CAPS, FIRST_STEPS, START_STEPS, Governor


def train(governor, steps, step_seconds, watch_seconds):
    """Simulated training; returns (the watched steps, the seconds that watching cost, all seconds)."""
    now, watched, cost = 0.0, [], 0.0
    governor.begin(now)
    watching = True
    for step in range(steps):
        if watching:
            watched.append(step)
            now += step_seconds + watch_seconds
            cost += watch_seconds
            governor.end_watched(step, step_seconds + watch_seconds, step_seconds + watch_seconds, watch_seconds)
        else:
            now += step_seconds
            governor.end_plain(1, step_seconds, 0.0)
        watching = governor.wants(step + 1, now)
    return watched, cost, now


@pytest.mark.parametrize("step_seconds", [6e-4, 1e-2, 0.3])
@pytest.mark.parametrize("watch_seconds", [2e-4, 2e-3, 2e-2])
def test_a_long_run_stays_inside_its_budget(step_seconds, watch_seconds):
    _, cost, seconds = train(Governor(0.01), round(40 / step_seconds), step_seconds, watch_seconds)
    start = START_STEPS * watch_seconds
    assert cost - start <= 0.01 * seconds


def test_the_first_steps_are_watched_where_they_are_cheap():
    watched, _, _ = train(Governor(0.01), 2000, 5e-3, 1e-3)
    assert watched[:FIRST_STEPS] == list(range(FIRST_STEPS))
    assert watched[-1] > 1800  # and it goes on to the end


def test_a_dear_look_is_paid_from_the_allowance():
    watched, cost, _ = train(Governor(0.01), 400, 1e-3, 2e-2)
    assert cost - START_STEPS * 2e-2 <= ALLOWANCE + 0.01 * 400 * 1e-3 + 2e-2
    assert len(watched) >= START_STEPS + 3


def test_watched_steps_are_not_evenly_spaced():
    watched, _, _ = train(Governor(0.01), 20_000, 5e-3, 2e-3)
    gaps = {later - earlier for earlier, later in zip(watched[60:], watched[61:], strict=False)}
    assert len(gaps) > 5


def test_the_cap_follows_what_watching_costs():
    dear, cheap = Governor(0.01), Governor(0.01)
    train(dear, 40_000, 1e-3, 2e-2)
    train(cheap, 4_000, 0.5, 1e-3)
    assert dear.cap == CAPS[0]
    assert cheap.cap == CAPS[1]


def test_looks_go_on_where_the_events_of_all_steps_use_up_the_budget():
    watched, cost, seconds = train(Governor(0.01), 50_000, 3e-4, 1e-3)
    assert watched[-1] > 35_000
    assert cost <= ALLOWANCE + 0.005 * seconds


def test_every_step_if_asked():
    watched, _, _ = train(Governor(0.01, every=7), 50, 1e-3, 1.0)
    assert watched == list(range(0, 50, 7))
