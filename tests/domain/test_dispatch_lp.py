"""Plans against an independent judge, against a second formulation, and against finite differences."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pulp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energy_cloud_dagster.domain.dispatch import parse_problem, solve
from energy_cloud_dagster.domain.dispatch.feasibility import violations_of
from energy_cloud_dagster.domain.dispatch.flows import Outcome
from energy_cloud_dagster.domain.dispatch.problem import Generator, Load, Problem
from energy_cloud_dagster.domain.dispatch.solving import lp
from energy_cloud_dagster.domain.dispatch.solving.goals import optimise
from energy_cloud_dagster.domain.dispatch.solving.lp import SolverFailed
from energy_cloud_dagster.domain.dispatch.solving.matrices import Matrices, build

from .dispatch_reference import (
    BATTERY,
    CHP,
    SPEC,
    convex,
    documents,
    figures,
    modest,
    plan,
    reference,
)

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
