"""Where in a step the training is: the state that every event of every step reads and writes."""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType
from typing import TYPE_CHECKING, Any

from wellfit.probe.patterns import BACKWARD, Patterns

if TYPE_CHECKING:
    from wellfit.probe.governor import Governor
    from wellfit.probe.optimizers import Held

_B, _S = b"BS"

Clipped = tuple[int, Any, float]  # of a call that clips: its id, the norm (a tensor if it is on a device), the limit


class Moment:
    """The place of the training thread within its step.

    Between two events the training has driven everything out of the processor's caches, so what an event costs is the
    memory that it touches. Hence slots, and hence the log: a plain event appends one object to it, and whoever asks for
    the step or its pattern has all of them counted at once.

    Args:
        row: takes a row of the record.
        patterns, governor: of the probe.
        started: the time (perf_counter) from which the record counts.

    Attributes:
        plain: the events of this step need no more than their rows (`events`); otherwise the observer sees them.
        log: plain events not counted yet. Backward: (site, loss); zero_grad: its code; an optimizer's step: (what is
            known of the optimizer, time); a call that clips the gradient: `Clipped`.
        clipped: takes (step, `Clipped`).
        left: plain steps before the observer has more to do than to add rows; `next_flush`: the time (perf_counter) at
            which it has in any case.
        attentive: this step is looked at, or something of the step before is still to be written.
        owner: the training thread; None until the first backward call.
        in_backward: a backward call is under way.
        in_step: optimizer steps that are under way, one within the closure of the other.
        stepping: the optimizer whose step is under way.
        held: the optimizer that stepped last.
        site, site_code, site_at: the place that called backward last: its id, code and instruction.
        scaled: what GradScaler.scale gave back and what it was given, until backward is called.
    """

    __slots__ = (
        "_at", "_backward_seen", "_governor", "_pattern", "_patterns", "_row", "_started", "_step", "attentive",
        "clipped", "held", "in_backward", "in_step", "left", "log", "next_flush", "owner", "plain", "scaled", "site",
        "site_at", "site_code", "stepping",
    )  # fmt: skip

    def __init__(self, row: Callable[..., None], patterns: Patterns, governor: Governor, started: float) -> None:
        self._row = row
        self._patterns = patterns
        self._governor = governor
        self._started = started
        self._step = 0
        self._at = 0.0  # when the last step ended, in seconds since attach
        self._backward_seen = False
        self._pattern: list[int] = []
        self.plain = False
        self.log: list[Any] = []
        self.clipped: Callable[[int, Clipped], None] = lambda step, clipped: None
        self.left = 1
        self.next_flush = 0.0
        self.attentive = True
        self.owner: int | None = None
        self.in_backward = False
        self.in_step = 0
        self.stepping: Held | None = None
        self.held: Held | None = None
        self.scaled: tuple[Any, Any] | None = None
        self.site = -1
        self.site_code: CodeType | None = None
        self.site_at = -1

    @property
    def step(self) -> int:
        """The number of the step that is under way."""
        if self.log:
            self.settle()
        return self._step

    @property
    def pattern(self) -> list[int]:
        """Codes of this step's events so far."""
        if self.log:
            self.settle()
        return self._pattern

    @property
    def backward_seen(self) -> bool:
        """Whether a backward call has ended in this step."""
        if self.log:
            self.settle()
        return self._backward_seen

    def settle(self) -> None:
        """Count the events in the log: their rows, and where the training now is."""
        events = self.log[:]
        del self.log[: len(events)]
        row = self._row
        for event in events:
            if type(event) is int:
                self._pattern.append(event)
                continue
            if len(event) == 3:
                self.clipped(self._step, event)
                continue
            subject, number = event
            if type(subject) is int:
                row(_B, 0, subject, self._step, number, self._at)
                self._pattern.append(BACKWARD)
                self._backward_seen = True
            else:
                self._at = number - self._started
                subject.steps += 1
                self._pattern.append(subject.code)
                if self._backward_seen:
                    self.end_step(subject.row_id, self._at)

    def end_backward(self) -> None:
        """A backward call has ended."""
        if not self.in_step:  # what a closure does within the step has an order of its own
            self.pattern.append(BACKWARD)
        self._backward_seen = True

    def end_step(self, optimizer: int, at: float) -> None:
        """The step ends.

        Args:
            optimizer: whose step ends it.
            at: seconds since attach.
        """
        self._at = at
        pattern = self._pattern
        self._row(_S, optimizer, self._patterns.number(pattern), self._step, at, self._governor.spent)
        pattern.clear()
        self._backward_seen = False
        self._step += 1
