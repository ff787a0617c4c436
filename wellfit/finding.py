"""What a rule says: a finding, with its evidence and its cures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["error", "note"]


@dataclass(frozen=True)
class Location:
    """A place in the user's program.

    Args:
        file: absolute path.
        line: 1-based line.
    """

    file: str
    line: int


@dataclass(frozen=True)
class Fix:
    """A cure that a rule proposes.

    Args:
        title: what to do, in the imperative ("Divide the learning rate by 10").
        override: what does it at run time, as it is given to `wellfit run --override` ("lr=scale:0.1"); None where only
            the user can.
        safe: True if the program (or the slim model) still means the same and the change can be taken back.
        changes: if it is not safe, what becomes another one: the verb's object in "changes ...".
    """

    title: str
    override: str | None = None
    safe: bool = False
    changes: str = "what the program means"

    @property
    def safety(self) -> str:
        """ "safe", or what it changes."""
        return "safe" if self.safe else f"changes {self.changes}"


@dataclass
class Finding:
    """One illness of one run, named once.

    Args:
        rule: kebab-case name of the rule ("dead-units").
        code: stable alias ("FWD302").
        severity: "error" when the run is not doing its job or the fault is certain by its structure, else "note".
        message: the problem and why it hurts; then the cure.
        step: the step at which it became certain; None if it holds for the whole run.
        layer: name of the layer or parameter it is about, or None.
        location: the user's line to blame, or None.
        evidence: the numbers that the verdict rests on.
        consequences: names of the rules whose findings this one explains (filled by diagnose).
        sure: False while the rule would rather see more before it speaks live.
        from_start: True if the record shows it before any weight was moved: no illness of the steps brought it about.
    """

    rule: str
    code: str
    severity: Severity
    message: str
    step: int | None = None
    layer: str | None = None
    location: Location | None = None
    evidence: dict[str, float | int | str | list[str]] = field(default_factory=dict)
    consequences: list[str] = field(default_factory=list)
    fixes: tuple[Fix, ...] = ()
    sure: bool = True
    from_start: bool = False
