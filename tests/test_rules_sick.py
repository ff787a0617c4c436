"""The sick experiment of every rule of the catalogue: it is named, and what is proposed cures it."""

from __future__ import annotations

from pathlib import Path

import pytest
from forked import Forks

from wellfit.catalogue import known_rules
from wellfit.record import Run
from wellfit.rule import Rule
from wellfit.testing import check_sick, experiment, judge

RULES = {rule.name: rule for rule in known_rules()[0]}
NOT_CURED = {"output-collapse": "its experiment takes the mean over the batch, which no override can undo"}


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_the_sick_experiment_of(name: str, forks: Forks, tmp_path: Path) -> None:
    """It is named; and where the finding proposes overrides, one of them cures it."""
    rule, sick = RULES[name], experiment(RULES[name], "sick")
    found = check_sick(rule, forks.experiment(sick, tmp_path / "as it is", rule.trials))
    tried = [fix.override for fix in found.fixes if fix.override is not None]
    if not tried or rule.trials or name in NOT_CURED:
        return
    runs = (forks.cured(sick, tmp_path / str(place), override) for place, override in enumerate(tried))
    assert any(run is not None and not _is_named(rule, run) for run in runs), f"none of {tried} cures it"


def _is_named(rule: type[Rule], run: Run) -> bool:
    """Whether a rule gives its worst finding, told or as a consequence of another."""
    diagnosis = judge(run, extra=(rule,))
    told = [*diagnosis.findings, *(finding for _, finding in diagnosis.folded)]
    return any(finding.rule == rule.name and finding.severity == rule.worst for finding in told)
