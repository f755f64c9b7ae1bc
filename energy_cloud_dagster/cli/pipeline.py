"""Running the hourly pipeline in this process: Dagster's own jobs, instance and event log, the imports paid once."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from energy_cloud_dagster.domain.errors import EnergyCloudError

if TYPE_CHECKING:
    import dagster as dg

    from energy_cloud_dagster.settings import Settings


class RunFailed(EnergyCloudError):
    """A Dagster run of the pipeline failed; the message says which step and why."""


@contextmanager
def instance() -> Iterator[dg.DagsterInstance]:
    """Yield the instance of DAGSTER_HOME, its storage brought up to date; its log goes to its own storage only."""
    warnings.filterwarnings("ignore", module="dagster")
    import dagster as dg

    for name in ("dagster", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # it calls the absence of plotly, which nothing here needs, an error
    logging.getLogger("prophet.plot").setLevel(logging.CRITICAL)
    with dg.DagsterInstance.get() as found:
        # kept connections, as its webserver has them: a run would open some 500, a third of its time
        found.optimize_for_webserver(statement_timeout=60_000, pool_recycle=3600, max_overflow=20)
        yield found


def end_orphans(settings: Settings) -> int:
    """Report the runs as failed that a process left unfinished when it was killed; return how many.

    Dagster's own launcher never finds out, and the schedules would wait for a run that seems to go on. Only for the
    holder of the home, before it starts Dagster: runs in a database outside the home may be somebody else's.
    """
    import dagster as dg

    if str(settings.home) not in unquote(settings.dagster_database_url.get_secret_value()):
        return 0
    unfinished = dg.RunsFilter(
        statuses=[
            dg.DagsterRunStatus.NOT_STARTED,
            dg.DagsterRunStatus.STARTING,
            dg.DagsterRunStatus.STARTED,
            dg.DagsterRunStatus.CANCELING,
        ]
    )
    with instance() as found:
        orphans = found.get_runs(unfinished)
        for run in orphans:
            found.report_run_failed(run, "The process that worked on this run ended before the run did.")
    return len(orphans)


def run_hours(found: dg.DagsterInstance, first: datetime, last: datetime) -> str:
    """Run the hourly job for the hours ``first`` to ``last``, both included, as one run; return its id."""
    from energy_cloud_dagster.partitions import hour_key, range_tags

    if first == last:
        return _run(found, "hourly", partition_key=hour_key(first))
    return _run(found, "hourly", tags=range_tags(first, last))


def fit_day(found: dg.DagsterInstance, day: datetime) -> str:
    """Run the daily fit on the UTC day that starts at ``day``; return the run's id."""
    return _run(found, "daily_fit", partition_key=day.strftime("%Y-%m-%d"))


def score_day(found: dg.DagsterInstance, day: datetime) -> str:
    """Score what was published of the local day that ended in the UTC day ``day``; return the run's id."""
    import dagster

    scored = [dagster.AssetKey("forecast_accuracy_daily")]
    return _run(found, "daily_fit", partition_key=day.strftime("%Y-%m-%d"), asset_selection=scored)


def validate_history(start: datetime, end: datetime) -> int:
    """Validate the readings of ``[start, end)`` and build their marts; return how many readings are valid.

    A history of weeks is no business of hourly partitions: it was never run hour by hour, so it has no run of its own.
    """
    from energy_cloud_dagster.adapters.validation import analyze
    from energy_cloud_dagster.assets.readings import validate
    from energy_cloud_dagster.domain.intervals import rfc3339
    from energy_cloud_dagster.resources import Database, Dbt
    from energy_cloud_dagster.settings import load_settings

    valid, first = 0, start
    with Database().begin() as connection:
        analyze(connection)
    while first < end:
        last = min(first + timedelta(days=7), end)
        with Database().begin() as connection:
            found = validate(connection, load_settings().region, first, last, "history")
        valid += sum(one.rows_valid for one in found)
        first = last
    with Database().begin() as connection:
        analyze(connection)
    failed = [
        node
        for node in Dbt().build({"start_hour": rfc3339(start), "end_hour": rfc3339(end)})
        if not node.ok and node.status != "warn"
    ]
    if failed:
        raise RunFailed(f"dbt: {failed[0].unique_id}: {failed[0].message}")
    return valid


def _run(found: dg.DagsterInstance, job: str, **how: Any) -> str:
    from energy_cloud_dagster.definitions import defs

    # Dagster keeps every event in its storage; a console full of them would hide the report
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    outcome = defs.resolve_job_def(job).execute_in_process(
        instance=found, raise_on_error=False, run_config=quiet, **how
    )
    if not outcome.success:
        failures = [event for event in outcome.all_events if event.is_step_failure or event.is_failure]
        raise RunFailed(f"run {outcome.run_id} of {job} failed: {_reason(failures)}")
    return outcome.run_id


def _reason(failures: list[Any]) -> str:
    for event in failures:
        data = event.event_specific_data
        error = getattr(data, "error", None)
        if error is not None:
            cause = error.cause or error
            described = getattr(getattr(data, "user_failure_data", None), "description", None)
            return f"{event.step_key}: {described or cause.message.strip()}"
    return "no step says why; see the run in the Dagster UI"


def work_seconds(found: dg.DagsterInstance, run_id: str) -> Mapping[str, Mapping[str, float]]:
    """Return what every asset of a run said of its effort: work, import and process CPU seconds, by asset."""
    import dagster as dg

    efforts: dict[str, dict[str, float]] = {}
    kept = ("work_seconds", "import_seconds", "process_cpu_seconds_before", "build_seconds")
    for record in found.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION).records:
        materialization = record.asset_materialization
        if materialization is not None:
            efforts[materialization.asset_key.to_user_string()] = {
                name: float(str(value.value)) for name, value in materialization.metadata.items() if name in kept
            }
    # dbt builds all its models in one go: the build counts once
    builds = {name: one for name, one in efforts.items() if "build_seconds" in one}
    if builds:
        efforts = {name: one for name, one in efforts.items() if name not in builds}
        shared = next(iter(builds.values()))
        efforts["marts (dbt build)"] = shared | {"work_seconds": max(one["build_seconds"] for one in builds.values())}
    return efforts
