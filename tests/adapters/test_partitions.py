"""Days are made and taken out while readers and writers go on; late readings of a day that leaves find a place."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import psycopg
import pytest
import sqlalchemy as sa

from energy_cloud_dagster.adapters import archive, partitions, readings
from energy_cloud_dagster.adapters.archive import ArchiveStore
from energy_cloud_dagster.domain.errors import Conflict
from energy_cloud_dagster.domain.readings import ReadingRow

if TYPE_CHECKING:
    from pathlib import Path

    from energy_cloud_dagster.embedded.postgres import EmbeddedPostgres

DAY, OTHER, NEW = date(2026, 3, 1), date(2026, 3, 2), date(2026, 3, 3)
#: Whoever needs longer than this for a lock was blocked.
IMPATIENT = "set lock_timeout to '250ms'"


@pytest.fixture(scope="module")
def url(postgres: EmbeddedPostgres) -> str:
    from energy_cloud_dagster.adapters.database import upgrade

    postgres.ensure_database("ec_partitions")
    found = postgres.url("ec_partitions")
    upgrade(found)
    return found


@pytest.fixture
def engine(url: str) -> Iterator[sa.Engine]:
    """Two days with a reading each."""
    from energy_cloud_dagster.adapters.database import make_engine

    made = make_engine(url)
    with made.begin() as connection:
        readings.store(connection, [reading(DAY), reading(OTHER)])
    yield made
    with made.begin() as connection:
        connection.exec_driver_sql("delete from raw.archived_day")
        for one in partitions.tables(connection):
            partitions.drop(connection, one)
    made.dispose()


@pytest.fixture
def impatient(url: str) -> Iterator[psycopg.Connection]:
    """A client in autocommit whose statements fail rather than wait for a lock."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(IMPATIENT)
        yield connection


def reading(day: date, series: int = 1, value: float = 1.0, late: int = 0) -> ReadingRow:
    ts = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    return ReadingRow(series, ts, value, "high", ts + timedelta(hours=1, seconds=late), "mqtt")


INSERT = "insert into raw.reading values (5, %s, 1, 2.0, 'high', now(), 'mqtt')"


def tables(engine: sa.Engine) -> list[partitions.DayTable]:
    with engine.begin() as connection:
        return partitions.tables(connection)


def of_day(engine: sa.Engine, day: date = DAY) -> partitions.DayTable:
    return next(one for one in tables(engine) if one.day == day)


def detach(engine: sa.Engine, found: partitions.DayTable) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        partitions.detach(connection, found)


def retire(engine: sa.Engine, found: partitions.DayTable) -> str:
    with engine.begin() as connection:
        return archive.retire(connection, found)


def values(engine: sa.Engine) -> set[tuple[int, str, int, float]]:
    with engine.begin() as connection:
        rows = connection.exec_driver_sql("select series_id, ts::date::text, revision, value from raw.reading")
        return {(row[0], row[1], row[2], row[3]) for row in rows}


def test_days_are_listed_with_what_they_take(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        assert partitions.is_partitioned(connection)
        connection.exec_driver_sql("create table raw.reading_of_something_else (x int)")
        found = partitions.attached(connection)
        connection.exec_driver_sql("drop table raw.reading_of_something_else")
    assert [(one.day, one.table, one.attached, one.detaching) for one in found] == [
        (DAY, "reading_2026_03_01", True, False),
        (OTHER, "reading_2026_03_02", True, False),
    ]
    assert all(one.bytes > 0 for one in found)


def test_a_day_is_made_beside_open_readers_and_writers(engine: sa.Engine, impatient: psycopg.Connection) -> None:
    """Neither waits for the other, in either order; only two makers of days take turns."""
    with engine.connect() as reader, engine.connect() as writer:
        reader.exec_driver_sql("select count(*) from raw.reading")  # holds ACCESS SHARE on the table and every day
        writer.exec_driver_sql("insert into raw.reading values (9, '2026-03-01 01:00Z', 1, 2, 'high', now(), 'mqtt')")
        assert impatient.execute("select raw.ensure_reading_day(%s)", (NEW,)).fetchone() == (True,)
        assert impatient.execute("select raw.ensure_reading_day(%s)", (NEW,)).fetchone() == (False,)
        reader.rollback()
        writer.rollback()
    with engine.connect() as maker:
        assert partitions.make(maker, NEW + timedelta(days=1))  # and does not commit
        assert locks(maker) == {"ShareUpdateExclusiveLock"}
        assert impatient.execute("select count(*) from raw.reading where ts >= '2026-03-01'").fetchone() == (2,)
        impatient.execute(INSERT, (reading(OTHER).ts,))
        assert impatient.execute("select raw.ensure_reading_day(%s)", (DAY,)).fetchone() == (False,)
        with pytest.raises(psycopg.errors.LockNotAvailable):
            impatient.execute("select raw.ensure_reading_day(%s)", (NEW + timedelta(days=2),))
        maker.rollback()


def locks(connection: sa.Connection) -> set[str]:
    """Return the modes in which this transaction holds ``raw.reading``, those of any query left out."""
    found = connection.exec_driver_sql(
        "select mode from pg_locks where pid = pg_backend_pid() and relation = 'raw.reading'::regclass"
    )
    return {row[0] for row in found} - {"AccessShareLock", "RowExclusiveLock"}


def test_readers_and_writers_go_on_while_a_day_is_taken_out(engine: sa.Engine, impatient: psycopg.Connection) -> None:
    """The detach waits for a transaction that was open before; nobody waits for the detach."""
    with engine.connect() as reader, ThreadPoolExecutor(1) as pool:
        assert reader.exec_driver_sql("select count(*) from raw.reading").scalar() == 2
        going: Future[None] = pool.submit(detach, engine, of_day(engine))
        wait_until_waiting(impatient)
        assert impatient.execute("select count(*) from raw.reading").fetchone() == (1,), "a new query sees it gone"
        impatient.execute(INSERT, (reading(OTHER).ts,))
        assert reader.exec_driver_sql("select count(*) from raw.reading where series_id = 1").scalar() in (1, 2)
        assert not going.done()
        reader.rollback()
        going.result(timeout=20)
    assert [(one.attached, one.detaching) for one in tables(engine)] == [(False, False), (True, False)]


def wait_until_waiting(connection: psycopg.Connection) -> None:
    """Return once the detach has marked the day and waits for older transactions."""
    waiting = (
        "select 1 from pg_stat_activity where query like 'alter table raw.reading detach%' and wait_event_type = 'Lock'"
    )
    for _ in range(400):
        if connection.execute(waiting).fetchone():
            return
        threading.Event().wait(0.02)
    raise AssertionError("the detach did not begin")


def test_a_late_reading_of_a_day_that_is_out_finds_a_place_and_both_come_together(engine: sa.Engine) -> None:
    out = of_day(engine)
    detach(engine, out)
    with engine.begin() as connection:
        readings.store(connection, [reading(DAY, value=3.0, late=5), reading(DAY, series=2)])
    assert {one.attached for one in tables(engine) if one.day == DAY} == {True, False}
    left = next(one for one in tables(engine) if one.day == DAY and not one.attached)
    assert left.table.startswith("reading_2026_03_01_left_")
    assert retire(engine, left) == "returned", "it was never archived"
    assert values(engine) == {
        (1, "2026-03-01", 1, 1.0),
        (1, "2026-03-01", 2, 3.0),
        (2, "2026-03-01", 1, 1.0),
        (1, "2026-03-02", 1, 1.0),
    }
    assert len(tables(engine)) == 2


def test_an_interrupted_detach_is_finished_by_the_next_run(
    engine: sa.Engine, impatient: psycopg.Connection, tmp_path: Path
) -> None:
    archive_of(engine, tmp_path)
    interrupt_detach(engine, impatient)
    found = of_day(engine)
    assert (found.attached, found.detaching) == (False, True)
    detach(engine, found)
    assert retire(engine, found) == "dropped"
    assert values(engine) == {(1, "2026-03-02", 1, 1.0)}


def test_a_late_reading_finishes_an_interrupted_detach(
    engine: sa.Engine, impatient: psycopg.Connection, tmp_path: Path
) -> None:
    archive_of(engine, tmp_path)
    interrupt_detach(engine, impatient)
    with engine.begin() as connection:
        readings.store(connection, [reading(DAY, series=2)])
    assert (2, "2026-03-01", 1, 1.0) in values(engine)
    left = next(one for one in tables(engine) if one.day == DAY and not one.attached)
    assert not left.detaching
    assert retire(engine, left) == "dropped", "the archive holds it; what came late is a new day on top"
    with engine.begin() as connection:
        assert [one.state for one in archive.states(connection, DAY)] == ["returned"]


def archive_of(engine: sa.Engine, folder: Path) -> None:
    with engine.begin() as connection:
        archive.write(connection, ArchiveStore.open("", folder), DAY)


def interrupt_detach(engine: sa.Engine, impatient: psycopg.Connection) -> None:
    with engine.connect() as reader, ThreadPoolExecutor(1) as pool:
        reader.exec_driver_sql("select count(*) from raw.reading")
        going = pool.submit(detach, engine, of_day(engine))
        wait_until_waiting(impatient)
        impatient.execute(
            "select pg_cancel_backend(pid) from pg_stat_activity where query like 'alter table raw.reading detach%'"
        )
        with pytest.raises(Conflict, match="the next run goes on"):
            going.result(timeout=20)
        reader.rollback()


def test_a_reading_that_comes_while_a_day_is_being_taken_out_waits_and_is_stored(
    engine: sa.Engine, impatient: psycopg.Connection, tmp_path: Path
) -> None:
    archive_of(engine, tmp_path)
    out = of_day(engine)

    def store() -> None:
        with engine.begin() as connection:
            readings.store(connection, [reading(DAY, series=2)])

    with engine.connect() as reader, ThreadPoolExecutor(2) as pool:
        reader.exec_driver_sql("select count(*) from raw.reading")
        going = pool.submit(detach, engine, out)
        wait_until_waiting(impatient)
        late = pool.submit(store)
        wait_for_finalize(impatient)
        reader.rollback()
        outcomes = [one.exception(timeout=20) for one in (going, late)]
    if outcomes[1] is not None:  # the two met: whoever lost asks again, as workers do
        store()
    for one in tables(engine):
        if not one.attached:
            if one.detaching:
                detach(engine, one)
            assert retire(engine, one) == "dropped"
    assert values(engine) == {(2, "2026-03-01", 1, 1.0), (1, "2026-03-02", 1, 1.0)}


def wait_for_finalize(connection: psycopg.Connection) -> None:
    waiting = (
        "select 1 from pg_stat_activity where query like '%%ensure_reading_day%%' and wait_event_type = 'Lock'"
        " and pid <> pg_backend_pid()"
    )
    for _ in range(100):
        if connection.execute(waiting).fetchone():
            return
        threading.Event().wait(0.02)
