"""Overrides as such: how they are typed, what they say of themselves, when they stop a run, how optimizers follow."""

from __future__ import annotations

import inspect
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from forked import Forks
from hypothesis import assume, given, settings
from overridden import ENV, run
from torch import nn

from wellfit.cli import main
from wellfit.errors import WellfitError
from wellfit.overrides.catalogue import (
    as_json,
    as_text,
    find_override,
    from_json,
    group_of,
    known_overrides,
    parse,
    values_of,
)
from wellfit.overrides.following import follow_parameters
from wellfit.overrides.override import GROUPS, POINTS, Override
from wellfit.overrides.page import override_json, override_text
from wellfit.overrides.parameters import Parameter, default_of, made, parameters_of

EVERY = pytest.mark.parametrize("override", known_overrides(), ids=lambda override: override.name)
HEADINGS = ("What it changes:", "When it helps:", "Safety:", "Where it does not apply:", "References:")

# As typed, and as JSON ----------------------------------------------------------------------------------------------


def values(parameter: Parameter) -> st.SearchStrategy[Any]:
    """What a parameter may be given."""
    if parameter.kind == "choice":
        return st.sampled_from(parameter.choices)
    if parameter.kind == "switch":
        return st.booleans()
    if parameter.kind == "text":
        letters = st.characters(codec="utf-8", exclude_characters=",:", exclude_categories=("C", "Z"))
        return st.text(letters, min_size=1)
    low, high = (None if math.isinf(bound) else bound for bound in (parameter.low, parameter.high))
    if parameter.kind == "whole":
        most = sys.maxsize if high is None else math.floor(high)
        return st.integers(None if low is None else math.ceil(low), most)
    return st.floats(low, high, exclude_min=parameter.open, allow_nan=False, allow_infinity=False)


@st.composite
def overrides(draw: st.DrawFn) -> Override:
    """Any override with any values that it takes."""
    override = draw(st.sampled_from(known_overrides()))
    typed = values_of(parse([override.example])[0])
    typed = {name: value for name, value in typed.items() if value != default_of(override, name)}
    for name, parameter in parameters_of(override).items():
        if draw(st.booleans()):
            typed[name] = draw(values(parameter))
        elif default_of(override, name) is not ... and draw(st.booleans()):
            typed.pop(name, None)
    try:
        return made(override, typed)
    except WellfitError:
        assume(False)
        raise


@given(overrides())
@settings(max_examples=300, deadline=None)
def test_an_override_survives_text_and_json(override: Override) -> None:
    (typed,) = parse([as_text(override)])
    (loaded,) = from_json(json.loads(json.dumps(as_json([override]))))
    for other in (typed, loaded):
        assert type(other) is type(override) and values_of(other) == values_of(override)
        assert {key: type(value) for key, value in values_of(other).items()} == {
            key: type(value) for key, value in values_of(override).items()
        }
        assert as_text(other) == as_text(override)


def test_they_act_in_the_order_of_their_ranks() -> None:
    texts = ["ema=0.9", "clip-norm=1", "lr=0.1", "accumulate=2", "warmup=10"]
    names = [override.name for override in parse(texts)]
    assert names == ["accumulate", "clip-norm", "lr", "warmup", "ema"]
    assert [override.name for override in from_json(as_json(parse(texts)))] == names


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        (["clipnorm=1"], 'there is no override "clipnorm" (did you mean "clip-norm"?); `wellfit overrides` lists'),
        (["xyzzy"], 'there is no override "xyzzy"; `wellfit overrides` lists them all'),
        (["clip-norm=max-nrm:1"], 'clip-norm has no parameter "max-nrm" (did you mean "max-norm"?); it has max-norm'),
        (["no-clip=why:1"], 'no-clip has no parameter "why"; it has none'),
        (["clip-norm=0"], 'clip-norm is a number above 0, not "0"'),
        (["clip-norm=nan"], 'clip-norm is a number above 0, not "nan"'),
        (["clip-norm=1e400"], 'clip-norm is a number above 0, not "1e400"'),
        (["seed=4294967296"], 'seed is a whole number from 0 to 4294967295, not "4294967296"'),
        (["seed=1.5"], 'seed is a whole number from 0 to 4294967295, not "1.5"'),
        (["warmup=10,start:2"], 'start of warmup is a number from 0 to 1, not "2"'),
        (["schedule=cosin"], 'not "cosin" (did you mean "cosine"?)'),
        (["weight-decay=1,all:maybe"], 'all of weight-decay is on or off, not "maybe"'),
        (["clip-norm"], "clip-norm needs a value: largest norm of the gradient over an optimizer's parameters, a "
                        "number above 0, as in --override clip-norm=1.0"),
        (["clip-norm=1,2"], '--override clip-norm=1,2: "2" has no name; write it as in --override clip-norm=1.0'),
        (["no-clip=1"], "no-clip takes no value; write --override no-clip"),
        (["clip=1"], 'there is no override "clip" (did you mean "clip-norm"?)'),
        (["batch=16"], 'there is no override "batch" (did you mean "batch-size"?)'),
        (["no-clp"], 'there is no override "no-clp" (did you mean "no-clip"?)'),
        (["init=kaiming"], 'not "kaiming" (did you mean "he"?)'),
        (["batch-size=99999999999999999999"], 'not "99999999999999999999", which is too large'),
        (["lr=scale=0.1"], "a name and its value are joined by a colon"),
        (["clip-norm=1,max-norm:2"], "--override clip-norm=1,max-norm:2: max-norm is given twice"),
        (["clip-norm=1", "clip_norm=2"], "--override clip-norm is given twice: leave one"),
        (["accumulate=2", "zero-grad=insert"], "--override accumulate and --override zero-grad contradict each other"),
        (["lr=0.1,scale:2"], "lr needs a value or a scale, and not both"),
        (["lr"], "lr needs a value or a scale, and not both"),
        (["lr="], '--override lr=: nothing stands after "="; write it as in --override lr=0.01'),
        (["detach=pattern:"], "--override detach=pattern:: nothing stands after pattern:; write it as in"),
        (["lr=0.1,"], "--override lr=0.1,: nothing stands on one side of a comma"),
        (["lr=0,1"], '"1" has no name; write it as in --override lr=0.01; a decimal fraction is written with a point'),
        (["lr=1_0"], 'lr is a number above 0, not "1_0"'),
        (["seed=1_0"], 'seed is a whole number from 0 to 4294967295, not "1_0"'),
        (["lr=٣"], 'lr is a number above 0, not "٣"'),
        (["lr=" + "9" * 999 + "x"], f'lr is a number above 0, not "{"9" * 57}..."'),
        (["lr" * 99], f'there is no override "{("lr" * 99)[:57]}..."'),
        (["optimizer=adam,lr:0.1", "lr=0.2"], "optimizer=...,lr: and lr= both set the learning rate: leave one"),
        (["schedule=cosine"], "schedule=cosine needs steps"),
        (["schedule=constant,steps:9"], "schedule=constant has no end"),
        (["schedule=exponential,steps:9,floor:0"], "never reaches a floor of 0"),
    ],
)  # fmt: skip
def test_errors_are_one_sentence(
    texts: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(WellfitError) as caught:
        parse(texts)
    assert sentence in str(caught.value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("open('started', 'w')")
    assert main(["run", *(word for text in texts for word in ("--override", text)), "train.py"]) == 2
    assert capsys.readouterr().err == f"wellfit: {caught.value}\n"
    assert [file.name for file in tmp_path.iterdir()] == ["train.py"]


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ("lr=1", "overrides are a list of objects, not str"),
        ({"override": "lr"}, "overrides are a list of objects, not dict"),
        (["lr=1"], "an override is an object with its name under \"override\", not 'lr=1'"),
        ([{"value": 1}], 'an override is an object with its name under "override", not'),
        ([{"override": "clip-norm", "max_norm": True}], 'clip-norm is a number above 0, not "True"'),
        ([{"override": "clip-norm", "max_norm": None}], "clip-norm needs a value: largest norm"),
        ([{"override": "lr", 1: 2}], "the parameters of an override are called by texts, not as in {'override'"),
        ([{"override": "lr", "value": 1, "Value": 2}], "value of lr is given twice"),
        ([{"override": "detach", "pattern": ""}], "is a text, and nothing is given"),
        ([{"override": "seed", "value": 10**5000}], 'not "0x'),
        ([{"override": "seed", "value": 10**400}], "seed is a whole number from 0 to 4294967295"),
    ],
)
def test_json_that_is_no_override(entries: Any, sentence: str) -> None:
    with pytest.raises(WellfitError) as caught:
        from_json(entries)
    assert sentence in str(caught.value)


def test_overrides_in_the_wrong_place_are_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("")
    assert main(["run", "--override", "train.py"]) == 2
    assert capsys.readouterr().err.endswith('wellfit run train.py; --override took "train.py"\n')
    for words, told in (
        (["train.py", "--override", "lr=0.1"], True),
        (["train.py", "--override=lr=0.1"], True),
        (["--quiet", "train.py", "--override", "lr=0.1"], False),
        (["train.py", "--lr", "0.1"], False),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "wellfit", "run", "--no-report", *words],
            env=ENV, text=True, capture_output=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0
        assert ("options of wellfit stand before it\n" in done.stderr) == told, done.stderr


# What they say of themselves ----------------------------------------------------------------------------------------


@EVERY
def test_anatomy(override: type[Override]) -> None:
    page = inspect.cleandoc(override.__doc__ or "")
    places = [page.find(f"\n{heading}") for heading in HEADINGS]
    assert -1 not in places and places == sorted(places)
    assert page.splitlines()[0].endswith(".")
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", override.name)
    assert override.__module__.endswith("." + override.name.replace("-", "_")) and group_of(override) in GROUPS
    assert 0 < len(override.summary) < 90 and not re.search(r"[^.]\.$", override.summary)
    assert isinstance(override.safe, bool) and isinstance(override.rank, int) and isinstance(override.misfit, str)
    (tried,) = parse([override.example])
    assert type(tried) is override and not tried.changes
    assert {find_override(name).name for name in override.conflicts} == set(override.conflicts)
    assert not {*POINTS, "changes", "omissions", "name"} & set(parameters_of(override))
    assert all(parameter.meaning and parameter.range for parameter in parameters_of(override).values())


def test_names_of_parameters_are_found_however_typed() -> None:
    (typed,) = parse(["LR=Scale:0.5"])
    (loaded,) = from_json([{"Override": "Lr", "SCALE": 0.5, "value": None}])
    assert as_text(typed) == as_text(loaded) == "lr=scale:0.5"
    assert as_text(parse(["optimizer=adam,lr:0.1", "lr=scale:0.5"])[1]) == "lr=scale:0.5"  # one sets, one scales


def test_names_are_given_once_and_found_however_typed() -> None:
    names = [override.name for override in known_overrides()]
    assert len(names) == len(set(names)) and {"lr", "seed", "clip-norm"} <= set(names)
    assert find_override(" Clip_Norm ") is find_override("clip-norm")


def test_the_catalogue_needs_no_torch() -> None:
    code = (
        "import sys\nfrom wellfit.overrides.catalogue import known_overrides, parse\n"
        "from wellfit.overrides.page import override_text\n"
        "for each in known_overrides():\n    parse([each.example]); override_text(each)\n"
        "print(len(known_overrides()), sorted({'torch', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENV, text=True, capture_output=True, timeout=60)
    assert done.stdout == f"{len(known_overrides())} []\n", done.stderr


def test_the_table_and_the_pages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["overrides"]) == 0
    table = capsys.readouterr().out
    assert all(re.search(rf"^  {re.escape(each.example)} +{re.escape(each.summary)}$", table, re.M)
               for each in known_overrides())  # fmt: skip
    assert main(["overrides", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == [override_json(each) for each in known_overrides()]
    assert main(["override", "weight_decay"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("weight-decay  (optimizer; changes what the program means or gives)\n")
    assert (
        "  kind: into the gradient, past it, or as the optimizer does it; own, coupled, decoupled; default own" in page
    )
    assert "  strength: " in page and "; a number from 0; must be given" in page
    assert "Example: wellfit run --override weight-decay=0.01 train.py" in page
    assert main(["override", "warmup", "--format", "json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in about["parameters"]] == ["steps", "start"]
    assert "default" not in about["parameters"][0] and about["parameters"][1]["default"] == 0.01
    assert main(["override", "warm"]) == 2
    assert "did you mean" in capsys.readouterr().err
    assert "Not together with: zero-grad" in override_text(find_override("accumulate"))


# In a run -----------------------------------------------------------------------------------------------------------

SCRIPT = """
import sys
import torch
from torch import nn
torch.manual_seed(0)
x = torch.randn(32, 5)
model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Dropout(0.1), nn.Linear(7, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for step in range(6):
    optimizer.zero_grad()
    loss = model(x).square().mean()
    loss.backward()
    optimizer.step()
    print(loss.item().hex())
print([float(p.detach().double().sum()).hex() for p in model.parameters()], torch.rand(2).tolist())
print(sorted(name for name in sys.modules if name.startswith("wellfit.overrides")))
"""


def test_without_overrides_a_run_is_what_it_was_and_knows_none(forks: Forks, tmp_path: Path) -> None:
    ran = run(tmp_path, SCRIPT)
    assert ran.lines[:-1] == forks.plain(tmp_path, SCRIPT)[:-1]
    assert ran.lines[-1] == "[]" and ran.record is not None and not ran.record.overrides


def test_a_run_in_which_nothing_can_be_changed_stops_before_its_first_step(tmp_path: Path) -> None:
    ran = run(tmp_path, SCRIPT, "no-clip", "clip-norm=1")
    assert ran.code == 2 and ran.lines == []
    said = "wellfit: --override no-clip found nothing to change by the first step: the script calls neither "
    assert sum(line.startswith(said) and line.endswith("; nothing was trained") for line in ran.err.splitlines()) == 1
    assert "Traceback" not in ran.err


FAILING = """
from wellfit.overrides.optimizer.clip_norm import ClipNorm
from wellfit.overrides.optimizer.lr import LearningRate

calls = []
def fails(self, program, optimizer):
    calls.append(len(calls))
    if len(calls) == 3:
        raise ValueError("the sky\\nis green")
ClipNorm.gradients = fails
"""


def test_an_override_that_fails_later_is_left_out_and_training_goes_on(forks: Forks, tmp_path: Path) -> None:
    script = SCRIPT.replace("for step", FAILING + "for step").replace("print(sorted", "print(calls) #")
    ran = forks.run(tmp_path, script, "clip-norm=1", "lr=scale:1")
    expected = forks.plain(tmp_path, SCRIPT)
    assert ran.code == 0 and ran.lines == [*expected[:7], "[0, 1, 2]"]  # it is not asked again
    why = "failed at gradients (ValueError: the sky is green)"
    assert [line for line in ran.err.splitlines() if "green" in line and "goes on" in line] == [
        f"wellfit: --override clip-norm=1.0 {why}; the script goes on without it"
    ]
    assert ran.record is not None
    recorded = {entry.name: entry for entry in ran.record.overrides.values()}
    assert list(recorded["clip-norm"].left_out) == [("from step 3 on", why)]
    assert recorded["clip-norm"].changed and not recorded["lr"].left_out


def test_an_override_that_fails_at_once_stops_the_run(forks: Forks, tmp_path: Path) -> None:
    script = SCRIPT.replace("for step", FAILING.replace("== 3", "== 1").replace("gradients", "first_step") + "for step")
    ran = forks.run(tmp_path, script, "clip-norm=1")
    assert ran.code == 2 and ran.lines == []
    assert "clip-norm=1.0 failed at first_step (ValueError: the sky is green); nothing was trained" in ran.err


# Optimizers follow --------------------------------------------------------------------------------------------------


@st.composite
def changed_models(draw: st.DrawFn) -> tuple[nn.Module, nn.Module, list[list[nn.Parameter]], list[nn.Parameter]]:
    """A model, its like after some layers were changed, the groups of an optimizer, parameters of no model."""
    count = draw(st.integers(1, 6))
    layers = {f"layer{index}": nn.Linear(1, 1, bias=draw(st.booleans())) for index in range(count)}
    root = nn.ModuleDict(layers)
    parameters = [p for p in root.parameters() if draw(st.integers(0, 5))]
    others = [nn.Parameter(torch.zeros(1)) for _ in range(draw(st.integers(0, 2)))]
    groups: list[list[nn.Parameter]] = [[] for _ in range(draw(st.integers(1, 3)))]
    for parameter in draw(st.permutations(parameters + others)):
        draw(st.sampled_from(groups)).append(parameter)
    after: dict[str, nn.Module] = {}
    for name, layer in layers.items():
        what = draw(st.sampled_from(["keep", "replace", "remove", "follow", "lead"]))
        new = nn.Linear(1, 1, bias=draw(st.booleans()))
        after |= {
            "keep": {name: layer}, "replace": {name: new}, "remove": {},
            "follow": {name: layer, f"{name}_new": new}, "lead": {f"{name}_new": new, name: layer},
        }[what]  # fmt: skip
    return root, nn.ModuleDict(after), groups, others


@given(changed_models())
@settings(max_examples=150, deadline=None)
def test_optimizers_hold_what_the_model_has(
    case: tuple[nn.Module, nn.Module, list[list[nn.Parameter]], list[nn.Parameter]],
) -> None:
    root, after, groups, others = case
    assume(any(groups))
    optimizer = torch.optim.SGD([{"params": group, "lr": 1.0 + index} for index, group in enumerate(groups)], lr=1.0)
    lists = [group["params"] for group in optimizer.param_groups]
    for parameter in [p for group in lists for p in group]:
        optimizer.state[parameter] = {"momentum_buffer": torch.ones(1)}
    stranger = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    strange = list(map(id, stranger.param_groups[0]["params"]))
    before = list(root.named_parameters())
    was = {id(p): index for index, group in enumerate(groups) for p in group}
    held = {name: was[id(p)] for name, p in before if id(p) in was}

    changed = follow_parameters(after, before, [optimizer, stranger])

    now = dict(after.named_parameters())
    old = {id(p) for _, p in before}
    assert changed == (list(map(id, now.values())) != [id(p) for _, p in before])
    assert [id(group["params"]) for group in optimizer.param_groups] == list(map(id, lists))  # changed in place
    place: dict[int, int] = {}
    for index, group in enumerate(lists):
        for parameter in group:
            assert id(parameter) not in place  # once
            place[id(parameter)] = index
    assert list(map(id, stranger.param_groups[0]["params"])) == strange
    assert all(place[id(p)] == was[id(p)] for p in others)
    for name, parameter in now.items():
        if id(parameter) in old:  # kept: where it was, if anywhere
            assert place.get(id(parameter)) == was.get(id(parameter))
        elif name in dict(before):  # new: in the place of its namesake
            assert place.get(id(parameter)) == held.get(name)
        else:  # beside others of its layer, or anywhere if that is new too
            layer = [key for key, _ in before if key.split(".")[0] == name.split(".")[0]] or held
            assert (id(parameter) in place) == any(key in held for key in layer)
    wanted = {id(p) for p in now.values()} | {id(p) for p in others}
    assert set(place) <= wanted
    assert {id(p) for p in optimizer.state} <= set(place)
