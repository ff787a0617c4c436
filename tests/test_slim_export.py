"""`wellfit slim export`: the network of a file as a program of torch.export and as ONNX, and the proof of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import slim_models
import torch
from overridden import ENV
from torch import nn

from wellfit import slim
from wellfit.cli import main
from wellfit.errors import WellfitError
from wellfit.slim.changes import Change
from wellfit.slim.changes.binary import Binary
from wellfit.slim.changes.quantised import Quantised
from wellfit.slim.changes.steps import Steps
from wellfit.slim.exporting import formats, proof
from wellfit.slim.exporting.proof import export
from wellfit.slim.from_model import exporting
from wellfit.slim.measure.running import tensors_in
from wellfit.slim.planning.step import Step

MISSING = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
SUFFIXES = [
    ".pt2",
    pytest.param(".onnx", marks=pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")),
]

SLIMMED: dict[str, tuple[str, tuple[Step, ...]]] = {
    "mlp, shared values": ("mlp", (Step("fc1", "share", 4), Step("fc2", "prune", 0.5))),
    "convolutions with norms, cut and tucker": ("vgg", (Step("0", "cut", 0.5), Step("7", "tucker", (4, 4)))),
    "convolutions with norms folded": ("vgg", (Step("0", "fold", "1"),)),
    "transformer, svd": ("encoder", (Step("encoder.layers.0.linear1", "svd", 4),)),
    "lstm": ("lstm", ()),
    "outputs by name": ("two-outputs", (Step("trunk", "svd", 2),)),
}


class TwoOutputs(slim_models.TwoOutputs):
    """Without the text among its outputs."""

    def forward(self, a: torch.Tensor, *, b: torch.Tensor) -> dict[str, Any]:
        found = super().forward(a, b=b)
        return {**found, "rest": (found["rest"][0], None)}


def made(name: str, folder: Path) -> tuple[nn.Module, Any]:
    """A slim model, as it comes back from its file, and an example of its inputs."""
    kind, steps = SLIMMED[name]
    torch.manual_seed(0)
    model, x = slim_models.made(kind)
    fresh, _ = slim_models.made(kind)
    if kind == "two-outputs":
        model, fresh, x = TwoOutputs(), TwoOutputs(), dict(reversed(x.items()))
    slimmed = slim.apply(model.eval(), slim.Plan("size", 100.0, steps), x)
    assert slimmed.steps == steps
    slim.save(slimmed.model, folder / "x.wfz", slimmed.changes)
    return slim.load(folder / "x.wfz", fresh).eval(), x


def called(path: Path, x: Any) -> list[torch.Tensor]:
    """What a file gives, read without anything of ours."""
    by_name = x if isinstance(x, dict) else {}
    if path.suffix == ".pt2":
        module = torch.export.load(path).module()
        return list(tensors_in(module(**x) if by_name else module(x)))
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    names = [one.name for one in session.get_inputs()]
    found = session.run(None, {name: (by_name[name] if by_name else x).numpy() for name in names})
    return [torch.from_numpy(array) for array in found]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", SLIMMED)
def test_what_is_exported_computes_the_same_for_any_batch(name: str, suffix: str, tmp_path: Path) -> None:
    model, x = made(name, tmp_path)
    done = export(model, x, tmp_path / f"x{suffix}")
    assert done.problem is None and done.is_any_batch and done.checked_by, done.problem
    assert done.inputs[0].shape[0] == done.outputs[0].shape[0] == "batch"
    assert done.bytes == done.path.stat().st_size and done.difference <= 1e-5
    assert {path.name for path in tmp_path.iterdir()} == {"x.wfz", f"x{suffix}"}
    more = {key: value.repeat(3, 1) for key, value in x.items()} if isinstance(x, dict) else torch.cat([x, x, x[:1]])
    with torch.no_grad():
        expected = list(tensors_in(model(**more) if isinstance(x, dict) else model(more)))
        found = called(done.path, more)
    assert len(expected) == len(found)
    for one, other in zip(expected, found):
        assert torch.allclose(one, other, atol=1e-5)


class Fixed(nn.Linear):
    """Takes five samples."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.reshape(5, 4))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_batch_that_the_network_fixes_is_told(suffix: str, tmp_path: Path) -> None:
    done = export(Fixed(4, 3).eval(), torch.randn(5, 4), tmp_path / f"x{suffix}")
    assert not done.is_any_batch and done.inputs[0].shape == (5, 4) and done.problem is None and done.batches == (5,)
    assert "Batch:   5 only" in exporting._text(done)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_one_sample_stands_for_any_number(suffix: str, tmp_path: Path) -> None:
    done = export(nn.Linear(4, 2).eval(), torch.randn(1, 4), tmp_path / f"x{suffix}")
    assert done.is_any_batch and done.batches == (1, 2) and done.problem is None


def test_a_factored_lstm_keeps_its_batch_open(tmp_path: Path) -> None:
    model = slim_models.LstmClassifier(layers=1, both=False).eval()
    Steps("rnn", 3).apply(model)
    done = export(model, torch.randint(20, (4, 7)), tmp_path / "x.pt2")
    assert done.is_any_batch and done.problem is None and done.difference <= 1e-6


KERNELS: dict[str, Change] = {
    "binarise": Binary("fc1", both=True),
    "int8": Quantised("fc1", "int8"),
    "int4": Quantised("fc1", "int4"),
}


@pytest.mark.parametrize("method", KERNELS)
def test_layers_of_kernels_are_named(method: str, tmp_path: Path) -> None:
    model, x = slim_models.made("mlp")
    KERNELS[method].apply(model)
    with pytest.raises(WellfitError, match=rf"^fc1 \(\w+Linear\) computes by a kernel.*without {method}$"):
        export(model.eval(), x, tmp_path / "x.pt2")
    assert not list(tmp_path.iterdir())


class Decides(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


class NoTensors(nn.Linear):
    def forward(self, x: torch.Tensor) -> Any:
        return {"y": super().forward(x), "note": "as said"}


def test_what_torch_cannot_follow_is_one_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(WellfitError) as caught:
        export(nn.Sequential(nn.Linear(4, 4), Decides()).eval(), torch.randn(5, 4), tmp_path / "x.pt2")
    said = str(caught.value)
    assert said.startswith("torch.export cannot follow the network in 1 (Decides) at test_slim_export.py:"), said
    assert "data-dependent" in said and "\n" not in said
    assert capfd.readouterr() == ("", "")  # torch prints pages of graphs
    with pytest.raises(WellfitError, match="an object of the type str: what is exported returns tensors only"):
        export(NoTensors(4, 4).eval(), torch.randn(5, 4), tmp_path / "x.pt2")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def twice() -> Callable[[torch.Tensor], torch.Tensor]:
    """An operation of the user's own."""

    @torch.library.custom_op("wellfit_test::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    twice.register_fake(torch.empty_like)
    return twice


def test_operations_of_the_users_own_are_told(twice: Callable[..., torch.Tensor], tmp_path: Path) -> None:
    class Own(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return twice(x)

    model = nn.Sequential(nn.Linear(4, 4), Own()).eval()
    done = export(model, torch.randn(5, 4), tmp_path / "x.pt2")
    assert done.needs == ("wellfit_test.twice.default",)
    assert "it needs wellfit_test.twice.default where it is loaded" in exporting._text(done)
    if not MISSING:
        with pytest.raises(WellfitError, match=r"in 1 \(Own\): it has nothing for the operation wellfit_test.twice"):
            export(model, torch.randn(5, 4), tmp_path / "x.onnx")


def test_a_file_that_computes_something_else_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(5, 4)
    model, other, wide = (nn.Linear(4, outputs).eval() for outputs in (2, 2, 3))
    write = proof.write
    for wrong, said in ((other, "outputs differ by"), (wide, "outputs have other shapes")):
        program = proof.program_of(wrong, proof.Inputs.of(x))
        monkeypatch.setattr(proof, "write", lambda _, path, model, program=program: write(program, path, model))
        done = export(model, x, tmp_path / "x.pt2")
        assert done.problem is not None and "does not compute what the network does" in done.problem
        assert said in done.problem
    monkeypatch.setattr(proof, "write", lambda program, path, model: path.write_bytes(b"no archive"))
    done = export(model, x, tmp_path / "x.pt2")
    assert done.problem is not None and "was written, but cannot be run" in done.problem and done.checked_by is None


def test_a_wrong_file_ends_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    slim.save(nn.Linear(4, 2), "x.wfz")
    (tmp_path / "narrow.py").write_text("import torch\ndef build(): return torch.nn.Linear(4, 2)\n")
    monkeypatch.setattr(proof, "write", lambda program, path, model: path.write_bytes(b"no archive"))
    told = {"file": "x.wfz", "to": "x.pt2", "model": "narrow:build", "inputs": "4", "max_bytes": None}
    assert exporting.run("phase", json.dumps(told)) == 1
    out, err = capsys.readouterr()
    assert err.startswith("wellfit: x.pt2 was written, but cannot be run") and "Check:" not in out


def test_without_onnxruntime_the_file_is_said_to_be_unchecked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "onnxruntime", lambda: None)
    monkeypatch.setattr(proof, "write", lambda program, path, model: path.write_bytes(b"written elsewhere"))
    done = export(nn.Linear(4, 2).eval(), torch.randn(5, 4), tmp_path / "x.onnx")
    assert done.problem is None and done.checked_by is None
    assert 'Check:   none, since onnxruntime is not there: pip install "wellfit[onnx]"' in exporting._text(done)


def test_without_the_extra_one_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert exporting.run("phase", json.dumps({"to": "x.onnx"})) == 2
    said = capsys.readouterr().err
    assert said.endswith('pip install "wellfit[onnx]"\n') and said.count("\n") == 1
    formats.needs(".pt2")  # needs nothing


USERS = """
import torch
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3))

class Other(nn.Linear):
    def __init__(self):
        super().__init__(12, 3)

class Dies(Net):
    def forward(self, x):
        import ctypes
        ctypes.string_at(0)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: a module, names that shadow packages, and the file of a network."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "mine_exported.py").write_text(USERS)
    for name in ("onnx", "random", "export"):
        (folder / f"{name}.py").write_text("raise RuntimeError('a module of the user')\n")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3))
    slimmed = slim.apply(model, slim.Plan("size", 100.0, (Step("1", "svd", 4),)), torch.randn(9, 3, 2, 2))
    slim.save(slimmed.model, folder / "net.wfz", slimmed.changes)
    return folder


def cli(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wellfit", "slim", "export", "net.wfz", *words]
    return subprocess.run(command, cwd=folder, env=ENV, capture_output=True, text=True, check=False, timeout=120)


WORDS = ("--model", "mine_exported:Net", "--inputs", "3x2x2")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_command_writes_a_file_that_needs_no_code(suffix: str, folder: Path) -> None:
    ran = cli(folder, *WORDS, "--to", f"net{suffix}")
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert lines[0] == f"net{suffix}: {(folder / f'net{suffix}').stat().st_size:,} bytes; it needs none of your code"
    assert lines[1:4] == [
        "Inputs:  input, float32 [batch, 3, 2, 2]",
        "Outputs: linear_2, float32 [batch, 3]",
        "Batch:   any",
    ]
    assert "with batches of 256, 1, 257: outputs differ by" in lines[4] and not ran.stderr
    assert str(folder).encode() not in (folder / f"net{suffix}").read_bytes()
    assert cli(folder, *WORDS, "--to", f"net{suffix}").stderr.startswith(f"wellfit: net{suffix} is there already")
    fresh = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3))
    x = torch.randn(4, 3, 2, 2)
    with torch.no_grad():
        expected = slim.load(folder / "net.wfz", fresh)(x)
    assert torch.allclose(called(folder / f"net{suffix}", x)[0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--to", "x.h5"), "--to wants the file to write: FILE.onnx, or FILE.pt2"),
        ((), "--to wants the file to write"),
        (("--to", "x.pt2", "--inputs", "3"), "export wants the network's code: --model MODULE:NAME"),
        (("--to", "x.pt2", "--model", "mine"), "--model wants a module and a name in it"),
        (("--to", "x.pt2", "--model", "mine_exported:Net"), "--model wants an example batch"),
        (("--to", "no/x.pt2", *WORDS), "no/x.pt2 cannot be written: there is no folder no"),
        (("--to", "net.wfz"), "--to wants the file to write"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes_of_the_command_line(
    folder: Path,
    words: tuple[str, ...],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    assert main(["slim", "export", "net.wfz", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"model": "mine_exported:Other"}, "Other has no layer '1'"),
        ({"inputs": "5"}, "with the example inputs the network fails: RuntimeError"),
        ({"max_bytes": 100}, "100 are allowed"),
    ],
    ids=lambda value: str(next(iter(value))) if isinstance(value, dict) else "",
)
def test_code_that_does_not_fit(
    folder: Path,
    words: dict[str, Any],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    told = {"file": "net.wfz", "to": "y.pt2", "model": "mine_exported:Net", "inputs": "3x2x2", "max_bytes": None}
    assert exporting.run("phase", json.dumps({**told, **words})) == 2
    err = capsys.readouterr().err
    assert said in err.splitlines()[-1] and "Traceback" not in err
    assert not Path("y.pt2").exists() and not [path for path in folder.iterdir() if ".wellfit" in path.name]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_crash_of_the_network_is_one_sentence(folder: Path) -> None:
    ran = cli(folder, *WORDS, "--to", "y.pt2", "--model", "mine_exported:Dies")
    assert ran.returncode == 2 and "Traceback" not in ran.stderr
    assert ran.stderr.endswith("was killed by SIGSEGV while calling the loaded network\n")
