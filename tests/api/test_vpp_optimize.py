"""Plans on request: the route states the problem, the solver and its judge are tested where they live."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import sqlalchemy as sa

from energy_cloud_dagster.adapters import markets, readings, tables
from energy_cloud_dagster.adapters.markets import OutsidePrice
from energy_cloud_dagster.adapters.readings import ReadingRow
from energy_cloud_dagster.domain import dispatch
from energy_cloud_dagster.domain.audit.canonical import digest
from energy_cloud_dagster.domain.dispatch import parse_problem, solve
from energy_cloud_dagster.domain.intervals import hour_start, rfc3339

from .conftest import HOUR, Client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastapi import FastAPI

    from energy_cloud_dagster.domain.dispatch import Problem, Solution

pytestmark = pytest.mark.usefixtures("tidy")


@pytest.fixture(scope="module")
def plant(operator: Client) -> str:
    """The three resources of the specification's example."""
    made = operator.post("/v1/vpp", {"id": "VPP-OPT", "name": "Example", "capacity": 7500}).json()
    for kind, capacity, cost in (("solar", 1000, 0.05), ("wind", 1500, 0.06), ("grid", 5000, 0.12)):
        resource = {"id": f"{kind.upper()}-001", "type": kind, "capacity": capacity, "costPerKWh": cost}
        assert operator.post("/v1/vpp/VPP-OPT/resources", resource).status_code == 201
    return str(made["id"])


def optimize(client: Client, vpp_id: str, **request: Any) -> dict[str, Any]:
    answer = client.post(f"/v1/vpp/{vpp_id}/optimize", request)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def outputs(document: dict[str, Any]) -> dict[str, Any]:
    return {each["resourceId"]: each["output"] for each in document["allocation"]}


def test_the_example_of_the_specification(operator: Client, plant: str) -> None:
    found = optimize(operator, plant, demand=2000, constraints={"minRenewable": 0.7})
    assert found["status"] == "completed"
    assert outputs(found) == {"GRID-001": 0, "SOLAR-001": 1000, "WIND-001": 1000}
    assert (found["totalOutput"], found["renewableRatio"], found["violations"]) == (2000, 1.0, [])
    assert found["cost"] == pytest.approx(1000 * 0.05 + 1000 * 0.06)
    assert found["marginalPrice"] == pytest.approx(0.06)
    assert found["solveSeconds"] >= 0


def test_a_plan_is_kept_with_its_problem_under_its_id(operator: Client, viewer: Client, plant: str) -> None:
    found = optimize(operator, plant, demand=[500, 1500], start="2026-03-01T15:00:00Z", stepMinutes=30)
    kept = viewer.get(f"/v1/vpp/{plant}/optimizations/{found['id']}").json()
    assert kept["requestedBy"] == "operator"
    assert kept["answer"] == {name: value for name, value in found.items() if name not in {"id", "solveSeconds"}}
    assert kept["digest"] == digest([kept["problem"], kept["answer"]])
    assert solve(parse_problem(kept["problem"])).to_document() == kept["answer"]
    assert [step["start"] for step in found["steps"]] == ["2026-03-01T15:00:00Z", "2026-03-01T15:30:00Z"]
    assert viewer.get("/v1/vpp/VPP-001/optimizations/" + found["id"]).status_code == 404


def test_a_vpp_without_a_grid_resource_has_a_connection_of_its_own(operator: Client) -> None:
    made = operator.post("/v1/vpp", {"name": "Sun", "capacity": 10000, "location": {"lat": 37.5665, "lng": 126.978}})
    vpp_id = made.json()["id"]
    operator.post(f"/v1/vpp/{vpp_id}/resources", {"type": "solar", "capacity": 5000})
    found = optimize(operator, vpp_id, demand=8000, constraints={"minRenewable": 0.8})
    assert found["status"] == "completed"
    assert outputs(found) == {f"{vpp_id}-GRID": 3000, "SOLAR-001": 5000}
    assert found["cost"] == pytest.approx(3000 * 0.12)  # no price of the market is known: the setting's
    (violation,) = found["violations"]
    assert (violation["constraint"], violation["required"], violation["achieved"]) == ("minRenewable", 0.8, 0.625)
    assert operator.get(f"/v1/vpp/{vpp_id}").json()["resources"] == [
        {"id": "SOLAR-001", "type": "solar", "capacity": 5000, "current": None}
    ]


def test_a_strict_impossible_demand_names_what_conflicts(operator: Client, plant: str) -> None:
    found = optimize(operator, plant, demand=9000, strict=True, constraints={"maxGridImport": 100})
    assert (found["status"], found["allocation"]) == ("infeasible", [])
    assert "demand" in found["conflict"]
    assert "marginalPrice" not in found


def test_what_the_request_says_of_a_resource_stands_in_this_plan_only(operator: Client, plant: str) -> None:
    cloudy = optimize(operator, plant, demand=[2500, 2500], availability={"SOLAR-001": [0, 0.5], "WIND-001": 0.1})
    assert outputs(cloudy)["SOLAR-001"] == [0, 500]
    assert outputs(cloudy)["WIND-001"] == [150, 150]
    free = optimize(operator, plant, demand=4000, resources=[{"id": "GRID-001", "costPerKWh": 0.01}])
    assert outputs(free)["GRID-001"] == 4000
    assert outputs(optimize(operator, plant, demand=4000))["GRID-001"] == 1500


@pytest.fixture
def known_now(api_engine: sa.Engine) -> Iterator[datetime]:
    """The present hour, for which prices, a forecast and a measured state of charge of VPP-001 are known."""
    now = hour_start(datetime.now(UTC))
    with api_engine.begin() as connection:
        prices = [OutsidePrice("KRW-KWH", now + h * HOUR, (100 + h) * 10**6, 40 * 10**6, now) for h in range(3)]
        markets.publish_prices(connection, prices)
        points = [
            {
                "series_key": "resource/VPP-001/SOLAR-001/availability",
                "issued_at": now - timedelta(minutes=55),
                "model": "clear_sky",
                "ts": now + h * HOUR,
                "p10": 0.1,
                "p50": 0.25 * h,
                "p90": 0.9,
                "chosen": True,
                "rung": "champion",
            }
            for h in range(3)
        ]
        connection.execute(sa.insert(tables.forecast_point), points)
        soc = readings.series_ids(connection)["BAT-001", "soc"].series_id
        measured = now - timedelta(minutes=15)
        readings.store(connection, [ReadingRow(soc, measured, 0.61, "high", now - timedelta(minutes=1), "mqtt")])
    yield now
    with api_engine.begin() as connection:
        connection.execute(sa.delete(tables.price))
        connection.execute(sa.delete(tables.forecast_point).where(tables.forecast_point.c.model == "clear_sky"))
        connection.execute(sa.delete(tables.reading).where(tables.reading.c.ts == measured))


def test_a_plan_starts_from_what_is_known_now(operator: Client, known_now: datetime) -> None:
    found = optimize(operator, "VPP-001", demand=1000, horizon=4)
    kept = operator.get(f"/v1/vpp/VPP-001/optimizations/{found['id']}").json()["problem"]
    assert kept["start"] == rfc3339(known_now)
    by_id = {each["id"]: each for each in kept["resources"]}
    # past the last known hour: the newest, for the same hour of an earlier day is unknown, too
    assert by_id["SOLAR-001"]["availability"] == [0.0, 0.25, 0.5, 0.5]
    assert "availability" not in by_id["WIND-001"]
    assert by_id["BAT-001"]["soc"] == 0.61
    assert by_id["GRID-001"]["costPerKWh"] == [100, 101, 102, 102]
    assert by_id["GRID-001"]["exportPrice"] == [40] * 4


@pytest.mark.parametrize(
    ("request_body", "pointer", "says"),
    [
        ({}, "/demand", "missing"),
        ({"demand": -1}, "/demand", "at least 0"),
        ({"demand": "many"}, "/demand", "number"),
        ({"demand": [1, 2], "horizon": 3}, "/demand", "2 values"),
        ({"demand": 1, "constraints": {"minRenewable": 1.5}}, "/constraints/minRenewable", "at most 1"),
        ({"demand": 1, "constraints": {"minRenewabel": 1}}, "/constraints/minRenewabel", "minRenewable"),
        ({"demand": 1, "horizon": 10**9}, "/horizon", "steps"),
        ({"demand": 1, "solver": "magic"}, "/solver", "lp"),
        ({"demand": 1, "availability": {"SOLAR-404": 1}}, "/availability/SOLAR-404", "no resource"),
        ({"demand": 1, "availability": {"SOLAR-001": 2}}, "/availability/SOLAR-001", "at most 1"),
        ({"demand": [1, 1], "availability": {"SOLAR-001": [1, 7]}}, "/availability/SOLAR-001/1", "at most 1"),
        ({"demand": 1, "availability": [1]}, "/availability", "object"),
        ({"demand": 1, "resources": [{"id": "SOLAR-001", "capacity": -5}]}, "/resources/0/capacity", "at least 0"),
        ({"demand": 1, "resources": [{"id": "SOLAR-404"}]}, "/resources/0/id", "no resource SOLAR-404"),
        ({"demand": 1, "resources": [{"id": "WIND-001", "type": "solar"}]}, "/resources/0/type", "wind"),
        ({"demand": 1, "resources": [{"id": "WIND-001"}] * 10}, "/resources", "10 times"),
        ({"demand": 1, "timeLimit": -1}, "/timeLimit", ""),
        ({"demand": 1, "horizon": 24, "start": "9999-12-31T23:00:00Z"}, "/start", "9999"),
        ({"demand": 1, "start": "2026-03-01T15:00:00"}, "/start", "offset"),
    ],
)
def test_bad_input_is_pointed_at(
    operator: Client, plant: str, request_body: dict[str, Any], pointer: str, says: str
) -> None:
    answer = operator.post(f"/v1/vpp/{plant}/optimize", request_body)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"][0]["pointer"] == pointer
    assert says in answer.json()["detail"]


@pytest.mark.parametrize(
    ("text", "pointer"),
    [
        ('"id": "a\\u0000"', "/id"),
        ('"metadata": {"a": ["b", "\\ud800"]}', "/metadata/a/1"),
        ('"availability": {"\\udfff": 1}', "/availability"),
    ],
)
def test_text_that_cannot_be_kept_is_pointed_at(operator: Client, plant: str, text: str, pointer: str) -> None:
    body, headers = f'{{"demand": 1, {text}}}', {"content-type": "application/json"}
    answer = operator("POST", f"/v1/vpp/{plant}/optimize", content=body, headers=headers)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)


def test_a_demand_that_is_no_number_is_refused(operator: Client, plant: str) -> None:
    body, headers = b'{"demand": NaN}', {"content-type": "application/json"}
    answer = operator("POST", f"/v1/vpp/{plant}/optimize", content=body, headers=headers)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/demand")


def test_a_repeated_request_under_its_key_is_one_plan(operator: Client, plant: str, api_engine: sa.Engine) -> None:
    parts = {"json": {"demand": 777}, "headers": {"Idempotency-Key": "plan-once"}}
    first, second = (operator("POST", f"/v1/vpp/{plant}/optimize", **parts) for _ in range(2))
    assert first.json() == second.json()
    with api_engine.connect() as connection:
        column = tables.optimization.c.problem["demand"].astext
        assert connection.execute(sa.select(sa.func.count()).where(column == "777")).scalar_one() == 1


def test_a_search_ends_with_the_setting_or_earlier_and_says_so(operator: Client, plant: str) -> None:
    for asked, kept in (({}, 30), ({"timeLimit": 5}, 5), ({"timeLimit": 86_400}, 30)):
        found = optimize(operator, plant, demand=1, **asked)
        problem = operator.get(f"/v1/vpp/{plant}/optimizations/{found['id']}").json()["problem"]
        assert problem["timeLimit"] == kept
    units = [{"type": "chp", "capacity": 10 + n, "costPerKWh": 0.1 + n / 99, "minPower": 5} for n in range(40)]
    hard = operator.post("/v1/vpp", {"name": "Hard", "capacity": 1}).json()["id"]
    operator.post(f"/v1/vpp/{hard}/resources", units)
    answer = operator.post(f"/v1/vpp/{hard}/optimize", {"demand": [400] * 24, "timeLimit": 1e-6})
    assert answer.status_code == 503
    assert "1e-06 seconds" in answer.json()["detail"]


def test_others_are_answered_while_a_plan_is_sought(
    app: FastAPI, operator: Client, plant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search goes on until somebody else was answered: were it in their way, neither would ever end."""
    sought, answered = threading.Event(), threading.Event()

    def patient(problem: Problem) -> Solution:
        sought.set()
        assert answered.wait(30), "nobody else was answered"
        return solve(problem)

    monkeypatch.setattr(dispatch, "solve", patient)
    token = operator._headers["Authorization"]

    async def call(client: httpx.AsyncClient, method: str, path: str, **parts: Any) -> None:
        answer = await client.request(method, path, **parts)
        assert answer.status_code == 200, answer.text

    async def both() -> None:
        transport = httpx.ASGITransport(app=app)
        async with (
            httpx.AsyncClient(
                transport=transport, base_url="http://api.test", headers={"Authorization": token}
            ) as client,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(call(client, "POST", f"/v1/vpp/{plant}/optimize", json={"demand": 10}))
            assert await asyncio.to_thread(sought.wait, 30)
            await call(client, "GET", "/v1/vpp/VPP-001")
            answered.set()

    operator.run(both())


def test_the_genetic_algorithm_says_how_far_it_is_off(operator: Client, plant: str) -> None:
    found = optimize(operator, plant, demand=2000, constraints={"minRenewable": 0.7}, solver="ga")
    assert (found["solver"], found["optimal"]) == ("ga", False)
    assert 0 <= found["gap"] < 0.02
    assert found["totalOutput"] == pytest.approx(2000)
    assert found["renewableRatio"] >= 0.7


def test_a_vpp_that_is_not_there_has_no_plan(operator: Client) -> None:
    assert operator.post("/v1/vpp/VPP-404/optimize", {"demand": 1}).status_code == 404
