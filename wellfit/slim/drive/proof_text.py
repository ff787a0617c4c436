"""The proof for people: tables, and what the rules say of them."""

from __future__ import annotations

from wellfit.report.safe import printable
from wellfit.report.source import shown_path
from wellfit.slim.drive.options import time_text
from wellfit.slim.drive.proof import Proof
from wellfit.slim.drive.seeds import Seeds, sentences
from wellfit.slim.drive.times_text import speed_text, time_cell, time_notes
from wellfit.slim.findings import told as findings_told
from wellfit.slim.printing import NAME, SHOWN, table, tries_text


def proof_text(proof: Proof) -> str:
    """All of it."""
    lines = ["", "Proof: by the script's own evaluation, with the weights read from the file", *_summary(proof), ""]
    lines += ["Layers", *_layers(proof), "", "Front: all tries that no other beats", *_front(proof)]
    lines += [*findings_told(proof.diagnosis.findings).splitlines(), ""]
    lines += [f"{sentence[0].upper()}{sentence[1:]}." for sentence in proof.ends]
    name = printable(str(proof.file), 300)
    lines += [
        f"File:   {name}",
        f'Load:   wellfit.slim.load("{name}", model), or without a model for a state_dict',
        f"Look:   wellfit slim inspect {name}",
        f"Report: {printable(shown_path(str(proof.best.folder.parent / 'report.html')), 300)}",
    ]
    return "\n".join(lines) + "\n"


def _summary(proof: Proof) -> list[str]:
    dense, best, metric = proof.dense, proof.best, proof.dense.metric
    size, times = dense.network.bytes, proof.times.batches
    rows: list[tuple[str, ...]] = [
        ("", metric.name, "bytes", "smaller", *(f"p50 at batch {one['batch']}" for one in times), "to read", "to make"),
        ("dense (float32)", metric.shown(dense.value), f"{size:,}", "", *(time_cell(one, "before_ms") for one in times),
         "", time_text(dense.seconds) if dense.steps is not None else ""),
    ]  # fmt: skip
    for control in proof.control[:1]:
        judged = f"{metric.shown(control.value)} ({metric.points_text(control.lost)})"
        rows.append(("dense, trained on alike", judged, "", "", *("" for _ in times), "", time_text(control.seconds)))
    rows.append((
        "slim", f"{metric.shown(best.value)} ({metric.points_text(best.lost)})", f"{best.bytes:,}",
        f"{size / best.bytes:.1f}x", *(time_cell(one, "after_ms") for one in times),
        f"{1000 * proof.decode_seconds:.1f} ms", time_text(best.seconds),
    ))  # fmt: skip
    if times:
        rows.append(("", "", "", "", *(speed_text(one["speedup"]) for one in times), "", ""))
    lines = [*table(rows, (0,)), *sentences(Seeds.of(proof.repeated), Seeds.of(proof.control), metric)]
    lines += time_notes(times)
    lines += [f"Calls were not timed: {printable(proof.times.why_not, 200)}."] * bool(proof.times.why_not)
    lines.append(f"{tries_text(len(proof.tries))} in all; {time_text(proof.seconds)} this time.")
    return lines


def _layers(proof: Proof) -> list[str]:
    timed = bool(proof.times.batches)
    head = ("tensor", "numbers", "kept", "values", "bits each", "bytes", "method, or why left alone")
    rows: list[tuple[str, ...]] = [(*head, "ms") if timed else head]
    for one in proof.layers[:SHOWN]:
        row = (
            printable(one["name"], NAME), f"{one['parameters']:,}", f"{one['kept']:.1%}", f"{one['values']:,}",
            f"{one['bits']:.2f}", f"{one['bytes']:,}", printable(one["skipped"] or one["method"] or "", 60),
        )  # fmt: skip
        rows.append((*row, "" if one["ms"] is None else f"{one['ms']:.3f}") if timed else row)
    more = len(proof.layers) - SHOWN
    return [*table(rows, (0, 6)), *[f"... and {more} more tensors"] * (more > 0)]


def _front(proof: Proof) -> list[str]:
    metric, size, best = proof.dense.metric, proof.dense.network.bytes, proof.best
    rows = [("bytes", "smaller", metric.name, "against dense", "")]
    rows += [
        (f"{one.bytes:,}", f"{size / one.bytes:.1f}x", metric.shown(one.value), metric.points_text(one.lost),
         "<- the file" if one.folder == best.folder else "")
        for one in sorted({one.folder: one for one in (*proof.front, best)}.values(), key=lambda one: one.bytes)
    ]  # fmt: skip
    return table(rows, (0, 4))
