"""What is wrong with a slim model, read off the report's numbers: four kinds, each a function over its JSON.

Nothing here measures; so a saved report can be judged again, without torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Finding = dict[str, Any]
"""name, severity ("error" or "note"), layer (or None), message, evidence (numbers by name)."""

LEAST_GAIN = 1.02
"""slim-no-op: bytes that fell by less did not fall: two percent is what headers and tables decide."""

FASTER = 1.2
"""Time counts as fallen from here on, as everywhere in `wellfit slim`: less comes and goes with the machine."""

SKIPPED_SHARE = 0.01
"""slim-layer-skipped: layers with fewer of the parameters together are not worth a word."""

SPREADS = 2.0
"""slim-accuracy-lost: what is lost beyond so many standard deviations of the seeds is not chance (about 1 in 40)."""


def findings(report: Mapping[str, Any]) -> list[Finding]:
    """What the rules say of a report, errors first.

    Args:
        report: as `Report.as_json` gives it.
    """
    found = [*no_op(report), *slower(report), *layer_skipped(report), *accuracy_lost(report)]
    return sorted(found, key=lambda finding: finding["severity"] != "error")


def no_op(report: Mapping[str, Any]) -> Iterator[Finding]:
    """slim-no-op: something was applied, and neither the bytes nor the time fell.

    Bytes are held against the dense model's own lossless `.wfz`, not against its size in memory: coding alone makes
    every file smaller, whatever was applied.
    """
    applied = report["steps"]
    lossless, now = report["bytes"]["dense_coded"], report["bytes"]["slim"]
    speedup = max((latency["speedup"] for latency in report["latency"]), default=1.0)
    if applied and lossless < now * LEAST_GAIN and speedup < FASTER:
        yield _finding(
            "slim-no-op",
            "error",
            f"{len(applied)} steps were applied, and the file is no smaller ({now:,} bytes, {lossless:,} without them) "
            f"and the model no faster ({speedup:.2f} times): leave them out, or choose stronger ones",
            slim_bytes=now, dense_coded_bytes=lossless, speedup=speedup, steps=len(applied),
        )  # fmt: skip


def slower(report: Mapping[str, Any]) -> Iterator[Finding]:
    """slim-slower: the slim model's median lies above the dense one's upper quartile, and its lower quartile above the
    dense median: it is not the noise that has moved."""
    for latency in report["latency"]:
        dense, slim = latency["dense"], latency["slim"]
        if slim["p50"] > dense["p75"] and slim["p25"] > dense["p50"]:
            yield _finding(
                "slim-slower",
                "error",
                f"a call with {_samples(latency['batch'])} takes {slim['p50']:.3g} ms, and took {dense['p50']:.3g} ms: "
                "what was changed suits this machine or batch badly; leave out the layers whose own time rose",
                batch=latency["batch"], dense_p50=dense["p50"], dense_p75=dense["p75"], slim_p50=slim["p50"],
                slim_p25=slim["p25"],
            )  # fmt: skip


def layer_skipped(report: Mapping[str, Any]) -> Iterator[Finding]:
    """slim-layer-skipped: asked for, and not done; one finding for each method and reason, and one for all layers that
    were left as they are, whatever the method."""
    by_reason: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for skipped in report["skipped"]:
        reason = skipped["reason"] if skipped["method"] else ""
        by_reason.setdefault((skipped["method"], reason), []).append(skipped)
    whole = max(1, report["parameters"]["dense"])
    for (method, reason), group in by_reason.items():
        share = sum(skipped["parameters"] for skipped in group) / whole
        if share < SKIPPED_SHARE:
            continue
        layers = [skipped["layer"] or "the model itself" for skipped in group]
        named = ", ".join(layers[:4]) + (f" and {len(layers) - 4} more" if len(layers) > 4 else "")
        what = f"{method} was not" if method else "nothing was"
        why = reason or (group[0]["reason"] if len(group) == 1 else "each has its reason in the table")
        yield _finding(
            "slim-layer-skipped",
            "note",
            f"{what} done to {named} ({share:.0%} of the parameters): {why}",
            layer=layers[0] if len(layers) == 1 else None, layers=layers, share=share,
        )  # fmt: skip


def accuracy_lost(report: Mapping[str, Any]) -> Iterator[Finding]:
    """slim-accuracy-lost: more is lost than was allowed; where nothing was said, more than chance among seeds tells."""
    metric = report["metric"]
    allowed, spread = metric["allowed"], metric["spread"]
    if allowed is not None:
        limit, why = allowed, f"{allowed:g} were allowed"
    elif spread is not None:
        limit, why = SPREADS * spread, f"seeds differ by {spread:.2g}"
    else:
        return
    if metric["lost"] > limit:
        yield _finding(
            "slim-accuracy-lost",
            "error",
            f"{metric['lost']:.2f} points of {metric['name']} are lost, and {why}: take milder steps, or train the "
            "slim model on (`wellfit slim train.py`)",
            dense=metric["dense"], slim=metric["slim"], lost=metric["lost"], limit=limit,
        )  # fmt: skip


def _finding(name: str, severity: str, message: str, layer: str | None = None, **evidence: Any) -> Finding:
    return {"name": name, "severity": severity, "layer": layer, "message": message, "evidence": evidence}


def _samples(batch: int) -> str:
    return "one sample" if batch == 1 else f"{batch} samples"
