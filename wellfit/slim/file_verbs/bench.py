"""`wellfit slim bench`: what a `.wfz` file takes on this machine, read and decoded, and called in the user's class."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wellfit import __version__
from wellfit.config import Asked
from wellfit.errors import WellfitError
from wellfit.finding import Finding
from wellfit.proof import Proof
from wellfit.slim.decoding import decoding
from wellfit.slim.file_verbs.bench_text import bench_text
from wellfit.slim.file_verbs.inspect import FORMATS
from wellfit.slim.findings import as_json, judged
from wellfit.slim.from_model.launch import check_inputs, check_name, run_child
from wellfit.slim.printing import say
from wellfit.slim.wfz import read

BATCHES = (1, 32)


@dataclass(frozen=True)
class BenchOptions:
    """As typed.

    Args:
        file: the `.wfz` file.
        model: "package.module:name" of what makes the user's model; None: only the file is measured.
        inputs: see `given.example`; wanted with a model.
        batches: samples in a call, for each timing; by default 1 and 32.
        seconds: to time each of them.
        format: `"text"` or `"json"`.
        max_bytes: see `wfz.read`.
    """

    file: Path
    model: str | None = None
    inputs: str | None = None
    batches: Sequence[int] = ()
    seconds: float = 1.0
    format: str = "text"
    max_bytes: int | None = None


def run_bench(options: BenchOptions) -> int:
    """Measure a file, and print what was found; 0, or 2 where the user's code does not fit.

    Raises:
        WellfitError: an option is wrong, the file cannot be opened, or the process of the user's code was killed.
        Damaged: the file is damaged.
    """
    _check(options)
    told, findings = _told_of(options.file, options.max_bytes, options.seconds), []
    if options.model is not None:
        code, network = _network(options)
        if code:
            return code
        findings = _findings(told, network)
        told["network"] = {**network, "findings": as_json(findings)}
    say(bench_text(told, findings) if options.format == "text" else json.dumps(told, indent=1) + "\n")
    return 0


def _findings(told: dict[str, Any], network: dict[str, Any]) -> list[Finding]:
    """What the rule about times says; of the others' figures nothing is known here."""
    proof = {
        "file": told["file"], "is_for_time": False, "batch": 1, "steps": [], "skipped": [],
        "metric": {"name": "", "dense": 0, "slim": None, "lost": 0, "allowed": None, "spread": None},
        "bytes": {"dense": network["bytes_in_memory"]["dense"], "dense_coded": 0, "slim": told["bytes"]},
        "parameters": network["parameters"], "latency": network["latency"],
    }  # fmt: skip
    return judged(Proof.of(proof), Asked(select=("slim-slower",))).findings


def _check(options: BenchOptions) -> None:
    if options.format not in FORMATS:
        raise WellfitError(f"--format {options.format} is not known here: give {' or '.join(FORMATS)}")
    if options.model is None:
        if options.inputs is not None or options.batches:
            raise WellfitError(
                "--inputs and --batch are for calls of the model: give --model MODULE:NAME too, what makes it"
            )
    else:
        check_name("--model", options.model)
        check_inputs(options.inputs)


def _told_of(path: Path, max_bytes: int | None, seconds: float) -> dict[str, Any]:
    """What is known without the user's code."""
    contents = read(path, max_bytes=max_bytes)
    found = decoding(path, max_bytes=max_bytes, seconds=seconds)
    decoded = sum(stored.decoded for stored in contents.stored.values())
    return {
        "version": 1,
        "wellfit": __version__,
        "file": str(path),
        "bytes": contents.size,
        "decoded": decoded,
        "ratio": decoded / contents.size,
        "reading": {
            "ms": found.ms,
            "open_ms": found.open_ms,
            "rounds": found.rounds,
            "numbers": found.numbers,
            "numbers_per_second": found.numbers_per_second,
            "parts": [{**asdict(part), "numbers_per_second": part.numbers_per_second} for part in found.parts],
        },
        "network": None,
    }


def _network(options: BenchOptions) -> tuple[int, dict[str, Any]]:
    """The child's exit code, and what it measured. What the user's code prints goes to standard error."""
    with tempfile.TemporaryDirectory(prefix="wellfit-") as folder:
        to = Path(folder) / "network.json"
        told = {
            "file": str(options.file),
            "model": options.model,
            "inputs": options.inputs,
            "batches": list(dict.fromkeys(options.batches)) or BATCHES,
            "seconds": options.seconds,
            "max_bytes": options.max_bytes,
            "to": str(to),
        }
        code = run_child("timing", told, stdout=2)
        if code:
            return code, {}
        found: dict[str, Any] = json.loads(to.read_text("utf-8"))
        return 0, found
