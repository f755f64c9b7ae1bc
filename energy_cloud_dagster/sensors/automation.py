"""Sensors over the platform's own tables. Each states why it asks for a run, or why it does not."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Final

import dagster as dg
import structlog

from energy_cloud_dagster.adapters import registry, settlements, validation
from energy_cloud_dagster.assets.evidence import trade_evidence_hourly
from energy_cloud_dagster.assets.settlement import settlement_batch_hourly
from energy_cloud_dagster.domain.errors import EnergyCloudError
from energy_cloud_dagster.partitions import FIRST_HOUR, ONE_AT_A_TIME, hour_key
from energy_cloud_dagster.resources import Database
from energy_cloud_dagster.settings import load_settings

log = structlog.get_logger()

#: Hours back that late readings are looked for; older ones are for an operator.
_LATE_WINDOW: Final = timedelta(days=7)
_ACTIVE: Final = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]
#: State in which schedules and sensors start.
STATUS: Final = (
    dg.DefaultSensorStatus.RUNNING if load_settings().automation == "running" else dg.DefaultSensorStatus.STOPPED
)

Requests = Iterator[dg.RunRequest | dg.SkipReason]

settlement_retry = dg.define_asset_job(
    "settlement_retry",
    selection=dg.AssetSelection.assets(settlement_batch_hourly, trade_evidence_hourly),
    executor_def=dg.in_process_executor,
    tags=ONE_AT_A_TIME,
    description="Brings batches that were sent, or meant to be, onto the chain, and proves them.",
)


def working(instance: dg.DagsterInstance, *jobs: str) -> bool:
    """Return whether a run of one of ``jobs`` waits or goes on: two runs of one hour would do its work twice."""
    return any(instance.get_runs_count(dg.RunsFilter(job_name=job, statuses=_ACTIVE)) for job in jobs)


@dg.sensor(job_name="hourly", minimum_interval_seconds=60, default_status=STATUS)
def late_readings(context: dg.SensorEvaluationContext, database: Database) -> Requests:
    """Works on an hour again when readings arrived after it was validated, and so releases hours that were held."""
    if working(context.instance, "hourly"):
        yield dg.SkipReason("the hourly job is at work")
        return
    region = load_settings().region
    try:
        with database.begin() as connection:
            since = registry.operating_since(connection, region)
            if since is None:
                yield dg.SkipReason(f"region {region} is not in operation")
                return
            newest = validation.newest_hour(connection, region) or since
            found = validation.hours_with_late_readings(connection, region, max(since, newest - _LATE_WINDOW))
    except EnergyCloudError as error:
        yield dg.SkipReason(str(error))
        return
    if not found:
        yield dg.SkipReason("no hour has readings that arrived after its validation")
    for hour, rows in found:
        yield dg.RunRequest(run_key=f"late-{hour_key(hour)}-{rows}", partition_key=hour_key(hour))


@dg.sensor(job=settlement_retry, minimum_interval_seconds=60, default_status=STATUS)
def chain_receipts(context: dg.SensorEvaluationContext, database: Database) -> Requests:
    """Finishes settlements that have no receipt: a crash, or a node that did not answer."""
    if working(context.instance, "hourly", "settlement_retry"):
        yield dg.SkipReason("a settlement is at work")
        return
    try:
        with database.begin() as connection:
            pending = settlements.unconfirmed(connection)
    except EnergyCloudError as error:
        yield dg.SkipReason(str(error))
        return
    if not pending:
        yield dg.SkipReason("every batch has its receipt")
    for batch in pending:
        yield dg.RunRequest(partition_key=hour_key(batch.delivery_start), tags={"energy-cloud/batch": batch.batch_id})


@dg.run_failure_sensor(default_status=STATUS)
def failed_runs(context: dg.RunFailureSensorContext) -> None:
    """Says which run failed, for which hours and why, on the platform's own log."""
    tags = context.dagster_run.tags
    log.error(
        "run_failed",
        job=context.dagster_run.job_name,
        run_id=context.dagster_run.run_id,
        partition=tags.get("dagster/partition") or tags.get("dagster/asset_partition_range_start"),
        error=context.failure_event.message,
    )


SENSORS: Final[list[Any]] = [late_readings, chain_receipts, failed_runs]

__all__ = ["FIRST_HOUR", "SENSORS", "STATUS", "settlement_retry", "working"]
