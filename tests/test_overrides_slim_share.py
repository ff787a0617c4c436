"""Weights that share values, and weights of one bit: counted in the script itself."""

from __future__ import annotations

import pytest
import torch
from overridden import Run
from slimmed import ADAM, SCRIPT, TOTAL, looks
from torch import nn
from written import changed, said

from wellfit.errors import WellfitError
from wellfit.overrides.catalogue import parse
from wellfit.overrides.layers.hooks import SignOfInput

LOSSES = changed(SCRIPT, ("    look()\n", "    print(loss.item().hex()); look()\n"))


def losses(lines: list[str]) -> list[str]:
    """Those that the script printed."""
    return [line for line in lines if line.startswith("0x")]


def test_from_its_start_on_no_layer_has_more_values(run: Run) -> None:
    plain, ran = run(LOSSES), run(LOSSES, "share=8,start:0.5,steps:40")
    found = looks(ran)
    assert all(max(values) <= 8 for _, values in found[19:]) and min(found[18][1]) > 8
    assert losses(ran.lines)[:20] == losses(plain.lines)[:20]  # to the bit, before it begins
    assert losses(ran.lines)[20:] != losses(plain.lines)[20:]
    assert said(ran, "share")[0] == ["Sequential: 3 tensors have up to 8 values each after step 20"]


def test_pruned_weights_stay_0_and_the_others_share(run: Run) -> None:
    evaluated = "    with torch.no_grad(): print('test', len(weights[0].unique()), model(x).sum().item() != 0)\n"
    keep = "    if step == 32: best = copy.deepcopy(model.state_dict())\n    look()\n" + evaluated
    script = changed(SCRIPT, ("    look()\n", keep), ("# after", "model.load_state_dict(best); look()"))
    ran = run(script, "prune=0.8,steps:40,until:0.5", "share=8,start:0.6,steps:40")
    found = looks(ran)
    for zeros, values in found[24:]:
        assert sum(zeros) == round(0.8 * TOTAL) and max(values) <= 8
    assert found[-1] == found[32]
    assert [line for line in ran.lines if line.startswith("test")][-1] == f"test {found[-1][1][0] + 1} True"


def test_a_mask_that_goes_on_changing(run: Run) -> None:
    found = looks(run(SCRIPT, "prune=0.8,steps:40,until:1", "share=4,layers:4=16"))
    assert [sum(zeros) for zeros, _ in found][-1] == round(0.8 * TOTAL)
    assert all(max(values[:2]) <= 4 and values[2] <= 16 for _, values in found)
    assert max(values[2] for _, values in found) > 4


@pytest.mark.parametrize("text", ["again:7", "rate:0.1,importance:gradient", "gradient:mean", "gradient:sum"])
@pytest.mark.parametrize("optimizer", [ADAM, "torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)"])
def test_every_way_keeps_the_number(run: Run, text: str, optimizer: str) -> None:
    ran = run(changed(SCRIPT, (ADAM, optimizer)), f"share=8,start:0.25,steps:40,{text}")
    assert all(max(values) <= 8 for _, values in looks(ran)[10:])


VALUES = """
print("values", [w.flatten().tolist() for w in weights])
print("gradients", [w.grad.flatten().tolist() for w in weights])
optimizer.step()
print("after", [w.flatten().tolist() for w in weights])
"""


@pytest.mark.parametrize("gradient", ["each", "mean", "sum"])
def test_a_value_moves_by_the_gradients_of_its_cluster(run: Run, gradient: str) -> None:
    """Plain gradient descent: mean for each and mean, sum for sum."""
    script = changed(SCRIPT, (ADAM, "torch.optim.SGD(model.parameters(), lr=0.01)"), ("    look()\n", ""))
    again = "optimizer.zero_grad(); F.cross_entropy(model(x), y).backward()\n"
    ran = run(script.replace("# after", again + VALUES), f"share=8,start:0.25,steps:40,gradient:{gradient}")
    values, gradients, after = ([torch.tensor(w) for w in eval(line.partition(" ")[2])] for line in ran.lines[-3:])
    for old, slope, new in zip(values, gradients, after):
        for value in old.unique():
            chosen = old == value
            step = slope[chosen].sum() if gradient == "sum" else slope[chosen].mean()
            torch.testing.assert_close(new[chosen], (value - 0.01 * step).expand(int(chosen.sum())), atol=1e-6, rtol=0)


def test_values_of_a_file_stay_shared_as_they_are(run: Run) -> None:
    keep = changed(SCRIPT, ("# after", "torch.save(model.state_dict(), '../weights.pt')"))
    assert run(keep, "prune=0.5,steps:40", "share=8,start:0.6,steps:40").code == 0
    same = "    if not step: print([torch.equal(v, file[n]) for n, v in model.state_dict().items()])\n"
    backward = "    loss.backward()\n"
    script = changed(SCRIPT, (backward, same + backward), ("# made", "file = torch.load('../weights.pt')"))
    ran = run(script, "start=../weights.pt", "share=8")
    assert ran.lines[0] == str([True] * 6), ran.err
    assert all(max(values) <= 8 for _, values in looks(ran))


def test_biases_are_shared_where_asked(run: Run) -> None:
    script = changed(SCRIPT, ("p.dim() > 1", "p.dim() < 2"))
    assert looks(run(script, "share=8"))[-1][1][0] == 32
    ran = run(script, "share=8,start:0.5,steps:40,biases:on")
    values = looks(ran)[-1][1]
    assert values[0] <= 8 and values[1] <= 4 and values[2] <= 2


BINARY = """
for w, name in zip(weights, ("0", "2", "4")):
    sizes = w.abs()
    print(name, bool((sizes == sizes[:, :1]).all()), len(w.unique()))
"""


def test_the_inner_layers_are_signs_times_a_scale(run: Run) -> None:
    script = changed(SCRIPT, ("    look()\n", ""))
    ran = run(script.replace("# after", BINARY), "binarise")
    assert ran.lines == ["0 False 640", "2 True 32", "4 False 64"], ran.err
    ran = run(script.replace("# after", BINARY), "binarise=weights,ends:on")
    assert [line.split()[1] for line in ran.lines] == ["True"] * 3, ran.err
    assert {name for name, _ in said(run(script, "binarise"), "binarise")[1]} == {"0", "4"}


def test_what_becomes_a_sign_is_said_layer_by_layer(run: Run) -> None:
    script = changed(SCRIPT, ("    look()\n", ""))
    ran = run(script.replace("# after", BINARY), "binarise=layers:0=both;2=off")
    assert ran.lines == ["0 True 64", "2 False 512", "4 False 64"], ran.err
    changes, left = said(ran, "binarise")
    assert "Sequential: 0 see the signs of their inputs" in changes
    assert {name for name, _ in left} == {"4"}


GRID = "for w in weights: print(max(len(row.unique()) for row in w), on_grid(w, 4).equal(w), on_grid(w, 2).equal(w))"


def test_weights_are_whole_numbers_times_a_scale(run: Run) -> None:
    script = changed(
        SCRIPT, ("    look()\n", ""),
        ("# after", f"from wellfit.slim.methods.grid import on_grid\n{GRID}"),
    )  # fmt: skip
    ran = run(script, "prune=0.5,scope:layer,steps:40", "quantise=4,layers:2=2;4=0")
    assert ran.lines[0].endswith("True False") and int(ran.lines[0].split()[0]) <= 15, ran.lines
    assert ran.lines[1] == "3 False True"
    assert ran.lines[2].endswith("False False")
    assert said(ran, "quantise")[0] == ["Sequential: 2 tensors are whole numbers times a scale for each filter"]


def test_steps_that_are_smaller_than_a_grid_s_distance_add_up(run: Run) -> None:
    """A step of Adam moves a weight by 0.01; 3 bits of weights up to 0.22 lie 0.07 apart."""
    ran = run(changed(SCRIPT, ("    look()\n", "    if step in (0, 39): print(loss.item())\n")), "quantise=3")
    assert float(ran.lines[1]) < 0.7 * float(ran.lines[0]), ran.lines


def test_scales_are_the_mean_size_of_what_lies_behind(run: Run) -> None:
    script = changed(
        SCRIPT, ("    look()\n", ""), ("range(40)", "range(1)"), (ADAM, "torch.optim.SGD(model.parameters(), lr=0.0)"),
        ("# made", "before = weights[1].detach().clone()"),
        ("# after", "print(torch.allclose(weights[1], before.sign() * before.abs().mean(1, keepdim=True)))"),
    )  # fmt: skip
    assert run(script, "binarise").lines == ["True"]


def test_pruned_shared_and_binary_together(run: Run) -> None:
    script = changed(
        SCRIPT, ("    look()\n", ""), ("# after", "look(); print(max(len(r.unique()) for r in weights[1]))")
    )
    ran = run(script, "prune=0.5,steps:40", "share=16,start:0.6,steps:40", "binarise=start:0.7,steps:40")
    ((zeros, values),) = looks(ran)
    assert sum(zeros) == TOTAL // 2 and values[0] <= 16 and values[2] <= 16
    assert ran.lines[-1] == "3"  # minus, 0, plus


def test_layers_see_the_signs_of_their_inputs(run: Run) -> None:
    model = (
        "nn.Sequential(nn.Linear(20, 32), nn.BatchNorm1d(32), nn.Linear(32, 16), nn.BatchNorm1d(16), nn.Linear(16, 4))"
    )
    script = changed(
        SCRIPT, ("nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4))", model),
        ("    look()\n", "    if step in (0, 39): print(loss.item())\n"),
        ("# after", "model.eval(); h = model[1](model[0](x)); signs = torch.where(h >= 0, 1.0, -1.0); "
                    "print(torch.allclose(model[2](h), F.linear(signs, weights[1], model[2].bias)))"),
    )  # fmt: skip
    ran = run(script, "binarise=both")
    assert ran.lines[-1] == "True" and float(ran.lines[1]) < 0.8 * float(ran.lines[0]), ran.lines
    assert "Sequential: 2 see the signs of their inputs" in said(ran, "binarise")[0]


def test_the_gradient_of_a_sign_goes_straight_through_within_1() -> None:
    layer = nn.Linear(4, 1, bias=False)
    layer.register_forward_pre_hook(SignOfInput(), with_kwargs=True)
    x = torch.tensor([[-2.0, -0.5, 0.0, 1.5]], requires_grad=True)
    for result in (layer(x), layer(input=x)):
        torch.testing.assert_close(result, layer.weight @ torch.tensor([-1.0, -1.0, 1.0, 1.0]).view(4, 1))
        (slope,) = torch.autograd.grad(result.sum(), x)
        torch.testing.assert_close(slope, layer.weight.detach() * torch.tensor([[0.0, 1.0, 1.0, 0.0]]))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("share=16,start:0.5", "share needs steps, how many optimizer steps the run makes, as in --override share=..."),
        ("share=16,layers:fc1=1.5", '"fc1" in layers of share is a whole number from 0 to 4096, not "1.5"'),
        ("binarise=both,start:1", "binarise needs steps"),
        ("binarise=layers:fc=none", '"fc" in layers of binarise is one of weights, both, off, not "none"'),
        ("quantise=9", 'quantise is a whole number from 2 to 8, not "9"'),
        ("quantise=8,layers:fc=1", '"fc" in layers of quantise is a whole number from 2 to 8, not "1"'),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(WellfitError) as caught:
        parse([text])
    assert sentence in str(caught.value)
