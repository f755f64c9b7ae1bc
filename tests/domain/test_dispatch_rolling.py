"""A step that happens: what was planned on the truth comes true to the cent, and nothing leaves its limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from energy_cloud_dagster.domain.dispatch import Problem, parse_problem, solve
from energy_cloud_dagster.domain.dispatch.ahead.rolling import realise, setpoints, window
from energy_cloud_dagster.domain.errors import InvalidInput

STEPS = 4
modest = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


def per_step(low: int, high: int, scale: float = 1.0) -> st.SearchStrategy[list[float]]:
    return st.lists(st.integers(low, high).map(lambda one: one * scale), min_size=STEPS, max_size=STEPS)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    buying = draw(per_step(1, 9, 0.1))
    resources: list[dict[str, Any]] = [
        {"id": "SUN", "type": "solar", "capacity": 80, "availability": draw(per_step(0, 10, 0.1))},
        {"id": "WIND", "type": "wind", "capacity": 50, "availability": draw(per_step(0, 10, 0.1)), "costPerKWh": 0.01},
        {"id": "CHP", "type": "chp", "capacity": 40, "costPerKWh": draw(st.sampled_from([0.15, 0.35]))},
        {
            "id": "BAT",
            "type": "storage",
            "capacity": draw(st.integers(5, 60)),
            "energyCapacity": 60,
            "soc": draw(st.integers(0, 10)) / 10,
            "costPerKWh": 0.02,
        },
        {
            "id": "TIE",
            "type": "grid",
            "capacity": draw(st.integers(20, 90)),
            "costPerKWh": buying,
            "exportPrice": [price / 2 for price in buying],
        },
        {"id": "LOAD", "type": "load", "capacity": 15, "costPerKWh": draw(st.sampled_from([0.6, 2.0]))},
    ]
    limits = draw(st.sampled_from([{}, {"maxGridImport": 30}]))
    document = {"demand": draw(per_step(0, 120)), "resources": resources, "constraints": limits, "stepMinutes": 30}
    return parse_problem(document)


@given(problems())
@modest
def test_a_plan_made_on_what_really_comes_comes_true(problem: Problem) -> None:
    plan = solve(problem)
    document = plan.to_document()
    stored, cost, unmet = problem.stores.soc * problem.stores.energy, 0.0, 0.0
    for step in range(problem.steps):
        happened = realise(problem, step, stored, setpoints(problem, document, step))
        stored, cost, unmet = happened.stored, cost + happened.cost, unmet + happened.unmet
    assert unmet * problem.step_hours == pytest.approx(plan.unmet_energy, abs=1e-5)
    assert cost == pytest.approx((plan.cost or 0.0) - 10 * (plan.unmet_energy or 0.0), rel=1e-5, abs=1e-4)
    assert stored / problem.stores.energy == pytest.approx(plan.soc[:, -1], abs=1e-6)


@given(problems(), st.lists(st.integers(-200, 200).map(float), min_size=6, max_size=6))
@modest
def test_whatever_is_asked_for_the_balance_and_every_limit_hold(problem: Problem, asked: list[float]) -> None:
    before = problem.stores.soc * problem.stores.energy
    happened = realise(problem, 0, before, np.array(asked))
    sun, wind, chp, battery, tie, load = happened.output
    assert happened.output.sum() + happened.unmet == pytest.approx(problem.demand[0], abs=1e-9)
    for output, limit in zip((sun, wind, chp), problem.generators.limit[:, 0], strict=True):
        assert -1e-9 <= output <= limit + 1e-9
    assert 0 <= load <= 15
    assert abs(battery) <= problem.stores.power[0, 0]
    assert abs(tie) <= problem.ties.capacity[0, 0] + 1e-9
    assert 0 <= happened.stored[0] <= 60
    one_way = np.sqrt(0.9)
    gained = -battery * one_way if battery < 0 else -battery / one_way
    assert happened.stored[0] - before[0] == pytest.approx(gained / 2, abs=1e-9)
    # nothing is charged while demand is unmet, nothing is bought only to be curtailed
    assert happened.unmet < 1e-9 or battery >= 0
    assert tie <= 0 or load < 1e-9 or problem.loads.cost[0, 0] <= problem.ties.cost[0, 0] or tie > 20 - 1e-9


def test_what_nobody_takes_is_not_discharged() -> None:
    document = {
        "demand": 10,
        "resources": [{"id": "BAT", "type": "storage", "capacity": 50, "energyCapacity": 100, "soc": 1.0}],
    }
    happened = realise(parse_problem(document), 0, np.array([100.0]), np.array([40.0]))
    assert happened.output.tolist() == [10.0]
    assert happened.stored[0] == pytest.approx(100 - 10 / np.sqrt(0.9))


def test_a_window_of_everything_is_the_problem() -> None:
    document = {
        "demand": [10, 20, 30, 20],
        "start": "2026-03-01T00:00:00Z",
        "resources": [
            {"type": "storage", "capacity": 10, "energyCapacity": 20, "soc": 0.25},
            {"type": "grid", "capacity": 50, "costPerKWh": [0.1, 0.2, 0.4, 0.2]},
        ],
    }
    problem = parse_problem(document)
    assert solve(window(problem, 0, STEPS, np.array([5.0]))).to_document() == solve(problem).to_document()
    later = window(problem, 2, STEPS, np.array([20.0]))
    assert (later.steps, later.demand.tolist(), later.stores.soc.tolist()) == (2, [30.0, 20.0], [1.0])
    assert later.ties.cost.tolist() == [[0.4, 0.2]]
    assert later.start is not None
    assert later.start.hour == 2


def test_a_window_keeps_ramps_from_the_last_output() -> None:
    chp = {"type": "chp", "capacity": 50, "rampRate": 5, "costPerKWh": 0.1}
    problem = parse_problem(
        {"demand": [40, 40, 40], "resources": [chp, {"type": "grid", "capacity": 99, "costPerKWh": 1}]}
    )
    plan = solve(window(problem, 1, 2, np.empty(0), output=np.array([20.0, 0.0])))
    assert plan.output[0].tolist() == pytest.approx([25.0, 30.0])


def test_what_does_not_fit_is_refused() -> None:
    problem = parse_problem({"demand": [1, 1], "resources": [{"type": "grid", "capacity": 5}]})
    with pytest.raises(InvalidInput, match="outside a problem of 2 steps"):
        window(problem, 2, 1, np.empty(0))
    with pytest.raises(InvalidInput, match="other resources"):
        setpoints(problem, {"allocation": []})
