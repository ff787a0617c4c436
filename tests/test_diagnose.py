"""Causes before consequences, comments that silence, rules that fail; and how rules are found and chosen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from wellfit import catalogue
from wellfit.diagnose import diagnose, explained
from wellfit.errors import WellfitError
from wellfit.finding import Finding, Location
from wellfit.rule import Rule

ROOT = Path(__file__).resolve().parent.parent


def rule(name: str, family: str, *said: dict[str, Any], consequences: tuple[str, ...] = (), code: str = "") -> Rule:
    """A rule that says the same of every record."""

    def check(self: Rule, record: Any):
        for words in said:
            if record.rank in words.get("ranks", (0, 1, 2, 3)):
                yield self.finding(
                    "ill", severity=words.get("severity", "error"), step=words.get("step"), layer=words.get("layer"),
                    location=words.get("location"), evidence={"rank": record.rank},
                    from_start=words.get("from_start", False),
                )  # fmt: skip

    fields = {
        "code": code or name.upper(), "name": name, "family": family, "summary": "", "consequences": consequences,
        "check": check,
    }  # fmt: skip
    return type(name, (Rule,), fields)()


def run_of(ranks: int = 1) -> Any:
    records = [SimpleNamespace(rank=rank, pid=100 + rank, step_count=1) for rank in range(ranks)]
    return SimpleNamespace(records=records, trials={}, was_cut=False)


def names(findings: list[Finding]) -> list[str]:
    return [finding.rule for finding in findings]


def test_a_cause_takes_its_consequences_in_through_several_steps():
    rules = [
        rule("c", "curve", {"step": 80}),
        rule("b", "update", {"step": 40}, consequences=("c",)),
        rule("a", "data", {"step": 2}, consequences=("b",)),
    ]
    result = diagnose(run_of(), rules)
    assert names(result.findings) == ["a"]
    assert sorted(result.findings[0].consequences) == ["b", "c"]
    assert sorted((cause.rule, finding.rule) for cause, finding in result.folded) == [("a", "b"), ("a", "c")]


def test_a_chain_whose_middle_is_absent_still_folds():
    rules = [
        rule("a", "data", {}, consequences=("b",)),
        rule("b", "update", consequences=("c",)),
        rule("c", "curve", {}),
    ]
    assert names(diagnose(run_of(), rules).findings) == ["a"]


@pytest.mark.parametrize(
    "cause, consequence, folds",
    [
        ({"step": 5}, {"step": 5}, True),
        ({"step": 25}, {"step": 5}, True),
        ({"step": 26}, {"step": 5}, False),
        ({"step": None}, {"step": 5}, True),
        ({"step": 500}, {"step": None}, True),
        ({"severity": "note"}, {"severity": "error"}, False),
        ({"severity": "note"}, {"severity": "note"}, False),
        ({"severity": "error"}, {"severity": "note"}, True),
    ],
)
def test_when_a_finding_is_folded(cause, consequence, folds):
    rules = [rule("a", "data", cause, consequences=("b",)), rule("b", "curve", consequence)]
    result = diagnose(run_of(), rules)
    error_last = cause.get("severity") == "note" and consequence.get("severity") == "error"
    assert names(result.findings) == (["a"] if folds else ["b", "a"] if error_last else ["a", "b"])
    assert len(result.findings) + len(result.folded) == 2


def test_rules_that_explain_each_other_leave_one():
    rules = [
        rule("late", "curve", {}, consequences=("early",)),
        rule("early", "data", {}, consequences=("middle",)),
        rule("middle", "update", {}, consequences=("late",)),
    ]
    result = diagnose(run_of(), rules)
    assert names(result.findings) == ["early"]
    assert sorted(result.findings[0].consequences) == ["late", "middle"]


def test_order_is_causes_first_then_family_then_step():
    rules = [
        rule("note", "data", {"severity": "note"}),
        rule("curve", "curve", {"step": 1}),
        rule("late", "forward", {"step": 9, "layer": "x"}, {"step": 3, "layer": "y"}),
        # A cause of an earlier family that comes too late to explain it is still told before.
        rule("cause", "update", {"step": 100}, consequences=("late",)),
        rule("init", "initialisation", {}),
    ]
    result = diagnose(run_of(), rules)
    assert [(f.rule, f.step) for f in result.findings] == [
        ("init", None), ("cause", 100), ("late", 3), ("late", 9), ("curve", 1), ("note", None),
    ]  # fmt: skip


def test_a_rule_that_fails_is_named_once_and_the_others_go_on():
    class Broken(Rule):
        code, name, family, summary = "BRK001", "broken", "data", ""

        def check(self, record):
            yield self.finding("said before it broke", severity="error")
            raise ZeroDivisionError("division\nby zero")

    class Odd(Rule):
        code, name, family, summary = "ODD001", "odd", "data", ""

        def check(self, record):
            yield "a text"

    class Leaving(Rule):
        code, name, family, summary = "LVG001", "leaving", "data", ""

        def check(self, record):
            sys.exit(9)

    off: set[str] = set()
    rules = [Broken(), Odd(), Leaving(), rule("fine", "data", {})]
    result = diagnose(run_of(2), rules, off)
    assert names(result.findings) == ["fine"]
    assert len(result.problems) == 3
    assert (
        "the rule broken failed" in result.problems[0] and "ZeroDivisionError: division by zero" in result.problems[0]
    )
    assert "not a Finding" in result.problems[1]
    assert "SystemExit: 9" in result.problems[2]
    assert off == {"broken", "odd", "leaving"}
    assert diagnose(run_of(2), rules, off).problems == []


def test_a_rule_that_loops_or_talks_nonsense_is_named_and_switched_off(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("wellfit.diagnose.SECONDS", 0.2)

    class Endless(Rule):
        code, name, family, summary = "END001", "endless", "data", ""

        def check(self, record):
            while True:
                try:
                    int("no number")
                except Exception:
                    pass
            yield

    class Many(Rule):
        code, name, family, summary = "MNY001", "many", "data", ""

        def check(self, record):
            while True:
                yield self.finding("again", severity="error")

    odd = {
        name: rule(name, "data", {key: value})
        for name, key, value in [
            ("grave", "severity", "fatal"), ("nowhere", "location", ("a.py", 3)), ("when", "step", "late"),
            ("numbered", "layer", 3),
        ]
    }  # fmt: skip
    result = diagnose(run_of(), [Endless(), Many(), *odd.values(), rule("fine", "data", {})])
    assert names(result.findings) == ["fine"]
    assert [problem.split()[2] for problem in result.problems] == ["endless", "many", *odd]
    assert "no end in 0.2 s" in result.problems[0] and "more than 1000 findings" in result.problems[1]


def test_ranks_are_merged_and_layers_are_not():
    rules = [rule("a", "data", {"layer": "x"}, {"layer": "y", "ranks": (1,)})]
    result = diagnose(run_of(3), rules)
    assert [(f.layer, f.evidence) for f in result.findings] == [
        ("x", {"rank": 0, "ranks": ["0", "1", "2"]}), ("y", {"rank": 1}),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "above, line, silent",
    [
        ("", "step()  # wellfit: ignore", True),
        ("", "step()  #wellfit:ignore[dead-units] they are meant to be", True),
        ("", "step()  # wellfit: ignore[x, FWD302]", True),
        ("", "step()  # wellfit: ignore[FWD]", True),
        ("", "step()  # wellfit: ignore[lr-high]", False),
        ("", "step()  # wellfit: ignore[]", False),
        ("", "step()  # wellfit: ignored", False),
        ("", "step()  # noqa", False),
        ("    # wellfit: ignore[dead-units] why", "step()", True),
        ("other()  # wellfit: ignore", "step()", False),
    ],
)
def test_comments_in_the_source_silence(tmp_path, above, line, silent):
    file = tmp_path / "train.py"
    file.write_text(f"import x\n{above}\n{line}\n# wellfit: ignore\n")
    where = Location(str(file), 3)
    rules = [rule("dead-units", "forward", {"location": where}, code="FWD302")]
    result = diagnose(run_of(), rules)
    assert (names(result.findings), names(result.ignored)) == (([], ["dead-units"]) if silent else (["dead-units"], []))


def test_what_a_silenced_finding_explains_is_not_told_in_its_place(tmp_path):
    file = tmp_path / "train.py"
    file.write_text("step()  # wellfit: ignore[cause]\n")
    rules = [
        rule("cause", "data", {"location": Location(str(file), 1)}, consequences=("symptom",)),
        rule("symptom", "curve", {}),
    ]
    result = diagnose(run_of(), rules)
    assert (names(result.findings), names(result.ignored), result.folded) == ([], ["cause"], [])


@pytest.mark.parametrize(
    ("ignored", "told", "left_out", "explained_by_a"),
    [
        ((), ["a", "other"], [], ["b", "c"]),
        (("a",), ["other"], ["a"], None),
        (("b",), ["a", "other"], [], ["c"]),  # c is told under a, as before
        (("c",), ["a", "other"], [], ["b"]),
        (("a", "b"), ["other"], ["a"], None),
        (("other",), ["a"], ["other"], ["b", "c"]),
    ],
)
def test_an_ignored_rule_takes_what_it_explains_with_it(ignored, told, left_out, explained_by_a):
    rules = [
        rule("a", "data", {}, consequences=("b",)),
        rule("b", "update", {}, consequences=("c",)),
        rule("c", "curve", {}),
        rule("other", "curve", {}),
    ]
    result = diagnose(run_of(), rules, ignored=ignored)
    assert (names(result.findings), names(result.ignored)) == (told, left_out)
    assert [finding.consequences for finding in result.findings if finding.rule == "a"] == (
        [] if explained_by_a is None else [explained_by_a]
    )
    shown = {finding.rule for pair in result.folded for finding in pair}
    assert not shown & {*ignored, *left_out}


def test_a_consequence_of_two_causes_is_told_under_the_one_that_is_not_ignored():
    rules = [
        rule("first", "data", {}, consequences=("symptom",)),
        rule("second", "update", {}, consequences=("symptom",)),
        rule("symptom", "curve", {}),
    ]
    [told] = diagnose(run_of(), rules, ignored={"first"}).findings
    assert (told.rule, told.consequences) == ("second", ["symptom"])


def test_a_note_of_an_ignored_rule_explains_no_error():
    rules = [rule("a", "data", {"severity": "note"}, consequences=("b",)), rule("b", "curve", {})]
    assert names(diagnose(run_of(), rules, ignored={"a"}).findings) == ["b"]


def test_nothing_is_said_of_an_ignored_rule_that_fails():
    class Broken(Rule):
        code, name, family, summary = "BRK001", "broken", "data", ""

        def check(self, record: Any):
            raise RuntimeError("no")

        def check_together(self, records: Any):
            raise RuntimeError("no")

    off: set[str] = set()
    result = diagnose(run_of(2), [Broken(), rule("fine", "curve", {})], off, ignored={"broken"})
    assert (names(result.findings), result.problems, off) == (["fine"], [], {"broken"})


def test_a_cause_outside_the_selection_takes_nothing_with_it():
    symptom = rule("symptom", "curve", {})
    assert names(diagnose(run_of(), [symptom], ignored={"cause"}).findings) == ["symptom"]


@pytest.mark.parametrize(("family", "folds"), [("data", True), ("backward", True), ("update", False)])
def test_what_was_there_from_the_start_is_no_consequence_of_steps(family, folds):
    rules = [
        rule("cause", family, {"step": 3}, consequences=("state", "symptom")),
        rule("state", "forward", {"step": 9, "from_start": True}, consequences=("symptom",)),
        rule("symptom", "curve", {"step": 50}),
    ]
    result = diagnose(run_of(), rules)
    assert names(result.findings) == (["cause"] if folds else ["state", "cause"])
    assert {finding.rule for _, finding in result.folded} == ({"state", "symptom"} if folds else {"symptom"})


@pytest.mark.parametrize("file", ["/nowhere/train.py", "/dev/zero", "/", "\0", "<string>"])
def test_sources_that_cannot_be_read_silence_nothing(file):
    rules = [rule("a", "data", {"location": Location(file, 1)})]
    assert names(diagnose(run_of(), rules).findings) == ["a"]


def test_explained_is_transitive_and_ends_in_circles():
    rules = [rule("a", "data", consequences=("b", "unknown")), rule("b", "data", consequences=("a",))]
    assert explained(rules) == {"a": {"b", "unknown"}, "b": {"a", "unknown"}}


class Sick(Rule):
    code, name, family, summary = "FWD302", "dead-units", "forward", "units that give 0"
    share: float = 0.6
    batches: int = 20
    strict: bool = False
    words: str = "no threshold"


class Other(Rule):
    code, name, family, summary = "FWD101", "input-scale", "data", "inputs out of scale"


@pytest.fixture
def two_rules(monkeypatch):
    monkeypatch.setattr(catalogue, "known_rules", lambda: ((Other, Sick), ("something is broken",)))


@pytest.mark.parametrize(
    "select, ignore, chosen",
    [
        ((), (), ["input-scale", "dead-units"]),
        (("dead-units",), (), ["dead-units"]),
        (("fwd302",), (), ["dead-units"]),
        (("FWD3",), (), ["dead-units"]),
        (("FWD",), ("FWD3",), ["input-scale"]),
        (("forward",), (), ["dead-units"]),
        (("ALL",), ("data",), ["dead-units"]),
        ((), ("dead-units", "FWD101"), []),
    ],
)
def test_selection(two_rules, select, ignore, chosen):
    ignored = catalogue.names_of(ignore)
    assert [rule.name for rule in catalogue.rules(select) if rule.name not in ignored] == chosen


def test_thresholds_are_set_on_the_instance(two_rules):
    values = {"dead-units": {"share": 1, "batches": 5.0, "strict": True}}
    made = catalogue.rules(["dead-units"], thresholds=values)[0]
    assert (made.share, made.batches, made.strict) == (1.0, 5, True)
    assert (Sick.share, Sick.batches, Sick.strict) == (0.6, 20, False)
    assert catalogue.thresholds_of(Sick) == {"share": 0.6, "batches": 20, "strict": False}


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (
            {"select": ["dead-unit"]},
            'no rule is called "dead-unit", and no code begins with it (did you mean "dead-units"?)',
        ),
        ({"ignore": ["XYZ"]}, 'no rule is called "XYZ"'),
        ({"thresholds": {"dead-unit": {}}}, 'unknown rule "dead-unit" (did you mean "dead-units"?)'),
        ({"thresholds": {"dead-units": {"shar": 1}}}, 'dead-units has no threshold "shar" (did you mean "share"?)'),
        ({"thresholds": {"dead-units": {"words": "x"}}}, 'no threshold "words"'),
        ({"thresholds": {"dead-units": {"share": "1"}}}, "dead-units: share is a number, not '1'"),
        ({"thresholds": {"dead-units": {"share": True}}}, "share is a number, not True"),
        ({"thresholds": {"dead-units": {"share": float("nan")}}}, "share is a number, not nan"),
        ({"thresholds": {"dead-units": {"batches": 2.5}}}, "batches is a whole number, not 2.5"),
        ({"thresholds": {"dead-units": {"batches": float("inf")}}}, "batches is a whole number, not inf"),
        ({"thresholds": {"dead-units": {"strict": 1}}}, "strict is true or false, not 1"),
    ],
)
def test_wrong_names_and_values_are_told(two_rules, arguments, sentence):
    with pytest.raises(WellfitError) as caught:
        catalogue.names_of(arguments["ignore"]) if "ignore" in arguments else catalogue.rules(**arguments)
    assert sentence in str(caught.value)


def test_problems_of_loading_are_handed_over(two_rules):
    problems: list[str] = []
    catalogue.rules(problems=problems)
    assert problems == ["something is broken"]


GOOD = """from wellfit.rule import Rule
class Mine(Rule):
    code, name, family, summary = 'MIN001', 'mine', 'data', 's'
"""


@pytest.mark.parametrize(
    "text, said",
    [
        (GOOD, "['mine'] ()"),
        (GOOD.replace("'data'", "'dta'"), 'the family "dta" is none of'),
        (
            GOOD.replace("code, name, family, summary", "name, family, summary, x"),
            'Mine needs the field "code", a text',
        ),
        ("1 / 0", 'the rule "entry" (theirs) is switched off: ZeroDivisionError: division by zero'),
        ("x = 1", "is switched off: the module theirs defines no rule"),
        (GOOD + GOOD.replace("Mine", "Twin"), 'two rules are called "mine": theirs.Mine and theirs.Twin; rename one'),
    ],
)
def test_rules_of_other_packages(tmp_path, text, said):
    """Through a true entry point, in a process of its own."""
    (tmp_path / "theirs.py").write_text(text + "\n")
    info = tmp_path / "theirs-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[wellfit.rules]\nentry = theirs\n")
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n"
        "from wellfit import catalogue\ncatalogue._own = lambda *a: ()\n"
        "rules, problems = catalogue.known_rules()\nprint([r.name for r in rules], problems)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, timeout=60)
    assert said in done.stdout + done.stderr


def test_our_own_rules_load():
    own, problems = catalogue.known_rules()
    assert problems == ()
    assert [rule.code for rule in own] == sorted({rule.code for rule in own})
    reach = {name for rule in own for name in rule.consequences}
    assert reach <= {rule.name for rule in own}
