"""What a finding says to try in a run that overrides changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wellfit.finding import Finding, Fix
from wellfit.record import open_run
from wellfit.report import finding_text
from wellfit.trials import fit_to_overrides

SCALED = {"override": "lr", "scale": 0.1}


@pytest.mark.parametrize(
    ("on", "fix", "left"),
    [
        ([], "lr=scale:0.1", "lr=scale:0.1"),
        ([SCALED], "lr=scale:0.1", "lr=scale:0.01"),
        ([SCALED], "lr=scale:0.33", "lr=scale:0.033"),
        ([SCALED], "lr=scale:10", None),  # the script's own rate
        ([SCALED], "warmup=100", "warmup=100"),
        ([{"override": "lr", "value": 0.01}], "lr=scale:0.1", None),
        ([{"override": "norm", "kind": "batch"}, SCALED], "norm=batch", None),
        ([{"override": "mode", "value": "correct"}], "mode=correct", None),
        ([{"override": "residual"}], "residual", None),
        ([{"override": "lr", "scale": "much"}, 3, {}], "lr=scale:0.1", None),
        ("odd", "lr=scale:0.1", "lr=scale:0.1"),
        ([SCALED], None, None),
        ([{"override": "accumulate", "steps": 4}], "zero-grad=insert", None),  # they contradict each other
        ([{"override": "zero-grad", "mode": "insert"}, SCALED], "accumulate=4", None),
        ([{"override": "zero-input"}], "normalize-input", None),
        ([{"override": "lr", "value": 0.01}], "optimizer=adam,lr:0.001", None),
        ([{"override": "accumulate", "steps": 4}], "clip-norm=1", "clip-norm=1"),
        ([{"override": "scale-input", "factor": 255}], "normalize-input", "normalize-input"),
        ([{"override": "optimizer", "kind": "sgd"}], "lr=scale:0.1", "lr=scale:0.1"),
        ([{"override": "of another version"}], "zero-grad=insert", "zero-grad=insert"),
    ],
)
def test_what_is_left_to_try(tmp_path: Path, on: Any, fix: str | None, left: str | None) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"overrides": on}))
    finding = Finding("lr-high", "UPD501", "error", "x; y", fixes=(Fix("Divide it", override=fix),))
    fit_to_overrides([finding], open_run(tmp_path))
    assert finding.fixes == (Fix("Divide it", override=left),)
    text = finding_text(finding, color=False, width=100)
    assert "Divide it" in text and (f"try --override {left}" in text if left else "try" not in text)
