"""How good the published forecasts were: every local day against what was measured, beside the naive forecast."""

from collections.abc import Collection, Sequence
from dataclasses import asdict
from datetime import date, datetime, timedelta
from typing import Any, Final

import dagster as dg
import sqlalchemy as sa

from energy_cloud_dagster.adapters import forecasts, registry
from energy_cloud_dagster.adapters.forecasts import DayAccuracy, IssuedPoint
from energy_cloud_dagster.assets.accuracy_plots import champion_history, error_by_hour, fan_chart
from energy_cloud_dagster.assets.forecasts import (
    load_key,
    region_load_forecast_hourly,
    region_load_model_daily,
)
from energy_cloud_dagster.assets.histories import region_history
from energy_cloud_dagster.assets.report import DAILY_FRESHNESS, OWNER, Effort, columns, load_plotting
from energy_cloud_dagster.domain.audit.canonical import rows_digest
from energy_cloud_dagster.domain.intervals import SETTLING_TIME, gate_closure
from energy_cloud_dagster.partitions import daily
from energy_cloud_dagster.resources import Database
from energy_cloud_dagster.settings import load_settings

#: Days of day-ahead errors behind the plot of errors by hour.
ERROR_DAYS: Final = 28
#: Days of champions and daily scores that are drawn.
HISTORY_DAYS: Final = 60


@dg.asset(
    group_name="4_forecasts",
    deps=["fct_series__hourly", region_load_forecast_hourly, region_load_model_daily],
    partitions_def=daily,
    owners=[OWNER],
    kinds={"python"},
    freshness_policy=DAILY_FRESHNESS,
    metadata={
        "dagster/table_name": "forecast.accuracy",
        "dagster/column_schema": columns(
            series_key="What was forecast",
            day="Local day of the region",
            lead="day_ahead: as issued at the day's midnight; gate: as known when the market of each hour closed",
            model="A model, or published: whatever was chosen hour by hour",
            hours="Hours that were compared",
            mape="Mean of |P50 - actual| / actual, percent",
            mae="Mean of |P50 - actual|, kWh",
            rmse="Root of the mean squared error, kWh",
            mase="mae by the mean weekly change before the day: below 1 beats last week's value",
            bias="Mean of P50 - actual, kWh",
            pinball="Mean of the pinball losses of P10, P50 and P90, kWh",
            coverage="Share of the hours between P10 and P90; 0.8 is right",
            rungs="Hours by model and step of the ladder that answered",
            scored_at="As-of time of the comparison",
        ),
    },
)
def forecast_accuracy_daily(context: dg.AssetExecutionContext, database: Database) -> dg.MaterializeResult[Any]:
    """What was published of the region's load against what was measured, for the local day that ended, beside naive."""
    effort = Effort()
    with effort.importing():
        load_plotting()
        from energy_cloud_dagster.domain.forecasting.judging.published import (
            day_scores,
            days_that_ended,
            hours_of_local_day,
        )
    region = load_settings().region
    key = load_key(region)
    window = context.partition_time_window
    now = window.end + SETTLING_TIME
    with database.begin() as connection:
        timezone = registry.find_region(connection, region).timezone
        load, _ = region_history(connection, region, now)
        days = days_that_ended(window.start, window.end, timezone)
        issued = issued_for(connection, key, days, timezone)
        rows: list[DayAccuracy] = []
        for day in days:
            before = load[load.index < hours_of_local_day(day, timezone)[0]]
            scores = day_scores(issued, load, day=day, timezone=timezone, history=before)
            rows += [
                DayAccuracy(key, day, one.lead, one.model, rungs=one.rungs, scored_at=now, **asdict(one.accuracy))
                for one in scores
            ]
        forecasts.replace_accuracy(connection, key, days, rows)
        last = days[-1] if days else window.start.date()
        scored = forecasts.accuracies(connection, key, last - timedelta(days=HISTORY_DAYS), last)
        decided = forecasts.selections(connection, key, now - timedelta(days=HISTORY_DAYS), now)
        recent = _day_ahead(connection, key, last, timezone)
    plots = {
        "fan_chart": fan_chart(issued, load, last, timezone),
        "error_by_hour": error_by_hour(recent, load, timezone),
        "champion_history": champion_history(decided, scored, now),
    }
    return dg.MaterializeResult(
        metadata={
            **effort.metadata(),
            "dagster/row_count": len(rows),
            "days": [day.isoformat() for day in days],
            "accuracy": dg.MetadataValue.md(accuracy_table(rows)),
            **{name: plot for name, plot in plots.items() if plot is not None},
            "digest": rows_digest(rows),
        },
        data_version=dg.DataVersion(rows_digest(rows)),
    )


def issued_for(connection: sa.Connection, key: str, days: Collection[date], timezone: str) -> Any:
    """Return the issues that forecast ``days`` at any lead that is scored, as a frame for ``published``."""
    from energy_cloud_dagster.domain.forecasting.judging.published import hours_of_local_day

    moments: set[datetime] = set()
    for day in days:
        hours = [stamp.to_pydatetime() for stamp in hours_of_local_day(day, timezone)]
        moments |= {hours[0] + SETTLING_TIME, *(gate_closure(hour) for hour in hours)}
    return frame_of(forecasts.issues_at(connection, key, moments))


def frame_of(points: Sequence[IssuedPoint]) -> Any:
    """Return issued points as the frame that ``published`` and ``drift`` take."""
    import pandas as pd

    frame = pd.DataFrame(points, columns=list(IssuedPoint._fields)).drop(columns="series_key")
    return frame.assign(
        issued_at=pd.to_datetime(frame["issued_at"], utc=True),
        ts=pd.to_datetime(frame["ts"], utc=True),
        chosen=frame["chosen"].astype(bool),
    )


def _day_ahead(connection: sa.Connection, key: str, last: date, timezone: str) -> Any:
    """Return the day-ahead issues of the last days."""
    from energy_cloud_dagster.domain.forecasting.judging.published import hours_of_local_day

    days = [last - timedelta(days=back) for back in range(ERROR_DAYS)]
    moments = [hours_of_local_day(day, timezone)[0].to_pydatetime() + SETTLING_TIME for day in days]
    return frame_of(forecasts.issues_at(connection, key, moments))


def accuracy_table(rows: Sequence[DayAccuracy]) -> str:
    """Return the scores as a table in Markdown; a sentence where nothing was published for the day."""
    if not rows:
        return "Nothing was published for this day, or nothing of it was measured."
    lines = [
        "| day | lead | model | hours | MAPE % | MASE | bias kWh | P10-P90 coverage |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        figures = ("-" if one is None else f"{one:.3g}" for one in (row.mape, row.mase, row.bias, row.coverage))
        lines.append(f"| {row.day} | {row.lead} | {row.model} | {row.hours} | {' | '.join(figures)} |")
    return "\n".join(lines)
