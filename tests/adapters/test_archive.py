"""Days go to the archive whole or not at all, are dropped only when it holds them, and come back as they were."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.dataset
import pyarrow.parquet
import pytest
import sqlalchemy as sa

from energy_cloud_dagster.adapters import archive, archive_parquet, partitions, readings, registry
from energy_cloud_dagster.adapters.archive import ArchivedDay, ArchiveStore
from energy_cloud_dagster.domain.errors import Conflict, InvalidInput, Misconfigured, NotFound, PartUnavailable
from energy_cloud_dagster.domain.readings import ReadingRow
from energy_cloud_dagster.sample_data.community import community

if TYPE_CHECKING:
    from energy_cloud_dagster.embedded.postgres import EmbeddedPostgres

DAY = date(2026, 3, 1)
START = datetime(2026, 3, 1, tzinfo=UTC)
NOW = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def url(postgres: EmbeddedPostgres) -> str:
    from energy_cloud_dagster.adapters.database import make_engine, upgrade

    postgres.ensure_database("ec_archive")
    found = postgres.url("ec_archive")
    upgrade(found)
    engine = make_engine(found)
    with engine.begin() as connection:
        registry.seed(connection, community(), START)
    engine.dispose()
    return found


@pytest.fixture
def engine(url: str) -> Iterator[sa.Engine]:
    """A database of its own that starts each test without a reading."""
    from energy_cloud_dagster.adapters.database import make_engine

    made = make_engine(url)
    yield made
    with made.begin() as connection:
        connection.exec_driver_sql("delete from raw.archived_day")
        for one in partitions.tables(connection):
            partitions.drop(connection, one)
    made.dispose()


@pytest.fixture
def store(tmp_path: Path) -> ArchiveStore:
    return ArchiveStore.open("", tmp_path)


def row(series: int, quarter: int, value: float = 1.0, late: int = 0, source: str = "mqtt") -> ReadingRow:
    ts = START + timedelta(minutes=15 * quarter)
    return ReadingRow(series, ts, value, "high", ts + timedelta(minutes=15, microseconds=1 + late), source)


def put(engine: sa.Engine, *rows: ReadingRow) -> None:
    with engine.begin() as connection:
        readings.store(connection, rows)


def a_day(engine: sa.Engine) -> list[tuple[Any, ...]]:
    """Store a day of three series with corrections, and return its rows."""
    put(engine, *(row(series, quarter, series + quarter / 7) for quarter in range(96) for series in (3, 1, 2)))
    put(engine, row(1, 5, 99.0, late=7), row(2, 5, -0.0, late=8, source="rest"), row(1, 5, 98.5, late=9))
    return rows_of(engine)


def rows_of(engine: sa.Engine, relation: str = "raw.reading") -> list[tuple[Any, ...]]:
    with engine.begin() as connection:
        found = connection.exec_driver_sql(f"select * from {relation} order by series_id, ts, revision")
        return [tuple(one) for one in found]


def write(engine: sa.Engine, store: ArchiveStore, day: date = DAY) -> ArchivedDay:
    with engine.begin() as connection:
        return archive.write(connection, store, day)


def take_out(engine: sa.Engine, day: date = DAY) -> partitions.DayTable:
    with engine.begin() as connection:
        (found,) = [one for one in partitions.attached(connection) if one.day == day]
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        partitions.detach(connection, found)
    return found


def drop(engine: sa.Engine, day: date = DAY) -> str:
    found = take_out(engine, day)
    with engine.begin() as connection:
        return archive.retire(connection, found)


def known(engine: sa.Engine) -> list[ArchivedDay]:
    with engine.begin() as connection:
        return archive.archived(connection)


def states(engine: sa.Engine) -> dict[date, str]:
    with engine.begin() as connection:
        return {one.day: one.state for one in archive.states(connection, NOW.date())}


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_file_stands_alone(engine: sa.Engine, store: ArchiveStore, tmp_path: Path) -> None:
    stored = a_day(engine)
    put(engine, row(910_001, 0))
    noted = write(engine, store)
    folder = tmp_path / "archive"
    assert files(folder) == ["readings/day=2026-03-01/readings-2026-03-01-r0001.parquet"]
    assert noted.uri == f"{folder.as_uri()}/{noted.name}"
    assert (noted.rows, noted.bytes) == (len(stored) + 1, (folder / noted.name).stat().st_size)
    table = pyarrow.dataset.dataset(folder / "readings", partitioning="hive").to_table()
    assert [tuple(one[name] for name in ("series_id", "ts", "revision")) for one in table.to_pylist()] == sorted(
        one[:3] for one in [*stored, (910_001, START, 1)]
    )
    assert set(table["day"].to_pylist()) == {"2026-03-01"} or set(table["day"].to_pylist()) == {DAY}
    with engine.begin() as connection:
        names = {info.series_id: (*key, info.unit) for key, info in readings.series_ids(connection).items()} | {
            910_001: (None, None, None)
        }
    assert {(one["series_id"], one["device_id"], one["metric"], one["unit"]) for one in table.to_pylist()} == {
        (series, *names[series]) for series in (1, 2, 3, 910_001)
    }
    order = pyarrow.parquet.ParquetFile(folder / noted.name).metadata.row_group(0).sorting_columns
    assert [one.column_index for one in order] == [0, 1, 2]


def test_a_dropped_day_comes_back_as_it_was(engine: sa.Engine, store: ArchiveStore) -> None:
    before = a_day(engine)
    noted = write(engine, store)
    assert drop(engine) == "dropped"
    assert rows_of(engine) == []
    assert states(engine) == {DAY: "dropped"}
    keep = NOW + timedelta(days=7)
    with engine.begin() as connection:
        restored = archive.restore(connection, store, DAY, keep_until=keep)
    assert rows_of(engine) == before
    assert restored == noted._replace(keep_until=keep)
    assert known(engine) == [restored]
    assert states(engine) == {DAY: "current"}
    with engine.begin() as connection:
        assert archive.retirable(connection, NOW.date(), NOW) == []
        assert [one.day for one in archive.retirable(connection, NOW.date(), keep)] == [DAY]
    assert drop(engine) == "dropped", "its digest is that of the file still"


def test_what_comes_after_the_archive_is_archived_as_the_next_revision(
    engine: sa.Engine, store: ArchiveStore, tmp_path: Path
) -> None:
    a_day(engine)
    first = write(engine, store)
    put(engine, row(3, 1, 55.0, late=3))
    assert states(engine) == {DAY: "changed"}
    with engine.begin() as connection:
        assert archive.retirable(connection, NOW.date(), NOW) == []
    second = write(engine, store)
    assert (second.revision, second.rows) == (2, first.rows + 1)
    assert store.keep_only(second.name) == [first.name]
    assert files(tmp_path / "archive") == [second.name]
    assert states(engine) == {DAY: "current"}
    assert known(engine) == [second]


def test_readings_that_come_for_a_dropped_day_are_put_on_top_of_it(engine: sa.Engine, store: ArchiveStore) -> None:
    before = a_day(engine)
    write(engine, store)
    drop(engine)
    put(engine, row(1, 5, 98.5, late=70), row(2, 7, 44.0, late=80), row(7, 3, 1.5, late=90))
    assert states(engine) == {DAY: "returned"}
    with engine.begin() as connection:
        assert archive.retirable(connection, NOW.date(), NOW) == [], "what came is not in the archive"
    with pytest.raises(Conflict, match="restore it before"):
        write(engine, store)
    with engine.begin() as connection:
        archive.restore(connection, store, DAY)
    added = {(2, 2, 44.0), (7, 1, 1.5)}
    assert {one[:1] + one[2:4] for one in set(rows_of(engine)) - set(before)} == added, "98.5 was known: a repetition"
    assert set(before) <= set(rows_of(engine))
    assert write(engine, store).rows == len(before) + 2


def test_a_day_with_fewer_rows_than_its_archive_is_not_archived_over_it(
    engine: sa.Engine, store: ArchiveStore, tmp_path: Path
) -> None:
    before = a_day(engine)
    noted = write(engine, store)
    with engine.begin() as connection:
        connection.exec_driver_sql("delete from raw.reading where series_id = 1")
    assert states(engine) == {DAY: "shrunk"}
    with pytest.raises(Conflict, match=r"193 rows in the database and 291"):
        write(engine, store)
    assert known(engine) == [noted]
    assert files(tmp_path / "archive") == [noted.name]
    with engine.begin() as connection:
        archive.restore(connection, store, DAY)
    assert rows_of(engine) == before, "a restore mends it"
    assert states(engine) == {DAY: "current"}


def test_an_abort_leaves_nothing_that_counts(
    engine: sa.Engine, store: ArchiveStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_day(engine)

    def broken(*_: object) -> object:
        raise RuntimeError("aborted")

    with monkeypatch.context() as patch:
        patch.setattr(archive_parquet, "batch_of_rows", broken)
        with pytest.raises(RuntimeError):
            write(engine, store)
    with monkeypatch.context() as patch:
        patch.setattr(archive_parquet, "digest", lambda *_: archive.RowsDigest(archive.Texts((), ())))
        with pytest.raises(Conflict, match="does not hold"):
            write(engine, store)
    assert known(engine) == []
    assert [name for name in files(tmp_path / "archive") if name.endswith(".parquet")] == []
    noted = write(engine, store)
    store.keep_only(noted.name)
    assert files(tmp_path / "archive") == [noted.name]


KILLED = """
import os, signal, sys
from datetime import date
from pathlib import Path
from energy_cloud_dagster.adapters import archive, archive_parquet, archive_rows
from energy_cloud_dagster.adapters.database import make_engine
archive_rows.GROUP_ROWS = archive_parquet.GROUP_ROWS = 50
made = archive_parquet.batch_of_rows
groups = []
def batch(*arguments):
    groups.append(1)
    if len(groups) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return made(*arguments)
archive_parquet.batch_of_rows = batch
with make_engine(sys.argv[1]).begin() as connection:
    archive.write(connection, archive.ArchiveStore.open("", Path(sys.argv[2])), date(2026, 3, 1))
"""


def test_a_kill_in_the_middle_leaves_nothing_that_counts(
    engine: sa.Engine, store: ArchiveStore, url: str, tmp_path: Path
) -> None:
    a_day(engine)
    child = subprocess.run([sys.executable, "-c", KILLED, url, str(tmp_path)], check=False, capture_output=True)
    assert child.returncode == -9, child.stderr
    (left,) = files(tmp_path / "archive")
    assert left.endswith(".parquet.part")
    assert known(engine) == []
    assert states(engine) == {DAY: "new"}
    noted = write(engine, store)
    assert files(tmp_path / "archive") == [noted.name]


def test_a_day_is_dropped_only_where_the_archive_holds_its_rows(engine: sa.Engine, store: ArchiveStore) -> None:
    before = a_day(engine)
    assert drop(engine) == "returned", "it was never archived"
    assert rows_of(engine) == before
    write(engine, store)
    with engine.begin() as connection:
        connection.exec_driver_sql("update raw.reading set value = 7 where series_id = 3 and revision = 1")
    changed = rows_of(engine)
    assert drop(engine) == "returned", "as many rows, but not the same"
    assert rows_of(engine) == changed
    assert known(engine)[0].dropped_at is None


def test_an_empty_day_goes_without_an_archive(engine: sa.Engine, store: ArchiveStore) -> None:
    with engine.begin() as connection:
        partitions.make(connection, DAY)
        assert archive.due(archive.states(connection, NOW.date())) == []
        assert [one.day for one in archive.retirable(connection, NOW.date(), NOW)] == [DAY]
        assert archive.retirable(connection, DAY, NOW) == [], "the day itself is not before it"
    assert drop(engine) == "empty"
    assert states(engine) == {}


def test_days_that_cannot_change_any_more_are_not_counted(engine: sa.Engine, store: ArchiveStore) -> None:
    a_day(engine)
    write(engine, store)
    put(engine, row(3, 1, 55.0, late=3))
    with engine.begin() as connection:
        (later,) = archive.states(connection, NOW.date(), DAY + timedelta(days=1))
        (counted,) = archive.states(connection, NOW.date(), DAY)
    assert (later.state, counted.state) == ("current", "changed")


def test_only_what_retention_dropped_can_be_restored(engine: sa.Engine, store: ArchiveStore, tmp_path: Path) -> None:
    a_day(engine)
    with engine.begin() as connection, pytest.raises(NotFound, match="not in the archive"):
        archive.restore(connection, store, DAY)
    noted = write(engine, store)
    with engine.begin() as connection, pytest.raises(Conflict, match="is in the database"):
        archive.restore(connection, store, DAY)
    drop(engine)
    path = tmp_path / "archive" / noted.name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"x")
    with engine.begin() as connection, pytest.raises(Conflict, match="SHA-256"):
        archive.restore(connection, store, DAY)
    path.unlink()
    with engine.begin() as connection, pytest.raises(NotFound, match="ENERGY_CLOUD_ARCHIVE_URL"):
        archive.restore(connection, store, DAY)
    assert states(engine) == {DAY: "dropped"}


def test_a_file_of_other_rows_is_not_restored(engine: sa.Engine, store: ArchiveStore) -> None:
    a_day(engine)
    write(engine, store)
    drop(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("update raw.archived_day set digest = 'other'")
    with pytest.raises(Conflict, match="other rows"), engine.begin() as connection:
        archive.restore(connection, store, DAY)
    assert rows_of(engine) == []


def test_what_is_no_archived_day_is_refused(store: ArchiveStore, tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    folder.mkdir()
    (folder / "x").write_bytes(b"no parquet")
    pyarrow.parquet.write_table(pyarrow.table({"series_id": [1]}), folder / "y")
    for name in "xy":
        with pytest.raises(Conflict, match="no archived day"):
            archive_parquet.digest(store, name)


def test_where_an_archive_may_lie(tmp_path: Path) -> None:
    assert ArchiveStore.open("", tmp_path).url == (tmp_path / "archive").as_uri()
    assert ArchiveStore.open(str(tmp_path / "x"), Path()).url == (tmp_path / "x").as_uri()
    assert ArchiveStore.open(f"file://{tmp_path}/y", Path()).url == (tmp_path / "y").as_uri()
    secret = "s3://key:hidden@bucket/pre/fix?region=us-east-1&endpoint_override=http://127.0.0.1:1"
    assert ArchiveStore.open(secret, tmp_path).url == "s3://bucket/pre/fix"
    for wrong in ("ftp://x/y", "s3://bucket/x?bogus=1"):
        with pytest.raises(Misconfigured, match="ENERGY_CLOUD_ARCHIVE_URL"):
            ArchiveStore.open(wrong, tmp_path)
    (tmp_path / "archive").write_text("in the way")
    with pytest.raises(PartUnavailable, match="did not answer"):
        ArchiveStore.open("", tmp_path).write("a/b", lambda _: None, lambda _: None)


def test_a_day_is_written_as_people_write_it() -> None:
    assert archive.parse_day("2026-03-01") == DAY
    with pytest.raises(InvalidInput, match="YYYY-MM-DD"):
        archive.parse_day("1 March")


# -- S3


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket of a local S3 server; yields the URL of a prefix in it."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ACCESS_KEY_ID", "test")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
            patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
            patch.setenv("BUCKET_ENDPOINT", endpoint)
            boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket="energy-cloud")
            yield f"s3://energy-cloud/grid/one?region=us-east-1&endpoint_override={endpoint}"
    finally:
        server.stop()


def keys(bucket: str) -> list[str]:
    import boto3

    endpoint = bucket.partition("endpoint_override=")[2]
    found = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").list_objects_v2(Bucket="energy-cloud")
    return [one["Key"] for one in found.get("Contents", []) if one["Size"]]


def test_a_day_goes_to_s3_and_comes_back(
    engine: sa.Engine, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArchiveStore.open(bucket, tmp_path)
    before = a_day(engine)

    def broken(*_: object) -> object:
        raise RuntimeError("aborted")

    with monkeypatch.context() as patch:
        patch.setattr(archive_parquet, "batch_of_rows", broken)
        with pytest.raises(RuntimeError):
            write(engine, store)
    assert [key for key in keys(bucket) if key.endswith(".parquet")] == []
    first = write(engine, store)
    assert first.uri == f"s3://energy-cloud/grid/one/{first.name}"
    put(engine, row(3, 1, 55.0, late=3))
    second = write(engine, store)
    store.keep_only(second.name)
    assert keys(bucket) == [f"grid/one/{second.name}"]
    assert drop(engine) == "dropped"
    with engine.begin() as connection:
        archive.restore(connection, store, DAY)
    assert set(before) < set(rows_of(engine))
    assert drop(engine) == "dropped"
    with pytest.raises(NotFound, match="ENERGY_CLOUD_ARCHIVE_URL"):
        ArchiveStore.open(bucket.replace("/one", "/two"), tmp_path).require(second.name, second.sha256)


def test_a_bucket_that_is_not_there_is_said(engine: sa.Engine, bucket: str, tmp_path: Path) -> None:
    a_day(engine)
    with pytest.raises((PartUnavailable, NotFound), match="other-bucket"):
        write(engine, ArchiveStore.open(bucket.replace("energy-cloud", "other-bucket"), tmp_path))
    assert known(engine) == []
