"""What the clock starts: the hourly tick, which catches up missed hours in order, the daily fit and the data's life."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import dagster as dg

from energy_cloud_dagster.adapters import registry, validation
from energy_cloud_dagster.assets.accuracy import forecast_accuracy_daily
from energy_cloud_dagster.assets.data_life import DATA_LIFE
from energy_cloud_dagster.assets.forecasts import region_load_model_daily
from energy_cloud_dagster.assets.sites import site_model_daily
from energy_cloud_dagster.domain.errors import EnergyCloudError
from energy_cloud_dagster.domain.intervals import HOUR, rfc3339
from energy_cloud_dagster.partitions import ONE_AT_A_TIME, hour_key, hourly, range_tags
from energy_cloud_dagster.resources import Database
from energy_cloud_dagster.sensors.automation import settlement_retry, working
from energy_cloud_dagster.settings import load_settings

_settings = load_settings()
_STATUS: Final = (
    dg.DefaultScheduleStatus.RUNNING if _settings.automation == "running" else dg.DefaultScheduleStatus.STOPPED
)

hourly_job = dg.define_asset_job(
    "hourly",
    selection=dg.AssetSelection.all()
    - dg.AssetSelection.assets(region_load_model_daily, site_model_daily, forecast_accuracy_daily, *DATA_LIFE),
    executor_def=dg.in_process_executor,
    tags=ONE_AT_A_TIME,
    description="One hour from meter to chain, or a range of hours in one run. One process: imports are paid once.",
)
daily_fit_job = dg.define_asset_job(
    "daily_fit",
    selection=dg.AssetSelection.assets(region_load_model_daily, site_model_daily, forecast_accuracy_daily),
    executor_def=dg.in_process_executor,
    description="Fits the models of load and homes on the day that has ended, and scores what was published.",
)
data_life_job = dg.define_asset_job(
    "data_life",
    selection=dg.AssetSelection.assets(*DATA_LIFE),
    executor_def=dg.in_process_executor,
    description="Makes day partitions ahead, archives closed days, and drops archived ones where retention is set.",
)


@dg.schedule(job=hourly_job, cron_schedule=_settings.tick_cron, execution_timezone="UTC", default_status=_STATUS)
def hourly_tick(context: dg.ScheduleEvaluationContext, database: Database) -> list[dg.RunRequest] | dg.SkipReason:
    """Works on every hour that is due, oldest first: neighbours are one run, and no hour waits for a distant one."""
    if working(context.instance, "hourly", "settlement_retry"):
        return dg.SkipReason("the last run is still at work")
    now = context.scheduled_execution_time.astimezone(UTC)
    try:
        with database.begin() as connection:
            region = registry.find_region(connection, _settings.region)
            due = validation.due_hours(connection, region.region_id, region.market_id, now, _settings.catchup_hours)
    except EnergyCloudError as error:
        return dg.SkipReason(str(error))
    if not due:
        return dg.SkipReason(f"no hour is due at {rfc3339(now)}")
    firsts = [hour for hour in due if hour - HOUR not in due]
    lasts = [hour for hour in due if hour + HOUR not in due]
    return [
        _request(f"tick-{rfc3339(now)}-{rfc3339(first)}", first, last)
        for first, last in zip(firsts, lasts, strict=True)
    ]


def _request(run_key: str, first: datetime, last: datetime) -> dg.RunRequest:
    """Return the run of the hours ``first`` to ``last``, both included."""
    if first == last:
        return dg.RunRequest(run_key=run_key, partition_key=hour_key(first))
    return dg.RunRequest(run_key=run_key, tags=range_tags(first, last))


# After the tick of the day's last hour: where the local day ends with the UTC day, that hour is scored as well.
@dg.schedule(job=daily_fit_job, cron_schedule="20 0 * * *", execution_timezone="UTC", default_status=_STATUS)
def daily_fit(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """Fits on the day that has just ended, and scores what was published of it."""
    day = (context.scheduled_execution_time.astimezone(UTC) - timedelta(days=1)).strftime("%Y-%m-%d")
    return dg.RunRequest(run_key=f"fit-{day}", partition_key=day)


@dg.schedule(job=data_life_job, cron_schedule="30 2 * * *", execution_timezone="UTC", default_status=_STATUS)
def data_life_daily(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Looks after the days of readings once a night; what an earlier night missed is caught up."""
    if working(context.instance, "data_life"):
        return dg.SkipReason("the last run is still at work")
    day = (context.scheduled_execution_time.astimezone(UTC) - timedelta(days=1)).strftime("%Y-%m-%d")
    return dg.RunRequest(run_key=f"data-life-{day}", partition_key=day)


JOBS: Final[list[Any]] = [hourly_job, daily_fit_job, data_life_job, settlement_retry]
SCHEDULES: Final = [hourly_tick, daily_fit, data_life_daily]

__all__ = ["JOBS", "SCHEDULES", "hourly"]
