"""Overrides of how a run goes, each against the same change written into the script by hand: to the bit."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy
import pytest
import torch
from fed import BY_INDEX, LOADED
from forked import Forks
from overridden import run
from written import changed, each, said, same_as_by_hand, stopped

from wellfit.errors import WellfitError
from wellfit.overrides.catalogue import parse
from wellfit.overrides.program import Program

# With weights of the classes in the loss, and with an optimizer that goes on from a checkpoint.
WEIGHTED = changed(
    BY_INDEX, ("model = nn", "c = torch.tensor([1.0, 2.0, 3.0])\nmodel = nn"), ("(a), b", "(a), b, weight=c")
)
RESUMED = changed(
    BY_INDEX,
    ("torch.optim.SGD(model.parameters(), lr=0.05)", "torch.optim.Adam(model.parameters(), lr=0.05)"),
    (
        "# made",
        "state = lambda p: {'step': torch.tensor(5.0), 'exp_avg': p.detach() / 3, 'exp_avg_sq': p.detach() ** 2}; "
        "groups = optimizer.state_dict()['param_groups']; "
        "saved = {i: state(p) for i, p in enumerate(model.parameters())}; "
        "optimizer.load_state_dict({'state': saved, 'param_groups': groups})",
    ),
)
BY_HAND = [
    (
        "precision=float64",
        BY_INDEX,
        [("# made", "model.double()"), ("# batch", "a = a.double()"), ("# tested", "a = a.double()")],
        "Sequential at train.py:15: float32 -> float64",
    ),
    (
        "precision=bfloat16",
        BY_INDEX,
        [
            (
                "# batch",
                "amp = torch.autocast('cpu', torch.bfloat16); amp.__enter__(); out = model(a); "
                "amp.__exit__(None, None, None)",
            ),
            ("model(a), b", "out.float(), b"),
            ("        # tested", "        amp.__enter__()"),
            ("model(a).sum()", "model(a).float().sum()"),
            ('.hex())\nprint("end"', '.hex())\n        amp.__exit__(None, None, None)\nprint("end"'),
        ],
        "under autocast to bfloat16",
    ),
    (
        "precision=bfloat16,pure:on",
        BY_INDEX,
        [
            ("# made", "model.bfloat16()"),
            ("# batch", "a = a.bfloat16()"),
            ("# tested", "a = a.bfloat16()"),
            ("model(a), b", "model(a).float(), b"),
            ("model(a).sum()", "model(a).float().sum()"),
        ],
        "float32 -> bfloat16, weights too",
    ),
    (
        "precision=float32",
        changed(BY_INDEX, ("# made", "model.double()"), ("# batch", "a = a.double()"), ("# tested", "a = a.double()")),
        [("model.double()", "pass"), ("a.double()", "a")],
        "Sequential at train.py:15: float64 -> float32",
    ),
    (
        "precision=float64",
        changed(WEIGHTED, ("# made", "# done")),
        [
            ("# done", "model.double()"),
            ("# batch", "a = a.double()"),
            ("# tested", "a = a.double()"),
            ("=c", "=c.double()"),
        ],
        "float32 -> float64",
    ),
    *(
        (
            override,
            RESUMED,
            [
                ("optimizer.load", f"model.{cast}(); optimizer.load".replace("; ", "\n")),
                ("# batch", f"a = a.{cast}()"),
                ("# tested", f"a = a.{cast}()"),
                ("model(a), b", "model(a).float(), b" if cast == "bfloat16" else "model(a), b"),
                ("model(a).sum()", "model(a).float().sum()" if cast == "bfloat16" else "model(a).sum()"),
            ],
            "float32 -> ",
        )
        for override, cast in (("precision=float64", "double"), ("precision=bfloat16,pure:on", "bfloat16"))
    ),
    ("mode=train", LOADED, [("model.eval()", "pass")], "always in train mode"),
    ("mode=eval", LOADED, [("model.train()", "model.eval()")], "always in eval mode"),
    (
        "mode=correct",
        changed(LOADED, ("model.eval()", "pass")),
        [("    pass", "    model.eval()")],
        "train mode where gradients",
    ),
    (
        "stop-after=5",
        LOADED,
        [
            (
                "        print(len(a)",
                "        if optimizer.state[model[0].weight]['step'] == 5: raise SystemExit\n        print(len(a)",
            )
        ],
        "the program ends after step 5",
    ),
]


@each("override, script, pairs, what", BY_HAND)
def test_as_by_hand(
    forks: Forks, tmp_path: Path, override: str, script: str, pairs: list[tuple[str, str]], what: str
) -> None:
    same_as_by_hand(forks, tmp_path, override, script, pairs, what)


UNFIT = [
    ("mode=eval", BY_INDEX, "it has neither dropout nor batch norm"),
]


@each("override, script, sentence", UNFIT)
def test_where_it_does_not_fit(forks: Forks, tmp_path: Path, override: str, script: str, sentence: str) -> None:
    ran = forks.run(tmp_path, script, override)

    stopped(ran, sentence)
    assert not any(line.startswith("0x") for line in ran.lines)


@pytest.mark.parametrize(
    "override",
    [
        "stop-after",
        "stop-after=0",
        "device=tpu",
        "precision=int8",
        "precision=float64,pure:on",
        "mode=both",
    ],
)
def test_refused(override: str) -> None:
    with pytest.raises(WellfitError):
        parse([override])


def test_several_optimizers_end_together_and_the_exit_is_clean(tmp_path: Path) -> None:
    # GIVEN two optimizers, the second of which steps after the first
    script = """
        import atexit
        import torch
        from torch import nn
        atexit.register(lambda: print("goodbye"))
        one, two = nn.Linear(2, 1), nn.Linear(2, 1)
        first, second = (torch.optim.SGD(model.parameters(), lr=0.1) for model in (one, two))
        for step in range(9):
            for model, optimizer in ((one, first), (two, second)):
                model(torch.ones(1, 2)).sum().backward()
                optimizer.step()
                print(step, optimizer is second)
    """
    # WHEN the program shall end after three steps
    ran = run(tmp_path, script, "stop-after=3")
    # THEN both have made three, and the script's own goodbye is said
    assert ran.code == 0 and ran.lines[:7] == [f"{step} {second}" for step in range(3) for second in (False, True)] + [
        "goodbye"
    ]
    assert "stopped after step 3" in ran.err and "override stop-after=3: the program ends after step 3" in ran.err


def test_seconds_end_a_program(forks: Forks, tmp_path: Path) -> None:
    ran = forks.run(tmp_path, LOADED.replace("range(3)", "range(10**6)"), "stop-after=seconds:0.2")

    assert ran.code == 0 and ran.record is not None and ran.record.step_count > 1
    assert not any(line.startswith("end") for line in ran.lines)


def test_no_cuda_is_said_at_once(forks: Forks, tmp_path: Path) -> None:
    hidden = "import os\nos.environ['CUDA_VISIBLE_DEVICES'] = ''\n" + LOADED
    ran = forks.run(tmp_path, hidden, "device=cuda")

    stopped(ran, "here; nothing was trained")
    assert ran.lines == []


def test_training_in_eval_mode_is_led_back_to_train_mode(forks: Forks, tmp_path: Path) -> None:
    # GIVEN a script that trains in eval mode, and tests on the same model with gradients on
    ill = changed(LOADED, ("model.train()", "model.eval()"), ("    with torch.no_grad():", "    if True:"))
    # WHEN modes are made to fit
    ran = forks.run(tmp_path, ill, "mode=correct")
    # THEN all training but the first pass is in train mode, and the test, which no backward pass follows, is not
    wanted = changed(
        ill, ("# made", "begun = False"), ("# batch", "model.train(begun); begun = True"), ("# tested", "model.eval()")
    )
    assert ran.lines == forks.run(tmp_path, wanted).lines
    assert "Sequential at train.py:21: train mode from the second pass on" in said(ran, "mode")[0]
    # THEN the record shows it
    assert ran.record is not None
    states = ran.record.events("forward-mode")
    assert states and states[-1]["training_layers"] and not states[-1]["eval_layers"]


def test_batch_norm_alone_in_eval_mode_is_led_back_too(forks: Forks, tmp_path: Path) -> None:
    ran = forks.run(
        tmp_path,
        """
import torch
from torch import nn
model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
optimizer = torch.optim.SGD(model.parameters(), 0.1)
model.train()
model[1].eval()
for _ in range(4):
    optimizer.zero_grad()
    model(torch.randn(8, 4)).square().mean().backward()
    optimizer.step()
print(model[1].num_batches_tracked.item(), model[1].training)
""",
        "mode=correct",
    )
    assert (ran.code, ran.lines) == (0, ["3 False"]), ran.err


EPOCHS = """
import random
import numpy
import torch
# begin
for epoch in range(3):
    torch.manual_seed(100 + epoch)
    numpy.random.seed(100 + 10 * epoch)
    random.seed(100 - epoch)
    print(torch.initial_seed(), torch.randperm(9).tolist(), numpy.random.rand(), random.random())
random.seed("one")
print(random.random())
random.seed("two")
print(random.random())
"""


def test_different_seeds_stay_different(forks: Forks, tmp_path: Path) -> None:
    ran = forks.run(tmp_path, EPOCHS, "seed=3")

    assert (
        ran.lines[:3]
        == forks.plain(tmp_path, EPOCHS.replace("(100", "(3").replace("3 - epoch", "(3 - epoch) % 2**32"))[:3]
    )
    assert len(set(ran.lines)) == 5


@pytest.mark.parametrize("size", ["1", "2"])
def test_ranks_stay_apart(monkeypatch: pytest.MonkeyPatch, size: str) -> None:
    """One process of several does not know whether its first seed holds its rank."""
    monkeypatch.setenv("WORLD_SIZE", size)
    monkeypatch.setattr(torch, "manual_seed", lambda seed: None)
    monkeypatch.setattr(random, "seed", lambda seed: None)
    monkeypatch.setattr(numpy.random, "seed", lambda seed: None)
    given: list[int] = []
    for rank in range(2):
        made: list[Callable[[int], int]] = []
        program = SimpleNamespace(patch=lambda holder, name, make, made=made: made.append(make(int)))
        parse(["seed=3"])[0].begin(cast(Program, program))
        given += [made[0](100), made[0](100 + rank)]

    assert given == [103, 103, 103, 104] if size == "2" else [3, 3, 3, 4]


SEEDS = """
import random
import numpy
import torch
from torch.utils.data import DataLoader, Dataset

class Draws(Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, index):
        return torch.tensor([torch.rand(1).item(), random.random(), numpy.random.rand()])

for seed in (torch.manual_seed, torch.random.manual_seed, torch.cuda.manual_seed, torch.cuda.manual_seed_all):
    seed(7)
random.seed(7)
numpy.random.seed(7)
print(torch.rand(1).item(), random.random(), numpy.random.rand())
for epoch in range(2):
    for drawn in DataLoader(Draws(), batch_size=2, num_workers=2):
        print(drawn.tolist())
"""


def test_a_seed_is_not_that_of_every_worker(forks: Forks, tmp_path: Path) -> None:
    # GIVEN a script whose workers draw numbers of their own
    wanted = forks.plain(tmp_path, SEEDS.replace("(7)", "(3)"))
    # WHEN another number is put in the place of its seed
    ran = forks.run(tmp_path, SEEDS, "seed=3")
    # THEN all is as if that number stood in the script: no worker and no epoch draws what another one draws
    assert ran.lines == wanted, ran.err
    assert len(set(ran.lines)) == 5


@pytest.mark.parametrize("override", ["precision=bfloat16,pure:on", "precision=float64", "precision=bfloat16"])
def test_the_parts_of_a_model_that_are_called_by_themselves(forks: Forks, tmp_path: Path, override: str) -> None:
    script = """
    import torch
    from torch import nn
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(4):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
    x = torch.randn(8, 4)
    for layer in model:
        x = layer(x)
    print(tuple(x.shape))
    """
    ran = forks.run(tmp_path, script, override)
    assert (ran.code, ran.lines) == (0, ["(8, 2)"]), ran.err
