"""What the child of `wellfit slim export` does: load the file into the user's class, export it, say what came of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from wellfit.errors import WellfitError
from wellfit.report.safe import printable
from wellfit.slim.exporting.formats import needs
from wellfit.slim.exporting.proof import Exported, export
from wellfit.slim.files import load
from wellfit.slim.from_model.carried import Enter, carried_out
from wellfit.slim.from_model.given import built, example
from wellfit.slim.printing import say


def run(phase_file: str, told: str) -> int:
    """Everything; the exit code: 1 where the file does not compute what the network does, 2 where it cannot be made."""
    try:
        needs(Path(json.loads(told)["to"]).suffix)
    except WellfitError as error:
        sys.stderr.write(f"wellfit: {error}\n")
        return 2
    return carried_out(_run, phase_file, told)


def _run(options: dict[str, Any], enter: Enter) -> int:
    enter(f"making the model with {options['model']}")
    model = built(options["model"])
    load(options["file"], model, max_bytes=options["max_bytes"])
    model.cpu().eval()
    made = export(model, example(options["inputs"], model), Path(options["to"]), enter)
    say(_text(made))
    if made.problem is not None:
        sys.stderr.write(f"wellfit: {printable(made.problem, 600)}\n")
        return 1
    return 0


def _text(made: Exported) -> str:
    batch = "any" if made.is_any_batch else f"{made.batches[0]} only: the network's code does not take another"
    needs = f"{', '.join(made.needs)} where it is loaded" if made.needs else "none of your code"
    lines = [f"{printable(made.path, 300)}: {made.bytes:,} bytes; it needs {printable(needs, 200)}"]
    for word, ports in (("Inputs", made.inputs), ("Outputs", made.outputs)):
        lines.append(f"{word + ':':8} {'; '.join(printable(port, 200) for port in ports)}")
    lines.append(f"Batch:   {batch}")
    if made.checked_by is not None:
        sizes = ", ".join(map(str, made.batches))
        worst = (
            "differ" if made.difference == float("inf") else f"differ by {made.difference:.2g} of the largest at most"
        )
        lines.append(f"Check:   read again and run by {made.checked_by} with batches of {sizes}: outputs {worst}")
    elif made.problem is None:
        lines.append('Check:   none, since onnxruntime is not there: pip install "wellfit[onnx]"')
    return "\n".join(lines) + "\n"
