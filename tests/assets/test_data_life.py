"""The three assets, night after night, on a database of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
import sqlalchemy as sa

from energy_cloud_dagster.adapters import archive, partitions, readings
from energy_cloud_dagster.adapters.tables import rejected, request
from energy_cloud_dagster.assets import data_life
from energy_cloud_dagster.domain.readings import ReadingRow
from energy_cloud_dagster.resources import Database

if TYPE_CHECKING:
    from energy_cloud_dagster.embedded.postgres import EmbeddedPostgres

DAY = date(2026, 3, 10)
ASSETS = ("reading_partitions", "reading_archive", "reading_retention")


@pytest.fixture(scope="module")
def url(postgres: EmbeddedPostgres) -> str:
    from energy_cloud_dagster.adapters.database import upgrade

    postgres.ensure_database("ec_data_life")
    found = postgres.url("ec_data_life")
    upgrade(found)
    return found


@pytest.fixture
def engine(url: str) -> Iterator[sa.Engine]:
    from energy_cloud_dagster.adapters.database import make_engine

    made = make_engine(url)
    yield made
    with made.begin() as connection:
        connection.exec_driver_sql("delete from raw.archived_day; delete from raw.rejected; delete from raw.request")
        for one in partitions.tables(connection):
            partitions.drop(connection, one)
    made.dispose()


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def night(
    engine: sa.Engine, url: str, instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, dict[str, Any]]]:
    """Run the job for the night after a day; return the metadata of each asset, ``error`` where one failed."""
    monkeypatch.setenv("ENERGY_CLOUD_HOME", str(tmp_path))

    def run(day: date, **settings: object) -> dict[str, dict[str, Any]]:
        for name, value in settings.items():
            monkeypatch.setenv(f"ENERGY_CLOUD_{name.upper()}", str(value))
        made = dg.materialize(
            data_life.DATA_LIFE,
            instance=instance,
            partition_key=str(day),
            resources={"database": Database(url=url)},
            raise_on_error=False,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
        found: dict[str, dict[str, Any]] = {}
        for name in ASSETS:
            for one in made.asset_materializations_for_node(name):
                found[name] = {key: value.value for key, value in one.metadata.items()}
                found[name]["version"] = (one.tags or {})["dagster/data_version"]
        for event in made.all_events:
            if event.is_step_failure:
                found[str(event.step_key)] = {"error": event.step_failure_data.user_failure_data.description}
        return found

    return run


def reading(day: date, hour: int, series: int = 1, value: float = 1.0) -> ReadingRow:
    ts = datetime(day.year, day.month, day.day, hour, tzinfo=UTC)
    return ReadingRow(series, ts, value, "high", ts + timedelta(hours=1), "mqtt")


def put(engine: sa.Engine, *rows: ReadingRow) -> None:
    with engine.begin() as connection:
        readings.store(connection, rows)


def days(engine: sa.Engine) -> list[date]:
    with engine.begin() as connection:
        return [one.day for one in partitions.attached(connection)]


def count(engine: sa.Engine) -> int:
    with engine.begin() as connection:
        return int(connection.exec_driver_sql("select count(*) from raw.reading").scalar_one())


def back(count: int) -> date:
    return DAY - timedelta(days=count)


def test_days_are_made_ahead_and_gaps_filled(
    engine: sa.Engine, night: Callable[..., dict[str, dict[str, Any]]]
) -> None:
    put(engine, reading(back(3), 1), reading(back(90), 1))
    made = night(DAY, partition_days_ahead=2)["reading_partitions"]
    assert days(engine) == [back(90), *(back(index) for index in range(30, -4, -1))]
    assert made["last_day"] == "2026-03-13"
    assert made["made"] == "2026-02-08 to 2026-03-06, 2026-03-08 to 2026-03-13"
    assert made["dagster/row_count"] == 35
    again = night(DAY)["reading_partitions"]
    assert (again["made"], again["version"]) == ("none", made["version"])


def test_a_day_is_archived_two_days_after_its_end_and_kept_without_the_setting(
    engine: sa.Engine, night: Callable[..., dict[str, dict[str, Any]]], tmp_path: Path
) -> None:
    for index in range(4):
        put(engine, *(reading(back(index), hour) for hour in range(5)))
    found = night(DAY)
    assert found["reading_archive"]["days"] == "2026-03-07 to 2026-03-08"
    assert found["reading_archive"]["rows"] == 10
    assert found["reading_archive"]["bytes"] == sum(
        path.stat().st_size for path in (tmp_path / "archive").rglob("*.parquet")
    )
    assert found["reading_archive"]["digest"] == found["reading_archive"]["version"]
    assert found["reading_retention"]["rule"] == "ENERGY_CLOUD_RETENTION_DAYS is not set: every day is kept"
    assert found["reading_retention"]["dropped_in_all"] == "none"
    assert count(engine) == 20
    again = night(DAY)["reading_archive"]
    assert (again["days"], again["rows"], again["archived_rows"]) == ("none", 0, 10)
    assert again["version"] == found["reading_archive"]["version"]


def test_retention_drops_what_is_archived_and_old_and_nothing_else(
    engine: sa.Engine, night: Callable[..., dict[str, dict[str, Any]]], tmp_path: Path
) -> None:
    for index in (0, 3, 5, 9, 10):
        put(engine, reading(back(index), 3, value=index))
    with engine.begin() as connection:
        connection.execute(
            sa.insert(rejected),
            [
                {"received_at": at, "source": "mqtt", "topic": "t", "payload": b"", "reason": "r", "detail": "d"}
                for at in (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 3, 10, tzinfo=UTC))
            ],
        )
        connection.execute(
            sa.insert(request),
            [
                {"caller": "c", "idempotency_key": key, "digest": "", "status": 201, "answer": b"", "created_at": at}
                for key, at in (
                    ("old", datetime(2026, 3, 3, 23, tzinfo=UTC)),
                    ("new", datetime(2026, 3, 4, 1, tzinfo=UTC)),
                )
            ],
        )
    first = night(DAY)["reading_retention"]
    assert (first["requests_removed"], first["rejected_removed"]) == (1, 0)
    found = night(DAY, retention_days=6)["reading_retention"]
    assert found["days_dropped"] == "2026-02-28 to 2026-03-01"
    assert found["days_empty"] == "2026-03-02 to 2026-03-04", "days that nothing came for go as well"
    assert found["rejected_removed"] == 1
    assert found["dropped_in_all"] == "2026-02-28 to 2026-03-01"
    assert min(days(engine)) == back(5)
    assert count(engine) == 3
    again = night(DAY)
    assert again["reading_partitions"]["made"] == "none", "dropped days are not made again"
    assert "days_dropped" not in again["reading_retention"]


def test_a_correction_of_a_dropped_day_ends_in_the_archive(
    engine: sa.Engine, night: Callable[..., dict[str, dict[str, Any]]], tmp_path: Path
) -> None:
    put(engine, reading(back(10), 3, value=1.0))
    night(DAY, retention_days=6)
    assert count(engine) == 0
    put(engine, reading(back(10), 3, value=2.0))
    found = night(DAY + timedelta(days=1))
    assert found["reading_archive"]["days"] == "2026-02-28"
    assert found["reading_archive"]["rows"] == 2
    assert found["reading_retention"]["days_dropped"] == "2026-02-28"
    assert [path.name for path in (tmp_path / "archive").rglob("*.*")] == ["readings-2026-02-28-r0002.parquet"]
    with engine.begin() as connection:
        archive.restore(connection, archive.ArchiveStore.open("", tmp_path), back(10))
        revisions = connection.exec_driver_sql("select revision, value from raw.reading order by revision")
        assert [tuple(row) for row in revisions] == [(1, 1.0), (2, 2.0)]


def test_a_damaged_archive_keeps_the_day_in_the_database(
    engine: sa.Engine, night: Callable[..., dict[str, dict[str, Any]]], tmp_path: Path
) -> None:
    put(engine, reading(back(10), 3), reading(back(9), 3))
    night(DAY)
    damaged, missing = sorted((tmp_path / "archive").rglob("*.parquet"))
    damaged.write_bytes(damaged.read_bytes() + b"x")
    missing.unlink()
    found = night(DAY, retention_days=6)["reading_retention"]
    assert found["days_kept"] == "2026-02-28 to 2026-03-01"
    assert count(engine) == 2


def test_a_day_that_lost_rows_stops_the_archive_by_name_and_retention_with_it(
    engine: sa.Engine, night: Callable[..., dict[str, dict[str, Any]]], tmp_path: Path
) -> None:
    put(engine, reading(back(10), 3), reading(back(10), 4), reading(back(9), 3))
    night(DAY)
    with engine.begin() as connection:
        connection.exec_driver_sql("delete from raw.reading where ts = '2026-02-28 04:00Z'")
    found = night(DAY, retention_days=6)
    assert "2026-02-28: fewer rows in the database than in the archive" in found["reading_archive"]["error"]
    assert "reading_retention" not in found
    assert count(engine) == 2
    with engine.begin() as connection:
        archive.restore(connection, archive.ArchiveStore.open("", tmp_path), back(10))
    assert count(engine) == 3
    assert "error" not in night(DAY)["reading_archive"]


def test_a_day_whose_file_is_gone_is_named_when_readings_come_for_it(
    engine: sa.Engine, night: Callable[..., dict[str, dict[str, Any]]], tmp_path: Path
) -> None:
    put(engine, reading(back(10), 3))
    night(DAY, retention_days=6)
    put(engine, reading(back(10), 4), reading(back(9), 4))
    for path in (tmp_path / "archive").rglob("*.parquet"):
        path.unlink()
    found = night(DAY)
    assert found["reading_archive"]["error"].startswith("1 day(s) were not archived; 2026-02-28: there is no file")
    assert count(engine) == 2
    with engine.begin() as connection:
        assert [one.day for one in archive.archived(connection) if not one.dropped_at] == [back(9)]


def test_what_an_interrupted_night_left_is_finished_by_the_next(
    engine: sa.Engine, night: Callable[..., dict[str, dict[str, Any]]], url: str
) -> None:
    put(engine, reading(back(10), 3))
    night(DAY)
    with engine.begin() as connection:
        out = next(one for one in partitions.attached(connection) if one.day == back(10))
    with Database(url=url).autocommit() as connection:
        partitions.detach(connection, out)
    found = night(DAY, retention_days=6)
    assert found["reading_partitions"]["left_and_dropped"] == "2026-02-28"
    assert found["reading_retention"]["dropped_in_all"] == "2026-02-28"
    with engine.begin() as connection:
        assert [one for one in partitions.tables(connection) if not one.attached] == []


def test_a_hypertable_is_left_to_timescaledb(
    engine: sa.Engine, night: Callable[..., dict[str, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "is_partitioned", lambda _: False)
    found = night(DAY, retention_days=6)
    assert found["reading_partitions"]["version"] == "hypertable"
    assert "not archived" in found["reading_archive"]["rule"]
    assert "TimescaleDB's own" in found["reading_retention"]["rule"]


def test_pyarrow_is_not_paid_for_by_whoever_loads_the_definitions() -> None:
    found = "import sys, energy_cloud_dagster.assets.data_life; print('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", found], check=True, capture_output=True).stdout == b"False\n"


def test_the_schedule_asks_for_the_night_of_the_day_that_has_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from energy_cloud_dagster import schedules

    at = datetime(2026, 3, 11, 2, 30, tzinfo=UTC)
    with (
        dg.DagsterInstance.local_temp(str(tmp_path)) as instance,
        dg.build_schedule_context(instance=instance, scheduled_execution_time=at) as context,
    ):
        asked = schedules.data_life_daily(context)
        assert isinstance(asked, dg.RunRequest)
        assert (asked.partition_key, asked.run_key) == ("2026-03-10", "data-life-2026-03-10")
        monkeypatch.setattr(schedules, "working", lambda *_: True)
        assert isinstance(schedules.data_life_daily(context), dg.SkipReason)
