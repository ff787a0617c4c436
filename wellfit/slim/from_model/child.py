"""The child that runs the user's code; run as a file: `child.py PHASE-FILE WORK OPTIONS-AS-JSON`.

WORK is a module of this folder, whose `run` does it.

The user's folder comes first on `sys.path` only after everything of ours was imported, so that a `random.py` of the
user's shadows nothing here.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path


def _start() -> int:
    sys.path.pop(0)  # this file's folder, whose names are no modules
    package = Path(__file__).resolve().parents[3]
    sys.path.append(str(package))
    run = import_module(f"wellfit.slim.from_model.{sys.argv[2]}").run
    code: int = run(sys.argv[1], sys.argv[3])
    return code


if __name__ == "__main__":
    sys.exit(_start())
