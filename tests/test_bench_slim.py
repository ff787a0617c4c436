"""bench/slim.py: its networks, its page and its bounds; what it runs is tested with the driver."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))

import slim_runs
from slim_cases import CASES, QUICK, Case
from slim_figures import decode_milliseconds, latencies
from slim_page import beside_rival, failures, page, summary

import wellfit.slim

TOLD = {
    "name": "digits_mlp", "command": "wellfit slim bench/slim_scripts/digits_mlp.py", "seconds": 90.0, "load": 2.0,
    "date": "2026-01-01", "commit": "abc", "machine": "a machine", "exit": 0, "tries": [9.0, 12.0], "ratio": 50.0,
    "dense": {"metric": 0.95, "bytes": 68904, "parameters": 17226, "seconds": 20.0},
    "slim": {"metric": 0.94, "bytes": 1378, "seconds": 30.0, "layers": [
        {"name": "fc1.weight", "parameters": 8192, "kept": 0.05, "values": 8, "bits": 0.5, "bytes": 512}]},
    "seeds": {"count": 1, "metrics": [0.94], "bytes": [1378]}, "metric": {"unit": "share"},
    "decode_ms": 1.0, "latency": {"1": {"dense_ms": 0.1, "slim_ms": 0.1, "ratio": 1.0}},
}  # fmt: skip


def told(**changed: object) -> dict[str, object]:
    return copy.deepcopy(TOLD) | changed


def judged(metric: float) -> dict[str, object]:
    """What is told of a file of that metric."""
    return {"slim": {**TOLD["slim"], "metric": metric}, "seeds": {**TOLD["seeds"], "metrics": [metric]}}  # type: ignore[dict-item]


@pytest.mark.parametrize("case", CASES + QUICK, ids=lambda case: case.name)
def test_scripts_know_nothing_of_wellfit_and_have_the_network(case: Case) -> None:
    text = case.script.read_text()
    assert "wellfit" not in text.lower().replace("wellfit_data", "")
    model = case.model().eval()
    with torch.no_grad():
        assert model(torch.randn(2, *case.shape)).shape == (2, 10)


def test_the_networks_are_those_that_others_made_small() -> None:
    counts = {case.name: sum(p.numel() for p in case.model().parameters()) for case in CASES}
    assert counts == {"lenet_300_100": 266_610, "lenet_5": 431_080, "resnet20": 269_722}
    assert {case.name: case.dense_bytes(7) for case in CASES if case.counted} == {"lenet_5": 4 * 431_080}


def test_the_page_has_all_figures_and_what_was_not_reached() -> None:
    by_name = {case.name: case for case in CASES}
    found = {"lenet_5": told(ratio=300.0, **judged(0.9876))}
    text = page(CASES, found, {})
    assert "| lenet_5 | dense | 95.00 % | 1,724,320 |  |" in text
    assert "**Not reached: 300.0x smaller, not 400x; 98.76 %, not 99.00 %.**" in text
    for one in by_name["lenet_5"].published:
        assert f"| {one.who} | {one.accuracy:.2f} %" in text
    assert "Not measured yet: lenet_300_100, resnet20." in text
    assert "0.7 minutes from nothing to the file: the dense network (20 s) and 2 tries (30 s" in text
    assert "| `fc1.weight` | 8,192 | 5.00% | 8 | 0.50 | 512 |" in text
    assert "smaller at no less accuracy: Bayesian compression" in text
    assert text.count("MIRACLE") == 2 + 2 and text.count("Deep Compression") == 1
    better = told(ratio=500.0, **judged(0.9912))
    assert "Not reached:" not in page(CASES, {"lenet_5": better}, {}).replace("Not measured", "")


def test_seeds_and_other_tables_are_told() -> None:
    seeds = {"count": 3, "metrics": [0.98, 0.99, 0.97], "bytes": [7, 9, 8]}
    text = page(CASES, {"lenet_5": told(seeds=seeds)}, {"coders": "a  1\n"})
    assert "| the same with 3 seeds | 98.00 ± 1.00 % | 7 to 9 |" in text
    assert "## bench/coders.py\n\n```\na  1\n```" in text


def test_a_file_that_is_too_large_or_too_bad_fails() -> None:
    case = next(case for case in QUICK if case.name == "digits_mlp")
    assert failures(case, told()) == []
    assert failures(case, told(ratio=30.0)) == ["digits_mlp: 30.0x smaller, not 40x"]
    assert failures(case, told(**judged(0.90))) == ["digits_mlp: 90.00 %, not 92.00 %"]
    assert "95.00 % -> 90.00 %, 68,904 -> 1,378 bytes" in summary(case, told(**judged(0.90)))


def test_means_of_the_seeds_are_compared_with_both_dense_networks() -> None:
    case = next(case for case in CASES if case.name == "resnet20")
    seeds = {"count": 2, "metrics": [0.95, 0.944], "bytes": [7, 9]}
    assert failures(case, told(seeds=seeds)) == [] and beside_rival(case, told(seeds=seeds)) == ""
    assert failures(case, told(seeds=seeds | {"metrics": [0.95, 0.93]})) == ["resnet20: 94.00 %, not 94.50 %"]
    rival = {"count": 2, "metrics": [0.97, 0.944], "bytes": [70, 90]}
    text = page(CASES, {"resnet20": told(seeds=seeds, control=rival)}, {})
    assert "| dense, trained on alike | 95.70 ± 1.84 % |" in text
    assert "1.00 points under the dense network trained on alike, **which is more than 0.5**." in text
    near = rival | {"metrics": [0.95, 0.94]}
    assert beside_rival(case, told(seeds=seeds, control=near)).endswith(
        "0.20 points above the dense network trained on alike."
    )


def test_time_is_added_up_over_sessions(tmp_path: Path) -> None:
    for seconds, load in ((2.0, 4.0), (3.0, 2.0)):
        slim_runs._spend(tmp_path / "a.json", CASES[0], seconds, load)
    spent = json.loads((tmp_path / "a.json").read_text())
    assert (spent["seconds"], spent["load"] / spent["seconds"]) == (5.0, 2.8)
    slim_runs._spend(tmp_path / "a.json", CASES[1], 1.0, 4.0)  # of another script nothing was spent yet
    assert json.loads((tmp_path / "a.json").read_text())["seconds"] == 1.0


def test_the_plan_of_a_quick_case_keeps_what_is_left_alone(tmp_path: Path) -> None:
    case = Case("digits_mlp", "Net", (64,), (), "", 1, 1, plan=(0.08, 8))
    layers = [{"name": "a", "method": "prune, share", "keep": 0.2, "values": 16},
              {"name": "b", "method": "share", "keep": 1.0, "values": 16}]  # fmt: skip
    (tmp_path / "digits_mlp.plan.json").write_text(json.dumps({"layers": layers}))
    made = json.loads(slim_runs._planned(case, tmp_path).read_text())["layers"]
    assert [(one["keep"], one["values"]) for one in made] == [(0.08, 8), (1.0, 8)]


def test_a_command_that_leaves_no_report_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slim_runs, "_call", lambda *_: ("no report", 2))
    with pytest.raises(SystemExit, match="ended with exit code 2 and no report"):
        slim_runs.slimmed(CASES[0], 1, tmp_path)


def test_a_file_is_read_and_its_network_timed(tmp_path: Path) -> None:
    case = next(case for case in QUICK if case.name == "digits_conv")
    wellfit.slim.save(case.model(), tmp_path / "a.wfz")
    assert 0 < decode_milliseconds(tmp_path / "a.wfz") < 1000
    found = latencies(case, tmp_path / "a.wfz", seconds=0.05)
    assert list(found) == ["1", "32"] and all(one["ratio"] > 0 for one in found.values())
