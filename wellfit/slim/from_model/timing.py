"""What the child of `wellfit slim bench --model` does: load the file into the user's class, and time calls."""

from __future__ import annotations

from typing import Any

from torch import nn

from wellfit.record.writing import write_json
from wellfit.slim.files import load
from wellfit.slim.from_model.carried import Enter, carried_out
from wellfit.slim.from_model.given import built, example
from wellfit.slim.layer_report import by_layers
from wellfit.slim.measure.inputs import Inputs
from wellfit.slim.measure.size import size
from wellfit.slim.methods.checked import copy_of, outputs
from wellfit.slim.reporting import timed
from wellfit.slim.wfz import read


def run(phase_file: str, told: str) -> int:
    """Everything; the exit code, 2 where something does not fit."""
    return carried_out(_run, phase_file, told)


def _run(options: dict[str, Any], enter: Enter) -> int:
    enter(f"making the model with {options['model']}")
    dense, slim = built(options["model"]).eval(), built(options["model"])
    if slim is dense:  # the user's name is a model, or a function that always gives the same one
        slim = copy_of(dense)
    load(options["file"], slim, max_bytes=options["max_bytes"]).eval()
    given = Inputs.of(example(options["inputs"], dense))
    enter("calling the model")
    for model, which in ((dense, "model"), (slim, "loaded model")):
        outputs(model, given, f"with --inputs {options['inputs']} the {which}")
    write_json(options["to"], _measured(dense, slim, given, options, enter))
    return 0


def _measured(
    dense: nn.Module, slim: nn.Module, given: Inputs, options: dict[str, Any], enter: Enter
) -> dict[str, Any]:
    enter("timing calls")
    latency, left_out = timed(dense, slim, given, options["batches"], options["seconds"])
    enter("timing layers")
    before, after = size(dense), size(slim)
    contents = read(options["file"], max_bytes=options["max_bytes"])
    return {
        "model": options["model"],
        "parameters": {"dense": before.parameters, "slim": after.parameters},
        "bytes_in_memory": {"dense": before.bytes, "slim": after.bytes},
        "latency": latency,
        "left_out": left_out,
        "layers": by_layers(dense, slim, contents, given, None, options["seconds"]),
    }
