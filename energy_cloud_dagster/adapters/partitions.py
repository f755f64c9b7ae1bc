"""The day partitions of ``raw.reading``: made ahead, and taken out without a lock that readers or writers would feel.

Functions take an open connection and never commit. A day is UTC. What locks remain:

- making a day: SHARE UPDATE EXCLUSIVE on ``raw.reading``, for milliseconds; it conflicts with no SELECT and no INSERT;
- detaching one: the same, twice, and the wait for transactions that were open before;
- dropping the detached table: ACCESS EXCLUSIVE on that table alone, which no query can reach any more.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Final, NamedTuple

import sqlalchemy as sa

from energy_cloud_dagster.domain.errors import Conflict

_NAME: Final = re.compile(r"reading_(\d{4})_(\d{2})_(\d{2})(_left_\d+)?")
#: A detached day waits this long for transactions that were open before; then the next run goes on with it.
_DETACH_PATIENCE: Final = "60s"
_TABLES: Final = sa.text(
    """
    select relname, pg_total_relation_size(pg_class.oid) as bytes, inhdetachpending
    from pg_class left join pg_inherits on inhrelid = pg_class.oid and inhparent = 'raw.reading'::regclass
    where relnamespace = 'raw'::regnamespace and relkind = 'r' and relname like 'reading\\_%'
    order by relname
    """
)


class DayTable(NamedTuple):
    """A day's table in schema raw with its indexes: part of ``raw.reading``, or on its way out of it."""

    day: date
    table: str
    bytes: int
    attached: bool
    detaching: bool


def tables(connection: sa.Connection) -> list[DayTable]:
    """Return every day's table, by name; those that are not attached were left by a retention that was interrupted."""
    found = []
    for row in connection.execute(_TABLES):
        match = _NAME.fullmatch(row.relname)
        if match:
            year, month, day = (int(part) for part in match.groups()[:3])
            pending = row.inhdetachpending
            found.append(DayTable(date(year, month, day), row.relname, row.bytes, pending is False, pending is True))
    return found


def attached(connection: sa.Connection) -> list[DayTable]:
    """Return the days that queries see, in order."""
    return [one for one in tables(connection) if one.attached]


def is_partitioned(connection: sa.Connection) -> bool:
    """Return whether ``raw.reading`` is partitioned by day; a hypertable of TimescaleDB is not."""
    kind = connection.execute(sa.text("select relkind::text from pg_class where oid = 'raw.reading'::regclass"))
    return str(kind.scalar_one()) == "p"


def make(connection: sa.Connection, day: date) -> bool:
    """Make the partition of ``day`` and return whether it was missing. Commit soon: other makers wait until then."""
    return bool(connection.execute(sa.select(sa.func.raw.ensure_reading_day(day))).scalar_one())


def detach(connection: sa.Connection, found: DayTable) -> None:
    """Take a day out of ``raw.reading``, or go on where an interrupted run stopped; needs autocommit.

    Queries go on; the statement waits for transactions that were open before. Where they last too long, it raises
    ``Conflict`` and the day stays half detached: invisible, and finished by the next call.
    """
    how = "finalize" if found.detaching else "concurrently"
    connection.exec_driver_sql(f"set lock_timeout to '{_DETACH_PATIENCE}'")
    try:
        connection.exec_driver_sql(f'alter table raw.reading detach partition raw."{found.table}" {how}')
    except sa.exc.DBAPIError as error:
        reason = " ".join(str(error.orig).split())
        raise Conflict(f"{found.day} could not be detached yet ({reason}); the next run goes on with it") from error
    finally:
        connection.exec_driver_sql("reset lock_timeout")


def attach(connection: sa.Connection, found: DayTable) -> None:
    """Make a detached table a day of ``raw.reading`` again; its own CHECK, left by the detach, spares the scan."""
    name = f"reading_{found.day:%Y_%m_%d}"
    if found.table != name:
        connection.exec_driver_sql(f'alter table raw."{found.table}" rename to {name}')
    bounds = f"from ('{found.day} 00:00+00') to (date '{found.day}' + 1)"
    connection.exec_driver_sql("set local timezone to 'UTC'")
    connection.exec_driver_sql(f"alter table raw.reading attach partition raw.{name} for values {bounds}")


def drop(connection: sa.Connection, found: DayTable) -> None:
    """Drop a detached table."""
    connection.exec_driver_sql(f'drop table raw."{found.table}"')
