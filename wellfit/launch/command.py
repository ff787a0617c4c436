"""What the user typed after `wellfit run`, as the program to start."""

from __future__ import annotations

import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from wellfit.errors import WellfitError
from wellfit.nearest import did_you_mean_file


@dataclass(frozen=True)
class Command:
    """A program to start.

    Args:
        argv: the program and its arguments.
        label: a short name for the run's folder: letters, digits, `-`, `_` and `.`.
    """

    argv: tuple[str, ...]
    label: str


def resolve(words: list[str]) -> Command:
    """The program that some words mean, as a shell or Python would find it from the current folder.

    Args:
        words: `train.py ...`, `-m package.module ...`, `-c code ...`, a folder with a `__main__.py`, or any command.

    Raises:
        WellfitError: there is no such script or command.
    """
    first, rest = words[0], words[1:]
    if first in ("-m", "-c"):
        if not rest:
            raise WellfitError(f"{first} needs {'the name of a module' if first == '-m' else 'code'} after it")
        return Command((sys.executable, *words), _label(rest[0] if first == "-m" else "code"))
    if os.path.isdir(first):
        if not os.path.isfile(os.path.join(first, "__main__.py")):
            raise WellfitError(f"the folder {first} has no __main__.py: give the script to run")
        return Command((sys.executable, *words), _label(Path(first).resolve().name))
    if first.endswith((".py", ".pyw", ".pyz", ".pyc")):
        return _script(words)
    on_path = shutil.which(first)
    if on_path is not None:
        return Command(tuple(words), _label(_named_script(words) or Path(first).stem))
    if first in ("python", "python3"):
        return Command((sys.executable, *rest), _label(_named_script(words) or first))
    if os.path.exists(first):
        return _script(words)
    beside = shutil.which(first, path=os.path.dirname(sys.executable))  # of an environment that is not activated
    if beside is not None:
        return Command((beside, *rest), _label(_named_script(words) or first))
    near = did_you_mean_file(
        first, [name for name in (*_neighbours(first), "accelerate", "python", "torchrun") if name != first]
    )
    raise WellfitError(f"there is no script or command {first}{near}")


def _script(words: list[str]) -> Command:
    """A file for this Python to run."""
    first = words[0]
    if not os.path.exists(first):
        raise WellfitError(f"there is no script {first}{did_you_mean_file(first, _neighbours(first))}")
    if not first.endswith((".pyc", ".pyz")) and os.path.isfile(first) and _is_binary(first):
        raise WellfitError(f"{first} is neither a Python script nor a program that can be executed")
    return Command((sys.executable, *words), _label(Path(first).stem))


def _named_script(words: list[str]) -> str | None:
    """The stem of the script in `python train.py` or `torchrun --nproc-per-node 2 train.py`."""
    script = next((word for word in words[1:] if word.endswith(".py")), None)
    return Path(script).stem if script else None


def _neighbours(path: str) -> list[str]:
    """What lies beside a missing file, written as the user wrote its folder."""
    folder = os.path.dirname(path)
    try:
        names = os.listdir(folder or ".")
    except OSError:
        return []
    return [os.path.join(folder, name) for name in names if not name.startswith(".")]


def _is_binary(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return b"\0" in file.read(4096)
    except OSError:  # Python itself will say what is wrong with it
        return False


def _label(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")[:40] or "run"
