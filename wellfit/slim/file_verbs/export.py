"""`wellfit slim export`: the network of a `.wfz` file as ONNX, or as a program of torch.export."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from wellfit.errors import WellfitError
from wellfit.slim.exporting import SUFFIXES
from wellfit.slim.from_model.launch import check_inputs, check_name, run_child
from wellfit.slim.wfz import read


@dataclass(frozen=True)
class ExportOptions:
    """As typed.

    Args:
        file: the `.wfz` file.
        to: the new file; its suffix says what is written.
        model: "package.module:name" of what makes the user's model.
        inputs: see `given.example`.
        force: write over a file that is there.
        max_bytes: see `wfz.read`.
    """

    file: Path
    to: Path | None
    model: str | None
    inputs: str | None
    force: bool = False
    max_bytes: int | None = None


def run_export(options: ExportOptions) -> int:
    """Export a file's network; 0, 1 where what was written computes something else, 2 where it cannot be exported.

    Raises:
        WellfitError: an option is wrong, the file cannot be opened, or the process of the user's code was killed.
        Damaged: the file is damaged.
    """
    if options.to is None or options.to.suffix not in SUFFIXES:
        raise WellfitError("--to wants the file to write: FILE.onnx, or FILE.pt2 for a program of torch.export")
    if options.model is None:
        raise WellfitError("export wants the network's code: --model MODULE:NAME, the function or class that makes it")
    check_name("--model", options.model)
    check_inputs(options.inputs)
    if not options.to.parent.is_dir():
        raise WellfitError(f"{options.to} cannot be written: there is no folder {options.to.parent}")
    if options.to.exists() and not options.force:
        raise WellfitError(f"{options.to} is there already: give another name with --to, or --force to write over it")
    read(options.file, max_bytes=options.max_bytes)
    told = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(options).items()}
    return run_child("exporting", told)
