"""The twin of native/mixer.h: counters give probabilities, mixers weigh them."""

from __future__ import annotations

from typing import Protocol

from wellfit.slim.wfz.coders.logistic import FINE, RANGE, squash, stretch

ONE = 256
SURE = 400
FIRST = 28
HEAVIEST = 1 << 19
SLOW = 4096

FLAG, VALUE = 0, 1
LIMITS = (255, 127)
PACES = ((32, 4), (32, 8))

Counters = dict[tuple[int, int], int]
"""By the table and the place in it; a probability of 22 bits, and below it in 10 bits how often it was updated."""


class Coder(Protocol):
    """A range coder, of either direction."""

    def code(self, probability: int, bit: int) -> int:
        """Code a bit."""


class Mixer:
    """Weights of the inputs; 65,536 is 1."""

    def __init__(self, weight: int) -> None:
        self.weights = [weight] * 16
        self.seen = 0

    def weighed(self, inputs: list[int]) -> int:
        """The stretched probability."""
        total = sum(weight * value for weight, value in zip(self.weights, inputs)) >> 16
        return max(-RANGE, min(RANGE, total))

    def teach(self, inputs: list[int], error: int, rate: int) -> None:
        """Learn from an error."""
        # C divides and shifts these the same way: only `>>` meets negative numbers.
        step = error * rate >> 8
        self.seen += self.seen < SLOW - 1
        for index, value in enumerate(inputs):
            weight = self.weights[index] + (value * step + (1 << 15) >> 16)
            self.weights[index] = max(-HEAVIEST, min(HEAVIEST, weight))


class Decisions:
    """Everything that decisions share."""

    def __init__(self, coder: Coder) -> None:
        self.coder = coder
        self._squash, self._stretch = squash().tolist(), stretch().tolist()
        self._steps = [65536 * 16 // (16 * seen + FIRST) for seen in range(1024)]
        self._rates = [
            [steady * 16 + (fast - steady) * 16 * 200 // (200 + seen) for seen in range(SLOW)] for fast, steady in PACES
        ]

    def stretch(self, p: int) -> int:
        """The argument of the logistic function that gives p of 65,536."""
        less = min(p, 65536 - p)
        x: int = self._stretch[less] if less < FINE else self._stretch[FINE + (less >> 4)]
        return -x if p > 32768 else x

    def updated(self, counter: int, bit: int, limit: int, parent: int) -> int:
        """A counter after one more bit."""
        seen = counter & 1023
        p = counter >> 10 if seen else parent << 6
        if bit:
            p += ((1 << 22) - 1 - p) * self._steps[seen] >> 16
        else:
            p -= p * self._steps[seen] >> 16
        return p << 10 | min(seen + 1, max(limit, seen))

    def decide(
        self,
        counters: Counters,
        keys: list[tuple[int, int]],
        inputs: list[int],
        parent: int,
        mixers: list[Mixer],
        kind: int,
        bit: int,
    ) -> int:
        """Code a bit; `inputs` has stretched probabilities already, those of the counters and a constant are added."""
        states = [counters.get(key, 0) for key in keys]
        inputs += [self.stretch(probability(state, parent)) for state in states]
        inputs.append(ONE)
        x = [mixer.weighed(inputs) for mixer in mixers]
        p: int = self._squash[(sum(x) + 3 * RANGE) // 3]
        bit = self.coder.code(p, bit)
        target = 65536 if bit else 0
        if abs(target - p) > SURE:
            for mixer, own in zip(mixers, x):
                mixer.teach(inputs, target - self._squash[own + RANGE], self._rates[kind][mixer.seen])
        for key, state in zip(keys, states):
            counters[key] = self.updated(state, bit, LIMITS[kind], parent)
        return bit


def probability(counter: int, parent: int) -> int:
    """The probability of a counter as 16 bits, never 0; that of its parent where it has seen nothing."""
    return max(1, counter >> 16 if counter & 1023 else parent)
