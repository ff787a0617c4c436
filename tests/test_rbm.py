"""The restricted Boltzmann machine against brute force: small enough ones can be summed over all states."""

from __future__ import annotations

import doctest
import itertools
import subprocess
import sys

import pytest
import torch
from torch import Tensor

import wellfit.nn.rbm
from wellfit.errors import WellfitError
from wellfit.nn import RBM


def states(units: int) -> Tensor:
    """All states of so many binary units, one a row."""
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=units)), dtype=torch.float64)


def made(visible: int = 4, hidden: int = 3, steps: int = 1, chains: int = 0) -> RBM:
    """An RBM far from its start, in double precision."""
    torch.manual_seed(1)
    rbm = RBM(visible, hidden, steps, chains).double()
    with torch.no_grad():
        for parameter in rbm.parameters():
            parameter.normal_()
    return rbm


def joint(rbm: RBM) -> Tensor:
    """p(v, h) for every state of both layers, by the definition of the energy alone."""
    v, h = states(rbm.visible), states(rbm.hidden)
    energy = -(v @ rbm.visible_bias)[:, None] - h @ rbm.hidden_bias - torch.einsum("ai,ij,bj->ab", v, rbm.weight, h)
    return torch.softmax(-energy.flatten(), 0).reshape(len(v), len(h)).detach()


def log_likelihood(rbm: RBM, share: Tensor) -> float:
    """Mean exact log p(v) of data in which the states occur with these shares."""
    return float((share * joint(rbm).sum(1).log()).sum())


def test_the_energy_is_the_one_of_the_definition() -> None:
    rbm = made()
    v, h = states(4), states(3)
    energy = rbm.energy(v[:, None, :].expand(-1, 8, -1), h.expand(16, -1, -1))
    assert torch.softmax(-energy.flatten(), 0).reshape(16, 8).detach().allclose(joint(rbm))
    one = rbm.energy(v[5], h[3])
    assert one.item() == pytest.approx(
        (-v[5] @ rbm.visible_bias - h[3] @ rbm.hidden_bias - v[5] @ rbm.weight @ h[3]).item()
    )


def test_the_free_energy_sums_out_the_hidden_units() -> None:
    rbm = made()
    v, h = states(4), states(3)
    summed = torch.stack([-torch.logsumexp(torch.stack([-rbm.energy(row, one) for one in h]), 0) for row in v])
    assert rbm.free_energy(v).allclose(summed)


def test_the_conditionals_are_those_of_the_joint_distribution() -> None:
    rbm = made()
    v, h, p = states(4), states(3), joint(rbm)
    hidden_on = p @ h / p.sum(1, keepdim=True)
    visible_on = p.T @ v / p.sum(0)[:, None]
    assert rbm.hidden_probability(v).detach().allclose(hidden_on)
    assert rbm(v).detach().allclose(hidden_on)
    assert rbm.visible_probability(h).detach().allclose(visible_on)


def test_the_pseudo_likelihood_is_that_of_the_joint_distribution() -> None:
    rbm = made()
    v, p = states(4), joint(rbm).sum(1)
    place = {tuple(row.tolist()): i for i, row in enumerate(v)}
    expected = []
    for i, row in enumerate(v):
        total = 0.0
        for unit in range(4):
            other = row.clone()
            other[unit] = 1 - other[unit]
            total += float(torch.log(p[i] / (p[i] + p[place[tuple(other.tolist())]])))
        expected.append(total)
    assert rbm.pseudo_likelihood(v).tolist() == pytest.approx(expected)


def test_a_long_chain_draws_from_the_model() -> None:
    rbm = made(3, 2)
    drawn = rbm.gibbs(torch.zeros(40000, 3, dtype=torch.float64), steps=50)
    number = (drawn @ torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64)).long()
    frequency = torch.bincount(number, minlength=8).double() / len(number)
    assert (frequency - joint(rbm).sum(1)).abs().max() < 0.015  # six standard errors
    assert not drawn.requires_grad and set(drawn.flatten().tolist()) <= {0.0, 1.0}


def test_with_samples_of_the_model_the_gradient_is_that_of_the_likelihood() -> None:
    """The free energy difference, where the samples are replaced by the exact distribution."""
    rbm = made(3, 2)
    v = states(3)
    share = torch.softmax(torch.randn(8, dtype=torch.float64), 0)
    p = joint(rbm).sum(1)
    ((share - p) * rbm.free_energy(v)).sum().backward()
    for parameter in rbm.parameters():
        assert parameter.grad is not None
        for index in itertools.product(*map(range, parameter.shape)):
            keep = parameter.data[index].item()
            parameter.data[index] = keep + 1e-5
            high = log_likelihood(rbm, share)
            parameter.data[index] = keep - 1e-5
            low = log_likelihood(rbm, share)
            parameter.data[index] = keep
            assert parameter.grad[index].item() == pytest.approx(-(high - low) / 2e-5, abs=1e-7)


def test_backward_leaves_the_gradient_of_contrastive_divergence() -> None:
    """Hinton's form of it: the links of the data minus those of the samples, both with probabilities of h."""
    rbm = made()
    data = states(4)[[3, 5, 5, 9]]
    torch.manual_seed(7)
    rbm.contrastive_divergence(data).backward()
    torch.manual_seed(7)
    samples = rbm.gibbs(data)
    with torch.no_grad():
        on, off = rbm(data), rbm(samples)
    assert rbm.weight.grad is not None and rbm.visible_bias.grad is not None and rbm.hidden_bias.grad is not None
    assert rbm.weight.grad.allclose(-(data.T @ on - samples.T @ off) / 4)
    assert rbm.visible_bias.grad.allclose(-(data - samples).mean(0))
    assert rbm.hidden_bias.grad.allclose(-(on - off).mean(0))


@pytest.mark.parametrize(("steps", "chains"), [(1, 0), (5, 0), (1, 100)])
def test_training_raises_the_exact_likelihood_of_the_data(steps: int, chains: int) -> None:
    """Two pairs of units; the units of a pair agree nine times in ten."""
    torch.manual_seed(0)
    v = states(4)
    agree = (v[:, 0] == v[:, 1]).double() + (v[:, 2] == v[:, 3]).double()
    count = 9.0**agree  # 81, 9 or 1: 400 rows
    share, data = count / count.sum(), v.repeat_interleave(count.long(), dim=0)
    best = float((share * share.log()).sum())  # -2.04, what a perfect model would have
    rbm = RBM(4, 4, steps, chains).double()
    with torch.no_grad():
        rbm.weight *= 50  # no long plateau at the start, where all units are alike
    before = log_likelihood(rbm, share)
    assert before == pytest.approx(-4 * 0.6931, abs=0.3)  # it begins at guessing each unit
    optimizer = torch.optim.SGD(rbm.parameters(), lr=1.0)
    rate = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=600)  # persistent chains need the decay
    likelihoods = [before]
    for step in range(600):
        optimizer.zero_grad()
        rbm.contrastive_divergence(data).backward()
        optimizer.step()
        rate.step()
        if step % 100 == 99:
            likelihoods.append(log_likelihood(rbm, share))
    assert likelihoods[2] > before + 0.1 and best - 0.03 < likelihoods[-1] < best


def test_persistent_chains_live_on_and_are_saved() -> None:
    rbm = made(chains=6)
    rbm.chain.zero_()
    rbm.contrastive_divergence(states(4))
    kept = rbm.chain.clone()
    assert kept.shape == (6, 4) and kept.any()
    other = made(chains=6)
    other.load_state_dict(rbm.state_dict())
    assert other.chain.equal(kept)
    assert {name for name, _ in rbm.named_parameters()} == {"weight", "visible_bias", "hidden_bias"}


def test_persistent_chains_do_not_start_at_the_data() -> None:
    rbm = made(chains=6)
    rbm.chain.zero_()
    torch.manual_seed(3)
    rbm.contrastive_divergence(torch.ones(2, 4, dtype=torch.float64))
    torch.manual_seed(3)
    assert rbm.chain.equal(rbm.gibbs(torch.zeros(6, 4, dtype=torch.float64)))


def test_the_same_seed_gives_the_same_machine() -> None:
    torch.manual_seed(5)
    first = RBM(6, 5, chains=3)
    torch.manual_seed(5)
    second = RBM(6, 5, chains=3)
    assert first.weight.equal(second.weight) and first.chain.equal(second.chain)


def test_it_stacks_like_any_layer() -> None:
    deep = torch.nn.Sequential(RBM(8, 6), RBM(6, 4))
    assert deep(torch.rand(2, 3, 8)).shape == (2, 3, 4)
    assert "visible=8, hidden=6, steps=1, chains=0" in repr(deep)


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0), (3, 3, 0), (3, 3, 1, -1)])
def test_sizes_that_make_no_sense_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(WellfitError, match=r"RBM: [a-z]+ is -?\d: give it"):
        RBM(*sizes)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (torch.rand(5, 3), "last axis must be the 4 visible units"),
        (torch.rand(2, 2, 4), r"give a batch of rows \(N, 4\)"),
        (torch.rand(4), r"give a batch of rows \(N, 4\)"),
        (torch.rand(0, 4), "N at least 1"),
        (torch.randn(20, 4), r"scale them into \[0, 1\]"),
        (torch.full((2, 4), float("nan")), r"scale them into \[0, 1\]"),
        (torch.ones(2, 4, dtype=torch.long), "give floating-point numbers"),
        (torch.tensor(1.0), "last axis must be"),
    ],
)
def test_data_that_do_not_fit_are_refused(data: Tensor, words: str) -> None:
    rbm = RBM(4, 3)
    with pytest.raises(WellfitError, match=words):
        rbm.contrastive_divergence(data)


def test_hidden_states_that_do_not_fit_are_refused() -> None:
    with pytest.raises(WellfitError, match="last axis must be the 3 hidden units"):
        RBM(4, 3).visible_probability(torch.rand(2, 4))
    with pytest.raises(WellfitError, match="last axis must be the 3 hidden units"):
        RBM(4, 3).energy(torch.rand(2, 4), torch.rand(2, 2))


def test_the_example_of_the_documentation_runs() -> None:
    result = doctest.testmod(wellfit.nn.rbm)
    assert result.attempted and not result.failed


def test_wellfit_alone_imports_no_torch() -> None:
    program = "import sys, wellfit; assert 'torch' not in sys.modules; import wellfit.nn; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
