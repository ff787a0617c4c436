"""A plot of tries as SVG: size or time to the right, the figure upwards, both as they were measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wellfit.report.safe import html_text
from wellfit.slim.drive.metric import Metric
from wellfit.slim.page.markup import Html, tag

HEIGHT = 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 68, 26, 22, 62
_FILE = 50  # of the words "the file"


@dataclass(frozen=True)
class Point:
    """Of a plot.

    Args:
        x: bytes or milliseconds, above 0.
        value: of the metric.
        lines: what is told of it.
        kind: "try", "front" (a try that no other beats), "chosen" or "dense".
        is_joined: it is on the front.
    """

    x: float
    value: float
    lines: tuple[str, ...]
    kind: str
    is_joined: bool = False


@dataclass(frozen=True)
class Plot:
    """A plot.

    Args:
        label: what it is, for those who hear it.
        points: to draw, with the dense network among them.
        metric: upwards.
        allowed: the worst value that may be; None if anything may.
        wanted: the most that was asked for to the right; None if nothing was.
        across: names the axis to the right.
        x_text, x_more: what stands at a tick of it, in two lines.
        width: in units of which the text has 12.
    """

    label: str
    points: Sequence[Point]
    metric: Metric
    allowed: float | None
    wanted: float | None
    across: str
    x_text: Callable[[float], str]
    x_more: Callable[[float], str]
    width: int = 1064

    def svg(self) -> Html:
        """The picture."""
        low, high = self._values()
        left, right = self._range()
        inner = self.width - _LEFT - _RIGHT

        def across(x: float) -> float:
            return _LEFT + inner * math.log(x / left) / math.log(right / left)

        def upwards(value: float) -> float:
            share = (min(max(value, low), high) - low) / (high - low)
            return _TOP + (HEIGHT - _TOP - _BOTTOM) * (1 - share)

        parts = [
            *self._grid(across, upwards, (left, right), (low, high)), *self._allowed(across, upwards),
            *self._wanted(across, upwards),
            *self._joined(across, upwards), *self._points(across, upwards, (low, high)),
            *self._labels(across, upwards),
        ]  # fmt: skip
        size = f"0 0 {self.width} {HEIGHT}"
        kind = "plot" if self.width < 600 else "plot broad"
        picture = tag("svg", *parts, viewBox=size, class_=kind, role="group", aria_label=self.label)
        return tag("div", tag("div", picture, class_="drawn"), tag("div", class_="tip", hidden=True), class_="front")

    def _values(self) -> tuple[float, float]:
        """The range upwards: tries that lose much more than what matters are drawn at its edge."""
        dense = next(one.value for one in self.points if one.kind == "dense")
        allowed = dense if self.allowed is None else self.allowed
        matter = [one.value for one in self.points if one.kind in ("dense", "chosen")] + [allowed]
        far = max(2 * abs(value - dense) for value in matter)
        reach = max(far, 6 * abs(allowed - dense)) or 0.05 * abs(dense) or 1.0
        sign = 1 if self.metric.is_higher_better else -1
        values = matter + [one.value for one in self.points if sign * (dense - one.value) <= reach]
        span = max(values) - min(values) or abs(dense) or 1.0
        return min(values) - 0.1 * span, max(values) + 0.12 * span

    def _range(self) -> tuple[float, float]:
        """The range to the right."""
        xs = [one.x for one in self.points] + ([self.wanted] if self.wanted else [])
        room = max((max(xs) / min(xs)) ** 0.07, 1.15)
        return min(xs) / room, max(xs) * room

    def _allowed(self, across: Callable[[float], float], upwards: Callable[[float], float]) -> list[Html]:
        """The ground on which all that was asked for is met, and the line under (or over) it."""
        if self.allowed is None:
            return []
        y, end = upwards(self.allowed), self.width - _RIGHT
        wide = (end if self.wanted is None else across(self.wanted)) - _LEFT
        top, bottom = (_TOP, y) if self.metric.is_higher_better else (y, HEIGHT - _BOTTOM)
        ground = tag(
            "rect", x=_LEFT, y=f"{top:.1f}", width=f"{wide:.1f}", height=f"{bottom - top:.1f}", class_="ground"
        )
        line = tag("line", x1=_LEFT, x2=end, y1=f"{y:.1f}", y2=f"{y:.1f}", class_="allowed")
        below = y + 16 if self.metric.is_higher_better else y - 7
        words = f"allowed: {self.metric.shown(self.allowed)}"
        return [ground, line, _text(end - 8, below, words, "allowed-text", "end")]

    def _wanted(self, across: Callable[[float], float], upwards: Callable[[float], float]) -> list[Html]:
        """The most that was asked for, told where the file is not."""
        if self.wanted is None:
            return []
        x = f"{across(self.wanted):.1f}"
        line = tag("line", x1=x, x2=x, y1=_TOP, y2=HEIGHT - _BOTTOM, class_="allowed")
        words = f"asked for: {self.x_text(self.wanted)}"
        is_low = any(upwards(one.value) > HEIGHT / 2 for one in self.points if one.kind == "chosen")
        y = _TOP + 16 if is_low else HEIGHT - _BOTTOM - 9
        return [line, _text(across(self.wanted) + 7, y, words, "allowed-text")]

    def _grid(
        self, across: Callable[[float], float], upwards: Callable[[float], float], xs: tuple[float, float],
        values: tuple[float, float],
    ) -> list[Html]:  # fmt: skip
        parts, end, floor = [], self.width - _RIGHT, HEIGHT - _BOTTOM
        for value in even_ticks(*values, 6):
            y = f"{upwards(value):.1f}"
            parts.append(tag("line", x1=_LEFT, x2=end, y1=y, y2=y, class_="grid"))
            parts.append(_text(_LEFT - 10, upwards(value) + 4, self._tick(value), "tick", "end"))
        for x in log_ticks(*xs, max(4, self.width // 110)):
            parts.append(_text(across(x), floor + 20, self.x_text(x), "tick", "middle"))
            parts.append(_text(across(x), floor + 36, self.x_more(x), "more", "middle"))
            at = f"{across(x):.1f}"
            parts.append(tag("line", x1=at, x2=at, y1=floor, y2=floor + 5, class_="axis"))
        parts.append(tag("line", x1=_LEFT, x2=end, y1=floor, y2=floor, class_="axis"))
        worse = "" if self.metric.is_higher_better else " (lower is better)"
        parts.append(_text(_LEFT, 12, f"{self.metric.name}{worse}", "name"))
        parts.append(_text(end, HEIGHT - 6, self.across, "name", "end"))
        return parts

    def _tick(self, value: float) -> str:
        if self.metric.unit in ("number", "own"):
            return f"{value:.4g}"
        return f"{round(value * (100 if self.metric.unit == 'share' else 1), 6):g} %"

    def _joined(self, across: Callable[[float], float], upwards: Callable[[float], float]) -> list[Html]:
        """The front: from each of its points to the next."""
        on = sorted((one for one in self.points if one.is_joined), key=lambda one: one.x)
        path = " ".join(f"{across(one.x):.1f},{upwards(one.value):.1f}" for one in on)
        return [tag("polyline", points=path, class_="joined")] if len(on) > 1 else []

    def _points(
        self, across: Callable[[float], float], upwards: Callable[[float], float], values: tuple[float, float]
    ) -> list[Html]:
        """Dots, those that matter last and so on top; a triangle where one lies beyond the edge."""
        order = ("try", "front", "dense", "chosen")
        found = []
        for one in sorted(self.points, key=lambda one: order.index(one.kind)):
            x, y = across(one.x), upwards(one.value)
            if values[0] <= one.value <= values[1]:
                mark = tag(
                    "circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r={"try": 4, "front": 5}.get(one.kind, 7), class_="dot"
                )
            else:
                down = 1 if one.value < values[0] else -1
                corners = f"{x - 7:.1f},{y - 11 * down:.1f} {x + 7:.1f},{y - 11 * down:.1f} {x:.1f},{y:.1f}"
                mark = tag("polygon", points=corners, class_="dot")
            around = tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=14, class_="around")
            words = tag("title", Html("\n".join(html_text(line) for line in one.lines)))
            found.append(tag("g", words, around, mark, class_=f"point {one.kind}", tabindex="0"))
        return found

    def _labels(self, across: Callable[[float], float], upwards: Callable[[float], float]) -> list[Html]:
        """At the dense network, and at the file: where there is room, on the side where no try lies that is better in
        both."""
        dense = next((across(one.x), upwards(one.value)) for one in self.points if one.kind == "dense")
        found = [_text(dense[0], dense[1] - 14, "dense", "label", "middle")]
        better = -15 if self.metric.is_higher_better else 15
        for one in self.points:
            if one.kind == "chosen":
                x, y = across(one.x), upwards(one.value)
                sides = [(x - 10 - _FILE, y + 4 + better), (x + 11, y + 4 - better), (x - 10 - _FILE, y + 4 - better)]
                under = (x - _FILE / 2, y + 24)  # the file lies on the dense network
                left, base = next((side for side in sides if self._is_free(*side, dense)), under)
                found.append(_text(left, base, "the file", "label chosen"))
        return found

    def _is_free(self, left: float, base: float, dense: tuple[float, float]) -> bool:
        """Whether the words of the file fit there, and neither meet the mark of the dense network nor its word."""
        is_inside = left >= _LEFT and left + _FILE <= self.width
        return is_inside and not (
            left < dense[0] + 20 and left + _FILE > dense[0] - 20 and base > dense[1] - 27 and base - 12 < dense[1] + 9
        )


def even_ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers at even steps from low to high, about so many."""
    rough = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{at * step:.12g}") for at in range(first, last + 1)]


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from low to high: powers of ten over a wide range, the 1-2-5 row, even steps over a narrow one."""
    if high / low < 5:
        return even_ticks(low, high, min(most, 5))
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for factors in ((1, 2, 5), (1, 3), (1,)):
        found = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
        found = [x for x in found if low <= x <= high]
        if len(found) <= most:
            return found
    return found[:: -(-len(found) // most)]


def _text(x: float, y: float, words: str, kind: str, anchor: str | None = None) -> Html:
    return tag("text", words, x=f"{x:.1f}", y=f"{y:.1f}", class_=kind, text_anchor=anchor)
