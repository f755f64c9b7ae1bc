"""What a plan is when time is short: one that keeps its limits, and that says how good it is."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from energy_cloud_dagster.domain.dispatch import parse_problem, solve
from energy_cloud_dagster.domain.dispatch.feasibility import violations_of
from energy_cloud_dagster.domain.dispatch.solution import infeasible_solution
from energy_cloud_dagster.domain.dispatch.solving import lp
from energy_cloud_dagster.domain.dispatch.solving.budget import GRACE, SEARCH, Budget
from energy_cloud_dagster.domain.dispatch.solving.conflict import smallest_conflict
from energy_cloud_dagster.domain.dispatch.solving.goals import Outcome, optimise
from energy_cloud_dagster.domain.dispatch.solving.matrices import Matrices, Switches
from energy_cloud_dagster.domain.dispatch.telling import explain

UNITS: list[dict[str, Any]] = [
    {"id": f"CHP-{n}", "type": "chp", "capacity": 30 + n, "minPower": 20, "rampRate": 25, "costPerKWh": 0.1 + n / 90}
    for n in range(6)
]
SUN = {"id": "SUN", "type": "solar", "capacity": 40, "availability": [0.1, 0.5, 0.9, 0.4, 0]}
STORE = {"id": "BAT", "type": "storage", "capacity": 20, "energyCapacity": 40}
TIE = {"id": "TIE", "type": "grid", "capacity": 60, "costPerKWh": 0.3, "exportPrice": 0.05}
#: More renewables than there are: every plan falls short, and which one does least is for integers to say.
DOCUMENT = {
    "demand": [55, 90, 130, 75, 20],
    "resources": [*UNITS, SUN, STORE, TIE],
    "constraints": {"minRenewable": 0.9, "reserve": {"up": 15, "down": 5}},
}


def test_a_search_without_any_result_leaves_the_first_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    solve_arrays = lp.run
    begun: list[bool] = []

    def no_integers(matrices: Matrices, **options: Any) -> lp.Raw:
        if matrices.integer is None:
            return solve_arrays(matrices, **options)
        begun.append(options["start"] is not None)
        return lp.Raw("unknown")

    monkeypatch.setattr(lp, "run", no_integers)
    problem = parse_problem(DOCUMENT | {"timeLimit": 600})
    solution = solve(problem)
    assert violations_of(problem, solution) == []
    assert (solution.status, solution.optimal, solution.gap) == ("completed", False, None)
    assert all(begun)
    assert "how far it is from the least cost is not known" in solution.explanation[5]
    assert "may fall short of minRenewable by less" in solution.explanation[6]
    assert "would have to stay unmet" not in " ".join(solution.explanation)


def test_a_goal_whose_search_was_cut_short_says_by_how_much_less_it_might_fall_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    best = optimise(parse_problem(DOCUMENT))
    solve_arrays = lp.run

    def stopped(matrices: Matrices, **options: Any) -> lp.Raw:
        if matrices.integer is None:
            return solve_arrays(matrices, **options)
        raw = solve_arrays(matrices, **options | {"gap": 0.5})
        return raw if raw.status == "infeasible" else replace(raw, status="stopped")

    monkeypatch.setattr(lp, "run", stopped)
    late = optimise(parse_problem(DOCUMENT), time_limit=600)
    assert isinstance(best, Outcome)
    assert isinstance(late, Outcome)
    assert (best.unproven, late.optimal) == ({}, False)
    least = late.shortfalls["minRenewable"] - late.unproven.get("minRenewable", 0.0)
    assert least <= best.shortfalls["minRenewable"] * (1 + 1e-6) <= late.shortfalls["minRenewable"] * (1 + 2e-6)


def test_no_solve_is_given_more_than_the_limit_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    solve_arrays, limit = lp.run, 1000.0
    given: list[tuple[bool, float]] = []

    def noted(matrices: Matrices, **options: Any) -> lp.Raw:
        given.append((matrices.integer is not None, options["time_limit"]))
        return solve_arrays(matrices, **options)

    monkeypatch.setattr(lp, "run", noted)
    solve(parse_problem(DOCUMENT | {"timeLimit": limit}))
    searches = [left for whole, left in given if whole]
    assert searches
    # a goal may take its part of the time only, so that the cost after it has some
    assert searches[0] <= SEARCH * limit / 2
    assert searches[1] <= SEARCH * limit / 3
    assert max(left for _, left in given) <= GRACE * limit


def test_an_explanation_solves_nothing_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = parse_problem(DOCUMENT)
    outcome = optimise(problem)
    assert isinstance(outcome, Outcome)
    told = list(explain.goals(problem, outcome))
    monkeypatch.setattr(lp, "run", None)
    late = list(explain.goals(problem, outcome, Budget(0.0)))
    assert "would have to stay unmet" in told[0]
    assert late[0] == told[0].partition(";")[0] + "."


@pytest.mark.parametrize("limit", [1e-9, 1e-3, 0.02])
def test_any_limit_gives_a_plan_or_one_sentence(limit: float) -> None:
    problem = parse_problem(DOCUMENT | {"timeLimit": limit})
    solution = None
    with suppress(lp.SolverFailed):
        solution = solve(problem)
    assert solution is None or violations_of(problem, solution) == []


def test_a_gap_counts_unmet_demand_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    both_ways = {**TIE, "costPerKWh": [0.3, 0.1, 0.3, 0.3, 0.1], "exportPrice": [0.32, 0.1, 0.36, 0.31, 0.33]}
    document = {"demand": [300, 90, 130, 75, 20], "resources": [SUN, {**STORE, "endSoc": 0}, both_ways]}
    best, solve_arrays = optimise(parse_problem(document)), lp.run

    def no_integers(matrices: Matrices, **options: Any) -> lp.Raw:
        return lp.Raw("unknown") if matrices.integer is not None else solve_arrays(matrices, **options)

    monkeypatch.setattr(lp, "run", no_integers)
    late = optimise(parse_problem(document), time_limit=600)
    assert isinstance(best, Outcome)
    assert isinstance(late, Outcome)
    assert best.shortfalls["unmetDemand"] == pytest.approx(late.shortfalls["unmetDemand"])
    penalty = 10 * best.shortfalls["unmetDemand"]
    assert (penalty > 0, late.optimal) == (True, False)
    assert late.gap is not None
    assert (late.cost + penalty) * (1 - late.gap) <= (best.cost + penalty) * (1 + 1e-9)
    assert late.gap > 0


def test_a_conflict_that_there_was_no_time_to_narrow_down_gives_no_advice() -> None:
    document = DOCUMENT | {"constraints": {"reserve": {"down": 900}}, "strict": True}
    problem = parse_problem(document)
    narrow = smallest_conflict(problem, Switches())
    assert (narrow.names, narrow.smallest) == (("reserve",), True)
    broad = smallest_conflict(problem, Switches(), Budget(0.0))
    assert set(narrow.names) < set(broad.names)
    sentence = infeasible_solution(problem, *broad).explanation[0]
    assert "the time was too short to find out" in sentence
    assert "relax" not in sentence
