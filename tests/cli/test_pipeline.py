"""Running jobs in this process: why one failed, and what becomes of runs whose process was killed."""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest
from pydantic import SecretStr

from energy_cloud_dagster.cli import pipeline
from energy_cloud_dagster.embedded.dagster_home import write_dagster_home
from energy_cloud_dagster.embedded.postgres import EmbeddedPostgres
from energy_cloud_dagster.settings import Settings, load_settings

HOUR = datetime(2026, 5, 5, 15, tzinfo=UTC)
hours = dg.HourlyPartitionsDefinition(start_date="2026-01-01-00:00", fmt="%Y-%m-%d-%H:%M")
days = dg.DailyPartitionsDefinition(start_date="2026-01-01")


@dg.op
def divide(context: dg.OpExecutionContext) -> None:
    if context.partition_key == "2026-05-05-15:00":
        raise ZeroDivisionError("nobody divides by that")
    if context.partition_key == "2026-05-06":
        raise dg.Failure("the day is not over")


@dg.job(partitions_def=hours)
def hourly() -> None:
    divide()


@dg.job(partitions_def=days)
def daily_fit() -> None:
    divide()


@pytest.fixture(scope="module")
def settings(postgres: EmbeddedPostgres, home: Path) -> Iterator[Settings]:
    postgres.ensure_database("dagster_cli")
    url = postgres.url("dagster_cli")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(write_dagster_home(home / "runs", url)))
        patch.setenv("DAGSTER_DISABLE_TELEMETRY", "yes")
        yield load_settings(home=home, dagster_database_url=SecretStr(url))


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs with the names of the platform's, that fail when they are told to."""
    defs = dg.Definitions(jobs=[hourly, daily_fit])
    monkeypatch.setitem(sys.modules, "energy_cloud_dagster.definitions", SimpleNamespace(defs=defs))  # type: ignore[arg-type]


@pytest.mark.usefixtures("jobs")
def test_a_failed_run_says_which_step_and_why(settings: Settings) -> None:
    with pipeline.instance() as instance:
        with pytest.raises(pipeline.RunFailed, match=r"of hourly failed: divide: .*nobody divides by that"):
            pipeline.run_hours(instance, HOUR, HOUR)
        with pytest.raises(pipeline.RunFailed, match=r"of daily_fit failed: divide: the day is not over"):
            pipeline.fit_day(instance, HOUR.replace(day=6))


@pytest.mark.usefixtures("jobs")
def test_a_run_that_succeeds_is_named(settings: Settings) -> None:
    with pipeline.instance() as instance:
        run = instance.get_run_by_id(pipeline.run_hours(instance, HOUR.replace(hour=16), HOUR.replace(hour=16)))
        assert run is not None
        assert run.status is dg.DagsterRunStatus.SUCCESS
        assert pipeline.work_seconds(instance, run.run_id) == {}


def test_without_any_failure_event_people_are_sent_to_the_ui() -> None:
    assert "Dagster UI" in pipeline._reason([])
    assert "Dagster UI" in pipeline._reason([SimpleNamespace(event_specific_data=None, step_key="one")])


def test_a_run_whose_process_was_killed_is_ended_and_no_other(settings: Settings) -> None:
    states = (
        dg.DagsterRunStatus.NOT_STARTED,
        dg.DagsterRunStatus.STARTING,
        dg.DagsterRunStatus.STARTED,
        dg.DagsterRunStatus.SUCCESS,
    )
    with pipeline.instance() as instance:
        runs = {state: instance.add_run(dg.DagsterRun(job_name="hourly", status=state)).run_id for state in states}
    assert pipeline.end_orphans(settings) == 3
    assert pipeline.end_orphans(settings) == 0
    with pipeline.instance() as instance:
        after = {state: instance.get_run_by_id(run) for state, run in runs.items()}
    ended = {state for state, run in after.items() if run and run.status is dg.DagsterRunStatus.FAILURE}
    assert ended == set(states[:3])
    kept = after[dg.DagsterRunStatus.SUCCESS]
    assert kept is not None
    assert kept.status is dg.DagsterRunStatus.SUCCESS


def test_runs_outside_the_home_are_left_alone(settings: Settings, tmp_path: Path) -> None:
    with pipeline.instance() as instance:
        run = instance.add_run(dg.DagsterRun(job_name="hourly", status=dg.DagsterRunStatus.STARTED)).run_id
        assert pipeline.end_orphans(settings.model_copy(update={"home": tmp_path})) == 0
        assert instance.get_run_by_id(run).status is dg.DagsterRunStatus.STARTED  # type: ignore[union-attr]
