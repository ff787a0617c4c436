"""How often the probe may look: the budget, kept by measuring what looking costs."""

from __future__ import annotations

import math
from collections import deque
from statistics import median

FIRST_STEPS = 20  # watched all, if the allowance lasts: most illnesses show at once
START_STEPS = 2  # cost of the first steps counts as start-up: torch's calls are logged, layers and parameters declared
ALLOWANCE = 0.15  # CPU seconds beyond the budget: what a short run may cost in all, and a long one once
AT_ONCE = 0.4  # share of the allowance for the first steps; the rest comes with the logarithm of the step
SPREAD = 2.5  # powers of ten of steps, from FIRST_STEPS on, over which it comes
GROWTH = 0.04  # gap between watched steps as a share of the step, while the allowance lasts
SHARE = 0.35  # of the budget goes to watched steps; the rest covers the events of all steps and what cannot be timed
SURE = 1.25  # once the steps have grown by this factor since the last look, one is taken even where the events of all
SURE_SHARE = (
    0.15  # steps use up the budget, if it costs no more than this share of it: with both, at most a third of it
)
CAPS = (8192, 262_144)  # least and most elements looked at in one tensor
SELDOM, OFTEN = 200, 20  # a longer period than the first has tensors looked at less closely, a shorter one more
STEP_SECONDS = 5e-6  # charged for the events of a plain step, which no period can save: the calls alone, caches warm


class Governor:
    """Chooses which steps are watched.

    Args:
        overhead: the budget, as a share of the run's time (0.01 = 1 %).
        seed: of the jitter, so that watched steps do not fall in step with the user's own period.
        every: watch each `every`-th step whatever it costs; 0 leaves it to the budget.

    Attributes:
        spent: CPU seconds that watching cost since the first steps.
        start_up: the same of the first steps.
        next: the step that is to be watched next, as far as is known.
        period: steps between two watched ones.
        cap: elements to look at in one tensor: fewer where watching is dear beside a step.
    """

    def __init__(self, overhead: float, seed: int = 1, every: int = 0) -> None:
        self.overhead = overhead
        self.every = every
        self.spent = 0.0
        self.start_up = 0.0
        self.watched = 0
        self.next = 0
        self.period = 1.0
        self.cap = 65536
        self._start: float | None = None
        self._plain: deque[float] = deque(maxlen=15)
        self._costs: deque[float] = deque(maxlen=7)
        self._last = 0  # step that was watched last
        self._strain = 1.0  # wall time per CPU time of a watched step: how much others use the processor
        self._random = seed * 2654435761 % 2**32 or 1

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

    def end_watched(self, step: int, seconds: float, cpu: float, timed: float) -> None:
        """Account for a watched step.

        Args:
            step: its number.
            seconds: how long it took, by the wall clock.
            cpu: CPU seconds of the training thread in it.
            timed: CPU seconds that the probe's own functions took in it.
        """
        self.watched += 1
        if step < START_STEPS:
            self.start_up += timed
            return
        # What hooks cost outside our own functions shows only as a longer step; it is noisy, so it may not rule by
        # more than three times what was timed.
        hidden = min(seconds - median(self._plain), 3 * timed) if len(self._plain) >= 5 else timed
        self._costs.append(max(timed, hidden))
        self._strain = min(max(seconds / max(cpu, 1e-9), 1.0), 4.0)
        self.spent += timed

    def end_plain(self, steps: int, seconds: float, timed: float) -> None:
        """Account for a stretch of steps that were not watched; `seconds` by the wall clock, `timed` as above."""
        self._plain.append(seconds / max(steps, 1))
        self.spent += steps * STEP_SECONDS + timed

    def wants(self, step: int, now: float) -> bool:
        """Whether the step that begins now is to be watched."""
        if self.every:
            self.next = (step // self.every + 1) * self.every
            return step % self.every == 0
        if step < self.next or self._start is None:
            return False
        cost = median(self._costs) if self._costs else 0.0
        share = self.overhead * SHARE
        over = self.spent + cost > self._allowed(step) + share * (now - self._start)
        if over and (step < SURE * self._last or cost > self.overhead * SURE_SHARE * (now - self._start)):
            self.next = step + max(1, step // 100)
            return False
        self._last = step
        if step < FIRST_STEPS:
            self.next = step + 1
            return True
        plain = median(self._plain) if self._plain else (now - self._start) / step
        steady = cost * self._strain / max(share * plain, 1e-12)
        self.period = max(1.0, min(GROWTH * step, steady))
        if steady > SELDOM:
            self.cap = max(self.cap // 2, CAPS[0])
        elif steady < OFTEN:
            self.cap = min(self.cap * 2, CAPS[1])
        self.next = step + max(1, round(self.period * self._jitter()))
        return True

    def _allowed(self, step: int) -> float:
        """The part of the allowance that is free by this step; a smaller budget has a smaller one."""
        come = max(0.0, math.log10(max(step, 1) / FIRST_STEPS)) / SPREAD
        return ALLOWANCE * min(1.0, self.overhead * 100) * min(1.0, AT_ONCE + (1 - AT_ONCE) * come)
