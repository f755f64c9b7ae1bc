"""Forecasts as they were issued: ``forecast.model`` and ``forecast.point``."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

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


class IssuedPoint(NamedTuple):
    """One row of ``forecast.point``."""

    series_key: str
    issued_at: datetime
    model: str
    ts: datetime
    p10: float
    p50: float
    p90: float
    chosen: bool
    rung: str


class StoredModel(NamedTuple):
    """One row of ``forecast.model``: a fit, as text."""

    series_key: str
    model: str
    fitted_at: datetime
    train_start: datetime
    train_end: datetime
    artifact: str
    digest: str
    metrics: dict[str, Any]


def save_model(connection: sa.Connection, fitted: StoredModel) -> None:
    """Insert a fit, or replace the one of the same as-of time."""
    statement = insert(model)
    keys = {"series_key", "model", "fitted_at"}
    statement = statement.on_conflict_do_update(
        index_elements=sorted(keys),
        set_={column.name: column for column in statement.excluded if column.name not in keys},
    )
    connection.execute(statement, fitted._asdict())


def newest_model(connection: sa.Connection, series_key: str, model_name: str, as_of: datetime) -> StoredModel | None:
    """Return the newest fit at or before ``as_of``, None where there is none."""
    row = connection.execute(
        sa.select(*(model.c[name] for name in StoredModel._fields))
        .where(model.c.series_key == series_key, model.c.model == model_name, model.c.fitted_at <= as_of)
        .order_by(model.c.fitted_at.desc())
        .limit(1)
    ).one_or_none()
    return None if row is None else StoredModel._make(row)


def replace_points(connection: sa.Connection, prefix: str, issued_at: datetime, points: Sequence[IssuedPoint]) -> None:
    """Replace what was issued at ``issued_at`` for the series whose key starts with ``prefix``."""
    connection.execute(
        sa.delete(forecast_point).where(
            forecast_point.c.issued_at == issued_at, forecast_point.c.series_key.startswith(prefix, autoescape=True)
        )
    )
    if points:
        connection.execute(sa.insert(forecast_point), [one._asdict() for one in points])


def issued(
    connection: sa.Connection,
    issued_at: datetime,
    *,
    prefixes: Collection[str],
    ts: datetime | None = None,
    chosen_only: bool = True,
) -> list[IssuedPoint]:
    """Return what was issued at ``issued_at`` for the series under ``prefixes`` (one hour only with ``ts``)."""
    column = forecast_point.c
    statement = (
        sa.select(*(column[name] for name in IssuedPoint._fields))
        .where(
            column.issued_at == issued_at,
            sa.or_(*(column.series_key.startswith(prefix, autoescape=True) for prefix in prefixes)),
        )
        .order_by(column.series_key, column.model, column.ts)
    )
    if ts is not None:
        statement = statement.where(column.ts == ts)
    if chosen_only:
        statement = statement.where(column.chosen)
    return [IssuedPoint._make(row) for row in connection.execute(statement)]
