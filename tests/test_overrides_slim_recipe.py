"""prune by bits and by gradients, and clusters that weights may leave: what leads to the smallest files."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from overridden import Run
from slimmed import SCRIPT, TOTAL, looks
from torch import nn

from wellfit.errors import WellfitError
from wellfit.overrides.catalogue import parse
from wellfit.overrides.slim._clusters import clusters, moved
from wellfit.overrides.slim._masks import best, steep
from wellfit.overrides.slim._saliency import Squares, bits, curvature, worth
from wellfit.overrides.slim._weights import Model

SEEDS = st.integers(0, 2**31)
RECIPE = "scope:bits,importance:gradient,schedule:steep,regrow:off"


def masked(seed: int, *shape: int, share: float = 0.3) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share


# Bits ---------------------------------------------------------------------------------------------------------------


def test_a_weight_is_cheaper_where_its_row_and_column_are_kept() -> None:
    mask = masked(0, 40, 60, share=0.05)
    mask[3], mask[:, 7] = masked(1, 60, share=0.4), masked(2, 40, share=0.4)
    cost = bits(mask)
    others = cost[torch.arange(40) != 3][:, torch.arange(60) != 7]
    assert cost[3, 7] < cost[3].mean() < others.mean() - 1 and cost[3, 7] < cost[:, 7].mean() < others.mean() - 1
    kernels = masked(3, 20, 30, 5, 5, share=0.05)
    kernels[4, 6] = True
    dear = bits(kernels)
    assert dear[4, 6].max() < dear[4, 7].min() and dear.shape == kernels.shape


@given(SEEDS, st.sampled_from([(7,), (9, 5), (6, 4, 3), (5, 3, 3, 3)]), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_bits_are_finite_and_no_row_makes_itself_free(seed: int, shape: tuple[int, ...], share: float) -> None:
    cost = bits(masked(seed, *shape, share=share))
    assert cost.shape == shape and bool(cost.isfinite().all()) and float(cost.min()) >= 3.0
    assert torch.equal(bits(torch.ones(shape, dtype=torch.bool)), torch.full(shape, 3.0))
    assert float(bits(masked(seed, *shape, share=share), 0.0).unique().numel()) == 1


def test_the_estimate_is_near_what_the_coder_makes_of_it() -> None:
    """Rows and columns of which some are busy. The coder has to learn which they are: that is not in the estimate."""
    from wellfit.slim.wfz.coders import mixing

    generator = torch.Generator().manual_seed(0)
    rows, columns = (torch.rand(count, generator=generator) ** 4 for count in (120, 400))
    mask = torch.rand(120, 400, generator=generator) < rows[:, None] * columns
    odds = (3.0 - bits(mask)) * torch.log(torch.tensor(2.0))
    estimate = float(-torch.where(mask, torch.sigmoid(odds), torch.sigmoid(-odds)).log2().sum()) / 8
    coded = len(mixing.encode(mask.numpy().astype("uint16").ravel(), 2, tuple(mask.shape)))
    share = mask.float().mean()
    alike = -120 * 400 / 8 * float(share * share.log2() + (1 - share) * (1 - share).log2())
    assert 0.75 < estimate / coded < 1.1 and coded < 0.95 * alike


def test_structure_emerges_where_weights_are_judged_by_their_bits() -> None:
    """Weights that are all alike but for noise: with bits the kept ones gather in fewer rows and columns."""
    weight = torch.randn(100, 100, generator=torch.Generator().manual_seed(0))
    plain = best([worth(weight, None)], 500)[0]
    mask, keep = torch.ones_like(plain), 10_000
    for _ in range(30):
        keep = max(500, int(keep * 0.85))
        mask = best([worth(weight, None) / bits(mask)], keep)[0]
    assert int(mask.sum()) == int(plain.sum()) == 500

    def coded(kept: torch.Tensor) -> float:
        return float((bits(kept) * kept).sum())

    assert coded(mask) < 0.95 * coded(plain)


# Gradients ------------------------------------------------------------------------------------------------------------


def test_the_mean_of_squares_is_that_of_all_gradients_at_first() -> None:
    layer = nn.Linear(3, 2)
    weight = Model(layer, {}).weights[0]
    squares = Squares()
    assert squares.of(weight) is None
    squares.see(weight)  # it has no gradient yet
    assert squares.of(weight) is None
    given = [torch.randn(2, 3) for _ in range(3)]
    for gradient in given:
        layer.weight.grad = gradient
        squares.see(weight)
    found = squares.of(weight)
    assert found is not None
    torch.testing.assert_close(found, sum(g.square() for g in given) / 3, rtol=2e-3, atol=1e-6)


def test_of_two_weights_alike_the_one_with_the_larger_gradient_is_worth_more() -> None:
    square = torch.tensor([[4.0, 1.0, 0.0]])
    value = torch.tensor([[1.0, -1.0, 1.0]])
    found = worth(value, square)
    assert found[0, 0] > found[0, 1] > found[0, 2] > 0
    torch.testing.assert_close(found, curvature(square))
    torch.testing.assert_close(worth(2 * value, square), 4 * found)


@given(st.floats(0.01, 0.999))
@settings(max_examples=50, deadline=None)
def test_steep_begins_with_nothing_and_ends_with_all(amount: float) -> None:
    shares = [steep(amount, step / 20) for step in range(21)]
    assert shares[0] == pytest.approx(0, abs=1e-12) and shares[-1] == pytest.approx(amount)
    assert shares == sorted(shares)
    kept = [1 - share for share in shares]
    factors = [after / before for before, after in zip(kept, kept[1:])]
    assert factors == sorted(factors)  # it slows down


# In a run -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [RECIPE, "scope:bits", "importance:gradient", "scope:lamp,importance:gradient"])
def test_exactly_the_amount_is_0(run: Run, text: str) -> None:
    seen = looks(run(SCRIPT, f"prune=0.9,until:0.5,steps:40,{text}"))
    assert sum(seen[-1][0]) == round(0.9 * TOTAL) and sum(seen[0][0]) < 0.3 * TOTAL
    assert all(sum(after[0]) >= sum(before[0]) for before, after in zip(seen, seen[1:]))
    assert seen[19][0] == seen[-1][0]


def test_the_same_run_gives_the_same_weights(run: Run) -> None:
    script = SCRIPT.replace("# after", "print(float(sum(w.double().abs().sum() for w in weights)))")
    given = [f"prune=0.9,until:0.5,steps:40,{RECIPE},biases:on", "share=4,start:0.5,steps:40,again:3,rate:0.01"]
    first, second = run(script, *given), run(script, *given)
    assert first.code == 0 and first.lines == second.lines


def test_no_layer_is_emptied_and_biases_may_be(run: Run) -> None:
    print_biases = "print([int((p != 0).sum()) for p in model.parameters() if p.dim() == 1])"
    ran = run(SCRIPT.replace("# after", print_biases), f"prune=0.985,until:0.5,steps:40,biases:on,{RECIPE}")
    zeros = looks(ran)[-1][0]
    assert all(count - zero >= 8 for count, zero in zip([640, 512, 64], zeros))
    biases = eval(ran.lines[-1])
    assert sum(biases) + TOTAL - sum(zeros) == max(24, round((TOTAL + 52) * 0.015)) and min(biases) < 8


def test_weights_may_leave_their_cluster_until_they_may_not(run: Run) -> None:
    script = SCRIPT.replace(
        "def look():", "groups = lambda: [w.unique(return_inverse=True)[1] for w in weights]\ndef look():"
    ).replace("# made", "known = groups()\nmoved = []").replace(
        "    look()\n# after",
        "    now = groups()\n    moved.append(not all(map(torch.equal, known, now)))\n    known = now\nprint(moved)",
    )  # fmt: skip
    ran = run(script, "share=4,start:0.25,steps:40,again:2,until:0.75,importance:gradient")
    assert ran.code == 0, ran.err
    left = eval(ran.lines[-1])
    assert any(left[11:29]) and not any(left[31:])


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_clusters_go_on_from_where_they_are(seed: int) -> None:
    values = torch.randn(200, generator=torch.Generator().manual_seed(seed))
    centres, numbers = clusters(values, 5)
    again, same = moved(values, numbers, len(centres))
    assert torch.equal(same, numbers)
    torch.testing.assert_close(again, centres)


def test_a_group_has_no_other_scope() -> None:
    with pytest.raises(WellfitError, match="leave out the rest"):
        parse(["prune=group:2:4,steps:40,importance:gradient"])
