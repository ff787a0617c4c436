"""The anatomy of a rule. One file a rule, found by scanning `wellfit/rules` and the entry points `wellfit.rules`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from wellfit.finding import Finding, Fix, Location, Severity

if TYPE_CHECKING:
    from wellfit.proof import Proof
    from wellfit.record import Record

Family = Literal[
    "data", "initialisation", "forward", "normalisation", "recurrent", "backward", "update", "numerics", "distributed",
    "curve", "slim",
]  # fmt: skip


class Rule:
    """Base class of all rules: subclass it, fill the fields, write `check` (or one of the others that judge).

    The docstring of a rule has the headings *What it checks, Why it hurts, Cure, Fix safety, When it is wrong,
    References*. Thresholds are upper-case-free typed class fields with a comment for unit and origin; each can be set
    in `[tool.wellfit.rules.NAME]`. `sick` and `healthy` are scripts in miniature: static methods without arguments
    whose *body* is a whole program (torch imported inside, under 2 s); the tests run them under `wellfit run`, or under
    `wellfit check` where the rule has trials. Those of a rule that judges proofs slim something, and save its report
    beside the script, as a file that ends in `.report.json`.

    Class fields:
        trials: overrides under which the rule wants short runs of the same script, each as typed after `--override`;
            `wellfit check` makes them, and `check_trial` judges what they showed.
        explained_like: name of another rule: what explains that one explains this one too.
    """

    code: ClassVar[str]
    name: ClassVar[str]
    family: ClassVar[Family]
    since: ClassVar[str] = "0.1"
    status: ClassVar[Literal["preview", "stable"]] = "stable"
    summary: ClassVar[str]
    worst: ClassVar[Severity] = "error"  # the highest severity it gives; "note" for what is merely needless
    reads: ClassVar[tuple[str, ...]] = ()
    consequences: ClassVar[tuple[str, ...]] = ()
    fixes: ClassVar[tuple[Fix, ...]] = ()
    trials: ClassVar[tuple[str, ...]] = ()
    explained_like: ClassVar[str] = ""

    def check(self, record: Record) -> Iterator[Finding]:
        """Judge a record; called again and again while it grows, and once at the end.

        Args:
            record: what one process recorded; `record.finished` says whether it has ended.

        Returns:
            findings, most important first; none if all is well or too little was seen.
        """
        return iter(())

    def check_trial(self, record: Record, companions: Mapping[str, Record]) -> Iterator[Finding]:
        """Judge a run beside its trials: short runs of the same script under an override each, from the same seeds.

        Called where at least one of `trials` was made, once a look, for the process that trained most.

        Args:
            record: of the run as it is, as short as the trials.
            companions: by the override as in `trials`, the record of that trial; a trial that did not fit the script,
                failed, or was not made is absent.

        Returns:
            findings, as `check`.
        """
        return iter(())

    def check_together(self, records: Sequence[Record]) -> Iterator[Finding]:
        """Judge what only shows between processes: called once a look, with the records of all ranks.

        Args:
            records: of the processes that trained, by rank; two or more.

        Returns:
            findings, as `check`.
        """
        return iter(())

    def check_proof(self, proof: Proof) -> Iterator[Finding]:
        """Judge what a slimming came to: called once, when its file was read again and measured.

        Args:
            proof: of one slimming.

        Returns:
            findings, as `check`.
        """
        return iter(())

    @classmethod
    def judges_proofs(cls) -> bool:
        """Whether it is a rule about slimmings: what it finds is in no line of a script."""
        return cls.check_proof is not Rule.check_proof

    def finding(
        self,
        message: str,
        *,
        severity: Severity,
        step: int | None = None,
        layer: str | None = None,
        location: Location | None = None,
        evidence: dict[str, Any] | None = None,
        fixes: Sequence[Fix] | None = None,
        sure: bool = True,
        from_start: bool = False,
    ) -> Finding:
        """A finding of this rule, with its name, code and (where none are given) all its fixes filled in."""
        return Finding(
            self.name, self.code, severity, message, step=step, layer=layer, location=location,
            evidence=evidence or {}, fixes=self.fixes if fixes is None else tuple(fixes), sure=sure,
            from_start=from_start,
        )  # fmt: skip
