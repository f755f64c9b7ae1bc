"""An independent judge of plans: it reads a problem and a solution, and knows nothing of the model that found it."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite, sqrt
from typing import Final

from energy_cloud_dagster.domain.dispatch.problem import Generator, Grid, Load, Problem, Series, Storage
from energy_cloud_dagster.domain.dispatch.solution import Allocation, Solution

#: Relative to the largest power, energy or amount of money in the comparison.
TOLERANCE: Final = 1e-6


def violations_of(problem: Problem, solution: Solution) -> list[str]:
    """Return every way in which a completed plan breaks its problem or misreports itself; an empty list is a pass.

    Goals (unmet demand, ``minRenewable``, ``maxCost``) may fall short only where ``violations`` names them, and never
    in a strict problem. An infeasible answer must name its conflict and carry no plan.
    """
    if solution.status == "infeasible":
        named = bool(solution.conflict) and not solution.allocation
        return [] if named else ["an infeasible answer names its conflict and carries no plan"]
    return list(_check(problem, solution))


def _check(problem: Problem, solution: Solution) -> Iterator[str]:
    given = [(each.resource_id, each.type) for each in solution.allocation]
    if given != [(resource.id, resource.type) for resource in problem.resources]:
        yield "the allocation does not list the problem's resources in order"
        return
    series = [solution.unmet, *(flow for each in solution.allocation for flow in _flows(each))]
    if any(len(flow) != problem.steps or not all(map(isfinite, flow)) for flow in series):
        yield "a series has the wrong length or a value that is not finite"
        return
    yield from _balance(problem, solution)
    cost = 0.0
    for resource, each in zip(problem.resources, solution.allocation, strict=True):
        if isinstance(resource, Storage):
            cost += _money(resource.cost, each.discharge or ())
            yield from _store(problem, resource, each)
        elif isinstance(resource, Grid):
            cost += _money(resource.cost, tuple(max(flow, 0.0) for flow in each.output))
            cost -= _money(resource.export_price or (), tuple(max(-flow, 0.0) for flow in each.output))
            yield from _tie(resource, each)
        else:
            cost += _money(resource.cost, each.output)
            yield from _unit(resource, each)
    yield from _plan(problem, solution, cost * problem.step_hours)


def _flows(each: Allocation) -> Iterator[Series]:
    yield each.output
    yield from (flow for flow in (each.charge, each.discharge, each.soc) if flow is not None)


def _money(prices: Series, flows: Series) -> float:
    return sum(price * flow for price, flow in zip(prices, flows, strict=False))


def _above(value: float, limit: float, scale: float = 0.0) -> bool:
    return value > limit + TOLERANCE * max(1.0, abs(limit), abs(scale))


def _balance(problem: Problem, solution: Solution) -> Iterator[str]:
    for step, demand in enumerate(problem.demand):
        unmet = solution.unmet[step]
        if _above(-unmet, 0) or _above(unmet, demand):
            yield f"step {step}: unmet {unmet} is outside 0 to {demand}"
        outputs = [each.output[step] for each in solution.allocation]
        scale = max((abs(output) for output in outputs), default=0.0)
        if _above(abs(sum(outputs) + unmet - demand), 0, max(demand, scale)):
            yield f"step {step}: {sum(outputs)} + unmet {unmet} is not the demand {demand}"
        if _above(abs(solution.total_output[step] - sum(outputs)), 0, scale):
            yield f"step {step}: the total output is not the sum of the outputs"


def _unit(resource: Generator | Load, each: Allocation) -> Iterator[str]:
    for step, output in enumerate(each.output):
        limit = resource.capacity[step] * resource.availability[step]
        if _above(-output, 0) or _above(output, limit):
            yield f"{resource.id} step {step}: {output} is outside 0 to {limit}"
    if isinstance(resource, Generator) and resource.ramp_rate is not None:
        before = (resource.initial_output, *each.output)
        for step, rate in enumerate(resource.ramp_rate):
            last = before[step]
            if last is not None and _above(abs(each.output[step] - last), rate, last):
                yield f"{resource.id} step {step}: {last} to {each.output[step]} is faster than {rate} per step"


def _tie(grid: Grid, each: Allocation) -> Iterator[str]:
    for step, output in enumerate(each.output):
        most_out = grid.capacity[step] if grid.export_price is not None else 0.0
        if _above(output, grid.capacity[step]) or _above(-output, most_out):
            yield f"{grid.id} step {step}: {output} is outside {-most_out} to {grid.capacity[step]}"


def _store(problem: Problem, store: Storage, each: Allocation) -> Iterator[str]:
    if each.charge is None or each.discharge is None or each.soc is None:
        yield f"{store.id}: charge, discharge and soc are missing"
        return
    one_way, before, size = sqrt(store.efficiency), store.soc, store.energy_capacity
    for step in range(problem.steps):
        where, limit = f"{store.id} step {step}", store.capacity[step]
        charge, discharge, soc = each.charge[step], each.discharge[step], each.soc[step]
        if _above(-min(charge, discharge), 0) or _above(max(charge, discharge), limit):
            yield f"{where}: charge {charge} or discharge {discharge} is outside 0 to {limit}"
        if _above(min(charge, discharge), 0, limit):
            yield f"{where}: charges {charge} and discharges {discharge} at once"
        if _above(abs(each.output[step] - discharge + charge), 0, limit):
            yield f"{where}: the output is not discharge less charge"
        gained = (one_way * charge - discharge / one_way) * problem.step_hours
        if _above(abs((soc - before) * size - gained), 0, max(size, limit)):
            yield f"{where}: {before} to {soc} of {size} kWh is not what flowed ({gained} kWh)"
        if _above(store.min_soc[step], soc) or _above(soc, store.max_soc[step]):
            yield f"{where}: state of charge {soc} is outside its limits"
        before = soc
    # without endSoc the store is left as full as it was found, or as full as it may be
    least = min(store.soc, store.max_soc[-1]) if store.end_soc is None else store.end_soc
    if _above(least, before):
        yield f"{store.id}: ends at {before}, below {least}"


def _plan(problem: Problem, solution: Solution, cost: float) -> Iterator[str]:
    hours, limits = problem.step_hours, problem.constraints
    pairs = list(zip(problem.resources, solution.allocation, strict=True))
    sources = [
        (resource, tuple(max(flow, 0.0) for flow in each.output))
        for resource, each in pairs
        if isinstance(resource, Generator | Grid)
    ]
    for step, limit in enumerate(() if limits.max_grid_import is None else limits.max_grid_import):
        imported = sum(flows[step] for resource, flows in sources if isinstance(resource, Grid))
        if _above(imported, limit):
            yield f"step {step}: import {imported} is above maxGridImport {limit}"
    emitted = sum(_money(resource.emissions or (), flows) for resource, flows in sources) * hours
    if limits.max_emissions is not None and _above(emitted, limits.max_emissions):
        yield f"emissions {emitted} are above maxEmissions {limits.max_emissions}"

    unmet = sum(solution.unmet) * hours
    shed = sum(sum(each.output) for resource, each in pairs if isinstance(resource, Load)) * hours
    demand = sum(problem.demand) * hours
    served = demand - unmet - shed
    sourced = sum(sum(flows) for _, flows in sources) * hours
    renewable = sum(sum(f) for r, f in sources if r.type in ("solar", "wind", "hydro")) * hours
    short = {"unmetDemand": _above(unmet, 0, demand)}
    if limits.min_renewable is not None:
        short["minRenewable"] = _above(limits.min_renewable * sourced, renewable, sourced)
    if limits.max_cost is not None:
        short["maxCost"] = _above(cost, limits.max_cost * served, max(abs(cost), served))
    named = [violation.constraint for violation in solution.violations]
    for goal, falls_short in short.items():
        if falls_short and (problem.strict or goal not in named):
            yield f"{goal} falls short" + (" in a strict problem" if problem.strict else " and is not named")
    reported = (solution.cost or 0.0, solution.unmet_energy or 0.0)
    if _above(abs(reported[0] - cost - 10 * reported[1]), 0, max(abs(cost), 10 * demand)):
        yield f"the cost {reported[0]} is not {cost} plus the penalty for {reported[1]} kWh"
    if _above(abs(reported[1] - unmet), 0, demand):
        yield f"the unmet energy {reported[1]} is not {unmet}"
    if sourced > 1 and _above(abs((solution.renewable_ratio or 0.0) - renewable / sourced), 0):
        yield f"the renewable ratio {solution.renewable_ratio} is not {renewable / sourced}"
