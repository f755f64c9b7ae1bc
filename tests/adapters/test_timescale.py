"""The way to TimescaleDB as far as a server without it can walk it: the decision, and all that is plain PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from energy_cloud_dagster.adapters import partitions, readings, timescale
from energy_cloud_dagster.domain.errors import Conflict, Misconfigured
from energy_cloud_dagster.domain.readings import ReadingRow

#: Words that only TimescaleDB understands.
FOREIGN = ("timescaledb", "create_hypertable", "add_compression_policy")


def test_a_server_without_the_extension_is_left_as_it_is(connection: sa.Connection) -> None:
    assert not timescale.available(connection)
    with pytest.raises(Misconfigured, match="day partitions"):
        timescale.convert(connection)
    assert partitions.is_partitioned(connection)


def test_what_is_plain_postgresql_moves_every_row_and_keeps_the_sql(
    connection: sa.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = datetime(2031, 7, 1, tzinfo=UTC)
    rows = [ReadingRow(920_001, at + timedelta(hours=hour), hour / 3, "high", at, "mqtt") for hour in range(30)]
    readings.store(connection, rows)
    before = connection.exec_driver_sql("select * from raw.reading order by series_id, ts, revision").all()
    plain = [one for one in timescale.STATEMENTS if not any(word in one for word in FOREIGN)]
    assert len(plain) == len(timescale.STATEMENTS) - 5
    monkeypatch.setattr(timescale, "STATEMENTS", plain)
    monkeypatch.setattr(timescale, "available", lambda _: True)
    timescale.convert(connection)
    assert connection.exec_driver_sql("select * from raw.reading order by series_id, ts, revision").all() == before
    assert not partitions.is_partitioned(connection)
    assert readings.store(connection, rows).duplicates == 30
    assert readings.store(connection, [rows[0]._replace(value=9.0)]).revisions == 1
    with pytest.raises(Conflict, match="not partitioned"):
        timescale.convert(connection)
