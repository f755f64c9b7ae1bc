"""``raw.reading`` as a hypertable of TimescaleDB, for servers that have the extension.

Readers' and writers' SQL stays as it is: the table keeps its name, columns and key. Only what is checked here has been
run; ``STATEMENTS`` themselves have not been run against a TimescaleDB (no package index of this project carries one).
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from energy_cloud_dagster.adapters import partitions
from energy_cloud_dagster.domain.errors import Conflict, Misconfigured

#: What TimescaleDB needs to be told, in order. Days stay the unit: a chunk is a day in UTC, compressed after a week.
STATEMENTS: Final = (
    "create extension if not exists timescaledb",
    "alter table raw.reading rename to reading_by_day",
    "create table raw.reading (like raw.reading_by_day including defaults including constraints including comments)",
    "select create_hypertable('raw.reading', by_range('ts', interval '1 day'), create_default_indexes => false)",
    "alter table raw.reading add primary key (series_id, ts, revision)",
    "create index on raw.reading (ts)",
    "create index on raw.reading using brin (received_at) with (pages_per_range = 16, autosummarize = true)",
    "insert into raw.reading select * from raw.reading_by_day",
    "drop table raw.reading_by_day",
    "create or replace function raw.ensure_reading_day(day date) returns boolean language sql as 'select false'",
    "alter table raw.reading set (timescaledb.compress, timescaledb.compress_segmentby = 'series_id')",
    "alter table raw.reading set (timescaledb.compress_orderby = 'ts, revision')",
    "select add_compression_policy('raw.reading', interval '7 days')",
)


def available(connection: sa.Connection) -> bool:
    """Return whether this server has the extension to install."""
    found = connection.execute(sa.text("select from pg_available_extensions where name = 'timescaledb'"))
    return found.one_or_none() is not None


def convert(connection: sa.Connection) -> None:
    """Turn ``raw.reading`` into a hypertable in one transaction; ingest must be stopped meanwhile.

    ``Misconfigured`` where the server lacks the extension, ``Conflict`` where it is a hypertable already.
    """
    if not available(connection):
        raise Misconfigured(
            "this PostgreSQL has no TimescaleDB (pg_available_extensions); readings stay in day partitions, which need"
            " nothing more"
        )
    if not partitions.is_partitioned(connection):
        raise Conflict("raw.reading is not partitioned by day any more; there is nothing to convert")
    for statement in STATEMENTS:
        connection.exec_driver_sql(statement)
