from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from energy_cloud_dagster.adapters import readings, registry
from energy_cloud_dagster.adapters.readings import ReadingRow, RejectRow, Stored
from energy_cloud_dagster.adapters.tables import device, reading, series
from energy_cloud_dagster.sample_data.community import community

START = datetime(2031, 5, 1, tzinfo=UTC)
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


@pytest.fixture
def meter(connection: sa.Connection) -> int:
    registry.seed(connection, community(), START)
    return readings.series_ids(connection)["SM-H01", "consumption"].series_id


@pytest.fixture
def committed_series(engine: sa.Engine) -> Iterator[list[int]]:
    """Series of their own for tests that commit; their readings are removed again."""
    ids = [910_001, 910_002, 910_003]
    yield ids
    with engine.begin() as connection:
        connection.execute(sa.delete(reading).where(reading.c.series_id.in_(ids)))


def row(series_id: int, hour: int = 0, value: float = 1.0, quality: str = "high", late: int = 0) -> ReadingRow:
    ts = START + timedelta(hours=hour)
    return ReadingRow(series_id, ts, value, quality, ts + timedelta(hours=1, seconds=5 + late), "mqtt")


def revisions(connection: sa.Connection, series_id: int) -> list[tuple[int, float, str]]:
    statement = (
        sa.select(reading.c.revision, reading.c.value, reading.c.quality)
        .where(reading.c.series_id == series_id)
        .order_by(reading.c.ts, reading.c.revision)
    )
    return [tuple(each) for each in connection.execute(statement)]


def test_new_rows_then_the_same_again(connection: sa.Connection, meter: int) -> None:
    rows = [row(meter, hour, hour / 10) for hour in range(48)]
    assert readings.store(connection, rows) == Stored(48, 0, 0)
    assert readings.store(connection, rows) == Stored(0, 0, 48)
    assert readings.store(connection, []) == Stored(0, 0, 0)


def test_a_correction_and_a_return_to_an_older_value_are_revisions(connection: sa.Connection, meter: int) -> None:
    for value, quality in [(1.0, "high"), (2.0, "high"), (1.0, "high"), (1.0, "low")]:
        readings.store(connection, [row(meter, value=value, quality=quality)])
    assert revisions(connection, meter) == [(1, 1.0, "high"), (2, 2.0, "high"), (3, 1.0, "high"), (4, 1.0, "low")]


def test_one_call_may_repeat_and_correct_itself(connection: sa.Connection, meter: int) -> None:
    values = [1.0, 1.0, 2.0, 2.0, 1.0]
    assert readings.store(connection, [row(meter, value=value) for value in values]) == Stored(1, 2, 2)
    assert [value for _, value, _ in revisions(connection, meter)] == [1.0, 2.0, 1.0]


def test_readings_are_answered_as_known_at_a_time(connection: sa.Connection, meter: int) -> None:
    readings.store(connection, [row(meter, 0, 1.0), row(meter, 1, 5.0)])
    readings.store(connection, [row(meter, 0, 3.0, late=7200)])

    def known(as_of: datetime | None) -> list[tuple[float, int]]:
        found = readings.rows_between(
            connection, START, START + timedelta(hours=2), as_of=as_of, region_id="seoul", roles=["load"]
        )
        assert {each.device_id for each in found} <= {"SM-H01"}
        return [(each.value, each.revision) for each in found]

    assert known(START + timedelta(hours=1)) == []
    assert known(START + timedelta(hours=1, minutes=5)) == [(1.0, 1)]
    assert known(START + timedelta(hours=2, minutes=5)) == [(1.0, 1), (5.0, 1)]
    assert known(None) == [(3.0, 2), (5.0, 1)]


def test_latest_reading_of_a_series(connection: sa.Connection, meter: int) -> None:
    readings.store(connection, [row(meter, hour, float(hour)) for hour in range(3)])
    newest = readings.latest(
        connection, "SM-H01", "consumption", as_of=START + timedelta(hours=2, minutes=5), not_before=START
    )
    assert newest is not None
    assert (newest.value, newest.unit, newest.kind, newest.role) == (1.0, "kWh", "energy", "load")
    assert readings.latest(connection, "SM-H01", "consumption", as_of=START, not_before=START) is None


def test_day_partitions_appear_as_needed_and_are_pruned(connection: sa.Connection, meter: int) -> None:
    rows = [row(meter, 24 * day) for day in range(3)]
    readings.store(connection, rows)
    names = connection.execute(
        sa.text("select distinct tableoid::regclass::text from raw.reading where series_id = :id order by 1"),
        {"id": meter},
    ).scalars()
    assert list(names) == ["raw.reading_2031_05_01", "raw.reading_2031_05_02", "raw.reading_2031_05_03"]
    plan = connection.execute(
        sa.text("explain select * from raw.reading where ts >= '2031-05-02Z' and ts < '2031-05-03Z'")
    ).scalars()
    scanned = " ".join(plan)
    assert "reading_2031_05_02" in scanned
    assert "reading_2031_05_01" not in scanned


def test_concurrent_workers_store_each_reading_once(engine: sa.Engine, committed_series: list[int]) -> None:
    rows = [row(series_id, hour) for series_id in committed_series for hour in range(240, 288)]
    start = threading.Barrier(4)

    def work(turn: int) -> Stored:
        # Each worker sends the rows in an order of its own: they must not wait for each other in a ring.
        mine = rows[turn * 20 :] + rows[: turn * 20]
        start.wait()
        with engine.begin() as connection:
            return readings.store(connection, mine)

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(work, range(4)))
    assert sum(each.inserted for each in done) == len(rows)
    assert sum(each.revisions for each in done) == 0
    assert sum(each.duplicates for each in done) == 3 * len(rows)


def test_concurrent_corrections_get_revisions_of_their_own(engine: sa.Engine, committed_series: list[int]) -> None:
    start = threading.Barrier(4)

    def work(turn: int) -> Stored:
        start.wait()
        with engine.begin() as connection:
            return readings.store(connection, [row(series_id, 300, float(turn)) for series_id in committed_series])

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(work, range(4)))
    assert sum(each.inserted for each in done) == 3
    assert sum(each.revisions for each in done) == 9
    with engine.connect() as connection:
        for series_id in committed_series:
            found = revisions(connection, series_id)
            assert [number for number, _, _ in found] == [1, 2, 3, 4]
            assert {value for _, value, _ in found} == {0.0, 1.0, 2.0, 3.0}


def test_workers_may_need_the_same_new_day(engine: sa.Engine) -> None:
    day = date(2032, 2, 29)
    start = threading.Barrier(4)

    def work(_: int) -> None:
        start.wait()
        with engine.begin() as connection:
            readings.ensure_days(connection, [day])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    with engine.connect() as connection:
        assert connection.execute(sa.text("select to_regclass('raw.reading_2032_02_29')")).scalar_one()


def test_listeners_hear_once_of_what_was_stored(
    engine: sa.Engine, database_url: str, committed_series: list[int]
) -> None:
    with psycopg.connect(database_url, autocommit=True) as listener:
        listener.execute(f"listen {readings.CHANNEL}")
        with engine.begin() as connection:
            readings.store(connection, [row(series_id, 400) for series_id in committed_series])
        (heard,) = listener.notifies(timeout=10, stop_after=1)
    news = json.loads(heard.payload)
    ts = START + timedelta(hours=400)
    received = (ts + timedelta(hours=1, seconds=5)).isoformat()
    assert news == {
        "rows": 3,
        "series": 3,
        "from": ts.isoformat(),
        "to": ts.isoformat(),
        "receivedFrom": received,
        "receivedTo": received,
    }


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ts=st.integers(-315_000_000_000_000, 946_000_000_000_000).map(lambda us: EPOCH + timedelta(microseconds=us)),
    value=st.floats(allow_nan=False, allow_infinity=False),
    quality=st.sampled_from(["high", "medium", "low", "bad"]),
    source=st.sampled_from(["mqtt", "rest", "história"]),
)
def test_a_row_comes_back_as_it_was_stored(
    connection: sa.Connection, meter: int, ts: datetime, value: float, quality: str, source: str
) -> None:
    given_row = ReadingRow(meter, ts, value, quality, ts + timedelta(microseconds=1), source)
    with connection.begin_nested() as nested:
        assert readings.store(connection, [given_row]) == Stored(1, 0, 0)
        columns = [reading.c[name] for name in ReadingRow._fields]
        found = connection.execute(sa.select(*columns).where(reading.c.series_id == meter, reading.c.ts == ts)).one()
        nested.rollback()
    assert ReadingRow._make(found) == given_row


def test_rejects_are_kept_and_counted(connection: sa.Connection) -> None:
    since = datetime(2040, 1, 1, tzinfo=UTC)
    kept = readings.reject(
        connection,
        [
            RejectRow(since, "mqtt", "a/\x00b", b"\x00\xff", "bad_json", "no \ud800 JSON"),
            RejectRow(since, "mqtt", "a", b"", "bad_json", "empty"),
            RejectRow(since, "opcua", "ns=2;s=x", b"{}", "bad_status", "BadNoData"),
        ],
    )
    assert kept == 3
    assert readings.reject(connection, []) == 0
    assert readings.rejects_by_reason(connection, since) == {"bad_json": 2, "bad_status": 1}
    assert readings.rejects_by_reason(connection)["bad_json"] >= 2


def test_series_of_some_devices(connection: sa.Connection, meter: int) -> None:
    some = readings.series_ids(connection, ["BAT-001"])
    assert {device_id for device_id, _ in some} == {"BAT-001"}
    assert {("BAT-001", "soc"), ("BAT-001", "output")} <= set(some)
    info = some["BAT-001", "output"]
    assert (info.unit, info.kind, info.interval_minutes, info.region_id) == ("kW", "power", 15, "seoul")
    assert (
        len(readings.series_ids(connection))
        >= connection.execute(sa.select(sa.func.count()).select_from(series.join(device))).scalar_one()
    )
