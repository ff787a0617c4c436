"""The formats of a report: right for ordinary runs, harmless for hostile ones, small for huge ones."""

from __future__ import annotations

import base64
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import numpy as np
import pytest
from fixtures_report import HOSTILE, findings_of, write_run, write_script
from hypothesis import given
from hypothesis import strategies as st

from wellfit.finding import Finding, Fix, Location
from wellfit.probe.writer import Writer
from wellfit.record import Run, open_run
from wellfit.report import finding_text, findings_text, summary_text, to_github, to_html, to_json, to_sarif
from wellfit.report.amounts import number_text, strict
from wellfit.report.as_json import schema
from wellfit.report.html import LARGEST
from wellfit.report.safe import github_message, github_property, html_text, printable
from wellfit.report.source import excerpt, place
from wellfit.report.thin import INFINITE, NAN, TOP, ZERO, grid_of, pack, thin
from wellfit.testing import MadeRun

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture(scope="module")
def ill(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Finding], Run, Path]:
    """Three findings (one hostile) of a short recorded run, and the folder of the script."""
    folder = tmp_path_factory.mktemp("ill")
    script = write_script(folder)
    return findings_of(script), write_run(folder / "run-1", steps=60, layers=3), folder


@pytest.fixture
def empty(tmp_path: Path) -> Run:
    """A run whose process never trained: no record at all."""
    folder = tmp_path / "nothing"
    folder.mkdir()
    (folder / "run.json").write_text('{"command": ["python", "x.py"], "exit_code": 1}', encoding="utf-8")
    return open_run(folder)


def data_of(page: str) -> dict[str, Any]:
    """The data element of a page, as a browser would read it."""
    inside = page.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    result: dict[str, Any] = json.loads(inside)
    return result


class TestSafe:
    @given(st.text())
    def test_printable_is_one_harmless_line_and_settles(self, text: str) -> None:
        once = printable(text)
        assert not CONTROL.search(once) and "\n" not in once
        once.encode("utf-8")
        assert printable(once) == once

    def test_printable_takes_whole_sequences(self) -> None:
        assert printable("a\x1b[31mred\x1b[0m\x1b]8;;http://evil\x1b\\link\x9b2Jb\x1b(B") == "aredlinkb"
        assert printable("one\ntwo\tthree\u2028four") == "one two three four"
        assert printable("\u202egnp.\u2066exe\u200b") == "gnp.exe"
        assert printable("caf\u00e9 \u5c42 \udc80") == "caf\u00e9 \u5c42 \ufffd"

    def test_printable_is_bounded(self) -> None:
        assert printable("x" * 10_000_000, 50) == "x" * 49 + "…"

    @given(st.text())
    def test_github_texts_hold_no_second_command(self, text: str) -> None:
        assert "::" not in github_message(text) and "\n" not in github_message(text)
        assert not set(":,\n\r") & set(github_property(text))

    def test_html_text_ends_nothing(self) -> None:
        assert not set("<>\"'") & set(html_text(HOSTILE + "\"'"))


class TestAmounts:
    @pytest.mark.parametrize(
        ("value", "text"),
        [(0.123456, "0.1235"), (1.23456e-7, "1.235e-7"), (3, "3"), (12345, "12\u00a0345"), (math.nan, "NaN"),
         (-math.inf, "-inf"), (np.float32(2.5), "2.5"), (np.int64(7), "7"), (1e22, "1e22")],
    )  # fmt: skip
    def test_four_significant_digits(self, value: float, text: str) -> None:
        assert number_text(value) == text

    def test_strict_is_json_and_plain(self) -> None:
        odd = {
            "a": [math.nan, math.inf, -math.inf, np.float32(0.5), np.int8(3), None, True],
            "b": object,
            "\udc80": "\udc80",
        }
        text = json.dumps(strict(odd), allow_nan=False)
        assert json.loads(text)["a"] == ["NaN", "Infinity", "-Infinity", 0.5, 3, None, True]
        assert "\\udc80" not in text


class TestSource:
    def test_lines_around_the_blamed_one(self, tmp_path: Path) -> None:
        found = excerpt(Location(str(write_script(tmp_path)), 5), around=2)
        assert found is not None and found.first == 3 and len(found.lines) == 5
        assert found.blamed_line == "    torch.nn.ReLU(),"

    def test_nothing_but_python_source_is_shown(self, tmp_path: Path) -> None:
        secret = tmp_path / "id_rsa"
        secret.write_text("PRIVATE KEY\n", encoding="utf-8")
        fifo = tmp_path / "pipe.py"
        os.mkfifo(fifo)
        for file in (secret, fifo, tmp_path / "gone.py", tmp_path / "\0.py"):
            assert excerpt(Location(str(file), 1)) is None
        assert excerpt(Location(str(write_script(tmp_path)), 99)) is None

    def test_place_is_relative_inside_the_current_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert place(Location(str(tmp_path / "a" / "train.py"), 18)) == f"{Path('a', 'train.py')}:18"
        assert place(Location("/elsewhere/train.py", 18)) == "/elsewhere/train.py:18"


class TestText:
    def test_says_what_where_and_how_to_cure(self, ill: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        findings, _, folder = ill
        monkeypatch.chdir(folder)
        text = finding_text(findings[0], color=False, width=80)
        for wanted in (
            "error UPD501 lr-high: blocks.0.weight at step 12", "--> train.py:8",
            "8 | optimizer = torch.optim.SGD(model.parameters(), lr=3.0)", "update ratio 2.912", "largest inf",
            "fix:      Divide the learning rate by 10", "explains: dead-units, diverged", "wellfit rule lr-high",
        ):  # fmt: skip
            assert wanted in text
        assert "Use `LeakyReLU` (changes what the program means)" in text
        assert "\x1b" not in text and max(map(len, text.splitlines())) <= 80

    def test_hostile_names_are_harmless_in_colour_and_without(self, ill: Any) -> None:
        findings, run, _ = ill
        ours = re.compile(r"\x1b\[[0-9;]*m")
        for color in (False, True):
            text = findings_text(findings, color, 80, notes_shown=True) + summary_text(findings, run, color, True)
            plain = ours.sub("", text) if color else text
            assert not CONTROL.search(plain)
            assert "31mevil" not in plain and "evil" in plain

    def test_no_place_no_evidence_no_fix(self) -> None:
        text = finding_text(Finding("plateau", "CRV603", "note", "it learns nothing"), color=False, width=10)
        assert text == "note CRV603 plateau\n  it learns nothing\n  more:     wellfit rule plateau\n"

    def test_at_most_five_and_notes_only_when_asked(self, ill: Any) -> None:
        findings, run, _ = ill
        many = [findings[0]] * 7 + [findings[2]]
        assert findings_text(many, False, 80).count("UPD501") == 5
        assert "and 2 findings more" in findings_text(many, False, 80)
        assert findings_text(many, False, 80, notes_shown=True, limit=None).count("DAT105") == 1
        assert "class-imbalance" not in summary_text(findings, run, False)
        assert "2 errors, 1 note (in the report)" in summary_text(findings, run, False)
        assert "class-imbalance" in summary_text(findings, run, False, notes_shown=True)

    def test_summary_says_steps_cost_and_where(self, ill: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        _, run, folder = ill
        monkeypatch.chdir(folder)
        text = summary_text([], run, False)
        assert text.startswith("wellfit: healthy\n")
        assert "60 steps, 60 watched; watching cost 0.29 s (0.93 %)" in text
        assert "record: run-1" in text
        (folder / "run-1" / "report.html").write_text("x", encoding="utf-8")
        assert f"report: {Path('run-1', 'report.html')}" in summary_text([], run, False)

    @pytest.mark.parametrize(
        ("overrides", "said"),
        [
            (("lr=scale:0.1", "norm=batch"), "--override lr=scale:0.1 treats a, --override norm=batch treats b"),
            ((None, "norm=batch"), "--override norm=batch treats b;"),
            (("norm=batch", "norm=batch"), None),  # what cures both tells nothing
            (("lr=scale:0.1", "lr=scale:0.2"), None),
            ((None, None), None),
            (("norm=batch",), None),
        ],
    )
    def test_two_causes_are_told_apart_by_an_override(self, ill: Any, overrides: Any, said: str | None) -> None:
        _, run, _ = ill
        found = [
            Finding(name, "UPD501", "error", "x", fixes=(Fix("Do it", override=override),))
            for name, override in zip("ab", overrides)
        ]
        text = summary_text(found, run, False)
        assert (said in text) if said is not None else "see which run learns" not in text
        assert ("which of the two it is" in text) is (said is not None)
        third = summary_text([*found, Finding("c", "UPD503", "error", "x")], run, False)
        assert ("which of the first two it is" in third) is (said is not None)

    def test_nothing_seen_is_not_called_healthy(self, empty: Run) -> None:
        text = summary_text([], empty, False)
        assert "no training step was seen" in text and "healthy" not in text

    def test_a_run_of_which_only_the_loss_was_seen_is_not_called_healthy(self, tmp_path: Path) -> None:
        made = MadeRun(tmp_path)
        for _ in range(400):
            made.step(loss=1.0)
        made.out.close()
        text = summary_text([], open_run(tmp_path), False)
        assert text.startswith("wellfit: no error found, but nothing except the loss was seen\n")
        assert "400 steps, 0 watched" in text and "healthy" not in text

    def test_summary_of_a_probe_that_switched_itself_off_in_one_of_two_processes(self, tmp_path: Path) -> None:
        write_run(tmp_path / "run", steps=3, layers=1)
        second = Writer(str(tmp_path / "run"), 1, 4712, 10**9)
        second.declare({"type": "event", "event": "switched-off", "step": 0, "error": "odd\x1b[2J hook"})
        second.close()
        text = summary_text([], open_run(tmp_path / "run"), False)
        assert "2 processes" in text and "the probe switched itself off: odd hook" in text


class TestJson:
    def test_follows_its_schema(self, ill: Any) -> None:
        findings, run, _ = ill
        jsonschema.Draft202012Validator.check_schema(schema())
        made = to_json(findings, run)
        jsonschema.validate(json.loads(json.dumps(made, allow_nan=False)), schema())
        first, second, third = made["findings"]
        assert first["evidence"]["largest"] == "Infinity" and second["evidence"]["dead_share"] == "NaN"
        assert (first["file"], first["line"]) == (findings[0].location.file, 8)
        assert third["file"] is None and third["layer"] is None
        assert (
            made["verdict"] == "ill"
            and made["run"]["steps"] == 60
            and made["run"]["exit_code"] == 0
            and made["run"]["id"] == "run-1"
        )

    def test_empty_run_follows_it_too(self, empty: Run) -> None:
        made = to_json([], empty)
        jsonschema.validate(made, schema())
        assert made["findings"] == [] and made["verdict"] == "no-training" and made["run"]["exit_code"] == 1

    def test_the_schema_refuses_what_it_should(self, empty: Run) -> None:
        made = to_json([Finding("a", "b", "error", "c")], empty)
        for key, wrong in (("severity", "warning"), ("line", "8"), ("evidence", [])):
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate({**made, "findings": [{**made["findings"][0], key: wrong}]}, schema())


class TestSarif:
    def test_rules_results_and_places(self, ill: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        findings, run, folder = ill
        monkeypatch.chdir(folder)
        log = json.loads(json.dumps(to_sarif([*findings, findings[0]], run), allow_nan=False))
        (only,) = log["runs"]
        assert log["version"] == "2.1.0" and only["tool"]["driver"]["name"] == "wellfit"
        assert [rule["id"] for rule in only["tool"]["driver"]["rules"]] == ["UPD501", "FWD302", "DAT105"]
        assert [result["ruleIndex"] for result in only["results"]] == [0, 1, 2, 0]
        assert [result["level"] for result in only["results"]] == ["error", "error", "note", "error"]
        where = only["results"][0]["locations"][0]["physicalLocation"]
        assert where["artifactLocation"] == {"uri": "train.py", "uriBaseId": "%SRCROOT%"}
        assert where["region"] == {"startLine": 8}
        assert only["results"][2]["locations"] == []
        prints = [result["partialFingerprints"]["wellfit/v1"] for result in only["results"]]
        assert prints[0] == prints[3] and len(set(prints)) == 3

    def test_hostile_text_and_files(self, ill: Any) -> None:
        _, run, _ = ill
        odd = Finding("dead-units", "FWD302", "error", HOSTILE, layer=HOSTILE, location=Location("/a b/\udc80#.py", 0))
        result = to_sarif([odd], run)["runs"][0]["results"][0]
        assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "file:///a%20b/%80%23.py"
        assert result["locations"][0]["physicalLocation"]["region"]["startLine"] == 1
        assert not CONTROL.search(result["message"]["text"])

    def test_no_findings(self, empty: Run) -> None:
        only = to_sarif([], empty)["runs"][0]
        assert only["results"] == [] and only["invocations"][0]["executionSuccessful"] is False


class TestGitHub:
    def test_one_command_a_line(self, ill: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        findings, run, folder = ill
        monkeypatch.chdir(folder)
        lines = to_github(findings, run).splitlines()
        assert len(lines) == 3
        assert lines[0].startswith("::error file=train.py,line=8,title=UPD501 lr-high::blocks.0.weight: the optimizer")
        assert lines[2].startswith("::notice title=DAT105 class-imbalance::")
        assert all(line.count("::") == 2 for line in lines)
        assert "93 %25" in lines[1]

    def test_no_findings_no_text(self, empty: Run) -> None:
        assert to_github([], empty) == ""


class TestThin:
    def test_extremes_and_non_finite_values_survive(self) -> None:
        steps = np.arange(100_000)
        values = np.sin(steps / 7000)
        values[54_321], values[77_777] = 50.0, math.nan
        x, y, bad = thin(steps, values, 2000)
        assert len(x) <= 2000 and x == sorted(x) and bad == [77_777]
        assert max(value for value in y if value is not None) == 50.0
        assert None in y

    def test_short_curves_are_left_alone(self) -> None:
        assert thin(np.array([3, 5, 9]), np.array([1.0, 2.0, 4.0]), 2000) == ([3, 5, 9], [1.0, 2.0, 4.0], [])
        assert thin(np.array([], dtype=int), np.array([]), 10) == ([], [], [])

    def test_a_series_with_gaps_finds_its_steps(self) -> None:
        grid = grid_of(np.array([0, 10, 20, 30]), 100)
        value, seen = grid.fold(np.array([10, 25, 30]), np.array([1.0, 2.0, 3.0]))
        assert seen.tolist() == [False, True, False, True] and value[[1, 3]].tolist() == [1.0, 3.0]

    @given(st.lists(st.floats(1e-38, 1e38), min_size=1, max_size=50))
    def test_packing_keeps_logarithms(self, numbers: list[float]) -> None:
        values = np.array(numbers)
        packed = pack(values, np.ones(len(values), bool), log=True)
        assert packed is not None
        codes = np.frombuffer(base64.b64decode(packed["data"]), "<u2").astype(float)
        back = 10 ** (packed["lo"] + (codes - 1) / (TOP - 1) * (packed["hi"] - packed["lo"]))
        assert np.allclose(back, values, rtol=5e-3)

    def test_what_has_no_place_on_a_log_scale_has_a_code(self) -> None:
        packed = pack(np.array([1.0, 0.0, math.inf, math.nan, 7.0]), np.array([True] * 4 + [False]), log=True)
        assert packed is not None
        codes = np.frombuffer(base64.b64decode(packed["data"]), "<u2").tolist()
        assert codes == [1, ZERO, INFINITE, NAN, 0]
        assert pack(np.array([1.0]), np.array([False]), log=True) is None


class TestHtml:
    def test_holds_findings_curves_and_layers(self, ill: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        findings, run, folder = ill
        monkeypatch.chdir(folder)
        data = data_of(to_html(findings, run))
        assert [finding["rule"] for finding in data["findings"]] == ["lr-high", "dead-units", "class-imbalance"]
        assert data["findings"][0]["source"]["lines"][3].startswith("optimizer = ")
        assert ["largest", "inf"] in data["findings"][0]["evidence"]
        assert len(data["curves"]["losses"][0]["x"]) == 60 and data["curves"]["losses"][0]["bad"] == [59]
        assert data["curves"]["epochs"] == [0, 50] and data["curves"]["evaluations"][0]["x"] == [49]
        assert data["layers"]["total"] == 6 and len(data["layers"]["steps"]) == 60
        linear = next(layer for layer in data["layers"]["layers"] if layer["name"] == "blocks.1")
        measured = {
            one["key"]: curve is not None
            for one, curve in zip(data["layers"]["metrics"], linear["curves"], strict=True)
        }
        assert measured == {"gradient": True, "update": True, "activation": True, "dead": False, "backward": True}
        assert data["unseen"][0]["what"] == "torch.compile"

    def test_nothing_in_the_data_ends_the_script(self, ill: Any) -> None:
        findings, run, _ = ill
        page = to_html(findings, run)
        assert page.count("</script>") == 7 and page.count("<script") == 7
        assert "<img" not in page and "\x1b" not in page
        assert HOSTILE.split("\x1b")[0] in json.dumps(data_of(page))

    def test_asks_nothing_of_the_network(self, ill: Any) -> None:
        findings, run, _ = ill
        page = to_html(findings, run)
        policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
        assert policy and policy[1].startswith("default-src 'none'; script-src 'sha256-")
        assert "unsafe" not in policy[1] and "http" not in policy[1]
        page = re.sub(r'(?s)<script type="application/json".*?</script>', "", page)
        assert not re.search(r"<(?:link|iframe|img|object|embed)\b|\bsrc=|@import|url\(", page)

    def test_no_findings_and_no_record(self, empty: Run) -> None:
        data = data_of(to_html([], empty))
        assert data["findings"] == [] and data["curves"] is None and data["layers"] is None

    def test_huge_run_stays_small(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "huge", steps=2600, layers=260, hostile=False, every=100)
        findings = [
            Finding(
                "r",
                "X1",
                "error",
                "m" * 5000,
                layer="\u5c42" * 300,
                evidence={f"k{i}": "\u5c42" * 400 for i in range(30)},
                fixes=(Fix("\u5c42" * 500),) * 20,
            )
        ] * 500
        page = to_html(findings, run)
        data = data_of(page)
        assert len(page.encode()) <= LARGEST
        assert data["findings_left_out"] + len(data["findings"]) == 500
        assert data["layers"]["total"] == 520 and 20 <= len(data["layers"]["layers"]) <= 400
        assert len(data["curves"]["losses"][0]["x"]) <= 2000

    def test_damage_of_the_record_is_told(self, tmp_path: Path) -> None:
        write_run(tmp_path / "run", steps=200, layers=1)
        segment = next((tmp_path / "run").glob("*.wfr"))
        raw = bytearray(segment.read_bytes())
        raw[len(raw) // 2 : len(raw) // 2 + 400] = b"\xff" * 400
        segment.write_bytes(raw)
        told = data_of(to_html([], open_run(tmp_path / "run")))["unseen"]
        assert any(entry["what"] == "record" for entry in told)

    def test_the_layer_of_a_finding_is_always_shown(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "wide", steps=3, layers=300, hostile=False)
        named = [Finding("r", "X1", "error", "m", layer=f"blocks.{index}.weight") for index in (17, 151, 298)]
        names = {layer["name"] for layer in data_of(to_html(named, run))["layers"]["layers"]}
        assert {"blocks.17", "blocks.151", "blocks.298"} <= names and len(names) == 400


def test_reports_import_no_torch() -> None:
    code = "import sys, wellfit.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent).returncode == 0
