"""An independent judge of plans: it reads a problem and a solution, and knows nothing of the model that found it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from energy_cloud_dagster.domain.dispatch.problem import BoolArray, Floats, IntArray, Problem
from energy_cloud_dagster.domain.dispatch.solution import Solution

#: Relative to the largest power, energy or amount of money in the comparison.
TOLERANCE: Final = 1e-6


def violations_of(problem: Problem, solution: Solution) -> list[str]:
    """Return every way in which a completed plan breaks its problem or misreports itself; an empty list is a pass.

    Goals (unmet demand, ``minRenewable``, ``maxCost``) may fall short only where ``violations`` names them, and never
    in a strict problem. An infeasible answer must name its conflict and carry no plan. Whether the plan is the cheapest
    is not judged.
    """
    if solution.status == "infeasible":
        named = bool(solution.conflict) and not solution.output.size
        return [] if named else ["an infeasible answer names its conflict and carries no plan"]
    plan = _read(problem, solution)
    if isinstance(plan, str):
        return [plan]
    parts = (_balance, _units, _stores, _ties, _loads, _reserve, _totals)
    return [fault for part in parts for fault in part(problem, plan)] + list(_reported(problem, plan, solution))


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a solution says, in the problem's order: ``output`` (R, T), the stores' flows (S, T), ``unmet`` (T,)."""

    output: Floats
    charge: Floats
    discharge: Floats
    soc: Floats
    unmet: Floats

    def bought(self, problem: Problem) -> Floats:
        """Import by tie and step, kW."""
        return self.output[problem.ties.place].clip(0)

    def sold(self, problem: Problem) -> Floats:
        """Export by tie and step, kW."""
        return (-self.output[problem.ties.place]).clip(0)


def _read(problem: Problem, solution: Solution) -> _Plan | str:
    """Return the plan as arrays, or what makes it unreadable."""
    if (solution.problem.ids, solution.problem.types) != (problem.ids, problem.types):
        return "the allocation does not list the problem's resources in order"
    stores, steps = problem.stores.place.size, problem.steps
    wanted = {
        "output": (problem.size, steps),
        "charge": (stores, steps),
        "discharge": (stores, steps),
        "soc": (stores, steps),
        "unmet": (steps,),
        "total_output": (steps,),
    }
    for name, shape in wanted.items():
        values = getattr(solution, name)
        if values.shape != shape or not np.isfinite(values).all():
            return f"{name} has the wrong shape or a value that is not finite"
    return _Plan(solution.output, solution.charge, solution.discharge, solution.soc, solution.unmet)


# -- comparisons


def _above(value: Floats, limit: Floats | float, scale: Floats | float = 0.0) -> BoolArray:
    """Where ``value`` is above ``limit`` by more than rounding, which grows with the limit and with ``scale``."""
    size = np.maximum(1.0, np.maximum(np.abs(limit), np.abs(scale)))
    # an infinite limit is never exceeded, and its tolerance would be infinite too
    return np.asarray(value > limit + TOLERANCE * np.where(np.isinf(size), 1.0, size))


def _exceeds(value: float, limit: float, scale: float = 0.0) -> bool:
    return bool(value > limit + TOLERANCE * max(1.0, abs(limit), abs(scale)))


def _cells(mask: BoolArray) -> Iterator[tuple[int, int]]:
    yield from ((row, step) for row, step in np.argwhere(mask).tolist())


def _outside(
    problem: Problem, place: IntArray, values: Floats, low: Floats | float, high: Floats | float, what: str = ""
) -> Iterator[str]:
    """Say where ``values`` (n, T) of the resources at ``place`` leave ``low`` to ``high``."""
    lows, highs = np.broadcast_to(low, values.shape), np.broadcast_to(high, values.shape)
    for row, step in _cells(_above(values, highs) | _above(lows, values, lows)):
        where = f"{problem.ids[place[row]]} step {step}"
        yield f"{where}: {what}{values[row, step]:g} is outside {lows[row, step]:g} to {highs[row, step]:g}"


# -- one step, one resource


def _balance(problem: Problem, plan: _Plan) -> Iterator[str]:
    demand, unmet = problem.demand, plan.unmet
    total, scale = plan.output.sum(axis=0), np.abs(plan.output).max(axis=0, initial=0.0)
    for step in np.flatnonzero(_above(-unmet, 0.0) | _above(unmet, demand)).tolist():
        yield f"step {step}: unmet {unmet[step]:g} is outside 0 to {demand[step]:g}"
    for step in np.flatnonzero(_above(np.abs(total + unmet - demand), 0.0, np.maximum(demand, scale))).tolist():
        yield f"step {step}: {total[step]:g} + unmet {unmet[step]:g} is not the demand {demand[step]:g}"


def _units(problem: Problem, plan: _Plan) -> Iterator[str]:
    """Generators: within capacity times availability, off or above ``minPower``, no faster than ``rampRate``."""
    units = problem.generators
    output = plan.output[units.place]
    yield from _outside(problem, units.place, output, 0.0, units.capacity * units.availability)
    too_low = _above(output, 0.0, units.capacity) & _above(units.min_power, output, units.min_power)
    for row, step in _cells(too_low):
        least = units.min_power[row, step]
        yield f"{problem.ids[units.place[row]]} step {step}: {output[row, step]:g} is neither 0 nor at least {least:g}"
    before = np.column_stack([units.initial, output[:, :-1]])
    change = np.where(np.isnan(before), 0.0, np.abs(output - before))
    for row, step in _cells(_above(change, units.ramp, np.nan_to_num(before))):
        name, last, rate = problem.ids[units.place[row]], before[row, step], units.ramp[row, step]
        yield f"{name} step {step}: {last:g} to {output[row, step]:g} is faster than {rate:g} per step"


def _stores(problem: Problem, plan: _Plan) -> Iterator[str]:
    """Stores: power, never both ways, content by what flowed, content within its limits, and the end."""
    stores, place = problem.stores, problem.stores.place
    size, one_way = stores.energy[:, None], np.sqrt(stores.efficiency)[:, None]
    for what, flow in (("charge ", plan.charge), ("discharge ", plan.discharge)):
        yield from _outside(problem, place, flow, 0.0, stores.power, what)
    for row, step in _cells(_above(np.minimum(plan.charge, plan.discharge), 0.0, stores.power)):
        flows = f"charges {plan.charge[row, step]:g} and discharges {plan.discharge[row, step]:g}"
        yield f"{problem.ids[place[row]]} step {step}: {flows} at once"
    net = plan.discharge - plan.charge
    for row, step in _cells(_above(np.abs(plan.output[place] - net), 0.0, stores.power)):
        yield f"{problem.ids[place[row]]} step {step}: the output is not discharge less charge"
    before = np.column_stack([stores.soc, plan.soc[:, :-1]])
    gained = (one_way * plan.charge - plan.discharge / one_way) * problem.step_hours
    wrong = _above(np.abs((plan.soc - before) * size - gained), 0.0, np.maximum(size, stores.power))
    for row, step in _cells(wrong):
        fractions = f"{before[row, step]:g} to {plan.soc[row, step]:g} of {stores.energy[row]:g} kWh"
        yield f"{problem.ids[place[row]]} step {step}: {fractions} is not what flowed ({gained[row, step]:g} kWh)"
    yield from _outside(problem, place, plan.soc, stores.min_soc, stores.max_soc, "state of charge ")
    for row in np.flatnonzero(_above(stores.end_soc, plan.soc[:, -1])).tolist():
        yield f"{problem.ids[place[row]]}: ends at {plan.soc[row, -1]:g}, below {stores.end_soc[row]:g}"


def _ties(problem: Problem, plan: _Plan) -> Iterator[str]:
    ties = problem.ties
    most_out = np.where(ties.exports[:, None], ties.capacity, 0.0)
    yield from _outside(problem, ties.place, plan.output[ties.place], 0.0 - most_out, ties.capacity)


def _loads(problem: Problem, plan: _Plan) -> Iterator[str]:
    loads = problem.loads
    yield from _outside(problem, loads.place, plan.output[loads.place], 0.0, loads.capacity * loads.availability)


# -- all resources together


def _reserve(problem: Problem, plan: _Plan) -> Iterator[str]:
    """What can still be added or taken in each step: by generators, stores and ties, as far as each of them allows."""
    limits = problem.constraints
    for asked, held, name in (
        (limits.reserve_up, _held_up(problem, plan), "up"),
        (limits.reserve_down, _held_down(problem, plan), "down"),
    ):
        if asked is None:
            continue
        # a store's energy is judged to a share of its size, which power over a step magnifies
        scale = held + problem.stores.energy.sum() / problem.step_hours
        for step in np.flatnonzero(_above(asked, held, scale)).tolist():
            yield f"step {step}: {held[step]:g} kW can be reserved {name}, less than {asked[step]:g}"


def _held_up(problem: Problem, plan: _Plan) -> Floats:
    units, stores, ties, hours = problem.generators, problem.stores, problem.ties, problem.step_hours
    output = plan.output[units.place]
    runs = (units.min_power == 0) | _above(output, 0.0, units.capacity)
    by_units = np.minimum(units.capacity * units.availability - output, units.ramp) * runs
    above_least = (plan.soc - stores.min_soc) * stores.energy[:, None]
    by_energy = above_least * np.sqrt(stores.efficiency)[:, None] / hours
    by_stores = np.minimum(stores.power - (plan.discharge - plan.charge), by_energy)
    by_ties = (ties.capacity - plan.output[ties.place]).clip(0).sum(axis=0)
    if problem.constraints.max_grid_import is not None:
        by_ties = np.minimum(by_ties, problem.constraints.max_grid_import - plan.output[ties.place].sum(axis=0))
    held: Floats = by_units.clip(0).sum(axis=0) + by_stores.clip(0).sum(axis=0) + by_ties.clip(0)
    return held


def _held_down(problem: Problem, plan: _Plan) -> Floats:
    units, stores, ties, hours = problem.generators, problem.stores, problem.ties, problem.step_hours
    output = plan.output[units.place]
    least = np.where(_above(output, 0.0, units.capacity), units.min_power, 0.0)
    by_units = np.minimum(output - least, units.ramp)
    room = (stores.max_soc - plan.soc) * stores.energy[:, None]
    by_room = room / np.sqrt(stores.efficiency)[:, None] / hours
    by_stores = np.minimum(stores.power + plan.discharge - plan.charge, by_room)
    by_ties = plan.output[ties.place] + np.where(ties.exports[:, None], ties.capacity, 0.0)
    held: Floats = sum((each.clip(0).sum(axis=0) for each in (by_units, by_stores, by_ties)), np.zeros(problem.steps))
    return held


def _totals(problem: Problem, plan: _Plan) -> Iterator[str]:
    limits, bought = problem.constraints, plan.bought(problem)
    if limits.max_grid_import is not None:
        imported = bought.sum(axis=0)
        for step in np.flatnonzero(_above(imported, limits.max_grid_import)).tolist():
            yield f"step {step}: import {imported[step]:g} is above maxGridImport {limits.max_grid_import[step]:g}"
    if limits.max_emissions is not None:
        by_units = problem.generators.emissions * plan.output[problem.generators.place]
        emitted = float(by_units.sum() + (problem.ties.emissions * bought).sum()) * problem.step_hours
        if _exceeds(emitted, limits.max_emissions):
            yield f"emissions {emitted:g} are above maxEmissions {limits.max_emissions:g}"


# -- what the solution says of itself


def _cost(problem: Problem, plan: _Plan) -> float:
    """Return the cost over the horizon, without the penalty for unmet demand."""
    units, ties, loads = problem.generators, problem.ties, problem.loads
    rate = (units.cost * plan.output[units.place]).sum() + (problem.stores.cost * plan.discharge).sum()
    rate += (ties.cost * plan.bought(problem)).sum() + (loads.cost * plan.output[loads.place]).sum()
    rate -= (np.nan_to_num(ties.export_price) * plan.sold(problem)).sum()
    return float(rate) * problem.step_hours


def _reported(problem: Problem, plan: _Plan, solution: Solution) -> Iterator[str]:
    hours, limits, units = problem.step_hours, problem.constraints, problem.generators
    total = plan.output.sum(axis=0)
    scale = np.abs(plan.output).max(axis=0, initial=0.0)
    for step in np.flatnonzero(_above(np.abs(solution.total_output - total), 0.0, scale)).tolist():
        yield f"step {step}: the total output is not the sum of the outputs"

    cost, demand, unmet = _cost(problem, plan), float(problem.demand.sum()) * hours, float(plan.unmet.sum()) * hours
    served = demand - unmet - float(plan.output[problem.loads.place].sum()) * hours
    generated = plan.output[units.place].sum(axis=1) * hours
    sourced = float(generated.sum() + plan.bought(problem).sum() * hours)
    renewable = float(generated[units.renewable].sum())

    # what falls short of each goal (kWh, kWh, money), and the size of the figures it is the difference of; unmet
    # demand may be rounding in every step
    short = {"unmetDemand": (unmet, demand + problem.steps * hours)}
    if limits.min_renewable is not None:
        short["minRenewable"] = (limits.min_renewable * sourced - renewable, sourced)
    if limits.max_cost is not None:
        short["maxCost"] = (cost - limits.max_cost * served, max(abs(cost), served, limits.max_cost * served))
    named = {violation.constraint: violation for violation in solution.violations}
    yield from (f"{goal} is named as falling short, and nobody asked for it" for goal in named if goal not in short)
    for goal, (shortfall, size) in short.items():
        if _exceeds(shortfall, 0.0, size) and (problem.strict or goal not in named):
            yield f"{goal} falls short" + (" in a strict problem" if problem.strict else " and is not named")
        elif goal in named and _exceeds(abs(named[goal].shortfall - max(shortfall, 0.0)), 0.0, size):
            yield f"{goal} falls {shortfall:g} short, not {named[goal].shortfall:g}"

    reported = (solution.cost or 0.0, solution.unmet_energy or 0.0)
    if _exceeds(abs(reported[0] - cost - 10 * reported[1]), 0, max(abs(cost), 10 * demand)):
        yield f"the cost {reported[0]:g} is not {cost:g} plus the penalty for {reported[1]:g} kWh"
    if _exceeds(abs(reported[1] - unmet), 0, demand + problem.steps * hours):
        yield f"the unmet energy {reported[1]:g} is not {unmet:g}"
    if sourced > 1 and _exceeds(abs((solution.renewable_ratio or 0.0) - renewable / sourced), 0):
        yield f"the renewable ratio {solution.renewable_ratio} is not {renewable / sourced:g}"
    if served > 1 and _exceeds(abs((solution.average_cost or 0.0) - cost / served), 0, abs(cost) / served):
        yield f"the average cost {solution.average_cost} is not {cost / served:g}"
