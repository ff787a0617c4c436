"""The examples: each says what it reaches, reaches it, and is found healthy."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest
from overridden import Run

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "bench"))

from ward.judge import judged  # noqa: E402
from ward.patients import EXAMPLES, PATIENTS, Patient  # noqa: E402
from ward.visit import visit  # noqa: E402

REACHES = re.compile(r"^Reaches: (?P<metric>.+) (?P<value>-?[\d.]+) in (?P<seconds>\d+) s\.$", re.MULTILINE)
PARTS = {"digits_ill.py", "reviews.py"}  # ill on purpose; shared by two examples
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py") if path.name not in PARTS)


def header(script: str) -> str:
    return ast.get_docstring(ast.parse((EXAMPLES / script).read_text(encoding="utf-8"))) or ""


@pytest.mark.parametrize("script", SCRIPTS)
def test_header(script: str) -> None:
    text = header(script)
    assert f"    wellfit run examples/{script}" in text
    assert REACHES.search(text), "it says what it reaches and how long that takes"


def test_every_example_is_a_patient() -> None:
    assert {patient.script for patient in PATIENTS} == set(SCRIPTS)


@pytest.mark.slow
def test_it_reaches_what_it_says_and_is_healthy(tmp_path: Path) -> None:
    """One of them; `bench/clinic.py` does the same with all, on three seeds."""
    (patient,) = (patient for patient in PATIENTS if patient.name == "mlp")
    visit(patient, (), tmp_path / "kept")
    came = judged(tmp_path / "kept", frozenset())
    assert came.exit_code == 0
    assert came.steps > 100 and not came.alarms
    said = float(REACHES.search(header(patient.script))["value"])  # type: ignore[index]
    assert not patient.hurt(came.metric, [said])


@pytest.mark.parametrize("patient", PATIENTS, ids=lambda patient: patient.name)
def test_it_begins_to_learn(patient: Patient, run: Run) -> None:
    script = f"""
    import runpy, sys
    sys.path[0], sys.argv = {str(EXAMPLES)!r}, {[patient.script, *patient.arguments]!r}
    runpy.run_path({str(patient.path)!r}, run_name="__main__")
    """
    came = run(script, "stop-after=30")
    assert came.code == 0, came.err
    assert came.record is not None
    assert came.record.step_count >= 30
    assert not came.record.events("non-finite")


@pytest.mark.parametrize("script", [name for name in SCRIPTS if "ImportError" in (EXAMPLES / name).read_text()])
def test_a_missing_package_is_named(script: str, run: Run) -> None:
    came = run(
        f"""
        import runpy, sys
        for name in ("sklearn", "gymnasium", "PIL"):
            sys.modules[name] = None
        sys.path[0] = {str(EXAMPLES)!r}
        runpy.run_path({str(EXAMPLES / script)!r}, run_name="__main__")
        """
    )
    assert came.code == 1
    assert re.fullmatch(rf'examples/{script} needs [\w -]+: pip install "wellfit\[examples\]"\n', came.err)
