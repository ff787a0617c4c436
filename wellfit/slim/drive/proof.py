"""The proof: what the file is, beside what the network was; as JSON."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from wellfit import __version__
from wellfit.diagnose import Diagnosis
from wellfit.slim.drive.base import Dense
from wellfit.slim.drive.filing import described
from wellfit.slim.drive.judging import diagnosed, latency_json, proof_json
from wellfit.slim.drive.methods import Method
from wellfit.slim.drive.options import SlimOptions
from wellfit.slim.drive.plan import Plan, again
from wellfit.slim.drive.plan_file import as_json
from wellfit.slim.drive.search import front
from wellfit.slim.drive.seeds import Seeds, control_json
from wellfit.slim.drive.timing import Times
from wellfit.slim.drive.tries import Try
from wellfit.slim.findings import as_json as findings_json


@dataclass
class Proof:
    """All that is to be said at the end.

    Args:
        options: as typed.
        dense: the network as it was.
        best: the try whose file is given.
        repeated: that try and those of the same setting with other seeds.
        control: the dense network, trained on as that of the file was, with each seed; none if nobody asked for it.
        tries: all, but those of other seeds and that one.
        times: of calls of the file's network.
        file: that was given.
        seconds: that all took, this time.
        ends: why the search ended before its time, and what was not done after it.
    """

    options: SlimOptions
    dense: Dense
    best: Try
    repeated: Sequence[Try]
    control: Sequence[Try]
    tries: Sequence[Try]
    times: Times
    file: Path
    seconds: float
    ends: Sequence[str]

    @property
    def is_within(self) -> bool:
        """Whether no more is lost than may be."""
        return self.best.lost <= self.options.keep_accuracy

    @property
    def is_small(self) -> bool:
        """Whether the file is as small as asked for."""
        target = self.options.target
        return target.kind == "size" or self.best.bytes <= target.bytes_of(self.dense.network.bytes)

    @cached_property
    def decode_seconds(self) -> float:
        """Reading the file: checks and all tensors, the best of three."""
        from wellfit.slim.wfz import read

        found = []
        for _ in range(3):
            begun = time.perf_counter()
            read(self.file).tensors()
            found.append(time.perf_counter() - begun)
        return min(found)

    @cached_property
    def layers(self) -> list[dict[str, Any]]:
        """Of each tensor of the file what became of it; the milliseconds of a layer stand at its first tensor."""
        took = {one["name"]: one["p50"] for one in self.times.layers.get("after", [])}
        return [
            {**one, "ms": took.pop(one["name"].rpartition(".")[0], None)}
            for one in described(self.file, self.dense.network, self.plan)
        ]

    @cached_property
    def plan(self) -> Plan:
        """That the file was made by."""
        asked = Method.of(self.best.asked, "the try") if self.best.asked else None
        return again(self.dense.network, self.best.plan, self.best.together, asked)

    @cached_property
    def judged(self) -> dict[str, Any]:
        """What rules read of it; norms, biases and buffers, which nobody asks to be made small, are not skipped."""
        network, asked = self.dense.network, self.best.asked or "prune, share"
        steps = [
            {"layer": one.name, "method": str(one.method), "keep": one.keep, "values": one.values}
            for one in self.plan.layers if one.method != Method()
        ]  # fmt: skip
        reasons = {name: why for name, why in network.skipped.items() if name in network.tensors} | dict(self.plan.left)
        skipped = [
            {"layer": name, "method": asked, "reason": reason, "parameters": network.tensors[name].count}
            for name, reason in reasons.items()
        ]  # fmt: skip
        more = {"steps": steps, "latency": latency_json(self.times.batches), "skipped": skipped}
        return proof_json(
            self.options, self.dense, self.file, [one.value for one in self.repeated], self.best.bytes, more
        )

    @cached_property
    def diagnosis(self) -> Diagnosis:
        """What the rules say."""
        return diagnosed(self.judged, self.options)

    @cached_property
    def front(self) -> list[Try]:
        """The tries that no other beats in bytes and in points, the smallest first."""
        of = {(one.bytes, one.lost): one for one in self.tries}
        return [of[point.bytes, point.lost] for point in front(one.outcome for one in self.tries)]

    def shortfalls(self) -> list[str]:
        """What was asked for and is not reached, in sentences; none if all is."""
        if self.options.plan is None and not self.is_small:
            found = f"{self.options.target} was not reached: the smallest file has {self.best.bytes:,} bytes"
            return [f"{found}; the front above is what was found"]
        if not self.is_within:
            metric = self.dense.metric
            return [
                f"the file loses {metric.points_text(self.best.lost).lstrip('-+')}, more than --keep-acc "
                f"{self.options.keep_accuracy:g}; the front above is what was found"
            ]
        return []

    def as_json(self) -> dict[str, Any]:
        """Everything, for a page."""
        dense, target = self.dense, self.options.target
        return {
            "version": 1, "wellfit": __version__, "command": self.options.words, "typed": list(self.options.typed),
            "model": dense.network.model, "target": str(target),
            "target_bytes": None if target.kind == "size" else target.bytes_of(dense.network.bytes),
            "keep_accuracy": self.options.keep_accuracy, "met": not self.shortfalls(),
            "shortfalls": self.shortfalls(), "ends": list(self.ends), "seconds": self.seconds,
            "metric": {**dense.metric.as_json(), "name": dense.metric.name, "source": dense.metric.source},
            "dense": {
                "metric": dense.value, "bytes": dense.network.bytes, "parameters": dense.network.parameters,
                "steps": dense.steps, "seconds": dense.seconds if dense.steps is not None else None,
            },
            "slim": {
                **self.best.as_json(), "file": str(self.file), "ratio": dense.network.bytes / self.best.bytes,
                "decode_seconds": self.decode_seconds, "layers": self.layers, "times": self.times.batches,
            },
            "control": control_json(self.control), "seeds": Seeds.of(self.repeated).as_json(),
            "plan": as_json(self.plan, dense.network),
            "front": [one.folder.name for one in self.front],
            "tries": [one.as_json() for one in self.tries],
            "proof": self.judged, "findings": findings_json(self.diagnosis.findings),
        }  # fmt: skip

    def write(self, work: Any) -> None:
        """report.json and its page in the work folder."""
        from wellfit.slim.page import write_report

        write_report(work.folder, self.as_json())
