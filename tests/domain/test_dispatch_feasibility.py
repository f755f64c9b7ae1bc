"""The judge of plans can fail: every kind of broken plan is named."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energy_cloud_dagster.domain.dispatch import Problem, Solution, parse_problem, solve
from energy_cloud_dagster.domain.dispatch.feasibility import violations_of
from energy_cloud_dagster.domain.dispatch.solution import Violation

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
    for name, values in (("output", solution.output[:, :1]), ("output", solution.output[:3]), ("unmet", np.zeros(3))):
        assert violations_of(problem, replace(solution, **{name: values}))[0].startswith(f"{name} has the wrong shape")
    other = parse_problem({**DOCUMENT, "resources": DOCUMENT["resources"][::-1]})
    assert "in order" in violations_of(other, solution)[0]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"unmet": np.array([70.0, 0.0])}, "outside 0 to 60"),
        ({"unmet": np.array([-1.0, 0.0])}, "outside 0 to 60"),
        ({"unmet": np.array([1.0, 0.0])}, "unmetDemand falls short and is not named"),
        ({"total_output": np.array([1.0, 2.0])}, "not the sum"),
        ({"cost": 1.0}, "is not"),
        ({"unmet_energy": 3.0}, "unmet energy"),
        ({"renewable_ratio": 0.9}, "renewable ratio"),
        ({"average_cost": 0.9}, "average cost"),
        ({"violations": (Violation("maxCost", 0.5, 0.6, 7.0),)}, "short, not 7"),
        ({"violations": (Violation("comfort", 1.0, 0.0, 1.0),)}, "nobody asked"),
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


# -- minimum power and reserves, by hand: 40 kW of CHP at full power, 10 kW of grid, a battery at rest and half full

HOUR: dict[str, Any] = {
    "demand": 50,
    "resources": [
        {"id": "C", "type": "chp", "capacity": 40, "costPerKWh": 0.1},
        {"id": "B", "type": "storage", "capacity": 10, "energyCapacity": 40, "soc": 0.5, "efficiency": 0.81,
         "costPerKWh": 1},
        {"id": "G", "type": "grid", "capacity": 90, "costPerKWh": 0.2},
    ],
}  # fmt: skip


def hour(constraints: dict[str, Any] | None = None, **fields: dict[str, Any]) -> dict[str, Any]:
    resources = [{**each, **fields.get(each["id"], {})} for each in HOUR["resources"]]
    return {**HOUR, "resources": resources, "constraints": constraints or {}}


@pytest.mark.parametrize(
    ("side", "held", "constraints", "fields"),
    [
        ("up", 0 + 10 + 80, {}, {}),
        ("up", 0 + 10 + (30 - 10), {"maxGridImport": 30}, {}),
        ("up", 0 + 0.05 * 40 * 0.9 + 80, {}, {"B": {"minSoc": 0.45}}),
        ("down", 40 + 10 + 10, {}, {}),
        ("down", 5 + 10 + 10, {}, {"C": {"rampRate": 5}}),
        ("down", 25 + 10 + 10, {}, {"C": {"minPower": 15}}),
        ("down", 40 + 0.02 * 40 / 0.9 + 10, {}, {"B": {"maxSoc": 0.52}}),
        ("down", 40 + 10 + 10 + 90, {}, {"G": {"exportPrice": 0.01}}),
        # with dear fuel the unit is off: what has a minimum power cannot be counted on
        ("up", 40 + 10 + 40, {}, {"C": {"costPerKWh": 0.3}}),
        ("up", 7 + 10 + 40, {}, {"C": {"costPerKWh": 0.3, "rampRate": 7}}),
        ("up", 0 + 10 + 40, {}, {"C": {"costPerKWh": 0.3, "minPower": 15}}),
        ("down", 0 + 10 + 50, {}, {"C": {"costPerKWh": 0.3, "minPower": 15}}),
    ],
)
def test_the_reserve_that_a_plan_holds_is_known_to_the_kilowatt(
    side: str, held: float, constraints: dict[str, Any], fields: dict[str, Any]
) -> None:
    free = {name: {k: v for k, v in each.items() if k != "minPower"} for name, each in fields.items()}
    solution = solve(parse_problem(hour(constraints, **free)))
    for asked, faults in ((held - 0.01, 0), (held + 0.01, 1)):
        problem = parse_problem(hour({**constraints, "reserve": {side: asked}}, **fields))
        found = violations_of(problem, solution)
        assert len(found) == faults, found
        assert all(f"reserved {side}" in each for each in found)


@pytest.mark.parametrize(("output", "passes"), [((0.0, 30.0), True), ((15.0, 0.0), True), ((10.0, 0.0), False)])
def test_a_unit_is_off_or_above_its_minimum(output: tuple[float, ...], passes: bool) -> None:
    grid = {"id": "G", "type": "grid", "capacity": 90}
    base = {"demand": [60, 60], "resources": [{"id": "C", "type": "chp", "capacity": 40}, grid]}
    solution = solve(parse_problem(base))
    for index, flows in ((0, output), (1, tuple(60 - each for each in output))):
        solution = changed(solution, index, output=flows)
    solution = replace(solution, total_output=np.full(2, 60.0), renewable_ratio=0.0)
    with_minimum = parse_problem({**base, "resources": [{**base["resources"][0], "minPower": 15}, grid]})  # type: ignore[dict-item]
    found = violations_of(with_minimum, solution)
    assert (found == []) == passes
    assert all("neither 0 nor at least 15" in each for each in found)


def test_a_unit_whose_limit_is_below_its_minimum_stays_off() -> None:
    document = {"demand": [10, 10], "resources": [{"id": "W", "type": "wind", "capacity": 10}]}
    solution = solve(parse_problem(document))
    asked = {"id": "W", "type": "wind", "capacity": 10, "availability": [1, 0.4], "minPower": 5}
    problem = parse_problem({**document, "resources": [asked]})
    low = changed(solution, 0, output=(10.0, 4.0))
    assert any("neither 0 nor at least 5" in each for each in violations_of(problem, low))


def test_ten_thousand_resources_are_judged_cell_by_cell() -> None:
    """One wrong cell among 240,000 is named, and nothing else."""
    steps, count = 24, 10_000
    resources = [{"id": f"S-{n}", "type": "solar", "capacity": 1, "costPerKWh": n} for n in range(count)]
    problem = parse_problem({"demand": [float(count)] * steps, "resources": resources})
    full = np.ones((count, steps))
    none, total = np.empty((0, steps)), float(sum(range(count)) * steps)
    solution = Solution(
        problem, "completed", cost=total, unmet_energy=0.0, average_cost=total / full.sum(), renewable_ratio=1.0,
        output=full, charge=none, discharge=none, soc=none, unmet=np.zeros(steps), total_output=full.sum(axis=0),
    )  # fmt: skip
    assert violations_of(problem, solution) == []
    wrong = full.copy()
    wrong[7000:7002, 23] = 1.5, 0.5
    found = violations_of(problem, replace(solution, output=wrong, cost=total - 0.5))
    assert found == ["S-7000 step 23: 1.5 is outside 0 to 1"]


MANY: dict[str, Any] = {
    "demand": [10, 20, 30],
    "stepMinutes": 15,
    "constraints": {"maxGridImport": 12, "maxEmissions": 2, "reserve": {"up": 55, "down": [5, 40, 30]}},
    "resources": [
        {"id": "C1", "type": "chp", "capacity": 20, "costPerKWh": 0.1, "rampRate": 6, "emissionsPerKWh": 0.5},
        {"id": "S1", "type": "solar", "capacity": 15, "availability": [0, 0.5, 1]},
        {"id": "B1", "type": "storage", "capacity": 10, "energyCapacity": 20, "costPerKWh": 0.01},
        {"id": "G1", "type": "grid", "capacity": 10, "costPerKWh": 0.2, "exportPrice": 0.1, "emissionsPerKWh": 0.3},
        {"id": "L1", "type": "load", "capacity": 3, "costPerKWh": 0.5},
        {"id": "C2", "type": "chp", "capacity": 30, "costPerKWh": 0.3, "minPower": 8, "initialOutput": 9},
        {"id": "B2", "type": "storage", "capacity": 5, "energyCapacity": 9, "soc": 0.9, "minSoc": 0.3, "endSoc": 0.4},
        {"id": "G2", "type": "grid", "capacity": 7, "costPerKWh": [0.1, 0.2, 0.3]},
        {"id": "L2", "type": "load", "capacity": 2, "availability": [1, 0, 1], "costPerKWh": 0.4},
        {"id": "W2", "type": "wind", "capacity": 9, "availability": [0.2, 0.3, 0.4], "costPerKWh": 0.02},
    ],
}


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.permutations(range(10)), st.integers(0, 2**32 - 1))
def test_the_faults_of_a_plan_do_not_depend_on_the_order_of_its_resources(order: list[int], seed: int) -> None:
    """Any plan, most of them broken in many ways: each limit is found at its own resource."""
    rng = np.random.default_rng(seed)
    output = rng.uniform(-5, 20, (10, 3)).round(1)
    flows = {name: rng.uniform(0, 8, (2, 3)).round(1) for name in ("charge", "discharge")}
    flows["soc"] = rng.uniform(0, 1.1, (2, 3)).round(2)

    def judged(places: list[int]) -> list[str]:
        problem = parse_problem({**MANY, "resources": [MANY["resources"][place] for place in places]})
        stores = [(2, 6).index(place) for place in places if place in (2, 6)]
        moved = {name: values[stores] for name, values in flows.items()}
        solution = Solution(
            problem, "completed", cost=1.0, unmet_energy=0.0, average_cost=0.1, renewable_ratio=0.5,
            output=output[places], unmet=np.zeros(3), total_output=output.sum(axis=0), **moved,
        )  # fmt: skip
        # sums depend on the order in their last digit
        names = tuple(each["id"] for each in MANY["resources"])
        return sorted(
            each if each.startswith(names) else re.sub(r"[0-9.]+", "#", each)
            for each in violations_of(problem, solution)
        )

    found = judged(list(range(10)))
    assert found
    assert judged(order) == found


def test_a_limit_binds_only_where_the_plan_reaches_it() -> None:
    """What is shed lowers the cost and worsens the cost per kWh served: more to shed would save nothing."""
    document = {
        "demand": [6, 50],
        "constraints": {"maxCost": 0.19},
        "resources": [
            {"id": "H", "type": "hydro", "capacity": 40, "costPerKWh": [0.38, 0.35]},
            {"id": "L", "type": "load", "capacity": 18, "costPerKWh": 0.28},
        ],
    }
    problem = parse_problem(document)
    solution = solve(problem)
    assert violations_of(problem, solution) == []
    assert solution.output == pytest.approx(np.array([[6, 40], [0, 10]]))
    assert "L.capacity" not in solution.binding[0]
