"""Sentences are checked against plans and prices: what they say would be saved is saved when it is solved."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from energy_cloud_dagster.domain.dispatch import parse_problem, solve
from energy_cloud_dagster.domain.dispatch.flows import Outcome
from energy_cloud_dagster.domain.dispatch.problem import Problem
from energy_cloud_dagster.domain.dispatch.solving.goals import optimise
from energy_cloud_dagster.domain.dispatch.telling import explain

BATTERY = {"id": "BAT-1", "type": "storage", "capacity": 4200, "energyCapacity": 12000, "efficiency": 0.9}
TIE = {"id": "GRID-1", "type": "grid", "capacity": 8000, "costPerKWh": [0.05, 0.22, 0.22, 0.06]}
GAS = {"id": "GAS-1", "type": "chp", "capacity": 3000, "costPerKWh": 0.305}
EVENING = {"start": "2026-03-01T17:00:00Z", "demand": [3000, 12700, 9000, 3000], "resources": [BATTERY, TIE, GAS]}


def solved(document: dict[str, Any]) -> tuple[Problem, Outcome]:
    problem = parse_problem(document)
    outcome = optimise(problem)
    assert isinstance(outcome, Outcome)
    return problem, outcome


def told(document: dict[str, Any]) -> list[str]:
    problem, outcome = solved(document)
    return [*explain.sentences(problem, outcome), *explain.goals(problem, outcome)]


def drawn(seed: int) -> dict[str, Any]:
    """Return a day with everything that has a limit: sun, wind, a unit with ramps, stores, a tie, a load."""
    rng = np.random.default_rng(seed)
    steps = 12

    def power(low: float, high: float) -> float:
        return round(float(rng.uniform(low, high)), 1)

    def series(low: float, high: float) -> list[float]:
        return [round(each, 3) for each in rng.uniform(low, high, steps).tolist()]

    resources: list[dict[str, Any]] = [
        {"id": "SUN", "type": "solar", "capacity": power(20, 80), "availability": series(0, 1), "costPerKWh": 0.01},
        {"id": "WIND", "type": "wind", "capacity": power(20, 80), "availability": series(0, 1), "costPerKWh": 0.02},
        {"id": "GAS", "type": "chp", "capacity": power(10, 40), "costPerKWh": 0.15, "rampRate": power(2, 9)},
        {"id": "TIE", "type": "grid", "capacity": power(20, 60), "costPerKWh": series(0.05, 0.4), "exportPrice": 0.03},
        {"id": "LOAD", "type": "load", "capacity": power(1, 9), "costPerKWh": 0.6},
    ]
    for name in ("BAT-1", "BAT-2"):
        store = {"id": name, "type": "storage", "capacity": power(5, 20), "energyCapacity": power(10, 60)}
        resources.append({**store, "costPerKWh": 0.002, "minSoc": 0.1, "maxSoc": 0.9})
    return {"demand": series(20, 120), "resources": resources, "stepMinutes": 30}


# -- what a sentence says


def test_a_battery_discharges_because_the_connection_is_at_its_limit() -> None:
    sentence = told(EVENING)[1]
    assert sentence == (
        "2026-03-01 18:00 UTC: for 12.7 MW of demand GRID-1 imports 8 MW and GAS-1 gives 0.5 MW; BAT-1 discharges "
        "4.2 MW at full power at 0.305 per kWh, charged at 0.05 at 17:00, because GRID-1 imports all it can; one more "
        "MW of import would save 85; one more kWh would cost 0.305 (from GAS-1)."
    )


def test_what_a_sentence_says_would_be_saved_is_saved() -> None:
    _, outcome = solved(EVENING)
    _, wider = solved({**EVENING, "resources": [BATTERY, {**TIE, "capacity": [8000, 8001, 8000, 8000]}, GAS]})
    assert outcome.cost - wider.cost == pytest.approx(0.085, rel=1e-6)


def test_a_charge_is_worth_what_it_is_kept_for() -> None:
    seen = 0
    for seed in range(12):
        problem, outcome = solved(drawn(seed))
        round_trip = 0.9
        for step, sentence in enumerate(explain.sentences(problem, outcome)):
            later = re.search(r"charges .* at (\S+) per kWh to discharge at (\S+) in step (\d+)", sentence)
            if later:
                seen += 1
                assert int(later[3]) > step + 1
                # a round trip pays: what is lost, the wear and the digits of a sentence aside
                assert float(later[2]) * round_trip >= float(later[1]) - 0.003
            earlier = re.search(r"discharges .* at (\S+) per kWh, charged at (\S+) in step (\d+)", sentence)
            if earlier:
                seen += 1
                assert int(earlier[3]) < step + 1
                assert float(earlier[1]) * round_trip >= float(earlier[2]) - 0.003
    assert seen > 20


@pytest.mark.parametrize(
    ("resources", "reason"),
    [
        ([], "because nothing takes them for more than their cost of 0.02"),
        ([{"type": "grid", "capacity": 10, "exportPrice": 0.1, "costPerKWh": 0.2}], "because no more can be exported"),
        ([{"type": "storage", "capacity": 5, "energyCapacity": 4, "soc": 1, "costPerKWh": 0.1}], "stores take no more"),
    ],
)
def test_unused_sun_has_a_reason(resources: list[dict[str, Any]], reason: str) -> None:
    sun = {"id": "SUN", "type": "solar", "capacity": 50, "costPerKWh": 0.02}
    sentence = told({"demand": 5, "resources": [sun, *resources]})[0]
    assert "of renewables stay unused, most at SUN" in sentence
    assert reason in sentence


@pytest.mark.parametrize(
    ("sun", "reason"),
    [
        ({"minPower": 80}, "because it could not reach its minPower of 80 kW"),
        ({"minPower": 40, "capacity": 60}, "because it would have to give its minPower of 40 kW at least"),
    ],
)
def test_a_unit_that_must_stay_off_says_so(sun: dict[str, Any], reason: str) -> None:
    tie = {"id": "TIE", "type": "grid", "capacity": 90, "costPerKWh": 0.3}
    sun = {"id": "SUN", "type": "solar", "capacity": 50, **sun}
    assert reason in told({"demand": 30, "resources": [sun, tie]})[0]


def test_what_would_be_written_as_nothing_is_not_told() -> None:
    load = {"id": "LOAD", "type": "load", "capacity": 0.01}
    least = {"id": "UNIT", "type": "chp", "capacity": 0.02, "minPower": 0.01, "costPerKWh": 0.9}
    closed = {"id": "SHUT", "type": "grid", "capacity": 0, "costPerKWh": 0.1}
    tie = {"id": "TIE", "type": "grid", "capacity": 500, "costPerKWh": 0.3}
    up = {"reserve": {"up": 400.01}}
    for many in (1, 40):
        sources = [{**load, "id": f"LOAD-{n}"} for n in range(many)]
        sentence = told({"demand": 100, "resources": [*sources, least, closed, tie], "constraints": up})[0]
        assert not re.search(r"(?<![\d.,])0 kW|SHUT", sentence)


def test_a_store_that_is_filled_to_its_least_says_so() -> None:
    store = {"id": "BAT", "type": "storage", "capacity": 10, "energyCapacity": 20, "soc": 0.1, "endSoc": 0}
    tie = {"id": "TIE", "type": "grid", "capacity": 90, "costPerKWh": 0.3}
    assert "to keep its minSoc" in told({"demand": 30, "resources": [{**store, "minSoc": 0.3}, tie]})[0]


def test_ramps_least_powers_and_reserve_say_what_they_cost() -> None:
    slow = {"id": "GAS-1", "type": "chp", "capacity": 60, "costPerKWh": 0.1, "rampRate": 5, "initialOutput": 10}
    tie = {"id": "TIE", "type": "grid", "capacity": 90, "costPerKWh": 0.3}
    sentence = told({"demand": [40], "resources": [slow, tie]})[0]
    assert "GAS-1 changes as fast as its rampRate allows, and one more kW per step would save 0.2" in sentence
    unit = {"id": "GAS-1", "type": "chp", "capacity": 60, "costPerKWh": 0.4, "minPower": 20}
    sentence = told({"demand": [100], "resources": [unit, {**tie, "capacity": 80}]})[0]
    assert "GAS-1 runs at its minPower of 20 kW, and one kW less of it would save" in sentence
    sun = {"id": "SUN", "type": "solar", "capacity": 50}
    slow = {**slow, "rampRate": 20}
    sentence = told({"demand": [50], "resources": [sun, slow], "constraints": {"reserve": {"up": 30}}})[0]
    assert "10 kW of renewables stay unused, most at SUN, because they are kept as reserve" in sentence
    assert "each kW of reserve up costs 0.1" in sentence


def test_another_day_is_named() -> None:
    night = {**EVENING, "start": "2026-03-01T21:00:00Z", "demand": [3000, 3000, 3000, 12700]}
    tie = {**TIE, "costPerKWh": [0.05, 0.22, 0.22, 0.22]}
    assert "to discharge at 0.305 at 03-02 00:00" in told({**night, "resources": [BATTERY, tie, GAS]})[0]


# -- what binds


@pytest.mark.parametrize("seed", range(6))
def test_a_limit_that_binds_is_reached(seed: int) -> None:
    problem, outcome = solved({**drawn(seed), "constraints": {"maxGridImport": 30, "minRenewable": 0.5}})
    flows, row = outcome.flows, {name: index for index, name in enumerate(problem.ids)}
    net = {
        **{row[problem.ids[p]]: flows.generation[i] for i, p in enumerate(problem.generators.place)},
        **{row[problem.ids[p]]: flows.discharge[i] - flows.charge[i] for i, p in enumerate(problem.stores.place)},
        **{row[problem.ids[p]]: flows.imported[i] - flows.exported[i] for i, p in enumerate(problem.ties.place)},
        **{row[problem.ids[p]]: flows.shed[i] for i, p in enumerate(problem.loads.place)},
    }
    names = explain.binding(problem, outcome)
    assert sum(map(len, names)) > problem.steps
    for step, bound in enumerate(names):
        assert len(set(bound)) == len(bound)
        for name in bound:
            resource, _, limit = name.rpartition(".")
            if limit == "maxGridImport":
                assert flows.imported[:, step].sum() == pytest.approx(30)
            elif limit in ("capacity", "availability"):
                one = problem.resources[row[resource]]
                most = getattr(one, "limit", one.capacity)[step]
                assert abs(net[row[resource]][step]) == pytest.approx(most)
            elif limit == "rampRate":
                change = net[row[resource]][step] - net[row[resource]][step - 1]
                assert abs(change) == pytest.approx(problem.generators.ramp[2, step])
            elif limit in ("minSoc", "maxSoc", "endSoc"):
                store = problem.stores.place.tolist().index(row[resource])
                share = {"minSoc": 0.1, "maxSoc": 0.9, "endSoc": 0.5}[limit]
                assert flows.stored[store, step] == pytest.approx(share * problem.stores.energy[store], abs=1e-6)
            else:
                assert limit == "minRenewable"


def test_the_sun_at_night_binds_nobody() -> None:
    sun = {"id": "SUN", "type": "solar", "capacity": 50, "availability": [0, 1]}
    tie = {"id": "TIE", "type": "grid", "capacity": 90, "costPerKWh": 0.3}
    problem, outcome = solved({"demand": [60, 60], "resources": [sun, tie]})
    assert explain.binding(problem, outcome) == ((), ("SUN.capacity",))


# -- the plan as a whole


def test_a_share_that_is_missed_says_what_keeping_it_would_take() -> None:
    sun = {"id": "SUN", "type": "solar", "capacity": 5000, "costPerKWh": 0.05}
    tie = {"id": "TIE", "type": "grid", "capacity": 10000, "costPerKWh": 0.2}
    document = {"demand": 8000, "resources": [sun, tie], "constraints": {"minRenewable": 0.8}}
    last = told(document)[-1]
    assert last == (
        "Renewables give 62.5% where minRenewable asks for 80.0%: 1,400 kWh are missing; to keep it, 1,750 kWh more of "
        "the demand would have to stay unmet."
    )
    # 1,750 kWh less of demand is just what keeps the share
    assert solve(parse_problem({**document, "demand": 6250})).violations == ()
    assert solve(parse_problem({**document, "demand": 6251})).violations != ()


def test_unmet_demand_and_a_cost_above_its_cap_are_told_with_their_size() -> None:
    tie = {"id": "TIE", "type": "grid", "capacity": 40, "costPerKWh": 0.2}
    sentences = told({"demand": [30, 60], "resources": [tie], "constraints": {"maxCost": 0.15}})
    assert "20 kW stays unmet" in sentences[1]
    assert "one more kWh of demand would stay unmet too" in sentences[1]
    assert sentences[2].startswith("20 kWh of demand (22.2%) stay unmet, 20 kW at Step 2")
    assert sentences[3].startswith("The plan costs 0.2 per kWh served, 3.5 in all above maxCost 0.15")


def test_a_plan_that_ran_out_of_time_says_how_good_it_is() -> None:
    problem, outcome = solved(EVENING)
    late = list(explain.goals(problem, replace(outcome, optimal=False, gap=0.0123)))
    assert late == [
        "The time limit stopped the search: this is the best plan found so far, and at most 1.23% could be saved."
    ]
    for gap in (None, 1.2):
        assert "not known" in next(iter(explain.goals(problem, replace(outcome, optimal=False, gap=gap))))


def test_a_ramp_that_cannot_be_kept_says_where_it_starts() -> None:
    unit = {"id": "GAS", "type": "chp", "capacity": 50, "rampRate": 5, "initialOutput": 90}
    sentence = explain.impossible(("GAS.rampRate",), parse_problem({"demand": 5, "resources": [unit]}))
    assert "GAS.rampRate (5 kW per step after an initialOutput of 90 kW)" in sentence


def test_what_serves_a_goal_and_costs_more_is_not_said_to_save() -> None:
    slow = {"id": "GAS", "type": "chp", "capacity": 40, "costPerKWh": 0.15, "rampRate": 5}
    load = {"id": "LOAD", "type": "load", "capacity": 60, "costPerKWh": 0.1}
    document = {"demand": [10, 30], "resources": [slow, load], "constraints": {"maxCost": 0.2}}
    before = solve(parse_problem(document))
    wider = solve(parse_problem({**document, "resources": [{**slow, "rampRate": 6}, load]}))
    # a faster ramp takes the place of shedding: dearer, and nearer to the price that was asked for per kWh served
    assert wider.violations[0].shortfall < before.violations[0].shortfall
    assert wider.cost == pytest.approx((before.cost or 0) + 0.05)
    assert "rampRate" not in " ".join(before.explanation)
    assert all("GAS.rampRate" not in binding for binding in before.binding)


def test_one_kwh_is_one() -> None:
    sun = {"id": "SUN", "type": "solar", "capacity": 4}
    assert told({"demand": 5, "resources": [sun]})[1].startswith("1 kWh of demand (20.0%) stays unmet")
    assert "at 10 per kWh it adds 10 to the cost" in told({"demand": 5, "resources": [sun]})[1]


def test_a_conflict_is_told_with_what_each_side_asks_for() -> None:
    tie = {"id": "TIE", "type": "grid", "capacity": 100}
    document = {"demand": [50, 70], "resources": [tie], "strict": True, "constraints": {"maxGridImport": 40}}
    problem = parse_problem(document)
    sentence = explain.impossible(("demand", "maxGridImport"), problem)
    assert sentence == "No plan can keep demand (50 to 70 kW) and maxGridImport (40 kW) together; relax one of them."
    store = {"id": "BAT.1", "type": "storage", "capacity": 1, "energyCapacity": 9, "endSoc": 0.9}
    alone = explain.impossible(("BAT.1.endSoc",), parse_problem({"demand": [0], "resources": [store]}))
    assert alone == "No plan can keep BAT.1.endSoc (0.9), even with every other constraint left out."


# -- many resources


def test_thousands_of_resources_are_told_by_type_and_the_largest() -> None:
    rng = np.random.default_rng(3)
    winds = [{"id": f"W-{i}", "type": "wind", "capacity": 1 + i / 1000} for i in range(1500)]
    stores = [{"id": f"B-{i}", "type": "storage", "capacity": 1, "energyCapacity": 2} for i in range(500)]
    tie = {"id": "TIE", "type": "grid", "capacity": 9000, "costPerKWh": rng.uniform(0.1, 0.3, 4).tolist()}
    problem, outcome = solved({"demand": [3000, 5000, 4000, 6000], "resources": [*winds, *stores, tie]})
    for step, sentence in enumerate(explain.sentences(problem, outcome)):
        assert len(sentence) < 600
        wind = float(re.search(r"wind gives ([\d,.]+) kW \(1,500\)", sentence)[1].replace(",", ""))
        assert wind == pytest.approx(outcome.flows.generation[:, step].sum(), abs=0.1)
        assert "the largest is W-1499 with 2.5 kW" in sentence


def test_a_plan_of_megawatts_tells_a_small_resource_in_kilowatts() -> None:
    small = {"id": "S", "type": "wind", "capacity": 38.24}
    assert "S gives 38.2 kW" in told({"demand": 12_000, "resources": [small, {**TIE, "costPerKWh": 0.1}]})[0]
