"""A fleet of any size, and how it is played to a real broker."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from energy_cloud_dagster import sample_data
from energy_cloud_dagster.adapters import readings, registry
from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.sample_data.community import HOMES, community
from energy_cloud_dagster.services.fleet_faults import REGISTER, Faults, faulty
from energy_cloud_dagster.services.mqtt_fleet import FleetClient
from energy_cloud_dagster.services.replaying import AT_ONCE, play, speed_up_of
from energy_cloud_dagster.services.simulator import MAX_LATENCY
from energy_cloud_dagster.services.synthetic_fleet import COUNTED_FROM, SyntheticFleet

if TYPE_CHECKING:
    from energy_cloud_dagster.embedded.broker import EmbeddedBroker
    from tests.services.conftest import Listen

START = datetime(2026, 3, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def test_messages_come_in_order_and_every_meter_says_every_hour() -> None:
    fleet = SyntheticFleet(50, 3, registers=True)
    heard = list(fleet.messages(START, START + DAY))
    assert heard == sorted(heard)
    assert len(heard) == fleet.count(START, START + DAY) == 50 * 24 * 2
    assert len({each[1:4] for each in heard}) == len(heard)
    assert all(timedelta(seconds=1) <= each.received_at - each.ts - HOUR <= MAX_LATENCY for each in heard)


def test_a_meter_depends_on_the_seed_and_its_id_alone() -> None:
    few, many = SyntheticFleet(5, 3, registers=True), SyntheticFleet(40, 3, registers=True)
    # Across the edge of a week, where messages are made in pieces.
    begin, end = START + 5 * DAY, START + 9 * DAY
    heard = list(few.messages(begin, end))
    assert heard == [each for each in many.messages(begin, end) if each.device_id in set(few.ids)]
    assert heard == [*few.messages(begin, START + 7 * DAY), *few.messages(START + 7 * DAY, end)]
    assert heard != list(SyntheticFleet(5, 4, registers=True).messages(begin, end))


def test_every_meter_replays_a_measured_home_weeks_later() -> None:
    fleet = SyntheticFleet(30, 3)
    homes = [sample_data.series(f"home_{home:02}/load_kwh", START - 60 * DAY, START + DAY) for home in HOMES]
    by_meter: dict[str, list[float]] = {}
    for message in fleet.messages(START, START + DAY):
        assert message.value is not None
        by_meter.setdefault(message.device_id, []).append(message.value)
    for values in by_meter.values():
        found = 0
        for home in homes:
            for weeks in range(8):
                shape = home[START - weeks * 7 * DAY : START + DAY - HOUR - weeks * 7 * DAY].to_numpy()
                scale = sum(values) / shape.sum()
                found += 0.59 < scale < 1.61 and abs(shape * scale - values).max() < 1e-5
        assert found == 1


def test_a_register_counts_what_was_consumed() -> None:
    heard = list(SyntheticFleet(8, 3, registers=True).messages(START, START + DAY))
    consumed = {(each.device_id, each.ts): each.value for each in heard if each.metric == "consumption"}
    counted = {(each.device_id, each.ts): each.value for each in heard if each.metric == REGISTER}
    for (device_id, ts), value in consumed.items():
        if ts + HOUR < START + DAY:
            assert counted[device_id, ts + HOUR] - counted[device_id, ts] == pytest.approx(value, abs=3e-6)  # type: ignore[operator]
    first = next(iter(SyntheticFleet(1, 3, registers=True).messages(COUNTED_FROM, COUNTED_FROM + HOUR)))
    register = list(SyntheticFleet(1, 3, registers=True).messages(COUNTED_FROM, first.ts + HOUR))[-1]
    assert (register.metric, register.value) == (REGISTER, 0.0)


def test_what_cannot_be_is_refused() -> None:
    for size in (0, 1_000_000):
        with pytest.raises(InvalidInput, match="devices"):
            SyntheticFleet(size)
    with pytest.raises(InvalidInput, match="2020"):
        next(SyntheticFleet(1, registers=True).messages(COUNTED_FROM - HOUR, START))
    assert SyntheticFleet(1).count(START, START) == 0
    assert list(SyntheticFleet(1).messages(START, START)) == []


def test_registered_meters_are_known_to_ingest(connection: sa.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("energy_cloud_dagster.services.synthetic_fleet._REGISTER_BATCH", 40)
    registry.seed(connection, community(), START)
    fleet = SyntheticFleet(100, registers=True)
    assert fleet.register(connection, START) == 3 * 100
    assert fleet.register(connection, START) == 0
    known = readings.series_ids(connection, ["SIM-000100"])
    assert {(metric, info.unit, info.kind, info.region_id, info.role) for (_, metric), info in known.items()} == {
        ("consumption", "kWh", "energy", "busan", None),
        (REGISTER, "kWh", "state", "busan", None),
    }


# -- played to a broker


def test_an_hour_of_a_thousand_meters_arrives_whole(broker: EmbeddedBroker, listen: Listen) -> None:
    fleet, told = SyntheticFleet(1_000, 11), list[int]()
    expected = Counter(each.topic for each in fleet.messages(START, START + HOUR))
    with listen() as listener, FleetClient(broker.url, broker.username, broker.password) as client:
        done = play(client, fleet.messages(START, START + HOUR), START, progress=told.append)
        heard = listener.wait_for(lambda number: number >= 1_000)
    assert Counter(topic for topic, _ in heard) == expected
    assert done.messages == told[-1] == len(heard) == 1_000


def test_faults_arrive_as_they_were_drawn(broker: EmbeddedBroker, listen: Listen) -> None:
    faults = Faults.parse("drop=0.2,lose=0.1,duplicate=0.1,reorder=0.3,stuck=0.1,spike=0.1,reset=0.5,skew=30")
    fleet = SyntheticFleet(20, 11, registers=True)

    def stream() -> list[tuple[str, dict[str, object]]]:
        lead = fleet.messages(START - faults.lead, START + 6 * HOUR)
        return [
            (each.topic, json.loads(each.payload(simulated_receipt=False)))
            for each in faulty(lead, faults, 11, since=START)
        ]

    expected = stream()
    with listen() as listener, FleetClient(broker.url, broker.username, broker.password) as client:
        lead = fleet.messages(START - faults.lead, START + 6 * HOUR)
        play(client, faulty(lead, faults, 11, since=START), START)
        assert listener.wait_for(lambda number: number >= len(expected)) == expected == stream()


def test_a_sped_up_replay_keeps_the_pace(broker: EmbeddedBroker) -> None:
    """Two hours, 7,200 times faster, last one second; nothing is sent before it is due."""
    fleet = SyntheticFleet(3, 11)
    due = [(each.received_at - START).total_seconds() / 7_200 for each in fleet.messages(START, START + 2 * HOUR)]
    began, came = time.monotonic(), list[float]()
    with FleetClient(broker.url, broker.username, broker.password) as client:
        timed = client.publish
        client.publish = lambda topic, payload: (came.append(time.monotonic() - began), timed(topic, payload))[1]  # type: ignore[method-assign]
        play(client, fleet.messages(START, START + 2 * HOUR), START, speed_up=7_200)
    assert len(came) == len(due) == 6
    assert all(actual >= planned for actual, planned in zip(came, due, strict=True))


def test_a_replay_can_be_stopped_while_it_waits(broker: EmbeddedBroker) -> None:
    stop = threading.Event()
    with FleetClient(broker.url, broker.username, broker.password) as client:
        timer = threading.Timer(0.2, stop.set)
        timer.start()
        done = play(client, SyntheticFleet(3).messages(START, START + HOUR), START, speed_up=1, stop=stop)
        timer.join()
    assert done.messages == 0
    assert done.seconds < 60


def test_speed_ups_are_read_or_refused() -> None:
    assert speed_up_of("max") == speed_up_of("0") == AT_ONCE
    assert speed_up_of("3600") == 3_600
    for text in ("-1", "fast", "nan"):
        with pytest.raises(InvalidInput, match="speed-up"):
            speed_up_of(text)
