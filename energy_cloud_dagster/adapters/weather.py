"""Weather forecasts as they were known: ``forecast.weather``."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import distinct_on, insert

from energy_cloud_dagster.adapters.open_meteo import WeatherPoint
from energy_cloud_dagster.adapters.tables import weather

#: Differences below this are rounding, not news.
SAME: Final = 1e-6


class KnownWeather(NamedTuple):
    """The mean of a variable over the hour from ``ts`` on, as it was known since ``issued_at``."""

    variable: str
    ts: datetime
    issued_at: datetime
    value: float


def location_key(latitude: float, longitude: float) -> str:
    """Return the key of a place: degrees with two decimals, about a kilometre; models see no closer."""
    return f"{round(latitude, 2) + 0.0:.2f},{round(longitude, 2) + 0.0:.2f}"


def save(
    connection: sa.Connection, location: str, issued_at: datetime, source: str, points: Sequence[WeatherPoint]
) -> int:
    """Store what became known at ``issued_at``, only where it differs from what was; return the rows written.

    Saving the same issue again changes nothing; another answer for the same issue replaces it.
    """
    if not points:
        return 0
    first, last = min(point.ts for point in points), max(point.ts for point in points)
    column = weather.c
    connection.execute(
        sa.delete(weather).where(
            column.location == location, column.issued_at == issued_at, column.ts >= first, column.ts <= last
        )
    )
    variables = {point.variable for point in points}
    before = {
        (one.variable, one.ts): one.value
        for one in known(connection, location, variables, first, last + timedelta(hours=1), issued_at)
    }
    news = [
        {"location": location, "issued_at": issued_at, "source": source, **point._asdict()}
        for point in points
        if (old := before.get((point.variable, point.ts))) is None or abs(old - point.value) > SAME
    ]
    if news:
        connection.execute(insert(weather).on_conflict_do_nothing(), news)
    return len(news)


def known(
    connection: sa.Connection,
    location: str,
    variables: Collection[str],
    start: datetime,
    end: datetime,
    as_of: datetime,
    *,
    lead: timedelta | None = None,
) -> list[KnownWeather]:
    """Return the hours ``[start, end)`` as known at ``as_of``, one row of a variable and hour, in their order.

    That is the newest issue at or before ``as_of``. With ``lead`` it is rather the newest that was at least so long
    before the hour itself, else the first that there was: the past as it was forecast, which is what the future will be
    like.
    """
    column = weather.c
    order: list[sa.ColumnElement[object]] = [column.issued_at.desc()]
    if lead is not None:
        early = column.issued_at <= column.ts - lead
        order = [sa.case((early, 0), else_=1), sa.case((early, column.issued_at)).desc(), column.issued_at.asc()]
    statement = (
        sa.select(column.variable, column.ts, column.issued_at, column.value)
        .ext(distinct_on(column.variable, column.ts))
        .where(
            column.location == location,
            column.variable.in_(sorted(variables)),
            column.ts >= start,
            column.ts < end,
            column.issued_at <= as_of,
        )
        .order_by(column.variable, column.ts, *order)
    )
    return [KnownWeather._make(row) for row in connection.execute(statement)]
