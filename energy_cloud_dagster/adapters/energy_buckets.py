"""Energy by quarter hour, hour or day: closed hours from the marts that dbt built, the rest from raw readings.

An hour of a series is taken from its mart row where every interval of it was measured, for there mart and raw readings
say the same. The open hour, hours with gaps (which the mart fills by its substitution rule), series that the pipeline
does not work on, and every question with ``as_of`` are answered from raw readings. A correction of a closed hour shows
once the pipeline has worked on that hour again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import array, distinct_on

from energy_cloud_dagster.adapters import marts
from energy_cloud_dagster.adapters.energy import QUALITIES, Bucket, EnergySeries, IntervalEnergy, held
from energy_cloud_dagster.adapters.tables import device, reading, region, series
from energy_cloud_dagster.domain.intervals import HOUR
from energy_cloud_dagster.domain.units import MINUTES_PER_HOUR

_BUCKET_MINUTES: Final[dict[Bucket, int]] = {"15min": 15, "hourly": 60, "daily": 1440}
_HOUR: Final = sa.text("interval '1 hour'")


def bucketed(
    connection: sa.Connection,
    measured: Sequence[EnergySeries],
    bucket: Bucket,
    start: datetime,
    end: datetime,
    *,
    limit: int | None,
    as_of: datetime | None = None,
    after: tuple[datetime, int] | None = None,
    from_marts: bool = True,
) -> list[IntervalEnergy]:
    """Return energy by bucket and series, ordered by (bucket start, series_id), those past ``after``.

    An hourly reading is not spread over quarter hours: it counts in the bucket of its start. Days are those of the
    device's region. With ``from_marts`` false raw readings answer for closed hours too.
    """
    known = {item.series_id: item for item in measured}
    start = start if after is None else max(start, after[0])
    wanted = _wanted(list(known))
    closed = None
    if from_marts and bucket != "15min" and as_of is None and marts.has_series_hours(connection):
        closed = _closed_hours(wanted, bucket, start, end)
    parts = [_open_part(wanted, closed, bucket, start, end, as_of)]
    if closed is not None:
        parts.append(_closed_part(closed, wanted, bucket))
    part = sa.union_all(*parts).subquery("part")
    sums = (
        sa.select(
            part.c.began,
            part.c.series_id,
            sa.func.sum(part.c.kwh).label("kwh"),
            sa.func.sum(part.c.total).label("total"),
            sa.func.sum(part.c.hours).label("hours"),
            sa.func.sum(part.c.readings).label("readings"),
            sa.func.max(part.c.rank).label("worst"),
            sa.func.max(part.c.received_at).label("received_at"),
        )
        .group_by(part.c.began, part.c.series_id)
        .subquery("sums")
    )
    statement = sa.select(sums).order_by(sums.c.began, sums.c.series_id).limit(limit)
    if after is not None:
        statement = statement.where(sa.tuple_(sums.c.began, sums.c.series_id) > sa.tuple_(*after))
    return [_interval(known[row.series_id], bucket, row) for row in connection.execute(statement)]


def _interval(item: EnergySeries, bucket: Bucket, row: sa.Row[Any]) -> IntervalEnergy:
    minutes = max(_BUCKET_MINUTES[bucket], item.interval_minutes)
    readings = int(row.readings + row.hours * max(MINUTES_PER_HOUR // item.interval_minutes, 1))
    kwh = row.kwh + item.kwh(row.total)
    return IntervalEnergy(item, row.began, kwh, minutes, QUALITIES[row.worst - 1], row.received_at, readings, None)


def _wanted(series_ids: list[int]) -> sa.CTE:
    """Select the series with the time zone that their days are counted in."""
    return (
        sa.select(series.c.series_id, region.c.timezone)
        .join_from(series, device, device.c.device_id == series.c.device_id)
        .join(region, region.c.region_id == device.c.region_id)
        .where(series.c.series_id.in_(series_ids))
        .cte("wanted")
    )


def _closed_hours(wanted: sa.CTE, bucket: Bucket, start: datetime, end: datetime) -> sa.CTE:
    """Select the whole hours of ``[start, end)`` that the mart has in full, each with the next such hour."""
    hour = marts.series_hour.c
    statement = (
        sa.select(
            hour.series_id,
            hour.hour_utc,
            hour.energy_kwh,
            hour.known_at_utc,
            hour.worst_quality,
            sa.func.lead(hour.hour_utc).over(partition_by=hour.series_id, order_by=hour.hour_utc).label("next_hour"),
        )
        .join_from(marts.series_hour, wanted, wanted.c.series_id == hour.series_id)
        .where(
            hour.hour_utc >= start,
            hour.hour_utc <= end - HOUR,
            hour.is_latest,
            hour.coverage == 1,
            hour.energy_kwh.is_not(None),
            hour.worst_quality.is_not(None),
        )
    )
    if bucket == "daily":
        # Where midnight lies within an hour of UTC, that hour belongs to two days.
        last = hour.hour_utc + sa.text("interval '59 minutes'")
        statement = statement.where(_day(hour.hour_utc, wanted) == _day(last, wanted))
    return statement.cte("closed")


def _closed_part(closed: sa.CTE, wanted: sa.CTE, bucket: Bucket) -> sa.Select[Any]:
    return sa.select(
        _began(closed.c.hour_utc, wanted, bucket).label("began"),
        closed.c.series_id,
        closed.c.energy_kwh.label("kwh"),
        sa.literal(0.0).label("total"),
        sa.literal(1).label("hours"),
        sa.literal(0).label("readings"),
        _rank(closed.c.worst_quality).label("rank"),
        closed.c.known_at_utc.label("received_at"),
    ).join_from(closed, wanted, wanted.c.series_id == closed.c.series_id)


def _open_part(
    wanted: sa.CTE, closed: sa.CTE | None, bucket: Bucket, start: datetime, end: datetime, as_of: datetime | None
) -> sa.Select[Any]:
    statement = (
        sa.select(reading.c.series_id, wanted.c.timezone, *(reading.c[name] for name in ("ts", "value", "quality")))
        .add_columns(reading.c.received_at)
        .ext(distinct_on(reading.c.ts, reading.c.series_id))
        .join_from(wanted, reading, reading.c.series_id == wanted.c.series_id)
        .where(reading.c.ts >= start, reading.c.ts < end, ~held())
        .order_by(reading.c.ts, reading.c.series_id, reading.c.revision.desc())
    )
    if as_of is not None:
        statement = statement.where(reading.c.received_at <= as_of)
    if closed is not None:
        since = _first_gap(closed, start)
        statement = statement.outerjoin(since, since.c.series_id == wanted.c.series_id).where(
            reading.c.ts >= sa.func.coalesce(since.c.since, start),
            ~sa.exists().where(
                closed.c.series_id == reading.c.series_id,
                closed.c.hour_utc == sa.func.date_trunc("hour", reading.c.ts, "UTC"),
            ),
        )
    latest = statement.subquery("latest")
    return sa.select(
        _began(latest.c.ts, latest, bucket).label("began"),
        latest.c.series_id,
        sa.literal(0.0).label("kwh"),
        latest.c.value.label("total"),
        sa.literal(0).label("hours"),
        sa.literal(1).label("readings"),
        _rank(latest.c.quality).label("rank"),
        latest.c.received_at,
    )


def _first_gap(closed: sa.CTE, start: datetime) -> sa.CTE:
    """Select where the closed hours of each series first end: no raw reading before that needs to be looked at."""
    following = closed.c.hour_utc + _HOUR
    first_end = sa.func.min(following).filter(closed.c.next_hour.is_distinct_from(following))
    since = sa.case((sa.func.min(closed.c.hour_utc) > start, start), else_=first_end)
    return sa.select(closed.c.series_id, since.label("since")).group_by(closed.c.series_id).cte("since")


def _began(ts: sa.ColumnElement[Any], zoned: sa.FromClause, bucket: Bucket) -> sa.ColumnElement[Any]:
    if bucket == "15min":
        return sa.func.date_bin(sa.text("interval '15 minutes'"), ts, sa.text("timestamptz '2000-01-01 00:00Z'"))
    return sa.func.date_trunc("hour", ts, "UTC") if bucket == "hourly" else _day(ts, zoned)


def _day(ts: sa.ColumnElement[Any], zoned: sa.FromClause) -> sa.ColumnElement[Any]:
    return sa.func.date_trunc("day", ts, zoned.c.timezone)


def _rank(quality: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    return sa.func.array_position(array(QUALITIES), quality)
