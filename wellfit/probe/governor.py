"""How often the probe may look: the budget, kept by measuring what looking costs."""

from __future__ import annotations

from collections import deque
from statistics import median

FIRST_STEPS = 20  # watched all: most illnesses show at once, and the price is paid once
ALLOWANCE = 0.12  # seconds at the start of a run that no budget covers: what a short run may cost in all
GROWTH = 0.03  # gap between watched steps as a share of the step, while the allowance lasts
SHARE = 0.5  # of the budget goes to watched steps; the rest covers the events of every step and what we cannot time
STEP_SECONDS = 8e-6  # what the events of a step cost when it is not watched (bench/overhead.py)


class Governor:
    """Chooses which steps are watched.

    Args:
        overhead: the budget, as a share of the run's time (0.01 = 1 %).
        seed: of the jitter, so that watched steps do not fall in step with the user's own period.
        every: watch each `every`-th step whatever it costs; 0 leaves it to the budget.
    """

    def __init__(self, overhead: float, seed: int = 1, every: int = 0) -> None:
        self.overhead = overhead
        self.every = every
        self.spent = 0.0  # seconds that watching cost so far
        self.watched = 0
        self.cap = 65536  # elements looked at in one tensor
        self._start: float | None = None
        self._plain: deque[float] = deque(maxlen=15)
        self._costs: deque[float] = deque(maxlen=5)
        self.next = 0
        self._random = seed * 2654435761 % 2**32 or 1
        self.period = 1.0

    def _jitter(self) -> float:
        """A number in [0.75, 1.25), from our own generator: the user's are never touched."""
        self._random = (1664525 * self._random + 1013904223) % 2**32
        return 0.75 + 0.5 * self._random / 2**32

    def begin(self, now: float) -> None:
        """The first step begins."""
        if self._start is None:
            self._start = now

    def elapsed(self, now: float) -> float:
        """Seconds since the first step began."""
        return 0.0 if self._start is None else now - self._start

    def end_step(self, step: int, now: float, watched: bool, timed: float, steps: int, seconds: float) -> None:
        """Account for the steps since the last call: one watched step, or a stretch of plain ones.

        Args:
            step: number of the last of them.
            now: seconds on any steady clock.
            watched: whether it was a watched step.
            timed: seconds that the probe's own functions took in it.
            steps: how many steps.
            seconds: how long they took.
        """
        if self._start is None:
            self.begin(now)
        steps = max(steps, 1)
        if watched:
            self.watched += 1
            # What hooks cost outside our own functions shows only as a longer step; it is noisy, so it may not rule
            # by more than three times what was timed.
            hidden = min(seconds - median(self._plain), 3 * timed) if len(self._plain) >= 5 else timed
            cost = max(timed, hidden)
            self._costs.append(cost)
            self.spent += cost
        else:
            self._plain.append(seconds / steps)
            self.spent += steps * STEP_SECONDS + timed

    def wants(self, step: int, now: float) -> bool:
        """Whether the step that begins now is to be watched."""
        if self.every:
            return step % self.every == 0
        if step < FIRST_STEPS:
            self.next = step + 1
            return True
        if step < self.next or self._start is None:
            return False
        cost = median(self._costs) if self._costs else 0.0
        elapsed = now - self._start
        share = self.overhead * SHARE
        if self.spent + cost > ALLOWANCE * min(1.0, self.overhead * 100) + share * elapsed:
            self.next = step + max(1, step // 200)
            return False
        plain = median(self._plain) if self._plain else elapsed / max(step, 1)
        steady = cost / max(share * plain, 1e-12)
        self.period = max(1.0, min(GROWTH * step, steady))
        self.next = step + max(1, round(self.period * self._jitter()))
        return True
