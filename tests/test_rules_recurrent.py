"""The arithmetic of the recurrent rules, on records written by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from wellfit.rules.initialisation.init_gain import InitGain
from wellfit.rules.recurrent.forgets import Forgets
from wellfit.rules.recurrent.gates_stuck import GatesStuck
from wellfit.rules.recurrent.hidden_carry import HiddenCarry
from wellfit.rules.recurrent.padding import Padding
from wellfit.rules.recurrent.recurrent_explode import RecurrentExplode
from wellfit.testing import MadeRun

LAST = [1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2]  # of the gradient: in eight parts of time
EVEN = [1e-3] * 8
ONLY_LAST = [0.0] * 7 + [1e-3]


def declare_layer(made: MadeRun, name: str, kind: str, line: int, order: int = 0, **fields: Any) -> None:
    cls = fields.pop("cls")
    shape = fields.pop("input_shape", None)
    parameters = fields.pop("parameters", [])
    made.declare(
        "layer", name=name, **{"class": cls}, kind=kind, location={"file": "experiment.py", "line": line},
        root="net", order=order, parameters=parameters, attributes=fields, input_shape=shape,
    )  # fmt: skip


def recurrent(
    folder: Path, shape: tuple[int, int, int] = (32, 50, 4), cls: str = "LSTM", first: bool = True, gain: float = 0.5
) -> MadeRun:
    """A run with a recurrent layer (line 4) of 64 units, its state weight, and a head (line 2)."""
    made = MadeRun(folder)
    made.loss_function()
    made.weight("fc.weight")
    weight = "rnn.weight_hh_l0"
    declare_layer(
        made, "rnn", "recurrent", 4, cls=cls, batch_first=first, bidirectional=False, input_shape=list(shape),
        parameters=[weight],
    )  # fmt: skip
    made.declare("layer", name="fc", **{"class": "Linear"}, kind="linear", order=1, parameters=["fc.weight"])
    made.declare(
        "parameter", name=weight, layer="rnn", shape=[64, 64], dtype="float32", requires_grad=True, optimizer=0,
        location=None, initial={"std": gain / 8, "rms": gain / 8, "amax": 1.0},
    )  # fmt: skip
    return made


def steps(made: MadeRun, losses: list[float], ratio: float = 0.01, **series: Any) -> MadeRun:
    """Steps with the same statistics in each: `what__subject` is eight numbers, of gradients one rms."""
    for loss in losses:
        at = made.steps
        made.step(loss, {"fc.weight": ratio})
        for key, numbers in series.items():
            what, _, subject = key.partition("__")
            subject = {"rnn_weight": "rnn.weight_hh_l0", "fc_weight": "fc.weight"}.get(subject, subject)
            if what == "gradient":
                numbers = [4096.0, 0.0, numbers, numbers, 0.0, math.nan, math.nan, math.nan]
            made.out.statistics(at, [(made.out.series(what, subject), *numbers)])
    return made


FLAT = [2.3] * 120
FALLING = [2.3 - 2 * step / 120 for step in range(120)]


# forgets --------------------------------------------------------------------------------------------------------------


def test_a_layer_whose_early_moments_have_no_gradient_forgets(tmp_path: Path) -> None:
    made = steps(recurrent(tmp_path), FLAT, time_profile__rnn=LAST, gradient__rnn_weight=1e-3)
    (finding,) = Forgets().check(made.record())
    assert (finding.severity, finding.layer, finding.location and finding.location.line) == ("error", "rnn", 4)
    assert finding.evidence["size"] == pytest.approx(1e-7)
    (finding,) = Forgets().check(made.record(finished=False))
    assert not finding.sure


@pytest.mark.parametrize(
    ("losses", "ratio", "profile", "shape"),
    [
        (FALLING, 0.01, LAST, (32, 50, 4)),  # it learns
        (FLAT, 0.01, EVEN, (32, 50, 4)),
        (FLAT, 0.01, [1e-6, *LAST[1:]], (32, 50, 4)),  # not from part to part
        (FLAT, 1e-4, LAST, (32, 50, 4)),  # the weights hardly moved
        (FLAT, 0.2, LAST, (32, 50, 4)),  # the steps are too long
        (FLAT, 0.01, LAST, (32, 12, 4)),  # short sequences
        (FLAT[:60], 0.01, LAST, (32, 50, 4)),
        (FLAT, 0.01, [math.nan] * 8, (32, 50, 4)),
    ],
)
def test_other_runs_do_not_forget(
    tmp_path: Path, losses: list[float], ratio: float, profile: list[float], shape: tuple[int, int, int]
) -> None:
    made = steps(recurrent(tmp_path, shape), losses, ratio, time_profile__rnn=profile, gradient__rnn_weight=1e-3)
    assert not list(Forgets().check(made.record()))


@pytest.mark.parametrize(("gain", "forgets"), [(0.5, True), (0.75, True), (0.9, False), (1.1, False)])
def test_the_memory_of_a_plain_layer_is_that_of_its_gain(tmp_path: Path, gain: float, forgets: bool) -> None:
    """-1 / ln(0.75) = 3.5 of 50 moments, -1 / ln(0.9) = 9.5."""
    made = recurrent(tmp_path, cls="RNN", gain=gain)
    steps(made, FLAT, time_profile__rnn=ONLY_LAST, gradient__rnn_weight=1e-3)
    assert bool(list(Forgets().check(made.record()))) == forgets


@pytest.mark.parametrize(("forget", "opened", "forgets"), [(0.5, 0.0, True), (0.9, 0.0, False), (0.5, 0.1, False)])
def test_the_memory_of_an_lstm_is_that_of_its_forget_gates(
    tmp_path: Path, forget: float, opened: float, forgets: bool
) -> None:
    gates = [32.0, 0.5, forget, 0.5, 0.0, 0.0, 0.0, opened]
    made = steps(recurrent(tmp_path), FLAT, time_profile__rnn=ONLY_LAST, gradient__rnn_weight=1e-3, gates__rnn=gates)
    assert bool(list(Forgets().check(made.record()))) == forgets


# recurrent-explode ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profile", "losses", "told"),
    [
        (LAST[::-1], FLAT, True),
        ([1.1, 1, 0.8, 0.6, 0.33, 0.2, 0.15, 0.1], FLAT, True),
        ([0.9, 1, 0.8, 0.6, 0.33, 0.2, 0.15, 0.1], FLAT, False),  # nine times
        ([1.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], FLAT, False),  # the first moments only: no growth
        (LAST[::-1], FALLING, False),
        (EVEN, FLAT, False),
    ],
)
def test_a_gradient_that_grows_back_in_time(
    tmp_path: Path, profile: list[float], losses: list[float], told: bool
) -> None:
    made = steps(recurrent(tmp_path, cls="RNN"), losses, time_profile__rnn=profile)
    assert [finding.layer for finding in RecurrentExplode().check(made.record())] == ["rnn"] * told


@pytest.mark.parametrize(("size", "told"), [(0.11, True), (0.09, False), (math.nan, False)])
def test_state_weights_whose_gradient_is_far_over_that_of_the_head(tmp_path: Path, size: float, told: bool) -> None:
    made = steps(recurrent(tmp_path), FLAT, gradient__rnn_weight=size, gradient__fc_weight=1e-3)
    assert bool(list(RecurrentExplode().check(made.record()))) == told


@pytest.mark.parametrize(("gain", "cls", "told"), [(1.5, "RNN", True), (1.2, "RNN", False), (1.5, "LSTM", False)])
def test_numbers_that_cease_to_be_finite_are_blamed_on_a_plain_layer_of_large_gain(
    tmp_path: Path, gain: float, cls: str, told: bool
) -> None:
    made = steps(recurrent(tmp_path, cls=cls, gain=gain), [2.3] * 10 + [math.nan] * 30, gradient__rnn_weight=1e-3)
    assert bool(list(RecurrentExplode().check(made.record()))) == told


@pytest.mark.parametrize(("gain", "initial", "told"), [(1.0, 0.5, True), (6.0, 0.5, False)])
def test_gradients_that_spike_once_in_a_while(tmp_path: Path, gain: float, initial: float, told: bool) -> None:
    """Unless steps have blown up the weights."""
    made = recurrent(tmp_path, gain=initial)
    weight = [4096.0, 0.0, gain / 8, 1.0, 0.0, math.nan, math.nan, math.nan]
    for _ in range(10):
        steps(made, FLAT[:8], gradient__rnn_weight=1e-3, parameter__rnn_weight=weight)
        steps(made, FLAT[:2], gradient__rnn_weight=1.0, parameter__rnn_weight=weight)
    assert bool(list(RecurrentExplode().check(made.record()))) == told
    assert not list(RecurrentExplode().check(made.record(finished=False)))


# gates-stuck ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "share", "losses", "told"),
    [
        (4, 0.95, FLAT, True),
        (5, 1.0, FLAT, True),
        (6, 0.91, FLAT, True),
        (7, 1.0, FLAT, False),  # forget gates that are open are how a long memory begins
        (4, 0.85, FLAT, False),
        (4, 0.95, FALLING, False),
        (4, 0.95, FLAT[:40], False),
        (4, math.nan, FLAT, False),
    ],
)
def test_gates_that_stay_shut(tmp_path: Path, column: int, share: float, losses: list[float], told: bool) -> None:
    gates = [32.0, 0.5, 0.5, 0.5, 0.0, 0.0, 0.0, 0.0]
    gates[column] = share
    made = steps(recurrent(tmp_path), losses, gates__rnn=gates)
    found = list(GatesStuck().check(made.record()))
    assert [finding.severity for finding in found] == ["error"] * told
    if told:
        assert found[0].evidence["share"] == pytest.approx(share)
        assert found[0].location is not None and found[0].location.line == 4


# padding --------------------------------------------------------------------------------------------------------------


def padded(
    folder: Path, pads: float, most: float, ignored: float = 0.0, vocabulary: int = 10, reduction: str = "mean",
    losses: list[float] = FALLING, tokens: list[float] | None = None, file: str = "experiment.py",
) -> MadeRun:  # fmt: skip
    made = recurrent(folder)
    made.declare(
        "loss", id=0, function="cross_entropy", location={"file": file, "line": 6},
        prediction_shape=[1600, 10], target_shape=[1600], reduction=reduction, training=True,
    )  # fmt: skip
    declare_layer(made, "words", "embedding", 5, cls="Embedding", num_embeddings=vocabulary)
    activation = [1000.0, 0.0, 1.0, 3.0, 1000 * pads, 0.0, math.nan, 0.5]
    labels = [1600.0, 1.0, 1.0, most, 0.0, 10.0, ignored, most]
    more = {} if tokens is None else {"tokens__words": tokens}
    return steps(made, losses, activation__words=activation, labels__0=labels, time_profile__rnn=LAST, **more)


@pytest.mark.parametrize(
    ("pads", "most", "said"),
    [
        (0.8, 0.82, "error"),
        (0.6, 0.6, "note"),
        (0.45, 0.45, None),
        (0.8, 0.6, None),  # what is frequent among the answers is something else
        (1.0, 1.0, None),  # an embedding that begins with zeros
        (math.nan, 0.8, None),
    ],
)
def test_answers_that_are_padding(tmp_path: Path, pads: float, most: float, said: str | None) -> None:
    found = list(Padding().check(padded(tmp_path, pads, most).record()))
    assert [finding.severity for finding in found] == ([said] if said else [])
    assert all(finding.location is not None and finding.location.line == 6 for finding in found)


@pytest.mark.parametrize(
    "other", [{"ignored": 0.8}, {"vocabulary": 50}, {"reduction": "none"}, {"losses": FALLING[:10]}]
)
def test_padding_that_is_left_out_or_not_among_the_answers(tmp_path: Path, other: dict[str, Any]) -> None:
    assert not list(Padding().check(padded(tmp_path, 0.8, 0.8, **other).record()))


@pytest.mark.parametrize(
    ("text", "runs", "most", "line"),
    [
        ("loss = nn.CrossEntropyLoss()\nloss(f(x[:, :-1]), x[:, 1:])\n", 0.8, 0.82, 1),
        ("PAD = 0\nF.cross_entropy(f(x), y)\n", 0.8, 0.82, 6),
        ("F.cross_entropy(f(x), y)\n", 0.8, 0.82, None),  # to copy what was shown before a silence
        ("x[:, :-1], x[:, 1:]\n", 0.8, 0.4, None),
        ("x[:, :-1], x[:, 1:]\n", 0.4, 0.4, None),
    ],
)
def test_one_id_at_the_ends_is_padding(tmp_path: Path, text: str, runs: float, most: float, line: int | None) -> None:
    script = tmp_path / "script.py"
    script.write_text(text, encoding="utf-8")
    made = padded(tmp_path, 0.0, most, tokens=[1600.0, 0.0, runs, *[math.nan] * 5], file=str(script))
    made.declare("process", rank=0, world_size=1, main_file=str(script))
    found = list(Padding().check(made.record()))
    assert [finding.location and finding.location.line for finding in found] == ([line] if line else [])


@pytest.mark.parametrize(
    ("text", "losses", "told"),
    [
        ("x = pad_sequence(texts, batch_first=True)\n", FLAT, True),
        ("x = pad_sequence(texts, batch_first=True)\n", FALLING, False),
        ("x = pad_sequence(texts, padding_side='left')\n", FLAT, False),
        ("x = pad_sequence([text.flip(0) for text in texts]).flip(1)\n", FLAT, False),
        ("x = texts\n", FLAT, False),
    ],
)
def test_a_last_state_behind_padding(tmp_path: Path, text: str, losses: list[float], told: bool) -> None:
    script = tmp_path / "script.py"
    script.write_text(text, encoding="utf-8")
    made = padded(tmp_path, 0.7, 0.5, vocabulary=50, losses=losses)
    made.declare("process", rank=0, world_size=1, main_file=str(script))
    assert [finding.layer for finding in Padding().check(made.record())] == ["rnn"] * told


# hidden-carry ---------------------------------------------------------------------------------------------------------


def graph_of(made: MadeRun, step: int, calls: int, cut: dict[str, Any] | None = None) -> None:
    nodes: list[dict[str, Any]] = [{"id": 0, "op": "NllLossBackward0", "next": [1], "layer": None}]
    call = {"op": "StackBackward0", "layer": "rnn", "function": "lstm"}
    nodes += [{"id": id, **call, "next": [id + 1] * (id < calls)} for id in range(1, calls + 1)]
    made.declare("graph", step=step, backward=0, nodes=nodes, cuts=[cut] if cut else [])


@pytest.mark.parametrize(
    ("calls", "retained", "failure", "told"),
    [
        ((1, 2), True, None, True),
        ((3, 6), True, None, True),
        ((1, 2), False, "Trying to backward through the graph a second time", True),
        ((1, 2), False, "CUDA out of memory", False),
        ((1, 2), False, None, False),
        ((1, 1), True, None, False),
        ((4, 7), True, None, False),  # a decoder of another length
        ((0, 0), True, None, False),
    ],
)
def test_a_state_that_is_carried_with_its_graph(
    tmp_path: Path, calls: tuple[int, int], retained: bool, failure: str | None, told: bool
) -> None:
    made = recurrent(tmp_path)
    made.declare("backward", id=0, location={"file": "experiment.py", "line": 7}, retain_graph=retained)
    for step, count in enumerate(calls):
        graph_of(made, step, count)
    steps(made, FALLING[:3])
    if failure:
        made.event("exception", **{"class": "RuntimeError"}, message=failure, location=None)
    found = list(HiddenCarry().check(made.record()))
    assert [finding.severity for finding in found] == ["error"] * told


CARRIED = """
class Net:
    def __init__(self):
        self.hidden = None
    def forward(self, x):
        out, hidden = self.rnn(x, self.hidden)
        self.hidden = hidden.detach()
        return out
"""
RESET = CARRIED + "    def reset(self):\n        self.hidden = None\n"
OUTSIDE = CARRIED + "for x, y in batches:\n    net.hidden = net.init_hidden()\n    net(x)\n"
MASKED = CARRIED + "    def at_end(self, done):\n        self.hidden = self.hidden * ~done\n"
IN_A_LOOP = """
for x, y in batches:
    state = None
    for part in x:
        out, state = net(part, state)
        state = [each.detach() for each in state]
"""
OVER_BATCHES = """
state = None
for x, y in batches:
    out, state = net(x, state)
    state = repackage(state)
def repackage(state):
    return state.detach()
"""


@pytest.mark.parametrize(
    ("text", "line", "shape", "losses", "shuffle", "said"),
    [
        (CARRIED, 7, (32, 50, 4), FLAT, None, "error"),
        (CARRIED, 7, (32, 50, 4), FALLING, None, None),
        (CARRIED, 7, (32, 50, 4), FALLING, True, "note"),
        (CARRIED, 7, (16, 50, 4), FLAT, None, None),  # an answer for each moment: a long text in pieces
        (CARRIED, 7, (16, 50, 4), FLAT, True, "error"),
        (RESET, 7, (32, 50, 4), FLAT, True, None),
        (OUTSIDE, 7, (32, 50, 4), FLAT, True, None),
        (MASKED, 7, (32, 50, 4), FLAT, True, None),
        (IN_A_LOOP, 6, (32, 50, 4), FLAT, True, None),
        (OVER_BATCHES, 7, (32, 50, 4), FLAT, True, "error"),
        ("y = model(x).detach()\n", 1, (32, 50, 4), FLAT, True, None),
    ],
)
def test_a_state_that_is_carried_without_its_graph(
    tmp_path: Path, text: str, line: int, shape: tuple[int, int, int], losses: list[float], shuffle: bool | None,
    said: str | None,
) -> None:  # fmt: skip
    script = tmp_path / "script.py"
    script.write_text(text, encoding="utf-8")
    made = recurrent(tmp_path, shape)
    if shuffle is not None:
        made.declare("loader", id=0, location=None, batch_size=32, shuffle=shuffle, num_workers=0, length=10)
    graph_of(made, 0, 1, {"function": "detach", "file": str(script), "line": line, "layer": None})
    found = list(HiddenCarry().check(steps(made, losses).record()))
    assert [finding.severity for finding in found] == ([said] if said else [])
    assert all(finding.location is not None and finding.location.line == line for finding in found)


# init-gain ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gain", "found"), [(0.58, False), (1.41, False), (2.5, False), (5.8, True)])
def test_state_weights_that_begin_too_large(tmp_path: Path, gain: float, found: bool) -> None:
    said = [one for one in InitGain().check(recurrent(tmp_path, gain=gain).record()) if one.layer == "rnn"]
    assert [(one.severity, one.location and one.location.line) for one in said] == [("error", 4)] * found
