"""How the child does its work: the user's folder is where modules are found first, and an error is one sentence."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wellfit.errors import WellfitError

Enter = Callable[[str], None]
"""Told what is done now, in case that the process is killed while it is."""


def carried_out(work: Callable[[dict[str, Any], Enter], int], phase_file: str, told: str) -> int:
    """The exit code of some work; 2 where something does not fit.

    Args:
        work: gets the options, and what it is to call when another part of it begins.
        phase_file: says what is done now.
        told: the options, as JSON.
    """
    sys.path.insert(0, os.getcwd())
    try:
        return work(json.loads(told), lambda phase: _write(phase_file, phase))
    except WellfitError as error:
        sys.stderr.write(f"wellfit: {' '.join(str(error).split())}\n")
        return 2
    except KeyboardInterrupt:
        return 130


def _write(path: str, text: str) -> None:
    Path(path).write_text(text, "utf-8")
