"""VPPs and their resources as operators make, change and end them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from energy_cloud_dagster.adapters import accounts, audit, registry, tables, vpp_registry, vpps
from energy_cloud_dagster.adapters.vpp_registry import NewResource
from energy_cloud_dagster.api.app import create_app
from energy_cloud_dagster.domain import documents
from energy_cloud_dagster.domain.intervals import HOUR, gate_closure

from .conftest import PASSWORD, T0, Client

if TYPE_CHECKING:
    import httpx

    from energy_cloud_dagster.settings import Settings

pytestmark = pytest.mark.usefixtures("tidy")
NEW = {"name": "Test VPP", "capacity": 10000, "location": {"lat": 37.5665, "lng": 126.978}}


@pytest.fixture(scope="module")
def playing(api_settings: Settings) -> Client:
    """An operator where resources without a device get a simulated one, as in `up`."""
    return Client(create_app(api_settings.model_copy(update={"simulate_resources": True}))).as_("operator")


def made(client: Client, **fields: Any) -> str:
    answer = client.post("/v1/vpp", NEW | fields)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def pointers(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 422, answer.text
    return [fault["pointer"] for fault in answer.json()["errors"]]


def test_a_new_vpp_is_a_document_of_the_standard_at_its_own_address(operator: Client, viewer: Client) -> None:
    answer = operator.post("/v1/vpp", NEW)
    document = answer.json()
    assert answer.status_code == 201
    assert documents.validate(document, "vpp") == []
    assert document.items() >= {"unit": "kW", "region": "seoul", "resources": [], "status": "offline"}.items()
    assert document["vppId"] == document["id"]
    assert {name: document[name] for name in NEW} == NEW
    assert viewer.get(answer.headers["location"]).json() == document


def test_a_change_replaces_what_was_said_and_keeps_id_region_and_resources(operator: Client) -> None:
    vpp_id = made(operator)
    operator.post(f"/v1/vpp/{vpp_id}/resources", {"type": "wind", "capacity": 10})
    changed = operator("PUT", f"/v1/vpp/{vpp_id}", json={"name": "Renamed", "capacity": 20}).json()
    assert (changed["id"], changed["name"], changed["capacity"], changed["region"]) == (vpp_id, "Renamed", 20, "seoul")
    assert "location" not in changed
    assert [each["id"] for each in changed["resources"]] == ["WIND-001"]
    plan = operator.post(f"/v1/vpp/{vpp_id}/optimize", {"demand": 100}).json()
    assert (plan["totalOutput"], plan["unmetEnergy"]) == (30, 70)  # its own grid connection follows its capacity
    for body, pointer in (({"id": "VPP-X"}, "/id"), ({"region": "busan"}, "/region")):
        assert pointers(operator("PUT", f"/v1/vpp/{vpp_id}", json=NEW | body)) == [pointer]


def test_every_change_is_recorded_with_who_made_it(operator: Client, api_engine: sa.Engine) -> None:
    vpp_id = made(operator)
    operator.post(f"/v1/vpp/{vpp_id}/resources", {"type": "chp", "capacity": 5, "costPerKWh": 0.2})
    operator("PUT", f"/v1/vpp/{vpp_id}", json=NEW | {"capacity": 1})
    operator("DELETE", f"/v1/vpp/{vpp_id}/resources/CHP-001")
    operator("DELETE", f"/v1/vpp/{vpp_id}")
    event = tables.vpp_event.c
    with api_engine.connect() as connection:
        rows = connection.execute(
            sa.select(event.action, event.actor, event.resource_id, event.document)
            .where(event.vpp_id == vpp_id)
            .order_by(event.event_id)
        ).all()
    assert [row.action for row in rows] == ["created", "resource_added", "changed", "resource_removed", "deleted"]
    assert {row.actor for row in rows} == {"operator"}
    assert rows[1].document["parameters"] == rows[3].document["parameters"] == {"costPerKWh": 0.2}
    assert rows[2].document["capacity_kw"] == 1


def test_an_ended_vpp_is_gone_for_callers_and_its_id_is_not_used_again(operator: Client) -> None:
    vpp_id = made(operator, id="VPP-ENDED")
    operator.post(f"/v1/vpp/{vpp_id}/resources", {"type": "solar", "capacity": 1})
    assert operator("DELETE", f"/v1/vpp/{vpp_id}").status_code == 204
    for method, path, body in (
        ("GET", "", None),
        ("PUT", "", NEW),
        ("DELETE", "", None),
        ("GET", "/resources", None),
        ("POST", "/resources", {"type": "solar", "capacity": 1}),
        ("POST", "/optimize", {"demand": 1}),
    ):
        answer = operator(method, f"/v1/vpp/{vpp_id}{path}", json=body)
        assert (answer.status_code, answer.json()["detail"]) == (404, f"there is no VPP {vpp_id}"), (method, path)
    assert vpp_id not in {item["id"] for item in operator.get("/v1/vpp").json()["items"]}
    assert operator.post("/v1/vpp", NEW | {"id": vpp_id}).status_code == 409


def test_the_evidence_of_an_ended_vpp_still_adds_up(api_engine: sa.Engine) -> None:
    delivery = T0 + 24 * HOUR
    with api_engine.connect() as connection, connection.begin() as transaction:
        before = audit.plan_digest(connection, "seoul", delivery), [each.vpp_id for each in _planned(connection)]
        connection.execute(
            sa.update(tables.plan)
            .where(tables.plan.c.vpp_id == "VPP-001")
            .values(issued_at=gate_closure(delivery))
            .where(tables.plan.c.cost == 12.5)
        )
        known = audit.plan_digest(connection, "seoul", delivery)
        vpp_registry.delete(connection, "VPP-001", actor="operator", now=datetime.now(UTC))
        assert audit.plan_digest(connection, "seoul", delivery) == known != before[0]
        assert before[1] == ["VPP-001"]
        assert _planned(connection) == []
        transaction.rollback()


def _planned(connection: sa.Connection) -> list[vpps.Vpp]:
    return [each for each in vpps.in_region(connection, "seoul") if each.participant_id is not None]


def test_resources_keep_what_the_dispatch_problem_asks_of_them(operator: Client) -> None:
    vpp_id = made(operator)
    store = {
        "id": "BAT-9",
        "type": "storage",
        "capacity": 50,
        "energyCapacity": 200,
        "efficiency": 0.81,
        "soc": 0.25,
        "minSoc": 0.1,
        "costPerKWh": 0.01,
        "priority": 2,
        "location": {"lat": 1, "lng": 2},
    }
    answer = operator.post(f"/v1/vpp/{vpp_id}/resources", store)
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"/v1/vpp/{vpp_id}/resources/BAT-9"
    assert answer.json() == store | {"current": None}
    hour = operator.post(f"/v1/vpp/{vpp_id}/resources", {"type": "storage", "capacity": 50}).json()
    assert (hour["id"], hour["energyCapacity"]) == ("STORAGE-001", 50)
    page = operator.get(f"/v1/vpp/{vpp_id}/resources", limit=1).json()
    assert [each["id"] for each in page["items"]] == ["BAT-9"]
    rest = operator.get(f"/v1/vpp/{vpp_id}/resources", cursor=page["nextCursor"]).json()
    assert ([each["id"] for each in rest["items"]], rest["nextCursor"]) == (["STORAGE-001"], None)


def test_many_resources_are_added_at_once_or_not_at_all(operator: Client) -> None:
    vpp_id = made(operator)
    answer = operator.post(f"/v1/vpp/{vpp_id}/resources", [{"type": "solar", "capacity": n} for n in range(1, 501)])
    assert answer.status_code == 201, answer.text
    assert [each["id"] for each in answer.json()] == [f"SOLAR-{n:03d}" for n in range(1, 501)]
    mixed = [{"type": "wind", "capacity": 1}, {"type": "chp", "capacity": 1, "rampRate": -2}]
    assert pointers(operator.post(f"/v1/vpp/{vpp_id}/resources", mixed)) == ["/1/rampRate"]
    found = operator.get(f"/v1/vpp/{vpp_id}/resources", limit=1000).json()["items"]
    assert {each["type"] for each in found} == {"solar"}
    plan = operator.post(f"/v1/vpp/{vpp_id}/optimize", {"demand": 100_000}).json()
    assert plan["renewableRatio"] == 1


SOLAR = {"type": "solar", "capacity": 1}


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"type": "solar", "capacity": -1}, "/capacity"),
        ({"type": "solar"}, "/capacity"),
        ({"type": "solar", "capacity": "5"}, "/capacity"),
        ({"type": "fusion", "capacity": 1}, "/type"),
        (SOLAR | {"colour": "blue"}, "/colour"),
        (SOLAR | {"availability": 1.5}, "/availability"),
        (SOLAR | {"id": "a/b"}, "/id"),
        (SOLAR | {"id": ".."}, "/id"),
        (SOLAR | {"id": "x" * 61}, "/id"),
        (SOLAR | {"location": {"lat": 91, "lng": 0}}, "/location/lat"),
        (SOLAR | {"deviceId": "NO-SUCH"}, "/deviceId"),
        ({"type": "storage", "capacity": 1, "efficiency": 1.1}, "/efficiency"),
        ({"type": "storage", "capacity": 1, "soc": 1.5}, "/soc"),
        ({"type": "storage", "capacity": 1, "minSoc": 0.8, "maxSoc": 0.2}, "/minSoc"),
        ({"type": "wind", "capacity": 1, "priority": 0.5}, "/priority"),
        ([SOLAR | {"id": "SAME"}] * 10, "/1/id"),
        ([SOLAR, {"type": "solar", "capacity": -1}], "/1/capacity"),
    ],
)
def test_a_resource_that_cannot_be_is_pointed_at(operator: Client, body: Any, pointer: str) -> None:
    vpp_id = made(operator)
    assert pointers(operator.post(f"/v1/vpp/{vpp_id}/resources", body)) == [pointer]
    assert operator.get(f"/v1/vpp/{vpp_id}/resources").json()["items"] == []


def test_clashing_ids_are_all_named(operator: Client) -> None:
    answer = operator.post(f"/v1/vpp/{made(operator)}/resources", [SOLAR | {"id": "SAME"}] * 10)
    assert "SAME is the id of 10 resources: /0, /1, /2" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"name": "x"}, "/capacity"),
        (NEW | {"capacity": -1}, "/capacity"),
        (NEW | {"capacity": 1e300}, "/capacity"),
        (NEW | {"id": "."}, "/id"),
        (NEW | {"name": "\x00"}, "/name"),
        (NEW | {"name": " "}, "/name"),
        (NEW | {"id": "a b"}, "/id"),
        (NEW | {"region": "atlantis"}, "/region"),
        (NEW | {"participantId": "NOBODY"}, "/participantId"),
        (NEW | {"participantId": "HOME-03", "region": "busan"}, "/participantId"),
        (NEW | {"unit": "MW"}, "/unit"),
    ],
)
def test_a_vpp_that_cannot_be_is_pointed_at(operator: Client, body: Any, pointer: str) -> None:
    assert pointers(operator.post("/v1/vpp", body)) == [pointer]


def test_what_is_taken_is_a_conflict(operator: Client) -> None:
    vpp_id = made(operator, id="VPP-TWICE")
    assert operator.post("/v1/vpp", NEW | {"id": vpp_id}).status_code == 409
    assert operator.post("/v1/vpp", NEW | {"participantId": "VPP-001"}).status_code == 409
    assert operator.post(f"/v1/vpp/{vpp_id}/resources", SOLAR | {"deviceId": "BAT-001"}).status_code == 409
    operator.post(f"/v1/vpp/{vpp_id}/resources", SOLAR | {"id": "ONE"})
    assert operator.post(f"/v1/vpp/{vpp_id}/resources", SOLAR | {"id": "ONE"}).status_code == 409
    assert operator("DELETE", f"/v1/vpp/{vpp_id}/resources/TWO").status_code == 404
    assert operator("DELETE", f"/v1/vpp/{vpp_id}/resources/{vpp_id}-GRID").status_code == 404


def test_a_repeated_write_under_its_key_is_done_once(operator: Client) -> None:
    key = {"Idempotency-Key": "a-vpp"}
    first, second = (operator("POST", "/v1/vpp", json=NEW, headers=key) for _ in range(2))
    assert first.json() == second.json()
    path = f"/v1/vpp/{first.json()['id']}"
    for _ in range(2):
        assert operator("DELETE", path, headers={"Idempotency-Key": "its-end"}).status_code == 204
    assert operator("DELETE", path).status_code == 404


def test_a_prosumer_s_vpp_is_seen_by_nobody_else(operator: Client, trader: Client, api_engine: sa.Engine) -> None:
    mine = made(operator, participantId="HOME-01", name="Mine")
    theirs = made(operator, participantId="HOME-02", name="Theirs")
    assert {mine, "VPP-001"} <= {item["id"] for item in trader.get("/v1/vpp").json()["items"]}
    assert theirs not in {item["id"] for item in trader.get("/v1/vpp").json()["items"]}
    assert trader.get(f"/v1/vpp/{mine}").status_code == 200
    hidden, absent = trader.get(f"/v1/vpp/{theirs}"), trader.get("/v1/vpp/VPP-404")
    assert hidden.status_code == absent.status_code == 404
    assert hidden.json()["detail"].replace(theirs, "VPP-404") == absent.json()["detail"]
    with api_engine.begin() as connection:
        accounts.add(connection, "bystander", PASSWORD, "viewer")
    assert operator.as_("bystander").get(f"/v1/vpp/{theirs}/resources").status_code == 404


def test_a_resource_without_a_device_gets_a_simulated_one_where_there_are_such(
    playing: Client, operator: Client, api_engine: sa.Engine
) -> None:
    vpp_id = made(playing, id="VPP-PLAY")
    added = playing.post(f"/v1/vpp/{vpp_id}/resources", {"type": "storage", "capacity": 5}).json()
    assert added["deviceId"] == "VPP-PLAY-STORAGE-001"
    device = playing.get(f"/v1/devices/{added['deviceId']}").json()
    assert {each["metric"]: each["unit"] for each in device["series"]} == {"power": "kW", "soc": "1"}
    assert {each["role"] for each in device["series"]} == {None}  # no hour waits for it, nothing is settled by it
    assert _played(api_engine) >= {"VPP-PLAY-GRID", "VPP-PLAY-STORAGE-001"}
    # a real grid connection takes the place of the VPP's own, and back
    grid = playing.post(f"/v1/vpp/{vpp_id}/resources", {"type": "grid", "capacity": 9, "costPerKWh": 0.2}).json()
    assert {each for each in _played(api_engine) if "GRID" in each} == {grid["deviceId"]}
    playing("DELETE", f"/v1/vpp/{vpp_id}/resources/{grid['id']}")
    assert {each for each in _played(api_engine) if "GRID" in each} == {"VPP-PLAY-GRID"}
    playing("DELETE", f"/v1/vpp/{vpp_id}")
    assert _played(api_engine) == set()
    plain = operator.post(f"/v1/vpp/{made(operator)}/resources", {"type": "wind", "capacity": 5}).json()
    assert "deviceId" not in plain


def test_a_device_with_a_past_outlives_its_resource_and_serves_the_next_of_its_name(
    playing: Client, api_engine: sa.Engine
) -> None:
    vpp_id = made(playing, id="VPP-AGAIN")
    path = f"/v1/vpp/{vpp_id}/resources"
    device_id = playing.post(path, {"type": "wind", "capacity": 5}).json()["deviceId"]
    order = {"type": "setpoint", "value": 1, "unit": "kW"}
    assert playing.post(f"/v1/devices/{device_id}/commands", order).status_code == 202
    playing("DELETE", f"{path}/WIND-001")
    assert device_id not in _played(api_engine)
    assert playing.get(f"/v1/devices/{device_id}").status_code == 200
    assert playing.post(path, {"type": "wind", "capacity": 6}).json()["deviceId"] == device_id
    assert device_id in _played(api_engine)


def test_a_device_of_somebody_else_is_never_taken_for_a_simulated_one(playing: Client, api_engine: sa.Engine) -> None:
    vpp_id = made(playing, id="VPP-REAL")
    device = {"id": "VPP-REAL-SOLAR-001", "type": "solar-panel", "region": "seoul"}
    assert playing.post("/v1/devices", device).status_code == 201
    assert playing.post("/v1/devices/VPP-REAL-SOLAR-001/token", None).status_code == 201
    assert playing.post(f"/v1/vpp/{vpp_id}/resources", SOLAR).status_code == 409
    given = playing.post(f"/v1/vpp/{vpp_id}/resources", SOLAR | {"deviceId": device["id"]})
    assert given.json()["deviceId"] == device["id"]
    assert device["id"] not in _played(api_engine)


def test_resources_can_be_made_by_other_parts_of_the_platform(api_engine: sa.Engine) -> None:
    with api_engine.connect() as connection, connection.begin() as transaction:
        now = datetime.now(UTC)
        vpp_registry.create(connection, "Inside", 5.0, "seoul", actor="x", now=now, vpp_id="VPP-IN", simulated=True)
        added = vpp_registry.create_resource(
            connection, "VPP-IN", NewResource("solar", 1.0), actor="x", now=now, simulated=True
        )
        assert added.device_id == "VPP-IN-SOLAR-001"
        assert registry.device_by_id(connection, "VPP-IN-GRID").device_type == "grid-connection"
        transaction.rollback()


def _played(engine: sa.Engine) -> set[str]:
    with engine.connect() as connection:
        return set(connection.execute(sa.select(tables.device.c.device_id).where(tables.device.c.simulated)).scalars())
