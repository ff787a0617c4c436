"""docs/slim-results.md: what bench/slim.py has measured, beside what others have published."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from slim_cases import Case

_INTRODUCTION = """\
# What `wellfit slim` makes of known networks

Written by `python bench/slim.py`. Each network is a plain script in `bench/slim_scripts/`, and was made small by the
command that stands with it: trained from nothing, then pruned, shared and coded while the same script trains it again.
The dense network has the same script, epochs and augmentation. As the slim network is trained once more from there, a
second row tells of the dense network after one more run of the same kind (`--control`), with as many seeds. Accuracy is
the script's own, on its test images, with the weights read again from the file. Bytes are those of the whole file on
the disk; the ratio is against the float32 `state_dict` (LeNet-5: against its 431,080 parameters, by which others
divide). Where the command searches, it sees the figures of the test images, as the scripts have no other: with several
tries that flatters the file, by about the spread between seeds, and so do the ratios that are asked for, which were
chosen after a few runs had been seen. So it is with the published figures, as far as they say. What is reached is
judged by the means of the seeds.
"""


def points(value: float, told: Mapping[str, Any]) -> float:
    """An accuracy in percent."""
    return value * 100 if told["metric"]["unit"] == "share" else value


def reached(case: Case, told: Mapping[str, Any]) -> list[str]:
    """What of the goal was not reached, in sentences; where there are several seeds, by their mean."""
    found = []
    accuracy = _mean(told["seeds"], told)
    if told["ratio"] < case.least_ratio:
        found.append(f"{told['ratio']:.1f}x smaller, not {case.least_ratio:g}x")
    dense = points(told["dense"]["metric"], told)
    wanted = case.least_accuracy if case.least_accuracy > 0 else dense + case.least_accuracy
    if accuracy < wanted - 1e-9:
        found.append(f"{accuracy:.2f} %, not {wanted:.2f} %")
    return found


def beside_rival(case: Case, told: Mapping[str, Any]) -> str:
    """How the file's setting compares with the dense network that was trained on as long, by means of the seeds."""
    if told.get("control") is None:
        return ""
    gained = _mean(told["seeds"], told) - _mean(told["control"], told)
    too_much = case.least_accuracy < 0 and gained < case.least_accuracy - 1e-9
    more = f", **which is more than {-case.least_accuracy:g}**" if too_much else ""
    where = "above" if gained > 0 else "under"
    return f" It is {abs(gained):.2f} points {where} the dense network trained on alike{more}."


def failures(case: Case, told: Mapping[str, Any]) -> list[str]:
    """What is worse than the bounds of a quick case, in sentences."""
    return [f"{case.name}: {text}" for text in reached(case, told)]


def summary(case: Case, told: Mapping[str, Any]) -> str:
    """One network in a line."""
    slim, dense = told["slim"], told["dense"]
    return (
        f"{case.name}: {points(dense['metric'], told):.2f} % -> {points(slim['metric'], told):.2f} %, "
        f"{case.dense_bytes(dense['bytes']):,} -> {slim['bytes']:,} bytes ({told['ratio']:.1f}x), "
        f"{told['seconds'] / 60:.1f} min at load {told['load']:.1f}"
    )


def page(cases: Sequence[Case], found: Mapping[str, Mapping[str, Any]], tables: Mapping[str, str]) -> str:
    """The whole page, of the networks that were measured.

    Args:
        tables: what other benchmarks have printed, by their names.
    """
    there = [(case, found[case.name]) for case in cases if case.name in found]
    parts = [_INTRODUCTION, "## Size\n", *_sizes(there), "", "## Time\n", *_times(there), ""]
    for case, told in there:
        parts += [f"## {case.name}\n", *_details(case, told), ""]
    for name, text in tables.items():
        parts += [f"## bench/{name}.py\n", "```", text.strip("\n"), "```", ""]
    missing = [case.name for case in cases if case.name not in found]
    if missing:
        parts += [f"Not measured yet: {', '.join(missing)}.", ""]
    return "\n".join(parts)


def _sizes(there: Sequence[tuple[Case, Mapping[str, Any]]]) -> list[str]:
    rows = [("network", "", "accuracy", "bytes", "smaller")]
    for case, told in there:
        bytes_dense = case.dense_bytes(told["dense"]["bytes"])
        rows.append((case.name, "dense", f"{points(told['dense']['metric'], told):.2f} %", f"{bytes_dense:,}", ""))
        if told.get("control") is not None:
            rows.append(("", "dense, trained on alike", _spread(told["control"], told), "", ""))
        rows.append(("", "**wellfit slim**", f"**{points(told['slim']['metric'], told):.2f} %**",
                     f"**{told['slim']['bytes']:,}**", f"**{told['ratio']:.1f}x**"))  # fmt: skip
        if told["seeds"]["count"] > 1:
            rows.append(("", f"the same with {told['seeds']['count']} seeds", _spread(told["seeds"], told),
                         _span(told["seeds"]), ""))  # fmt: skip
        rows += [
            ("", one.who, f"{one.accuracy:.2f} %", f"{bytes_dense / one.ratio:,.0f}", f"{one.ratio:g}x")
            for one in case.published
        ]
    return _table(rows)


def _times(there: Sequence[tuple[Case, Mapping[str, Any]]]) -> list[str]:
    rows = [("network", "to read the file", "batch", "dense, p50", "loaded, p50", "times as fast")]
    for case, told in there:
        for place, (batch, pair) in enumerate(told["latency"].items()):
            rows.append((
                case.name if place == 0 else "", f"{told['decode_ms']:.1f} ms" if place == 0 else "", batch,
                f"{pair['dense_ms']:.3f} ms", f"{pair['slim_ms']:.3f} ms", f"{pair['ratio']:.2f}",
            ))  # fmt: skip
    return [
        *_table(rows),
        "",
        "Zeros and shared values make a file small and nothing faster: the loaded network computes the same products. "
        "What makes a network faster is on the page of each method.",
    ]


def _details(case: Case, told: Mapping[str, Any]) -> list[str]:
    short = reached(case, told)
    outcome = f"Asked for: {case.goal}. " + (f"**Not reached: {'; '.join(short)}.**" if short else "Reached.")
    outcome += beside_rival(case, told)
    accuracy = points(told["slim"]["metric"], told)
    better = [one for one in case.published if one.ratio >= told["ratio"] and one.accuracy >= accuracy]
    if better:
        named = "; ".join(f"{one.who}: {one.ratio:g}x at {one.accuracy:.2f} %" for one in better)
        outcome += f" Published files are smaller at no less accuracy: {named}."
    to_file = told["dense"]["seconds"] + sum(told["tries"])
    lines = [
        f"    {told['command']}", "", outcome,
        f"{to_file / 60:.1f} minutes from nothing to the file: the dense network ({told['dense']['seconds']:.0f} s) "
        f"and {len(told['tries'])} tries ({told['slim']['seconds']:.0f} s the one of the file). "
        f"{told['seconds'] / 60:.1f} minutes with other seeds, the dense network trained on, and the proof, while "
        f"{told['load']:.1f} processes wanted a core on average.",
        f"{told['date']}, commit {told['commit']}, {told['machine']}.", "",
    ]  # fmt: skip
    rows = [("tensor", "numbers", "kept", "values", "bits each", "bytes")]
    rows += [
        (f"`{one['name']}`", f"{one['parameters']:,}", f"{one['kept']:.2%}", f"{one['values']:,}",
         f"{one['bits']:.2f}", f"{one['bytes']:,}")
        for one in told["slim"]["layers"]
    ]  # fmt: skip
    return [*lines, *_table(rows)]


def _mean(seeds: Mapping[str, Any], told: Mapping[str, Any]) -> float:
    return points(statistics.fmean(seeds["metrics"]), told)


def _spread(seeds: Mapping[str, Any], told: Mapping[str, Any]) -> str:
    values = [points(value, told) for value in seeds["metrics"]]
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{_mean(seeds, told):.2f}{spread} %"


def _span(seeds: Mapping[str, Any]) -> str:
    return f"{min(seeds['bytes']):,} to {max(seeds['bytes']):,}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Markdown; the first two columns to the left, figures to the right."""
    head, *body = rows
    rule = ["---" if place < 1 or (place < 2 and not head[1]) else "---:" for place in range(len(head))]
    return [f"| {' | '.join(row)} |" for row in (head, rule, *body)]
