"""Where in a step the training is: the state that every event of every step reads and writes."""

from __future__ import annotations

from types import CodeType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wellfit.probe.optimizers import Held


class Moment:
    """The place of the training thread within its step.

    A small object with slots: between two events the training has driven everything out of the processor's caches, so
    what an event costs is the memory that it touches.

    Attributes:
        step: number of the step that is under way.
        plain: the events of this step need no more than their rows (`events`); otherwise the observer sees them.
        attentive: this step is looked at, or something of the step before is still to be written.
        owner: the training thread; None until the first backward call.
        in_backward: a backward call is under way.
        in_step: optimizer steps that are under way, one within the closure of the other.
        stepping: the optimizer whose step is under way.
        backward_seen: a backward call has ended in this step.
        pattern: codes of this step's events so far.
        held: the optimizer that stepped last.
        scaled: what GradScaler.scale gave back and what it was given, until backward is called.
        site, site_code, site_at: the place that called backward last: its id, code and instruction.
        next_slow: the first step after which the observer has more to do than to add a row.
        next_flush: the time (perf_counter) at which it has in any case.
    """

    __slots__ = (
        "attentive", "backward_seen", "held", "in_backward", "in_step", "next_flush", "next_slow", "owner", "pattern",
        "plain", "scaled", "site", "site_at", "site_code", "step", "stepping",
    )  # fmt: skip

    def __init__(self) -> None:
        self.step = 0
        self.plain = False
        self.attentive = True
        self.owner: int | None = None
        self.in_backward = False
        self.in_step = 0
        self.stepping: Held | None = None
        self.backward_seen = False
        self.held: Held | None = None
        self.scaled: tuple[Any, Any] | None = None
        self.site = -1
        self.site_code: CodeType | None = None
        self.site_at = -1
        self.pattern: list[int] = []
        self.next_slow = 1
        self.next_flush = 0.0
