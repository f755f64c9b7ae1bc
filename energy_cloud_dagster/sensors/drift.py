"""Asks for a new fit when the published forecasts are worse than the last fit's backtest led one to expect."""

from datetime import UTC, timedelta

import dagster as dg

from energy_cloud_dagster.adapters import forecasts, registry, validation
from energy_cloud_dagster.assets.accuracy import frame_of
from energy_cloud_dagster.assets.forecasts import BASELINE, load_key, region_load_model_daily
from energy_cloud_dagster.assets.histories import region_history
from energy_cloud_dagster.domain.errors import EnergyCloudError
from energy_cloud_dagster.domain.intervals import HOUR, rfc3339, run_time
from energy_cloud_dagster.resources import Database
from energy_cloud_dagster.sensors.automation import STATUS, working
from energy_cloud_dagster.settings import load_settings


@dg.sensor(job_name="daily_fit", minimum_interval_seconds=600, default_status=STATUS)
def forecast_drift(context: dg.SensorEvaluationContext, database: Database) -> dg.RunRequest | dg.SkipReason:
    """Fits the load's models again, as known now, when their MASE since the last fit is well above its backtest's."""
    if working(context.instance, "daily_fit", "hourly"):
        return dg.SkipReason("a fit or the hourly job is at work")
    settings = load_settings()
    region, key = settings.region, load_key(settings.region)
    try:
        with database.begin() as connection:
            registry.find_region(connection, region)
            newest = validation.newest_hour(connection, region)
            if newest is None:
                return dg.SkipReason(f"no hour of region {region} is validated")
            now = run_time(newest)
            chosen = forecasts.newest_selection(connection, key, now + HOUR)  # what the next issue will use
            if chosen is None:
                return dg.SkipReason(f"nothing was fitted for {key} before {rfc3339(now)}")
            issued = forecasts.issued_between(connection, key, chosen.decided_at, now, BASELINE)
            load, _ = region_history(connection, region, now)
    except EnergyCloudError as error:
        return dg.SkipReason(str(error))
    from energy_cloud_dagster.domain.forecasting.judging.drift import measure_drift

    score = chosen.document.get("scores", {}).get(chosen.champion, {})
    found = measure_drift(
        frame_of(issued),
        load,
        since=chosen.decided_at,
        expected=score.get("mase"),
        scale=score["mae"] / score["mase"] if score.get("mase") else None,
        factor=settings.forecast_drift,
    )
    if not found.drifted:
        return dg.SkipReason(found.reason)
    context.log.info(found.reason)
    day = (now.astimezone(UTC) - timedelta(days=1)).strftime("%Y-%m-%d")
    return dg.RunRequest(
        run_key=f"drift-{key}-{rfc3339(now)}",
        partition_key=day,
        asset_selection=[region_load_model_daily.key],
        run_config={"ops": {region_load_model_daily.op.name: {"config": {"as_of": rfc3339(now)}}}},
        tags={"energy-cloud/drift": found.reason},
    )
