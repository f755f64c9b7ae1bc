"""Plans against an independent judge, against a second formulation, and against finite differences."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pulp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from energy_cloud_dagster.domain.dispatch import parse_problem, solve
from energy_cloud_dagster.domain.dispatch.feasibility import violations_of
from energy_cloud_dagster.domain.dispatch.flows import Outcome
from energy_cloud_dagster.domain.dispatch.problem import Generator, Grid, Load, Problem, Storage
from energy_cloud_dagster.domain.dispatch.solving import conflict as conflict_search
from energy_cloud_dagster.domain.dispatch.solving import goals, lp
from energy_cloud_dagster.domain.dispatch.solving.goals import optimise
from energy_cloud_dagster.domain.dispatch.solving.lp import SolverFailed
from energy_cloud_dagster.domain.dispatch.solving.matrices import EITHER, Matrices, Switches, build

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


# -- properties


@modest
@given(documents())
def test_a_plan_is_feasible_and_as_good_as_the_second_formulation(document: dict[str, Any]) -> None:
    problem = parse_problem(document)
    solution = solve(problem)
    assert violations_of(problem, solution) == []
    expected = reference(problem)
    if solution.status == "infeasible":
        assert expected is None
        return
    assert expected is not None
    assert figures(problem) == pytest.approx(expected, rel=1e-6, abs=2e-5)


@modest
@given(documents(strict=True))
def test_a_strict_problem_is_met_in_full_or_has_a_conflict(document: dict[str, Any]) -> None:
    problem = parse_problem(document)
    solution = solve(problem)
    assert violations_of(problem, solution) == []
    expected = reference(problem, strict=True)
    assert (solution.status == "infeasible") == (expected is None)
    if expected is not None:
        assert solution.violations == ()
        assert solution.cost == pytest.approx(expected[3], rel=1e-6, abs=2e-5)


@modest
@given(documents().map(convex), st.lists(st.integers(-1, 1), min_size=5, max_size=5))
def test_the_plan_of_equal_cost_that_keeps_to_the_priorities(document: dict[str, Any], ranks: list[int]) -> None:
    """Without differences in cost there is most to choose."""
    for each, rank in zip(document["resources"], ranks, strict=False):
        each["priority"] = rank
        if each["type"] in ("solar", "wind", "load"):
            each["costPerKWh"] = 0.1
    problem = parse_problem(document)
    solution = solve(problem)
    assert violations_of(problem, solution) == []
    wished = {each.priority for each in problem.resources if isinstance(each, Generator | Load)}
    expected = reference(problem, wishes=len(wished) > 1)
    if expected is None or len(wished) < 2:
        return
    levels = sorted({resource.priority for resource in problem.resources}, reverse=True)
    given = dict.fromkeys(levels, 0.0)
    for resource, each in zip(problem.resources, solution.allocation, strict=True):
        if isinstance(resource, Generator | Load):
            given[resource.priority] += sum(each.output) * (1 if isinstance(resource, Load) else -1)
    assert (*figures(problem), *given.values()) == pytest.approx(expected, rel=1e-6, abs=1e-4)


@settings(modest, max_examples=15)
@given(documents())
def test_the_same_problem_gives_the_same_document_to_the_last_bit(document: dict[str, Any]) -> None:
    first, second = (solve(parse_problem(document)) for _ in range(2))
    assert repr(first.to_document()) == repr(second.to_document())


@modest
@given(documents().map(convex))
def test_the_marginal_price_lies_between_the_slopes_of_the_cost(document: dict[str, Any]) -> None:
    base = solve(parse_problem(document))
    if base.status == "infeasible":
        return
    step_kwh = 1e-3
    hours = document["stepMinutes"] / 60
    for step, price in enumerate(base.marginal_price):
        slopes = []
        for sign in (-1, 1):
            moved = list(document["demand"])
            moved[step] += sign * step_kwh / hours
            if moved[step] < 0:
                return
            other = solve(parse_problem({**document, "demand": moved}))
            if other.status == "infeasible" or bool(other.unmet_energy) != bool(base.unmet_energy):
                return
            slopes.append(sign * ((other.cost or 0.0) - (base.cost or 0.0)) / step_kwh)
        assert slopes[0] - 1e-3 <= price <= slopes[1] + 1e-3


#: Where each limit stands in a problem, and by how much of it one more unit of what is valued changes it.
LIMITS: dict[str, tuple[str, str, float]] = {
    "generation": ("generators", "limit", 1),
    "ramp": ("generators", "ramp", 1),
    "shed": ("loads", "limit", 1),
    "import": ("ties", "capacity", 1),
    "discharge": ("stores", "power", 1),
    "full": ("stores", "max_soc", 1),
    "empty": ("stores", "min_soc", -1),
    "endSoc": ("stores", "end_soc", -1),
    "maxGridImport": ("constraints", "max_grid_import", 1),
    "maxEmissions": ("constraints", "max_emissions", 1),
    "reserveUp": ("constraints", "reserve_up", -1),
    "reserveDown": ("constraints", "reserve_down", -1),
}


@settings(modest, max_examples=25)
@given(documents().map(convex), st.integers(0, 10**6))
def test_the_value_of_a_limit_lies_between_the_slopes_of_the_cost(document: dict[str, Any], choice: int) -> None:
    problem = parse_problem(document)
    base = optimise(problem)
    if not isinstance(base, Outcome) or base.shortfalls["unmetDemand"] > 0:
        return
    for name, values in base.duals.limits.items():
        assert (values >= 0).all()
        if name in ("charge", "export") or not values.size:
            continue
        where = np.unravel_index(choice % values.size, values.shape)
        value = float(values[where])
        if name == "discharge":  # a store's power is the limit of both its flows
            value += float(base.duals.limits["charge"][where])
        slopes = [(moved_cost(problem, name, where, by) - base.cost) / by for by in (-1e-3, 1e-3)]
        assert slopes[0] - 1e-3 <= -value <= slopes[1] + 1e-3, name


def moved_cost(problem: Problem, name: str, where: Any, by: float) -> float:
    """Return the least cost with a limit looser by ``by``; a limit that cannot be met any more costs anything."""
    block, field, sign = LIMITS[name]
    part = getattr(problem, block)
    if field == "max_emissions":
        moved: Any = part.max_emissions + by
    else:
        moved = getattr(part, field).copy()
        moved[where] += sign * by / (problem.stores.energy[where[0]] if field.endswith("soc") else 1)
    outcome = optimise(replace(problem, **{block: replace(part, **{field: moved})}))
    if isinstance(outcome, Outcome) and outcome.shortfalls["unmetDemand"] == 0:
        return outcome.cost
    return math.inf if by < 0 else -math.inf


# -- problems solved by hand

SPEC = [
    {"id": "SOLAR-001", "type": "solar", "capacity": 1000, "costPerKWh": 0.05},
    {"id": "WIND-001", "type": "wind", "capacity": 1500, "costPerKWh": 0.06},
    {"id": "GRID-001", "type": "grid", "capacity": 5000, "costPerKWh": 0.12},
]
BATTERY = {"id": "BAT-001", "type": "storage", "capacity": 100, "energyCapacity": 200, "soc": 0.5}


def plan(demand: Any, resources: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    solution = solve(problem := parse_problem({"demand": demand, "resources": resources, **more}))
    assert violations_of(problem, solution) == []
    return solution.to_document()


def outputs(document: dict[str, Any]) -> list[Any]:
    return [each["output"] for each in document["allocation"]]


def test_three_resources_meet_2000_kw_with_seven_tenths_renewable() -> None:
    document = plan(2000, SPEC, constraints={"minRenewable": 0.7})
    assert outputs(document) == [1000, 1000, 0]
    assert document["totalOutput"] == 2000
    assert (document["cost"], document["averageCost"], document["renewableRatio"]) == (110, 0.055, 1)
    assert document["steps"] == [{"marginalPrice": 0.06, "binding": ["SOLAR-001.capacity"]}]
    assert (document["status"], document["violations"], document["solver"]) == ("completed", [], "lp")
    assert "SOLAR-001 gives 1,000 kW" in document["explanation"][0]


def test_unmet_demand_comes_first_then_the_renewable_share_then_the_cost_cap() -> None:
    document = plan(9000, SPEC, constraints={"minRenewable": 0.7, "maxCost": 0.05})
    assert outputs(document) == [1000, 1500, 5000]
    assert document["unmetEnergy"] == 1500
    assert document["cost"] == pytest.approx(50 + 90 + 600 + 15_000)
    assert document["steps"][0]["marginalPrice"] == pytest.approx(10)
    unmet, share, cost = document["violations"]
    assert unmet == {"constraint": "unmetDemand", "required": 0, "achieved": 1500, "shortfall": 1500}
    assert (share["constraint"], share["required"]) == ("minRenewable", 0.7)
    assert share["achieved"] == pytest.approx(1 / 3)
    assert share["shortfall"] == pytest.approx(0.7 * 7500 - 2500)
    assert cost["achieved"] == pytest.approx(740 / 7500)
    assert cost["shortfall"] == pytest.approx(740 - 0.05 * 7500)


def test_a_renewable_share_turns_dear_wind_on() -> None:
    resources = [
        {"type": "wind", "capacity": 80, "costPerKWh": 0.2},
        {"type": "grid", "capacity": 100, "costPerKWh": 0.1},
    ]
    assert outputs(plan(100, resources)) == [0, 100]
    document = plan(100, resources, constraints={"minRenewable": 0.6})
    assert outputs(document) == [60, 40]
    # one more kWh is 0.6 of wind and 0.4 of grid
    assert document["steps"][0]["marginalPrice"] == pytest.approx(0.16)
    assert document["steps"][0]["binding"] == ["minRenewable"]


def test_a_cost_cap_that_cannot_be_kept_yields_the_cheapest_plan_and_says_by_how_much() -> None:
    document = plan(10, [{"type": "grid", "capacity": 20, "costPerKWh": 0.3}], constraints={"maxCost": 0.2})
    assert document["violations"] == [{"constraint": "maxCost", "required": 0.2, "achieved": 0.3, "shortfall": 1.0}]
    assert document["steps"][0]["marginalPrice"] == pytest.approx(0.3)


def test_storage_carries_cheap_energy_to_a_dear_hour_at_its_efficiency() -> None:
    grid = {"type": "grid", "capacity": 500, "costPerKWh": [0.1, 0.5]}
    document = plan([50, 50], [{**BATTERY, "soc": 0, "efficiency": 0.81}, grid])
    battery, tie = document["allocation"]
    assert battery["charge"] == [pytest.approx(50 / 0.81), 0]
    assert battery["discharge"] == [0, 50]
    assert battery["soc"] == [pytest.approx(50 / 0.9 / 200), 0]
    assert tie["output"] == [pytest.approx(50 + 50 / 0.81), 0]
    assert document["steps"][1]["marginalPrice"] == pytest.approx(0.1 / 0.81)


def test_storage_ends_as_full_as_it_began_or_as_asked() -> None:
    grid = {"type": "grid", "capacity": 500, "costPerKWh": 0.2}
    assert plan([50, 50], [BATTERY, grid])["allocation"][0]["soc"][-1] == pytest.approx(0.5)
    emptied = plan([50, 50], [{**BATTERY, "endSoc": 0.1}, grid])["allocation"][0]
    assert emptied["soc"][-1] == pytest.approx(0.1)
    # a state above maxSoc is brought down, not asked for again
    assert plan([50, 50], [{**BATTERY, "soc": 0.9, "maxSoc": [0.9, 0.6]}, grid])["allocation"][0]["soc"][-1] <= 0.6


def test_at_negative_prices_a_battery_does_not_burn_energy_by_doing_both() -> None:
    grid = {"type": "grid", "capacity": 500, "costPerKWh": -0.1}
    full = {**BATTERY, "soc": 1}
    document = plan([0], [full, grid])
    battery = document["allocation"][0]
    assert min(battery["charge"][0], battery["discharge"][0]) == 0
    # full and to end full, it can neither charge nor discharge, so that no import pays
    assert document["cost"] == 0


def test_a_renewable_share_is_not_reached_by_burning_solar_in_a_battery() -> None:
    resources = [
        {"type": "solar", "capacity": 500, "availability": [0, 1]},
        {"type": "grid", "capacity": 100, "costPerKWh": 0.1},
        {**BATTERY, "energyCapacity": 1, "capacity": 100, "efficiency": 0.5},
    ]
    document = plan([80, 20], resources, constraints={"minRenewable": 0.5})
    battery = document["allocation"][2]
    assert all(min(pair) == 0 for pair in zip(battery["charge"], battery["discharge"], strict=True))
    assert [each["constraint"] for each in document["violations"]] == ["minRenewable"]


def test_a_tie_sells_or_buys_but_not_both_at_once() -> None:
    tie = {"type": "grid", "capacity": 100, "costPerKWh": 0.1, "exportPrice": 0.3}
    assert outputs(plan(10, [tie])) == [10]
    solar = {"type": "solar", "capacity": 50}
    document = plan(10, [solar, tie])
    assert outputs(document) == [50, -40]
    assert document["cost"] == pytest.approx(-12)
    # at equal prices both at once would cost nothing, and is not done either
    assert outputs(plan([10, 0], [{**tie, "exportPrice": 0.1}])) == [[10, 0]]


def test_ramps_bound_the_first_step_from_the_initial_output() -> None:
    chp = {"type": "chp", "capacity": 100, "costPerKWh": 0.1, "rampRate": 20, "initialOutput": 10}
    grid = {"type": "grid", "capacity": 100, "costPerKWh": 0.3}
    assert outputs(plan([100, 100, 100], [chp, grid])) == [[30, 50, 70], [70, 50, 30]]


def test_loads_are_shed_below_their_value_and_limits_hold() -> None:
    load = {"type": "load", "capacity": 40, "availability": 0.5, "costPerKWh": 0.25}
    grid = {"type": "grid", "capacity": 100, "costPerKWh": 0.3, "emissionsPerKWh": 0.5}
    assert outputs(plan(60, [load, grid])) == [20, 40]
    document = plan(60, [load, grid], constraints={"maxGridImport": 30})
    assert outputs(document) == [20, 30]
    assert document["unmetEnergy"] == 10
    assert outputs(plan(60, [load, grid], constraints={"maxEmissions": 10})) == [20, 20]


def test_unmet_demand_never_exceeds_the_demand_to_be_sold_at_a_high_price() -> None:
    """Moving unmet energy into an hour where a kWh sells for 20 would pay, but nobody can sell what is not there."""
    resources = [
        {"type": "wind", "capacity": 30},
        {"type": "grid", "capacity": [0, 60], "costPerKWh": 30, "exportPrice": [0, 20]},
        {**BATTERY, "soc": 0, "efficiency": 1, "endSoc": 0},
    ]
    document = plan([50, 20], resources, constraints={"maxGridImport": 0})
    assert document["unmetEnergy"] == pytest.approx(20)


def test_a_goal_reached_to_the_last_digit_does_not_make_the_next_one_impossible() -> None:
    """Rounding once put the cap of the first goal out of the second one's reach."""
    resources = [
        {"type": "solar", "capacity": 10, "costPerKWh": [0.04, 0, 0, 0], "availability": [0.01, 0, 0, 0]},
        {"type": "solar", "capacity": 0.1, "costPerKWh": [0.03, 0, 0, 0], "availability": 0.01},
    ]
    document = plan([0.1, 0, 0, 50.1], resources, constraints={"maxCost": 0})
    assert document["unmetEnergy"] == pytest.approx(50.099)


def test_solar_that_nobody_needs_is_curtailed_rather_than_burnt() -> None:
    """Burning costs nothing here, so that the first optimum found may well do it; an equal one does not."""
    resources = [{"type": "solar", "capacity": 500}, *({**BATTERY, "id": f"B{n}"} for n in range(4))]
    document = plan([20] * 12, resources)
    assert document["cost"] == 0
    tie = {"type": "grid", "capacity": 500, "costPerKWh": 0, "exportPrice": 0}
    assert plan([20, 0, 30], [*resources, tie])["cost"] == 0


def test_burning_that_costs_nothing_is_left_out_without_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first optimum charges and discharges at once to empty the store; another one of the same cost does not."""
    store = {**BATTERY, "endSoc": 0, "efficiency": 0.5, "maxSoc": [1, 1, 0.5, 1]}
    resources = [{"type": "solar", "capacity": 500}, store, {"type": "grid", "capacity": 500}]
    tried = recorded(monkeypatch)
    plan([0, 10, 10, 10], resources)
    held = [switches.stores for switches in tried if switches.stores is not None]
    assert any(stores.any() for stores in held)
    assert not any((stores == EITHER).any() for stores in held)


def test_what_only_burning_could_absorb_makes_a_problem_impossible() -> None:
    must_run = {"id": "CHP-1", "type": "chp", "capacity": 2, "rampRate": 0, "initialOutput": 2}
    store = {**BATTERY, "capacity": 2.1, "energyCapacity": 2.8, "soc": 0.2, "efficiency": 0.5, "maxSoc": 0.8}
    document = plan([0] * 5, [must_run, store], stepMinutes=15)
    assert document["conflict"] == ["demand", "CHP-1.rampRate", "BAT-001.maxSoc"]


def test_a_store_that_must_fill_cannot_fill_from_unmet_demand() -> None:
    document = plan([0], [{**BATTERY, "endSoc": 0.6}])
    assert document["conflict"] == ["demand", "BAT-001.endSoc"]
    # where there is demand, at most all of it goes unmet
    assert plan([20], [{**BATTERY, "endSoc": 0.5}, {"type": "wind", "capacity": 5}])["unmetEnergy"] == 15


def test_a_cap_that_rounding_put_out_of_reach_is_given_a_hair(monkeypatch: pytest.MonkeyPatch) -> None:
    solve_arrays, calls = lp.run, []

    def rounding(matrices: Matrices, **options: Any) -> lp.Raw:
        calls.append(matrices)
        # the solve under the cap on unmet demand, after the one that found it
        return lp.Raw("infeasible") if len(calls) == 2 else solve_arrays(matrices, **options)

    def unreachable(matrices: Matrices, **options: Any) -> lp.Raw:
        capped = matrices.column("goals", matrices.upper)[0] < math.inf
        return lp.Raw("infeasible") if capped else solve_arrays(matrices, **options)

    monkeypatch.setattr(lp, "run", rounding)
    assert plan(10, [{"type": "wind", "capacity": 4}])["unmetEnergy"] == pytest.approx(6, abs=1e-6)
    assert len(calls) == 3
    monkeypatch.setattr(lp, "run", unreachable)
    with pytest.raises(SolverFailed, match="unmetDemand"):
        plan(10, [{"type": "wind", "capacity": 4}])


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Switches]:
    tried: list[Switches] = []

    def noted(problem: Problem, switches: Switches | None = None) -> Matrices:
        tried.append(switches or Switches())
        return build(problem, switches)

    monkeypatch.setattr(goals, "build", noted)
    return tried


def test_two_processes_print_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"demand": [100, 900, 7600], "resources": [*SPEC, BATTERY, {**BATTERY, "id": "B2"}]}))
    program = (
        "import json, sys; from energy_cloud_dagster.domain.dispatch import parse_problem, solve; "
        "print(json.dumps(solve(parse_problem(json.load(open(sys.argv[1])))).to_document()))"
    )
    printed = [
        subprocess.run(
            [sys.executable, "-c", program, str(path)], env={"PYTHONHASHSEED": seed}, check=True, capture_output=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert printed[0] == printed[1] != b""


@pytest.mark.parametrize(
    ("demand", "resources", "constraints", "conflict"),
    [
        (9000, SPEC, {"minRenewable": 0.7}, ["demand"]),
        (4000, SPEC, {"minRenewable": 0.7, "maxCost": 1}, ["demand", "minRenewable"]),
        (3000, SPEC, {"maxCost": 0.01, "minRenewable": 0.1}, ["demand", "maxCost"]),
        (4000, SPEC, {"maxGridImport": 1000}, ["demand", "maxGridImport"]),
        ([0], [{**BATTERY, "endSoc": 0.9}], {}, ["demand", "BAT-001.endSoc"]),
        ([0], [{**BATTERY, "capacity": 1, "endSoc": 0.9}], {}, ["BAT-001.endSoc"]),
    ],
)  # fmt: skip
def test_an_impossible_strict_problem_names_the_smallest_conflict(
    demand: Any, resources: list[Any], constraints: dict[str, Any], conflict: list[str]
) -> None:
    document = plan(demand, resources, constraints=constraints, strict=True)
    assert document["status"] == "infeasible"
    assert document["conflict"] == conflict
    assert conflict[0] in document["explanation"][0]
    assert (document["cost"], document["allocation"], document["steps"]) == (None, [], [])


def test_a_conflict_of_too_many_resources_names_their_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten stores must end full; what there is would fill any nine of them."""
    stores = [{**BATTERY, "id": f"B{n}", "capacity": 100 + n, "endSoc": 1, "efficiency": 1} for n in range(10)]
    document = {"demand": [0, 0], "resources": [*stores, {"type": "wind", "capacity": 490}], "strict": True}
    assert plan(**document)["conflict"] == ["demand", *(f"B{n}.endSoc" for n in range(10))]
    for limit, least in (("_NAMED", 9), ("_WORK", 1)):
        with monkeypatch.context() as patched:
            patched.setattr(conflict_search, limit, least)
            assert plan(**document)["conflict"] == ["demand", "endSoc"]


def test_a_must_run_unit_without_an_outlet_is_impossible_even_when_goals_are_soft() -> None:
    chp = {"id": "CHP-1", "type": "chp", "capacity": 100, "rampRate": 10, "initialOutput": 90}
    document = plan(5, [chp])
    assert (document["status"], document["conflict"]) == ("infeasible", ["demand", "CHP-1.rampRate"])


def test_steps_are_named_by_their_start_and_each_has_a_sentence() -> None:
    many = [{"type": "wind", "capacity": 1} for _ in range(6)]
    document = plan([6, 7], many, start="2026-03-01T09:00:00+09:00", stepMinutes=15)
    assert [step["start"] for step in document["steps"]] == ["2026-03-01T00:00:00Z", "2026-03-01T00:15:00Z"]
    assert document["unmetEnergy"] == 0.25
    assert document["explanation"][1].startswith("2026-03-01 00:15 UTC: for 7 kW of demand")
    assert "and 2 more" in document["explanation"][0]
    assert "1 kW stays unmet" in document["explanation"][1]


def test_no_resources_at_all_leave_everything_unmet() -> None:
    document = plan([5, 6], [])
    assert (document["unmetEnergy"], document["cost"], document["renewableRatio"]) == (11, 110, None)
    assert document["averageCost"] is None


# -- units, reserve, priorities

CHP = {"id": "CHP-1", "type": "chp", "capacity": 100, "costPerKWh": 0.1}


def test_a_unit_is_off_or_between_its_least_and_its_limit() -> None:
    grid = {"type": "grid", "capacity": 100, "costPerKWh": 0.3, "exportPrice": 0}
    # 40 kW of waste cost less than 20 kW of import, and more than 5
    document = plan([20, 5], [{**CHP, "minPower": 40}, grid])
    assert outputs(document) == [[40, 0], [-20, 5]]
    # with less available than its least, a unit stays off
    document = plan([20, 20], [{**CHP, "minPower": 40, "availability": [0.3, 1]}, grid])
    assert outputs(document) == [[0, 40], [20, -20]]
    # prices are those of the linear programme with the unit on: its surplus is worth nothing
    assert [step["marginalPrice"] for step in document["steps"]] == [0.3, 0]


def test_ramps_hold_for_starting_up_too() -> None:
    grid = {"type": "grid", "capacity": 100, "costPerKWh": 0.3}
    slow = {**CHP, "minPower": 40, "rampRate": 30}
    assert outputs(plan([50, 50], [{**slow, "initialOutput": 0}, grid]))[0] == [0, 0]
    assert outputs(plan([80, 80], [{**slow, "initialOutput": 50}, grid]))[0] == [80, 80]
    document = plan([0], [{**slow, "initialOutput": 90}])
    assert document["conflict"] == ["demand", "CHP-1.rampRate"]
    document = plan([40, 20], [{**slow, "rampRate": 0, "initialOutput": 40}], strict=True)
    assert document["conflict"] == ["demand", "CHP-1.rampRate"]
    document = plan(20, [{**CHP, "minPower": 40}], strict=True)
    assert document["conflict"] == ["demand", "CHP-1.minPower"]


def test_reserve_is_kept_by_what_can_still_move() -> None:
    grid = {"type": "grid", "capacity": 100, "costPerKWh": 0.3}
    # up: 30 kW of the unit and the whole tie are left, of the unit no more than it can ramp
    reserve = {"reserve": {"up": 130}}
    assert outputs(plan(70, [CHP, grid], constraints=reserve)) == [70, 0]
    assert outputs(plan(70, [{**CHP, "rampRate": 20}, grid], constraints={"reserve": {"up": 120}})) == [70, 0]
    document = plan(70, [{**CHP, "rampRate": 20}, grid], constraints=reserve, strict=True)
    assert document["conflict"] == ["reserve", "CHP-1.rampRate"]
    # within maxGridImport the tie gives only what that leaves
    document = plan(70, [CHP, grid], constraints={**reserve, "maxGridImport": 50}, strict=True)
    assert document["conflict"] == ["demand", "maxGridImport", "reserve"]
    # down: 40 kW of import is what can be taken back from the tie, and the unit may not go below its least
    document = plan(70, [{**CHP, "minPower": 30}, grid], constraints={"reserve": {"down": 40}})
    assert outputs(document) == [70, 0]
    document = plan(70, [{**CHP, "minPower": 30}, grid], constraints={"reserve": {"down": 60}})
    assert outputs(document) == [0, 70]
    # an empty store gives nothing, a full one what its energy carries for a step
    store = {**BATTERY, "efficiency": 1, "energyCapacity": 60, "soc": 1}
    assert plan(0, [store], constraints={"reserve": {"up": 60}}, strict=True)["status"] == "completed"
    assert plan(0, [store], constraints={"reserve": {"up": 61}}, strict=True)["conflict"] == ["reserve"]
    document = plan(0, [store], constraints={"reserve": {"down": 1}}, strict=True)
    assert document["conflict"] == ["reserve", "BAT-001.endSoc"]


def test_of_equal_costs_the_higher_priority_is_curtailed_and_shed_last() -> None:
    sites = [{"id": f"S{n}", "type": "solar", "capacity": 50, "priority": n} for n in (1, 3, 2)]
    assert outputs(plan(70, sites)) == [0, 50, 20]
    loads = [{"id": f"L{n}", "type": "load", "capacity": 50, "costPerKWh": 0.2, "priority": n} for n in (1, 3, 2)]
    assert outputs(plan(70, loads)) == [50, 0, 20]
    # the cost comes first
    dearer = [{**each, "costPerKWh": each["priority"] / 100} for each in sites]
    assert outputs(plan(70, dearer)) == [50, 0, 20]
    # curtailing nothing would be possible by burning the sun in a battery, which is not done
    store = {**BATTERY, "capacity": 1000}
    outcome = plan([70, 70], [*sites, store])["allocation"]
    assert all(min(pair) == 0 for pair in zip(outcome[3]["charge"], outcome[3]["discharge"], strict=True))


# -- the time limit, and other solvers


def test_a_week_of_five_minutes_has_the_cost_of_its_hours() -> None:
    """The solver sees rows of the same size, whatever the step: the optimum is that of the hours it is cut from."""
    hours = np.arange(168)
    price = 0.2 + 0.1 * np.sin(hours / 4) + 0.02 * np.sin(hours / 1.7)
    demand = 50 + 20 * np.cos(hours / 4)

    def week(parts: int) -> dict[str, Any]:
        buy, sell = np.repeat(price, parts).tolist(), np.repeat(price - 0.02, parts).tolist()
        tie = {"type": "grid", "capacity": 500, "costPerKWh": buy, "exportPrice": sell}
        return plan(np.repeat(demand, parts).tolist(), [BATTERY, tie], stepMinutes=60 / parts)

    assert week(12)["cost"] == pytest.approx(week(1)["cost"], rel=1e-9)


UNITS = [{**CHP, "id": f"C{n}", "capacity": 30 + n, "minPower": 20, "costPerKWh": 0.1 + n / 90} for n in range(6)]
SUN = {"type": "solar", "capacity": 80, "costPerKWh": 0.05}
BOTH_WAYS = {"type": "grid", "capacity": 100, "costPerKWh": 0.3, "exportPrice": [0.32, 0.1, 0.36, 0.31, 0.33]}


@pytest.mark.parametrize("resources", [[*UNITS, {**BOTH_WAYS, "exportPrice": 0.2}], [BATTERY, SUN, BOTH_WAYS]])
def test_a_plan_that_the_time_limit_cut_short_says_how_good_it_is(
    monkeypatch: pytest.MonkeyPatch, resources: list[dict[str, Any]]
) -> None:
    document = {"demand": [55, 90, 130, 75, 20], "resources": resources}
    best = optimise(parse_problem(document))
    solve_arrays = lp.run

    def stopped(matrices: Matrices, **options: Any) -> lp.Raw:
        if matrices.integer is None:
            return solve_arrays(matrices, **options)
        return replace(solve_arrays(matrices, **options | {"gap": 0.5}), status="stopped")

    monkeypatch.setattr(lp, "run", stopped)
    problem = parse_problem(document)
    outcome = optimise(problem, time_limit=60)
    assert isinstance(best, Outcome)
    assert isinstance(outcome, Outcome)
    assert outcome.gap is not None
    assert (best.optimal, best.gap, outcome.optimal) == (True, 0, False)
    assert outcome.cost * (1 - outcome.gap) <= best.cost * (1 + 1e-9) <= outcome.cost * (1 + 2e-9)
    assert violations_of(problem, solve(problem)) == []


def test_a_time_limit_that_leaves_no_plan_is_an_error() -> None:
    document = {"demand": [70] * 48, "resources": [*SPEC, {**CHP, "minPower": 40}, *batteries(30)], "timeLimit": 1e-9}
    with pytest.raises(SolverFailed, match="within 1e-09 seconds"):
        solve(parse_problem(document))


def batteries(count: int) -> list[dict[str, Any]]:
    return [{**BATTERY, "id": f"B{n}", "costPerKWh": n / 1000} for n in range(count)]


def test_plans_found_at_once_are_those_found_alone() -> None:
    problems = [parse_problem({"demand": [70] * 24, "resources": [*UNITS[:n], *batteries(n), SUN]}) for n in (1, 2, 3)]
    alone = [repr(solve(problem).to_document()) for problem in problems]
    with ThreadPoolExecutor(3) as pool:
        at_once = [repr(solution.to_document()) for solution in pool.map(solve, problems * 3)]
    assert at_once == alone * 3


@settings(modest, max_examples=10)
@given(documents())
def test_the_programme_is_the_same_one_as_pulp_variables(document: dict[str, Any]) -> None:
    matrices = build(parse_problem(document))
    raw, model = lp.run(matrices), lp.to_pulp(matrices)
    stats = model.solve(pulp.HiGHS(msg=False))
    assert (raw.status == "optimal") == (stats.status == pulp.LpSolveStatus.Optimal)
    if raw.status == "optimal":
        assert stats.objective == pytest.approx(raw.objective, rel=1e-7, abs=1e-7)


# -- realistic problems


def realistic(size: int, steps: int = 24) -> dict[str, Any]:
    """Return a day of a mixed VPP: 40 % solar, 25 % wind, 20 % storage, 10 % CHP with ramps, the rest firm, and a tie.

    Renewables could supply 72 % of the demand; 60 % are asked for. Prices peak in the evening and sink at noon.
    """
    draw = np.random.default_rng([1, size, steps])
    hour = np.arange(steps) % 24

    def peak(at: float, width: float) -> np.ndarray:
        return np.exp(-(((hour - at) / width) ** 2))

    solar, wind, storage, gas = (round(share * size) for share in (0.40, 0.25, 0.20, 0.10))
    bell = np.clip(np.sin((hour - 6) / 12 * np.pi), 0, None) ** 1.3
    common = draw.normal(size=steps)
    plants: list[tuple[str, np.ndarray, float]] = []
    for _ in range(solar):
        cloud = np.clip(draw.beta(6, 2, steps), 0.05, 1)
        plants.append(("solar", bell * cloud * draw.uniform(2, 12), draw.uniform(0.005, 0.03)))
    for _ in range(wind):
        gusts = np.zeros(steps)
        for step in range(steps):
            gusts[step] = 0.85 * gusts[max(step - 1, 0)] + 0.53 * (0.6 * common[step] + 0.8 * draw.normal())
        plants.append(("wind", draw.uniform(5, 25) / (1 + np.exp(0.4 - gusts)), draw.uniform(0.01, 0.04)))
    plants += [
        ("hydro", np.full(steps, draw.uniform(3, 10)), draw.uniform(0.05, 0.09))
        for _ in range(size - solar - wind - storage - gas)
    ]
    renewable = sum(available.sum() for _, available, _ in plants)
    resources = [{"type": kind, "capacity": list(most), "costPerKWh": cost} for kind, most, cost in plants]
    for _ in range(gas):
        most = draw.uniform(10, 40)
        ramp = most * draw.uniform(0.15, 0.4)
        resources.append({"type": "chp", "capacity": most, "rampRate": ramp, "costPerKWh": draw.uniform(0.10, 0.22)})
    for _ in range(storage):
        power = draw.uniform(2, 10)
        energy, soc, cost = power * draw.uniform(1.5, 4), draw.uniform(0.2, 0.7), draw.uniform(0.005, 0.02)
        resources.append(
            {"type": "storage", "capacity": power, "energyCapacity": energy, "soc": soc, "costPerKWh": cost}
        )
    shape = (0.7 + 0.25 * peak(8, 2.5) + 0.5 * peak(19, 3)) * draw.uniform(0.95, 1.05, steps)
    demand = shape / shape.mean() * renewable / steps / 0.72
    price = 0.16 + 0.10 * peak(19, 2.5) + 0.04 * peak(8, 2) - 0.17 * peak(12.5, 2.5) + draw.normal(0, 0.01, steps)
    export = (price - 0.03).clip(0)
    tie = {"type": "grid", "capacity": 0.6 * demand.max(), "costPerKWh": list(price), "exportPrice": list(export)}
    return {"demand": list(demand), "resources": [*resources, tie], "constraints": {"minRenewable": 0.6}}


@pytest.mark.parametrize("size", [5, 30])
def test_realistic_days_are_feasible_and_optimal(size: int) -> None:
    problem = parse_problem(realistic(size))
    solution = solve(problem)
    assert violations_of(problem, solution) == []
    if size < 10:
        assert figures(problem) == pytest.approx(reference(problem), rel=1e-6, abs=1e-6)
    else:
        assert solution.violations == ()
