"""What an answer says of its plan: the same figures in bulk, one by one, and in the document."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energy_cloud_dagster.domain.dispatch import parse_problem, solve
from energy_cloud_dagster.domain.dispatch.flows import Duals, Flows, Outcome
from energy_cloud_dagster.domain.dispatch.problem import Problem
from energy_cloud_dagster.domain.dispatch.solution import completed_solution

MIXED: list[dict[str, Any]] = [
    {"id": "L", "type": "load", "capacity": 10, "costPerKWh": 0.5},
    {"id": "B", "type": "storage", "capacity": 10, "energyCapacity": 20},
    {"id": "W", "type": "wind", "capacity": 30, "costPerKWh": 0.01},
    {"id": "T", "type": "grid", "capacity": 40, "costPerKWh": 0.2, "exportPrice": 0.1},
    {"id": "C", "type": "chp", "capacity": 15, "costPerKWh": 0.15},
    {"id": "A", "type": "storage", "capacity": 5, "energyCapacity": 40, "soc": 0.25},
]


def flows(problem: Problem, seed: int = 0) -> Flows:
    """Return flows that keep no balance at all: an answer says what it was given."""
    draw = np.random.default_rng(seed)

    def powers(count: int) -> Any:
        return draw.uniform(0, 10, (count, problem.steps))

    units, stores, ties = problem.generators.place.size, problem.stores.place.size, problem.ties.place.size
    imported = powers(ties)
    return Flows(
        generation=powers(units),
        charge=powers(stores),
        discharge=powers(stores),
        stored=powers(stores),
        imported=imported,
        exported=np.zeros_like(imported),
        shed=powers(problem.loads.place.size),
        unmet=draw.uniform(0, 3, problem.steps),
    )


def outcome(problem: Problem, **changes: Any) -> Outcome:
    found = Outcome(flows(problem), Duals(np.full(problem.steps, 0.125)), {"unmetDemand": 0.0}, cost=7.0)
    return replace(found, **changes)


@settings(max_examples=30, deadline=None)
@given(st.permutations(MIXED), st.integers(1, 3))
def test_every_resource_has_its_own_row_whatever_their_order(resources: list[dict[str, Any]], steps: int) -> None:
    problem = parse_problem({"demand": [20] * steps, "resources": resources})
    found = outcome(problem)
    solution, plan = completed_solution(problem, found), found.flows
    document = solution.to_document()
    for place, (each, row) in enumerate(zip(solution.allocation, document["allocation"], strict=True)):
        assert (each.resource_id, each.type) == (resources[place]["id"], resources[place]["type"])
        assert (row["resourceId"], row["type"]) == (each.resource_id, each.type)
        output = [row["output"]] if steps == 1 else row["output"]
        assert output == pytest.approx(list(each.output), abs=1e-9)
        for name in ("charge", "discharge", "soc"):
            assert (name in row) == (each.type == "storage")
            if name in row:
                assert row[name] == pytest.approx(list(getattr(each, name)), abs=1e-9)
    for rows, expected in (
        (problem.generators.place, plan.generation),
        (problem.stores.place, plan.discharge - plan.charge),
        (problem.ties.place, plan.imported - plan.exported),
        (problem.loads.place, plan.shed),
    ):
        assert (solution.output[rows] == expected).all()
    assert solution.soc * problem.stores.energy[:, None] == pytest.approx(plan.stored)
    assert solution.total_output == pytest.approx(solution.output.sum(axis=0))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e15, 1e15), min_size=2, max_size=4))
def test_documents_are_rounded_to_what_a_double_of_that_size_can_say(values: list[float]) -> None:
    problem = parse_problem({"demand": [0] * len(values), "resources": [{"type": "solar", "capacity": 1}]})
    solution = replace(solve(problem), output=np.array([values]), total_output=np.array(values))
    written = solution.to_document()["allocation"][0]["output"]
    for value, said in zip(values, written, strict=True):
        assert abs(said - value) <= (1e-9 if abs(value) < 1e6 else 1e-6 if abs(value) < 1e9 else 0)
        assert json.dumps(said) != "-0.0"
        if abs(value) < 1e6:
            assert said == round(value, 9)


def test_the_energy_that_is_left_unmet_counts_ten_per_kwh_and_rounding_counts_nothing() -> None:
    problem = parse_problem({"demand": [20, 20], "stepMinutes": 30, "resources": MIXED})
    plan = flows(problem)
    found = completed_solution(problem, outcome(problem, flows=replace(plan, unmet=np.array([2.0, 1.0]))))
    assert (found.unmet_energy, found.cost) == (1.5, 7.0 + 15.0)
    assert [each.constraint for each in found.violations] == ["unmetDemand"]
    nearly = completed_solution(problem, outcome(problem, flows=replace(plan, unmet=np.array([1e-9, 0]))))
    assert (nearly.unmet_energy, nearly.cost, nearly.violations) == (0.0, 7.0, ())


def test_ratios_count_generation_and_import_and_prices_what_is_served() -> None:
    problem = parse_problem({"demand": [20, 30], "stepMinutes": 15, "resources": MIXED})
    found = outcome(problem)
    plan, solution = found.flows, completed_solution(problem, found)
    sourced = plan.generation.sum() + plan.imported.sum()
    assert solution.renewable_ratio == pytest.approx(plan.generation[problem.generators.renewable].sum() / sourced)
    served = (50 - plan.unmet.sum() - plan.shed.sum()) / 4
    assert solution.average_cost == pytest.approx(7.0 / served)


def test_a_plan_that_is_not_proven_says_so_and_by_how_much() -> None:
    problem = parse_problem({"demand": [20, 20], "resources": MIXED, "start": "2026-03-01T00:00:00Z"})
    proven = completed_solution(problem, outcome(problem)).to_document()
    assert not {"optimal", "gap"} & set(proven)
    assert [step["start"] for step in proven["steps"]] == ["2026-03-01T00:00:00Z", "2026-03-01T01:00:00Z"]
    stopped = completed_solution(problem, outcome(problem, optimal=False, gap=0.25)).to_document()
    assert (stopped["optimal"], stopped["gap"]) == (False, 0.25)
    unknown = completed_solution(problem, outcome(problem, optimal=False, gap=None)).to_document()
    assert (unknown["optimal"], unknown["gap"]) == (False, None)


def test_where_there_is_no_price_the_document_has_null_and_stays_json() -> None:
    problem = parse_problem({"demand": [20, 20], "resources": MIXED})
    solution = replace(solve(problem), marginal_price=np.array([np.nan, 0.5]))
    document = solution.to_document()
    assert [step["marginalPrice"] for step in document["steps"]] == [None, 0.5]
    json.dumps(document, allow_nan=False)


def test_an_infeasible_answer_carries_no_plan() -> None:
    document = solve(parse_problem({"demand": 1, "resources": [], "strict": True})).to_document()
    assert (document["status"], document["conflict"]) == ("infeasible", ["demand"])
    assert (document["steps"], document["allocation"], document["totalOutput"], document["cost"]) == (
        [],
        [],
        None,
        None,
    )


def test_no_resources_are_a_plan_too() -> None:
    document = solve(parse_problem({"demand": [1, 2], "resources": []})).to_document()
    assert (document["allocation"], document["totalOutput"], document["unmetEnergy"]) == ([], [0, 0], 3)
