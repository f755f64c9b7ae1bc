"""The homes' load and PV of the next hours, all in one go: one model for all of them, weighed home by home."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import dagster as dg
import sqlalchemy as sa

from energy_cloud_dagster.adapters import forecasts, marts, registry
from energy_cloud_dagster.adapters.forecasts import IssuedPoint, StoredModel
from energy_cloud_dagster.assets.issued import HORIZON_HOURS, POINT_COLUMNS, described, points_of
from energy_cloud_dagster.assets.report import DAILY_FRESHNESS, OWNER, Effort, columns, hourly_asset, result
from energy_cloud_dagster.domain.audit.canonical import digest
from energy_cloud_dagster.domain.intervals import HOUR, SETTLING_TIME, hour_start, run_time
from energy_cloud_dagster.partitions import daily, hours_in
from energy_cloud_dagster.resources import Database
from energy_cloud_dagster.settings import load_settings

if TYPE_CHECKING:
    from energy_cloud_dagster.domain.forecasting.sites.panel import Panel

#: Weeks of history that the pooled model is fitted on, and days that the forecasts look back: four weeks behind each
#: of the fourteen days on which they are judged.
FIT_WEEKS: Final = 8
SITE_DAYS: Final = 42
#: Name of the pooled model, and seed of its fit.
POOLED: Final = "pooled_sites"
SEED: Final = 14
#: Roles of a home, and whether its weekends differ from its workdays in them.
ROLES: Final = {"load": True, "pv": False}


def sites_key(region: str) -> str:
    """Return the key of the model of all sites' loads."""
    return f"sites/{region}/load"


def homes_of(connection: sa.Connection, region: str) -> list[str]:
    """Return the ids of the region's prosumers."""
    return [one.participant_id for one in registry.participants(connection, region) if one.kind == "prosumer"]


def panels(
    connection: sa.Connection, region: str, homes: Sequence[str], start: datetime, end: datetime, as_of: datetime
) -> dict[str, "Panel"]:
    """Return the homes' history in ``[start, end)`` by role, as known just before ``as_of``."""
    from energy_cloud_dagster.domain.forecasting.sites.panel import Panel

    timezone = registry.find_region(connection, region).timezone
    found = marts.participant_series(connection, region, list(ROLES), start, end, as_of)
    made = {}
    for role in ROLES:
        series = {one.participant_id: (one.hours, one.energy_kwh) for one in found if one.role == role}
        made[role] = Panel.of_columns(homes, series, timezone, start=start, end=end)
    return made


@dg.asset(
    group_name="4_forecasts",
    deps=["fct_series__hourly"],
    partitions_def=daily,
    owners=[OWNER],
    kinds={"python", "lightgbm"},
    freshness_policy=DAILY_FRESHNESS,
    metadata={
        "dagster/table_name": "forecast.model",
        "dagster/column_schema": columns(
            series_key="sites/{region}/load: one model for all homes",
            model=POOLED,
            fitted_at="As-of time of the fit: the end of the day and five minutes",
            artifact="Trees, every home's error beside similar days, and its bands, as canonical JSON",
            digest="SHA-256 of the artifact",
            metrics="The homes' error on days the judged fit had not seen, relative to similar days",
        ),
    },
)
def site_model_daily(context: dg.AssetExecutionContext, database: Database) -> dg.MaterializeResult[Any]:
    """One model of all homes' loads, fitted on eight weeks and judged home by home on days that it had not seen."""
    effort = Effort()
    with effort.importing():
        import numpy as np

        from energy_cloud_dagster.domain.errors import InvalidInput
        from energy_cloud_dagster.domain.forecasting.sites.pooled import SiteModel
    region = load_settings().region
    now = context.partition_time_window.end + SETTLING_TIME
    end = hour_start(now)
    with database.begin() as connection:
        homes = homes_of(connection, region)
        panel = panels(connection, region, homes, end - timedelta(weeks=FIT_WEEKS), end, now)["load"]
    try:
        fitted = SiteModel().fit(panel.trimmed(), seed=SEED)
    except InvalidInput as error:
        return dg.MaterializeResult(
            metadata={**effort.metadata(), "dagster/row_count": 0, "notes": [str(error)]},
            data_version=dg.DataVersion(digest([str(error)])),
        )
    metrics = {"sites": len(homes), "usual_of_similar_day": fitted.usual, "worst_of_similar_day": fitted.worth.max()}
    row = StoredModel(
        sites_key(region),
        POOLED,
        now,
        fitted.train_start,
        fitted.train_end,
        fitted.to_text(),
        fitted.digest,
        {name: float(value) for name, value in metrics.items()},
    )
    with database.begin() as connection:
        forecasts.save_model(connection, row)
    return dg.MaterializeResult(
        metadata={
            **effort.metadata(),
            "dagster/row_count": 1,
            "sites": len(homes),
            "hours_seen": int(np.isfinite(panel.values).sum()),
            "error_relative_to_similar_day": dict(zip(fitted.keys, fitted.worth.round(3).tolist(), strict=True)),
            "artifact_bytes": len(row.artifact),
        },
        data_version=dg.DataVersion(fitted.digest),
    )


@hourly_asset(
    "4_forecasts",
    {"python"},
    "forecast.point",
    POINT_COLUMNS,
    deps=["fct_series__hourly", site_model_daily],
)
def site_forecast_hourly(context: dg.AssetExecutionContext, database: Database) -> dg.MaterializeResult[Any]:
    """Load and PV of every home for the next 24 hours: a blend of forecasts, weighed by the home's own last days."""
    effort = Effort()
    with effort.importing():
        from energy_cloud_dagster.domain.forecasting.sites.blend import forecast_sites
        from energy_cloud_dagster.domain.forecasting.sites.pooled import FittedSites
    region = load_settings().region
    found: dict[datetime, dict[str, Any]] = {}
    fitted: dict[str, FittedSites] = {}
    for hour in hours_in(context.partition_time_window):
        now, origin = run_time(hour), hour + HOUR
        with database.begin() as connection:
            homes = homes_of(connection, region)
            history = panels(connection, region, homes, origin - timedelta(days=SITE_DAYS), origin, now)
            stored = forecasts.newest_model(connection, sites_key(region), POOLED, now)
            if stored and stored.digest not in fitted:
                fitted = {stored.digest: FittedSites.from_text(stored.artifact)}
            points: list[IssuedPoint] = []
            issued = []
            for role, kinds in ROLES.items():
                # the sun needs no pooled model: with no weather ahead it says no more than the last days do
                pooled = fitted[stored.digest] if stored and role == "load" else None
                every = forecast_sites(pooled, history[role], origin, HORIZON_HOURS, kinds=kinds)
                for home in homes:
                    forecast = every.forecast(home)
                    issued.append(forecast)
                    points += points_of(f"site/{home}/{role}", now, forecast, chosen=True)
            forecasts.replace_points(connection, "site/", now, points)
        found[hour] = described(points, issued)
    return result(context, effort, found)
