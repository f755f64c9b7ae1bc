"""What the clock and the sensors ask for: the right hours, once, in order, and a reason where they ask for nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
import sqlalchemy as sa
import structlog

from energy_cloud_dagster.adapters import registry, validation
from energy_cloud_dagster.domain.intervals import HOUR, run_time
from energy_cloud_dagster.partitions import hour_key

if TYPE_CHECKING:
    from tests.conftest import Pipeline

MARKET = "KRW-KWH"


@pytest.fixture
def connection(pipeline: Pipeline) -> Iterator[sa.Connection]:
    """A connection to the pipeline's database that is rolled back."""
    from energy_cloud_dagster.resources import Database
    from energy_cloud_dagster.resources.database import _engine

    with _engine(Database().resolved_url).connect() as opened, opened.begin() as transaction:
        yield opened
        transaction.rollback()


@pytest.fixture
def operating(altered: Pipeline) -> Pipeline:
    with altered.begin() as connection:
        registry.start_operating(connection, "seoul", altered.first)
    return altered


def due(connection: sa.Connection, now: datetime, limit: int = 6) -> list[datetime]:
    return validation.due_hours(connection, "seoul", MARKET, now, limit)


def tick(pipeline: Pipeline, now: datetime) -> Any:
    """Return what the schedule asks for at ``now``: its run requests or the reason why there are none."""
    from energy_cloud_dagster.definitions import defs
    from energy_cloud_dagster.resources import Database
    from energy_cloud_dagster.schedules import hourly_tick

    with dg.build_schedule_context(
        instance=pipeline.instance,
        scheduled_execution_time=now,
        resources={"database": Database()},
        repository_def=defs.get_repository_def(),
    ) as context:
        found = hourly_tick.evaluate_tick(context)
    return found.run_requests or found.skip_message


def late(pipeline: Pipeline) -> Any:
    from energy_cloud_dagster.sensors.automation import late_readings

    return pipeline.asked_by(late_readings)


# -- due hours


def test_nothing_is_due_before_a_region_operates(pipeline: Pipeline, connection: sa.Connection) -> None:
    assert due(connection, pipeline.last + 100 * HOUR) == []


def test_what_was_worked_on_is_not_due_and_the_next_hour_only_after_its_settling_time(
    pipeline: Pipeline, connection: sa.Connection
) -> None:
    registry.start_operating(connection, "seoul", pipeline.first)
    following = pipeline.last + HOUR
    assert due(connection, run_time(pipeline.last)) == []
    assert due(connection, run_time(following) - timedelta(seconds=1)) == []
    assert due(connection, run_time(following)) == [following]


def test_missed_hours_are_due_oldest_first_up_to_the_limit(pipeline: Pipeline, connection: sa.Connection) -> None:
    registry.start_operating(connection, "seoul", pipeline.first)
    now = run_time(pipeline.last + 10 * HOUR)
    assert due(connection, now, 4) == [pipeline.last + step * HOUR for step in range(1, 5)]
    assert len(due(connection, now, 100)) == 10


def test_an_hour_whose_settlement_is_missing_is_due_and_takes_nobodys_turn(
    pipeline: Pipeline, connection: sa.Connection
) -> None:
    registry.start_operating(connection, "seoul", pipeline.first)
    stuck = pipeline.settled[0]
    connection.execute(
        sa.text("update settlement.batch set state = 'sent' where delivery_start = :hour"), {"hour": stuck}
    )
    following = pipeline.last + HOUR
    assert due(connection, run_time(following)) == [stuck, following]
    assert due(connection, run_time(following), 1) == [following]
    assert due(connection, run_time(pipeline.last)) == [stuck]


def test_an_hour_that_is_held_for_its_readings_is_not_due(pipeline: Pipeline, connection: sa.Connection) -> None:
    registry.start_operating(connection, "seoul", pipeline.first)
    held = {"hour": pipeline.settled[0]}
    connection.execute(sa.text("update settlement.batch set state = 'intended' where delivery_start = :hour"), held)
    connection.execute(sa.text("update validated.hour set complete = false where hour = :hour"), held)
    assert due(connection, run_time(pipeline.last)) == []


# -- the schedules


def test_the_tick_says_why_it_does_nothing(operating: Pipeline) -> None:
    assert "no hour is due" in tick(operating, run_time(operating.last))


def test_the_tick_asks_for_one_hour_by_its_partition(operating: Pipeline) -> None:
    (asked,) = tick(operating, run_time(operating.last + HOUR))
    assert asked.partition_key == hour_key(operating.last + HOUR)
    assert asked.run_key.startswith("tick-")


def test_the_tick_asks_for_neighbours_in_one_run_and_for_others_apart(operating: Pipeline) -> None:
    with operating.begin() as connection:
        connection.execute(
            sa.text("update settlement.batch set state = 'sent' where delivery_start = :hour"),
            {"hour": operating.settled[0]},
        )
    alone, missed = tick(operating, run_time(operating.last + 3 * HOUR))
    assert alone.partition_key == hour_key(operating.settled[0])
    assert missed.tags["dagster/asset_partition_range_start"] == hour_key(operating.last + HOUR)
    assert missed.tags["dagster/asset_partition_range_end"] == hour_key(operating.last + 3 * HOUR)
    assert alone.run_key != missed.run_key


def test_the_tick_catches_up_a_limited_number_of_hours(operating: Pipeline) -> None:
    (asked,) = tick(operating, run_time(operating.last + 50 * HOUR))
    assert asked.tags["dagster/asset_partition_range_end"] == hour_key(operating.last + 6 * HOUR)


def test_the_tick_waits_for_a_run_that_goes_on(operating: Pipeline) -> None:
    from energy_cloud_dagster.definitions import defs
    from energy_cloud_dagster.sensors.automation import chain_receipts

    job = defs.resolve_job_def("hourly")
    run = operating.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    try:
        assert tick(operating, run_time(operating.last + HOUR)) == "the last run is still at work"
        assert late(operating) == "the hourly job is at work"
        assert operating.asked_by(chain_receipts) == "a settlement is at work"
    finally:
        operating.instance.delete_run(run.run_id)


def test_the_tick_names_a_database_that_lacks_the_region(operating: Pipeline) -> None:
    from energy_cloud_dagster.resources import Database
    from energy_cloud_dagster.schedules import hourly_tick

    operating.server.ensure_database("pipeline_bare")
    from energy_cloud_dagster.adapters.database import upgrade

    bare = operating.server.url("pipeline_bare")
    upgrade(bare)
    with dg.build_schedule_context(
        instance=operating.instance,
        scheduled_execution_time=run_time(operating.last),
        resources={"database": Database(url=bare)},
    ) as context:
        found = hourly_tick.evaluate_tick(context)
    assert "region 'seoul' is unknown" in str(found.skip_message)


def test_the_fit_is_asked_for_the_day_that_has_ended(pipeline: Pipeline) -> None:
    from energy_cloud_dagster.definitions import defs
    from energy_cloud_dagster.schedules import daily_fit

    now = datetime(2026, 4, 7, 0, 20, tzinfo=UTC)
    with dg.build_schedule_context(scheduled_execution_time=now, repository_def=defs.get_repository_def()) as context:
        (asked,) = daily_fit.evaluate_tick(context).run_requests or []
    assert (asked.partition_key, asked.run_key) == ("2026-04-06", "fit-2026-04-06")


# -- the sensors


def test_late_readings_are_looked_for_only_in_an_operating_region(altered: Pipeline) -> None:
    assert late(altered) == "region seoul is not in operation"


def test_a_reading_that_was_committed_late_asks_for_its_hour_whatever_its_receipt(operating: Pipeline) -> None:
    """A worker that stalled before its commit: received before others that validation saw."""
    assert late(operating) == "no hour has readings that arrived after its validation"
    hour = operating.hours[1]
    with operating.begin() as connection:
        connection.execute(
            sa.text(
                "insert into raw.reading select series_id, ts, revision + 1, value + 0.5, quality,"
                " received_at - interval '1 hour', source from raw.reading where ts = :hour order by series_id limit 1"
            ),
            {"hour": hour},
        )
    (asked,) = late(operating)
    assert asked.partition_key == hour_key(hour)
    first = asked.run_key
    with operating.begin() as connection:
        connection.execute(
            sa.text(
                "insert into raw.reading select series_id, ts, revision + 2, value + 0.25, quality,"
                " received_at - interval '1 hour', source from raw.reading where ts = :hour order by series_id limit 1"
            ),
            {"hour": hour},
        )
    (asked,) = late(operating)
    assert asked.run_key != first, "more arrived: that is another run"


def test_older_late_readings_are_for_an_operator(operating: Pipeline) -> None:
    with operating.begin() as connection:
        connection.execute(sa.text("update registry.region set operating_since = operating_since - interval '30 days'"))
        connection.execute(
            sa.text(
                "insert into raw.reading select series_id, ts, revision + 1, value + 0.5, quality, received_at, source"
                " from raw.reading where ts = :hour order by series_id limit 1"
            ),
            {"hour": operating.first - 8 * 24 * HOUR},
        )
    assert late(operating) == "no hour has readings that arrived after its validation"


def test_receipts_are_asked_for_only_where_one_is_missing(altered: Pipeline) -> None:
    from energy_cloud_dagster.sensors.automation import chain_receipts

    assert altered.asked_by(chain_receipts) == "every batch has its receipt"
    with altered.begin() as connection:
        connection.execute(sa.text("update settlement.batch set state = 'sent', block_number = null"))
    asked = altered.asked_by(chain_receipts)
    assert [one.partition_key for one in asked] == [hour_key(hour) for hour in altered.settled]


def test_sensors_name_a_database_that_does_not_answer(pipeline: Pipeline) -> None:
    from energy_cloud_dagster.resources import Database
    from energy_cloud_dagster.sensors.automation import chain_receipts, late_readings

    nobody = Database(url="postgresql://nobody:nothing@127.0.0.1:9/none?connect_timeout=2")
    for sensor in (late_readings, chain_receipts):
        with dg.build_sensor_context(instance=pipeline.instance, resources={"database": nobody}) as context:
            found = sensor.evaluate_tick(context)
        assert not found.run_requests
        assert "PostgreSQL" in str(found.skip_message)


def test_a_failed_run_is_told_on_the_log(pipeline: Pipeline) -> None:
    from energy_cloud_dagster.sensors.automation import failed_runs

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENERGY_CLOUD_REGION", "busan")  # nothing was measured there: the model cannot be fitted
        from energy_cloud_dagster.definitions import defs

        outcome = defs.resolve_job_def("daily_fit").execute_in_process(
            instance=pipeline.instance, raise_on_error=False, partition_key="2026-04-05"
        )
    assert not outcome.success
    event = next(event for event in outcome.all_events if event.is_failure and not event.is_step_event)
    context = dg.build_run_status_sensor_context(
        sensor_name="failed_runs",
        dagster_instance=pipeline.instance,
        dagster_run=outcome.dagster_run,
        dagster_event=event,
    ).for_run_failure()
    with structlog.testing.capture_logs() as logs:
        failed_runs(context)
    (line,) = logs
    assert (line["event"], line["job"], line["partition"]) == ("run_failed", "daily_fit", "2026-04-05")


# -- their state


def test_schedules_and_sensors_are_stopped_unless_the_setting_says_otherwise() -> None:
    from energy_cloud_dagster.schedules import SCHEDULES
    from energy_cloud_dagster.sensors import SENSORS
    from energy_cloud_dagster.settings import Settings

    assert Settings.model_fields["automation"].default == "stopped"
    assert {one.default_status.value for one in [*SCHEDULES, *SENSORS]} == {"STOPPED"}


def test_schedules_and_sensors_run_at_once_where_the_setting_says_so(pipeline: Pipeline) -> None:
    code = (
        "from energy_cloud_dagster.schedules import SCHEDULES; from energy_cloud_dagster.sensors import SENSORS;"
        "print(*(one.default_status.value for one in [*SCHEDULES, *SENSORS]), SCHEDULES[0].cron_schedule)"
    )
    environment = {**os.environ, "ENERGY_CLOUD_AUTOMATION": "running", "ENERGY_CLOUD_TICK_CRON": "*/2 * * * *"}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["RUNNING"] * 7 + ["*/2", "*", "*", "*", "*"]
