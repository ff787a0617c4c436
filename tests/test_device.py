"""The statistics of accelerators, computed here on the CPU: the same numbers as the kernel's, a step late."""

import math

import pytest

torch = pytest.importorskip("torch")

from wellfit.probe.device import SAMPLES, Device  # noqa: E402
from wellfit.probe.statistics import Meter  # noqa: E402


@pytest.fixture
def rows():
    return {}


@pytest.fixture
def device(rows):
    return Device(lambda step, what, subject, row: rows.__setitem__((step, what, subject), row))


def arrive(device):
    device.end_step()
    device.collect()


def test_a_summary_is_that_of_the_kernel(device, rows):
    tensor = torch.randn(40, 30)
    device.summary(3, "activation", "fc", tensor, 1, 0.0, 1.5, (1, {}, 20))
    assert not rows  # nothing is read before the step has ended
    arrive(device)
    row = rows[3, "activation", "fc"]
    expected = Meter().summary(tensor, 1, 0.0, 1.5)
    assert row[:6] == pytest.approx(expected, rel=1e-5)
    variation = math.sqrt(tensor.var(0, correction=0).mean().item()) / tensor.square().mean().sqrt().item()
    assert row[6] == 0.0
    assert row[7] == pytest.approx(variation, rel=1e-4)


def test_units_are_silent_after_their_limit(device, rows):
    ages = {}
    tensor = torch.ones(8, 4)
    tensor[:, 1] = 0
    for step in range(3):
        device.summary(step, "activation", "relu", tensor, 0, 0.0, math.inf, (1, ages, 3))
        arrive(device)
    assert [rows[step, "activation", "relu"][6] for step in range(3)] == [0.0, 0.0, 0.25]


def test_parameters_gradients_and_updates(device, rows):
    parameters = [torch.randn(30, 20), torch.randn(7), torch.randn(3 * SAMPLES)]
    gradients = [torch.randn_like(p) for p in parameters]
    names = ["a", "b", "c"]
    device.before_step(5, parameters, gradients, names)
    parameters[0].add_(0.5)
    parameters[2].mul_(1.1)
    device.after_step()
    arrive(device)
    for name, gradient in zip(names, gradients, strict=True):
        assert rows[5, "gradient", name][2] == pytest.approx(gradient.square().mean().sqrt().item(), rel=1e-5)
        assert rows[5, "gradient", name][3] == pytest.approx(gradient.abs().max().item(), rel=1e-6)
    assert rows[5, "update", "a"][2] == pytest.approx(0.5, rel=1e-5)
    assert rows[5, "update", "b"][4] == 7  # unchanged
    ratio = rows[5, "update", "c"][2] / rows[5, "update", "c"][6]
    assert ratio == pytest.approx(0.1 / 1.1, rel=1e-4)
    assert rows[5, "update", "c"][0] == SAMPLES


def test_what_is_not_finite_is_told(device, rows):
    told = []
    device.on_non_finite = lambda what, subject: told.append((what, subject))
    device.summary(0, "activation", "fc", torch.tensor([[1.0, math.nan]]), 0, 0.0, math.inf)
    arrive(device)
    assert told == [("activation", "fc")]


def test_tensors_are_left_as_they_are(device):
    parameter = torch.nn.Parameter(torch.randn(5, 5))
    parameter.grad = torch.randn(5, 5)
    before, state, version = parameter.detach().clone(), torch.get_rng_state(), parameter._version
    device.before_step(0, [parameter], [parameter.grad], ["w"])
    device.after_step()
    arrive(device)
    assert torch.equal(parameter, before)
    assert parameter._version == version
    assert torch.equal(torch.get_rng_state(), state)
