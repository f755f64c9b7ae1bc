"""Archived days of readings: written as Parquet and read back, dropped when that is safe, and restored.

Functions take an open connection and never commit. Whoever archives or restores holds a lock on ``raw.archived_day``
until the end of the transaction, so that one works at a time.

A day's file holds every revision of every reading of that day, in key order. Its rows have a digest
(``archive_rows.RowsDigest``) that is the same for the file and for the database; a day is dropped only where both
agree.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from datetime import date, datetime, timedelta
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from energy_cloud_dagster.adapters import archive_parquet, partitions, readings
from energy_cloud_dagster.adapters.archive_rows import RowsDigest, Texts, copy_bytes, copy_statement, groups
from energy_cloud_dagster.adapters.archive_store import ArchiveStore
from energy_cloud_dagster.adapters.database import driver, translated
from energy_cloud_dagster.adapters.partitions import DayTable
from energy_cloud_dagster.adapters.tables import archived_day, rejected, request
from energy_cloud_dagster.domain.errors import Conflict, InvalidInput, NotFound
from energy_cloud_dagster.domain.readings import ReadingRow

__all__ = [
    "ArchiveStore",
    "ArchivedDay",
    "DayState",
    "archived",
    "due",
    "parse_day",
    "remove_rejects",
    "remove_requests",
    "restore",
    "retirable",
    "retire",
    "states",
    "write",
]

_INCOMING: Final = """
create temporary table restored (
    series_id integer not null, ts timestamptz not null, revision smallint not null, value double precision not null,
    received_at timestamptz not null, quality smallint not null, source smallint not null
) on commit drop
"""
_INSERT: Final = """
insert into raw.reading (series_id, ts, revision, value, quality, received_at, source)
select series_id, ts, revision, value, (%s::text[])[quality + 1], received_at, (%s::text[])[source + 1] from restored
"""


class ArchivedDay(NamedTuple):
    """A day that lies in the archive; ``dropped_at`` is None while it is in the database too."""

    day: date
    uri: str
    revision: int
    rows: int
    bytes: int
    sha256: str
    digest: str
    archived_at: datetime
    dropped_at: datetime | None
    keep_until: datetime | None

    @property
    def name(self) -> str:
        """Where its file lies below the archive's root."""
        return ArchiveStore.name(self.day, self.revision)


class DayState(NamedTuple):
    """What is known of a day: its rows in the database (None where it has no partition) and in the archive."""

    day: date
    rows: int | None
    archived: ArchivedDay | None

    @property
    def state(self) -> str:
        """Return new, current, changed, dropped, returned (dropped, and readings came since) or shrunk."""
        if self.archived is None:
            return "new"
        if self.archived.dropped_at is not None:
            return "returned" if self.rows else "dropped"
        rows = self.rows or 0
        return "current" if rows == self.archived.rows else "changed" if rows > self.archived.rows else "shrunk"


def archived(connection: sa.Connection) -> list[ArchivedDay]:
    """Return every archived day, in order."""
    columns = [archived_day.c[name] for name in ArchivedDay._fields]
    return [ArchivedDay._make(row) for row in connection.execute(sa.select(*columns).order_by(archived_day.c.day))]


def states(connection: sa.Connection, last: date, changeable_from: date = date.min) -> list[DayState]:
    """Return what is known of every day up to ``last`` that lies in the database or the archive, in order.

    Rows are counted, which reads the day; archived days before ``changeable_from`` are taken to be as they were.
    """
    known = {one.day: one for one in archived(connection) if one.day <= last}
    live = {one.day for one in partitions.attached(connection) if one.day <= last}
    found = []
    for day in sorted(known.keys() | live):
        before = known.get(day)
        if day not in live:
            rows = None
        elif before is not None and before.dropped_at is None and day < changeable_from:
            rows = before.rows
        else:
            rows = sum(_census(connection, "raw.reading", day).values())
        found.append(DayState(day, rows, before))
    return found


def due(found: list[DayState]) -> list[DayState]:
    """Return the days that are to be archived (again): new ones with rows, and those that readings came to since."""
    return [one for one in found if one.state in {"changed", "returned"} or (one.state == "new" and one.rows)]


def write(connection: sa.Connection, store: ArchiveStore, day: date) -> ArchivedDay:
    """Write a day to the archive, read it back and note it; return what was noted.

    The connection must have begun nothing yet: the day is read as of one moment. ``Conflict`` where the day has fewer
    rows than its archive, or what was read back differs from the database; then the archive stays as it was.
    """
    connection.execute(sa.text("set transaction isolation level repeatable read"))
    _alone(connection)
    before = _archived(connection, day)
    census = _census(connection, "raw.reading", day)
    rows = sum(census.values())
    if before is not None and (before.dropped_at is not None or rows < before.rows):
        raise Conflict(
            f"{day} has {rows} rows in the database and {before.rows} in {before.uri}; restore it before it is archived"
        )
    texts = _texts(census)
    name = ArchiveStore.name(day, before.revision + 1 if before else 1)
    written = RowsDigest(texts)

    def fill(stream: Any) -> None:
        names = archive_parquet.series_names(connection)
        # closed at once whatever happens: an open COPY would keep the connection from rolling back
        with closing(_copy(connection, "raw.reading", texts, _bounds(day))) as rows:
            archive_parquet.write(stream, rows, texts, names, written)

    size, sha256 = 0, ""

    def check(unfinished: str) -> None:
        nonlocal size, sha256
        size, sha256 = store.fingerprint(unfinished)
        read_back = archive_parquet.digest(store, unfinished)
        if written.rows != rows or (read_back.rows, read_back.hexdigest()) != (rows, written.hexdigest()):
            raise Conflict(f"{store.uri(unfinished)} does not hold the {rows} rows of {day} that were written to it")

    store.write(name, fill, check)
    values = {
        "uri": store.uri(name),
        "revision": before.revision + 1 if before else 1,
        "rows": rows,
        "bytes": size,
        "sha256": sha256,
        "digest": written.hexdigest(),
        "archived_at": sa.func.clock_timestamp(),
    }
    connection.execute(
        insert(archived_day).values(day=day, **values).on_conflict_do_update(index_elements=["day"], set_=values)
    )
    noted = _archived(connection, day)
    if noted is None:
        raise AssertionError("the row that was just written")
    return noted


def restore(
    connection: sa.Connection, store: ArchiveStore, day: date, *, keep_until: datetime | None = None
) -> ArchivedDay:
    """Bring a dropped day back as it was, revisions and times of receipt included; return what is noted of it.

    Readings that the database has of the day are put on top as any late reading is: repetitions are absorbed,
    corrections become the next revision. So a day that lost rows is mended too. Retention leaves the day alone until
    ``keep_until``. ``NotFound`` where the day was never archived, ``Conflict`` where all of it is in the database or
    its file is not the one that was archived.
    """
    _alone(connection)
    found = _archived(connection, day)
    if found is None:
        raise NotFound(f"{day} is not in the archive")
    if found.dropped_at is None and sum(_census(connection, "raw.reading", day).values()) >= found.rows:
        raise Conflict(f"{day} is in the database; there is nothing to restore")
    store.require(found.name, found.sha256)
    partitions.make(connection, day)
    _set_aside(connection, f"raw.reading_{day:%Y_%m_%d}")
    loaded = _load(connection, store, found.name)
    if (loaded.rows, loaded.hexdigest()) != (found.rows, found.digest):
        raise Conflict(f"{found.uri} holds other rows than were archived")
    _put_on_top(connection)
    connection.execute(
        sa.update(archived_day).where(archived_day.c.day == day).values(dropped_at=None, keep_until=keep_until)
    )
    return found._replace(dropped_at=None, keep_until=keep_until)


def retirable(connection: sa.Connection, before: date, now: datetime) -> list[DayTable]:
    """Return the attached days before ``before`` that may go: archived, or empty, and not kept by a restore."""
    known = {one.day: one for one in archived(connection)}
    found = []
    for one in partitions.attached(connection):
        if one.day >= before:
            continue
        noted = known.get(one.day)
        rows = sum(_census(connection, "raw.reading", one.day).values())
        kept = noted is not None and noted.keep_until is not None and noted.keep_until > now
        if not kept and rows == (0 if noted is None else noted.rows) and not (noted and noted.dropped_at and rows):
            found.append(one)
    return found


def retire(connection: sa.Connection, found: DayTable) -> str:
    """Drop the detached table of a day if its rows are those of the archive, else bring it back.

    Returns ``dropped``, ``empty`` (dropped, for it held nothing) or ``returned``.
    """
    table = f'raw."{found.table}"'
    connection.exec_driver_sql(f"lock table {table} in access exclusive mode")
    _alone(connection)
    noted = _archived(connection, found.day)
    census = _census(connection, table)
    if not census:
        partitions.drop(connection, found)
        return "empty"
    if noted is not None and sum(census.values()) == noted.rows:
        texts = _texts(census)
        actual = RowsDigest(texts)
        with closing(_copy(connection, table, texts)) as groups_of_rows:
            for rows in groups_of_rows:
                actual.update(rows)
        if actual.hexdigest() == noted.digest:
            partitions.drop(connection, found)
            connection.execute(
                sa.update(archived_day)
                .where(archived_day.c.day == found.day)
                .values(dropped_at=sa.func.clock_timestamp(), keep_until=None)
            )
            return "dropped"
    _bring_back(connection, found)
    return "returned"


def remove_rejects(connection: sa.Connection, before: datetime) -> int:
    """Remove the refused messages that were received before ``before``; return how many."""
    return connection.execute(sa.delete(rejected).where(rejected.c.received_at < before)).rowcount


def remove_requests(connection: sa.Connection, before: datetime) -> int:
    """Remove the answers to repeated requests that are older than ``before``; return how many."""
    return connection.execute(sa.delete(request).where(request.c.created_at < before)).rowcount


def _bring_back(connection: sa.Connection, found: DayTable) -> None:
    """Attach a day again; where readings made a new partition meanwhile, they are put on top of the old one's."""
    newer = [one for one in partitions.attached(connection) if one.day == found.day]
    if not newer:
        partitions.attach(connection, found)
        return
    _set_aside(connection, f'raw."{newer[0].table}"')
    # the columns of LIKE are in the order of the table
    connection.exec_driver_sql(f'insert into raw.reading select * from raw."{found.table}"')
    partitions.drop(connection, found)
    _put_on_top(connection)


def _set_aside(connection: sa.Connection, table: str) -> None:
    """Take the rows out of a day's table; writers of that day wait until the end, readers do not."""
    connection.exec_driver_sql(f"lock table {table} in share row exclusive mode")
    connection.exec_driver_sql("create temporary table aside (like raw.reading) on commit drop")
    connection.exec_driver_sql(f"with gone as (delete from {table} returning *) insert into aside select * from gone")


def _put_on_top(connection: sa.Connection) -> None:
    """Store what was set aside after what is there now, but for the rows that are there just so."""
    late = connection.exec_driver_sql(
        """
        select series_id, ts, value, quality, received_at, source from aside
        where not exists (
            select from raw.reading as stored where stored.series_id = aside.series_id and stored.ts = aside.ts
            and (stored.value, stored.quality, stored.received_at, stored.source)
                = (aside.value, aside.quality, aside.received_at, aside.source)
        ) order by series_id, ts, revision
        """
    ).all()
    connection.exec_driver_sql("drop table aside")
    if late:
        readings.store(connection, [ReadingRow._make(row) for row in late])


def _alone(connection: sa.Connection) -> None:
    connection.execute(sa.text("lock table raw.archived_day in share row exclusive mode"))


def _archived(connection: sa.Connection, day: date) -> ArchivedDay | None:
    columns = [archived_day.c[name] for name in ArchivedDay._fields]
    row = connection.execute(sa.select(*columns).where(archived_day.c.day == day)).one_or_none()
    return None if row is None else ArchivedDay._make(row)


def _bounds(day: date) -> str:
    return f"ts >= '{day} 00:00+00' and ts < '{day + timedelta(days=1)} 00:00+00'"


def _census(connection: sa.Connection, relation: str, day: date | None = None) -> dict[tuple[str, str], int]:
    """Return the number of rows (of a day) by quality and source."""
    where = "true" if day is None else _bounds(day)
    statement = f"select quality, source, count(*) as readings from {relation} where {where} group by quality, source"
    return {(row.quality, row.source): row.readings for row in connection.exec_driver_sql(statement)}


def _texts(census: dict[tuple[str, str], int]) -> Texts:
    return Texts(tuple(sorted({quality for quality, _ in census})), tuple(sorted({source for _, source in census})))


def _copy(connection: sa.Connection, relation: str, texts: Texts, where: str = "true") -> Generator[Any]:
    """Yield the rows of a relation in key order, a group at a time."""
    statement, parameters = copy_statement(relation, texts, where)
    with translated(), driver(connection).cursor() as cursor, cursor.copy(statement, parameters) as copy:
        yield from groups(copy)


def _load(connection: sa.Connection, store: ArchiveStore, name: str) -> RowsDigest:
    """Insert the rows of a file and return their digest."""
    rows = archive_parquet.read(store, name)
    texts: Texts = next(rows)
    loaded = RowsDigest(texts)

    def counted() -> Iterator[Any]:
        for group in rows:
            loaded.update(group)
            yield group

    with translated(), driver(connection).cursor() as cursor:
        cursor.execute(_INCOMING)
        with cursor.copy("copy restored from stdin (format binary)") as copy:
            for chunk in copy_bytes(counted()):
                copy.write(chunk)
        cursor.execute(_INSERT, (list(texts.qualities), list(texts.sources)))
        cursor.execute("drop table restored")
    return loaded


def parse_day(text: str) -> date:
    """Return the day that ``text`` (YYYY-MM-DD) names; ``InvalidInput`` where it names none."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidInput(f"{text!r} is no day; write YYYY-MM-DD") from None
