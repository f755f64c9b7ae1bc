"""Allocations over HTTP: what is queued, refused and approved, and how the status tells following from silence."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from energy_cloud_dagster.adapters import accounts, allocations, commands, optimizations, readings, tables, vpp_registry
from energy_cloud_dagster.adapters.readings import ReadingRow
from energy_cloud_dagster.adapters.vpp_registry import NewResource
from energy_cloud_dagster.api.app import create_app
from energy_cloud_dagster.domain.commands import Ack

from .conftest import PASSWORD, Client

if TYPE_CHECKING:
    from energy_cloud_dagster.settings import Settings

BOUND_KW = 6_000.0
MINUTE = timedelta(minutes=1)
WATCHDOG = timedelta(seconds=60)
RESOURCES = (
    NewResource("solar", 5_000.0, {}, "SUN"),
    NewResource("storage", 800.0, {"energyCapacity": 1_600.0, "soc": 0.5}, "STORE"),
    NewResource("chp", 300.0, {"minPower": 100.0, "safePower": 120.0}, "CHP"),
)


@pytest.fixture
def vpp_id(api_engine: sa.Engine) -> Iterator[str]:
    """A VPP of its own, whose devices nobody plays: the tests answer for them."""
    name = f"VPP-{uuid.uuid4().hex[:8]}"
    with api_engine.begin() as connection:
        now = datetime.now(UTC)
        vpp_registry.create(connection, "Test", 10_000, "seoul", actor="test", now=now, vpp_id=name, simulated=True)
        vpp_registry.create_resources(connection, name, RESOURCES, actor="test", now=now, simulated=True)
    yield name
    with api_engine.begin() as connection:
        vpp_registry.delete(connection, name, actor="test", now=datetime.now(UTC))
        # to the tests of a replay, the newest reading says what time it is
        said = sa.select(tables.series.c.series_id).where(tables.series.c.device_id.startswith(name))
        connection.execute(sa.delete(tables.reading).where(tables.reading.c.series_id.in_(said)))


def entry(resource_id: str, output: Any, **more: Any) -> dict[str, Any]:
    return {"resourceId": resource_id, "output": output, **more}


def apply(client: Client, vpp_id: str, entries: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    answer = client.post(f"/v1/vpp/{vpp_id}/allocation", {"allocation": entries, **more})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert found["success"]
    return found


def status(client: Client, vpp_id: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    found = client.get(f"/v1/vpp/{vpp_id}/status").json()
    return found, {each["resourceId"]: each for each in found.pop("resources")}


def obey(engine: sa.Engine, answer: dict[str, Any], state: str = "done") -> None:
    with engine.begin() as connection:
        for each in answer["commands"]:
            ack = Ack(each["commandId"], None, state, "out of order" if state == "rejected" else None)  # type: ignore[arg-type]
            commands.acknowledge(connection, each["deviceId"], ack, datetime.now(UTC))


def report(engine: sa.Engine, device_id: str, at: datetime | None = None, **values: float) -> None:
    at = at or datetime.now(UTC)
    with engine.begin() as connection:
        series = readings.series_ids(connection, {device_id})
        readings.store(
            connection,
            [
                ReadingRow(series[device_id, metric].series_id, at, value, "high", at, "mqtt")
                for metric, value in values.items()
            ],
        )


def test_each_device_gets_its_setpoint_until_the_step_ends(
    operator: Client, api_engine: sa.Engine, vpp_id: str
) -> None:
    began = datetime.now(UTC)
    entries = [entry("SUN", 4_000, type="solar"), entry("STORE", -200.5, soc=0.6), entry(f"{vpp_id}-GRID", 1_000)]
    answer = apply(operator, vpp_id, entries, stepMinutes=15)
    told = {each["deviceId"]: each for each in answer["commands"]}
    assert {name: each["value"] for name, each in told.items()} == {
        f"{vpp_id}-SUN": 4_000, f"{vpp_id}-STORE": -200.5, f"{vpp_id}-GRID": 1_000,
    }  # fmt: skip
    assert all(each["state"] == "queued" for each in told.values())
    assert told[f"{vpp_id}-SUN"]["topic"] == f"energy-cloud/seoul/solar-panel/{vpp_id}-SUN/command"
    kept = operator.get(f"/v1/devices/{vpp_id}-SUN/commands/{told[f'{vpp_id}-SUN']['commandId']}").json()
    assert (kept["type"], kept["value"], kept["unit"], kept["requestedBy"]) == ("setpoint", 4_000, "kW", "operator")
    ends = datetime.fromisoformat(kept["validUntil"])
    assert began + 15 * MINUTE <= ends <= datetime.now(UTC) + 15 * MINUTE
    assert [event["state"] for event in kept["events"]] == ["queued"]
    listed = operator.get(f"/v1/vpp/{vpp_id}/allocations").json()["items"]
    assert [each["id"] for each in listed] == [answer["id"]]
    detail = operator.get(f"/v1/vpp/{vpp_id}/allocations/{answer['id']}").json()
    assert {each["resourceId"]: each["output"] for each in detail["allocation"]} == {
        "SUN": [4_000], "STORE": [-200.5], f"{vpp_id}-GRID": [1_000],
    }  # fmt: skip
    assert detail["totalPower"] == 5_200.5


def test_the_status_is_what_devices_report_and_how_far_they_are_from_it(
    operator: Client, api_engine: sa.Engine, vpp_id: str
) -> None:
    before, resources = status(operator, vpp_id)
    assert before["setpoint"] is None
    assert before["status"] == "offline"
    assert {each["status"] for each in resources.values()} == {"free"}
    answer = apply(operator, vpp_id, [entry("SUN", 4_000), entry("STORE", -200), entry("CHP", 150)])
    found, resources = status(operator, vpp_id)
    # Never an echo of the setpoint: nothing was reported yet.
    assert (found["currentOutput"], found["setpoint"]) == (0, 3_950)
    assert {name: each["status"] for name, each in resources.items()} == {
        "SUN": "pending", "STORE": "pending", "CHP": "pending", f"{vpp_id}-GRID": "free",
    }  # fmt: skip
    obey(api_engine, answer)
    _, resources = status(operator, vpp_id)
    assert resources["SUN"]["status"] == "unmeasured"
    report(api_engine, f"{vpp_id}-SUN", power=3_100)
    report(api_engine, f"{vpp_id}-STORE", power=-200, soc=0.55)
    report(api_engine, f"{vpp_id}-CHP", power=290)
    found, resources = status(operator, vpp_id)
    assert (found["currentOutput"], found["soc"]) == (3_190, 0.55)
    # The sun may give less than its limit; an engine may not give more than its setpoint.
    assert {name: (each["status"], each["deviation"]) for name, each in resources.items() if each["setpoint"]} == {
        "SUN": ("short", -900), "STORE": ("following", 0), "CHP": ("deviating", 140),
    }  # fmt: skip
    assert found["status"] == "degraded"  # the grid connection has said nothing
    refused = apply(operator, vpp_id, [entry("CHP", 200)])
    obey(api_engine, refused, "rejected")
    _, resources = status(operator, vpp_id)
    assert (resources["CHP"]["status"], resources["CHP"]["reason"]) == ("refused", "out of order")
    assert resources["STORE"]["allocationId"] == answer["id"]  # a resource that is not named keeps its setpoint
    assert operator.post(f"/v1/devices/{vpp_id}-STORE/commands", {"type": "release"}).status_code == 202
    _, resources = status(operator, vpp_id)
    assert (resources["STORE"]["status"], resources["STORE"]["setpoint"]) == ("overridden", None)


@pytest.mark.parametrize(
    ("entries", "pointer", "says"),
    [
        ([], "/allocation", "at least one"),
        ([entry("SUN", 5_001)], "/allocation/0/output", "0 to 5000 kW"),
        ([entry("SUN", -1)], "/allocation/0/output", "0 to 5000 kW"),
        ([entry("SUN", 1), entry("STORE", [0, -801])], "/allocation/1/output/1", "-800 to 800 kW"),
        ([entry("CHP", 50)], "/allocation/0/output", "off or gives at least 100 kW"),
        ([entry("SUN", [1, 2]), entry("STORE", 1)], "/allocation/1/output", "1 steps where the first resource has 2"),
        ([entry("SUN", 1), entry("SUN", 2)], "/allocation/1/resourceId", "twice"),
        ([entry("MOON", 1)], "/allocation/0/resourceId", "no resource MOON"),
        ([entry("SUN", 1, type="wind")], "/allocation/0/type", "type solar"),
        ([entry("SUN", "5")], "/allocation/0/output", "number"),
        ([entry("SUN", True)], "/allocation/0/output", "number"),
        ([entry("SUN", [1, None])], "/allocation/0/output/1", "number"),
        ([entry("SUN", {"kW": 1})], "/allocation/0/output", "number"),
        ([entry("SUN", [])], "/allocation/0/output", "not 0"),
        ([entry("SUN", [0] * 35_137)], "/allocation/0/output", "not 35,137"),
        ([{"resourceId": "SUN"}], "/allocation/0/output", ""),
    ],
)
def test_what_no_resource_takes_is_refused_by_name_and_nothing_is_sent(
    operator: Client, api_engine: sa.Engine, vpp_id: str, entries: list[dict[str, Any]], pointer: str, says: str
) -> None:
    answer = operator.post(f"/v1/vpp/{vpp_id}/allocation", {"allocation": entries})
    assert answer.status_code == 422, answer.text
    (fault, *_) = answer.json()["errors"]
    assert fault["pointer"].startswith(pointer)
    assert says in fault["detail"]
    assert operator.get(f"/v1/vpp/{vpp_id}/allocations").json()["items"] == []
    with api_engine.begin() as connection:
        assert allocations.standing(connection, vpp_id, datetime.now(UTC)) == {}


def test_not_a_number_and_both_ways_to_say_it_are_refused(operator: Client, vpp_id: str) -> None:
    headers = {"content-type": "application/json"}
    body = '{"allocation": [{"resourceId": "SUN", "output": NaN}]}'
    answer = operator("POST", f"/v1/vpp/{vpp_id}/allocation", content=body, headers=headers)
    assert answer.status_code == 422
    for document in ({}, {"allocation": [entry("SUN", 1)], "optimizationId": "x"}):
        assert operator.post(f"/v1/vpp/{vpp_id}/allocation", document).status_code == 422
    for name in ("x", "\0"):
        assert operator.post(f"/v1/vpp/{vpp_id}/allocation", {"optimizationId": name}).status_code == 404
    assert operator.post("/v1/vpp/VPP-000/allocation", {"allocation": [entry("SUN", 1)]}).status_code == 404


def test_an_optimisation_is_applied_by_its_id_and_an_impossible_one_is_not(
    operator: Client, api_engine: sa.Engine, vpp_id: str
) -> None:
    now = datetime.now(UTC)
    answer = {"status": "completed", "allocation": [{"resourceId": "SUN", "type": "solar", "output": [900, 800]}]}
    with api_engine.begin() as connection:
        kept = optimizations.add(connection, vpp_id, {"stepMinutes": 30}, answer, requested_by="operator", now=now)
        none = optimizations.add(connection, vpp_id, {}, {"status": "infeasible"}, requested_by="operator", now=now)
    path = f"/v1/vpp/{vpp_id}/allocation"
    applied = operator.post(path, {"optimizationId": kept.optimization_id}).json()
    assert [each["value"] for each in applied["commands"]] == [900]
    detail = operator.get(f"/v1/vpp/{vpp_id}/allocations/{applied['id']}").json()
    assert (detail["optimizationId"], detail["stepMinutes"], detail["steps"]) == (kept.optimization_id, 30, 2)
    assert operator.post(path, {"optimizationId": none.optimization_id}).status_code == 409
    to_come = operator.post(path, {"allocation": [entry("SUN", 1)], "start": (now + 5 * MINUTE).isoformat()})
    assert to_come.json()["errors"][0]["pointer"] == "/start"
    over = {"optimizationId": kept.optimization_id, "start": (now - 61 * MINUTE).isoformat()}
    assert operator.post(path, over).status_code == 409


@pytest.mark.parametrize(
    ("minutes", "begins", "says"), [(7.5, timedelta(), "7.5 minutes"), (60, 30 * MINUTE, "apply it from then on")]
)
def test_an_optimisation_that_cannot_be_followed_as_it_is_is_not_applied(
    operator: Client, vpp_id: str, minutes: float, begins: timedelta, says: str
) -> None:
    start = datetime.now(UTC) + begins
    body = {"demand": [900, 900], "stepMinutes": minutes, "start": start.isoformat()}
    made = operator.post(f"/v1/vpp/{vpp_id}/optimize", body).json()
    path = f"/v1/vpp/{vpp_id}/allocation"
    answer = operator.post(path, {"optimizationId": made["id"]})
    assert answer.status_code == 409
    assert says in answer.json()["detail"]
    now = {"optimizationId": made["id"], "start": datetime.now(UTC).isoformat(), "stepMinutes": 60}
    assert operator.post(path, now).status_code == 200


def test_the_same_request_is_done_once(operator: Client, vpp_id: str) -> None:
    def once() -> Any:
        return operator(
            "POST",
            f"/v1/vpp/{vpp_id}/allocation",
            json={"allocation": [entry("SUN", 10)]},
            headers={"Idempotency-Key": f"apply-{vpp_id}"},
        )

    first, second = once(), once()
    assert first.json() == second.json()
    assert second.headers["Idempotency-Replayed"] == "true"
    assert len(operator.get(f"/v1/vpp/{vpp_id}/allocations").json()["items"]) == 1


def test_a_large_allocation_waits_for_an_administrator_who_is_somebody_else(
    api_settings: Settings, api_engine: sa.Engine, vpp_id: str
) -> None:
    strict = Client(create_app(api_settings.model_copy(update={"dispatch_approval_kw": BOUND_KW})))
    with api_engine.begin() as connection:
        accounts.ensure(connection, "shift-lead", PASSWORD, "admin")
    operator, admin = strict.as_("operator"), strict.as_("shift-lead")
    apply(operator, vpp_id, [entry("SUN", 5_000), entry("STORE", -800)])  # 5,800 kW are moved
    # in parts it is as large: what stands counts, but for what it replaces
    part = operator.post(f"/v1/vpp/{vpp_id}/allocation", {"allocation": [entry("CHP", 300)]})
    assert (part.status_code, "300 kW beside 5800 kW" in part.json()["detail"]) == (202, True)
    apply(operator, vpp_id, [entry("STORE", 800), entry("CHP", 200)])
    large = {"allocation": [entry("SUN", 5_000), entry("STORE", -800), entry("CHP", 300)]}
    answer = operator.post(f"/v1/vpp/{vpp_id}/allocation", large)
    assert answer.status_code == 202
    waiting = answer.json()
    assert (waiting["success"], waiting["state"], waiting["commands"]) == (False, "waiting", [])
    assert "6100 kW is above the 6000 kW" in waiting["detail"]
    _, resources = status(operator, vpp_id)
    assert resources["CHP"]["setpoint"] == 200
    path = f"/v1/vpp/{vpp_id}/allocations/{waiting['id']}/approve"
    assert operator.post(path, None).status_code == 403
    assert strict.as_("trader").post(path, None).status_code == 403
    with api_engine.begin() as connection:
        connection.execute(
            sa.update(allocations.allocation)
            .where(allocations.allocation.c.allocation_id == waiting["id"])
            .values(requested_by="shift-lead")
        )
    assert "another person" in admin.post(path, None).json()["detail"]
    approved = strict.as_("admin").post(path, None)
    assert approved.status_code == 200, approved.text
    assert approved.json()["success"]
    assert len(approved.json()["commands"]) == 3
    assert "applied already" in strict.as_("admin").post(path, None).json()["detail"]
    detail = operator.get(f"/v1/vpp/{vpp_id}/allocations/{waiting['id']}").json()
    assert (detail["state"], detail["approvedBy"]) == ("applied", "admin")
    # An administrator's own needs nobody.
    apply(admin, vpp_id, large["allocation"])
    # What an administrator answers for counts against nobody.
    apply(operator, vpp_id, [entry(f"{vpp_id}-GRID", 5_900)])
    # What waits is judged by what the VPP has when it is approved.
    waiting = operator.post(f"/v1/vpp/{vpp_id}/allocation", large).json()
    with api_engine.begin() as connection:
        vpp_registry.delete_resource(connection, vpp_id, "CHP", actor="test", now=datetime.now(UTC), simulated=True)
    refused = strict.as_("admin").post(f"/v1/vpp/{vpp_id}/allocations/{waiting['id']}/approve", None)
    assert refused.status_code == 409
    assert "no resource CHP" in refused.json()["detail"]


def test_the_next_step_comes_at_its_time_and_not_over_a_person_s_command(
    operator: Client, api_engine: sa.Engine, vpp_id: str
) -> None:
    start = datetime.now(UTC)
    entries = [entry("SUN", [100, 200, 300]), entry("CHP", [150, 0, 250])]
    apply(operator, vpp_id, entries, stepMinutes=15, start=start.isoformat())
    own = f"{vpp_id}-SUN", f"{vpp_id}-CHP"

    def queued() -> list[list[float]]:
        with api_engine.connect() as connection:
            return [
                [each.payload["value"] for each in reversed(commands.of_device(connection, name, limit=10))]
                for name in own
            ]

    def advance(now: datetime) -> None:
        with api_engine.begin() as connection:
            allocations.advance(connection, now)

    advance(start + 14 * MINUTE)
    assert queued() == [[100], [150]]
    advance(start + 15 * MINUTE)
    advance(start + 16 * MINUTE)
    assert queued() == [[100, 200], [150, 0]]
    with api_engine.connect() as connection:
        second = commands.of_device(connection, own[0], limit=1)[0]
    # Longer than its step: the next one finds it still holding.
    assert start + 30 * MINUTE < second.valid_until < start + 31 * MINUTE
    with api_engine.begin() as connection:
        commands.enqueue(
            connection, own[0], commands.Instruction("setpoint", 42.0, "kW"), requested_by="operator",
            now=start + 20 * MINUTE, valid_until=start + 35 * MINUTE,
        )  # fmt: skip
    advance(start + 31 * MINUTE)
    assert queued() == [[100, 200, 42], [150, 0, 250]]
    advance(start + 36 * MINUTE)
    assert queued() == [[100, 200, 42, 300], [150, 0, 250]]
    advance(start + 45 * MINUTE)
    with api_engine.connect() as connection:
        assert allocations.standing(connection, vpp_id, start + 44 * MINUTE) == {}


def test_a_safe_power_is_one_that_the_resource_takes_and_no_plan_s_matter(operator: Client, vpp_id: str) -> None:
    store = {"type": "storage", "capacity": 50, "energyCapacity": 100, "safePower": -20}
    made = operator.post(f"/v1/vpp/{vpp_id}/resources", store)
    assert made.status_code == 201, made.text
    assert made.json()["safePower"] == -20
    refused = operator.post(f"/v1/vpp/{vpp_id}/resources", store | {"safePower": -51})
    assert "-50 to 50 kW" in refused.json()["errors"][0]["detail"]
    assert refused.json()["errors"][0]["pointer"].endswith("/safePower")
    planned = operator.post(f"/v1/vpp/{vpp_id}/optimize", {"demand": 10})
    assert planned.json()["status"] == "completed"


def test_a_resource_that_left_its_vpp_is_commanded_no_more(
    operator: Client, api_engine: sa.Engine, vpp_id: str
) -> None:
    start = datetime.now(UTC)
    apply(operator, vpp_id, [entry("SUN", [100, 200]), entry("CHP", [150, 0])], stepMinutes=5)
    with api_engine.begin() as connection:
        vpp_registry.delete_resource(connection, vpp_id, "CHP", actor="test", now=start, simulated=True)
        fallen = allocations.fall_back(connection, start + 4 * MINUTE, WATCHDOG)
        assert [each.resource_id for each in fallen if each.vpp_id == vpp_id] == ["SUN"]
        allocations.advance(connection, start + 6 * MINUTE)
        (last,) = commands.of_device(connection, f"{vpp_id}-CHP", limit=10)
        # nobody plays it any more: asking it again and again would only keep others waiting
        assert (last.state, last.reason) == ("expired", "its resource left the VPP")
    # another one of its name and device is nobody's to command yet
    with api_engine.begin() as connection:
        again = NewResource("chp", 50.0, {}, "CHP")
        made = vpp_registry.create_resource(connection, vpp_id, again, actor="test", now=start, simulated=True)
    assert made.device_id == f"{vpp_id}-CHP"
    assert {name: each["status"] for name, each in status(operator, vpp_id)[1].items()}["CHP"] == "free"


def test_a_silent_device_gets_its_safe_setpoint_once_and_a_speaking_one_none(
    operator: Client, api_engine: sa.Engine, vpp_id: str
) -> None:
    answer = apply(operator, vpp_id, [entry("SUN", 4_000), entry("STORE", 500), entry("CHP", 250)])
    obey(api_engine, answer)
    began = datetime.now(UTC)
    report(api_engine, f"{vpp_id}-STORE", began, power=500, soc=0.5)
    report(api_engine, f"{vpp_id}-CHP", began + 50 * timedelta(seconds=1), power=250)

    def fallen(after: timedelta) -> dict[str, float | None]:
        with api_engine.begin() as connection:
            found = allocations.fall_back(connection, began + after, WATCHDOG)
            return {each.resource_id: each.safe_kw for each in found if each.vpp_id == vpp_id}

    assert fallen(WATCHDOG / 2) == {}
    # What sun gives is limited still; a store that nobody hears rests.
    assert fallen(WATCHDOG + timedelta(seconds=1)) == {"SUN": 4_000, "STORE": 0}
    assert fallen(WATCHDOG + timedelta(seconds=2)) == {}
    assert fallen(WATCHDOG + timedelta(seconds=60)) == {"CHP": 120}  # its own word
    found, resources = status(operator, vpp_id)
    assert found["status"] == "fallback"
    assert {name: each["setpoint"] for name, each in resources.items() if each["status"] == "fallback"} == {
        "SUN": 4_000, "STORE": 0, "CHP": 120,
    }  # fmt: skip
    with api_engine.connect() as connection:
        safe = commands.of_device(connection, f"{vpp_id}-STORE", limit=1)[0]
    assert (safe.payload["value"], safe.requested_by, safe.state) == (0, "watchdog", "queued")
    assert math.isclose((safe.valid_until - began).total_seconds(), 3_600, abs_tol=60)
    # A new allocation is a new beginning.
    apply(operator, vpp_id, [entry("STORE", 100)])
    assert status(operator, vpp_id)[1]["STORE"]["status"] == "pending"
