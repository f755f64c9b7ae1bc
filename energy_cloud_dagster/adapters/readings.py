"""``raw.reading`` and ``raw.rejected``: stored in bulk, revised and never overwritten, read as known at any time.

Functions take an open connection and never commit. Call ``store`` once a transaction: its locks are taken in an order
that cannot deadlock with other workers that do the same.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import distinct_on

from energy_cloud_dagster.adapters.database import driver, translated
from energy_cloud_dagster.adapters.tables import device, reading, rejected, series
from energy_cloud_dagster.domain.readings import ReadingRow, RejectRow, SeriesInfo, SeriesKey

__all__ = [
    "CHANNEL",
    "KnownReading",
    "ReadingRow",
    "RejectRow",
    "SeriesInfo",
    "Stored",
    "ensure_days",
    "latest",
    "reject",
    "rejects_by_reason",
    "rows_between",
    "series_ids",
    "store",
]

#: NOTIFY channel; its payload is {"rows", "series", "from", "to", "receivedFrom", "receivedTo"}.
CHANNEL = "readings"

_INCOMING = """
create temporary table if not exists incoming (
    ordinal integer not null, series_id integer not null, ts timestamptz not null, value double precision not null,
    quality text not null, received_at timestamptz not null, source text not null
) on commit delete rows
"""
_COPY = "copy incoming (ordinal, series_id, ts, value, received_at, quality, source) from stdin (format binary)"
# Rows of PostgreSQL's binary COPY, all but the two texts at their end: a count of fields, then a length before each.
_COPY_HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_ROW = struct.Struct("!hiiiiiqidiq")
_COPY_END = b"\xff\xff"
_COPY_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_COPY_REJECTS = "copy raw.rejected (received_at, source, topic, payload, reason, detail) from stdin (format binary)"
_REJECT_TYPES = ["timestamptz", "text", "text", "bytea", "text", "text"]
# Nearly every row is new: take them in one go. The order keeps workers from waiting for each other in a ring.
_INSERT_NEW = """
insert into raw.reading (series_id, ts, revision, value, quality, received_at, source)
select distinct on (series_id, ts) series_id, ts, 1, value, quality, received_at, source
from incoming order by series_id, ts, ordinal
on conflict do nothing
"""
# Revisions of one series are numbered by one worker at a time; 256 locks at most, in rising order.
_LOCK_SERIES = """
select pg_advisory_xact_lock(hashtext('raw.reading'), bucket)
from (select distinct series_id % 256 as bucket from incoming order by bucket) as buckets
"""
# A row is a revision where it differs from the one before it: the latest stored one, then those of the same call.
_INSERT_REVISIONS = """
with ordered as (
    select incoming.*, known.revision as known_revision,
        lag(incoming.value, 1, known.value) over arrival as previous_value,
        lag(incoming.quality, 1, known.quality) over arrival as previous_quality
    from incoming cross join lateral (
        select revision, value, quality from raw.reading as stored
        where stored.series_id = incoming.series_id and stored.ts = incoming.ts and stored.ts between %s and %s
        order by stored.revision desc limit 1
    ) as known
    window arrival as (partition by incoming.series_id, incoming.ts order by incoming.ordinal)
)
insert into raw.reading (series_id, ts, revision, value, quality, received_at, source)
select series_id, ts, known_revision + row_number() over (partition by series_id, ts order by ordinal),
    value, quality, received_at, source
from ordered where (value, quality) is distinct from (previous_value, previous_quality)
"""


class Stored(NamedTuple):
    """What became of the rows of one ``store``: new readings, corrections of known ones, and repetitions."""

    inserted: int
    revisions: int
    duplicates: int


class KnownReading(NamedTuple):
    """The latest revision of a reading, with its series; ``value`` in ``unit``, ``ts`` the start of its interval."""

    series_id: int
    device_id: str
    metric: str
    unit: str
    kind: str
    role: str | None
    interval_minutes: int
    ts: datetime
    value: float
    quality: str
    received_at: datetime
    source: str
    revision: int


def store(connection: sa.Connection, rows: Sequence[ReadingRow]) -> Stored:
    """Store rows in order of receipt and return what became of them; concurrent workers may store the same ones.

    The value and quality of the latest revision again is a duplicate and absorbed; anything else is the next revision.
    Day partitions appear as needed. Listeners of ``CHANNEL`` are told once where anything was stored.
    """
    if not rows:
        return Stored(0, 0, 0)
    first, last = min(row.ts for row in rows), max(row.ts for row in rows)
    ensure_days(connection, {row.ts.date() for row in rows})
    with translated(), driver(connection).cursor() as cursor:
        cursor.execute(_INCOMING)
        cursor.execute("delete from incoming")
        with cursor.copy(_COPY) as copy:
            copy.write(_binary(rows))
        cursor.execute(_INSERT_NEW)
        inserted, revisions = cursor.rowcount, 0
        if inserted < len(rows):
            cursor.execute(_LOCK_SERIES)
            cursor.execute(_INSERT_REVISIONS, (first, last))
            revisions = cursor.rowcount
        if inserted or revisions:
            news = {
                "rows": inserted + revisions,
                "series": len({row.series_id for row in rows}),
                "from": first.isoformat(),
                "to": last.isoformat(),
                "receivedFrom": min(row.received_at for row in rows).isoformat(),
                "receivedTo": max(row.received_at for row in rows).isoformat(),
            }
            cursor.execute("select pg_notify(%s, %s)", (CHANNEL, json.dumps(news)))
    return Stored(inserted, revisions, len(rows) - inserted - revisions)


def _binary(rows: Sequence[ReadingRow]) -> bytes:
    """Return rows as PostgreSQL's binary COPY wants them; by hand, for it is most of what a row costs here."""
    epoch, microsecond, pack, texts = _COPY_EPOCH, _MICROSECOND, _COPY_ROW.pack, _Texts()
    packed = [
        pack(7, 4, ordinal, 4, series_id, 8, (ts - epoch) // microsecond, 8, value, 8, (known - epoch) // microsecond)
        + texts[quality, source]
        for ordinal, (series_id, ts, value, quality, known, source) in enumerate(rows)
    ]
    return b"".join([_COPY_HEAD, *packed, _COPY_END])


class _Texts(dict[tuple[str, str], bytes]):
    """Quality and source as binary COPY wants them; there are few of them."""

    def __missing__(self, key: tuple[str, str]) -> bytes:
        encoded = [text.encode() for text in key]
        self[key] = made = b"".join(len(text).to_bytes(4) + text for text in encoded)
        return made


def ensure_days(connection: sa.Connection, days: Collection[object]) -> None:
    """Create the partitions of the UTC ``days`` (dates) that are missing, in rising order."""
    with translated(), driver(connection).cursor() as cursor:
        cursor.execute(
            "select raw.ensure_reading_day(day) from (select unnest(%s::date[]) as day order by day) as days",
            (list(days),),
        )


def reject(connection: sa.Connection, rejects: Iterable[RejectRow]) -> int:
    """Keep refused messages with their reasons; return how many."""
    kept = list(rejects)
    if kept:
        with translated(), driver(connection).cursor() as cursor, cursor.copy(_COPY_REJECTS) as copy:
            copy.set_types(_REJECT_TYPES)
            for row in kept:
                topic, detail = _storable(row.topic), _storable(row.detail)
                copy.write_row((row.received_at, row.source, topic, row.payload, row.reason, detail))
    return len(kept)


def series_ids(connection: sa.Connection, device_ids: Collection[str] | None = None) -> dict[SeriesKey, SeriesInfo]:
    """Return every registered series (of ``device_ids``, where given) by (device_id, metric)."""
    statement = sa.select(
        device.c.device_id,
        series.c.metric,
        series.c.series_id,
        series.c.unit,
        series.c.kind,
        device.c.interval_minutes,
        device.c.region_id,
        device.c.device_type,
        series.c.role,
    ).join_from(series, device)
    if device_ids is not None:
        statement = statement.where(device.c.device_id.in_(list(device_ids)))
    return {(row[0], row[1]): SeriesInfo._make(row[2:]) for row in connection.execute(statement)}


def rows_between(
    connection: sa.Connection,
    start: datetime,
    end: datetime,
    *,
    as_of: datetime | None = None,
    region_id: str | None = None,
    device_ids: Collection[str] | None = None,
    metrics: Collection[str] | None = None,
    roles: Collection[str] | None = None,
) -> list[KnownReading]:
    """Return the latest revision of every reading of ``[start, end)``, ordered by time, device and metric.

    With ``as_of`` only what had been received by then counts, so the answer is what was known at that time.
    """
    within = [reading.c.ts >= start, reading.c.ts < end]
    return _known(
        connection, within, as_of=as_of, region_id=region_id, device_ids=device_ids, metrics=metrics, roles=roles
    )


def latest(
    connection: sa.Connection, device_id: str, metric: str, *, as_of: datetime, not_before: datetime
) -> KnownReading | None:
    """Return the newest reading of a series from ``not_before`` on, as known at ``as_of``; None where there is none."""
    within = [reading.c.ts >= not_before, reading.c.ts <= as_of]
    found = _known(connection, within, as_of=as_of, device_ids=[device_id], metrics=[metric])
    return found[-1] if found else None


def rejects_by_reason(connection: sa.Connection, since: datetime | None = None) -> dict[str, int]:
    """Return how many messages were refused (received from ``since`` on) by reason, most first."""
    statement = sa.select(rejected.c.reason, sa.func.count().label("messages")).group_by(rejected.c.reason)
    if since is not None:
        statement = statement.where(rejected.c.received_at >= since)
    return {row.reason: row.messages for row in connection.execute(statement.order_by(sa.desc("messages"), "reason"))}


def _known(
    connection: sa.Connection,
    conditions: list[sa.ColumnElement[bool]],
    *,
    as_of: datetime | None,
    region_id: str | None = None,
    device_ids: Collection[str] | None = None,
    metrics: Collection[str] | None = None,
    roles: Collection[str] | None = None,
) -> list[KnownReading]:
    known = sa.select(reading).ext(distinct_on(reading.c.series_id, reading.c.ts)).where(*conditions)
    if as_of is not None:
        known = known.where(reading.c.received_at <= as_of)
    chosen = sa.select(series.c.series_id).join_from(series, device)
    if region_id is not None:
        chosen = chosen.where(device.c.region_id == region_id)
    if device_ids is not None:
        chosen = chosen.where(device.c.device_id.in_(list(device_ids)))
    if metrics is not None:
        chosen = chosen.where(series.c.metric.in_(list(metrics)))
    if roles is not None:
        chosen = chosen.where(series.c.role.in_(list(roles)))
    newest = (
        known.where(reading.c.series_id.in_(chosen))
        .order_by(reading.c.series_id, reading.c.ts, reading.c.revision.desc())
        .subquery("known")
    )
    statement = (
        sa.select(
            newest.c.series_id,
            device.c.device_id,
            series.c.metric,
            series.c.unit,
            series.c.kind,
            series.c.role,
            device.c.interval_minutes,
            newest.c.ts,
            newest.c.value,
            newest.c.quality,
            newest.c.received_at,
            newest.c.source,
            newest.c.revision,
        )
        .join_from(newest, series, series.c.series_id == newest.c.series_id)
        .join(device, device.c.device_id == series.c.device_id)
        .order_by(newest.c.ts, device.c.device_id, series.c.metric)
    )
    return [KnownReading._make(row) for row in connection.execute(statement)]


def _storable(text: str) -> str:
    """Return foreign text without what PostgreSQL's text cannot hold."""
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()


def count_between(connection: sa.Connection, start: datetime, end: datetime) -> int:
    """Return how many intervals in ``[start, end)`` have a reading, however often it was revised."""
    statement = sa.select(sa.func.count()).where(reading.c.ts >= start, reading.c.ts < end, reading.c.revision == 1)
    return int(connection.execute(statement).scalar_one())


def wait_for_more(connection: sa.Connection, seconds: float) -> None:
    """Wait until readings are committed by anyone, ``seconds`` at most; the connection must be in autocommit."""
    own = driver(connection)
    own.execute(f"listen {CHANNEL}")
    for _ in own.notifies(timeout=seconds, stop_after=1):
        break
