"""What a resource under an accepted command can do still, said in the limits that a dispatch problem knows.

A generator under a setpoint is curtailed to it. A storage under a setpoint follows it until it is empty or full: its
state of charge is known, which the problem is told as equal lower and upper limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import sqrt
from typing import Any

from energy_cloud_dagster.domain.dispatch.problem import DEFAULT_EFFICIENCY


@dataclass(frozen=True, slots=True)
class Commitment:
    """A setpoint in kW (storage: discharge positive; generators: the limit of the output) until ``valid_until``."""

    setpoint_kw: float
    valid_until: datetime


def steps_under(commitment: Commitment, start: datetime, step: timedelta, steps: int) -> int:
    """Return how many of the plan's first steps the command covers by more than half.

    A command that ends early in a step leaves that step to the plan, whose own command replaces it then.
    """
    covered = (commitment.valid_until - start) / step
    return min(max(int(covered + 0.5), 0), steps)


def honouring(
    resource: Mapping[str, Any], commitment: Commitment | None, steps: int, held: int, hours: float
) -> dict[str, Any]:
    """Return the resource of a PLAN.json as it is while it follows a command in its first ``held`` of ``steps`` steps.

    ``hours`` is the length of a step. A storage that was found outside ``minSoc`` and ``maxSoc`` is given the steps
    that full power needs to come back. Resources that take no commands come back unchanged.
    """
    if resource["type"] == "storage":
        return _storage(resource, 0.0 if commitment is None else commitment.setpoint_kw, steps, held, hours)
    follows = resource["type"] in ("solar", "wind", "hydro", "chp") and resource["capacity"] > 0
    if commitment is None or held == 0 or not follows:
        return dict(resource)
    share = min(max(commitment.setpoint_kw / resource["capacity"], 0.0), 1.0)
    allowed = _series(resource.get("availability", 1.0), steps)
    return {**resource, "availability": [min(each, share) for each in allowed[:held]] + allowed[held:]}


def _storage(resource: Mapping[str, Any], setpoint: float, steps: int, held: int, hours: float) -> dict[str, Any]:
    one_way = sqrt(resource.get("efficiency", DEFAULT_EFFICIENCY))
    step_kwh = resource["capacity"] * hours
    filled, emptied = (share / resource["energyCapacity"] for share in (step_kwh * one_way, step_kwh / one_way))
    fraction = min(max(setpoint / resource["capacity"], -1.0), 1.0) if resource["capacity"] else 0.0
    change = -fraction * (emptied if fraction > 0 else filled)
    low, high = (_series(resource.get(name, default), steps) for name, default in (("minSoc", 0.0), ("maxSoc", 1.0)))
    state = resource["soc"]
    for step in range(held):
        # a device stops where it is empty or full, and is not driven further out where it was found outside
        state = min(max(state + change, min(low[step], state)), max(high[step], state))
        low[step] = high[step] = state
    for step in range(held, steps):
        ahead = step - held + 1
        low[step] = min(low[step], state + ahead * filled)
        high[step] = max(high[step], state - ahead * emptied)
    end = min(resource.get("endSoc", min(resource["soc"], high[-1])), state + (steps - held) * filled)
    return {**resource, "minSoc": low, "maxSoc": high, "endSoc": end}


def _series(value: Any, steps: int) -> list[float]:
    return list(value) if isinstance(value, list | tuple) else [float(value)] * steps
