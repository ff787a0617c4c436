"""A plan as a file that can be edited."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wellfit.errors import WellfitError
from wellfit.nearest import did_you_mean
from wellfit.record.writing import write_json
from wellfit.slim.drive.layers import Network
from wellfit.slim.drive.methods import Method
from wellfit.slim.drive.plan import FEWEST, MOST_VALUES, Layer, Plan, around, layer_of

VERSION = 1


def as_json(plan: Plan, network: Network) -> dict[str, Any]:
    """A plan as it is saved: `together`, and of each layer `method`, `keep` and `values`, can be edited."""
    return {
        "version": VERSION, "model": plan.model, "bytes": network.bytes, "predicted_bytes": round(plan.predicted),
        "predicted_ratio": round(network.bytes / plan.predicted, 2), "keep": round(plan.keep, 5),
        "together": plan.together,
        "layers": [
            {
                "name": layer.name, "parameters": layer.parameters,
                "share_of_bytes": round(network.tensors[layer.name].bytes / network.bytes, 4),
                "sensitivity": network.sensitivity[layer.name], "method": str(layer.method),
                "keep": layer.keep, "values": layer.values, "predicted_bytes": round(layer.predicted),
            }
            for layer in plan.layers
        ],
        "skipped": {
            **{name: network.why_left(name) for name in network.tensors if name not in network.weights}, **plan.left
        },
    }  # fmt: skip


def write_plan(plan: Plan, network: Network, path: Path) -> None:
    """Write a plan.

    Raises:
        WellfitError: the file cannot be written.
    """
    try:
        write_json(path, as_json(plan, network))
    except OSError as error:
        raise WellfitError(f"the plan cannot be written to {path}: {error.strerror or error}") from None


def read_plan_text(path: Path) -> dict[str, Any]:
    """A plan's JSON, as far as it can be judged without the network.

    Raises:
        WellfitError: there is no such file, or it is no plan.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WellfitError(f"--plan {path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise WellfitError(f"--plan {path} is no JSON: {error}") from None
    if not isinstance(told, dict) or not isinstance(told.get("layers"), list) or "version" not in told:
        raise WellfitError(f'--plan {path} is no plan: it has no "version" and "layers"; --only-plan FILE writes one')
    if told["version"] != VERSION:
        raise WellfitError(f"--plan {path} has the version {told['version']}, and {VERSION} is known here")
    return told


def checked(told: dict[str, Any], network: Network, path: Path) -> Plan:
    """The plan that JSON tells of, for this network.

    Raises:
        WellfitError: it is for another network, or says what cannot be done.
    """
    where = f"--plan {path}"
    layers: dict[str, Layer] = {}
    for place, entry in enumerate(told["layers"], 1):
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            raise WellfitError(f'{where}: layer {place} has no "name"')
        if name not in network.weights:
            if name in network.tensors:
                why = network.why_left(name)
                raise WellfitError(f"{where}: {name} is left alone ({why}): plans are for the weights of layers")
            near = did_you_mean(name, network.weights)
            raise WellfitError(f"{where} is for another network: {network.model} has no layer {name}{near}")
        if name in layers:
            raise WellfitError(f"{where}: the layer {name} is there twice")
        layers[name] = _layer(entry, network, f"{where}: {name}")
    missing = [name for name in network.weights if name not in layers]
    if missing:
        raise WellfitError(f'{where} says nothing of {missing[0]}: to leave it alone, give it the method "keep"')
    together = told.get("together", False)
    if type(together) is not bool:
        raise WellfitError(f'{where}: "together" is true or false, not {json.dumps(together)[:60]}')
    return Plan(network.model, tuple(layers[name] for name in network.weights), around(network, together), together)


def _layer(entry: dict[str, Any], network: Network, where: str) -> Layer:
    name = entry["name"]
    count = network.tensors[name].count
    if entry.get("parameters", count) != count:
        raise WellfitError(f"{where} has {count} parameters, not {entry['parameters']}: it is for another network")
    method = Method.of(entry.get("method", "prune, share"), f'{where}: "method"')
    misfit = method.misfit(network, name)
    if misfit is not None:
        raise WellfitError(f'{where}: the method "{method}" does not fit: {misfit}')
    keep, values = entry.get("keep", 1.0), entry.get("values", 0)
    if type(keep) not in (int, float) or not 0 < keep <= 1:
        raise WellfitError(f'{where}: "keep" is the share of weights that stay, above 0 and up to 1, not {keep!r:.60}')
    if type(values) is not int or not (0 <= values <= MOST_VALUES):
        raise WellfitError(
            f'{where}: "values" is a whole number up to {MOST_VALUES}, 0 for no sharing, not {values!r:.60}'
        )
    if method.shares and values == 0:
        raise WellfitError(f'{where}: the method "{method}" needs "values", how many different values stay')
    kept = max(float(keep), min(1.0, FEWEST / count)) if method.is_searched else 1.0
    return layer_of(network, name, method, kept, values if method.shares else 0)
