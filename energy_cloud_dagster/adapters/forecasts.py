"""Forecasts as they were fitted, chosen, issued and scored: schema ``forecast``."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from energy_cloud_dagster.adapters.tables import forecast_accuracy, forecast_point, model, selection

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
    """Return the accuracy that ``model_name`` had in the newest backtest known at ``as_of``, None without one.

    Beside its own figures (``mape``, ``mase`` …; ``coverage`` a share) the dictionary has the seasonal naive's as
    ``baseline``. A fit without a selection answers with its own metrics.
    """
    decided = newest_selection(connection, series_key, as_of)
    if decided is not None:
        scores = decided.document.get("scores", {})
        found = scores.get(model_name)
        return {**found, "baseline": scores.get("seasonal_naive", {})} if found else None
    return (
        connection.execute(
            sa.select(model.c.metrics)
            .where(model.c.series_key == series_key, model.c.model == model_name, model.c.fitted_at <= as_of)
            .order_by(model.c.fitted_at.desc())
            .limit(1)
        ).scalar()
        or None
    )


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
    """Return the newest fit of one model before ``as_of``, None where there is none."""
    row = connection.execute(
        sa.select(*(model.c[name] for name in StoredModel._fields))
        .where(model.c.series_key == series_key, model.c.model == model_name, model.c.fitted_at < as_of)
        .order_by(model.c.fitted_at.desc())
        .limit(1)
    ).one_or_none()
    return None if row is None else StoredModel._make(row)


class Selection(NamedTuple):
    """One row of ``forecast.selection``: what the fit at ``decided_at`` chose, and why."""

    series_key: str
    decided_at: datetime
    champion: str
    document: dict[str, Any]


def save_selection(connection: sa.Connection, chosen: Selection) -> None:
    """Insert a selection, or replace the one of the same as-of time."""
    statement = insert(selection)
    statement = statement.on_conflict_do_update(
        index_elements=["decided_at", "series_key"],
        set_={name: statement.excluded[name] for name in ("champion", "document")},
    )
    connection.execute(statement, chosen._asdict())


def newest_selection(connection: sa.Connection, series_key: str, as_of: datetime) -> Selection | None:
    """Return what was chosen last before ``as_of``, None where nothing was.

    Strictly before: a fit as of T serves what is issued after T, so that an issue of T itself, whose run and the fit's
    go on side by side, comes out the same whenever it runs again.
    """
    row = connection.execute(
        sa.select(*(selection.c[name] for name in Selection._fields))
        .where(selection.c.series_key == series_key, selection.c.decided_at < as_of)
        .order_by(selection.c.decided_at.desc())
        .limit(1)
    ).one_or_none()
    return None if row is None else Selection._make(row)


def selections(connection: sa.Connection, series_key: str, start: datetime, end: datetime) -> list[Selection]:
    """Return what was chosen in ``[start, end]``, oldest first."""
    rows = connection.execute(
        sa.select(*(selection.c[name] for name in Selection._fields))
        .where(selection.c.series_key == series_key, selection.c.decided_at.between(start, end))
        .order_by(selection.c.decided_at)
    )
    return [Selection._make(row) for row in rows]


def models_of(connection: sa.Connection, series_key: str, fitted_at: datetime) -> list[StoredModel]:
    """Return the fits of one as-of time, by name."""
    rows = connection.execute(
        sa.select(*(model.c[name] for name in StoredModel._fields))
        .where(model.c.series_key == series_key, model.c.fitted_at == fitted_at)
        .order_by(model.c.model)
    )
    return [StoredModel._make(row) for row in rows]


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


def issues_at(connection: sa.Connection, series_key: str, moments: Collection[datetime]) -> list[IssuedPoint]:
    """Return everything that was issued for one series at ``moments``, by issue, model and hour."""
    column = forecast_point.c
    statement = (
        sa.select(*(column[name] for name in IssuedPoint._fields))
        .where(column.series_key == series_key, column.issued_at.in_(moments))
        .order_by(column.issued_at, column.model, column.ts)
    )
    return [IssuedPoint._make(row) for row in connection.execute(statement)]


def issued_between(
    connection: sa.Connection, series_key: str, first: datetime, last: datetime, beside: str
) -> list[IssuedPoint]:
    """Return what was chosen, and what the model ``beside`` said, in the issues of ``[first, last]``."""
    column = forecast_point.c
    statement = (
        sa.select(*(column[name] for name in IssuedPoint._fields))
        .where(
            column.series_key == series_key,
            column.issued_at.between(first, last),
            sa.or_(column.chosen, column.model == beside),
        )
        .order_by(column.issued_at, column.model, column.ts)
    )
    return [IssuedPoint._make(row) for row in connection.execute(statement)]


# -- how good it was


class DayAccuracy(NamedTuple):
    """One row of ``forecast.accuracy``: a local day's errors in kWh per hour, ``mape`` in percent, shares else."""

    series_key: str
    day: date
    lead: str
    model: str
    hours: int
    mape: float | None
    mae: float | None
    rmse: float | None
    mase: float | None
    bias: float | None
    pinball: float | None
    coverage: float | None
    rungs: dict[str, int]
    scored_at: datetime


def replace_accuracy(
    connection: sa.Connection, series_key: str, days: Collection[date], rows: Sequence[DayAccuracy]
) -> None:
    """Replace what was said of ``days``."""
    column = forecast_accuracy.c
    connection.execute(sa.delete(forecast_accuracy).where(column.series_key == series_key, column.day.in_(days)))
    if rows:
        connection.execute(sa.insert(forecast_accuracy), [one._asdict() for one in rows])


def accuracies(connection: sa.Connection, series_key: str, first: date, last: date) -> list[DayAccuracy]:
    """Return what was said of the days ``first`` to ``last``, both included, by day, lead and model."""
    column = forecast_accuracy.c
    statement = (
        sa.select(*(column[name] for name in DayAccuracy._fields))
        .where(column.series_key == series_key, column.day.between(first, last))
        .order_by(column.day, column.lead, column.model)
    )
    return [DayAccuracy._make(row) for row in connection.execute(statement)]


class Published(NamedTuple):
    """The accuracy of what was published, day ahead, over the last scored days: means weighted by hours."""

    days: int
    hours: int
    mape: float | None
    mase: float | None
    coverage: float | None


def published(connection: sa.Connection, series_key: str, as_of: datetime, days: int = 28) -> dict[str, Published]:
    """Return the day-ahead accuracy of the ``days`` days before ``as_of``, by model; empty where none was scored.

    ``published`` is what was chosen, ``seasonal_naive`` the yardstick. What was scored after ``as_of`` does not count.
    """
    column = forecast_accuracy.c

    def mean(metric: str) -> sa.Label[Any]:
        counted = sa.func.sum(column.hours).filter(column[metric].is_not(None))
        return (sa.func.sum(column[metric] * column.hours) / counted).label(metric)

    statement = (
        sa.select(
            column.model,
            sa.func.count(),
            sa.func.sum(column.hours),
            *(mean(metric) for metric in ("mape", "mase", "coverage")),
        )
        .where(
            column.series_key == series_key,
            column.lead == "day_ahead",
            column.scored_at <= as_of,
            column.day >= (as_of - timedelta(days=days)).date(),
        )
        .group_by(column.model)
    )
    return {str(row[0]): Published._make(row[1:]) for row in connection.execute(statement)}
