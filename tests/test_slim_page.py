"""The page of a slimming: it shows the figures, keeps strangers' text as text, asks for nothing, and misses no part."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fixtures_report import HOSTILE
from fixtures_slim import a_try, fast_slim_report, model_report, slim_report
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wellfit.slim.drive.search import Outcome
from wellfit.slim.drive.search import front as front_of_search
from wellfit.slim.page import of_model, to_html, write_report
from wellfit.slim.page.plot import even_ticks, log_ticks
from wellfit.slim.page.reading import front


class Page(HTMLParser):
    """Reads a page: all elements must be closed in their order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.inside: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.inside.setdefault(self.open[-1] if self.open else "", []).append(data)
        if not {"style", "script"} & set(self.open):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def classes(self, tag: str) -> list[str]:
        return [attributes.get("class") or "" for name, attributes in self.elements if name == tag]


def model_page() -> dict[str, Any]:
    """The report of a model, as the page reads it."""
    return of_model(model_report())


def test_it_shows_what_the_report_holds() -> None:
    page = Page(to_html(slim_report()))
    assert page.inside["h1"] == ["29x smaller, accuracy +1.01 points"] and page.classes("h1") == ["well"]
    assert page.inside["h2"] == ["Proof", "What was tried", "Layers", "Plan", "Use it"]
    for words in (
        "as small as can be, with at most 1 point of accuracy lost", "90.68 %", "91.69 %", "135,720", "4,639",
        "11.5 ms",
        "mean of 3: 91.67 % ± 0.58", "8.2 s", "17 s",
        "3 seeds: mean 91.67 %, standard deviation 0.58 points; 4,600 to 4,700 bytes",
        "All 3 tries",
        "The budget of 1.5 min is over (--budget): this is the best so far.", "allowed: 89.68 %", "10.4%", "64 × 64",
        "0.84", "431", "first.bias , head.bias", "prune, share", "36.0%",
        "What each layer keeps is settled while it is trained",
        "Predicted: 5,500 of 135,720 bytes, 24.7x smaller.",
        "model = wellfit.slim.load('digits.wfz', DeepNet())",
        "wellfit slim --budget 90s digits.py", "4 % of the weights, 16 values a layer", "taught by the dense network",
    ):  # fmt: skip
        assert words in page.text, words
    assert sorted(page.classes("g"))[-4:] == ["point front", "point front", "point try", "point try"]
    assert sum(kind == "point chosen" for kind in page.classes("g")) == 2  # in the plot and among the keys
    assert "p50" not in page.text and "asked for:" not in page.text


def test_times_and_what_was_not_met() -> None:
    page = Page(to_html(fast_slim_report()))
    assert page.inside["h1"] == ["Not met: the file loses 4.28 points, more than --keep-acc 1"]
    assert page.classes("h1") == ["error"]
    for words in (
        "The best that was found: 1.7x faster at batch 1, 21x smaller, accuracy -4.28 points.", "p50 at batch 32",
        "0.392 ms", "0.227 ms", "1.7x faster", "~1.95 ms", "1.1x: not faster", "The machine was busy",
        "Time at batch 1", "Time at batch 32", "BatchNorm2d", "Identity", "0.044", "0.002", "head: 0.50 times as fast",
        "its outputs are the network's", "1.21x", "structured+fold 0.9", "Findings",
        "error SLM004 slim-accuracy-lost 4.28 points of accuracy are lost", "note SLM003 slim-layer-skipped: head",
        "dense 0.972 · lost 4.28", "wellfit rule slim-layer-skipped",
    ):  # fmt: skip
        assert words in page.text, words
    assert [kind for kind in page.classes("svg") if "plot" in kind] == ["plot broad", "plot", "plot"]


def test_a_model_that_nothing_was_trained_for() -> None:
    page = Page(to_html(model_page()))
    assert page.inside["h1"] == ["Not met: 3x-faster was not reached: a call is 2.00x as fast"]
    assert page.inside["h2"] == ["Proof", "What was tried", "Layers", "Use it"]
    for words in (
        "The best that was found: 2.0x faster at batch 1, 2.4x smaller, accuracy -0.50 points.",
        "Asked for: 3x-faster, with at most 2 points of accuracy lost.", "96.00 %", "95.50 %", "22,000", "9,000",
        "0.6 ms", "0.3 ms", "~3.6 ms", "~3.15 ms", "1.1x: not faster", "2.5 ms", "Judged by accuracy, with the weights",
        "Outputs moved by 6.7% of their spread.", "4 tries in all; 12 s this time.",
        "Of 1 of the tries the script said no number.", "15,000 1.5x 0.48 96.25 % +0.25 points conv: fold norm",
        "7,000 3.1x 0.15 92.00 % -4.00 points conv: fold norm; fc: svd rank 2", "6,000 3.7x no number as it is",
        "9,000 2.4x 0.3 3.15 95.50 % -0.50 points conv: fold norm; fc: svd rank 8 the file",
        "conv Conv2d fold norm 1,500 87.3% 77 24.32 6,000 → 4,500 0.051",
        "norm BatchNorm2d folded into conv 64 → gone 256 → 0 0.051 → 0.001", "fc Linear svd rank 8 3,000 → 1,444",
        "head Linear 800 → as table.weight 3,200 → 0",
        "in no layer 136", "any head it is too small to be faster", "from mine import build",
        "model = wellfit.slim.load('w.wfz', build())", "wellfit slim --model mine:build --weights w.safetensors",
    ):  # fmt: skip
        assert words in page.text, words
    assert [kind for kind in page.classes("svg") if "plot" in kind] == ["plot broad", "plot", "plot"]
    assert in_the_frame(model_page())


def agreement(report: dict[str, Any]) -> None:
    report["metric"] |= {"name": "agreement of classes", "dense": 100.0, "slim": 99.5, "is_evaluated": False}


def negative(report: dict[str, Any]) -> None:
    report["metric"] |= {"name": "score", "dense": -3.5, "slim": -4.0}


def nothing_asked(report: dict[str, Any]) -> None:
    report["metric"]["allowed"] = None
    report["tries"], report["steps"], report["shortfalls"] = [], [{"change": "svd", "layer": "fc"}], []
    for key in ("typed", "made_by", "seconds"):
        del report[key]


def not_finite(report: dict[str, Any]) -> None:
    report["metric"] |= {"slim": math.nan, "lost": math.inf, "moved": math.inf}


def untimed(report: dict[str, Any]) -> None:
    report["latency"] = []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (agreement, ["Judged by agreement of classes with the dense model on the example inputs (400 compared)",
                     "only evaluate= (--check) can tell", "99.50 % -0.50 points", "allowed: 98.00 %"]),
        (negative, ["-3.5", "-4 -0.5", "with at most 2 of score lost", "allowed: -5.5"]),
        (nothing_asked, ["1 try in all.", "load('w.wfz', model)", "2.4x smaller, accuracy -0.50 points Proof"]),
        (not_finite, ["no number", "accuracy lost"]),
        (untimed, ["2.4x smaller"]),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)  # fmt: skip
def test_models_of_which_less_is_known(change: Any, words: list[str]) -> None:
    report = model_report()
    change(report)
    page = Page(to_html(of_model(report)))
    for one in words:
        assert one in page.text, one
    assert in_the_frame(of_model(report))
    assert ("allowed" in page.text, "Make it again" in page.text) == (change is not nothing_asked,) * 2
    assert ("p50" in page.text) == (change is not untimed)


@pytest.mark.parametrize("make", [slim_report, fast_slim_report, model_page])
def test_names_of_strangers_stay_text(make: Any) -> None:
    def spoilt(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: spoilt(one, name) for name, one in value.items()}
        if isinstance(value, list):
            return [spoilt(one, key) for one in value]
        return HOSTILE if isinstance(value, str) and key not in ("unit", "kind") else value

    page, clean = Page(to_html(spoilt(make()))), Page(to_html(make()))
    assert [name for name, _ in page.elements if name in ("img", "script")] == ["script"]
    assert "</script><img src=x onerror=alert(1)>" in page.text
    assert page.inside["script"] == clean.inside["script"]
    assert "\x1b" not in page.text and "\u202e" not in page.text
    assert {name for _, attributes in page.elements for name in attributes} == {
        name for _, attributes in clean.elements for name in attributes
    }


@pytest.mark.parametrize("make", [slim_report, fast_slim_report, model_page])
def test_it_asks_the_network_for_nothing_and_allows_only_its_own_script(make: Any) -> None:
    text = to_html(make())
    page = Page(text)
    assert not re.search(r"https?:|url\(|@import|\bsrc=|\bhref=|\son\w+=|\sstyle=", text)
    policy = next(attributes["content"] or "" for _, attributes in page.elements if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    for inside in (*page.inside["script"], *page.inside["style"]):
        assert base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode() in policy
    assert len(page.inside["style"]) == 2 and len(text) < 100_000


def one_try(told: dict[str, Any]) -> None:
    told["tries"] = [told["tries"][1]]


def no_seeds(told: dict[str, Any]) -> None:
    told["seeds"] = {"count": 1, "metrics": [0.9], "mean": 0.9, "spread": None, "bytes": [4639]}


def no_file(told: dict[str, Any]) -> None:
    told |= {"slim": None, "met": False, "shortfalls": ["nothing was found that is 1.2x faster"], "tries": []}


def silent(told: dict[str, Any]) -> None:
    told["tries"][0] |= {"metric": None, "value": None, "lost": None}


def loss(told: dict[str, Any]) -> None:
    told["metric"] |= {"kind": "loss", "is_higher_better": False, "unit": "number", "name": "evaluation loss"}


def percent(told: dict[str, Any]) -> None:
    told["metric"] |= {"unit": "percent", "kind": "text", "text": "top-1"}


def nothing_lost(told: dict[str, Any]) -> None:
    for one in (told["slim"], *told["tries"]):
        one |= {"metric": told["dense"]["metric"], "lost": 0.0}
    told["keep_accuracy"] = 0.0


def a_size(told: dict[str, Any]) -> None:
    told |= {"target": "50x", "target_bytes": 2714, "met": False, "shortfalls": ["50x was not reached: 4,639 bytes"]}


def zero(told: dict[str, Any]) -> None:
    told["dense"]["metric"] = 0.0


def control(told: dict[str, Any]) -> None:
    seeds = {"count": 2, "metrics": [0.92, 0.93], "mean": 0.925, "spread": 0.00707, "bytes": [9, 9]}
    told["control"] = {**told["tries"][0], "metric": 0.92, "value": 0.92, "lost": -1.3, "seeds": seeds}


CASES = [
    (one_try, "The one try"), (no_seeds, "4,639"), (no_file, "Not met: nothing was found that is 1.2x faster"),
    (silent, "Of 1 of the tries the script said no number."), (loss, "evaluation loss (lower is better)"),
    (percent, "accuracy"), (nothing_lost, "Proof"), (a_size, "Not met: 50x was not reached"), (zero, "0.00 %"),
    (control, "mean of 2: 92.50 % ± 0.71"),
    (control, "Dense, trained on alike, 2 seeds: mean 92.50 %, standard deviation 0.71 points."),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), CASES, ids=lambda one: getattr(one, "__name__", ""))
def test_what_is_not_there_is_left_out(change: Any, words: str) -> None:
    if change is not no_seeds:
        told = fast_slim_report()
        change(told)
        assert in_the_frame(told)
    told = slim_report()
    change(told)
    assert words in Page(to_html(told)).text
    assert in_the_frame(told)


def in_the_frame(told: dict[str, Any]) -> bool:
    """Whether all that a plot draws lies in it."""
    numbers = re.compile(r"-?\d+\.\d|nan|inf")
    for name, attributes in Page(to_html(told)).elements:
        if name not in ("circle", "line", "text", "polygon", "polyline", "rect"):
            continue
        for key in ("x", "x1", "x2", "cx", "y", "y1", "y2", "cy", "width", "height", "points"):
            for number in numbers.findall(attributes.get(key) or ""):
                assert 0 <= float(number) <= 1064, (name, attributes)
    return True


points = st.tuples(st.integers(1, 10**9), st.floats(-50, 100), st.booleans())


@settings(max_examples=60, deadline=None)
@given(st.lists(points, min_size=1, max_size=8), st.floats(0, 100), st.integers(1, 10**9), st.booleans())
def test_any_tries_are_drawn_within_the_frame(found: Any, within: float, size: int, is_higher_better: bool) -> None:
    told = copy.deepcopy(slim_report())
    told["metric"]["is_higher_better"] = is_higher_better
    told["tries"] = [
        a_try(f"try-{at}", bytes, None if is_silent else 0.9 - lost / 100, None if is_silent else lost, 0.1)
        for at, (bytes, lost, is_silent) in enumerate(found)
    ]
    told |= {"keep_accuracy": within, "target_bytes": size}
    told["slim"] |= told["tries"][0]
    assert in_the_frame(told)


@example(1.0, 0.0, True)
@given(st.floats(0.85, 1.2), st.floats(-0.5, 0.5), st.booleans())
def test_words_in_a_plot_do_not_meet(factor: float, lost: float, is_higher_better: bool) -> None:
    told = slim_report()
    told["metric"]["is_higher_better"] = is_higher_better
    sign = 1 if is_higher_better else -1
    told["slim"] |= {"bytes": int(factor * 135_720), "metric": 0.9068 - sign * lost / 100, "lost": lost}
    told["tries"] = [told["slim"]]
    labels = [one for name, one in Page(to_html(told)).elements if name == "text" and "label" in (one["class"] or "")]
    (x, y), (left, base) = ((float(one["x"] or ""), float(one["y"] or "")) for one in labels)
    assert abs(y - base) >= 12 or left >= x + 20 or left + 50 <= x - 20


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(-5, 5).map(float)), max_size=12))
def test_the_front_is_that_of_the_search(found: list[tuple[int, float]]) -> None:
    searched = [(one.bytes, one.lost) for one in front_of_search(Outcome(0.5, size, lost) for size, lost in found)]
    assert [found[at] for at in front(found)] == searched


@given(st.floats(1e-3, 1e9), st.floats(1.001, 1e6), st.integers(4, 10))
def test_ticks_are_round_and_in_the_range(low: float, factor: float, most: int) -> None:
    ticks = log_ticks(low, low * factor, most)
    assert len(ticks) <= most + 2 and ticks == sorted(set(ticks))
    assert all(low * (1 - 1e-6) <= tick <= low * factor * (1 + 1e-6) for tick in ticks)
    assert len(even_ticks(low, low * factor, most)) >= int(most / 2.5)


def test_both_files_are_written(tmp_path: Path) -> None:
    told = slim_report()
    page = write_report(tmp_path, told)
    assert json.loads((tmp_path / "report.json").read_text()) == told
    assert page == tmp_path / "report.html" and page.read_text(encoding="utf-8") == to_html(told)
