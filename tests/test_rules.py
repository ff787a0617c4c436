"""The whole catalogue: the anatomy of every rule, and its experiments run for real."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from forked import Forks

from wellfit.catalogue import known_rules
from wellfit.errors import WellfitError
from wellfit.rule import Rule
from wellfit.testing import (
    MadeRun,
    check_anatomy,
    check_healthy,
    check_message,
    check_rule,
    check_sick,
    experiment,
    judge,
    run_experiment,
    script_of,
)

RULES = {rule.name: rule for rule in known_rules()[0]}


def test_every_rule_of_the_catalogue_loads() -> None:
    _, problems = known_rules()
    assert problems == ()
    assert len(RULES) >= 7


@pytest.mark.parametrize("name", RULES)
def test_the_anatomy_of(name: str) -> None:
    check_anatomy(RULES[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_no_rule_calls_ill_the_healthy_experiment_of(name: str, forks: Forks, tmp_path: Path) -> None:
    check_healthy(name, forks.experiment(experiment(RULES[name], "healthy"), tmp_path, RULES[name].trials))


@pytest.mark.slow
def test_the_whole_suite_for_one_rule(tmp_path: Path) -> None:
    """As the author of a rule calls it: under `wellfit run`."""
    check_rule(RULES["constant-init"], tmp_path)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("kind", ["empty", "one step", "not a number", "constant", "no update"])
def test_a_poor_record_is_judged_without_an_error(name: str, kind: str, tmp_path: Path) -> None:
    made = MadeRun(tmp_path)
    nan = float("nan")
    if kind != "empty":
        made.loss_function()
        made.weight("fc.weight")
    steps = {"empty": 0, "one step": 1}.get(kind, 60)
    for _ in range(steps):
        loss = nan if kind == "not a number" else 0.0
        made.step(loss, {} if kind == "no update" else {"fc.weight": nan if kind == "not a number" else 0.0})
        made.evaluation(loss)
    for finished in (False, True):
        for finding in RULES[name]().check(made.record(finished)):
            check_message(finding)


def test_the_script_of_an_experiment_is_its_body() -> None:
    class Holder:
        @staticmethod
        def sick() -> None:
            # a comment of the program
            text = """two
            lines"""

            print(text)

    assert script_of(Holder.sick) == '# a comment of the program\ntext = """two\nlines"""\n\nprint(text)\n'


def test_an_experiment_in_one_line_is_refused() -> None:
    def sick() -> None: ...

    with pytest.raises(WellfitError, match="on a line of its own"):
        script_of(sick)


@pytest.mark.slow
def test_an_experiment_that_fails_is_told_with_its_error(tmp_path: Path) -> None:
    def sick() -> None:
        raise ValueError("no such digit")

    with pytest.raises(WellfitError, match="no such digit"):
        run_experiment(sick, tmp_path / "run")


def test_the_suite_refuses_a_rule_without_a_cure() -> None:
    class Bare(Rule):
        """Nothing."""

        code = "CRV699"
        name = "bare"
        family = "curve"
        summary = "nothing"

    with pytest.raises(AssertionError, match="What it checks"):
        check_anatomy(Bare)


def test_the_suite_refuses_a_sick_experiment_that_is_not_found(tmp_path: Path) -> None:
    class Blind(RULES["plateau"]):  # type: ignore[misc]
        name = "blind"
        code = "CRV698"

        def check(self, record: object) -> Iterator[object]:
            yield from ()

    made = MadeRun(tmp_path)
    made.step(1.0)
    made.record()
    from wellfit.record import open_run

    with pytest.raises(AssertionError, match="of blind should give its error, but gives no findings"):
        check_sick(Blind, open_run(tmp_path))
    assert judge(open_run(tmp_path)).problems == []
