"""What a plan may say: every fault is refused with the place where it is."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energy_cloud_dagster.domain.dispatch import parse_problem
from energy_cloud_dagster.domain.dispatch.problem import MAX_STEPS, Generator, Grid, Load, Storage
from energy_cloud_dagster.domain.errors import InvalidInput

SOLAR = {"type": "solar", "capacity": 10}
STORE = {"type": "storage", "capacity": 10, "energyCapacity": 20}


def test_defaults_are_those_of_the_interface() -> None:
    problem = parse_problem(
        {
            "demand": 5,
            "horizon": 2,
            "start": "2026-03-01T09:00:00+09:00",
            "resources": [
                {**SOLAR, "location": {"lat": 37.5, "lng": 127}, "efficiency": 0.83},
                STORE,
                {"type": "grid", "capacity": [1, 2], "costPerKWh": -0.1, "priority": 0, "minPower": 0},
                {"id": "L", "type": "load", "capacity": 1, "availability": 0.5, "costPerKWh": None},
            ],
        }
    )
    solar, store, grid, load = problem.resources
    assert isinstance(solar, Generator)
    assert isinstance(store, Storage)
    assert isinstance(grid, Grid)
    assert isinstance(load, Load)
    assert problem.demand.tolist() == [5.0, 5.0]
    assert (problem.steps, problem.size, problem.step_hours, problem.strict) == (2, 4, 1.0, False)
    assert (solar.id, store.id, grid.id, load.id) == ("SOLAR-001", "STORAGE-002", "GRID-003", "L")
    assert (solar.availability, solar.cost, solar.ramp_rate) == ((1.0, 1.0), (0.0, 0.0), None)
    assert (store.soc, store.efficiency, store.min_soc, store.max_soc) == (0.5, 0.9, (0.0, 0.0), (1.0, 1.0))
    assert store.end_soc == 0.5
    assert (grid.capacity, grid.cost, grid.export_price) == ((1.0, 2.0), (-0.1, -0.1), None)
    assert load.limit == (0.5, 0.5)
    assert problem.step_start(1) == datetime(2026, 3, 1, 1, tzinfo=UTC)


def test_the_number_of_steps_follows_from_the_arrays() -> None:
    assert parse_problem({"demand": [1, 2, 3], "resources": []}).steps == 3
    assert parse_problem({"demand": 1, "resources": [{**SOLAR, "availability": [1, 0.5]}]}).steps == 2
    assert parse_problem({"demand": 1, "resources": [{**SOLAR, "location": [37.5, 127.0, 12.0]}]}).steps == 1
    assert parse_problem({"demand": 1, "resources": [], "constraints": {"maxGridImport": [1, 1]}}).steps == 2


def resource(**fields: Any) -> dict[str, Any]:
    return {"demand": 1, "resources": [{**SOLAR, **fields}]}


def store(**fields: Any) -> dict[str, Any]:
    return {"demand": 1, "resources": [{**STORE, **fields}]}


def limits(**fields: Any) -> dict[str, Any]:
    return {"demand": 1, "resources": [], "constraints": fields}


@pytest.mark.parametrize(
    ("document", "pointer", "says"),
    [
        ([], "", "object"),
        ({"resources": []}, "/demand", "missing"),
        ({"demand": 1}, "/resources", "missing"),
        ({"demand": 1, "resources": {}}, "/resources", "array"),
        ({"demand": 1, "resources": [1]}, "/resources/0", "object"),
        ({"demand": -1, "resources": []}, "/demand", "at least 0"),
        ({"demand": [1, float("nan")], "resources": []}, "/demand/1", "finite"),
        ({"demand": float("inf"), "resources": []}, "/demand", "finite"),
        ({"demand": 10**400, "resources": []}, "/demand", "finite"),
        ({"demand": 1e30, "resources": []}, "/demand", "within ±1e+12"),
        ({"demand": "5", "resources": []}, "/demand", "number"),
        ({"demand": True, "resources": []}, "/demand", "number"),
        ({"demand": [], "resources": []}, "/demand", "1 to"),
        ({"demand": [1, 2], "horizon": 3, "resources": []}, "/demand", "2 values; the plan has 3"),
        ({"demand": 1, "horizon": 0, "resources": []}, "/horizon", "at least 1"),
        ({"demand": 1, "horizon": 1.5, "resources": []}, "/horizon", "whole"),
        ({"demand": 1, "horizon": MAX_STEPS + 1, "resources": []}, "/horizon", "steps"),
        ({"demand": 1, "horizon": 30_000, "resources": [SOLAR] * 1000}, "/resources", "30,000,000 decisions"),
        ({"demand": 1, "stepMinutes": 0, "resources": []}, "/stepMinutes", "above 0"),
        ({"demand": 1, "stepMinutes": 1e9, "resources": []}, "/stepMinutes", "at most"),
        ({"demand": 1, "resources": [], "strict": 1}, "/strict", "true or false"),
        ({"demand": 1, "resources": [], "start": "2026-03-01T09:00:00"}, "/start", "offset"),
        ({"demand": 1, "resources": [], "start": 5}, "/start", "RFC 3339"),
        ({"demand": 1, "resources": [], "start": "9999-12-31T23:30:00Z"}, "/start", "9999"),
        ({"demand": 1, "resources": [], "solver": "milp"}, "/solver", "must be"),
        ({"demand": 1, "stepMinutes": -5, "resources": []}, "/stepMinutes", "above 0"),
        ({"demand": 1, "resources": [], "timeLimit": 0}, "/timeLimit", "above 0"),
        ({"demand": 1, "resources": [], "timeLimit": -1}, "/timeLimit", "above 0"),
        ({"demand": 1, "resources": [], "demands": 2}, "/demands", "did you mean 'demand'"),
        ({"demand": 1, "resources": [], "a/b~c": 2}, "/a~1b~0c", "not known"),
        ({"demand": 1, "resources": [], "constraints": []}, "/constraints", "object"),
        (limits(minRenewable=1.5), "/constraints/minRenewable", "at most 1"),
        (limits(maxCost=-1), "/constraints/maxCost", "at least 0"),
        (limits(maxCosts=1), "/constraints/maxCosts", "did you mean 'maxCost'"),
        (limits(reserve={"up": -5}), "/constraints/reserve/up", "at least 0"),
        (limits(reserve={"upp": 5}), "/constraints/reserve/upp", "did you mean 'up'"),
        (limits(reserve=[5]), "/constraints/reserve", "object"),
        (resource(type="nuclear"), "/resources/0/type", "must be one of"),
        (resource(type=["solar"]), "/resources/0/type", "must be one of"),
        (resource(capacity=-1), "/resources/0/capacity", "at least 0"),
        (resource(capacity=1e13), "/resources/0/capacity", "within"),
        (resource(costPerKWh=-1e13), "/resources/0/costPerKWh", "within"),
        (resource(capacity=None), "/resources/0/capacity", "missing"),
        (resource(availability=1.1), "/resources/0/availability", "at most 1"),
        (resource(rampRtae=1), "/resources/0/rampRtae", "did you mean 'rampRate'"),
        (resource(minPower=-5), "/resources/0/minPower", "at least 0"),
        (store(minPower=5), "/resources/0/minPower", "not storage"),
        (resource(priority=1.5), "/resources/0/priority", "whole"),
        (resource(priority=10**7), "/resources/0/priority", "within"),
        (resource(id=""), "/resources/0/id", "not empty"),
        (resource(id=7), "/resources/0/id", "string"),
        (resource(id="A\nB"), "/resources/0/id", "control characters"),
        (resource(id="\x1b[31m"), "/resources/0/id", "control characters"),
        (resource(id="\ud800"), "/resources/0/id", "half characters"),
        (store(energyCapacity=None), "/resources/0/energyCapacity", "missing"),
        (store(energyCapacity=0), "/resources/0/energyCapacity", "above 0"),
        (store(efficiency=0), "/resources/0/efficiency", "above 0"),
        (store(efficiency=1.2), "/resources/0/efficiency", "at most 1"),
        (store(soc=1.2), "/resources/0/soc", "at most 1"),
        (store(minSoc=0.5, maxSoc=0.4), "/resources/0/minSoc", "above maxSoc"),
        (store(costPerKWh=-0.1), "/resources/0/costPerKWh", "at least 0"),
        ({"demand": 1, "resources": [{**SOLAR, "id": "A"}] * 3}, "/resources/1/id", "/resources/0"),
    ],
)  # fmt: skip
def test_a_fault_is_refused_with_its_place(document: Any, pointer: str, says: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_problem(document)
    assert refused.value.pointer == pointer
    assert says in str(refused.value)


def test_every_id_that_clashes_is_named_with_all_who_carry_it() -> None:
    ids = ["A", "B", "A", "C", "B", *["D"] * 10]
    with pytest.raises(InvalidInput) as refused:
        parse_problem({"demand": 1, "resources": [{**SOLAR, "id": each} for each in ids]})
    assert refused.value.pointer == "/resources/2/id"
    said = str(refused.value).split("; ")
    assert said[0] == "'A' is the id of /resources/0, /resources/2"
    assert said[1] == "'B' is the id of /resources/1, /resources/4"
    assert said[2].startswith("'D' is the id of /resources/5, ")
    assert said[2].endswith(", /resources/14")


def test_many_clashes_stay_one_sentence() -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_problem({"demand": 1, "resources": [{**SOLAR, "id": f"{n % 30}"} for n in range(3000)]})
    assert "and 90 more" in str(refused.value)
    assert "20 more ids" in str(refused.value)
    assert len(str(refused.value)) < 3000


def test_what_is_no_number_is_named_as_a_person_would() -> None:
    for value, says in (("NaN", "not the text 'NaN'"), (True, "not true"), ({}, "an object"), ([[1]], "an array")):
        with pytest.raises(InvalidInput, match=says):
            parse_problem({"demand": value, "resources": []})


def test_a_reserve_is_one_value_per_step_and_may_be_zero() -> None:
    problem = parse_problem({**limits(reserve={"up": [1, 2], "down": 0}), "timeLimit": 5, "solver": "ga"})
    assert problem.constraints.reserve_up is not None
    assert problem.constraints.reserve_down is not None
    assert problem.constraints.reserve_up.tolist() == [1, 2]
    assert problem.constraints.reserve_down.tolist() == [0, 0]
    assert (problem.time_limit, problem.solver) == (5, "ga")


def test_units_have_a_least_power_and_everything_a_priority() -> None:
    problem = parse_problem(
        {
            "demand": [1, 1],
            "resources": [
                {**STORE, "priority": 3},
                {"type": "chp", "capacity": 10, "minPower": [4, 5], "rampRate": 2, "priority": -1},
                {**SOLAR, "minPower": 0},
            ],
        }
    )
    assert problem.generators.min_power.tolist() == [[4, 5], [0, 0]]
    assert problem.generators.ramp.tolist() == [[2, 2], [np.inf, np.inf]]
    assert problem.generators.renewable.tolist() == [False, True]
    assert problem.generators.place.tolist() == [1, 2]
    assert problem.priority.tolist() == [3, -1, 0]
    assert [each.priority for each in problem.resources] == [3, -1, 0]


def test_views_are_made_once_and_never_those_of_another_problem() -> None:
    problem = parse_problem({"demand": 1, "resources": [SOLAR]})
    assert problem.resources is problem.resources
    doubled = replace(problem, generators=replace(problem.generators, capacity=problem.generators.capacity * 2))
    assert [each.capacity for each in doubled.resources] == [(20.0,)]


# -- the columns say what the document says

amount = st.floats(0, 1e6, allow_nan=False)
FIELDS = {
    "solar": {"capacity": amount, "availability": st.floats(0, 1), "costPerKWh": st.floats(-1, 1), "minPower": amount,
              "rampRate": amount, "emissionsPerKWh": amount},
    "storage": {"capacity": amount, "costPerKWh": amount, "minSoc": st.floats(0, 0.4), "maxSoc": st.floats(0.5, 1)},
    "grid": {"capacity": amount, "costPerKWh": st.floats(-1, 1), "exportPrice": st.floats(-1, 1)},
    "load": {"capacity": amount, "availability": st.floats(0, 1), "costPerKWh": amount},
}  # fmt: skip
COLUMN = {"costPerKWh": "cost", "minPower": "min_power", "rampRate": "ramp", "emissionsPerKWh": "emissions"}
COLUMN |= {"minSoc": "min_soc", "maxSoc": "max_soc", "exportPrice": "export_price"}


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    steps = draw(st.integers(1, 3))
    resources = []
    for kind in draw(st.lists(st.sampled_from(sorted(FIELDS)), max_size=6)):
        resource: dict[str, Any] = {"type": kind} | ({"energyCapacity": 5} if kind == "storage" else {})
        for name, value in FIELDS[kind].items():
            given = draw(st.none() | value | st.lists(value, min_size=steps, max_size=steps))
            if given is not None or name == "capacity":
                resource[name] = draw(value) if given is None else given
        resources.append(resource)
    return {"demand": draw(st.lists(amount, min_size=steps, max_size=steps)), "resources": resources}


@settings(max_examples=50, deadline=None)
@given(documents())
def test_the_columns_hold_what_the_document_says(document: dict[str, Any]) -> None:
    problem = parse_problem(document)
    families = {"solar": problem.generators, "storage": problem.stores, "grid": problem.ties, "load": problem.loads}
    seen: list[int] = []
    for kind, family in families.items():
        for row, place in enumerate(family.place.tolist()):
            resource = document["resources"][place]
            assert resource["type"] == kind == problem.types[place]
            for name in FIELDS[kind].keys() & resource.keys():
                column = getattr(family, "power" if (kind, name) == ("storage", "capacity") else COLUMN.get(name, name))
                assert column.flags.c_contiguous
                assert column.shape == (family.place.size, problem.steps)
                expected = resource[name] if isinstance(resource[name], list) else [resource[name]] * problem.steps
                assert column[row].tolist() == expected
            seen.append(place)
    assert sorted(seen) == list(range(problem.size))
    assert [each.id for each in problem.resources] == list(problem.ids)


@settings(max_examples=50, deadline=None)
@given(documents(), st.data())
def test_one_wrong_value_is_found_wherever_it_is(document: dict[str, Any], data: st.DataObject) -> None:
    resources = document["resources"]
    if not resources:
        return
    index = data.draw(st.integers(0, len(resources) - 1))
    name = data.draw(st.sampled_from(sorted(FIELDS[resources[index]["type"]])))
    wrong = data.draw(st.sampled_from([-2.0, float("nan"), float("inf"), "1", True, {}, [], [1.0] * 4]))
    if wrong == -2.0 and name in ("costPerKWh", "exportPrice"):
        wrong = "dear"
    resources[index][name] = wrong
    with pytest.raises(InvalidInput) as refused:
        parse_problem(document)
    assert refused.value.pointer.startswith(f"/resources/{index}/{name}")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
field = st.sampled_from(["type", "capacity", "id", "soc", "energyCapacity", "costPerKWh", "availability", "priority"])


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["demand", "horizon", "constraints", "resources", "start", "solver"]), field, json_values)
def test_any_json_is_read_or_refused_but_never_breaks(key: str, inner: str, value: Any) -> None:
    for document in (
        {"demand": 1, "resources": [SOLAR], key: value},
        {"demand": 1, "resources": [{**STORE, inner: value}]},
    ):
        fault = refusal(document)
        assert fault is None or fault.pointer == "" or fault.pointer.startswith("/")
        # whatever the columns refuse, the resources one by one can name
        assert "cannot be read" not in str(fault)


def refusal(document: Any) -> InvalidInput | None:
    try:
        parse_problem(document)
    except InvalidInput as error:
        return error
    return None


def test_seven_days_of_five_minutes_for_a_thousand_resources_are_a_problem() -> None:
    document = {"demand": 500, "horizon": 2016, "stepMinutes": 5, "resources": [{**SOLAR, "id": None}] * 1001}
    assert parse_problem(document).generators.limit.shape == (1001, 2016)
