"""A plan that is made anew at every step: what lies ahead, what of the plan is followed, and what the step then cost.

A replay holds one long problem of what really came. At each step :func:`window` cuts out the hours that a plan looks
at, a planner decides (see :mod:`scenarios`), :func:`setpoints` says what the devices are told, and :func:`realise`
lets the step happen: stores and units that can be told follow their setpoint, sun and wind do what they do, and the
ties take what is left over or missing at their prices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from energy_cloud_dagster.domain.dispatch.problem import Constraints, Floats, Problem, Ties
from energy_cloud_dagster.domain.errors import InvalidInput

#: Powers below this (kW) are rounding.
_NOTHING = 1e-9


def window(
    site: Problem,
    first: int,
    steps: int,
    stored: Floats,
    *,
    output: Floats | None = None,
    end_soc: Floats | None = None,
) -> Problem:
    """Return the problem of ``steps`` steps from ``first`` on (fewer at the end of ``site``).

    ``stored`` (S,) is what the stores hold at its start in kWh, as measured; ``output`` (R,) is the last output in kW,
    which ramps start from where it is known. Stores end at ``end_soc`` (S,) at least, without it as full as they were
    found, as far as ``maxSoc`` allows. ``maxEmissions`` is shared out by the length. Raises ``InvalidInput`` where
    ``first`` is outside.
    """
    if not 0 <= first < site.steps or steps < 1:
        raise InvalidInput(f"a window of {steps} steps from step {first} is outside a problem of {site.steps} steps")
    end = min(first + steps, site.steps)
    part = slice(first, end)

    def cut(columns: Any, **others: Any) -> Any:
        names = [name for name in columns.__slots__ if np.ndim(getattr(columns, name)) == 2]
        return replace(
            columns, **{name: np.ascontiguousarray(getattr(columns, name)[:, part]) for name in names}, **others
        )

    stores = site.stores
    soc = np.divide(stored, stores.energy)
    least = np.minimum(soc, stores.max_soc[:, end - 1]) if end_soc is None else end_soc
    places = site.generators.place
    initial = np.full(len(places), np.nan) if output is None else output[places]
    limits = site.constraints
    return replace(
        site,
        demand=site.demand[part],
        generators=cut(site.generators, initial=initial),
        stores=cut(stores, soc=soc, end_soc=least),
        ties=cut(site.ties),
        loads=cut(site.loads),
        constraints=Constraints(
            limits.min_renewable,
            limits.max_cost,
            _cut(limits.max_grid_import, part),
            None if limits.max_emissions is None else limits.max_emissions * (end - first) / site.steps,
            _cut(limits.reserve_up, part),
            _cut(limits.reserve_down, part),
        ),
        start=site.step_start(first),
    )


def _cut(series: Floats | None, part: slice) -> Floats | None:
    return None if series is None else series[part]


def setpoints(problem: Problem, answer: Mapping[str, Any], step: int = 0) -> Floats:
    """Return what every resource is to do in ``step`` (R,) by the document of an answer, in kW (``output``'s signs)."""
    outputs = (each["output"] for each in answer["allocation"])
    found = np.array([one[step] if isinstance(one, list) else one for one in outputs], dtype=np.float64)
    if found.shape != (problem.size,):
        raise InvalidInput("the answer is not one to this problem: it lists other resources", pointer="/allocation")
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Realised:
    """What happened in a step: ``output`` (R,) in kW with the signs of ``output``, ``stored`` (S,) kWh at its end.

    ``cost`` is money without the penalty for ``unmet`` (kW).
    """

    output: Floats
    stored: Floats
    unmet: float
    cost: float


def realise(actual: Problem, step: int, stored: Floats, wanted: Floats) -> Realised:
    """Return what comes of the setpoints ``wanted`` (R,) in one step of what really came.

    Stores follow theirs as far as their power and what they hold (``stored``, kWh) allow, CHP as far as its limit;
    those of other resources say nothing. What is missing is bought, generated or shed in the order of cost, what is
    left over is sold where that pays and else curtailed. A store charges no power that would leave demand unmet, and
    nothing is discharged that nobody takes. Ramps and least powers are the plan's business and not looked at.
    """
    hours, stores, units = actual.step_hours, actual.stores, actual.generators
    output = np.zeros(actual.size)
    power = _followed(actual, step, stored, wanted[stores.place])
    told = np.array([actual.types[place] == "chp" for place in units.place], dtype=bool)
    led = np.where(told, np.clip(wanted[units.place], 0.0, units.limit[:, step]), 0.0)
    missing = float(actual.demand[step] - power.sum() - led.sum())
    missing = _supplied(actual, step, ~told, missing, output)
    if missing < -_NOTHING:
        missing = -_sold(actual.ties, step, -missing, output, -np.inf)
        # nobody takes the rest: first units, then stores give less
        led, missing = _lessened(led, missing)
        power, missing = _lessened(power, missing)
    elif missing > _NOTHING:
        back, missing = _lessened(-power, -missing)
        power, missing = -back, -missing
    _surplus(actual, step, ~told, output)
    output[stores.place] = power
    output[units.place[told]] = led[told]
    one_way = np.sqrt(stores.efficiency)
    gained = np.where(power > 0, -power / one_way, -power * one_way) * hours
    cost = _cost(actual, step, output) * hours
    return Realised(output, np.clip(stored + gained, 0.0, stores.energy), max(missing, 0.0), cost)


def _followed(actual: Problem, step: int, stored: Floats, wanted: Floats) -> Floats:
    """Return the stores' power (S,): the setpoint within power and energy limits."""
    hours, stores = actual.step_hours, actual.stores
    one_way = np.sqrt(stores.efficiency)
    held = np.maximum(stored - stores.min_soc[:, step] * stores.energy, 0.0) * one_way / hours
    room = np.maximum(stores.max_soc[:, step] * stores.energy - stored, 0.0) / one_way / hours
    power = stores.power[:, step]
    followed: Floats = np.clip(wanted, -np.minimum(power, room), np.minimum(power, held))
    return followed


def _supplied(actual: Problem, step: int, free: Any, missing: float, output: Floats) -> float:
    """Meet ``missing`` kW by the cheapest of weather's plants, import and shedding; return what is missing still."""
    units, ties, loads = actual.generators, actual.ties, actual.loads
    most = actual.constraints.max_grid_import
    importable = np.inf if most is None else float(most[step])
    offers = [(units.cost[i, step], 0, units.place[i], units.limit[i, step]) for i in np.flatnonzero(free)]
    offers += [(ties.cost[i, step], 1, place, ties.capacity[i, step]) for i, place in enumerate(ties.place)]
    offers += [(loads.cost[i, step], 2, place, loads.limit[i, step]) for i, place in enumerate(loads.place)]
    for _, kind, place, limit in sorted(offers):
        if missing <= 0:
            break
        taken = min(limit, missing, importable) if kind == 1 else min(limit, missing)
        importable -= taken if kind == 1 else 0.0
        output[place] += taken
        missing -= taken
    return missing


def _sold(ties: Ties, step: int, power: float, output: Floats, least: float) -> float:
    """Export ``power`` kW where it brings most, at ``least`` money per kWh at least; return what could not be."""
    for index in np.argsort(-np.nan_to_num(ties.export_price[:, step], nan=-np.inf), kind="stable"):
        place = ties.place[index]
        # a tie that imports does not export
        if not ties.exports[index] or output[place] > 0 or not ties.export_price[index, step] > least:
            continue
        taken = min(power, float(ties.capacity[index, step] + output[place]))
        output[place] -= taken
        power -= taken
    return power


def _surplus(actual: Problem, step: int, free: Any, output: Floats) -> None:
    """Let the weather's plants give what sells above their cost."""
    units = actual.generators
    chosen = np.flatnonzero(free)
    for index in chosen[np.argsort(units.cost[chosen, step], kind="stable")]:
        place = units.place[index]
        left = float(units.limit[index, step] - output[place])
        if left > 0:
            output[place] += left - _sold(actual.ties, step, left, output, float(units.cost[index, step]))


def _lessened(power: Floats, missing: float) -> tuple[Floats, float]:
    """Take ``-missing`` kW away from what gives (``power`` > 0), in order; return what is left and what is missing."""
    power = power.copy()
    for index in np.flatnonzero(power > 0):
        less = min(float(power[index]), -missing)
        if less > 0:
            power[index] -= less
            missing += less
    return power, missing


def _cost(actual: Problem, step: int, output: Floats) -> float:
    """Return money per hour of the outputs (R,)."""
    units, stores, ties, loads = actual.generators, actual.stores, actual.ties, actual.loads
    total = float(output[units.place] @ units.cost[:, step] + output[loads.place] @ loads.cost[:, step])
    total += float(np.maximum(output[stores.place], 0.0) @ stores.cost[:, step])
    flow = output[ties.place]
    sale = np.nan_to_num(ties.export_price[:, step])
    return total + float(np.maximum(flow, 0.0) @ ties.cost[:, step] - np.maximum(-flow, 0.0) @ sale)
