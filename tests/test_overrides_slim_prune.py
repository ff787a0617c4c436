"""Weights that are pruned while they are trained: exactly as many as asked, in the script's own eyes."""

from __future__ import annotations

import pytest
from overridden import Run
from slimmed import ADAM, COUNTS, SCRIPT, TOTAL, looks
from written import changed, said

from wellfit.errors import WellfitError
from wellfit.overrides.catalogue import parse
from wellfit.overrides.slim._masks import cubic

STEP = "    loss.backward()\n    optimizer.step()\n"
CLOSURE = """
    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        return loss
    optimizer.step(closure)
"""
SCALED = """
    scale = float("inf") if step % 5 == 4 else 1.0
    scaler.scale(loss * scale).backward()
    scaler.step(optimizer); scaler.update()
"""


def zeros_at(step: int, last: int, amount: float = 0.9) -> int:
    """How many weights are 0 after a step, with the mask made anew a hundred times."""
    return round(cubic(round(amount * TOTAL), int(min(step / last, 1) * 100) / 100))


@pytest.mark.parametrize("scope", ["global", "layer", "lamp"])
def test_as_many_weights_are_0_as_the_schedule_says(run: Run, scope: str) -> None:
    ran = run(SCRIPT, f"prune=0.9,steps:40,scope:{scope}")
    found = looks(ran)
    if scope == "layer":
        assert found[-1][0] == [round(0.9 * count) if count > 80 else count - 8 for count in COUNTS]
    else:
        assert [sum(zeros) for zeros, _ in found] == [zeros_at(step, 20) for step in range(1, 41)]
        assert sum(found[-1][0]) == round(0.9 * TOTAL)
    (what,), _ = said(ran, "prune")
    assert what.startswith("Sequential: of 1216 weights in 3 tensors 10") and what.endswith("become 0 by step 20")


@pytest.mark.parametrize(
    "pairs",
    [
        [(ADAM, "torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)")],
        [(ADAM, "torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)"), (STEP, CLOSURE)],
        [(ADAM, "torch.optim.Adam(model.parameters(), fused=True)")],
        [(STEP, SCALED), ("# made", "scaler = torch.amp.GradScaler('cpu', init_scale=8.0)")],
        [(STEP, "    (loss / 2).backward()\n    if step % 2:\n        optimizer.step(); optimizer.zero_grad()\n"),
         ("    optimizer.zero_grad()\n    loss", "    loss")],
    ],
    ids=["momentum", "closure", "fused", "scaler", "accumulation"],
)  # fmt: skip
def test_any_optimizer_leaves_the_amount_as_it_is(run: Run, pairs: list[tuple[str, str]]) -> None:
    found = looks(run(changed(SCRIPT, *pairs), "prune=0.8,steps:20"))
    assert len(found) == 40 and {sum(zeros) for zeros, _ in found[24:]} == {round(0.8 * TOTAL)}


@pytest.mark.parametrize(
    "others",
    [
        ["optimizer=sgd", "lr=0.05", "warmup=5"],
        ["accumulate=2"],
        ["weight-decay=0.1,kind:decoupled", "clip-norm=0.5", "l1=0.001"],
        ["width=0.5"],
        ["precision=float64"],
        ["norm=batch", "activation=tanh", "dropout=0.1"],
    ],
    ids=lambda others: others[0],
)
def test_beside_other_overrides(run: Run, others: list[str]) -> None:
    steps = 20 if others == ["accumulate=2"] else 40
    found = "def look():\n    weights = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]\n"
    script = changed(SCRIPT, ("def look():\n", found))
    ran = run(script, f"prune=0.75,steps:{steps}", f"share=8,start:0.6,steps:{steps}", *others)
    zeros, values = looks(ran)[-1]
    total = 640 // 2 + 512 // 4 + 64 // 2 if others == ["width=0.5"] else TOTAL
    assert sum(zeros) == round(0.75 * total) and max(values) <= 8


BY_HAND = """
latent = {n: p.detach().clone() for n, p in model.named_parameters()}
scores = torch.cat([latent[n].abs().flatten() for n in latent if n.endswith("weight")])
least = scores.topk(scores.numel() - round(0.5 * scores.numel())).values.min()
masks = {n: (latent[n].abs() >= least).float() if n.endswith("weight") else torch.ones_like(latent[n]) for n in latent}
parameters = {n: p.clone().requires_grad_() for n, p in latent.items()}
optimizer = torch.optim.Adam(parameters.values(), lr=0.01)
for step in range(40):
    rows = torch.randint(0, 256, (32,))
    shown = {n: (p.detach() * masks[n]).requires_grad_() for n, p in parameters.items()}
    loss = F.cross_entropy(torch.func.functional_call(model, shown, x[rows]), y[rows])
    for parameter, gradient in zip(parameters.values(), torch.autograd.grad(loss, list(shown.values()))):
        parameter.grad = gradient
    optimizer.step()
    print(loss.item().hex())
"""


def test_the_gradient_at_the_pruned_weights_moves_those_behind_them(run: Run) -> None:
    """To the bit what straight-through training by hand gives, and the script's random numbers stay."""
    ran = run(changed(SCRIPT, ("    look()\n", "    print(loss.item().hex())\n")), "prune=0.5,schedule:once")
    wanted = run(SCRIPT[: SCRIPT.index("# made")] + BY_HAND)
    assert ran.code == wanted.code == 0, ran.err + wanted.err
    assert ran.lines == wanted.lines and len(ran.lines) == 40


def test_what_is_0_comes_back_only_where_it_may(run: Run) -> None:
    script = changed(SCRIPT, ("    look()\n", "    print([bool(v) for w in weights for v in w.flatten() != 0])\n"))
    for regrow in (True, False):
        ran = run(script, f"prune=0.9,steps:40,regrow:{'on' if regrow else 'off'}")
        masks = [eval(line) for line in ran.lines]
        back = sum(now and not before for old, new in zip(masks, masks[1:]) for before, now in zip(old, new))
        assert (back > 0) == regrow
        assert all(mask == masks[19] for mask in masks[20:])  # it stays once the amount is reached


def test_a_best_checkpoint_that_is_loaded_at_the_end_stays_pruned(run: Run) -> None:
    keep = "    if step == 30: best = copy.deepcopy(model.state_dict())\n    look()\n"
    script = changed(SCRIPT, ("    look()\n", keep), ("# after", "model.load_state_dict(best); look()"))
    ran = run(script, "prune=0.9,steps:40")
    found = looks(ran)
    assert found[-1] == found[30] and sum(found[-1][0]) == round(0.9 * TOTAL)
    assert not said(ran, "prune")[1]
    early = run(script.replace("step == 30", "step == 4"), "prune=0.9,steps:40")
    found = looks(early)
    assert sum(found[4][0]) < sum(found[-1][0]) == round(0.9 * TOTAL)
    ((what, why),) = said(early, "prune")[1]
    assert what == "what the script loaded after step 40" and "were not trained afterwards" in why


def test_what_the_script_does_to_weights_between_steps_lasts(run: Run) -> None:
    clamp = "    for p in model.parameters(): p.data.clamp_(-0.05, 0.05)\n    look()\n"
    clamp += "    print(max(float(w.abs().max()) for w in weights) < 0.051)\n"
    ran = run(changed(SCRIPT, ("    look()\n", clamp), ("lr=0.01", "lr=0.001")), "prune=0.5,steps:40")
    assert sum(looks(ran)[-1][0]) == TOTAL // 2
    assert {line for line in ran.lines if not line.startswith("[")} == {"True"}


def test_neighbours_along_the_input(run: Run) -> None:
    model = "nn.Sequential(nn.Conv2d(8, 6, 3), nn.ReLU(), nn.ConvTranspose2d(6, 5, 2), nn.Flatten(), nn.Linear(45, 4))"
    script = changed(
        SCRIPT,
        ("torch.randn(256, 20)", "torch.randn(256, 8, 4, 4)"), ("(x @ torch.randn(20, 4))", "x.mean((2, 3))[:, :4]"),
        ("nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4))", model),
        ("    look()\n", ""),
        ("# after", "for w, axis in zip(weights, (1, 0, 1)): print([int(part.count_nonzero(axis).max()) for part in "
                    "w.split(4, axis)], int((w != 0).sum()))"),
    )  # fmt: skip
    ran = run(script, "prune=group:2:4,steps:40")
    assert ran.lines == ["[2, 2] 216", "[2, 1] 60", f"[{'2, ' * 11}1] 92"], ran.err


def test_single_layers_have_amounts_of_their_own(run: Run) -> None:
    ran = run(SCRIPT, "prune=0.5,steps:40,layers:0=0.75;4.weight=0;nine=0.5")
    zeros = looks(ran)[-1][0]
    assert zeros == [480, 256, 0]
    assert said(ran, "prune")[1] == [("nine", "Sequential has no such layer")]


def test_single_layers_have_neighbours_of_their_own(run: Run) -> None:
    shown = "for w, m in ((weights[0], 4), (weights[2], 16)): print(w.view(-1, m).count_nonzero(1).unique().tolist())"
    ran = run(changed(SCRIPT, ("# after", shown)), "prune=0.5,steps:40,layers:0=1:4;4=1:16")
    assert looks(ran)[-1][0] == [480, 256, 60]
    assert ran.lines[-2:] == ["[1]", "[1]"], "exactly N, though the last layer keeps 4 weights then"
    assert said(ran, "prune")[0] == [
        "Sequential: of 640 weights in 1 tensors 1:4 are kept along the input by step 20",
        "Sequential: of 64 weights in 1 tensors 1:16 are kept along the input by step 20",
        "Sequential: of 512 weights in 1 tensors 256 become 0 by step 20",
    ]


def test_a_model_that_is_evaluated_before_it_is_trained(run: Run) -> None:
    looked = "with torch.inference_mode(): model(x)"
    ran = run(changed(SCRIPT, ("# made", f"{looked}; look()"), ("    look()\n", f"    {looked}\n    look()\n")),
              "prune=0.5,schedule:once", "share=4")  # fmt: skip
    assert {sum(zeros) for zeros, _ in looks(ran)} == {TOTAL // 2} and len(looks(ran)) == 41
    assert all(max(values) <= 4 for _, values in looks(ran))


def test_a_layer_is_never_emptied(run: Run) -> None:
    ran = run(changed(SCRIPT, ("# made", "weights[2].data *= 1e-6")), "prune=0.97,schedule:once")
    assert looks(ran)[-1][0][2] == 64 - 8 and sum(looks(ran)[-1][0]) == round(0.97 * TOTAL)
    assert ("4.weight", "it keeps 8 weights, the fewest that a layer keeps") in said(ran, "prune")[1]


ALL = """
import copy
import torch
import torch.nn.functional as F
from torch import nn
torch.manual_seed(0)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(12, 16)
        self.recurrent = nn.LSTM(16, 16, batch_first=True)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.norm = nn.LayerNorm(16)
        self.place = nn.Parameter(torch.randn(5, 16))
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(16, 16))
        self.frozen = nn.Linear(16, 16).requires_grad_(False)
        self.head = nn.Linear(16, 12, bias=False)
        self.head.weight = self.table.weight
    def forward(self, tokens):
        h = self.recurrent(self.table(tokens) + self.place)[0]
        h = self.normed(self.norm(h + self.attention(h, h, h)[0]))
        return self.head(self.frozen(h))
model = Net()
names = [n for n, p in model.named_parameters() if p.dim() > 1]
before = [id(p) for p in model.parameters()]
tables, rest = [model.table.weight], [p for n, p in model.named_parameters() if "table" not in n and p.requires_grad]
optimizers = [torch.optim.SGD(tables, lr=0.1), torch.optim.AdamW(rest, lr=0.01)]
average = torch.optim.swa_utils.AveragedModel(model)
for step in range(20):
    tokens = torch.randint(0, 12, (8, 5))
    for optimizer in optimizers: optimizer.zero_grad()
    loss = F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
    loss.backward()
    for optimizer in optimizers: optimizer.step()
    average.update_parameters(model)
    with torch.no_grad(): average(tokens)
twin = copy.deepcopy(model)
print(all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters())))
print(before == [id(p) for p in model.parameters()], model.head.weight is model.table.weight)
print({n: float((p == 0).double().mean()) for n, p in model.named_parameters() if (p == 0).any()})
"""


def test_layers_of_all_kinds_and_several_optimizers(run: Run) -> None:
    ran = run(ALL, "prune=0.75,steps:20,scope:layer")
    assert ran.code == 0, ran.err
    assert ran.lines[:2] == ["True", "True True"]
    pruned = {name: share for name, share in eval(ran.lines[2]).items() if "bias" not in name and share > 0.1}
    names = {
        "table.weight", "recurrent.weight_ih_l0", "recurrent.weight_hh_l0", "attention.in_proj_weight",
        "attention.out_proj.weight", "frozen.weight",
    }  # fmt: skip
    assert pruned == dict.fromkeys(names, 0.75)
    left = dict(said(ran, "prune")[1])
    assert left["place"] == "it is not the weight of a layer"
    assert "computed from it" in left["normed.parametrizations.weight.original1"]
    assert "no optimizer trains it" in left["AveragedModel"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("prune", "prune needs an amount or a group"),
        ("prune=0.9", "prune needs steps, how many optimizer steps the run makes, as in --override prune=...,steps"),
        ("prune=0.9,steps:9,start:0.5,until:0.2", "prune ends at 0.2 of the run, before its start at 0.5"),
        ("prune=0.5,steps:9,layers:fc=0:4", '"fc" in layers of prune is N:M with N below M, both from 1 to 99'),
        ("prune=group:4:2,steps:9", "group of prune is N:M with N below M"),
        ("prune=0.5,group:2:4,steps:9", "says itself how many weights are kept"),
        ("prune=0.5,steps:9,layers:fc1", 'layers of prune is written as PATTERN=NUMBER;PATTERN=NUMBER, not "fc1"'),
        ("prune=0.5,steps:9,layers:fc1=2", '"fc1" in layers of prune is a number from 0 to 1, not "2"'),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(WellfitError) as caught:
        parse([text])
    assert sentence in str(caught.value)


def test_an_average_of_weights_contradicts_it() -> None:
    with pytest.raises(WellfitError, match="contradict each other"):
        parse(["prune=0.5,steps:9", "ema=0.9"])


FAILS = """
from wellfit.overrides.slim.prune import Prune
make = Prune.make
def fails(self, model, weights, values, step):
    if step == 5:
        raise ValueError("no")
    return make(self, model, weights, values, step)
Prune.make = fails
"""


def test_where_it_fails_the_others_go_on(run: Run) -> None:
    ran = run(changed(SCRIPT, ("# made", FAILS.strip().replace("\n", "\n"))), "prune=0.5,schedule:once", "share=4")
    found = looks(ran)
    assert ran.err.count("the script goes on without it") == 1
    assert sum(found[3][0]) == TOTAL // 2 and sum(found[-1][0]) < TOTAL // 2
    assert all(max(values) <= 4 for _, values in found)


def test_a_run_that_ends_early_says_so(run: Run) -> None:
    ran = run(SCRIPT, "prune=0.9,steps:400")
    assert ("the whole amount", "the run ended after step 40 of 200") in said(ran, "prune")[1]
