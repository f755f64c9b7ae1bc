"""Validated readings, quarantine and the census of each hour: schema ``validated``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from energy_cloud_dagster.adapters.database import driver
from energy_cloud_dagster.adapters.tables import (
    batch,
    checked_hour,
    clearing,
    device,
    quarantine,
    reading,
    region,
    series,
    valid_reading,
)
from energy_cloud_dagster.domain.intervals import GATE_LEAD_HOURS, HOUR, SETTLING_TIME


class RawRow(NamedTuple):
    """One revision of a reading with what the rules need to know of its series."""

    series_id: int
    ts: datetime
    revision: int
    value: float
    quality: str
    received_at: datetime
    role: str


class ExpectedSeries(NamedTuple):
    """A series that the pipeline relies on: it owes ``60 / interval_minutes`` readings an hour."""

    series_id: int
    device_id: str
    metric: str
    role: str
    participant_id: str | None
    interval_minutes: int


class HourCensus(NamedTuple):
    """What the validation of one hour found; one row of ``validated.hour``."""

    region_id: str
    hour: datetime
    rows_read: int
    rows_valid: int
    rows_quarantined: int
    expected: int
    complete: bool
    missing: list[str]
    known_at: datetime | None
    digest: str


def _of_region(region_id: str) -> sa.Select[Any]:
    return (
        sa.select(series.c.series_id)
        .join_from(series, device, series.c.device_id == device.c.device_id)
        .where(device.c.region_id == region_id)
    )


def raw_between(connection: sa.Connection, region_id: str, start: datetime, end: datetime) -> list[RawRow]:
    """Return every revision of the region's readings with ``start <= ts < end``, in key order."""
    statement = (
        sa.select(
            reading.c.series_id,
            reading.c.ts,
            reading.c.revision,
            reading.c.value,
            reading.c.quality,
            reading.c.received_at,
            sa.func.coalesce(series.c.role, ""),
        )
        .join_from(reading, series, reading.c.series_id == series.c.series_id)
        .join(device, series.c.device_id == device.c.device_id)
        .where(device.c.region_id == region_id, reading.c.ts >= start, reading.c.ts < end)
        .order_by(reading.c.series_id, reading.c.ts, reading.c.revision)
    )
    return [RawRow._make(row) for row in connection.execute(statement)]


def expected_series(connection: sa.Connection, region_id: str) -> list[ExpectedSeries]:
    """Return the series with a role in the region: what an hour must contain."""
    statement = (
        sa.select(
            series.c.series_id,
            series.c.device_id,
            series.c.metric,
            series.c.role,
            device.c.participant_id,
            device.c.interval_minutes,
        )
        .join_from(series, device, series.c.device_id == device.c.device_id)
        .where(device.c.region_id == region_id, series.c.role.is_not(None))
        .order_by(series.c.series_id)
    )
    return [ExpectedSeries._make(row) for row in connection.execute(statement)]


def released(
    connection: sa.Connection, region_id: str, start: datetime, end: datetime
) -> set[tuple[int, datetime, int]]:
    """Return the keys of quarantined readings that someone released under every rule that they failed."""
    statement = (
        sa.select(quarantine.c.series_id, quarantine.c.ts, quarantine.c.revision)
        .where(quarantine.c.ts >= start, quarantine.c.ts < end, quarantine.c.series_id.in_(_of_region(region_id)))
        .group_by(quarantine.c.series_id, quarantine.c.ts, quarantine.c.revision)
        .having(sa.func.bool_and(quarantine.c.state == "released"))
    )
    return {(row.series_id, row.ts, row.revision) for row in connection.execute(statement)}


def replace_valid(
    connection: sa.Connection, region_id: str, start: datetime, end: datetime, rows: Iterable[Sequence[Any]]
) -> None:
    """Replace the region's validated readings of ``[start, end)`` by ``rows`` (columns of ``validated.reading``)."""
    connection.execute(
        sa.delete(valid_reading).where(
            valid_reading.c.ts >= start, valid_reading.c.ts < end, valid_reading.c.series_id.in_(_of_region(region_id))
        )
    )
    statement = "copy validated.reading (series_id, ts, revision, value, quality, received_at) from stdin"
    with driver(connection).cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)


def replace_quarantine(
    connection: sa.Connection, region_id: str, start: datetime, end: datetime, rows: Sequence[dict[str, Any]]
) -> None:
    """Bring the quarantine of ``[start, end)`` up to date; what someone has decided stays decided."""
    from sqlalchemy.dialects.postgresql import insert

    connection.execute(
        sa.delete(quarantine).where(
            quarantine.c.ts >= start,
            quarantine.c.ts < end,
            quarantine.c.state == "held",
            quarantine.c.series_id.in_(_of_region(region_id)),
        )
    )
    if rows:
        connection.execute(insert(quarantine).on_conflict_do_nothing(), rows)


def save_census(connection: sa.Connection, rows: Sequence[HourCensus]) -> None:
    """Insert or replace the census of hours."""
    from sqlalchemy.dialects.postgresql import insert

    if not rows:
        return
    statement = insert(checked_hour)
    keys = {"region_id", "hour"}
    statement = statement.on_conflict_do_update(
        index_elements=sorted(keys),
        set_={column.name: column for column in statement.excluded if column.name not in keys},
    )
    connection.execute(statement, [row._asdict() for row in rows])


def census(connection: sa.Connection, region_id: str, start: datetime, end: datetime) -> list[HourCensus]:
    """Return the census of the hours ``[start, end)`` that were validated, in order."""
    statement = (
        sa.select(*(checked_hour.c[name] for name in HourCensus._fields))
        .where(checked_hour.c.region_id == region_id, checked_hour.c.hour >= start, checked_hour.c.hour < end)
        .order_by(checked_hour.c.hour)
    )
    return [HourCensus._make(row) for row in connection.execute(statement)]


def due_hours(connection: sa.Connection, region_id: str, market_id: str, now: datetime, limit: int) -> list[datetime]:
    """Return up to ``limit`` hours that should have been worked on by ``now`` and were not, oldest first.

    From the hour that the region operates since: an hour is done when the delivery whose gate it closes is cleared
    and, unless it is incomplete or had no market, its own delivery is settled. Hours whose gate nobody has closed go
    before those that only their settlement waits for: one that cannot be settled takes nobody's turn.
    """
    slots = (
        sa.func.generate_series(
            sa.select(region.c.operating_since).where(region.c.region_id == region_id).scalar_subquery(),
            now - HOUR - SETTLING_TIME,
            HOUR,
        )
        .table_valued(sa.column("hour", checked_hour.c.hour.type))
        .render_derived(name="slots")
    )
    hour = slots.c.hour
    own, ahead = clearing.alias("own"), clearing.alias("ahead")
    unsettled = sa.and_(
        own.c.market_id.is_not(None),
        sa.func.coalesce(checked_hour.c.complete, sa.true()),
        sa.func.coalesce(batch.c.state, "missing") != "confirmed",
    )
    statement = (
        sa.select(hour)
        .select_from(slots)
        .outerjoin(
            ahead,
            sa.and_(ahead.c.market_id == market_id, ahead.c.delivery_start == hour + GATE_LEAD_HOURS * HOUR),
        )
        .outerjoin(own, sa.and_(own.c.market_id == market_id, own.c.delivery_start == hour))
        .outerjoin(checked_hour, sa.and_(checked_hour.c.region_id == region_id, checked_hour.c.hour == hour))
        .outerjoin(batch, sa.and_(batch.c.market_id == market_id, batch.c.delivery_start == hour))
        .where(sa.or_(ahead.c.market_id.is_(None), unsettled))
        .order_by(ahead.c.market_id.is_not(None), hour)
        .limit(limit)
    )
    return sorted(row[0] for row in connection.execute(statement))


def hours_with_late_readings(connection: sa.Connection, region_id: str, since: datetime) -> list[tuple[datetime, int]]:
    """Return (hour, readings it has now) of validated hours that have other readings than when they were validated.

    Readings are counted: the time of a receipt may lie before a validation that its transaction came after.
    """
    hour = sa.func.date_trunc("hour", reading.c.ts, "UTC")
    rows = sa.func.count()
    statement = (
        sa.select(checked_hour.c.hour, rows)
        .join_from(checked_hour, reading, hour == checked_hour.c.hour)
        .where(
            checked_hour.c.region_id == region_id,
            checked_hour.c.hour >= since,
            reading.c.ts >= since,
            reading.c.series_id.in_(_of_region(region_id)),
        )
        .group_by(checked_hour.c.hour, checked_hour.c.rows_read)
        .having(rows != checked_hour.c.rows_read)
        .order_by(checked_hour.c.hour)
    )
    return [(row[0], row[1]) for row in connection.execute(statement)]


def newest_hour(connection: sa.Connection, region_id: str) -> datetime | None:
    """Return the newest hour that was validated, None where there is none."""
    return connection.execute(
        sa.select(sa.func.max(checked_hour.c.hour)).where(checked_hour.c.region_id == region_id)
    ).scalar()


def analyze(connection: sa.Connection) -> None:
    """Bring the planner's statistics up to date after a bulk load: without them it joins a history row by row."""
    for table in (reading, valid_reading, series, device):
        connection.execute(sa.text(f"analyze {table.fullname}"))
