"""The fields that each event has, so that a rule never meets a missing one."""

from __future__ import annotations

from typing import Any

from wellfit.record.fields import Malformed

# The default of each field also says its type; None: anything, or nothing.
_FIELDS: dict[str, dict[str, Any]] = {
    "mode": {"root": "", "training": True, "location": None},
    "forward-mode": {"training_layers": [], "eval_layers": []},
    "evaluation": {
        "root": "",
        "training": True,
        "location": None,
        "functional_dropout": [],
        "training_layers": [],
        "eval_layers": [],
        "batch": None,
        "input": [],
    },
    "epoch": {"loader": None, "count": 0},
    "stale-gradient": {"optimizer": None, "parameter": "", "confirmed": False, "count": 0, "followed": 0},
    "leaf-loss": {"backward": None, "count": 0, "location": None, "cuts": []},
    "gradient-cleared": {"optimizer": None, "count": 0, "location": None},
    "no-gradient": {"optimizer": None, "parameters": [], "count": 0, "total": 0},
    "non-finite": {
        "where": "",
        "layer": None,
        "function": None,
        "file": None,
        "line": None,
        "parameter": None,
        "value": "",
        "inputs_finite": None,
        "died": False,
    },
    "leak": {
        "root": "",
        "layer": "",
        "class": "",
        "file": None,
        "line": None,
        "share": 0.0,
        "sample": 0,
        "same_batch": False,
    },
    "gradient-test": {
        "function": "",
        "file": None,
        "line": None,
        "argument": 0,
        "error": 0.0,
        "analytic": 0.0,
        "numeric": 0.0,
        "directions": 0,
        "wrong": 0,
        "straight": False,
    },
    "evaluated": {"after_steps": 0, "samples": 0, "loss": None, "accuracy": None, "passes": []},
    "scaler": {"scale": None, "count": 0},
    "exception": {"class": "", "message": "", "location": None},
    "switched-off": {"error": ""},
}

_COST: dict[str, Any] = {
    "watched": 0,
    "steps": 0,
    "seconds": 0.0,
    "probe_seconds": 0.0,
    "period": None,
    "cap": None,
}


def complete_event(object: dict[str, Any]) -> dict[str, Any]:
    """The event with every field of its kind, and an int `step`.

    Raises:
        Malformed: it has no name, or a field is of the wrong type.
    """
    name = object.get("event")
    if not isinstance(name, str):
        raise Malformed("it has no name")
    return {"event": name, **_complete(object, {"step": 0, **_FIELDS.get(name, {})})}


def complete_cost(object: dict[str, Any]) -> dict[str, Any]:
    """The governor's account with all of its fields."""
    return _complete(object, _COST)


def complete_unseen(object: dict[str, Any]) -> dict[str, Any]:
    """What is not watched and why, both text."""
    return _complete(object, {"what": "", "why": ""})


def _complete(object: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    whole = dict(object)
    for key, default in defaults.items():
        value = whole.get(key)
        if value is None:
            whole[key] = [] if isinstance(default, list) else default
        elif default is not None and not _fits(value, default):
            raise Malformed(f"its {key} is of the wrong type")
    return whole


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, float):
        return isinstance(value, (int, float))
    return isinstance(value, bool if isinstance(default, bool) else type(default))
