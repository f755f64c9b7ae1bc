"""The judge of plans can fail: every kind of broken plan is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from energy_cloud_dagster.domain.dispatch import Problem, Solution, parse_problem, solve
from energy_cloud_dagster.domain.dispatch.feasibility import violations_of

DOCUMENT: dict[str, Any] = {
    "demand": [60, 80],
    "constraints": {"minRenewable": 0.1, "maxCost": 0.5, "maxGridImport": 70, "maxEmissions": 60},
    "resources": [
        {"id": "S", "type": "solar", "capacity": 30, "availability": [1, 0.5]},
        {"id": "C", "type": "chp", "capacity": 40, "costPerKWh": 0.1, "rampRate": 5, "initialOutput": 20,
         "emissionsPerKWh": 0.4},
        {"id": "B", "type": "storage", "capacity": 10, "energyCapacity": 40, "minSoc": 0.2, "maxSoc": 0.9},
        {"id": "L", "type": "load", "capacity": 5, "costPerKWh": 0.15},
        {"id": "G", "type": "grid", "capacity": 90, "costPerKWh": 0.2, "emissionsPerKWh": 0.5},
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def problem() -> Problem:
    return parse_problem(DOCUMENT)


@pytest.fixture(scope="module")
def solution(problem: Problem) -> Solution:
    return solve(problem)


def changed(solution: Solution, index: int, **fields: Any) -> Solution:
    tables = {name: getattr(solution, name).copy() for name in fields}
    for name, values in fields.items():
        # the problem has one store
        tables[name][index if name == "output" else 0] = values
    return replace(solution, **tables)


def test_the_optimum_passes(problem: Problem, solution: Solution) -> None:
    assert solution.status == "completed"
    assert violations_of(problem, solution) == []


@pytest.mark.parametrize(
    ("index", "fields", "says"),
    [
        (0, {"output": (31.0, 15.0)}, "outside 0 to 30"),
        (0, {"output": (-1.0, 15.0)}, "outside 0 to 30"),
        (0, {"output": (30.0, 20.0)}, "outside 0 to 15"),
        (0, {"output": (30.0, float("nan"))}, "not finite"),
        (1, {"output": (26.0, 30.0)}, "faster than 5"),
        (1, {"output": (25.0, 10.0)}, "faster than 5"),
        (2, {"charge": (11.0, 0.0)}, "outside 0 to 10"),
        (2, {"charge": (5.0, 0.0), "discharge": (5.0, 0.0)}, "at once"),
        (2, {"output": (3.0, 3.0)}, "not discharge"),
        (2, {"soc": (0.6, 0.5)}, "not what flowed"),
        (2, {"soc": (0.1, 0.5)}, "outside 0.2 to 0.9"),
        (2, {"soc": (0.5, 0.3)}, "below 0.5"),
        (3, {"output": (6.0, 0.0)}, "outside 0 to 5"),
        (4, {"output": (-1.0, 50.0)}, "outside 0 to 90"),
        (4, {"output": (91.0, 50.0)}, "outside 0 to 90"),
        (4, {"output": (75.0, 50.0)}, "maxGridImport"),
        (4, {"output": (70.0, 69.0)}, "maxEmissions"),
        (4, {"output": (1.0, 1.0)}, "is not the demand"),
    ],
)  # fmt: skip
def test_a_broken_plan_is_named(
    problem: Problem, solution: Solution, index: int, fields: dict[str, Any], says: str
) -> None:
    assert any(says in each for each in violations_of(problem, changed(solution, index, **fields)))


def test_a_plan_of_another_shape_is_named(problem: Problem, solution: Solution) -> None:
    assert "wrong length" in violations_of(problem, replace(solution, output=solution.output[:, :1]))[0]
    assert "in order" in violations_of(problem, replace(solution, output=solution.output[:3]))[0]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"unmet": (70.0, 0.0)}, "outside 0 to 60"),
        ({"unmet": (-1.0, 0.0)}, "outside 0 to 60"),
        ({"unmet": (1.0, 0.0)}, "unmetDemand falls short and is not named"),
        ({"total_output": (1.0, 2.0)}, "not the sum"),
        ({"cost": 1.0}, "is not"),
        ({"unmet_energy": 3.0}, "unmet energy"),
        ({"renewable_ratio": 0.9}, "renewable ratio"),
    ],
)
def test_a_misreported_plan_is_named(problem: Problem, solution: Solution, fields: dict[str, Any], says: str) -> None:
    assert any(says in each for each in violations_of(problem, replace(solution, **fields)))


def test_goals_that_fall_short_must_be_named_and_never_in_a_strict_problem(solution: Solution) -> None:
    harder = parse_problem({**DOCUMENT, "constraints": {"minRenewable": 0.9, "maxCost": 0.01}})
    assert [each.split(" ")[0] for each in violations_of(harder, solution)] == ["minRenewable", "maxCost"]
    strict = replace(harder, strict=True)
    assert all("strict" in each for each in violations_of(strict, solve(harder)))


def test_an_infeasible_answer_names_a_conflict_and_has_no_plan(problem: Problem, solution: Solution) -> None:
    assert violations_of(problem, Solution(problem, status="infeasible", conflict=("demand",))) == []
    assert violations_of(problem, Solution(problem, status="infeasible")) != []
    assert violations_of(problem, replace(solution, status="infeasible", conflict=("demand",))) != []
