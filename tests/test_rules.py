"""The whole catalogue: the anatomy of every rule, and its experiments run for real under `wellfit run`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from wellfit.catalogue import known_rules
from wellfit.errors import WellfitError
from wellfit.record import Run
from wellfit.rule import Rule
from wellfit.testing import (
    MadeRun,
    check_anatomy,
    check_healthy,
    check_message,
    check_sick,
    experiment,
    judge,
    run_experiment,
    script_of,
)

RULES = {rule.name: rule for rule in known_rules()[0]}


class Experiments:
    """Runs each experiment once, two at a time, those first whose tests come first."""

    def __init__(self, folder: Path, wanted: list[tuple[str, str]]) -> None:
        self._folder = folder
        self._pool = ThreadPoolExecutor(2)
        # Under pytest-xdist the workers are the two at a time: each begins an experiment when its test does.
        ahead = [] if "PYTEST_XDIST_WORKER" in os.environ else wanted
        self._runs: dict[tuple[str, str], Future[Run]] = {key: self._begin(*key) for key in dict.fromkeys(ahead)}

    def _begin(self, name: str, kind: str) -> Future[Run]:
        return self._pool.submit(run_experiment, experiment(RULES[name], kind), self._folder / f"{name}-{kind}")

    def run(self, name: str, kind: str) -> Run:
        """The finished run of one experiment."""
        if (name, kind) not in self._runs:
            self._runs[name, kind] = self._begin(name, kind)
        return self._runs[name, kind].result()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


_KINDS = {
    "test_the_sick_experiment_of": "sick",
    "test_no_rule_calls_ill_the_healthy_experiment_of": "healthy",
}


@pytest.fixture(scope="session")
def experiments(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Experiments]:
    wanted = []
    for item in request.session.items:
        name = getattr(getattr(item, "callspec", None), "params", {}).get("name")
        kind = _KINDS.get(getattr(item, "originalname", ""))
        if kind is not None and name in RULES:
            wanted.append((name, kind))
    made = Experiments(tmp_path_factory.mktemp("experiments"), wanted)
    yield made
    made.close()


def test_every_rule_of_the_catalogue_loads() -> None:
    _, problems = known_rules()
    assert problems == ()
    assert len(RULES) >= 7


@pytest.mark.parametrize("name", RULES)
def test_the_anatomy_of(name: str) -> None:
    check_anatomy(RULES[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_the_sick_experiment_of(name: str, experiments: Experiments) -> None:
    finding = check_sick(RULES[name], experiments.run(name, "sick"))
    assert finding.severity == "error"


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_no_rule_calls_ill_the_healthy_experiment_of(name: str, experiments: Experiments) -> None:
    check_healthy(name, experiments.run(name, "healthy"))


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

    with pytest.raises(AssertionError, match="gives no findings instead"):
        check_sick(Blind, open_run(tmp_path))
    assert judge(open_run(tmp_path)).problems == []
