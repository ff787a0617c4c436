"""What `wellfit slim` makes of three networks: `python bench/slim.py [--only NAME] [--seeds N] [--json FILE]`.

Each network is a script in slim_scripts/ that knows nothing of wellfit, and is slimmed by the command that a user would
type. The data lie in the folder $WELLFIT_DATA. What is done stays in the state folder: the same command goes on from
there, and docs/slim-results.md is written of all that is there. `--tables` runs the benchmarks of the coders and of
single layers too, whose tables become a part of the page. `--quick` slims two networks on scikit-learn's digits, in
about a minute, and exits with 1 where a file is too large or too bad.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from slim_cases import CASES, QUICK, Case
from slim_figures import decode_milliseconds, latencies, machine
from slim_page import failures, page, summary
from slim_runs import Slimmed, slimmed

HERE = Path(__file__).resolve().parent
TABLES = ("coders", "slim_layers")  # benchmarks beside this one
PAGE = HERE.parent / "docs" / "slim-results.md"
VERSION = 3  # of what is kept in the state folder: what lies there in another is measured again


def measured(case: Case, done: Slimmed) -> dict[str, Any]:
    """Everything that is told of one network, of the file as it lies on the disk."""
    report = done.report
    slim, dense = report["slim"], report["dense"]
    return {
        "version": VERSION, "name": case.name, "command": done.command, "seconds": done.seconds, "load": done.load,
        "date": done.date, "commit": done.commit, "machine": machine(), "exit": done.exit,
        "dense": {"metric": dense["metric"], "bytes": dense["bytes"], "parameters": dense["parameters"],
                  "seconds": dense["seconds"]},
        "control": report["control"]["seeds"] if report["control"] else None,
        "metric": report["metric"], "seeds": report["seeds"], "tries": [one["seconds"] for one in report["tries"]],
        "slim": {"metric": slim["metric"], "bytes": done.file.stat().st_size, "seconds": slim["seconds"],
                 "layers": slim["layers"]},
        "ratio": case.dense_bytes(dense["bytes"]) / done.file.stat().st_size,
        "decode_ms": decode_milliseconds(done.file),
        "latency": latencies(case, done.file),
    }  # fmt: skip


def run(cases: list[Case], seeds: int, state: Path, again: bool) -> dict[str, Any]:
    """Slim what is not yet slimmed, and measure it. Figures lie in the state folder, one file a network."""
    found = {}
    for case in cases:
        place = state / f"{case.name}.json"
        known = kept(place) if not again else None
        if known is None or known["seeds"]["count"] < seeds:
            print(f"{case.name}: {case.script.name}", flush=True)
            known = measured(case, slimmed(case, seeds, state))
            place.write_text(json.dumps(known, indent=1))
        print(summary(case, known), flush=True)
        found[case.name] = known
    return found


def kept(place: Path) -> dict[str, Any] | None:
    """What was measured of a network; None if nothing was, or by another version of this script."""
    told: dict[str, Any] | None = json.loads(place.read_text()) if place.is_file() else None
    return told if told and told.get("version") == VERSION else None


def tables(state: Path, again: bool) -> dict[str, str]:
    """What the benchmarks of `TABLES` print; of each what lies in the state folder, if it is not run again."""
    found = {}
    for name in TABLES:
        place, script = state / f"{name}.txt", HERE / f"{name}.py"
        if again and script.is_file():
            print(f"{name}: {script.name}", flush=True)
            ran = subprocess.run([sys.executable, str(script)], text=True, stdout=subprocess.PIPE, check=True)
            place.write_text(ran.stdout)
        if place.is_file():
            found[name] = place.read_text()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="NAME", action="append", choices=[case.name for case in CASES + QUICK])
    parser.add_argument("--seeds", metavar="N", type=int, default=1)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures there")
    parser.add_argument("--state", metavar="FOLDER", type=Path, help="default: .wellfit/bench-slim")
    parser.add_argument("--again", action="store_true", help="measure files that were measured already")
    parser.add_argument("--tables", action="store_true", help="run the benchmarks of coders and layers too")
    parser.add_argument("--quick", action="store_true", help="two small networks; exit code 1 if one is too bad")
    given = parser.parse_args()
    cases = [case for case in (QUICK if given.quick else CASES) if not given.only or case.name in given.only]
    if not given.quick and "WELLFIT_DATA" not in os.environ:
        parser.error("the variable WELLFIT_DATA must name the folder with mnist.npz and cifar10_small.npz")
    state = (given.state or HERE.parent / ".wellfit" / "bench-slim").absolute()
    state.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    found = run(cases, given.seeds, state, given.again)
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1))
    if given.quick:
        bad = [text for case in cases for text in failures(case, found[case.name])]
        print("\n".join([*bad, f"{time.monotonic() - begun:.0f} s in all"]))
        return int(bool(bad))
    all_found = {case.name: told for case in CASES if (told := kept(state / f"{case.name}.json")) is not None}
    PAGE.write_text(page(CASES, all_found, tables(state, given.tables)), encoding="utf-8")
    print(f"written: {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
