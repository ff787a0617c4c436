"""The proof of a faster network: milliseconds, metric and bytes beside those of the network as it was."""

from __future__ import annotations

import textwrap
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
from wellfit.slim.drive.faster.search import front, is_fast
from wellfit.slim.drive.faster.survey import FASTER, UNTRAINED, Survey, shown
from wellfit.slim.drive.faster.tries import FastTry
from wellfit.slim.drive.judging import diagnosed, latency_json, proof_json
from wellfit.slim.drive.options import SlimOptions, time_text
from wellfit.slim.drive.seeds import Seeds, control_json, sentences
from wellfit.slim.drive.times_text import speed_text, time_cell, time_notes
from wellfit.slim.findings import as_json as findings_json
from wellfit.slim.findings import told as findings_told
from wellfit.slim.printing import NAME, SHOWN, table, tries_text


def survey_text(survey: Survey, batch: int) -> str:
    """The table of a survey."""
    rows = [("structure", f"ms at batch {batch}", "speed", "")]
    for one in sorted(survey.candidates, key=lambda one: -one.speedup):
        more = f", {one.expected:.2f}x when it is folded then" if one.gain > 1 else ""
        then = "" if one.method in UNTRAINED else f"to be trained{more}"
        rows.append((str(one), f"{one.milliseconds:.3g}", f"{one.speedup:.2f}x", then))
    lines = ["", "Survey: structures that are at least 1.2x faster here, nothing trained yet"]
    lines += table(rows, (0, 3)) if survey.candidates else ["  none"]
    return "\n".join(lines) + "\n\n"


@dataclass
class FastProof:
    """All that is to be said at the end.

    Args:
        options: as typed.
        dense: the network as it was.
        best: the try whose file is given; None if nothing is faster.
        repeated: that try and those of the same structure with other seeds.
        control: the dense network, trained on as that of the file was, with each seed; none if nobody asked for it.
        tries: all, but those of other seeds.
        file: that was given.
        survey: what was looked at.
        skipped: methods and structures, and why nothing came of them.
        seconds: that all took, this time.
        ends: why the search ended before its time, and what was not done after it.
        folder: where the report goes.
    """

    options: SlimOptions
    dense: Dense
    best: FastTry | None
    repeated: Sequence[FastTry]
    control: Sequence[FastTry]
    tries: Sequence[FastTry]
    file: Path | None
    survey: Survey
    skipped: Sequence[tuple[str, str]]
    seconds: float
    ends: Sequence[str]
    folder: Path

    @cached_property
    def judged(self) -> dict[str, Any] | None:
        """What rules read of it; None where no file is given."""
        best, network = self.best, self.dense.network
        if best is None or self.file is None:
            return None
        steps = [{"layer": "", "method": method, "strength": best.strength} for method in best.method.split("+")]
        skipped = [
            {"layer": layer, "method": method, "reason": why, "parameters": network.parameters_of(layer)}
            for method, strength, layer, why in self.survey.layers if f"{method}-{strength:g}" == best.key
        ]  # fmt: skip
        more = {"steps": steps, "latency": latency_json(best.times), "skipped": skipped}
        values = [one.value for one in self.repeated]
        return proof_json(self.options, self.dense, self.file, values, best.bytes, more)

    @cached_property
    def diagnosis(self) -> Diagnosis:
        """What the rules say."""
        return diagnosed(self.judged, self.options)

    def shortfalls(self) -> list[str]:
        """What was asked for and is not reached, in sentences; none if all is."""
        target, best, metric = self.options.target, self.best, self.dense.metric
        where = f"with {self.options.batch} in a call"
        if best is None:
            return [
                f"nothing was found that is {FASTER:g}x faster {where}: see what was skipped, or try another --batch"
            ]
        told = best.outcome(self.options.batch)
        if not is_fast(told, target):
            return [
                f"{target} was not reached {where}: the fastest that was found takes {told.milliseconds:.3g} ms, "
                f"{speed_text(told.speedup)}; the front above is what was found"
            ]
        if best.lost > self.options.keep_accuracy:
            return [
                f"the file loses {metric.points_text(best.lost).lstrip('-+')}, more than --keep-acc "
                f"{self.options.keep_accuracy:g}; the front above is what was found"
            ]
        return []

    def text(self) -> str:
        """The tables."""
        lines = ["", "Proof: by the script's own evaluation and the clock, with the network read from the file"]
        lines += [*self._summary(), ""]
        if self.best is not None:
            lines += [f"Layers: milliseconds with {self.options.batch} in a call", *self._layers(), ""]
        if self.tries:
            lines += ["Front: all tries that no other beats", *self._front(), ""]
        if self.skipped:
            lines += ["Skipped", *self._skipped(), ""]
        if self.diagnosis.findings:
            lines += [*findings_told(self.diagnosis.findings).splitlines()[1:], ""]
        lines += [f"{sentence[0].upper()}{sentence[1:]}." for sentence in self.ends]
        if self.file is not None:
            name = printable(str(self.file), 300)
            lines += [
                f"File:   {name}",
                f'Load:   wellfit.slim.load("{name}", model), with a fresh instance of the class',
                f"Look:   wellfit slim inspect {name}",
            ]
        lines.append(f"Report: {printable(shown_path(str(self.folder / 'report.html')), 300)}")
        return "\n".join(lines) + "\n"

    def write(self) -> None:
        """report.json and its page in the work folder."""
        from wellfit.slim.page import write_report

        write_report(self.folder, self.as_json())

    def as_json(self) -> dict[str, Any]:
        """Everything, for a page."""
        dense, best = self.dense, self.best
        return {
            "version": 1, "wellfit": __version__, "command": self.options.words, "typed": list(self.options.typed),
            "model": dense.network.model,
            "target": str(self.options.target), "batch": self.options.batch,
            "keep_accuracy": self.options.keep_accuracy, "met": not self.shortfalls(), "shortfalls": self.shortfalls(),
            "ends": list(self.ends), "seconds": self.seconds,
            "metric": {**dense.metric.as_json(), "name": dense.metric.name, "source": dense.metric.source},
            "dense": {
                "metric": dense.value, "bytes": dense.network.bytes, "parameters": dense.network.parameters,
                "steps": dense.steps, "seconds": dense.seconds,
                "times": [] if best is None else [{"batch": one["batch"], **one["before"]} for one in best.times],
            },
            "slim": None if best is None else {
                **best.as_json(), "file": str(self.file), "ratio": dense.network.bytes / best.bytes,
            },
            "control": control_json(self.control), "seeds": Seeds.of(self.repeated).as_json(),
            "survey": [
                {"method": one.method, "strength": one.strength, "milliseconds": one.milliseconds,
                 "speedup": one.speedup} for one in self.survey.candidates
            ],
            "skipped": [list(one) for one in self.skipped],
            "skipped_layers": [
                list(one) for one in dict.fromkeys((method, layer, why) for method, _, layer, why in self.survey.layers)
            ],
            "front": [
                {"key": one.key, "milliseconds": one.outcome(self.options.batch).milliseconds, "metric": one.value,
                 "lost": one.lost} for one in self._best_ones()
            ],
            "tries": [one.as_json() for one in self.tries],
            "proof": self.judged, "findings": findings_json(self.diagnosis.findings),
        }  # fmt: skip

    def _summary(self) -> list[str]:
        dense, best, metric = self.dense, self.best, self.dense.metric
        if best is None:
            return [
                f"  dense: {metric.name} {metric.shown(dense.value)}, {dense.network.bytes:,} bytes",
                "  slim: none",
            ]
        batches = [one["batch"] for one in best.times]
        rows: list[tuple[str, ...]] = [
            ("", metric.name, *(f"p50 at batch {batch}" for batch in batches), "bytes", "to make")
        ]
        rows.append(("dense (float32)", metric.shown(dense.value),
                     *(time_cell(one, "before_ms") for one in best.times), f"{dense.network.bytes:,}",
                     time_text(dense.seconds)))  # fmt: skip
        for control in self.control[:1]:
            alike = f"{metric.shown(control.value)} ({metric.points_text(control.lost)})"
            rows.append(("dense, trained on alike", alike, *("" for _ in best.times), "",
                         time_text(control.seconds)))  # fmt: skip
        judged = f"{metric.shown(best.value)} ({metric.points_text(best.lost)})"
        rows.append((f"slim ({shown(best.method, best.strength)})", judged,
                     *(time_cell(one, "after_ms") for one in best.times), f"{best.bytes:,}",
                     time_text(best.seconds)))  # fmt: skip
        rows.append(("", "", *(speed_text(one["speedup"]) for one in best.times),
                     f"{dense.network.bytes / best.bytes:.1f}x smaller", ""))  # fmt: skip
        lines = [*table(rows, (0,)), *sentences(Seeds.of(self.repeated), Seeds.of(self.control), metric)]
        lines += time_notes(best.times)
        lines.append(f"{tries_text(len(self.tries))} in all; {time_text(self.seconds)} this time.")
        return lines

    def _layers(self) -> list[str]:
        assert self.best is not None
        before = {one["name"]: one for one in self.best.layers["before"]}
        after = {one["name"]: one for one in self.best.layers["after"]}
        rows = [("layer", "was", "ms", "is", "ms")]
        for name in [*before, *(name for name in after if name not in before)]:
            old, new = before.get(name), after.get(name)
            rows.append((
                printable(name, NAME), old["kind"] if old else "", f"{old['p50']:.3f}" if old else "",
                new["kind"] if new else "", f"{new['p50']:.3f}" if new else "",
            ))  # fmt: skip
        more = len(rows) - 1 - SHOWN
        return [*table(rows[: SHOWN + 1], (0, 1)), *[f"... and {more} more layers"] * (more > 0)]

    def _skipped(self) -> list[str]:
        texts = (f"{name}: {printable(why, 300)}" for name, why in self.skipped)
        wrapper = textwrap.TextWrapper(118, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
        return [line for text in texts for line in wrapper.wrap(text)]

    def _best_ones(self) -> list[FastTry]:
        of = {one.key: one for one in self.tries}
        return [of[key] for key in front({key: one.outcome(self.options.batch) for key, one in of.items()})]

    def _front(self) -> list[str]:
        metric = self.dense.metric
        rows = [(f"ms at batch {self.options.batch}", "speed", metric.name, "against dense", "structure", "")]
        for one in self._best_ones():
            told = one.outcome(self.options.batch)
            mark = "<- the file" if self.best is not None and one.key == self.best.key else ""
            rows.append((f"{told.milliseconds:.3g}", speed_text(told.speedup), metric.shown(one.value),
                         metric.points_text(one.lost), shown(one.method, one.strength), mark))  # fmt: skip
        return table(rows, (0, 4))
