from __future__ import annotations

import json
import math
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energy_cloud_dagster.domain import readings
from energy_cloud_dagster.domain.errors import Rejected
from energy_cloud_dagster.domain.readings import ReadingRow, Rules, SeriesInfo, convert, decode_message, parse_topic
from energy_cloud_dagster.domain.readings.decode import (
    MOST_READINGS,
    Payload,
    careful_row,
    decode_payload,
    usual_row,
)

NOW = datetime(2026, 3, 1, 12, 0, 7, tzinfo=UTC)
TS = datetime(2026, 3, 1, 11, tzinfo=UTC)
SERIES = {
    ("SM-H01", "consumption"): SeriesInfo(1, "kWh", "energy", 60, "seoul", "smart-meter", "load"),
    ("SM-001", "consumption"): SeriesInfo(2, "kWh", "energy", 15, "seoul", "smart-meter"),
    ("BAT-001", "soc"): SeriesInfo(3, "1", "state", 15, "seoul", "battery", "soc"),
    ("BAT-001", "output"): SeriesInfo(4, "kW", "power", 15, "seoul", "battery", "storage"),
}
HOME = "energy-cloud/seoul/smart-meter/SM-H01/consumption"
GOOD = {"timestamp": "2026-03-01T11:00:00Z", "value": 1.25, "unit": "kWh", "quality": "high"}


def decode(payload: object, topic: str = HOME, **rules: Any) -> readings.Decoded:
    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return decode_message(
        topic, raw, received_at=NOW, series=SERIES, rules=Rules(**rules), aliases={"kr-seoul": "seoul"}
    )


def refusal(payload: object, topic: str = HOME, **rules: Any) -> Rejected:
    rows, rejected = decode(payload, topic, **rules)
    assert rows == []
    (reason,) = rejected
    return reason


def test_a_reading_becomes_a_row() -> None:
    assert decode(GOOD) == ([ReadingRow(1, TS, 1.25, "high", NOW, "mqtt")], [])


@pytest.mark.parametrize(
    "timestamp",
    [
        "2026-03-01T11:00:00Z",
        "2026-03-01T20:00:00+09:00",
        1772362800,
        1772362800000,
        "1772362800",
        "2026-03-01T11:00:00.000Z",
    ],
)
def test_timestamps_come_in_three_ways(timestamp: object) -> None:
    assert decode({**GOOD, "timestamp": timestamp}).rows[0].ts == TS


def test_numbers_may_come_as_strings_and_units_are_converted() -> None:
    (row,) = decode({**GOOD, "value": "1250.0", "unit": "Wh"}).rows
    assert row.value == 1.25
    (soc,) = decode({**GOOD, "value": 55, "unit": "%"}, "energy-cloud/seoul/battery/BAT-001/soc").rows
    assert soc.value == 0.55


def test_quality_is_high_where_the_device_says_nothing_and_aliases_of_regions_hold() -> None:
    payload = {key: value for key, value in GOOD.items() if key != "quality"}
    assert decode(payload, HOME.replace("seoul", "kr-seoul")).rows[0].quality == "high"


def test_an_array_keeps_its_good_readings() -> None:
    later = {**GOOD, "timestamp": "2026-03-01T10:00:00Z"}
    rows, rejected = decode([GOOD, {**GOOD, "unit": "kW"}, later])
    assert [row.ts.hour for row in rows] == [11, 10]
    assert [(each.reason, each.pointer) for each in rejected] == [("bad_unit", "/1/unit")]
    assert rejected[0].detail.startswith("reading 1: unit kW measures power")


def test_an_array_with_an_element_of_the_wrong_shape_keeps_the_others() -> None:
    rows, rejected = decode([GOOD, {"value": 1}, 7])
    assert len(rows) == 1
    assert [(each.reason, each.pointer) for each in rejected] == [("bad_payload", "/1"), ("bad_payload", "/2")]


@pytest.mark.parametrize(
    ("change", "reason", "part"),
    [
        ({"unit": "kW"}, "bad_unit", "send Wh or kWh or MWh"),
        ({"unit": "furlong"}, "bad_unit", "use one of"),
        ({"value": "NaN"}, "not_finite", "no finite number"),
        ({"value": "-inf"}, "not_finite", "no finite number"),
        ({"value": "twelve"}, "bad_value", "is no number"),
        ({"value": "1_000"}, "bad_value", "is no number"),
        ({"value": True}, "bad_payload", "bool"),
        ({"value": None}, "bad_payload", "null"),
        ({"value": 1.7e308, "unit": "MWh"}, "not_finite", "too large"),
        ({"quality": "superb"}, "bad_quality", "high, medium, low, bad"),
        ({"timestamp": "2026-03-01T11:00:00"}, "bad_timestamp", "has no offset"),
        ({"timestamp": "yesterday"}, "bad_timestamp", "RFC 3339"),
        ({"timestamp": 1e300}, "bad_timestamp", "RFC 3339"),
        ({"timestamp": "0001-01-01T00:00:00+23:59"}, "bad_timestamp", "RFC 3339"),
        ({"timestamp": "2026-03-01T13:00:00Z"}, "future_timestamp", "set the device's clock"),
        ({"timestamp": "2020-03-01T13:00:00Z"}, "too_old", "400 are allowed"),
        ({"timestamp": "2026-03-01T10:07:00Z"}, "misaligned", "send 2026-03-01T10:00:00Z or 2026-03-01T11:00:00Z"),
    ],
)
def test_a_faulty_field_is_refused_with_its_reason(change: dict[str, object], reason: str, part: str) -> None:
    refused = refusal({**GOOD, **change})
    assert refused.reason == reason
    assert part in refused.detail


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "bad_json"),
        (b"{", "bad_json"),
        (b"\xff\xfe", "bad_json"),
        (b'{"timestamp": 1, "value": NaN, "unit": "kWh"}', "not_finite"),
        (b"[]", "bad_payload"),
        (b"[[" * 50_000, "bad_payload"),
        (b"3", "bad_payload"),
        (b" " * 262_145, "too_large"),
    ],
)
def test_a_payload_that_is_no_reading_is_refused(payload: bytes, reason: str) -> None:
    assert refusal(payload).reason == reason


@pytest.mark.parametrize(
    ("topic", "reason", "part"),
    [
        ("energy-cloud/seoul/smart-meter/NOBODY/consumption", "unknown_device", "register it first"),
        ("energy-cloud/seoul/smart-meter/SM-H01/colour", "unknown_metric", "it has consumption"),
        ("energy-cloud/busan/smart-meter/SM-H01/consumption", "topic_mismatch", f"publish on {HOME}"),
        ("energy-cloud/seoul/battery/SM-H01/consumption", "topic_mismatch", f"publish on {HOME}"),
        ("energy-cloud/seoul", "bad_topic", "{region}/{deviceType}"),
        ("energy-cloud/seoul/smart-meter//consumption", "bad_topic", "{region}/{deviceType}"),
        ("energy-cloud/seoul/smart-meter/a\x00b/consumption", "bad_topic", "\\x00"),
    ],
)
def test_a_topic_that_is_nobodys_is_refused(topic: str, reason: str, part: str) -> None:
    refused = refusal(GOOD, topic)
    assert refused.reason == reason
    assert part in refused.detail


def test_control_topics_carry_no_readings() -> None:
    assert decode(b"whatever", "energy-cloud/seoul/battery/BAT-001/command") == ([], [])


def test_states_and_series_without_a_role_take_any_instant() -> None:
    odd = {**GOOD, "timestamp": "2026-03-01T10:07:31.250Z"}
    assert decode(odd, "energy-cloud/seoul/smart-meter/SM-001/consumption").rows[0].ts.minute == 7
    assert decode({**odd, "unit": "1"}, "energy-cloud/seoul/battery/BAT-001/soc").rows[0].ts.minute == 7


def test_receipt_is_believed_only_in_a_replay() -> None:
    replayed = {**GOOD, "timestamp": "2014-07-01T00:00:00Z", "receivedAt": "2014-07-01T01:00:05Z"}
    assert refusal(replayed).reason == "too_old"
    (row,) = decode(replayed, replay=True).rows
    assert row.received_at == datetime(2014, 7, 1, 1, 0, 5, tzinfo=UTC)
    assert decode(GOOD, replay=True).rows[0].received_at == NOW
    assert refusal({**replayed, "receivedAt": []}, replay=True).reason == "bad_payload"


def test_tolerances_are_inclusive() -> None:
    soon = (NOW + timedelta(seconds=300)).isoformat()
    assert decode({**GOOD, "timestamp": soon}, "energy-cloud/seoul/smart-meter/SM-001/consumption").rows


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
fields = st.fixed_dictionaries(
    {"timestamp": json_values, "value": json_values},
    optional={"unit": json_values | st.sampled_from(["kWh", "%"]), "quality": json_values, "receivedAt": json_values},
)


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=300)
    | fields.map(lambda item: json.dumps(item).encode())
    | st.lists(fields, max_size=3).map(lambda items: json.dumps(items).encode()),
    st.booleans(),
)
def test_any_bytes_either_decode_or_are_refused(payload: bytes, replay: bool) -> None:
    rows, rejected = decode(payload, replay=replay)
    assert rows or rejected
    assert all(math.isfinite(row.value) and row.ts.tzinfo is UTC for row in rows)
    assert all(each.reason and "\x00" not in each.detail for each in rejected)
    with suppress(Rejected):
        assert decode_payload(payload, 200)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_any_topic_either_parses_or_is_refused(topic: str) -> None:
    with suppress(Rejected):
        assert str(parse_topic(topic)) == topic


@given(st.floats(-1e9, 1e9), st.sampled_from(["W", "kW", "MW"]), st.sampled_from(["W", "kW", "MW"]))
def test_conversion_there_and_back_is_the_same(value: float, unit: str, target: str) -> None:
    assert convert(convert(value, unit, target), target, unit) == pytest.approx(value, rel=1e-12, abs=1e-9)


def test_whole_watt_hours_are_exact() -> None:
    assert convert(1500, "Wh", "kWh") == 1.5
    assert convert(3, "MWh", "kWh") == 3000


def test_decoding_is_typed_not_guessed() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"timestamp": [], "value": 1, "unit": "kWh"}', type=readings.decode.Payload)


times = st.integers(-40_000_000, 1_000).map(lambda seconds: NOW + timedelta(seconds=seconds)) | st.sampled_from(
    [TS, TS.astimezone(timezone(timedelta(hours=9))), NOW + timedelta(seconds=300), NOW - timedelta(days=400)]
)
spelled = times.map(lambda ts: ts.isoformat().replace("+00:00", "Z")) | times.map(lambda ts: ts.astimezone(UTC).hour)
items = st.builds(
    Payload,
    timestamp=spelled | st.floats(allow_nan=False) | st.sampled_from(["", "Z", "2026-03-01Z", "20260301T11Z", "1Z"]),
    value=st.floats() | st.text(max_size=3) | st.just("1.5"),
    unit=st.sampled_from(["kWh", "Wh", "kW", "%", "1", "furlong"]),
    quality=st.sampled_from(["high", "medium", "low", "bad", "odd", ""]),
    received_at=st.none() | st.just(TS.isoformat()) | st.just("never"),
)


@settings(max_examples=100, deadline=None)
@given(items, st.sampled_from(list(SERIES.values())), st.booleans())
def test_the_usual_reading_comes_to_the_same_on_the_short_way(item: Payload, info: SeriesInfo, replay: bool) -> None:
    rules = Rules(replay=replay)
    short = usual_row(item, info, NOW, rules, "mqtt")
    try:
        long: ReadingRow | None = careful_row(item, info, NOW, rules, "mqtt")
    except Rejected:
        long = None
    assert short is None or short == long
    if long is not None and isinstance(item.timestamp, str) and item.timestamp.endswith("Z"):
        plain = isinstance(item.value, float) and item.unit == info.unit and (item.received_at is None or not replay)
        assert (short is not None) == plain


def test_an_array_of_garbage_is_not_looked_at_for_ever() -> None:
    assert refusal(b"[" + b"1," * MOST_READINGS + b"1]").reason == "too_large"
    assert len(decode(b"[" + b"1," * (MOST_READINGS - 1) + b"1]").rejected) == MOST_READINGS
