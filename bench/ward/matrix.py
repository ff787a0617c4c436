"""The visits as a matrix of patients and faults, and the figures drawn from it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

from ward.faults import FAULTS, Fault
from ward.patients import Patient
from ward.visit import TIMED_OUT, Visit
from wellfit.catalogue import known_rules

STATES = {
    "right": "found, and rightly named",
    "noted": "rightly named, but only as a note",
    "other": "found, under another name",
    "missed": "it hurt and nothing was found",
    "unhurt": "the program did as well as ever, and wellfit was silent",
    "unhurt-named": "the program did as well as ever, but the fault was rightly named",
    "unhurt-alarm": "the program did as well as ever, and something else was named",
    "misfit": "the fault does not fit this program, or its time never came",
    "broken": "the program ended by an error though all numbers were finite, or took too long",
    "unknown": "no healthy run gave a metric to compare with",
}


HURT = ("right", "noted", "other", "missed")


@dataclass
class Cell:
    """A patient under a fault.

    Attributes:
        state: one of `STATES`.
        layer: whether the finding names a layer that the fault is in; None where a fault is in no layer.
    """

    patient: str
    fault: str
    state: str
    visit: Visit
    layer: bool | None = None


@dataclass
class Matrix:
    """All that was seen.

    Attributes:
        healthy: visits without a fault, by patient, one a seed.
        cells: visits with one.
    """

    patients: list[Patient]
    healthy: dict[str, list[Visit]] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)

    def cell(self, patient: str, fault: str) -> Cell | None:
        """The cell of a patient and a fault, if that was tried."""
        return next((cell for cell in self.cells if (cell.patient, cell.fault) == (patient, fault)), None)

    def metrics(self, patient: Patient) -> list[float]:
        """The metrics of a patient's healthy runs that gave one."""
        return [visit.metric for visit in self.healthy.get(patient.name, []) if visit.metric is not None]

    def add(self, patient: Patient, fault: Fault, visit: Visit) -> None:
        """Judge a visit and take it in; the patient's healthy visits must be there."""
        state = _state(patient, fault, visit, self.metrics(patient))
        layer = _layer(fault, visit) if state == "right" else None
        self.cells.append(Cell(patient.name, fault.name, state, visit, layer))

    def figures(self) -> dict[str, Any]:
        """The figures that count; shares are None where nothing was counted."""
        hurt = [cell for cell in self.cells if cell.state in HURT]
        right = [cell for cell in hurt if cell.state == "right"]
        rules_of = {fault.name: fault.rules for fault in FAULTS}
        layers = [cell.layer for cell in right if cell.layer is not None]
        clean = [visit for visits in self.healthy.values() for visit in visits]
        known = {rule.name for rule in known_rules()[0]}
        namable = [cell for cell in hurt if rules_of[cell.fault] & known]
        onsets = {fault.name: fault.onset for fault in FAULTS}
        named = [cell.visit.named - onsets[cell.fault] for cell in right if cell.visit.named is not None]
        waits = [wait for wait in named if wait >= 0]
        return {
            "clean_runs": len(clean),
            "clean_runs_with_errors": sum(bool(visit.alarms) for visit in clean),
            "clean_runs_crashed": sum(visit.metric is None for visit in clean),
            "clean_runs_with_notes": sum(len(visit.findings) > len(visit.errors) for visit in clean),
            "cells": len(self.cells),
            "broken": sum(cell.state == "broken" for cell in self.cells),
            "misfits": sum(cell.state == "misfit" for cell in self.cells),
            "hurt": len(hurt),
            "detected": sum(cell.state in ("right", "other") for cell in hurt),
            "right_rule": len(right),
            "namable": len(namable),  # a rule that could name the fault exists
            "hurt_without_metric": sum(cell.visit.metric is None for cell in hurt),
            "named_before_onset": len(named) - len(waits),
            "wrong_errors": sum(any(e["rule"] not in rules_of[c.fault] for e in c.visit.errors) for c in hurt),
            "noted": sum(cell.state == "noted" for cell in hurt),
            "layer_asked": len(layers),
            "right_layer": sum(layers),
            "median_steps_until_named": statistics.median(waits) if waits else None,
            "unhurt": sum(cell.state.startswith("unhurt") for cell in self.cells),
            "unhurt_alarms": sum(cell.state == "unhurt-alarm" for cell in self.cells),
        }


def _state(patient: Patient, fault: Fault, visit: Visit, healthy: list[float]) -> str:
    if visit.misfit:
        return "misfit"
    named = any(finding["rule"] in fault.rules for finding in visit.errors)
    noted = any(finding["rule"] in fault.rules for finding in visit.findings)
    if not healthy:
        return "unknown"
    died = visit.exit_code != 0 and visit.finite
    if died and not (fault.deadly and visit.exit_code != TIMED_OUT):
        return "broken"
    if died or patient.hurt(visit.metric, healthy):
        return "right" if named else "other" if visit.errors else "noted" if noted else "missed"
    return "unhurt-named" if named else "unhurt-alarm" if visit.errors else "unhurt"


def _layer(fault: Fault, visit: Visit) -> bool | None:
    """Whether the first finding of a right rule that names a layer names one in which the fault is."""
    if fault.layers is None:
        return None
    ill = fault.layers(visit)
    named = [finding["layer"] for finding in visit.errors if finding["rule"] in fault.rules and finding["layer"]]
    return bool(named) and any(_same(named[0], layer) for layer in ill)


def _same(name: str, layer: str) -> bool:
    """Whether a finding's layer or parameter is this layer or lies in it."""
    return name == layer or name.startswith(layer + ".")
