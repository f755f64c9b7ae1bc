"""Forecasts as they were issued: ``forecast.model`` and ``forecast.point``."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from energy_cloud_dagster.adapters.tables import forecast_point, model

# -- read


class ForecastPoint(NamedTuple):
    """One forecast hour: kWh per hour (or a fraction for availability)."""

    ts: datetime
    p10: float
    p50: float
    p90: float


class Forecast(NamedTuple):
    """The chosen forecast of one issue; ``accuracy`` holds the model's held-out metrics, None where never measured."""

    series_key: str
    issued_at: datetime
    model: str
    rung: str
    accuracy: dict[str, Any] | None
    points: tuple[ForecastPoint, ...]


def latest(connection: sa.Connection, series_key: str, as_of: datetime | None, hours: int) -> Forecast | None:
    """Return the first ``hours`` hours of the newest chosen forecast issued at or before ``as_of`` (None: ever)."""
    point = forecast_point.c
    newest = sa.select(sa.func.max(point.issued_at)).where(point.series_key == series_key, point.chosen)
    if as_of is not None:
        newest = newest.where(point.issued_at <= as_of)
    rows = connection.execute(
        sa.select(point.issued_at, point.model, point.rung, point.ts, point.p10, point.p50, point.p90)
        .where(point.series_key == series_key, point.chosen, point.issued_at == newest.scalar_subquery())
        .order_by(point.ts)
        .limit(hours)
    ).all()
    if not rows:
        return None
    first = rows[0]
    return Forecast(
        series_key,
        first.issued_at,
        first.model,
        first.rung,
        accuracy(connection, series_key, first.model, first.issued_at),
        tuple(ForecastPoint(row.ts, row.p10, row.p50, row.p90) for row in rows),
    )


def accuracy(connection: sa.Connection, series_key: str, model_name: str, as_of: datetime) -> dict[str, Any] | None:
    """Return the held-out metrics of the newest fit known at ``as_of``, None where there is none."""
    found = connection.execute(
        sa.select(model.c.metrics)
        .where(model.c.series_key == series_key, model.c.model == model_name, model.c.fitted_at <= as_of)
        .order_by(model.c.fitted_at.desc())
        .limit(1)
    ).scalar()
    return found or None


# -- write
