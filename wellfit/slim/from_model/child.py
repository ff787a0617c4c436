"""The child of `wellfit slim --model`; run as a file: `child.py PHASE-FILE OPTIONS-AS-JSON`.

The user's folder comes first on `sys.path` only after everything of ours was imported, so that a `random.py` of the
user's shadows nothing here.
"""

from __future__ import annotations

import sys
from pathlib import Path


def _start() -> int:
    sys.path.pop(0)  # this file's folder, whose names are no modules
    package = Path(__file__).resolve().parents[3]
    sys.path.append(str(package))
    from wellfit.slim.from_model.work import run

    return run(sys.argv[1], sys.argv[2])


if __name__ == "__main__":
    sys.exit(_start())
