"""Optimizers, loaders and graphs under overrides: none lives longer than without, and copies are under them too."""

from __future__ import annotations

import pytest
from overridden import Run
from stepped import SCRIPT, SGD, by_hand, changed
from written import said

# Freed ---------------------------------------------------------------------------------------------------------------

FREED = """
import gc
import weakref
import torch
from torch import nn

model = nn.Linear(4, 3)
class Other(torch.optim.Adam):
    def step(self, closure=None):
        return super().step(closure)
def train(kind):
    optimizer = kind(model.parameters(), lr=0.1)
    # made
    for step in range(2):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
    return weakref.ref(optimizer)
for kind in (torch.optim.SGD, torch.optim.Adam, Other):
    train(kind)  # what torch does once
gc.collect()
gc.disable()
print([train(kind)() is None for kind in (torch.optim.SGD, torch.optim.Adam, Other)])
step = torch.optim.SGD(model.parameters(), lr=0.1).step
step()  # as long as its step is there, it is there
"""


@pytest.mark.parametrize("override", ["lr=0.5", "weight-decay=0.1", "ema=0.9", "accumulate=2", "optimizer=rmsprop"])
@pytest.mark.parametrize("scheduled", [False, True])
def test_an_optimizer_is_freed_at_once(run: Run, override: str, scheduled: bool) -> None:
    script = FREED.replace("# made", "torch.optim.lr_scheduler.StepLR(optimizer, 1)" if scheduled else "pass")
    ran = run(script, override)
    assert (ran.code, ran.lines) == (0, ["[True, True, True]"]), ran.err


def test_a_dataset_that_is_made_anew_is_freed(run: Run) -> None:
    ran = run(
        """
        import weakref
        import torch
        from torch import nn
        from torch.utils.data import DataLoader, TensorDataset
        model = nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        def epoch():
            dataset = TensorDataset(torch.randn(8, 4))
            loader = DataLoader(dataset, batch_size=4)
            for (x,) in loader:
                optimizer.zero_grad()
                model(x).square().mean().backward()
                optimizer.step()
            return weakref.ref(dataset), weakref.ref(loader)
        for _ in range(2):
            print([made() is None for made in epoch()])
        """,
        "one-batch",
    )  # fmt: skip
    assert ran.lines == ["[True, True]"] * 2, ran.err


def test_a_graph_without_a_backward_pass_is_freed(run: Run) -> None:
    ran = run(
        """
        import weakref
        import torch
        from torch import nn
        class Kept(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                ctx.kept = torch.ones(3)
                kept.append(weakref.ref(ctx.kept))
                return x * 1
            @staticmethod
            def backward(ctx, gradient):
                return gradient
        class Model(nn.Linear):
            def forward(self, x):
                return Kept.apply(super().forward(x))
        kept = []
        model = Model(2, 1)
        for step in range(3):
            model(torch.randn(4, 2, requires_grad=True) * 1)
        print([each() is None for each in kept])
        """,
        "one-batch",
    )  # fmt: skip
    assert ran.lines == ["[True, True, True]"], ran.err


# Copied --------------------------------------------------------------------------------------------------------------

COPY = "    if step == 6:\n        model, optimizer = copy.deepcopy((model, optimizer))\n    loss ="
PICKLE = COPY.replace("copy.deepcopy((model, optimizer))", "pickle.loads(pickle.dumps((model, optimizer)))")


@pytest.mark.parametrize(
    "override",
    [
        "lr=0.01",
        "lr=scale:0.5",
        "warmup=9",
        "schedule=cosine,steps:9",
        "weight-decay=0.1",
        "momentum=0.9",
        "clip-value=0.01",
        "optimizer=adam",
        "optimizer=adam,lr:0.01",
        "reinit-optimizer",
    ],
)
@pytest.mark.parametrize("scheduled", [False, True])
def test_a_copy_is_under_the_override_too(run: Run, override: str, scheduled: bool) -> None:
    script = changed((SGD, SGD.replace("model.parameters()", "list(model.parameters())")))
    if scheduled:
        script = changed(
            ("# made", "cycle = torch.optim.lr_scheduler.CyclicLR(optimizer, 0.01, 0.1, 3)"),
            ("# after", "if step < 6: cycle.step()"),
            script=script,
        )
    ran, copied = run(script, override), run(changed(("    loss =", COPY), script=script), override)
    assert (copied.code, copied.lines[:-1]) == (0, ran.lines[:-1]), copied.err
    assert ran.lines[:-1] != by_hand(script=script)[:-1]
    name = override.partition("=")[0]
    assert said(copied, name)[0] == said(ran, name)[0]


def test_an_original_and_its_copy_go_on_by_themselves(run: Run) -> None:
    script = changed(
        ("    # after\n", "    if step == 5:\n        twin, other = copy.deepcopy((model, optimizer))\n"
         "    if step > 5:\n        other.zero_grad()\n"
         "        nn.functional.cross_entropy(twin(x[rows]), y[rows]).backward()\n"
         "        other.step()\n        print(all(map(torch.equal, twin.parameters(), model.parameters())))\n")
    )  # fmt: skip
    ran = run(script, "warmup=9", "momentum=0.9")
    assert [line for line in ran.lines if "x" not in line[:3]][:-1] == ["True"] * 6, ran.err


def test_an_optimizer_that_was_pickled_is_under_the_override_too(run: Run) -> None:
    script = changed(("import copy", "import copy, pickle"))
    ran, copied = run(script, "lr=0.01"), run(changed(("    loss =", PICKLE), script=script), "lr=0.01")
    assert (copied.code, copied.lines[:-1]) == (0, ran.lines[:-1]), copied.err
    assert "wellfit" not in run(changed(("# made", "print(pickle.dumps(optimizer))"), script=script), "lr=0.01").out


def test_a_copy_of_a_state_is_none_of_an_optimizer(run: Run) -> None:
    script = changed(("# made", "optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))"))
    assert run(script, "warmup=4").lines == run(SCRIPT, "warmup=4").lines
