import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energy_cloud_dagster import sample_data
from energy_cloud_dagster.domain.readings import SeriesInfo
from energy_cloud_dagster.sample_data.community import BATTERY_EFFICIENCY, BATTERY_KW, BATTERY_KWH, community
from energy_cloud_dagster.services import battery
from energy_cloud_dagster.services.simulator import (
    MAX_LATENCY,
    Message,
    count,
    history_rows,
    latencies,
    messages,
    received_between,
)

SEOUL = community()
START = datetime(2026, 3, 2, 15, tzinfo=UTC)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
DAYS = list(messages(SEOUL, START, START + 2 * DAY))
INTERVAL = {device.device_id: timedelta(minutes=device.interval_minutes) for device in SEOUL.devices}
MOMENTS = st.datetimes(datetime(2000, 1, 1), datetime(2060, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


def test_messages_come_in_order_of_receipt_shortly_after_their_interval() -> None:
    assert all(earlier[:3] <= later[:3] for earlier, later in pairwise(DAYS))
    for message in DAYS:
        latency = message.received_at - message.ts - INTERVAL[message.device_id]
        assert timedelta(seconds=1) <= latency <= MAX_LATENCY


def test_every_playing_series_says_every_interval_once() -> None:
    keys = [(message.device_id, message.metric, message.ts) for message in DAYS]
    assert len(keys) == len(set(keys))
    silent = {"SM-001", "SM-TEST-001"}
    assert len(keys) == sum(
        2 * DAY // INTERVAL[device.device_id] for device, _ in SEOUL.all_series() if device.device_id not in silent
    )
    assert not silent & {message.device_id for message in DAYS}


@settings(max_examples=15, deadline=None)
@given(MOMENTS, st.timedeltas(timedelta(0), 1.5 * DAY))
def test_a_span_is_the_sum_of_its_parts(start: datetime, length: timedelta) -> None:
    middle, end = start + length / 3, start + length
    parts = [*messages(SEOUL, start, middle), *messages(SEOUL, middle, end)]
    assert sorted(parts, key=lambda message: message[:4]) == sorted(
        messages(SEOUL, start, end), key=lambda message: message[:4]
    )


def test_by_receipt_nothing_is_skipped_or_said_twice() -> None:
    cuts = [START + n * timedelta(minutes=47, seconds=13) for n in range(20)]
    pieces = [message for after, until in pairwise(cuts) for message in received_between(SEOUL, after, until)]
    assert pieces == list(received_between(SEOUL, cuts[0], cuts[-1]))
    assert {message for message in DAYS if cuts[0] < message.received_at <= cuts[-1]} <= set(pieces)


def test_values_are_the_samples_scaled() -> None:
    by_key = {(message.device_id, message.metric, message.ts): message.value for message in DAYS}
    solar = sample_data.series("pv_w_per_kw", START, START + DAY)
    for ts, watts in solar.items():
        assert by_key["PV-VPP-001", "generation", ts] == pytest.approx(watts * 600 / 1000)
    for ts, load in sample_data.series("home_03/load_kwh", START, START + DAY).items():
        assert by_key["SM-H03", "consumption", ts] == load


def test_empty_readings_are_bad_in_scada_and_silent_over_mqtt() -> None:
    # The farm's autumn night, whose six intervals are absent: found as the span without values.
    night = next(
        day
        for day in (START + n * DAY for n in range(366))
        if len(sample_data.series("wind/R80711/active_power_kw", day, day + DAY)) < 144
    )
    said = list(messages(SEOUL, night, night + DAY, frozenset({"opcua"})))
    empty = [message for message in said if message.value is None]
    assert len(said) == 4 * 144
    assert empty
    assert {message.quality for message in empty} == {"bad"}
    assert count(SEOUL, night, night + DAY, frozenset({"opcua"})) == len(said) - len(empty)
    assert all(message.value is not None for message in messages(SEOUL, night, night + DAY, frozenset({"mqtt"})))


def test_topic_and_payload_are_those_of_the_standard() -> None:
    message = next(message for message in DAYS if message.device_id == "WX-SEOUL")
    assert message.topic == "energy-cloud/seoul/weather-station/WX-SEOUL/temperature"
    payload = json.loads(message.payload(simulated_receipt=True))
    assert payload == {
        "timestamp": message.ts.isoformat().replace("+00:00", "Z"),
        "value": message.value,
        "unit": "°C",
        "quality": "high",
        "receivedAt": message.received_at.isoformat().replace("+00:00", "Z"),
    }
    assert "receivedAt" not in json.loads(message.payload(simulated_receipt=False))


def test_history_equals_what_the_fleet_would_have_said() -> None:
    keys = [("WT-R80711", "output"), ("BAT-001", "soc"), ("PV-H10", "generation"), ("SM-001", "consumption")]
    known = {key: SeriesInfo(number, "", "", 0, "seoul", "") for number, key in enumerate(keys)}
    rows = history_rows(known, START, START + 2 * DAY)
    said: list[Message] = [message for message in DAYS if (message.device_id, message.metric) in known]
    assert {row[:5] for row in rows} == {
        (keys.index((m.device_id, m.metric)), m.ts, m.value, "high", m.received_at) for m in said if m.value is not None
    }
    assert {row.source for row in rows} == {"history"}
    assert len(rows) == len(set(rows))


def test_latencies_use_the_whole_range_and_differ_by_device() -> None:
    seconds = np.arange(0, 3_600 * 1_000, 3_600, dtype=np.int64)
    assert set(latencies("SM-H01", seconds).tolist()) == set(range(1, 21))
    assert latencies("SM-H01", seconds).tolist() != latencies("SM-H02", seconds).tolist()


@settings(max_examples=100, deadline=None)
@given(MOMENTS)
def test_the_battery_conserves_energy(moment: datetime) -> None:
    """What went in, less half the losses, is what is stored; and every local midnight finds it at the same state."""
    quarter = int(moment.timestamp()) // 900 * 900
    seconds = quarter + np.arange(97) * 900
    power, state = battery.output_kw(seconds, 15), battery.soc(seconds)
    one_way = BATTERY_EFFICIENCY**0.5
    stored = np.where(power < 0, -power * one_way, -power / one_way) / 4
    assert np.diff(state) * BATTERY_KWH == pytest.approx(stored[:-1], abs=1e-6)
    assert state[0] == pytest.approx(state[96])
    assert np.abs(power).max() <= BATTERY_KW
    assert ((state >= 0) & (state <= 1)).all()
    charged, discharged = -power[:96][power[:96] < 0].sum(), power[:96][power[:96] > 0].sum()
    assert discharged / charged == pytest.approx(BATTERY_EFFICIENCY)


def test_the_battery_charges_at_noon_and_discharges_in_the_evening() -> None:
    local = {hour: START + hour * HOUR for hour in range(24)}
    power = {hour: battery.output_kw(np.array([int(moment.timestamp())]), 60)[0] for hour, moment in local.items()}
    assert power[12] < 0 < power[19]
    assert power[3] == power[23] == 0
