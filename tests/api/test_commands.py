"""Commands and configuration over HTTP: what is queued, what is refused, and who sees it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import sqlalchemy as sa

from energy_cloud_dagster.adapters import commands
from energy_cloud_dagster.adapters.tables import command
from energy_cloud_dagster.domain.commands import Ack

from .conftest import Client

if TYPE_CHECKING:
    from energy_cloud_dagster.settings import Settings

SETPOINT = {"type": "setpoint", "value": 40, "unit": "kW"}


def ahead(**span: float) -> str:
    return (datetime.now(UTC) + timedelta(**span)).isoformat()


def send(client: Client, device_id: str = "BAT-001", document: Any = None, kind: str = "commands") -> dict[str, Any]:
    answer = client.post(f"/v1/devices/{device_id}/{kind}", SETPOINT if document is None else document)
    assert answer.status_code == 202, answer.text
    return answer.json()  # type: ignore[no-any-return]


def test_a_command_is_queued_told_to_listeners_and_seen_with_its_history(
    operator: Client, api_url: str, api_engine: sa.Engine
) -> None:
    with psycopg.connect(api_url, autocommit=True) as listener:
        listener.execute("listen commands")
        queued = send(operator, document=SETPOINT | {"validUntil": ahead(minutes=2)})
        told = next(listener.notifies(timeout=10, stop_after=1))
    assert set(queued) == {"commandId", "state"}
    assert queued["state"] == "queued"
    assert json.loads(told.payload) == {
        "commandId": queued["commandId"],
        "deviceId": "BAT-001",
        "state": "queued",
    }
    with api_engine.begin() as connection:
        commands.acknowledge(
            connection, "BAT-001", Ack(queued["commandId"], None, "rejected", "empty"), datetime.now(UTC)
        )
    found = operator.get(f"/v1/devices/BAT-001/commands/{queued['commandId']}").json()
    events = found.pop("events")
    assert {key: found[key] for key in ("type", "value", "unit", "state", "reason", "requestedBy", "attempts")} == {
        **SETPOINT,
        "state": "rejected",
        "reason": "empty",
        "requestedBy": "operator",
        "attempts": 0,
    }
    assert [(event["state"], event["actor"], event["detail"]) for event in events] == [
        ("queued", "operator", ""),
        ("rejected", "BAT-001", "empty"),
    ]
    assert found in operator.get("/v1/devices/BAT-001/commands").json()["items"]


def test_without_a_time_a_command_is_valid_as_long_as_the_setting_says(
    operator: Client, api_settings: Settings
) -> None:
    found = operator.get(f"/v1/devices/BAT-001/commands/{send(operator)['commandId']}").json()
    span = datetime.fromisoformat(found["validUntil"]) - datetime.fromisoformat(found["createdAt"])
    assert span == timedelta(seconds=api_settings.command_validity_seconds)


def test_configurations_are_counted_by_device(operator: Client) -> None:
    first = send(operator, "PV-H01", {"settings": {"maxExport": 4.5, "mode": "eco"}}, "config")
    second = send(operator, "PV-H01", {"settings": {"maxExport": 5}, "validUntil": ahead(days=1)}, "config")
    other = send(operator, "PV-H02", {"settings": {"mode": None}}, "config")
    assert [answer["version"] for answer in (first, second, other)] == [1, 2, 1]
    found = operator.get(f"/v1/devices/PV-H01/commands/{first['commandId']}").json()
    assert (found["kind"], found["version"], found["settings"]) == ("config", 1, {"maxExport": 4.5, "mode": "eco"})


def test_the_list_is_paged_newest_first(operator: Client) -> None:
    sent = [send(operator, "PV-VPP-001")["commandId"] for _ in range(5)]
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 2}
    while True:
        page = operator.get("/v1/devices/PV-VPP-001/commands", **query).json()
        seen += [item["commandId"] for item in page["items"]]
        if page["nextCursor"] is None:
            break
        query["cursor"] = page["nextCursor"]
    assert seen == sent[::-1]


@pytest.mark.parametrize(
    ("kind", "document", "pointer"),
    [
        ("commands", SETPOINT | {"validUntil": "2020-01-01T00:00:00Z"}, "/validUntil"),
        ("commands", SETPOINT | {"validUntil": "2999-01-01T00:00:00Z"}, "/validUntil"),
        ("commands", SETPOINT | {"validUntil": "tomorrow"}, "/validUntil"),
        ("commands", SETPOINT | {"type": "explode"}, "/type"),
        ("commands", SETPOINT | {"unit": "kWh"}, "/unit"),
        ("commands", SETPOINT | {"value": None}, "/value"),
        ("commands", SETPOINT | {"value": "much"}, "/value"),
        ("commands", SETPOINT | {"more": 1}, "/more"),
        ("config", {"settings": {}}, "/settings"),
        ("config", {"settings": {"a": {"b": 1}}}, "/settings/a"),
        ("config", {"settings": {"a": "\x00"}}, "/settings/a"),
        ("config", {"settings": {"a": 1}, "validUntil": "2020-01-01T00:00:00Z"}, "/validUntil"),
    ],
)
def test_a_faulty_request_is_refused_at_its_faulty_field_and_queues_nothing(
    operator: Client, api_engine: sa.Engine, kind: str, document: Any, pointer: str
) -> None:
    def queued() -> int:
        with api_engine.connect() as connection:
            return int(connection.execute(sa.select(sa.func.count()).select_from(command)).scalar_one())

    before = queued()
    answer = operator.post(f"/v1/devices/BAT-001/{kind}", document)
    assert answer.status_code == 422, answer.text
    assert [fault["pointer"].removeprefix("/body") for fault in answer.json()["errors"]] == [pointer]
    assert queued() == before


def test_numbers_that_are_too_large_for_json_are_refused(operator: Client) -> None:
    for body in (
        b'{"type": "setpoint", "value": 1e999, "unit": "kW"}',
        b'{"type": "setpoint", "value": NaN, "unit": "kW"}',
    ):
        answer = operator(
            "POST", "/v1/devices/BAT-001/commands", content=body, headers={"content-type": "application/json"}
        )
        assert answer.status_code == 422, answer.text


def test_an_unknown_type_is_answered_with_the_known_ones(operator: Client) -> None:
    detail = operator.post("/v1/devices/BAT-001/commands", SETPOINT | {"type": "explode"}).json()["detail"]
    assert "setpoint" in detail
    assert "release" in detail


def test_unknown_devices_and_those_of_others_cannot_be_told_apart(operator: Client, trader: Client) -> None:
    hers = send(operator, "SM-H01", {"type": "release"})["commandId"]
    others = send(operator, "SM-H02", {"type": "release"})["commandId"]
    assert trader.get(f"/v1/devices/SM-H01/commands/{hers}").status_code == 200
    for device_id in ("SM-H02", "BAT-001", "SM-NONE"):
        for path in ("commands", f"commands/{others}"):
            answer = trader.get(f"/v1/devices/{device_id}/{path}")
            assert answer.status_code == 404
            assert answer.json()["detail"] == f"there is no device {device_id}"
    for odd in ("/v1/devices/a%00b/commands", "/v1/devices/SM-H01/commands/a%00b", "/v1/devices/SM-H01/commands/x"):
        assert trader.get(odd).status_code == 404
    # a command is found under its own device only
    assert trader.get(f"/v1/devices/SM-H01/commands/{others}").status_code == 404
    for kind, document in (("commands", SETPOINT), ("config", {"settings": {"a": 1}})):
        assert operator.post(f"/v1/devices/SM-NONE/{kind}", document).status_code == 404
        assert trader.post(f"/v1/devices/SM-H01/{kind}", document).status_code == 403


def test_the_same_request_under_the_same_key_is_queued_once(operator: Client) -> None:
    headers = {"Idempotency-Key": f"k-{datetime.now(UTC).timestamp()}"}
    for kind, document in (("commands", SETPOINT), ("config", {"settings": {"a": 1}})):
        keyed = {"Idempotency-Key": headers["Idempotency-Key"] + kind}
        first, again = (operator("POST", f"/v1/devices/BAT-001/{kind}", json=document, headers=keyed) for _ in range(2))
        assert (first.status_code, again.status_code) == (202, 202)
        assert first.json() == again.json()
        assert again.headers["Idempotency-Replayed"] == "true"
        other = operator("POST", f"/v1/devices/PV-H01/{kind}", json=document, headers=keyed)
        assert other.status_code == 422
