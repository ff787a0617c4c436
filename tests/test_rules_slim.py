"""The rules about slimmings, on proofs that were written by hand: each number on both sides of its threshold."""

from __future__ import annotations

import copy
import json
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wellfit import catalogue
from wellfit.catalogue import find_rule
from wellfit.cli import main
from wellfit.config import Asked
from wellfit.errors import WellfitError
from wellfit.finding import Finding
from wellfit.proof import Proof
from wellfit.report.text import fix_text
from wellfit.rule import Rule
from wellfit.rule_page import rule_text
from wellfit.slim.findings import judged
from wellfit.testing import check_message

CALM = {"p10": 0.9, "p25": 0.95, "p50": 1.0, "p75": 1.1, "calls": 100}
HEALTHY: dict[str, Any] = {
    "file": "net.wfz", "is_for_time": False, "batch": 1,
    "metric": {"name": "accuracy", "dense": 0.9, "slim": 0.895, "lost": 0.5, "allowed": 1.0, "spread": None},
    "bytes": {"slim": 1000, "dense": 10_000, "dense_coded": 8000},
    "parameters": {"dense": 2500},
    "steps": [{"layer": "fc", "method": "share", "strength": 16}],
    "latency": [
        {"batch": 1, "speedup": 1.0, "dense": CALM, "slim": CALM},
        {"batch": 32, "speedup": 1.0, "dense": CALM, "slim": CALM},
    ],
    "skipped": [],
}  # fmt: skip


def made(**changes: Any) -> dict[str, Any]:
    """The healthy proof with something changed: keys of what is inside follow two underscores."""
    proof = copy.deepcopy(HEALTHY)
    for path, value in changes.items():
        *holders, last = path.split("__")
        inner: Any = proof
        for holder in holders:
            inner = inner[int(holder) if holder.isdigit() else holder]
        inner[last] = value
    return proof


def findings(proof: dict[str, Any], **thresholds: Any) -> list[Finding]:
    diagnosis = judged(Proof.of(proof), Asked(thresholds={key.replace("_", "-"): v for key, v in thresholds.items()}))
    assert not diagnosis.problems
    for finding in diagnosis.findings:
        check_message(finding)
    return diagnosis.findings


def names(proof: dict[str, Any], **thresholds: Any) -> list[str]:
    return [f"{finding.severity} {finding.rule}" for finding in findings(proof, **thresholds)]


def timed(factor: float, **changes: Any) -> dict[str, Any]:
    """The slim model takes so many times as long with one sample."""
    slim = {key: value * factor if key != "calls" else value for key, value in CALM.items()}
    return made(latency__0__slim=slim | changes, latency__0__speedup=1 / factor)


def test_a_healthy_proof_has_none() -> None:
    assert findings(HEALTHY) == []


@pytest.mark.parametrize(
    ("slim", "speedup", "expected"),
    [
        (8000, 1.0, ["error slim-no-op"]),
        (9000, 0.5, ["error slim-no-op"]),
        (7844, 1.19, ["error slim-no-op"]),
        (7843, 1.19, []),
        (8000, 1.2, []),
    ],
)
def test_no_op(slim: int, speedup: float, expected: list[str]) -> None:
    assert names(made(bytes__slim=slim, latency__0__speedup=speedup)) == expected


def test_no_op_wants_steps_and_does_without_times() -> None:
    assert names(made(bytes__slim=8000, steps=[])) == []
    (finding,) = findings(made(bytes__slim=8000, latency=[]))
    assert finding.rule == "slim-no-op" and "times as fast" not in finding.message


def test_a_threshold_of_the_users() -> None:
    assert names(made(bytes__slim=6000)) == []
    assert names(made(bytes__slim=6000), slim_no_op={"gain": 2.0}) == ["error slim-no-op"]


@pytest.mark.parametrize(
    ("proof", "expected"),
    [
        (timed(1.21), ["note slim-slower"]),
        (timed(1.21) | {"is_for_time": True}, ["error slim-slower"]),
        (timed(1.21) | {"is_for_time": True, "batch": 32}, ["note slim-slower"]),
        (timed(1.19), []),
        (timed(2.0, p25=0.99), []),
        (timed(2.0, p10=1.0), []),
        (timed(2.0, calls=19), []),
        (timed(2.0, calls=20), ["note slim-slower"]),
        (timed(2.0) | {"latency": [timed(2.0)["latency"][0] | {"speedup": 0.9}]}, []),
        (made(latency__0__slim=CALM | {"p50": 1.09, "p25": 1.05, "p10": 1.0}), []),
        (timed(0.5), []),
    ],
    ids=[
        "slower, for size", "slower, for time", "slower, where time is not asked for", "a little slower",
        "its lower quartile is not", "its fastest calls are not", "few calls", "enough calls", "not call by call",
        "within the quartiles", "faster",
    ],
)  # fmt: skip
def test_slower(proof: dict[str, Any], expected: list[str]) -> None:
    assert names(proof) == expected


def test_slower_says_which_batch() -> None:
    twice = {key: 20 * value if key != "calls" else value for key, value in CALM.items()}
    (finding,) = findings(made(latency__1__slim=twice, latency__1__speedup=0.05))
    assert "with 32 samples takes 20 ms, and took 1 ms" in finding.message and finding.evidence["batch"] == 32


def spell(times: list[float]) -> dict[str, float]:
    """As the times of calls are told."""
    tenths = statistics.quantiles(times, n=10, method="inclusive")
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return {"p10": tenths[0], "p25": low, "p50": middle, "p75": high, "calls": len(times)}


@pytest.mark.parametrize("busy", [0.0, 0.3, 0.6], ids=["quiet", "busy", "very busy"])
@pytest.mark.parametrize(("factor", "least", "most"), [(1.0, 0, 2), (2.0, 200, 400)], ids=["the same", "slower"])
def test_a_busy_machine_makes_no_model_slower(busy: float, factor: float, least: int, most: int) -> None:
    """400 measurements of 20 calls each, of which a share is interrupted for as long as a call takes, and longer."""
    random = Random(0)

    def call(factor: float) -> float:
        interrupted = random.expovariate(1.0) if random.random() < busy else 0.0
        return factor * (1 + random.expovariate(20.0)) + interrupted

    found = 0
    rule = find_rule("slim-slower")()
    for _ in range(400):
        dense, slim = ([call(scale) for _ in range(20)] for scale in (1.0, factor))
        speedup = statistics.median(one / other for one, other in zip(dense, slim, strict=True))
        latency = {"batch": 1, "dense": spell(dense), "slim": spell(slim), "speedup": speedup}
        found += any(rule.check_proof(Proof.of(made(latency=[latency]))))
    assert least <= found <= most


def skipped(layer: str, parameters: int, method: str = "svd", reason: str = "too small") -> dict[str, Any]:
    return {"layer": layer, "method": method, "reason": reason, "parameters": parameters}


def test_skipped_layers_are_told_by_reason() -> None:
    proof = made(skipped=[skipped("a", 500), skipped("b", 1000), skipped("c", 500, "tucker", "no convolution")])
    two, one = sorted(findings(proof), key=lambda finding: finding.layer is None)
    assert one.rule == two.rule == "slim-layer-skipped" and one.severity == two.severity == "note"
    assert one.evidence["layers"] == ["a", "b"] and one.evidence["share"] == pytest.approx(0.6)
    assert one.layer is None and two.layer == "c" and "no convolution" in two.message


def test_layers_left_as_they_are_make_one_finding() -> None:
    (finding,) = findings(made(skipped=[skipped("a", 500, "", "x"), skipped("b", 1000, "", "y")]))
    assert finding.message.startswith("nothing was done to a, b (60% of the parameters)")


def test_many_layers_are_not_all_named() -> None:
    (finding,) = findings(made(skipped=[skipped(f"layer{number}", 200) for number in range(9)]))
    assert "layer3 and 5 more" in finding.message and len(finding.evidence["layers"]) == 9  # type: ignore[arg-type]


@pytest.mark.parametrize(("parameters", "expected"), [(24, []), (25, ["note slim-layer-skipped"])])
def test_small_layers_are_not_worth_a_word(parameters: int, expected: list[str]) -> None:
    assert names(made(skipped=[skipped("a", parameters)])) == expected


@pytest.mark.parametrize(
    ("lost", "allowed", "spread", "expected"),
    [
        (1.01, 1.0, None, "error"),
        (1.0, 1.0, None, None),
        (1.7, 1.0, 0.4, "note"),
        (1.9, 1.0, 0.4, "error"),
        (0.9, 1.0, 0.1, None),
        (0.9, None, 0.4, "error"),
        (0.7, None, 0.4, None),
        (50.0, None, None, None),
        (-3.0, 0.0, 0.0, None),
        (None, 1.0, 0.4, "error"),
    ],
)
def test_accuracy_lost(lost: float | None, allowed: float | None, spread: float | None, expected: str | None) -> None:
    proof = made(metric__lost=lost, metric__allowed=allowed, metric__spread=spread)
    assert names(proof) == [f"{expected} slim-accuracy-lost"] * bool(expected)


@settings(deadline=None)
@given(st.floats(-50, 100), st.floats(0, 100), st.none() | st.floats(0, 10))
def test_what_may_be_lost_is_never_called_lost(lost: float, allowed: float, spread: float | None) -> None:
    """And what is told is told as an error exactly where seeds do not explain it."""
    told = names(made(metric__lost=lost, metric__allowed=allowed, metric__spread=spread))
    is_chance = spread is not None and lost <= allowed + 2 * spread
    expected = [] if lost <= allowed else ["note slim-accuracy-lost" if is_chance else "error slim-accuracy-lost"]
    assert told == expected


def test_a_model_without_a_metric_is_told_so() -> None:
    (finding,) = findings(made(metric__lost=None, metric__slim=None))
    assert "no finite accuracy" in finding.message and finding.evidence["lost"] == math.inf


@pytest.mark.parametrize("name", ["slim-no-op", "slim-slower", "slim-layer-skipped", "slim-accuracy-lost"])
def test_fixes_speak_of_models_not_of_programs(name: str) -> None:
    rule = find_rule(name)
    text = rule_text(rule)
    assert "program means" not in text
    for fix in rule.fixes:
        assert f"  {fix.title} ({fix.safety})\n" in text
        assert fix_text(fix) == fix.title + ("" if fix.safe else f" ({fix.safety})")


def test_errors_come_first_and_what_is_ignored_is_left_out() -> None:
    proof = made(skipped=[skipped("a", 500)], metric__lost=9.0)
    assert names(proof) == ["error slim-accuracy-lost", "note slim-layer-skipped"]
    diagnosis = judged(Proof.of(proof), Asked(ignore=("SLM004",)))
    assert [finding.code for finding in diagnosis.findings] == ["SLM003"]
    assert [finding.code for finding in diagnosis.ignored] == ["SLM004"]
    assert [finding.code for finding in judged(Proof.of(proof), Asked(select=("slim-accuracy-lost",))).findings] == [
        "SLM004"
    ]


def test_a_rule_that_fails_is_named_and_the_others_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Rule):
        code, name, family, summary = "SLM999", "broken", "slim", "raises"

        def check_proof(self, proof: Proof) -> Iterator[Finding]:
            raise ValueError("my own mistake")

    known = catalogue.known_rules()[0]
    monkeypatch.setattr(catalogue, "known_rules", lambda: ((*known, Broken), ()))
    diagnosis = judged(Proof.of(made(metric__lost=9.0)))
    assert [finding.rule for finding in diagnosis.findings] == ["slim-accuracy-lost"]
    said = "the rule broken failed on the proof of net.wfz and is switched off (ValueError: my own mistake)"
    assert diagnosis.problems == [said]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(HEALTHY)), inner, max_size=4),
    max_leaves=8,
)


@settings(deadline=None)
@given(JSON, st.sampled_from(sorted(HEALTHY)))
def test_what_is_no_report_is_one_sentence(told: Any, key: str) -> None:
    for report in (told, {**HEALTHY, key: told}, {"proof": told}):
        try:
            judged(Proof.of(report))
        except WellfitError as error:
            assert "no report" in str(error) or "no file" in str(error)


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A saved report of a slimming that lost too much, with a note, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    proof = made(metric__lost=9.0, skipped=[skipped("a", 500)])
    path = tmp_path / "report.json"
    path.write_text(json.dumps({"version": 1, "target": "size", "proof": proof}))
    return path


def test_a_saved_report_is_judged_again(report: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", str(report)]) == 0
    said = capfd.readouterr().out
    assert said.startswith("error SLM004 slim-accuracy-lost") and "wellfit rule slim-accuracy-lost" in said
    assert said.endswith("report.json: 1 error, 1 note (--show-notes)\n") and "slim-layer-skipped" not in said
    assert main(["diagnose", "report.json", "--show-notes", "--fail-on", "error"]) == 1
    assert "note SLM003 slim-layer-skipped: a" in capfd.readouterr().out


def test_a_saved_report_as_json(report: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", "report.json", "--format", "json", "--ignore", "slim-layer-skipped"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["report"] == "report.json" and [one["code"] for one in told["findings"]] == ["SLM004"]


def test_settings_of_the_project_hold(report: Path, capfd: pytest.CaptureFixture[str]) -> None:
    settings = '[tool.wellfit]\nfail-on = "error"\nignore = ["SLM003"]\n[tool.wellfit.rules.slim-accuracy-lost]\n'
    Path("pyproject.toml").write_text(settings + "spreads = 1.0\n")
    assert main(["diagnose", "report.json"]) == 1
    assert capfd.readouterr().out.endswith("report.json: 1 error\n")
    Path("pyproject.toml").write_text(settings + "spread = 1.0\n")
    assert main(["diagnose", "report.json"]) == 2
    assert 'slim-accuracy-lost has no threshold "spread" (did you mean "spreads"?)' in capfd.readouterr().err


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("[1", [], "report.json is no JSON"),
        ('{"a": 1}', [], 'report.json: it is no report of `wellfit slim`: it has no "metric"'),
        ('{"proof": null}', [], "report.json: that slimming gave no file, so there is nothing to judge"),
        (json.dumps(HEALTHY), ["--select", "slim-slow"], 'no rule is called "slim-slow"'),
        (json.dumps(HEALTHY), ["--format", "sarif"], "--format sarif is for runs"),
        (None, [], "report.json cannot be read: No such file or directory"),
    ],
)
def test_what_is_wrong_with_a_report(
    text: str | None, words: list[str], said: str, report: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    report.unlink() if text is None else report.write_text(text)
    assert main(["diagnose", "report.json", *words]) == 2
    assert said in capfd.readouterr().err
