"""What `wellfit slim bench` measured, as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wellfit.finding import Finding
from wellfit.report.safe import printable
from wellfit.slim.findings import told as findings_told
from wellfit.slim.planning.report_text import latency_lines, layer_lines, speed
from wellfit.slim.printing import table


def bench_text(told: Mapping[str, Any], findings: Sequence[Finding]) -> str:
    """The tables of what `run_bench` tells as JSON, and its findings."""
    sizes = f"{told['bytes']:,} bytes for {told['decoded']:,}: {told['ratio']:.4g} times smaller"
    lines = [f"{printable(told['file'], 300)}: {sizes}", *_reading(told["reading"])]
    if told["network"] is not None:
        lines += ["", *_network(told["network"], told["bytes"])]
    return "\n".join(lines) + "\n" + findings_told(findings)


def _reading(reading: Mapping[str, Any]) -> list[str]:
    rows = [("stored as", "tensors", "numbers", "bytes", "ms", "million/s")]
    for part in reading["parts"]:
        how = part["kind"] if part["coder"] == "none" else f"{part['kind']}, {part['coder']}"
        rows.append((
            how, f"{part['tensors']:,}", f"{part['numbers']:,}", f"{part['bytes']:,}", f"{part['ms']:.3f}",
            f"{part['numbers_per_second'] / 1e6:.4g}",
        ))  # fmt: skip
    rows.append(("file, SHA-256, header", "", "", "", f"{reading['open_ms']:.3f}", ""))
    whole = f"{reading['numbers_per_second'] / 1e6:.4g} million numbers a second"
    return [
        f"Read and decoded in {reading['ms']:.3g} ms, {whole} (medians of {reading['rounds']} times)",
        "",
        *table(rows, (0,)),
    ]


def _network(network: Mapping[str, Any], size: int) -> list[str]:
    """Calls of the loaded model beside a fresh one."""
    latency = network["latency"]
    rows = [("", "parameters", "bytes in memory", *(f"ms, batch {one['batch']}" for one in latency))]
    for name, key in (("dense", "dense"), ("loaded", "slim")):
        times = (f"{one['dense']['p50']:.3g}" if key == "dense" else speed(one) for one in latency)
        rows.append((name, f"{network['parameters'][key]:,}", f"{network['bytes_in_memory'][key]:,}", *times))
    lines = [f"Network: {printable(network['model'])}, loaded from the file, beside a fresh one (dense)"]
    lines += [*table(rows, (0,))]
    smaller = network["bytes_in_memory"]["dense"] / size
    lines.append(f"  The file is {smaller:.1f} times smaller than the dense network in memory.")
    lines += latency_lines(latency, network["left_out"])
    lines += ["", "Layers", *layer_lines(network["layers"])]
    return lines
