"""What comes next, as known at the hour's now: the region's load."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import dagster as dg

from energy_cloud_dagster.adapters import forecasts, registry
from energy_cloud_dagster.adapters.forecasts import StoredModel
from energy_cloud_dagster.assets.histories import region_history
from energy_cloud_dagster.assets.issued import HORIZON_HOURS, POINT_COLUMNS, described, points_of
from energy_cloud_dagster.assets.report import (
    DAILY_FRESHNESS,
    OWNER,
    Effort,
    columns,
    hourly_asset,
    load_plotting,
    new_figure,
    picture,
    result,
)
from energy_cloud_dagster.domain.intervals import HOUR, SETTLING_TIME, run_time
from energy_cloud_dagster.partitions import daily, hours_in
from energy_cloud_dagster.resources import Database
from energy_cloud_dagster.settings import load_settings

if TYPE_CHECKING:
    import pandas as pd

    from energy_cloud_dagster.domain.forecasting import Forecast

#: Seed of every stochastic step; the same input gives the same forecast.
SEED: Final = 14


def load_key(region: str) -> str:
    """Return the key of a region's load forecast."""
    return f"region/{region}/load"


@dg.asset(
    group_name="4_forecasts",
    deps=["fct_series__hourly"],
    partitions_def=daily,
    owners=[OWNER],
    kinds={"python", "prophet"},
    freshness_policy=DAILY_FRESHNESS,
    metadata={
        "dagster/table_name": "forecast.model",
        "dagster/column_schema": columns(
            series_key="What it forecasts",
            model="prophet",
            fitted_at="As-of time of the fit: the end of the day and five minutes",
            train_start="First hour that it saw",
            train_end="End of the last hour that it saw",
            artifact="The fitted model as canonical JSON",
            digest="SHA-256 of the artifact",
            metrics="Accuracy on held-out days, beside the seasonal naive",
        ),
    },
)
def region_load_model_daily(context: dg.AssetExecutionContext, database: Database) -> dg.MaterializeResult[Any]:
    """Prophet with temperature, fitted on eight weeks as known at the end of the day and judged on held-out days."""
    effort = Effort()
    with effort.importing():
        from energy_cloud_dagster.domain.forecasting import ProphetModel, SeasonalNaive, holdout_accuracy
        from energy_cloud_dagster.domain.forecasting.prophet_model import load_prophet

        load_prophet()
    region = load_settings().region
    now = context.partition_time_window.end + SETTLING_TIME
    with database.begin() as connection:
        timezone = registry.find_region(connection, region).timezone
        load, temperature = region_history(connection, region, now)
    if load.empty:
        raise dg.Failure(
            f"no load of region {region} is known before {now.isoformat()}; ingest readings and build the marts first"
        )
    regressors = temperature.to_frame("temperature")
    model = ProphetModel()
    fitted = model.fit(load, regressors, timezone=timezone, seed=SEED)
    judged = holdout_accuracy([model, SeasonalNaive()], load, regressors, timezone=timezone, seed=SEED)
    metrics = {name: one.as_dict() for name, one in judged.items()}
    row = StoredModel(
        load_key(region),
        model.name,
        now,
        fitted.train_start,
        fitted.train_end,
        fitted.to_text(),
        fitted.digest,
        {**metrics.get(model.name, {}), "baseline": metrics.get("seasonal_naive", {})},
    )
    with database.begin() as connection:
        forecasts.save_model(connection, row)
    return dg.MaterializeResult(
        metadata={
            **effort.metadata(),
            "dagster/row_count": 1,
            "hours_seen": len(load),
            "accuracy": dg.MetadataValue.md(_accuracy_table(metrics)),
        },
        data_version=dg.DataVersion(fitted.digest),
    )


@hourly_asset(
    "4_forecasts",
    {"python", "prophet"},
    "forecast.point",
    POINT_COLUMNS,
    deps=["fct_series__hourly", region_load_model_daily],
)
def region_load_forecast_hourly(context: dg.AssetExecutionContext, database: Database) -> dg.MaterializeResult[Any]:
    """The region's load for the next 24 hours: Prophet, a lower rung where it cannot answer; seasonal naive beside."""
    effort = Effort()
    with effort.importing():
        load_plotting()
        from energy_cloud_dagster.domain.forecasting import (
            fitted_from_text,
            ladder,
            seasonal_naive,
            temperature_outlook,
        )
    region = load_settings().region
    key = load_key(region)
    found: dict[datetime, dict[str, Any]] = {}
    for hour in hours_in(context.partition_time_window):
        now, origin = run_time(hour), hour + HOUR
        with database.begin() as connection:
            timezone = registry.find_region(connection, region).timezone
            load, temperature = region_history(connection, region, now)
            stored = forecasts.newest_model(connection, key, "prophet", now)
            outlook = temperature_outlook(temperature, origin=origin, horizon=HORIZON_HOURS)
            champion = ladder(
                fitted_from_text(stored.artifact) if stored else None,
                load,
                outlook.regressors,
                origin,
                HORIZON_HOURS,
                timezone,
                notes=outlook.notes,
            )
            points = points_of(key, now, champion, chosen=True)
            if not load.empty:
                beside = seasonal_naive(load, origin=origin, horizon=HORIZON_HOURS, timezone=timezone)
                points += points_of(key, now, beside, chosen=False) if beside.model != champion.model else []
            forecasts.replace_points(connection, key, now, points)
        found[hour] = described(points, [champion])
    plot = {} if load.empty else {"plot_of_last_hour": _load_plot(load, champion, beside)}
    return result(context, effort, found, plot)


def _accuracy_table(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    lines = ["| model | hours | MAPE % | MASE | bias kWh | P10-P90 coverage |", "|---|---|---|---|---|---|"]
    for name, one in metrics.items():
        figures = [one[field] for field in ("mape", "mase", "bias", "coverage")]
        cells = [str(one["hours"]), *("-" if figure is None else f"{figure:.3g}" for figure in figures)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _load_plot(load: "pd.Series[float]", champion: "Forecast", beside: "Forecast") -> dg.MarkdownMetadataValue:
    """Draw the last three days of load and the forecasts of the next."""
    figure = new_figure()
    axes = figure.subplots()
    recent = load[load.index >= champion.index[0] - timedelta(days=3)]
    axes.plot(recent.index, recent.to_numpy(), color="black", linewidth=1.2, label="measured")
    axes.plot(champion.index, champion.p50, color="tab:blue", label=f"{champion.model} P50")
    axes.fill_between(champion.index, champion.p10, champion.p90, color="tab:blue", alpha=0.2, label="P10 to P90")
    axes.plot(beside.index, beside.p50, color="tab:orange", linestyle="--", linewidth=1, label=beside.model)
    axes.set_ylabel("load, kWh per hour")
    axes.legend(loc="upper left", ncols=4, fontsize="small")
    return picture(figure)
