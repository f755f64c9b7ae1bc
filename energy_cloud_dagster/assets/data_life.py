"""How long readings live, and where: partitions made ahead, closed days archived, archived days dropped.

Each asset looks after all days at once, so that a night that was missed is caught up by the next. The partition is the
day that has just ended; its end is the now.
"""

from collections.abc import Callable, Iterable
from datetime import date, datetime, timedelta
from typing import Any, Final

import dagster as dg
import structlog

from energy_cloud_dagster.adapters import archive, partitions
from energy_cloud_dagster.adapters.archive import ArchivedDay, ArchiveStore
from energy_cloud_dagster.adapters.partitions import DayTable
from energy_cloud_dagster.assets.readings import mqtt_meters, raw_readings_hourly, scada_turbines
from energy_cloud_dagster.assets.report import DAILY_FRESHNESS, OWNER, Effort, columns
from energy_cloud_dagster.domain.audit.canonical import digest
from energy_cloud_dagster.domain.errors import Conflict, NotFound
from energy_cloud_dagster.partitions import daily
from energy_cloud_dagster.resources import Database
from energy_cloud_dagster.settings import load_settings

log = structlog.get_logger()

#: A day is archived when it ended this many days ago: by then most of what comes late has come.
SETTLED_AFTER_DAYS: Final = 2
#: Days back from now in which a missing partition is made; older ones are made when a reading asks for one.
_GAPS_DAYS: Final = 31
#: An Idempotency-Key is remembered this long.
_REQUEST_DAYS: Final = 7
_GROUP: Final = "9_data_life"


def _daily_asset(
    kinds: set[str], table: str, schema: dg.TableSchema, deps: Iterable[Any]
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Return the decorator of an asset of this module."""
    return dg.asset(
        group_name=_GROUP,
        deps=deps,
        kinds=kinds,
        partitions_def=daily,
        owners=[OWNER],
        freshness_policy=DAILY_FRESHNESS,
        metadata={"dagster/table_name": table, "dagster/column_schema": schema},
    )


@_daily_asset(
    {"postgres"},
    "raw.reading",
    columns(day="UTC day of the readings' timestamps", table="The partition of that day"),
    [mqtt_meters, scada_turbines],
)
def reading_partitions(context: dg.AssetExecutionContext, database: Database) -> dg.MaterializeResult[Any]:
    """A day partition for every day that readings will come for, made before they come and without a lock on readers.

    Days ahead are set by ENERGY_CLOUD_PARTITION_DAYS_AHEAD. Days that retention dropped are not made again; one that an
    interrupted night left half out of the table is finished first.
    """
    effort = Effort()
    today = context.partition_time_window.end.date()
    with database.begin() as connection:
        if not partitions.is_partitioned(connection):
            return _hypertable(effort, "makes its chunks")
        leaving = [one for one in partitions.tables(connection) if not one.attached]
    finished = _each_by_outcome(leaving, lambda one: _take_out(database, one))
    with database.begin() as connection:
        present = {one.day for one in partitions.attached(connection)}
        gone = {one.day for one in archive.archived(connection) if one.dropped_at is not None}
    oldest = max(min(present, default=today), today - timedelta(days=_GAPS_DAYS))
    last = today + timedelta(days=load_settings().partition_days_ahead)
    wanted = {oldest + timedelta(days=index) for index in range((last - oldest).days + 1)}
    made = []
    for day in sorted(wanted - present - gone):
        with database.begin() as connection:  # one transaction each: its lock is over in milliseconds
            if partitions.make(connection, day):
                made.append(day)
    with database.begin() as connection:
        tables = partitions.attached(connection)
    return dg.MaterializeResult(
        metadata={
            **effort.metadata(),
            "dagster/row_count": len(tables),
            "made": _days(made),
            **{f"left_and_{name}": _days(found) for name, found in sorted(finished.items())},
            "first_day": str(tables[0].day),
            "last_day": str(tables[-1].day),
            "bytes": sum(one.bytes for one in tables),
        },
        data_version=dg.DataVersion(digest([one.day for one in tables])),
    )


@_daily_asset(
    {"postgres", "parquet"},
    "raw.archived_day",
    columns(
        day="UTC day of the readings' timestamps",
        uri="Where its Parquet file lies",
        revision="1, 2 … each time the day was archived anew",
        rows="Rows of the file: every revision of every reading of the day",
        bytes="Bytes of the file",
        sha256="SHA-256 of the file",
        digest="Of the rows, equal in the file and in the database",
        archived_at="When it was written and read back",
        dropped_at="When retention removed the day from the database",
        keep_until="A restored day stays until then",
    ),
    [raw_readings_hourly, reading_partitions],
)
def reading_archive(context: dg.AssetExecutionContext, database: Database) -> dg.MaterializeResult[Any]:
    """Every closed day as a Parquet file in a folder or S3 bucket, read back and compared before it counts as archived.

    A day that changed since, by late readings or corrections, is archived again as the next revision of its file.
    """
    effort = Effort()
    settings = load_settings()
    today = context.partition_time_window.end.date()
    with effort.importing():
        store = ArchiveStore.open(settings.archive_url, settings.home)
    with database.begin() as connection:
        if not partitions.is_partitioned(connection):
            return _hypertable(effort, "keeps its chunks, and days are not archived")
        last = today - timedelta(days=SETTLED_AFTER_DAYS + 1)
        found = archive.states(connection, last, today - timedelta(days=settings.late_tolerance_days + 1))
    refused = {one.day: "fewer rows in the database than in the archive" for one in found if one.state == "shrunk"}
    written = []
    for one in archive.due(found):
        try:
            written.append(_archive(database, store, one.day, returned=one.state == "returned"))
        except (Conflict, NotFound) as error:
            refused[one.day] = str(error)
            log.warning("day_not_archived", day=str(one.day), reason=str(error))
    if refused:
        day, reason = min(refused.items())
        raise dg.Failure(f"{len(refused)} day(s) were not archived; {day}: {reason}")
    with database.begin() as connection:
        known = archive.archived(connection)
    rows, size = sum(one.rows for one in written), sum(one.bytes for one in written)
    return dg.MaterializeResult(
        metadata={
            **effort.metadata(),
            "dagster/row_count": len(known),
            "archive": store.url,
            "days": _days(one.day for one in written),
            "rows": rows,
            "bytes": size,
            "bytes_per_row": round(size / rows, 2) if rows else 0.0,
            "archived_rows": sum(one.rows for one in known),
            "archived_bytes": sum(one.bytes for one in known),
            "digest": digest([(one.day, one.digest) for one in known]),
        },
        data_version=dg.DataVersion(digest([(one.day, one.digest) for one in known])),
    )


def _archive(database: Database, store: ArchiveStore, day: date, *, returned: bool) -> ArchivedDay:
    """Archive a day; one that was dropped and has readings again is made whole first."""
    if returned:
        with database.begin() as connection:
            archive.restore(connection, store, day)
    with database.begin() as connection:
        noted = archive.write(connection, store, day)
    # only now does no row name the older file any more
    removed = store.keep_only(noted.name)
    log.info("day_archived", day=str(day), uri=noted.uri, rows=noted.rows, bytes=noted.bytes, removed=len(removed))
    return noted


@_daily_asset(
    {"postgres"},
    "raw.reading",
    columns(day="UTC day that is no longer in the database", dropped_at="When it was dropped, in raw.archived_day"),
    [reading_archive],
)
def reading_retention(context: dg.AssetExecutionContext, database: Database) -> dg.MaterializeResult[Any]:
    """What the database no longer keeps: days older than ENERGY_CLOUD_RETENTION_DAYS, archived and compared once more.

    Without the setting every day is kept. Answers to repeated requests go after a week in any case, refused messages
    with the setting.
    """
    effort = Effort()
    settings = load_settings()
    now = context.partition_time_window.end
    days = settings.retention_days
    with database.begin() as connection:
        requests = archive.remove_requests(connection, now - timedelta(days=_REQUEST_DAYS))
        rejects = 0 if days is None else archive.remove_rejects(connection, now - timedelta(days=days))
        by_day = partitions.is_partitioned(connection)
    if days is None:
        outcome: dict[str, list[date]] = {}
        reason = "ENERGY_CLOUD_RETENTION_DAYS is not set: every day is kept"
    elif not by_day:
        outcome, reason = {}, "raw.reading is a hypertable: TimescaleDB's own retention policy applies"
    else:
        outcome = _retire(database, settings.archive_url, now.date() - timedelta(days=days), now)
        reason = f"days before {now.date() - timedelta(days=days)} go once they are archived"
    with database.begin() as connection:
        dropped = [one.day for one in archive.archived(connection) if one.dropped_at is not None]
        size = sum(one.bytes for one in partitions.attached(connection))
    return dg.MaterializeResult(
        metadata={
            **effort.metadata(),
            "dagster/row_count": len(dropped),
            "rule": reason,
            **{f"days_{name}": _days(found) for name, found in sorted(outcome.items())},
            "dropped_in_all": _days(dropped),
            "rejected_removed": rejects,
            "requests_removed": requests,
            "bytes_left": size,
        },
        data_version=dg.DataVersion(digest(dropped)),
    )


def _retire(database: Database, archive_url: str, before: date, now: datetime) -> dict[str, list[date]]:
    """Drop what may go; return the days by what became of them: dropped, empty, returned or kept."""
    store = ArchiveStore.open(archive_url, load_settings().home)
    with database.begin() as connection:
        known = {one.day: one for one in archive.archived(connection)}
        going = archive.retirable(connection, before, now)

    def drop(found: DayTable) -> str:
        noted = known.get(found.day)
        if noted is not None:
            store.require(noted.name, noted.sha256)
        return _take_out(database, found)

    return _each_by_outcome(going, drop)


def _take_out(database: Database, found: DayTable) -> str:
    """Take a day's table out of ``raw.reading``, from wherever it is on its way; return what became of it."""
    if found.attached or found.detaching:
        with database.autocommit() as connection:
            partitions.detach(connection, found)
    with database.begin() as connection:
        return archive.retire(connection, found)


def _each_by_outcome(tables: Iterable[DayTable], handle: Callable[[DayTable], str]) -> dict[str, list[date]]:
    """Handle each day's table and return the days by outcome; ``kept`` are those that could not be handled."""
    outcome: dict[str, list[date]] = {}
    for found in tables:
        try:
            became = handle(found)
        except (Conflict, NotFound) as error:
            became = "kept"
            log.warning("day_not_dropped", day=str(found.day), reason=str(error))
        else:
            log.info("day_taken_out", day=str(found.day), became=became, bytes=found.bytes)
        outcome.setdefault(became, []).append(found.day)
    return outcome


def _hypertable(effort: Effort, what: str) -> dg.MaterializeResult[Any]:
    """Return the result where TimescaleDB looks after the days itself."""
    return dg.MaterializeResult(
        metadata={**effort.metadata(), "rule": f"raw.reading is a hypertable: TimescaleDB {what}"},
        data_version=dg.DataVersion("hypertable"),
    )


def _days(found: Iterable[date]) -> str:
    """Return days as text, ranges where neighbours meet, ``none`` where there are none."""
    ranges: list[tuple[date, date]] = []
    for day in sorted(found):
        if ranges and day - ranges[-1][1] == timedelta(days=1):
            ranges[-1] = (ranges[-1][0], day)
        else:
            ranges.append((day, day))
    return ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in ranges) or "none"


DATA_LIFE: Final = [reading_partitions, reading_archive, reading_retention]

__all__ = ["DATA_LIFE", "reading_archive", "reading_partitions", "reading_retention"]
