"""Plans of problems that can be solved by hand."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from energy_cloud_dagster.domain.dispatch.problem import Problem
from energy_cloud_dagster.domain.dispatch.solving import conflict as conflict_search
from energy_cloud_dagster.domain.dispatch.solving import goals, lp
from energy_cloud_dagster.domain.dispatch.solving.lp import SolverFailed
from energy_cloud_dagster.domain.dispatch.solving.matrices import EITHER, Matrices, Switches, build

from .dispatch_reference import (
    BATTERY,
    CHP,
    SPEC,
    outputs,
    plan,
)


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
