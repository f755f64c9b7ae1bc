"""Plans against bands: one first step for all futures, none cheaper on the average, each future's plan a plan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from energy_cloud_dagster.domain.dispatch import Problem, parse_problem, solve
from energy_cloud_dagster.domain.dispatch.ahead.hedging import Scenario, hedge
from energy_cloud_dagster.domain.dispatch.ahead.scenarios import (
    FUTURES,
    RISKS,
    Band,
    Outlook,
    foreseen,
    patient,
    solve_outlook,
    with_margin,
)
from energy_cloud_dagster.domain.dispatch.feasibility import violations_of
from energy_cloud_dagster.domain.dispatch.flows import Outcome
from energy_cloud_dagster.domain.dispatch.solution import completed_solution
from energy_cloud_dagster.domain.dispatch.solving.lp import SolverFailed
from energy_cloud_dagster.domain.errors import InvalidInput

STEPS = 5
modest = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


def site(**changes: Any) -> dict[str, Any]:
    """A sun, a battery and a tie that buys dearer than it sells, the last hours being dear."""
    return {
        "demand": [40.0] * STEPS,
        "resources": [
            {"id": "SUN", "type": "solar", "capacity": 80, "availability": [0.5] * STEPS},
            {"id": "BAT", "type": "storage", "capacity": 30, "energyCapacity": 60, "soc": 0.5, "efficiency": 0.81},
            {
                "id": "TIE",
                "type": "grid",
                "capacity": 200,
                "costPerKWh": [0.2, 0.2, 0.5, 0.5, 0.2],
                "exportPrice": [0.05] * STEPS,
            },
        ],
        **changes,
    }


def band(middle: list[float], width: float, *, most: float = np.inf) -> Band:
    p50 = np.array(middle, dtype=np.float64)
    return Band(np.clip(p50 - width, 0, None), p50, np.clip(p50 + width, None, most))


def outlook(problem: Problem, demand_width: float, sun_width: float) -> Outlook:
    sun = band(problem.generators.availability[0].tolist(), sun_width, most=1.0)
    return Outlook(band(problem.demand.tolist(), demand_width), {"SUN": sun})


def futures_of(problem: Problem, ahead: Outlook) -> list[Scenario]:
    return [Scenario(foreseen(problem, ahead, badness), weight) for badness, weight in FUTURES]


def average(costs: list[float]) -> float:
    return sum(weight * cost for cost, (_, weight) in zip(costs, FUTURES, strict=True))


def hedged(scenarios: list[Scenario]) -> tuple[Outcome, ...]:
    found = hedge(scenarios, free=frozenset({"SUN"}))
    assert found is not None
    return found


def pinned(problem: Problem, level: float) -> Problem:
    """Return the problem with the state of charge after the first step given."""
    stores = problem.stores
    low, high = stores.min_soc.copy(), stores.max_soc.copy()
    low[:, 0] = high[:, 0] = level
    return replace(problem, stores=replace(stores, min_soc=low, max_soc=high))


@st.composite
def futures(draw: st.DrawFn) -> list[Scenario]:
    tenths = st.integers(0, 10).map(lambda one: one / 10)
    series = st.lists(st.integers(10, 90).map(float), min_size=STEPS, max_size=STEPS)
    prices = st.lists(st.sampled_from([0.1, 0.2, 0.5]), min_size=STEPS, max_size=STEPS)
    document = site(demand=draw(series))
    sun, battery, tie = document["resources"]
    sun["availability"] = [draw(tenths) for _ in range(STEPS)]
    battery["soc"] = draw(tenths)
    tie["costPerKWh"] = draw(prices)
    problem = parse_problem(document)
    return futures_of(problem, outlook(problem, draw(st.integers(0, 30)), draw(tenths) / 2))


@given(futures())
@modest
def test_all_futures_share_their_first_step_and_each_has_a_plan_of_its_own(scenarios: list[Scenario]) -> None:
    found = hedged(scenarios)
    first = [one.flows.discharge[:, 0] - one.flows.charge[:, 0] for one in found]
    for other in first[1:]:
        assert other == pytest.approx(first[0], abs=1e-6)
    for scenario, outcome in zip(scenarios, found, strict=True):
        assert violations_of(scenario.problem, completed_solution(scenario.problem, outcome)) == []


@given(futures())
@modest
def test_no_other_first_step_is_cheaper_on_the_average(scenarios: list[Scenario]) -> None:
    found = hedged(scenarios)
    cost = average([one.cost for one in found])
    level = float(found[0].flows.stored[0, 0] / scenarios[0].problem.stores.energy[0])

    def with_level(share: float) -> float:
        solved = [solve(pinned(one.problem, share)) for one in scenarios]
        if any(one.violations or one.status != "completed" for one in solved):
            return float("inf")
        return average([one.cost or 0.0 for one in solved])

    assert cost == pytest.approx(with_level(min(max(level, 0.0), 1.0)), rel=1e-6, abs=1e-6)
    assert all(cost <= with_level(share) + 1e-6 for share in (0.0, 0.25, 0.5, 0.75, 1.0))
    # to know the future first is worth something, never less than nothing
    assert cost >= average([solve(one.problem).cost or 0.0 for one in scenarios]) - 1e-6


@pytest.mark.parametrize("risk", RISKS)
def test_a_certain_future_is_planned_as_the_plain_problem(risk: Any) -> None:
    problem = parse_problem(site())
    certain = outlook(problem, 0.0, 0.0)
    assert solve_outlook(problem, certain, risk).cost == pytest.approx(solve(problem).cost, rel=1e-6)


@pytest.mark.parametrize("risk", RISKS)
def test_every_risk_answers_with_a_plan_of_the_problem_that_it_names(risk: Any) -> None:
    problem = parse_problem(site())
    solution = solve_outlook(problem, outlook(problem, 15.0, 0.3), risk)
    assert solution.problem.demand[0] == problem.demand[0]
    assert violations_of(solution.problem, solution) == []


def test_a_hedge_says_what_each_future_would_cost() -> None:
    problem = parse_problem(site())
    ahead = outlook(problem, 15.0, 0.3)
    bad, middle, good = hedged([replace(one, problem=patient(one.problem)) for one in futures_of(problem, ahead)])
    assert good.cost < middle.cost < bad.cost
    assert f"{bad.cost:,.0f}" in solve_outlook(problem, ahead, "scenarios").explanation[0]


def test_a_margin_leaves_the_first_step_as_foreseen() -> None:
    problem = parse_problem(site())
    ahead = outlook(problem, 10.0, 0.2)
    planned = with_margin(problem, ahead, 0.5)
    assert planned.demand.tolist() == [40.0, 45.0, 45.0, 45.0, 45.0]
    assert planned.generators.limit[0].tolist() == pytest.approx([40.0, 32.0, 32.0, 32.0, 32.0])


def test_of_equal_prices_the_later_hour_buys_and_the_earlier_sells() -> None:
    document = site(demand=[0.0, 0.0, 30.0, 30.0, 0.0])
    document["resources"][0]["availability"] = 0.0
    document["resources"][1] |= {"soc": 0.0, "endSoc": 0.0, "energyCapacity": 27.0}
    problem = parse_problem(document)
    plan = solve_outlook(problem, outlook(problem, 0.0, 0.0), "p50")
    assert plan.output[1].tolist() == pytest.approx([0.0, -30.0, 24.3, 0.0, 0.0])


def test_units_are_told_their_first_step_before_the_future_is_known() -> None:
    document = site()
    document["resources"].append(
        {"id": "CHP", "type": "chp", "capacity": 40, "minPower": 25, "costPerKWh": 0.3, "rampRate": 30}
    )
    document["resources"][2]["costPerKWh"] = 0.5
    problem = parse_problem(document)
    scenarios = futures_of(problem, outlook(problem, 20.0, 0.4))
    found = hedged(scenarios)
    chp = [one.flows.generation[1] for one in found]
    assert {round(float(one[0]), 6) for one in chp} == {round(float(chp[0][0]), 6)}
    # later steps are each future's own
    assert np.ptp([one[-1] for one in chp]) > 1
    for scenario, outcome in zip(scenarios, found, strict=True):
        assert violations_of(scenario.problem, completed_solution(scenario.problem, outcome)) == []
        assert np.isfinite(outcome.duals.price).all()


def test_charging_and_discharging_are_kept_apart_where_burning_pays() -> None:
    document = site(demand=[5.0] * STEPS)
    document["resources"][0]["availability"] = 0.1
    document["resources"][2] |= {"costPerKWh": [-0.3] * STEPS, "exportPrice": [-0.5] * STEPS}
    problem = parse_problem(document)
    for one in hedged(futures_of(problem, outlook(problem, 3.0, 0.05))):
        assert np.minimum(one.flows.charge, one.flows.discharge).max() < 1e-6


def test_what_a_bad_future_cannot_meet_is_the_least_and_is_named() -> None:
    document = site()
    document["resources"][2]["capacity"] = 10
    problem = parse_problem(document)
    scenarios = futures_of(problem, outlook(problem, 30.0, 0.4))
    found = hedged(scenarios)
    alone = [solve(one.problem).unmet_energy or 0.0 for one in scenarios]
    short = [one.shortfalls["unmetDemand"] for one in found]
    assert alone[0] > 1
    assert average(short) >= average(alone) - 1e-6
    for scenario, outcome in zip(scenarios, found, strict=True):
        assert violations_of(scenario.problem, completed_solution(scenario.problem, outcome)) == []


def test_where_a_strict_problem_has_no_plan_for_the_bad_future_the_middle_answers_and_says_so() -> None:
    document = site(strict=True)
    document["resources"][2]["capacity"] = 20
    problem = parse_problem(document)
    solution = solve_outlook(problem, outlook(problem, 35.0, 0.5), "scenarios")
    assert solution.status == "completed"
    assert solution.cost == pytest.approx(solve(problem).cost, rel=1e-6)
    assert "no plan holds in every future" in solution.explanation[0].lower()


def test_a_time_limit_without_a_plan_says_so() -> None:
    problem = parse_problem(site())
    with pytest.raises(SolverFailed, match="futures"):
        hedge(futures_of(problem, outlook(problem, 15.0, 0.3)), time_limit=0.0)


def test_an_outlook_that_does_not_fit_is_refused_by_name() -> None:
    problem = parse_problem(site())
    fitting = outlook(problem, 1.0, 0.1)
    with pytest.raises(InvalidInput, match="BAT, which is no generator"):
        foreseen(problem, Outlook(fitting.demand, {"BAT": fitting.availability["SUN"]}))
    with pytest.raises(InvalidInput, match="SUN has 2 steps"):
        foreseen(problem, Outlook(fitting.demand, {"SUN": band([0.1, 0.2], 0.0)}))
    with pytest.raises(InvalidInput, match="cross"):
        Band(np.array([2.0]), np.array([1.0]), np.array([3.0]))
    with pytest.raises(InvalidInput, match="cross"):
        Band(np.array([np.nan]), np.array([1.0]), np.array([3.0]))
    with pytest.raises(InvalidInput, match="risk is 'luck'"):
        solve_outlook(problem, fitting, "luck")  # type: ignore[arg-type]
