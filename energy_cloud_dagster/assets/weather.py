"""The weather ahead of every plant, as it was known: fetched while an hour is the present, and kept."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import dagster as dg
import sqlalchemy as sa
import structlog

from energy_cloud_dagster.adapters import open_meteo, vpps, weather
from energy_cloud_dagster.adapters.vpps import Vpp, VppResource
from energy_cloud_dagster.assets.issued import HORIZON_HOURS
from energy_cloud_dagster.assets.report import OWNER, Effort, columns, hourly_asset, result
from energy_cloud_dagster.domain.audit.canonical import digest
from energy_cloud_dagster.domain.errors import EnergyCloudError
from energy_cloud_dagster.domain.intervals import HOUR, run_time
from energy_cloud_dagster.partitions import hours_in
from energy_cloud_dagster.resources import Database
from energy_cloud_dagster.settings import load_settings

if TYPE_CHECKING:
    import pandas as pd

log = structlog.get_logger()

#: Hours that are asked for ahead, and behind: at first as many as the plants' models learn from.
HOURS_AHEAD: Final = 48
HOURS_BEHIND: Final = 24
FIRST_HOURS_BEHIND: Final = 42 * 24
#: A forecast that is fetched so long after an hour's now is no longer what was known then.
PRESENT: Final = timedelta(hours=2)
#: The past is taken as it was forecast this long before: half of what lies between the first and the last hour ahead.
LEAD: Final = timedelta(hours=HORIZON_HOURS // 2)
VARIABLES: Final = ("temperature", "humidity", "irradiance", "wind_speed", "wind_direction", "air_density")

weather_service = dg.AssetSpec(
    "weather_service",
    group_name="0_sources",
    owners=[OWNER],
    description="Weather forecasts by Open-Meteo's API, where ENERGY_CLOUD_WEATHER_URL names a server.",
    kinds={"http"},
)


@hourly_asset(
    "1_ingest",
    {"postgres"},
    "forecast.weather",
    columns(
        location="lat,lng in degrees with two decimals: where plants stand",
        variable="temperature (°C), humidity (%), irradiance (W/m²), wind_speed (m/s), wind_direction (°), air_density",
        ts="Start of the hour that it is the mean of",
        issued_at="The now of the run that fetched it",
        value="In the unit of the variable",
        source="open-meteo",
    ),
    deps=[weather_service],
)
def weather_forecast_hourly(context: dg.AssetExecutionContext, database: Database) -> dg.MaterializeResult[Any]:
    """The weather of the next 48 hours where the plants stand, kept as it was known at the hour's now.

    Nothing is fetched for hours that are past: what was forecast then is no longer to be had. Where the service does
    not answer, the plants are forecast without it; the run goes on.
    """
    effort = Effort()
    settings = load_settings()
    found: dict[datetime, dict[str, Any]] = {}
    for hour in hours_in(context.partition_time_window):
        now = run_time(hour)
        with database.begin() as connection:
            places = sorted(set(locations(connection, settings.region).values()))
            new = any(not _known(connection, place, now - LEAD, now, now) for place in places)
        note, fetched = _why_not(settings.weather_url, places, now), 0
        if not note:
            service = open_meteo.OpenMeteo(settings.weather_url, settings.weather_key.get_secret_value())
            try:
                behind = FIRST_HOURS_BEHIND if new else HOURS_BEHIND
                answers = service.forecast(places, hours=HOURS_AHEAD, past_hours=behind)
            except EnergyCloudError as error:
                note = str(error)
                log.warning("weather_not_fetched", hour=hour.isoformat(), error=note)
            else:
                with database.begin() as connection:
                    for place, points in zip(places, answers, strict=True):
                        key = weather.location_key(*place)
                        fetched += weather.save(connection, key, now, open_meteo.SOURCE, points)
                note = f"fetched for {len(places)} places"
        with database.begin() as connection:
            end = now + HOURS_AHEAD * HOUR
            known = [one for place in places for one in _known(connection, place, now, end, now)]
        found[hour] = {
            "dagster/partition_row_count": len(known),
            "rows_written": fetched,
            "note": note,
            "digest": digest([[one.variable, one.ts, one.issued_at, one.value] for one in known]),
        }
    return result(context, effort, found)


def clock() -> datetime:
    """Return the present time; tests set another."""
    return datetime.now(UTC)


def _why_not(url: str, places: list[tuple[float, float]], now: datetime) -> str:
    """Return why nothing is fetched, empty where it is."""
    if not url:
        return "nothing is fetched: ENERGY_CLOUD_WEATHER_URL is empty"
    if not places:
        return "nothing is fetched: no VPP or plant of the region has a location"
    if not timedelta(0) <= clock() - now < PRESENT:
        return f"nothing is fetched: {now:%Y-%m-%d %H:%M} UTC is not the present, and its forecast is not to be had"
    return ""


def _known(
    connection: sa.Connection, place: tuple[float, float], start: datetime, end: datetime, as_of: datetime
) -> list[weather.KnownWeather]:
    return weather.known(connection, weather.location_key(*place), VARIABLES, start, end, as_of)


def location(plant: VppResource, owner: Vpp) -> tuple[float, float] | None:
    """Return where a plant stands: latitude and longitude of its own, else of its VPP, None where neither is known."""
    for given in (plant.location, owner.location):
        if given and "lat" in given and "lng" in given:
            return float(given["lat"]), float(given["lng"])
    return None


def locations(connection: sa.Connection, region: str) -> dict[tuple[str, str], tuple[float, float]]:
    """Return where the solar and wind plants of a region's VPPs stand, by VPP and resource.

    Simulated ones are left out: nothing is forecast of them, they stand anywhere, and the region's temperature is the
    mean of its plants'.
    """
    owners = {one.vpp_id: one for one in vpps.in_region(connection, region)}
    plants = [plant for each in vpps.resources(connection, list(owners)).values() for plant in each]
    named = [plant.device_id for plant in plants if plant.device_id is not None]
    nowhere = vpps.simulated(connection, named)
    found = {
        (plant.vpp_id, plant.resource_id): location(plant, owners[plant.vpp_id])
        for plant in plants
        if plant.type in ("solar", "wind") and plant.device_id not in nowhere
    }
    return {key: place for key, place in found.items() if place is not None}


def weather_of(
    connection: sa.Connection, place: tuple[float, float], start: datetime, origin: datetime, now: datetime
) -> "pd.DataFrame | None":
    """Return the weather at a place from ``start`` to the horizon after ``origin``, as known at ``now``.

    Hours before the origin are as they were forecast half a day before, which is what a model of forecasts should learn
    from; where nothing was, as they were known first: ``attrs["afterwards"]`` counts the hours that nobody knew before
    they were over. Columns are ``VARIABLES`` that are known; None where none is.
    """
    import pandas as pd

    key = weather.location_key(*place)
    rows = weather.known(connection, key, VARIABLES, start, origin, now, lead=LEAD)
    afterwards = {one.ts for one in rows if one.issued_at >= one.ts + HOUR}
    rows += weather.known(connection, key, VARIABLES, origin, origin + HORIZON_HOURS * HOUR, now)
    if not rows:
        return None
    frame = pd.DataFrame(rows).pivot_table(index="ts", columns="variable", values="value")
    frame.index = pd.DatetimeIndex(frame.index).tz_convert("UTC")
    frame.attrs["afterwards"] = len(afterwards)
    return frame
