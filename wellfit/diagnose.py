"""All rules over a run: which findings hold, which of them explain others, and in which order they are told."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from wellfit.catalogue import FAMILIES
from wellfit.finding import Finding, Location
from wellfit.ignore_comments import Comments
from wellfit.patience import at_most
from wellfit.rule import Rule

if TYPE_CHECKING:
    from wellfit.proof import Proof
    from wellfit.record import Record, Run

LATE_STEPS = 20
"""A cause may become certain so many steps after its consequence: it was there before, but needed more evidence."""

SECONDS = 30.0
"""A rule that thinks longer about one record is switched off; ours take milliseconds."""

MOST_FINDINGS = 1000
"""A rule that finds more in one record is switched off: that is no diagnosis."""

_Judged = TypeVar("_Judged")


@dataclass
class Diagnosis:
    """What all rules together say about a run.

    Args:
        findings: errors before notes, causes before consequences.
        problems: one sentence for each rule that failed and was switched off.
        folded: (cause, consequence) for each finding that is told as a consequence of another only.
        ignored: findings that a comment in the user's source silences, or of rules that are to be ignored.
    """

    findings: list[Finding]
    problems: list[str] = field(default_factory=list)
    folded: list[tuple[Finding, Finding]] = field(default_factory=list)
    ignored: list[Finding] = field(default_factory=list)


def diagnose(
    run: Run, rules: Sequence[Rule], switched_off: set[str] | None = None, ignored: Collection[str] = ()
) -> Diagnosis:
    """Judge every record of a run with every rule.

    Args:
        run: the run, read as far as it should be judged.
        rules: of `catalogue.rules`.
        switched_off: names of rules not to ask again; those that fail are added. Pass the same set to every call while
            a run grows, and each failure is named once.
        ignored: names of rules whose findings are left out, with all that they explain. They are asked as the others
            are; where one fails, nobody waits for what it says, and nothing is said.
    """
    off = set() if switched_off is None else switched_off
    found: list[tuple[Finding, int]] = []
    problems: list[str] = []
    for record in run.records:
        for rule in rules:
            if rule.name in off:
                continue
            try:
                found += [(finding, record.rank) for finding in _asked(rule.check, record)]
            except (Exception, SystemExit) as error:
                off.add(rule.name)
                problems += [_failure(rule, _of(record), error)] if rule.name not in ignored else []
    asking = [rule for rule in rules if rule.name not in off and rule.trials]
    if asking and run.trials and run.records:
        found += _beside_trials(run, asking, off, problems, ignored)
    ranks = sorted((record for record in run.records if record.step_count), key=lambda record: record.rank)
    for rule in rules if len({record.rank for record in ranks}) > 1 else ():
        if rule.name in off:
            continue
        try:
            found += [(finding, ranks[0].rank) for finding in _asked(rule.check_together, ranks)]
        except (Exception, SystemExit) as error:
            off.add(rule.name)
            problems += [_failure(rule, _of(ranks[0]), error)] if rule.name not in ignored else []
    found = [(finding, rank) for finding, rank in found if finding.rule not in off]
    if run.was_cut:  # what would only be sure at the end of a whole run
        found = [(finding, rank) for finding, rank in found if finding.sure]
    comments = Comments()
    merged = _merged(found)
    ordered = ordered_findings(merged, rules)
    silent = [finding for finding in ordered if finding.rule in ignored or comments.silence(finding)]
    reach = explained(rules, {finding.rule for finding in merged})
    kept, folded = _fold(ordered, reach, _of_steps(rules), silent)
    for finding in kept:
        finding.consequences = [name for name in finding.consequences if name not in ignored]
    # What a silenced finding explains is not told in its place.
    told = [finding for finding in kept if finding not in silent]
    folded = [(cause, finding) for cause, finding in folded if cause in told and finding.rule not in ignored]
    return Diagnosis(told, problems, folded, [finding for finding in kept if finding in silent])


def diagnose_proof(proof: Proof, rules: Sequence[Rule], ignored: Collection[str] = ()) -> Diagnosis:
    """Judge the proof of a slimming with every rule.

    Args:
        proof: that was measured, or read from a report.
        rules, ignored: as for `diagnose`.
    """
    found: list[Finding] = []
    problems: list[str] = []
    for rule in rules:
        try:
            found += _asked(rule.check_proof, proof)
        except (Exception, SystemExit) as error:
            problems += [_failure(rule, f"the proof of {proof.file}", error)] if rule.name not in ignored else []
    ordered = ordered_findings(found, rules)
    silent = [finding for finding in ordered if finding.rule in ignored]
    return Diagnosis([finding for finding in ordered if finding not in silent], problems, ignored=silent)


def _beside_trials(
    run: Run, rules: Sequence[Rule], off: set[str], problems: list[str], ignored: Collection[str]
) -> Iterator[tuple[Finding, int]]:
    """What the rules find that ask for trials, of those that were made."""
    record = max(run.records, key=lambda one: one.step_count)
    made = {
        name: max(trial.records, key=lambda one: one.step_count)
        for name, trial in run.trials.items()
        if trial.records and trial.meta.get("exit_code") == 0
    }
    for rule in rules:
        companions = {name: made[name] for name in rule.trials if name in made}
        if not companions:
            continue
        try:
            yield from (
                (finding, record.rank) for finding in _asked(functools.partial(rule.check_trial, record), companions)
            )
        except (Exception, SystemExit) as error:
            off.add(rule.name)
            problems += [_failure(rule, _of(record), error)] if rule.name not in ignored else []


def explained(rules: Iterable[Rule], present: Iterable[str] | None = None) -> dict[str, set[str]]:
    """By name of a rule, the names of all rules that it explains, directly or through others (never itself).

    Args:
        present: names of the rules that found something. A link that goes through absent rules only is weaker than
            what the rule at its end names itself: "saturated" does not explain a "lr-high" that names it.
    """
    rules = list(rules)
    alike = [(rule.name, rule.explained_like) for rule in rules if rule.explained_like]
    own = {name for name, _ in alike}
    direct = {
        rule.name: {
            *rule.consequences,
            *(name for name, like in alike if like in rule.consequences and rule.name not in own),
        }
        for rule in rules
    }
    reach = {name: _reached(name, direct) for name in direct}
    if present is None:
        return reach
    names = set(present)
    there = {name: consequences & names for name, consequences in direct.items() if name in names}
    for name in reach:
        weak = reach[name] - _reached(name, there) - direct[name]
        reach[name] -= {other for other in weak if name in direct.get(other, ())}
    return reach


def _reached(name: str, direct: Mapping[str, set[str]]) -> set[str]:
    """All names that can be reached from one, itself left out."""
    seen: set[str] = set()
    waiting = list(direct.get(name, ()))
    while waiting:
        other = waiting.pop()
        if other not in seen:
            seen.add(other)
            waiting += direct.get(other, ())
    return seen - {name}


def ordered_findings(findings: Sequence[Finding], rules: Iterable[Rule]) -> list[Finding]:
    """Errors before notes; in each, causes before consequences; else by family, step and code."""
    rules = list(rules)
    family = {rule.name: FAMILIES.index(rule.family) for rule in rules}
    reach = explained(rules, {finding.rule for finding in findings})
    of_steps, early = _of_steps(rules), {finding.rule for finding in findings if finding.from_start}

    def explains(cause: str, name: str) -> bool:
        return name in reach.get(cause, ()) and not (name in early and cause in of_steps)

    def rank(finding: Finding) -> tuple[bool, int, float, str, str]:
        step = float("inf") if finding.step is None else finding.step
        place = family.get(finding.rule, len(FAMILIES))
        return finding.severity != "error", place, step, finding.code, finding.layer or ""

    waiting = sorted(findings, key=rank)
    result: list[Finding] = []
    while waiting:
        names = {finding.rule for finding in waiting if finding.severity == waiting[0].severity}
        causes = {name: [other for other in names if explains(other, name)] for name in names}
        # In a circle of causes nobody is first: the tie-breaker decides.
        first = next((f for f in waiting if f.severity == waiting[0].severity and not causes[f.rule]), waiting[0])
        chosen = [f for f in waiting if f.rule == first.rule and f.severity == first.severity]
        result += chosen
        waiting = [finding for finding in waiting if finding not in chosen]
    return result


def _asked(check: Callable[[_Judged], Iterable[Finding]], judged: _Judged) -> list[Finding]:
    """What a rule finds: findings as they should be, in finite time.

    Raises:
        TypeError, ValueError, TooSlow: the rule gives something else.
    """
    found: list[Finding] = []
    with at_most(SECONDS):
        for finding in check(judged):
            found.append(_checked(finding))
            if len(found) > MOST_FINDINGS:
                raise ValueError(f"more than {MOST_FINDINGS} findings")
    return found


def _checked(finding: object) -> Finding:
    """A finding whose fields are what they say, so that all who print it can rely on them."""
    if not isinstance(finding, Finding):
        raise TypeError(f"check() gave something of type {type(finding).__name__}, not a Finding")
    if finding.severity not in ("error", "note"):
        raise ValueError(f"the severity of a finding is {finding.severity!r}, not 'error' or 'note'")
    texts = (finding.rule, finding.code, finding.message)
    if not all(isinstance(text, str) for text in texts) or not isinstance(finding.layer, str | None):
        raise TypeError("rule, code, message and layer of a finding are texts")
    step, where = finding.step, finding.location
    if not (step is None or (isinstance(step, int) and step >= 0)) or not isinstance(where, Location | None):
        raise TypeError("the step of a finding is a whole number or None, its location a Location or None")
    return finding


def _of(record: Record) -> str:
    return f"the record of process {record.pid}"


def _failure(rule: Rule, judged: str, error: BaseException) -> str:
    text = " ".join(str(error).split())[:300]
    return f"the rule {rule.name} failed on {judged} and is switched off ({type(error).__name__}: {text})"


def _merged(found: Sequence[tuple[Finding, int]]) -> list[Finding]:
    """One finding for what the same rule says of the same layer and line in several ranks."""
    groups: dict[tuple[str, str | None, Location | None], list[tuple[Finding, int]]] = {}
    for finding, rank in found:
        groups.setdefault((finding.rule, finding.layer, finding.location), []).append((finding, rank))
    result = []
    for group in groups.values():
        ranks = sorted({rank for _, rank in group})
        if len(ranks) == 1:  # one rank may say several things of a layer: they stay apart
            result += [finding for finding, _ in group]
            continue
        first = min((finding for finding, _ in group), key=lambda finding: finding.severity != "error")
        first.evidence = {**first.evidence, "ranks": [str(rank) for rank in ranks]}
        result.append(first)
    return result


def _of_steps(rules: Iterable[Rule]) -> set[str]:
    """Names of the rules about updates: what they find cannot come before the first step."""
    return {rule.name for rule in rules if rule.family == "update"}


def _fold(
    ordered: Sequence[Finding], reach: Mapping[str, set[str]], of_steps: set[str], silent: Sequence[Finding]
) -> tuple[list[Finding], list[tuple[Finding, Finding]]]:
    """Take out the findings that an error explains, and name them there.

    `ordered` has causes first, so that in a circle of rules the first explains the others. One that is told comes
    before one that is `silent`.
    """
    kept: list[Finding] = []
    folded: list[tuple[Finding, Finding]] = []
    for place, finding in enumerate(ordered):
        causes = [cause for cause in _possible_causes(ordered, place, reach, of_steps) if cause in kept]
        if not causes:
            kept.append(finding)
            continue
        cause = next((cause for cause in causes if cause not in silent), causes[0])
        folded.append((cause, finding))
        if finding.rule not in cause.consequences:
            cause.consequences.append(finding.rule)
    return kept, folded


def _possible_causes(
    ordered: Sequence[Finding], place: int, reach: Mapping[str, set[str]], of_steps: set[str]
) -> list[Finding]:
    """The findings before this place that explain the one there: certain errors that did not come later."""
    finding = ordered[place]
    causes = []
    for cause in ordered[:place]:
        if cause.severity != "error" or finding.rule not in reach.get(cause.rule, ()):
            continue
        if finding.from_start and cause.rule in of_steps:
            continue
        if cause.step is None or finding.step is None or cause.step <= finding.step + LATE_STEPS:
            causes.append(cause)
    return causes
