"""`wellfit.slim.save` and `load`: what goes into a file comes out of it, into the user's own class."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from overridden import ENV
from torch import nn

import wellfit.slim
from wellfit.errors import WellfitError
from wellfit.slim.changes.cut import Cut
from wellfit.slim.wfz import Damaged

TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool,
         torch.complex64, torch.float8_e4m3fn)  # fmt: skip


class Net(nn.Module):
    """An embedding whose table is the head's too, a recurrent layer, a norm with buffers."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.table = nn.Embedding(20, width)
        self.lstm = nn.LSTM(width, width, num_layers=2)
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, 20, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.lstm(self.table(x))[0][-1]))


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def test_a_model_comes_back_bit_for_bit(tmp_path: Path) -> None:
    model = Net().eval()
    written = wellfit.slim.save(model, tmp_path / "net.wfz")
    again = wellfit.slim.load(tmp_path / "net.wfz", Net()).eval()
    x = torch.randint(0, 20, (7, 3))
    assert torch.equal(again(x), model(x))
    assert again.head.weight is again.table.weight
    assert written.bytes < sum(4 * value.numel() for value in set(model.parameters())) + 400


def test_without_a_model_a_state_dict_comes_back(tmp_path: Path) -> None:
    model = Net()
    wellfit.slim.save(model.state_dict(), tmp_path / "net.wfz")
    state = wellfit.slim.load(tmp_path / "net.wfz")
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert state["head.weight"] is state["table.weight"]
    assert not any(value.requires_grad for value in state.values())


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(TYPES), st.lists(st.integers(0, 5), max_size=3), st.integers(0, 99), st.booleans())
def test_all_types_and_shapes(
    tmp_path_factory: pytest.TempPathFactory, dtype: torch.dtype, shape: list[int], seed: int, turned: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    value = (3 * torch.randn(shape, generator=generator)).to(dtype)
    value = value.mT if turned and value.dim() > 1 else value
    path = tmp_path_factory.mktemp("types") / "one.wfz"
    wellfit.slim.save({"one": value}, path)
    found = wellfit.slim.load(path)["one"]
    assert (found.dtype, found.shape) == (dtype, value.shape)
    assert bits(found) == bits(value)


def test_a_view_of_another_tensor_is_no_tied_one(tmp_path: Path) -> None:
    whole = torch.randn(6, 6)
    state = {"whole": whole, "turned": whole.T, "part": whole[:3], "same": whole}
    wellfit.slim.save(state, tmp_path / "views.wfz")
    found = wellfit.slim.load(tmp_path / "views.wfz")
    assert all(torch.equal(found[name], value) for name, value in state.items())
    assert found["same"] is found["whole"]


def test_changes_of_the_structure_are_made_again(tmp_path: Path) -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

    model, x = make(), torch.randn(4, 6)
    kept = (0, 1, 3, 4, 6, 7)
    cut = Cut((("0.weight", 0, kept), ("0.bias", 0, kept), ("2.weight", 1, kept)))
    cut.apply(model)
    wellfit.slim.save(model, tmp_path / "cut.wfz", [cut])
    again = wellfit.slim.load(tmp_path / "cut.wfz", make())
    assert again[0].out_features == 6
    assert torch.equal(again(x), model(x))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Net(16), r"table.weight has the shape \[20, 12\] in the file, and \[20, 16\] in the model"),
        (nn.LSTM(12, 12), "net.wfz does not have weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0"),
        (nn.ModuleDict({"head": nn.Linear(12, 20)}), "net.wfz does not have head.bias"),
        (
            nn.ModuleDict({"head": nn.Linear(12, 20, bias=False)}),
            "ModuleDict does not have table.weight, .* and 9 more",
        ),
    ],
)
def test_a_class_that_changed_is_told_in_one_sentence(tmp_path: Path, model: nn.Module, said: str) -> None:
    wellfit.slim.save(Net(), tmp_path / "net.wfz")
    with pytest.raises(WellfitError, match=f"net.wfz does not fit {type(model).__name__}.*{said}") as caught:
        wellfit.slim.load(tmp_path / "net.wfz", model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.eye(3).to_sparse(), "one is sparse"),
        (torch.eye(3, device="meta"), r"one has no numbers \(meta\)"),
        ([1.0], r"one is no tensor \(list\)"),
    ],
)
def test_what_a_file_cannot_hold_is_refused(tmp_path: Path, value: object, said: str) -> None:
    with pytest.raises(WellfitError, match=said):
        wellfit.slim.save({"one": value}, tmp_path / "one.wfz")  # type: ignore[dict-item]
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_no_model(tmp_path: Path) -> None:
    wellfit.slim.save(Net(), tmp_path / "net.wfz")
    data = bytearray((tmp_path / "net.wfz").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "net.wfz").write_bytes(data)
    with pytest.raises(Damaged):
        wellfit.slim.load(tmp_path / "net.wfz", Net())


def test_the_package_imports_neither_torch_nor_numpy_before_they_are_needed() -> None:
    code = "import sys, wellfit.slim, wellfit.slim.command; print({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], env=ENV, text=True, capture_output=True, check=True)
    assert done.stdout == "set()\n"
