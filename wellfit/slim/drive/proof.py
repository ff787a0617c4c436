"""The proof: what the file is, beside what the network was, in tables and as JSON."""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from wellfit import __version__
from wellfit.diagnose import Diagnosis
from wellfit.report.safe import printable
from wellfit.report.source import shown_path
from wellfit.slim.drive.base import Dense
from wellfit.slim.drive.filing import described
from wellfit.slim.drive.judging import diagnosed, proof_json
from wellfit.slim.drive.layers import Network
from wellfit.slim.drive.methods import Method
from wellfit.slim.drive.options import SlimOptions, time_text
from wellfit.slim.drive.plan import Plan, again
from wellfit.slim.drive.plan_file import as_json
from wellfit.slim.drive.search import front
from wellfit.slim.drive.tries import Try
from wellfit.slim.findings import as_json as findings_json
from wellfit.slim.findings import told as findings_told

_NAME = 40  # characters of a name in a table
_SHOWN = 40  # rows of a table by layer


def say(text: str) -> None:
    """Text on standard output, whatever its encoding can hold."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def plan_text(plan: Plan, network: Network) -> str:
    """The table of a plan."""
    rows = [("layer", "parameters", "of all bytes", "sensitivity", "method", "keep", "values", "bytes")]
    for layer in plan.layers[:_SHOWN]:
        tensor = network.tensors[layer.name]
        rows.append((
            printable(layer.name, _NAME), f"{layer.parameters:,}", f"{tensor.bytes / network.bytes:.1%}",
            f"{network.sensitivity[layer.name]:.1%}", str(layer.method), f"{layer.keep:.3g}",
            f"{layer.fewer_values}" if layer.values else "", f"{layer.predicted:,.0f}",
        ))  # fmt: skip
    left = [name for name in network.tensors if name not in network.weights]
    more = len(plan.layers) - _SHOWN
    lines = ["", "Plan", *table(rows, 4)]
    lines += [f"... and {more} more layers"] * (more > 0)
    lines += [f"{printable(name, _NAME)} is left alone: {why}." for name, why in list(plan.left.items())[:_SHOWN]]
    lines += [
        "Sensitivity: how far the network's outputs move with 80 % of that layer alone set to 0, before training.",
        *["What each layer keeps is settled while it is trained, biases with them; the sum holds."] * plan.together,
        f"{len(left)} other tensors (biases, norms, buffers) are left alone or rounded: {plan.around:,.0f} bytes.",
        f"Predicted: {plan.predicted:,.0f} of {network.bytes:,} bytes, {network.bytes / plan.predicted:.1f}x smaller.",
        "",
    ]
    return "\n".join(lines) + "\n"


@dataclass
class Proof:
    """All that is to be said at the end.

    Args:
        options: as typed.
        dense: the network as it was.
        best: the try whose file is given.
        repeated: that try and those of the same setting with other seeds.
        tries: all, but those of other seeds.
        file: that was given.
        seconds: that all took, this time.
        ends: why the search ended before its time.
    """

    options: SlimOptions
    dense: Dense
    best: Try
    repeated: Sequence[Try]
    tries: Sequence[Try]
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
        """Of each tensor of the file what became of it."""
        return described(self.file, self.dense.network, self.plan)

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
        more = {"steps": steps, "latency": [], "skipped": skipped}
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

    def text(self) -> str:
        """The tables."""
        lines = ["", "Proof: by the script's own evaluation, with the weights read from the file", *self._summary(), ""]
        lines += ["Layers", *self._layers(), "", "Front: all tries that no other beats", *self._front()]
        lines += [*findings_told(self.diagnosis.findings).splitlines(), ""]
        lines += [f"{sentence[0].upper()}{sentence[1:]}: this is the best so far." for sentence in self.ends]
        name = printable(str(self.file), 300)
        lines += [
            f"File:   {name}",
            f'Load:   wellfit.slim.load("{name}", model), or without a model for a state_dict',
            f"Look:   wellfit slim inspect {name}",
            f"Report: {printable(shown_path(str(self.best.folder.parent / 'report.html')), 300)}",
        ]
        return "\n".join(lines) + "\n"

    def as_json(self) -> dict[str, Any]:
        """Everything, for a page."""
        dense, target = self.dense, self.options.target
        values = [one.value for one in self.repeated if one.value is not None]
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
                "decode_seconds": self.decode_seconds, "layers": self.layers,
            },
            "seeds": {
                "count": len(self.repeated), "metrics": values, "mean": statistics.fmean(values) if values else None,
                "spread": statistics.stdev(values) if len(values) > 1 else None,
                "bytes": [one.bytes for one in self.repeated],
            },
            "plan": as_json(self.plan, dense.network),
            "front": [one.folder.name for one in self.front],
            "tries": [one.as_json() for one in self.tries],
            "proof": self.judged, "findings": findings_json(self.diagnosis.findings),
        }  # fmt: skip

    def write(self, work: Any) -> None:
        """report.json and its page in the work folder."""
        from wellfit.slim.page import write_report

        write_report(work.folder, self.as_json())

    def _summary(self) -> list[str]:
        dense, best, metric = self.dense, self.best, self.dense.metric
        size = dense.network.bytes
        rows = [
            ("", metric.name, "bytes", "smaller", "to read", "to make"),
            ("dense (float32)", metric.shown(dense.value), f"{size:,}", "", "",
             time_text(dense.seconds) if dense.steps is not None else ""),
            ("slim", f"{metric.shown(best.value)} ({metric.points_text(best.lost)})", f"{best.bytes:,}",
             f"{size / best.bytes:.1f}x", f"{1000 * self.decode_seconds:.1f} ms", time_text(best.seconds)),
        ]  # fmt: skip
        lines = table(rows, 0)
        values = [one.value for one in self.repeated if one.value is not None]
        if len(self.repeated) > 1:
            mean, spread = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan
            each = (
                f"{spread:.3g}"
                if metric.unit == "number"
                else f"{spread * (100 if metric.unit == 'share' else 1):.2f} points"
            )
            sizes = [one.bytes for one in self.repeated]
            lines.append(
                f"{len(values)} seeds: mean {metric.shown(mean)}, standard deviation {each}; "
                f"{min(sizes):,} to {max(sizes):,} bytes"
            )
        lines.append(f"{len(self.tries)} tries in all; {time_text(self.seconds)} this time.")
        return lines

    def _layers(self) -> list[str]:
        rows = [("tensor", "numbers", "kept", "values", "bits each", "bytes", "method, or why left alone")]
        rows += [
            (
                printable(one["name"], _NAME), f"{one['parameters']:,}", f"{one['kept']:.1%}", f"{one['values']:,}",
                f"{one['bits']:.2f}", f"{one['bytes']:,}", printable(one["skipped"] or one["method"] or "", 60),
            )
            for one in self.layers[:_SHOWN]
        ]  # fmt: skip
        more = len(self.layers) - _SHOWN
        return [*table(rows, 6), *[f"... and {more} more tensors"] * (more > 0)]

    def _front(self) -> list[str]:
        metric, size = self.dense.metric, self.dense.network.bytes
        rows = [("bytes", "smaller", metric.name, "against dense", "")]
        rows += [
            (f"{one.bytes:,}", f"{size / one.bytes:.1f}x", metric.shown(one.value), metric.points_text(one.lost),
             "<- the file" if one.folder == self.best.folder else "")
            for one in sorted({one.folder: one for one in (*self.front, self.best)}.values(), key=lambda one: one.bytes)
        ]  # fmt: skip
        return table(rows, 4)


def table(rows: Sequence[tuple[str, ...]], text_column: int) -> list[str]:
    """Lines; the first column and `text_column` stand to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  " + "  ".join(
            cell.ljust(width) if place in (0, text_column) else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]  # fmt: skip
