"""What dbt built, read: schema ``marts``. dbt owns these tables; only the statements here name their columns."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import aggregate_order_by, distinct_on

#: One row for every hour of a series and state of knowledge.
series_hour = sa.table(
    "fct_series__hourly",
    *(
        sa.column(name)
        for name in (
            "series_id",
            "device_id",
            "participant_id",
            "region_id",
            "role",
            "hour_utc",
            "known_at_utc",
            "energy_kwh",
            "mean_value",
            "last_value",
            "coverage",
            "is_latest",
            "worst_quality",
        )
    ),
    schema="marts",
)
_participant_hour = sa.table(
    "fct_participant__hourly",
    *(
        sa.column(name)
        for name in (
            "region_id",
            "participant_id",
            "hour_utc",
            "known_at_utc",
            "net_injection_kwh",
            "consumption_kwh",
            "generation_kwh",
            "complete",
            "substituted",
        )
    ),
    schema="marts",
)


class SeriesHour(NamedTuple):
    """One hour of a series as it was known: kWh for energy and power, mean and last value for states."""

    device_id: str
    participant_id: str | None
    role: str
    hour: datetime
    known_at: datetime
    energy_kwh: float | None
    mean_value: float | None
    last_value: float | None


class ParticipantHour(NamedTuple):
    """What a participant injected (positive) or drew in an hour, as known now."""

    participant_id: str
    hour: datetime
    known_at: datetime
    net_injection_kwh: float
    consumption_kwh: float
    generation_kwh: float
    complete: bool
    substituted: bool


def has_series_hours(connection: sa.Connection) -> bool:
    """Whether dbt has built ``series_hour`` with all the columns named here: it has not before the first hour."""
    columns = sa.text(
        "select count(*) from pg_attribute"
        " where attrelid = to_regclass(:mart) and attname = any(:columns) and not attisdropped"
    )
    wanted = list(series_hour.c.keys())
    found: int = connection.execute(columns, {"mart": f"marts.{series_hour.name}", "columns": wanted}).scalar_one()
    return found == len(wanted)


def history(
    connection: sa.Connection,
    region_id: str,
    roles: Collection[str],
    start: datetime,
    end: datetime,
    as_of: datetime,
) -> list[SeriesHour]:
    """Return the hours ``[start, end)`` of the region's series with these roles, as known just before ``as_of``."""
    column = series_hour.c
    statement = (
        sa.select(
            column.device_id,
            column.participant_id,
            column.role,
            column.hour_utc,
            column.known_at_utc,
            column.energy_kwh,
            column.mean_value,
            column.last_value,
        )
        .ext(distinct_on(column.series_id, column.hour_utc))
        .where(
            column.region_id == region_id,
            column.role.in_(roles),
            column.hour_utc >= start,
            column.hour_utc < end,
            column.known_at_utc < as_of,
        )
        .order_by(column.series_id, column.hour_utc, column.known_at_utc.desc())
    )
    return [SeriesHour._make(row) for row in connection.execute(statement)]


class ParticipantSeries(NamedTuple):
    """A participant's energy by hour in one role, as known: hours since 1970 in UTC, ascending, and kWh."""

    participant_id: str
    role: str
    hours: list[int]
    energy_kwh: list[float]


def participant_series(
    connection: sa.Connection,
    region_id: str,
    roles: Collection[str],
    start: datetime,
    end: datetime,
    as_of: datetime,
) -> list[ParticipantSeries]:
    """Return the participants' series in ``[start, end)`` as known just before ``as_of``, two columns each.

    A role that several devices measure is their sum; hours without energy are left out. One row a series: a thousand
    homes' six weeks are a million hours, which would be slow as rows.
    """
    column = series_hour.c
    newest = (
        sa.select(column.participant_id, column.role, column.hour_utc, column.energy_kwh)
        .ext(distinct_on(column.series_id, column.hour_utc))
        .where(
            column.region_id == region_id,
            column.role.in_(roles),
            column.participant_id.is_not(None),
            column.hour_utc >= start,
            column.hour_utc < end,
            column.known_at_utc < as_of,
        )
        .order_by(column.series_id, column.hour_utc, column.known_at_utc.desc())
        .subquery("newest")
    )
    hour = sa.cast(sa.extract("epoch", newest.c.hour_utc) / 3600, sa.Integer).label("hour")
    summed = (
        sa.select(newest.c.participant_id, newest.c.role, hour, sa.func.sum(newest.c.energy_kwh).label("energy"))
        .where(newest.c.energy_kwh.is_not(None))
        .group_by(newest.c.participant_id, newest.c.role, hour)
        .subquery("summed")
    )
    statement = (
        sa.select(
            summed.c.participant_id,
            summed.c.role,
            sa.func.array_agg(aggregate_order_by(summed.c.hour, summed.c.hour)),
            sa.func.array_agg(aggregate_order_by(summed.c.energy, summed.c.hour)),
        )
        .group_by(summed.c.participant_id, summed.c.role)
        .order_by(summed.c.participant_id, summed.c.role)
    )
    return [ParticipantSeries._make(row) for row in connection.execute(statement)]


def participants(connection: sa.Connection, region_id: str, start: datetime, end: datetime) -> list[ParticipantHour]:
    """Return every participant's hours in ``[start, end)``, by hour and participant."""
    column = _participant_hour.c
    statement = (
        sa.select(
            column.participant_id,
            column.hour_utc,
            column.known_at_utc,
            column.net_injection_kwh,
            column.consumption_kwh,
            column.generation_kwh,
            column.complete,
            column.substituted,
        )
        .where(column.region_id == region_id, column.hour_utc >= start, column.hour_utc < end)
        .order_by(column.hour_utc, column.participant_id)
    )
    return [ParticipantHour._make(row) for row in connection.execute(statement)]


class Fingerprint(NamedTuple):
    """How many rows an hour of a mart has, and the digest of their text in sorted order."""

    rows: int
    digest: str


def fingerprints(connection: sa.Connection, mart: str, start: datetime, end: datetime) -> dict[datetime, Fingerprint]:
    """Return the fingerprint of every hour of a mart in ``[start, end)``; ``mart`` is the name of a dbt model."""
    table = sa.table(mart, sa.column("hour_utc"), schema="marts").alias("mart")
    # The whole row as text: whatever columns dbt gave it. Numbers are printed so that they read back exactly.
    line = sa.cast(sa.literal_column("mart"), sa.Text)
    lines = sa.func.string_agg(line, aggregate_order_by(sa.literal("\n"), line))
    hashed = sa.func.encode(sa.func.sha256(sa.func.convert_to(lines, "UTF8")), "hex")
    statement = (
        sa.select(table.c.hour_utc, sa.func.count(), hashed)
        .where(table.c.hour_utc >= start, table.c.hour_utc < end)
        .group_by(table.c.hour_utc)
    )
    return {row[0]: Fingerprint(row[1], row[2]) for row in connection.execute(statement)}
