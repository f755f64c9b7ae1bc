"""The homes' load and PV of the next hours, all in one go."""

from datetime import datetime, timedelta
from typing import Any, Final

import dagster as dg

from energy_cloud_dagster.adapters import forecasts, marts, registry
from energy_cloud_dagster.adapters.forecasts import IssuedPoint
from energy_cloud_dagster.assets.histories import by_participant
from energy_cloud_dagster.assets.issued import HORIZON_HOURS, POINT_COLUMNS, described, points_of
from energy_cloud_dagster.assets.report import Effort, hourly_asset, result
from energy_cloud_dagster.domain.intervals import HOUR, run_time
from energy_cloud_dagster.partitions import hours_in
from energy_cloud_dagster.resources import Database
from energy_cloud_dagster.settings import load_settings

#: Days of history behind the forecasts of sites.
SITE_DAYS: Final = 14


@hourly_asset(
    "4_forecasts",
    {"python"},
    "forecast.point",
    POINT_COLUMNS,
    deps=["fct_series__hourly"],
)
def site_forecast_hourly(context: dg.AssetExecutionContext, database: Database) -> dg.MaterializeResult[Any]:
    """Load and PV of every home for the next 24 hours, from similar days."""
    effort = Effort()
    with effort.importing():
        from energy_cloud_dagster.domain.forecasting import site_load, site_pv
    region = load_settings().region
    found: dict[datetime, dict[str, Any]] = {}
    for hour in hours_in(context.partition_time_window):
        now, origin = run_time(hour), hour + HOUR
        with database.begin() as connection:
            timezone = registry.find_region(connection, region).timezone
            homes = [one for one in registry.participants(connection, region) if one.kind == "prosumer"]
            rows = marts.history(connection, region, ("load", "pv"), origin - timedelta(days=SITE_DAYS), origin, now)
            history = by_participant(rows)
            points: list[IssuedPoint] = []
            issued = []
            for home in homes:
                for role, rule in (("load", site_load), ("pv", site_pv)):
                    forecast = rule(
                        history[home.participant_id, role], origin=origin, horizon=HORIZON_HOURS, timezone=timezone
                    )
                    issued.append(forecast)
                    points += points_of(f"site/{home.participant_id}/{role}", now, forecast, chosen=True)
            forecasts.replace_points(connection, "site/", now, points)
        found[hour] = described(points, issued)
    return result(context, effort, found)
