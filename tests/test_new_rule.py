"""`wellfit new-rule`: a skeleton that is whole, and fails its own test."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from wellfit.catalogue import known_rules
from wellfit.errors import WellfitError
from wellfit.new_rule import write_rule
from wellfit.rule import Rule
from wellfit.testing import check_anatomy, check_rule


def made(file: Path, kind: str) -> type[Rule]:
    spec = spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = sys.modules[file.stem] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, kind)


@pytest.mark.parametrize("family", ["forward", "slim"])
def test_a_rule_of_ones_own_fails_until_it_finds_its_illness(tmp_path: Path, family: str) -> None:
    said = write_rule("sleepy-units", family, None, tmp_path)
    assert "test_sleepy_units.py" in said and 'sleepy-units = "sleepy_units:SleepyUnits"' in said
    assert "from sleepy_units import SleepyUnits" in (tmp_path / "test_sleepy_units.py").read_text()
    rule = made(tmp_path / "sleepy_units.py", "SleepyUnits")
    check_anatomy(rule)
    with pytest.raises(AssertionError, match="of sleepy-units should give its error, but gives no findings"):
        check_rule(rule, tmp_path / "runs")


def test_a_rule_about_slimmings_reads_their_proof(tmp_path: Path) -> None:
    write_rule("sleepy-units", "slim", None, tmp_path)
    file = tmp_path / "sleepy_units.py"
    text = file.read_text()
    file.write_text(text.replace('"method": "share", "strength": 16', '"method": "prune", "strength": 0.97', 1))
    rule = made(file, "SleepyUnits")
    assert rule.judges_proofs() and not rule.reads
    check_rule(rule, tmp_path / "runs")  # the first of the two experiments is sick now, the other still is not


@pytest.mark.parametrize("family", ["forward", "slim"])
def test_a_written_file_is_well_formatted(tmp_path: Path, family: str) -> None:
    write_rule("sleepy-units", family, None, tmp_path)
    files = [str(tmp_path / name) for name in ("sleepy_units.py", "test_sleepy_units.py")]
    for words in (["format", "--check"], ["check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *words, "--isolated", "--line-length=120", *files])
        assert done.returncode == 0


def test_in_the_source_tree_it_takes_its_place_and_the_next_code(tmp_path: Path) -> None:
    (tmp_path / "wellfit" / "rules" / "forward").mkdir(parents=True)
    (tmp_path / "wellfit" / "new_rule.py").touch()
    (tmp_path / "pyproject.toml").touch()
    said = write_rule("sleepy-units", "forward", None, tmp_path / "wellfit")
    assert 'tests/test_rules.py -k "sleepy-units"' in said
    rule = made(tmp_path / "wellfit" / "rules" / "forward" / "sleepy_units.py", "SleepyUnits")
    last = max(rule.code for rule in known_rules()[0] if rule.family == "forward")
    assert rule.code == f"FWD{int(last[3:]) + 1}"


@pytest.mark.parametrize(
    ("name", "family", "code", "sentence"),
    [
        ("Sleepy Units", "forward", None, "small letters and hyphens"),
        ("sleepy-units", "foreward", None, 'did you mean "forward"'),
        ("dead-units", "forward", None, 'there is a rule "dead-units" already'),
        ("sleepy-units", "forward", "FWD302", "the code FWD302 is taken"),
        ("sleepy-units", "forward", "F1", "three capitals and three digits"),
        ("there", "forward", None, "is there already"),
    ],
)
def test_what_cannot_be_written_is_one_sentence(
    tmp_path: Path, name: str, family: str, code: str | None, sentence: str
) -> None:
    (tmp_path / "test_there.py").write_text("mine")
    with pytest.raises(WellfitError, match=sentence):
        write_rule(name, family, code, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["test_there.py"]
