"""What sun and wind will allow the plants of the VPPs, as known at the hour's now."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import dagster as dg

from energy_cloud_dagster.adapters import forecasts, marts, registry, vpps
from energy_cloud_dagster.adapters.forecasts import IssuedPoint
from energy_cloud_dagster.adapters.vpps import VppResource
from energy_cloud_dagster.assets.histories import by_device, states_by_device
from energy_cloud_dagster.assets.issued import HORIZON_HOURS, POINT_COLUMNS, described, points_of
from energy_cloud_dagster.assets.report import Effort, hourly_asset, result
from energy_cloud_dagster.assets.weather import locations, weather_forecast_hourly, weather_of
from energy_cloud_dagster.domain.intervals import HOUR, run_time
from energy_cloud_dagster.partitions import hours_in
from energy_cloud_dagster.resources import Database
from energy_cloud_dagster.settings import load_settings

if TYPE_CHECKING:
    import pandas as pd

    from energy_cloud_dagster.domain.forecasting import Forecast

#: Days of history behind the forecasts of plants.
PLANT_DAYS: Final = 42


def availability_key(vpp_id: str, resource_id: str) -> str:
    """Return the key of a resource's availability forecast."""
    return f"resource/{vpp_id}/{resource_id}/availability"


@hourly_asset(
    "4_forecasts",
    {"python", "pvlib"},
    "forecast.point",
    POINT_COLUMNS,
    deps=["fct_series__hourly", weather_forecast_hourly],
)
def generation_availability_hourly(context: dg.AssetExecutionContext, database: Database) -> dg.MaterializeResult[Any]:
    """The fraction of capacity that sun and wind will allow every plant of the VPPs in the next 24 hours."""
    effort = Effort()
    with effort.importing():
        from energy_cloud_dagster.domain.forecasting.generation.sun import load_pvlib

        load_pvlib()
    region = load_settings().region
    found: dict[datetime, dict[str, Any]] = {}
    for hour in hours_in(context.partition_time_window):
        now, origin = run_time(hour), hour + HOUR
        with database.begin() as connection:
            timezone = registry.find_region(connection, region).timezone
            places = locations(connection, region)
            owned = vpps.resources(connection, [one.vpp_id for one in vpps.in_region(connection, region)])
            plants = [plant for each in owned.values() for plant in each if plant.type in ("solar", "wind")]
            start = origin - timedelta(days=PLANT_DAYS)
            rows = marts.history(connection, region, ("solar", "wind", "wind_speed"), start, origin, now)
            ahead = {place: weather_of(connection, place, start, origin, now) for place in set(places.values())}
            output = by_device(row for row in rows if row.role != "wind_speed")
            speeds = states_by_device(row for row in rows if row.role == "wind_speed")
            points: list[IssuedPoint] = []
            issued = []
            for plant in plants:
                place = places.get((plant.vpp_id, plant.resource_id))
                device = plant.device_id or ""
                if output[device].empty or not plant.capacity_kw:
                    # nobody has ever measured it: there is no forecast of it, and plans do not count on it
                    continue
                forecast = plant_forecast(
                    plant,
                    output[device],
                    speeds[device],
                    place,
                    None if place is None else ahead[place],
                    origin,
                    timezone,
                )
                issued.append(forecast)
                points += points_of(availability_key(plant.vpp_id, plant.resource_id), now, forecast, chosen=True)
            forecasts.replace_points(connection, "resource/", now, points)
        found[hour] = described(points, issued)
    return result(context, effort, found)


def plant_forecast(
    plant: VppResource,
    output: "pd.Series[float]",
    speed: "pd.Series[float]",
    place: tuple[float, float] | None,
    ahead: "pd.DataFrame | None",
    origin: datetime,
    timezone: str,
) -> "Forecast":
    """Forecast one plant from its past output (kWh per hour) and what is known of the weather at its place.

    ``speed`` is the wind that the plant's own anemometer measured (m/s): the power curve is fitted to it, where the
    wind ahead is known.
    """
    from energy_cloud_dagster.domain.errors import InvalidInput
    from energy_cloud_dagster.domain.forecasting.generation.plants import solar_output, wind_output
    from energy_cloud_dagster.domain.forecasting.generation.power_curve import power_curve
    from energy_cloud_dagster.domain.forecasting.generation.sun import Place
    from energy_cloud_dagster.domain.forecasting.series import floats

    fraction = output / plant.capacity_kw
    if plant.type == "solar":
        stands = None if place is None else Place(*place)
        answer = solar_output(
            fraction, origin=origin, horizon=HORIZON_HOURS, timezone=timezone, place=stands, weather=ahead
        )
    else:
        curve = None
        if ahead is not None and len(speed):
            try:
                curve = power_curve(floats(speed), floats(fraction.reindex(speed.index)))
            except InvalidInput:  # too few hours yet: the model fits one to the wind of the forecasts
                curve = None
        answer = wind_output(
            fraction, origin=origin, horizon=HORIZON_HOURS, timezone=timezone, curve=curve, weather=ahead
        )
    late = 0 if ahead is None else ahead.attrs.get("afterwards", 0)
    if late:
        answer = answer.with_notes(f"weather of {late} past hours was known only afterwards: bands may be narrow")
    return answer
