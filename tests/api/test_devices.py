"""The registry of devices over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from energy_cloud_dagster.adapters import credentials

if TYPE_CHECKING:
    import sqlalchemy as sa

    from .conftest import Client

NEW = {"id": "SM-NEW", "type": "smart-meter", "region": "kr-seoul", "customerClass": "commercial"}


def holder(api_engine: sa.Engine, token: str) -> str | None:
    with api_engine.connect() as connection:
        return credentials.authenticate(connection, token, datetime.now(UTC))


def test_a_device_is_registered_given_a_token_rotated_revoked_and_removed(
    operator: Client, api_engine: sa.Engine
) -> None:
    made = operator.post("/v1/devices", NEW)
    assert made.status_code == 201, made.text
    assert made.headers["location"] == "/v1/devices/SM-NEW"
    document = made.json()
    assert document | {"createdAt": ""} == {
        "id": "SM-NEW",
        "type": "smart-meter",
        "region": "seoul",
        "customerClass": "commercial",
        "participantId": None,
        "intervalMinutes": 15,
        "verified": True,
        "createdAt": "",
        "topic": "energy-cloud/seoul/smart-meter/SM-NEW/+",
        "tokens": 0,
        "series": [{"metric": "consumption", "unit": "kWh", "kind": "energy", "role": None}],
    }
    assert operator.get("/v1/devices/SM-NEW").json() == document
    assert operator.post("/v1/devices", NEW).status_code == 409
    first = operator.post("/v1/devices/SM-NEW/token", None)
    assert (first.status_code, first.headers["cache-control"]) == (201, "no-store")
    assert first.json().keys() == {"deviceId", "token"}
    second = operator.post("/v1/devices/SM-NEW/token", None).json()
    assert datetime.fromisoformat(second["previousValidUntil"]) > datetime.now(UTC)
    for token in (first.json()["token"], second["token"]):
        assert holder(api_engine, token) == "SM-NEW"
    assert operator.get("/v1/devices/SM-NEW").json()["tokens"] == 2
    assert operator("DELETE", "/v1/devices/SM-NEW/token").status_code == 204
    assert holder(api_engine, second["token"]) is None
    assert operator("DELETE", "/v1/devices/SM-NEW").status_code == 204
    assert operator.get("/v1/devices/SM-NEW").status_code == 404


def test_lists_are_paged_and_filtered(operator: Client) -> None:
    ids: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = operator.get("/v1/devices", limit=10, **cursor).json()
        ids += [item["id"] for item in page["items"]]
        if page["nextCursor"] is None:
            break
        cursor = {"cursor": page["nextCursor"]}
    assert ids == sorted(ids)
    assert {"SM-001", "BAT-001"} <= set(ids)
    batteries = operator.get("/v1/devices", type="battery", region="Seoul").json()["items"]
    assert [item["id"] for item in batteries] == ["BAT-001"]
    assert {"output", "soc"} <= {row["metric"] for row in batteries[0]["series"]}
    assert {item["id"] for item in operator.get("/v1/devices", participantId="HOME-02").json()["items"]} == {
        "PV-H02",
        "SM-H02",
    }
    assert operator.get("/v1/devices", region="mars").status_code == 404


def test_traders_and_viewers_see_their_own_and_change_none(trader: Client, viewer: Client) -> None:
    assert {item["id"] for item in trader.get("/v1/devices").json()["items"]} == {"SM-H01", "PV-H01"}
    assert trader.get("/v1/devices", participantId="HOME-02").json()["items"] == []
    assert trader.get("/v1/devices/SM-H01").status_code == 200
    missing = trader.get("/v1/devices/SM-NOT").json()["detail"]
    for other in ("SM-H02", "SM-001"):
        answer = trader.get(f"/v1/devices/{other}")
        assert answer.status_code == 404
        assert answer.json()["detail"] == missing.replace("SM-NOT", other)
    assert viewer.get("/v1/devices").json()["items"] == []
    for client in (trader, viewer):
        assert client.post("/v1/devices", NEW).status_code == 403
        assert client.post("/v1/devices/SM-H01/token", None).status_code == 403
        assert client("DELETE", "/v1/devices/SM-H01").status_code == 403


@pytest.mark.parametrize(
    ("changed", "pointer"),
    [
        ({"id": "a/b"}, "/id"),
        ({"id": ""}, "/id"),
        ({"region": "mars"}, "/region"),
        ({"type": "novel"}, "/series"),
        ({"customerClass": "royal"}, "/customerClass"),
        ({"intervalMinutes": 61}, "/intervalMinutes"),
        ({"series": [{"metric": "ack", "unit": "kW"}]}, "/series/0/metric"),
        ({"series": [{"metric": "power", "unit": "kW", "colour": "red"}]}, "/series/0/colour"),
    ],
)
def test_a_fault_is_pointed_at(operator: Client, changed: dict[str, Any], pointer: str) -> None:
    answer = operator.post("/v1/devices", NEW | changed)
    assert answer.status_code == 422
    assert [fault["pointer"] for fault in answer.json()["errors"]] == [pointer]


def test_what_rests_on_a_device_keeps_it(operator: Client) -> None:
    answer = operator("DELETE", "/v1/devices/SM-H01")
    assert answer.status_code == 409
    assert "has readings and stays registered" in answer.json()["detail"]
    for act in (("DELETE", "/v1/devices/none"), ("POST", "/v1/devices/none/token"), ("DELETE", "/v1/devices/no/token")):
        assert operator(*act).status_code == 404


def test_a_registration_that_is_repeated_under_its_key_is_done_once(operator: Client) -> None:
    document = NEW | {"id": "SM-KEYED"}
    keyed = {"Idempotency-Key": "register SM-KEYED"}
    first, again = (operator("POST", "/v1/devices", json=document, headers=keyed) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["Location"] == first.headers["Location"] == "/v1/devices/SM-KEYED"
    assert operator("DELETE", "/v1/devices/SM-KEYED").status_code == 204
