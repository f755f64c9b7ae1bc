"""What sun and wind will allow the plants of the VPPs, as known at the hour's now."""

from datetime import datetime, timedelta
from typing import Any, Final

import dagster as dg

from energy_cloud_dagster.adapters import forecasts, marts, registry, vpps
from energy_cloud_dagster.adapters.forecasts import IssuedPoint
from energy_cloud_dagster.assets.histories import by_device
from energy_cloud_dagster.assets.issued import HORIZON_HOURS, POINT_COLUMNS, described, points_of
from energy_cloud_dagster.assets.report import Effort, hourly_asset, result
from energy_cloud_dagster.domain.intervals import HOUR, run_time
from energy_cloud_dagster.partitions import hours_in
from energy_cloud_dagster.resources import Database
from energy_cloud_dagster.settings import load_settings

#: Days of history behind the forecasts of resources.
RESOURCE_DAYS: Final = 28


def availability_key(vpp_id: str, resource_id: str) -> str:
    """Return the key of a resource's availability forecast."""
    return f"resource/{vpp_id}/{resource_id}/availability"


@hourly_asset(
    "4_forecasts",
    {"python"},
    "forecast.point",
    POINT_COLUMNS,
    deps=["fct_series__hourly"],
)
def generation_availability_hourly(context: dg.AssetExecutionContext, database: Database) -> dg.MaterializeResult[Any]:
    """The fraction of capacity that sun and wind will allow every plant of the VPPs in the next 24 hours."""
    effort = Effort()
    with effort.importing():
        from energy_cloud_dagster.domain.forecasting import solar_availability, wind_availability
    region = load_settings().region
    found: dict[datetime, dict[str, Any]] = {}
    for hour in hours_in(context.partition_time_window):
        now, origin = run_time(hour), hour + HOUR
        with database.begin() as connection:
            timezone = registry.find_region(connection, region).timezone
            owned = vpps.resources(connection, [one.vpp_id for one in vpps.in_region(connection, region)])
            plants = [plant for each in owned.values() for plant in each if plant.type in ("solar", "wind")]
            history = by_device(
                marts.history(
                    connection, region, ("solar", "wind"), origin - timedelta(days=RESOURCE_DAYS), origin, now
                )
            )
            points: list[IssuedPoint] = []
            issued = []
            for plant in plants:
                fraction = history[plant.device_id or ""] / plant.capacity_kw
                forecast = (
                    solar_availability(fraction, origin=origin, horizon=HORIZON_HOURS, timezone=timezone)
                    if plant.type == "solar"
                    else wind_availability(fraction, origin=origin, horizon=HORIZON_HOURS)
                )
                issued.append(forecast)
                points += points_of(availability_key(plant.vpp_id, plant.resource_id), now, forecast, chosen=True)
            forecasts.replace_points(connection, "resource/", now, points)
        found[hour] = described(points, issued)
    return result(context, effort, found)
