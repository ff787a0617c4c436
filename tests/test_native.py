"""The kernel against its torch twin and against slow, obvious numpy, at every instruction set of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from array import array

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wellfit.errors import WellfitError
from wellfit.probe import native
from wellfit.probe.native import ABSOLUTE, SIGNED, Statistics

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SPECIAL = [0.0, -0.0, 1.0, -1.0, 1e25, -1e25, 1e-25, 1e-40, 3e38, -3e38, 65504.0, 6e-8, np.inf, -np.inf, np.nan]
LEVELS = ["scalar", "avx2", "avx512", "neon"]

quick = settings(max_examples=25, deadline=None, derandomize=True, database=None)


def implementation(name: str) -> Statistics:
    """The twin, or the kernel at a level; skips where this machine cannot run it."""
    if name == "twin":
        return native.twin
    if native.kernel is None:
        pytest.skip("the C kernel is not built (python setup.py build_ext --inplace)")
    if native.kernel.set_level(name) != name:
        pytest.skip(f"this processor has no {name}")
    return native.kernel


@pytest.fixture(autouse=True)
def best_level():
    yield
    if native.kernel is not None:
        native.kernel.set_level(LEVELS[-1])  # more than the processor has means the best that it has


everywhere = pytest.mark.parametrize("name", ["twin", *LEVELS])
kernel_levels = pytest.mark.parametrize("name", LEVELS)


@st.composite
def tensors(draw, max_size: int = 1500):
    """A tensor of any of the dtypes, some magnitude, some special values, now and then starting off the grid."""
    size, skip = draw(st.integers(0, max_size)), draw(st.integers(0, 3))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = generator.standard_normal(size + skip) * draw(st.sampled_from([1.0, 1e-25, 1e25, 1e-41, 1e-6]))
    for value in draw(st.lists(st.sampled_from(SPECIAL), max_size=4)):
        if len(values):
            values[draw(st.integers(0, len(values) - 1))] = value
    if draw(st.booleans()):
        values = np.maximum(values, 0)
    return torch.from_numpy(values).to(draw(st.sampled_from(DTYPES)))[skip:]


def wide(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def close(found: float, expected: float, scale: float = 0.0, tolerance: float = 1e-5) -> bool:
    if np.isnan(expected) or np.isinf(expected):
        return bool(np.array_equal(found, expected, equal_nan=True))
    return abs(found - expected) <= tolerance * max(abs(expected), scale) + 1e-300


def assert_same(found, expected, scale: float) -> None:
    """Counts and maxima are exact; means may differ as much as float sums of blocks do."""
    assert found[0] == expected[0]
    assert close(found[1], expected[1], scale), (found, expected)
    assert close(found[2], expected[2]), (found, expected)
    assert np.array_equal(found[3:6], expected[3:6], equal_nan=True), (found, expected)


@np.errstate(all="ignore")
def obvious_summary(tensor: torch.Tensor, mode: int, low: float, high: float):
    x = wide(tensor)
    if x.size == 0:
        return (0.0,) * 6
    few = (x if mode == SIGNED else np.abs(x)) <= low
    many = (np.abs(x) >= high) & np.isfinite(high)
    return x.size, x.mean(), np.sqrt((x * x).mean()), np.abs(x).max(), few.sum(), many.sum()


def magnitude(tensor: torch.Tensor) -> float:
    x = np.abs(wide(tensor))
    return float(x[np.isfinite(x)].max(initial=0.0))


@everywhere
@quick
@given(
    tensor=tensors(),
    mode=st.sampled_from([ABSOLUTE, SIGNED]),
    low=st.sampled_from([0.0, 1e-3, -0.5, np.nan, 1e-45]),
    high=st.sampled_from([1.0, 1e24, np.inf, np.nan, 0.1, 1e39]),
)
def test_summary_is_the_obvious_one(name, tensor, mode, low, high):
    [found] = implementation(name).summaries([tensor], [mode], [low], [high], 0, 0)
    assert_same(found, obvious_summary(tensor, mode, low, high), magnitude(tensor))


@everywhere
@pytest.mark.parametrize("dtype", DTYPES)
def test_summary_of_more_than_one_block(name, dtype):
    x = torch.linspace(-3, 5, 30_011).to(dtype)
    x[17_000] = 0
    [found] = implementation(name).summaries([x], [SIGNED], [0.0], [4.0], 0, 0)
    assert_same(found, obvious_summary(x, SIGNED, 0.0, 4.0), 5.0)


@everywhere
def test_one_nan_anywhere_shows_everywhere(name):
    for place in (0, 15, 31, 40, 511, 600, 4100, 9000):
        x = torch.ones(9001)
        x[place] = float("nan")
        [(_, mean, rms, amax, low, high)] = implementation(name).summaries([x], [0], [0.0], [0.5], 0, 0)
        assert np.isnan([mean, rms, amax]).all(), place
        assert (low, high) == (0, 9000)


@everywhere
def test_squares_out_of_the_range_of_float(name):
    mixed = torch.cat([torch.full((5000,), 1e25), torch.full((5000,), 1e-25), torch.ones(11)])
    found = implementation(name).summaries(
        [torch.full((5001,), 1e25), torch.full((5001,), -1e-25), mixed], [0] * 3, [0.0] * 3, [np.inf] * 3, 0, 0
    )
    assert [row[2] for row in found[:2]] == pytest.approx([1e25, 1e-25], rel=1e-6)
    assert [row[1] for row in found[:2]] == pytest.approx([1e25, -1e-25], rel=1e-6)
    assert found[2][2] == pytest.approx(np.sqrt(5000 / 10011) * 1e25, rel=1e-6)


@everywhere
def test_a_tensor_that_is_not_even_aligned_to_its_type(name):
    subject, raw = implementation(name), bytearray(b"x" + np.arange(1001, dtype=np.float32).tobytes())
    x = torch.frombuffer(raw, dtype=torch.float32, offset=1)
    [found] = subject.summaries([x], [0], [0.0], [1000.0], 0, 0)
    assert found[1] == pytest.approx(500.0) and found[3:] == (1000.0, 1.0, 1.0)
    assert list(subject.units(x.reshape(77, 13), 1, 0, 0).maximum) == list(range(988, 1001))


@kernel_levels
@quick
@given(
    size=st.integers(0, 9000), cap=st.integers(1, 3000), seed=st.integers(0, 2**64 - 1), dtype=st.sampled_from(DTYPES)
)
def test_kernel_and_twin_look_at_the_same_elements(name, size, cap, seed, dtype):
    subject = implementation(name)
    x = torch.arange(size).mul(0.5).sub(7).to(dtype)
    arguments = ([x], [SIGNED], [100.0], [1000.0], cap, seed)
    [found], [expected] = subject.summaries(*arguments), native.twin.summaries(*arguments)
    assert found[0] <= max(cap, 1)
    assert_same(found, expected, magnitude(x))


@everywhere
def test_a_sample_is_not_fooled_by_a_period(name):
    """256 strata of 4096 elements, on a tensor whose period is 4096: an even sample would say 0 or 1."""
    subject, x = implementation(name), (torch.arange(2**20) % 4096 < 256).float()
    means = [subject.summaries([x], [0], [0.0], [2.0], 65_536, seed)[0][1] for seed in range(16)]
    assert np.mean(means) == pytest.approx(1 / 16, abs=0.015)
    assert len(set(means)) > 10


@everywhere
def test_the_first_element_is_sampled_as_often_as_any_other(name):
    subject, ends = implementation(name), [torch.zeros(1024), torch.zeros(1024), torch.zeros(1024)]
    ends[0][0] = ends[1][512] = ends[2][-1] = 1
    seen = np.zeros(3)
    for seed in range(200):
        seen += [row[3] for row in subject.summaries(ends, [0] * 3, [0.0] * 3, [2.0] * 3, 256, seed)]
    assert (np.abs(seen - 50) < 25).all(), seen


@np.errstate(all="ignore")
def obvious_units(tensor: torch.Tensor, axis: int):
    x = np.moveaxis(wide(tensor), axis, 0).reshape(tensor.shape[axis], -1)
    return x.max(1), np.abs(x).max(1), x.sum(1), (x * x).sum(1)


def assert_units(found, expected, n: int) -> None:
    assert found.n == n
    assert np.array_equal(found.maximum, expected[0], equal_nan=True)
    assert np.array_equal(found.absolute, expected[1], equal_nan=True)
    for mine, total, square in zip(found.sum, expected[2], expected[3], strict=True):
        assert close(mine, total, np.sqrt(square * n) if np.isfinite(square) else 0.0), (mine, total)
    assert all(close(mine, square) for mine, square in zip(found.sumsq, expected[3], strict=True))


@everywhere
@quick
@given(
    flat=tensors(max_size=3000),
    axis=st.integers(-3, 2),
    first=st.sampled_from([1, 2, 5, 150]),
    last=st.sampled_from([1, 3, 16, 49, 300]),
)
def test_units_are_the_obvious_ones(name, flat, axis, first, last):
    size = first * last
    x = flat[: flat.numel() // size * size].reshape(first, -1, last)
    if x.numel() == 0:
        return
    assert_units(implementation(name).units(x, axis, 0, 0), obvious_units(x, axis), x.numel() // x.shape[axis])


@everywhere
@pytest.mark.parametrize("shape", [(0, 5), (4, 0), (3, 5, 0)])
def test_units_of_nothing_are_zero(name, shape):
    found = implementation(name).units(torch.ones(shape), 1, 0, 0)
    assert found.n == (4 if shape == (4, 0) else 0)
    assert list(found.maximum) == list(found.absolute) == list(found.sum) == list(found.sumsq) == [0.0] * shape[1]


@kernel_levels
@pytest.mark.parametrize("shape", [(1000, 37), (300, 5, 7), (90, 4, 200)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_units_of_sampled_rows(name, shape, dtype):
    x = torch.linspace(-1, 2, int(np.prod(shape))).to(dtype).reshape(shape)
    found, twin = implementation(name).units(x, 1, 50, 9), native.twin.units(x, 1, 50, 9)
    assert_units(found, (twin.maximum, twin.absolute, twin.sum, twin.sumsq), 50 * x[0, 0].numel())


@everywhere
def test_units_refuse_what_they_cannot_answer(name):
    with pytest.raises(WellfitError, match="no axis 2"):
        implementation(name).units(torch.ones(2, 3), 2, 0, 0)


@kernel_levels
def test_kernel_units_refuse_a_permuted_tensor(name):
    with pytest.raises(WellfitError, match="contiguous"):
        implementation(name).units(torch.ones(2, 3).t(), 0, 0, 0)


@everywhere
@quick
@given(tensor=tensors(max_size=700), per_tensor=st.sampled_from([0, 5, 100, 512]), seed=st.integers(0, 2**64 - 1))
def test_change_of_nothing_and_of_everything(name, tensor, per_tensor, seed):
    subject = implementation(name)
    x = torch.nan_to_num(tensor, 1.0, 2.0, -2.0).clamp(-1e4, 1e4)
    before = subject.take([x, x], per_tensor, seed)
    other = x.clone()
    other += 1.0
    still, moved = subject.change([x, other], [torch.ones_like(x), None], before)
    count = x.numel() if per_tensor == 0 or x.numel() <= per_tensor else per_tensor - per_tensor % min(16, per_tensor)
    assert still[:6] == (count, 0.0, 0.0, 0.0, count, count)
    assert moved[0] == count and moved[5] == 0
    [plain] = native.twin.change([other], [None], native.twin.take([x], per_tensor, seed))
    assert moved == pytest.approx(plain, rel=1e-12, abs=1e-12)


@everywhere
def test_bfloat16_weights_that_do_not_move(name):
    """A step of 1e-4 is lost on a bfloat16 of 1; where the gradient is 0 that is as it should be."""
    subject = implementation(name)
    weight, gradient = torch.ones(100, dtype=torch.bfloat16), torch.ones(100)
    weight[60:] = 0
    gradient[:25] = 0
    before = subject.take([weight], 4096, 0)
    weight.sub_(1e-4)
    [(count, mean, rms, amax, unchanged, stuck, weight_rms)] = subject.change([weight], [gradient], before)
    step = float(weight[99])
    assert (count, unchanged, stuck) == (100, 60, 35)
    assert (mean, rms, amax) == pytest.approx((0.4 * step, np.sqrt(0.4) * -step, -step))
    assert weight_rms == pytest.approx(np.sqrt(0.6), rel=1e-5)


@everywhere
def test_float64_changes_below_the_resolution_of_float32(name):
    subject, x, y = implementation(name), torch.ones(3), torch.ones(5001, dtype=torch.float64)
    before = subject.take([x, y], 4096, 3)  # after three floats, the doubles start off their grid
    y += 1e-12
    _, (count, mean, rms, amax, unchanged, _, _) = subject.change([x, y], [None, None], before)
    assert (count, unchanged) == (4096, 0)
    assert (mean, rms, amax) == pytest.approx((1e-12,) * 3, rel=1e-3)


@everywhere
def test_gradient_in_another_memory_order(name):
    subject, weight, gradient = implementation(name), torch.zeros(30, 40), torch.zeros(40, 30).t()
    gradient[3] = 1
    before = subject.take([weight, weight.t()], 0, 0)
    both = subject.change([weight, weight.t()], [gradient, gradient.t()], before)
    sampled = subject.change([weight], [gradient], subject.take([weight], 1199, 0))
    assert [row[5] for row in both] == [40, 40]
    assert sampled == native.twin.change([weight], [gradient], native.twin.take([weight], 1199, 0))


@everywhere
def test_gradients_that_cannot_be_compared_count_as_none(name):
    subject, weight = implementation(name), torch.ones(4, 4)
    wrong = [torch.ones(4, 4).to_sparse(), torch.ones(1, 1).expand(2, 8), torch.ones(3)]
    before = subject.take([weight] * 3, 0, 0)
    assert [row[4:6] for row in subject.change([weight] * 3, wrong, before)] == [(16, 0)] * 3


@everywhere
def test_snapshots_that_do_not_fit(name):
    subject, x = implementation(name), torch.ones(10)
    before = subject.take([x], 0, 0)
    with pytest.raises(WellfitError, match="1 tensors, not 2"):
        subject.change([x, x], [None, None], before)
    assert subject.change([torch.ones(11)], [None], before) == [(0.0,) * 7]


@everywhere
def test_a_new_snapshot_does_not_spoil_an_older_one(name):
    subject, x, y = implementation(name), torch.ones(100), torch.zeros(100)
    subject.take([y], 0, 0)  # dropped: leaves its buffer to the next one
    first, second = subject.take([x], 0, 0), subject.take([y], 0, 0)
    assert subject.change([x], [None], first)[0][4] == subject.change([y], [None], second)[0][4] == 100


@everywhere
def test_unit_age(name):
    age = implementation(name).unit_age(3, limit=2)
    assert age.update(array("d", [1.0, 0.0, float("nan")]), 0.0) == 0
    assert age.update(array("d", [1.0, 0.0, float("nan")]), 0.0) == 2
    assert age.update(array("d", [0.0, 0.5, 0.0]), 0.0) == 1
    with pytest.raises(WellfitError, match="2 units"):
        age.update(array("d", [1.0, 1.0]), 0.0)


@everywhere
def test_tensors_are_only_read(name):
    subject = implementation(name)
    weight = torch.nn.Parameter(torch.linspace(-1, 1, 999).reshape(27, 37))
    output = weight * 2
    copy, version, state = weight.detach().clone(), output._version, torch.get_rng_state()
    subject.summaries([weight, output], [0, 1], [0.0, 0.0], [1.0, 1.0], 300, 1)
    subject.units(output, 1, 5, 1)
    subject.change([weight], [output], subject.take([weight], 100, 1))
    assert output._version == version and weight._version == 0 and weight.grad is None
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(weight, copy)


class Odd(torch.Tensor):
    """A subclass: what it holds in memory is its own affair."""


def test_what_the_kernel_may_be_given():
    x = torch.ones(2, 3, 4, 5)
    yes = [x, x.to(memory_format=torch.channels_last), x.permute(3, 1, 0, 2), torch.nn.Parameter(x), x[1], x[:0]]
    no = [x[:, 1], x[:1].expand(2, 3, 4, 5), x.to_sparse(), x.to("meta"), x.int(), x.as_subclass(Odd)]
    no.append(torch.view_as_complex(torch.ones(3, 2)).conj().imag)
    with torch._subclasses.FakeTensorMode():
        no.append(torch.ones(3))
    assert [native.supports(tensor) for tensor in yes] == [True] * len(yes)
    assert [native.supports(tensor) for tensor in no] == [False] * len(no)
    inside = []
    torch.func.vmap(lambda row: (inside.append(native.supports(row)), row)[1])(torch.ones(2, 3))
    assert inside == [False]


@everywhere
def test_order_does_not_matter_to_a_summary(name):
    x = torch.linspace(-1, 1, 120).reshape(2, 3, 4, 5)
    permuted = [x, x.to(memory_format=torch.channels_last), x.permute(3, 1, 0, 2)]
    rows = implementation(name).summaries(permuted, [0] * 3, [0.5] * 3, [0.9] * 3, 0, 0)
    assert rows[0][3:] == rows[1][3:] == rows[2][3:]
    assert rows[1] == pytest.approx(rows[0], abs=1e-6) == rows[2]


def test_twin_takes_what_the_kernel_cannot():
    x = torch.arange(12).reshape(3, 4)
    subjects = [x, x[:, 1], x.bool(), torch.view_as_complex(torch.ones(6, 2))]
    rows = native.twin.summaries(subjects, [0] * 4, [0.0] * 4, [5.0] * 4, 0, 0)
    assert [row[0] for row in rows] == [12, 3, 12, 12]
    assert rows[0][1] == 5.5 and rows[1][1] == 5.0 and rows[2][4] == 1
    assert native.twin.units(x.t(), 0, 0, 0).maximum.tolist() == [8, 9, 10, 11]


def test_it_can_be_switched_off():
    program = "import torch, wellfit.probe.native as n; print(n.kernel, n.statistics(torch.ones(2)).name)"
    environment = {**os.environ, "WELLFIT_NATIVE": "0"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None", "twin"]


@pytest.mark.parametrize("engine", ["kernel", "twin"])
def test_moments_are_those_of_the_units(engine):
    made = getattr(native, engine)
    if made is None:
        pytest.skip("the kernel was not built")
    tensor = torch.randn(32, 5) * torch.tensor([1.0, 0.0, 3.0, 0.5, 2.0])
    tensor[:, 3] = 0.5  # a unit that does not vary
    moments = made.moments(made.units(tensor, 1, 0, 1))
    squares = tensor.double().square().sum(0)
    assert moments.variance == pytest.approx(tensor.double().var(0, correction=0).sum().item(), rel=1e-6)
    assert moments.square == pytest.approx(squares.sum().item(), rel=1e-6)
    assert moments.flat == 2
    assert (moments.least, moments.most) == pytest.approx(
        (squares[squares > 0].min().item(), squares.max().item()), rel=1e-6
    )
