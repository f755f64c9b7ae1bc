"""Readings over HTTP: what is answered is what is stored, and nothing of a refused body is."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from jsonschema import Draft202012Validator

from energy_cloud_dagster.adapters import credentials, readings, registry
from energy_cloud_dagster.adapters.tables import device, rejected, series
from energy_cloud_dagster.domain import documents
from energy_cloud_dagster.domain.readings.measurements import MOST_ELEMENTS
from tests.api.conftest import HOUR, Client

from .conftest import NOW, PATH, stamp

if TYPE_CHECKING:
    from fastapi import FastAPI


@pytest.fixture
def kept(api_engine: sa.Engine) -> Callable[[str], dict[tuple[str, datetime], tuple[float, int]]]:
    """What is stored of a device: (value, revision) by metric and time."""

    def ask(device_id: str) -> dict[tuple[str, datetime], tuple[float, int]]:
        with api_engine.connect() as connection:
            found = readings.rows_between(
                connection, NOW - timedelta(days=400), NOW + timedelta(days=2), device_ids=[device_id]
            )
        assert {row.source for row in found} <= {"rest"}
        return {(row.metric, row.ts): (row.value, row.revision) for row in found}

    return ask


@pytest.fixture
def refusals(api_engine: sa.Engine) -> Callable[[str], list[tuple[str, str]]]:
    """(reason, detail) of the refused bodies that hold a text."""

    def ask(text: str) -> list[tuple[str, str]]:
        with api_engine.connect() as connection:
            rows = connection.execute(
                sa.select(rejected.c.reason, rejected.c.detail, rejected.c.payload, rejected.c.source)
            ).all()
        return [(row.reason, row.detail) for row in rows if row.source == "rest" and text.encode() in row.payload]

    return ask


@pytest.fixture
def device_client(app: FastAPI, api_engine: sa.Engine, anyone: Client) -> Client:
    """The meter SM-TEST-001 with a token of its own."""
    with api_engine.begin() as connection:
        token = credentials.issue(connection, "SM-TEST-001", datetime.now(UTC))
    return Client(app, token, anyone._runner)


def test_a_record_is_answered_with_its_id_once_it_is_stored(operator: Client, meter: str, kept: Any) -> None:
    record = {
        "meterId": meter,
        "timestamp": stamp(NOW),
        "consumption": 125.5,
        "voltage": "229.8",
        "current": 1.9,
        "powerFactor": "0.97",
        "metadata": {"meterType": "smart-meter-v2", "firmware": "2.1.5"},
    }
    answer = operator.post(PATH, record)
    assert answer.status_code == 201
    document = answer.json()
    assert document.pop("id")
    assert document.pop("receivedAt")
    assert document == record | {"voltage": 229.8, "powerFactor": 0.97, "quality": "high", "unit": "kWh"}
    assert kept(meter) == {
        ("consumption", NOW): (125.5, 1),
        ("voltage", NOW): (229.8, 1),
        ("current", NOW): (1.9, 1),
        ("power-factor", NOW): (0.97, 1),
    }


def test_a_repetition_is_absorbed_and_a_correction_is_a_revision_of_the_same_id(
    operator: Client, meter: str, kept: Any
) -> None:
    record = {"meterId": meter, "timestamp": stamp(NOW), "consumption": 1.0}
    ids = {operator.post(PATH, record | {"consumption": value}).json()["id"] for value in (1.0, 1.0, 2.0)}
    assert len(ids) == 1
    assert kept(meter) == {("consumption", NOW): (2.0, 2)}


@pytest.mark.parametrize("how", ["offset", "seconds", "milliseconds", "text"])
def test_times_may_be_rfc_3339_or_epochs(operator: Client, meter: str, kept: Any, how: str) -> None:
    seconds = int(NOW.timestamp())
    given = {
        "offset": NOW.astimezone().isoformat(),
        "seconds": seconds,
        "milliseconds": seconds * 1000,
        "text": str(seconds * 1000),
    }[how]
    answer = operator.post(PATH, {"meterId": meter, "timestamp": given, "consumption": "12.5"})
    assert answer.json()["timestamp"] == stamp(NOW)
    assert kept(meter) == {("consumption", NOW): (12.5, 1)}


def test_an_array_is_answered_in_its_order(operator: Client, meter: str, kept: Any) -> None:
    batch = [
        {
            "meterId": f"{meter}-{number % 3}",
            "timestamp": stamp(NOW + number * timedelta(minutes=15)),
            "consumption": number,
        }
        | ({"voltage": 230 + number} if number % 2 else {})
        for number in range(8)
    ]
    answer = operator.post(PATH, batch)
    assert answer.status_code == 201
    records = answer.json()
    assert [(each["meterId"], each["timestamp"], each["consumption"], each.get("voltage")) for each in records] == [
        (each["meterId"], each["timestamp"], each["consumption"], each.get("voltage")) for each in batch
    ]
    assert len({each["id"] for each in records}) == 8
    assert len(kept(f"{meter}-1")) == 5


def test_the_largest_array_passes_and_one_more_record_does_not(operator: Client, meter: str, refusals: Any) -> None:
    batch = [
        {
            "meterId": f"{meter}-{number % 100}",
            "timestamp": stamp(NOW - number // 100 * timedelta(minutes=15)),
            "consumption": "1234.567",
            "voltage": 229.81,
            "current": 11.93,
            "powerFactor": 0.971,
            "metadata": {"meterType": "smart-meter-v2", "firmware": "2.1.5", "site": "a street and a number"},
        }
        for number in range(MOST_ELEMENTS)
    ]
    answer = operator.post(PATH, batch)
    assert answer.status_code == 201, answer.text[:500]
    assert len(answer.json()) == MOST_ELEMENTS
    answer = operator.post(PATH, [*batch, batch[0]])
    assert answer.status_code == 422
    assert str(MOST_ELEMENTS) in answer.json()["detail"]
    assert [reason for reason, _ in refusals(meter)] == ["too_many"]


@pytest.mark.parametrize(
    ("record", "pointer", "reason"),
    [
        ({"consumption": None}, "/1/consumption", "bad_payload"),
        ({"consumption": True}, "/1/consumption", "bad_payload"),
        ({"consumption": "many"}, "/1/consumption", "bad_value"),
        ({"consumption": "NaN"}, "/1/consumption", "not_finite"),
        ({"voltage": "high"}, "/1/voltage", "bad_value"),
        ({"powerFactor": [1]}, "/1/powerFactor", "bad_payload"),
        ({"timestamp": "2026-03-01T10:00:00"}, "/1/timestamp", "bad_timestamp"),
        ({"timestamp": "soon"}, "/1/timestamp", "bad_timestamp"),
        ({"timestamp": stamp(NOW + timedelta(days=1))}, "/1/timestamp", "future_timestamp"),
        ({"timestamp": stamp(NOW - timedelta(days=800))}, "/1/timestamp", "too_old"),
        ({"quality": "superb"}, "/1/quality", "bad_quality"),
        ({"surprise": 1}, "/1", "bad_payload"),
        ({"meterId": "a/b"}, "/1/meterId", "bad_payload"),
        ({"meterId": "a\x00b"}, "/1/meterId", "bad_payload"),
        ({"meterId": ""}, "/1/meterId", "bad_payload"),
        ({"meterId": 7}, "/1/meterId", "bad_payload"),
        ({"metadata": {"x": "\x00"}}, "/1/metadata", "bad_payload"),
        ({"metadata": {"x": "y" * 5000}}, "/1/metadata", "bad_payload"),
        ({"metadata": {"x": [[]] * 120}}, "/1/metadata", "bad_payload"),
        ({"meterId": "SM-H01", "timestamp": stamp(NOW + timedelta(minutes=1))}, "/1/timestamp", "misaligned"),
    ],
    ids=str,
)
def test_a_faulty_element_refuses_the_array_and_is_pointed_at(
    operator: Client, meter: str, kept: Any, refusals: Any, record: dict[str, Any], pointer: str, reason: str
) -> None:
    good = {"meterId": meter, "timestamp": stamp(NOW), "consumption": 1.0}
    answer = operator.post(PATH, [good, good | record])
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert [(fault["pointer"], fault["in"]) for fault in problem["errors"]] == [(pointer, "body")]
    assert kept(meter) == {}
    ((kept_reason, detail),) = refusals(meter)
    assert kept_reason == reason
    assert pointer in detail


def test_every_fault_of_an_array_is_named_up_to_a_hundred(operator: Client, meter: str, refusals: Any) -> None:
    good = {"meterId": meter, "timestamp": stamp(NOW), "consumption": 1.0}
    batch: list[Any] = [good, good | {"consumption": {}}, good | {"timestamp": "soon"}, good | {"consumption": "x"}, 3]
    problem = operator.post(PATH, batch).json()
    assert {fault["pointer"] for fault in problem["errors"]} == {
        "/1/consumption",
        "/2/timestamp",
        "/3/consumption",
        "/4",
    }
    assert {reason for reason, _ in refusals(meter)} == {"bad_payload", "bad_timestamp", "bad_value"}
    problem = operator.post(PATH, [good | {"consumption": "x"}] * 150).json()
    assert len(problem["errors"]) == 100
    assert "150 faults" in problem["detail"]


@pytest.mark.parametrize("body", [b"", b"{", b"[1,", b'{"meterId": NaN}', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_refused_and_kept(operator: Client, body: bytes) -> None:
    answer = operator("POST", PATH, content=body)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("body", ["[]", "3", '"text"', "null", "{}", '{"vppId": "VPP-001"}'])
def test_other_json_is_refused(operator: Client, body: str) -> None:
    assert operator("POST", PATH, content=body.encode()).status_code == 422


def test_an_unknown_meter_is_registered_unverified_without_class_or_role(
    operator: Client, meter: str, api_engine: sa.Engine
) -> None:
    assert operator.post(PATH, {"meterId": meter, "timestamp": stamp(NOW), "consumption": 1}).status_code == 201
    with api_engine.connect() as connection:
        row = connection.execute(sa.select(device).where(device.c.device_id == meter)).one()
        (started,) = connection.execute(sa.select(series).where(series.c.device_id == meter)).all()
    assert (row.region_id, row.device_type, row.customer_class, row.verified) == ("seoul", "smart-meter", None, False)
    assert (started.metric, started.unit, started.kind, started.role) == ("consumption", "kWh", "energy", None)


def test_a_device_writes_its_own_readings_and_nobody_else_s(
    device_client: Client, meter: str, kept: Any, refusals: Any
) -> None:
    own = {"meterId": "SM-TEST-001", "timestamp": stamp(NOW), "consumption": 3.5, "voltage": 231}
    assert device_client.post(PATH, own).status_code == 201
    assert kept("SM-TEST-001") == {("consumption", NOW): (3.5, 1), ("voltage", NOW): (231.0, 1)}
    other = own | {"meterId": meter, "consumption": 9.0}
    answer = device_client.post(PATH, [own | {"consumption": 4.0}, other])
    assert answer.status_code == 403
    assert kept("SM-TEST-001")["consumption", NOW] == (3.5, 1)
    assert kept(meter) == {}
    assert refusals(meter) == []
    assert device_client.get(PATH).status_code == 403


def test_an_account_of_a_device_writes_under_its_own_name_only(anyone: Client, meter: str) -> None:
    client = anyone.as_("device")
    record = {"meterId": meter, "timestamp": stamp(NOW), "consumption": 3.5}
    assert client.post(PATH, record).status_code == 403
    answer = client.post(PATH, record | {"meterId": "device"})
    assert answer.status_code == 422
    assert "not registered" in answer.json()["detail"]


def test_a_revoked_token_is_refused_within_a_second(
    app: FastAPI, device_client: Client, api_engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = {"meterId": "SM-TEST-001", "timestamp": stamp(NOW - HOUR), "consumption": 3.5}
    assert device_client.post(PATH, record).status_code == 201
    with api_engine.begin() as connection:
        credentials.revoke(connection, "SM-TEST-001", datetime.now(UTC))
    callers = app.state.context.devices
    later = callers._clock() + 1.0
    monkeypatch.setattr(callers, "_clock", lambda: later)
    answer = device_client.post(PATH, record)
    assert answer.status_code == 401
    assert "invalid_token" in answer.headers["www-authenticate"]


def test_a_made_up_device_token_is_refused(app: FastAPI, anyone: Client) -> None:
    client = Client(app, "ecd_aaaaaaaaaaaa_" + "x" * 43, anyone._runner)
    assert client.post(PATH, {}).status_code == 401


def test_a_meter_document_is_stored_reading_by_reading(operator: Client, meter: str, kept: Any) -> None:
    document = documents.example("meter") | {"meterId": meter, "timestamp": stamp(NOW)}
    quarter = NOW - timedelta(minutes=15)
    document["readings"] = [
        {"timestamp": stamp(quarter), "metric": "consumption", "value": 1250, "unit": "Wh", "quality": "high"},
        {"timestamp": quarter.timestamp(), "metric": "voltage", "value": "229.8", "unit": "V", "quality": "low"},
        {"timestamp": stamp(quarter), "metric": "soc", "value": 50, "unit": "%", "quality": "high"},
    ]
    answer = operator.post(PATH, document)
    assert answer.status_code == 201, answer.text
    stored = answer.json()
    assert stored["meterId"] == meter
    assert [(each["metric"], each["value"], each["unit"], each["quality"]) for each in stored["readings"]] == [
        ("consumption", 1.25, "kWh", "high"),
        ("voltage", 229.8, "V", "low"),
        ("soc", 0.5, "1", "high"),
    ]
    assert len({each["id"] for each in stored["readings"]}) == 3
    assert kept(meter) == {
        ("consumption", quarter): (1.25, 1),
        ("voltage", quarter): (229.8, 1),
        ("soc", quarter): (0.5, 1),
    }


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"standard": "WIA-ENE-015"}, "/standard"),
        ({"version": 2}, "/version"),
        ({"meterId": "a/b"}, "/meterId"),
        ({"readings": []}, "/readings"),
        ({"readings": 7}, "/readings"),
        ({"readings/0/unit": "kW/h"}, "/readings/0/unit"),
        ({"readings/0/metric": "command"}, "/readings/0/metric"),
        ({"readings/0/metric": "a b"}, "/readings/0/metric"),
        ({"readings/1/value": "x"}, "/readings/1/value"),
        ({"readings/1/unit": "kWh", "readings/0/unit": "V"}, None),
    ],
    ids=str,
)
def test_faults_of_a_meter_document_are_pointed_at(
    operator: Client, meter: str, kept: Any, change: dict[str, Any], pointer: str | None
) -> None:
    document = documents.example("meter") | {"meterId": meter}
    for reading in document["readings"]:
        reading["timestamp"] = stamp(NOW)
    for path, value in change.items():
        steps = path.split("/")
        place = document
        for step in steps[:-1]:
            place = place[int(step) if step.isdigit() else step]
        place[steps[-1]] = value
    answer = operator.post(PATH, document)
    if pointer is None:  # strange, but the series' own: nothing is known of what it measures
        assert answer.status_code == 201
        return
    assert answer.status_code == 422
    assert [fault["pointer"] for fault in answer.json()["errors"]] == [pointer]
    assert kept(meter) == {}


def test_a_reading_in_a_unit_that_its_series_is_not_in_is_pointed_at(operator: Client, meter: str) -> None:
    operator.post(PATH, {"meterId": meter, "timestamp": stamp(NOW), "consumption": 1})
    document = documents.example("meter") | {"meterId": meter}
    document["readings"][0] |= {"timestamp": stamp(NOW), "unit": "kW"}
    document["readings"][1]["timestamp"] = stamp(NOW)
    answer = operator.post(PATH, document)
    assert [fault["pointer"] for fault in answer.json()["errors"]] == ["/readings/0/unit"]


@pytest.mark.parametrize("kind", ["energy", "energy-phase-1"])
def test_an_energy_document_of_a_meter_is_stored_as_its_totals(
    operator: Client, meter: str, kept: Any, kind: str
) -> None:
    document = documents.example(kind) | {"meterId": meter, "timestamp": stamp(NOW)}
    answer = operator.post(PATH, document)
    assert answer.status_code == 201, answer.text
    found = {metric: value for (metric, _), (value, _) in kept(meter).items()}
    assert found["consumption"] == 1250.5
    if kind == "energy":
        assert (found["generation"], found["storage"], found["consumption-residential"]) == (1300.0, 325.5, 450.2)


def test_an_energy_document_of_a_region_counts_in_no_sum_of_meters(operator: Client, kept: Any) -> None:
    window = {"startDate": stamp(NOW), "endDate": stamp(NOW + HOUR)}
    before = operator.get(PATH, region="busan", **window).json()
    document = documents.example("energy") | {"timestamp": stamp(NOW)}
    document["metadata"]["gridId"] = "KR-BS-001"
    answer = operator.post(PATH, document)
    assert answer.status_code == 201, answer.text
    assert answer.json()["meterId"] == "KR-BS-001"
    assert operator.get(PATH, region="busan", **window).json() == before
    items = operator.get(PATH, meterId="KR-BS-001", **window).json()["items"]
    assert [item["consumption"] for item in items] == [1250.5]
    assert kept("KR-BS-001")["region-storage", NOW] == (325.5, 1)


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"metadata": None}, "/metadata"),
        ({"metadata": {"gridId": "KR-XX-009"}}, "/metadata/gridId"),
        ({"energyData": {}}, "/energyData/consumption"),
        ({"meterId": "a b"}, "/meterId"),
    ],
)
def test_an_energy_document_of_no_known_place_is_refused(
    operator: Client, change: dict[str, Any], pointer: str
) -> None:
    answer = operator.post(PATH, documents.example("energy") | {"timestamp": stamp(NOW)} | change)
    assert answer.status_code == 422
    assert [fault["pointer"] for fault in answer.json()["errors"]] == [pointer]


def test_a_device_s_energy_document_is_its_own(device_client: Client, kept: Any) -> None:
    ts = NOW - timedelta(minutes=45)
    answer = device_client.post(PATH, documents.example("energy-phase-1") | {"timestamp": stamp(ts)})
    assert answer.status_code == 201, answer.text
    assert kept("SM-TEST-001")["consumption", ts] == (1250.5, 1)


def test_openapi_tells_what_may_be_posted(app: FastAPI) -> None:
    schema = app.openapi()
    operation = schema["paths"][PATH]["post"]
    content = operation["requestBody"]["content"]["application/json"]
    validator = Draft202012Validator({**content["schema"], "components": schema["components"]})
    for example in content["examples"].values():
        assert list(validator.iter_errors(example["value"])) == []
    assert list(validator.iter_errors({"meterId": "SM-001"}))
    assert "201" in operation["responses"]
    json.dumps(schema)


def test_what_one_platform_answers_another_takes(operator: Client, meter: str) -> None:
    window = {"startDate": stamp(NOW - HOUR), "endDate": stamp(NOW)}
    quarters = [NOW - number * timedelta(minutes=15) for number in (4, 3, 2, 1)]
    operator.post(PATH, [{"meterId": meter, "timestamp": stamp(ts), "consumption": -1.5} for ts in quarters])
    document = operator.get(PATH, meterId=meter, document="meter", **window).json()
    assert len(document["readings"]) == 4
    answer = operator.post(PATH, document | {"meterId": f"{meter}-copy"})
    assert answer.status_code == 201, answer.text
    again = operator.get(PATH, meterId=f"{meter}-copy", document="meter", **window).json()
    assert again["readings"] == document["readings"]
    for kind in ("energy", "energy-phase-1"):
        region = operator.get(PATH, region="seoul", document=kind, **window).json()
        assert documents.validate(region) == []
        assert region["energyData"]["consumption"]["total"] >= 0, "who feeds in more than it draws consumed nothing"
        assert operator.post(PATH, region).status_code == 201


def test_what_a_meter_last_said_of_itself_is_kept_with_it(operator: Client, meter: str, api_engine: sa.Engine) -> None:
    record = {"meterId": meter, "timestamp": stamp(NOW), "consumption": 1.0}
    first, second = ({"meterType": "smart-meter-v2", "firmware": firmware} for firmware in ("2.1.5", "2.2.0"))
    for metadata, kept in ((first, first), (None, first), ({}, first), (second, second)):
        batch = [record, record | ({} if metadata is None else {"metadata": metadata})]
        assert operator.post(PATH, batch).status_code == 201
        with api_engine.connect() as connection:
            assert registry.device_by_id(connection, meter).metadata == kept
    assert operator.get(f"/v1/devices/{meter}").json()["metadata"] == second


def test_strange_metadata_is_kept_as_it_came(operator: Client, meter: str, api_engine: sa.Engine) -> None:
    nested: Any = 0
    for _ in range(90):
        nested = [nested]
    strange = {
        "nested": nested,
        "": None,
        "emoji \N{PILE OF POO}": "\N{LATIN SMALL LETTER E WITH ACUTE}",
        "big": 10**40,
    }
    record = {"meterId": meter, "timestamp": stamp(NOW), "consumption": 1.0, "metadata": strange}
    assert operator.post(PATH, record).status_code == 201
    with api_engine.connect() as connection:
        assert registry.device_by_id(connection, meter).metadata == strange
