"""Random dispatch problems, and a second formulation of what their best plans are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from energy_cloud_dagster.domain.dispatch import parse_problem, solve
from energy_cloud_dagster.domain.dispatch.feasibility import violations_of
from energy_cloud_dagster.domain.dispatch.problem import Generator, Grid, Load, Problem, Storage

GOALS = ("unmetDemand", "minRenewable", "maxCost")
modest = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


# -- random problems, all features mixed


def tenths(low: int, high: int) -> st.SearchStrategy[float]:
    return st.integers(low, high).map(lambda value: value / 10)


def cents(low: int, high: int) -> st.SearchStrategy[float]:
    return st.integers(low, high).map(lambda value: value / 100)


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def per_step(strategy: st.SearchStrategy[float], steps: int) -> st.SearchStrategy[Any]:
    return strategy | st.lists(strategy, min_size=steps, max_size=steps)


@st.composite
def documents(draw: st.DrawFn, *, strict: bool = False) -> dict[str, Any]:
    steps = draw(st.integers(1, 5))
    power, price, share = tenths(0, 1000), cents(0, 40), cents(0, 100)
    resources: list[dict[str, Any]] = []
    for kind in draw(st.lists(st.sampled_from(["solar", "wind", "chp", "storage", "grid", "load"]), max_size=5)):
        resource: dict[str, Any] = {"type": kind, "capacity": draw(power), "costPerKWh": draw(per_step(price, steps))}
        if kind in ("solar", "wind", "load"):
            resource["availability"] = draw(per_step(share, steps))
        if kind == "chp":
            resource |= {
                "minPower": draw(maybe(per_step(tenths(0, 600), steps))),
                "rampRate": draw(maybe(per_step(power, steps))),
                "initialOutput": draw(maybe(power)),
                "emissionsPerKWh": draw(maybe(price)),
            }
        if kind == "storage":
            resource |= {
                "energyCapacity": draw(tenths(10, 3000)),
                "soc": draw(cents(20, 80)),
                "efficiency": draw(maybe(cents(50, 100))),
                "minSoc": draw(maybe(cents(0, 20))),
                "maxSoc": draw(maybe(cents(80, 100))),
                "endSoc": draw(maybe(cents(0, 80))),
            }
        if kind == "grid":
            resource["costPerKWh"] = draw(per_step(cents(-20, 40), steps))
            resource["exportPrice"] = draw(maybe(per_step(cents(-20, 40), steps)))
            resource["emissionsPerKWh"] = draw(maybe(per_step(price, steps)))
        resources.append(resource)
    constraints = {
        "minRenewable": draw(maybe(share)),
        "maxCost": draw(maybe(price)),
        "maxGridImport": draw(maybe(per_step(power, steps))),
        "maxEmissions": draw(maybe(tenths(0, 2000))),
        "reserve": {way: draw(maybe(per_step(tenths(0, 300), steps))) for way in ("up", "down")},
    }
    return {
        "demand": draw(st.lists(power, min_size=steps, max_size=steps)),
        "stepMinutes": draw(st.sampled_from([15, 60])),
        "constraints": constraints,
        "resources": resources,
        "strict": strict,
    }


def convex(document: dict[str, Any]) -> dict[str, Any]:
    """Leave out what makes the least cost other than convex in the limits: units, goals, and burning that pays."""
    for each in document["resources"]:
        for field in ("exportPrice", "initialOutput", "minPower"):
            each.pop(field, None)
        if each["type"] == "grid":
            each["costPerKWh"] = np.abs(each["costPerKWh"]).tolist()
    document["constraints"] |= {"minRenewable": None, "maxCost": None}
    return document


# -- the second formulation: the interface's text as dense matrices, with an integer for every pair of flows


def reference(problem: Problem, *, strict: bool = False, wishes: bool = False) -> tuple[float, ...] | None:  # noqa: PLR0912
    """Return (unmet, renewable shortfall, cost shortfall, cost), each least in that order; ``None`` if impossible.

    With ``wishes`` they are followed by shed less output of each priority, from the highest.
    """
    steps, hours, limits = problem.steps, problem.step_hours, problem.constraints
    names = [(kind, i, t) for i in range(len(problem.resources)) for t in range(steps) for kind in "xyez"]
    names += [(kind, i, t) for i in range(len(problem.resources)) for t in range(steps) for kind in "orq"]
    names += [("u", 0, t) for t in range(steps)]
    place = {name: index for index, name in enumerate(names)}
    width = len(names) + 2
    low, high = np.zeros(width), np.zeros(width)
    high[-2:] = np.inf
    rows: list[tuple[np.ndarray, float, float]] = []
    cost, served, source, green, emitted = (np.zeros(width) for _ in range(5))

    def row(terms: dict[tuple[str, int, int], float], least: float, most: float) -> None:
        values = np.zeros(width)
        for name, value in terms.items():
            values[place[name]] += value
        rows.append((values, least, most))

    for t in range(steps):
        balance = {("u", 0, t): 1.0}
        for i in range(len(problem.resources)):
            balance |= {("x", i, t): 1.0, ("y", i, t): -1.0}
        row(balance, problem.demand[t], problem.demand[t])
        high[place["u", 0, t]] = problem.demand[t]
    for i, resource in enumerate(problem.resources):
        for t in range(steps):
            x, y, e, z = (place[kind, i, t] for kind in "xyez")
            scale = resource.availability[t] if isinstance(resource, Generator | Load) else 1.0
            high[x] = resource.capacity[t] * scale
            cost[x] += resource.cost[t] * hours
            if not isinstance(resource, Load):
                served[x], served[y] = hours, -hours
            if isinstance(resource, Generator | Grid):
                source[x] = hours
                emitted[x] = (resource.emissions or [0.0] * steps)[t] * hours
            if isinstance(resource, Generator):
                green[x] = hours if resource.renewable else 0.0
                if resource.ramp_rate is not None and (t or resource.initial_output is not None):
                    before = 0.0 if t else resource.initial_output
                    change = {("x", i, t): 1.0} | ({("x", i, t - 1): -1.0} if t else {})
                    row(change, before - resource.ramp_rate[t], before + resource.ramp_rate[t])
                # off, or between the least and the most
                least = resource.min_power[t]
                high[place["o", i, t]] = 1
                low[place["o", i, t]] = 0 if least > 0 else 1
                row({("x", i, t): 1.0, ("o", i, t): -high[x]}, -np.inf, 0)
                row({("x", i, t): 1.0, ("o", i, t): -least}, 0, np.inf)
                high[place["r", i, t]] = high[place["q", i, t]] = (resource.ramp_rate or [np.inf] * steps)[t]
                row({("r", i, t): 1.0, ("x", i, t): 1.0, ("o", i, t): -high[x]}, -np.inf, 0)
                row({("q", i, t): 1.0, ("x", i, t): -1.0, ("o", i, t): least}, -np.inf, 0)
            both = isinstance(resource, Storage) or (isinstance(resource, Grid) and resource.export_price is not None)
            if both:
                high[y], high[z] = resource.capacity[t], 1
                row({("x", i, t): 1.0, ("z", i, t): -resource.capacity[t]}, -np.inf, 0)
                row({("y", i, t): 1.0, ("z", i, t): resource.capacity[t]}, -np.inf, resource.capacity[t])
            if isinstance(resource, Grid) and resource.export_price is not None:
                cost[y] -= resource.export_price[t] * hours
            if isinstance(resource, Storage):
                size, one_way = resource.energy_capacity, math.sqrt(resource.efficiency)
                low[e], high[e] = resource.min_soc[t] * size, resource.max_soc[t] * size
                if t == steps - 1:
                    end = resource.end_soc
                    low[e] = max(low[e], (min(resource.soc, resource.max_soc[t]) if end is None else end) * size)
                flow = {("e", i, t): 1.0, ("y", i, t): -one_way * hours, ("x", i, t): hours / one_way}
                if t:
                    flow["e", i, t - 1] = -1.0
                row(flow, 0.0 if t else resource.soc * size, 0.0 if t else resource.soc * size)
                high[place["r", i, t]] = high[place["q", i, t]] = np.inf
                row({("r", i, t): 1.0, ("x", i, t): 1.0, ("y", i, t): -1.0}, -np.inf, resource.capacity[t])
                row({("q", i, t): 1.0, ("x", i, t): -1.0, ("y", i, t): 1.0}, -np.inf, resource.capacity[t])
                rise = {("r", i, t): hours / one_way, ("e", i, t): -1.0}
                row(rise, -np.inf, -resource.min_soc[t] * size)
                row({("q", i, t): hours * one_way, ("e", i, t): 1.0}, -np.inf, resource.max_soc[t] * size)
            if isinstance(resource, Grid):
                high[place["r", i, t]] = high[place["q", i, t]] = np.inf
                row({("r", i, t): 1.0, ("x", i, t): 1.0, ("y", i, t): -1.0}, -np.inf, resource.capacity[t])
                back = resource.capacity[t] if resource.export_price is not None else 0.0
                row({("q", i, t): 1.0, ("x", i, t): -1.0, ("y", i, t): 1.0}, -np.inf, back)
    ties = [i for i, resource in enumerate(problem.resources) if isinstance(resource, Grid)]
    for t, limit in enumerate(() if limits.max_grid_import is None else limits.max_grid_import):
        row({("x", i, t): 1.0 for i in ties}, -np.inf, limit)
        row({(kind, i, t): -1.0 if kind == "y" else 1.0 for i in ties for kind in "xyr"}, -np.inf, limit)
    everybody = range(len(problem.resources))
    for kind, asked in (("r", limits.reserve_up), ("q", limits.reserve_down)):
        for t, needed in enumerate(() if asked is None else asked):
            row({(kind, i, t): 1.0 for i in everybody}, needed, np.inf)
    rows.append((emitted, -np.inf, np.inf if limits.max_emissions is None else limits.max_emissions))
    if limits.min_renewable is not None:
        share = green - limits.min_renewable * source
        share[-2] = 1
        rows.append((share, 0, np.inf))
    if limits.max_cost is not None:
        money = cost - limits.max_cost * served
        money[-1] = -1
        rows.append((money, -np.inf, 0))
    unmet, green_short, cost_short = (np.zeros(width) for _ in range(3))
    for t in range(steps):
        unmet[place["u", 0, t]] = hours
    green_short[-2], cost_short[-1] = 1, 1
    integer = np.array([1 if name[0] in "zo" else 0 for name in names] + [0, 0])
    found = []
    levels = []
    for level in sorted({resource.priority for resource in problem.resources}, reverse=True) if wishes else ():
        wish = np.zeros(width)
        for i, resource in enumerate(problem.resources):
            if resource.priority == level and isinstance(resource, Generator | Load):
                wish[[place["x", i, t] for t in range(steps)]] = 1 if isinstance(resource, Load) else -1
        levels.append(wish)
    for goal in (unmet, green_short, cost_short, cost, *levels):
        matrix, least, most = (np.array(part) for part in zip(*rows, strict=True))
        if np.any(low > high + 1e-12):
            return None
        result = milp(
            goal, constraints=LinearConstraint(matrix, least, most), bounds=Bounds(low, high), integrality=integer,
            options={"mip_rel_gap": 0},
        )  # fmt: skip
        if result.status == 2 or (strict and goal is not cost and result.fun > 1e-6):
            return None
        assert result.status == 0, result.message
        found.append(float(result.fun))
        rows.append((goal, -np.inf, float(result.fun) + 1e-8))
    found[3] += 10 * found[0]
    return tuple(found)


def figures(problem: Problem) -> tuple[float, ...]:
    solution = solve(problem)
    short = {violation.constraint: violation.shortfall for violation in solution.violations}
    return (*(short.get(goal, 0.0) for goal in GOALS), solution.cost or 0.0)


# -- plans of problems written by hand

SPEC = [
    {"id": "SOLAR-001", "type": "solar", "capacity": 1000, "costPerKWh": 0.05},
    {"id": "WIND-001", "type": "wind", "capacity": 1500, "costPerKWh": 0.06},
    {"id": "GRID-001", "type": "grid", "capacity": 5000, "costPerKWh": 0.12},
]
BATTERY = {"id": "BAT-001", "type": "storage", "capacity": 100, "energyCapacity": 200, "soc": 0.5}
CHP = {"id": "CHP-1", "type": "chp", "capacity": 100, "costPerKWh": 0.1}


def plan(demand: Any, resources: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    solution = solve(problem := parse_problem({"demand": demand, "resources": resources, **more}))
    assert violations_of(problem, solution) == []
    return solution.to_document()


def outputs(document: dict[str, Any]) -> list[Any]:
    return [each["output"] for each in document["allocation"]]
