"""`energy-cloud demo`: the main job, once, on embedded real parts and measured data."""

from __future__ import annotations

import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from energy_cloud_dagster.cli.console import Stages, plain_console
from energy_cloud_dagster.domain.intervals import HOUR

if TYPE_CHECKING:
    from energy_cloud_dagster.settings import Settings

#: First settled hour of the demo's calendar: midnight in Seoul.
FIRST_DELIVERY: Final = datetime(2026, 5, 5, 15, tzinfo=UTC)
#: Partitions before it that only clear the market for it.
_LEAD: Final = 2 * HOUR


def demo(
    hours: Annotated[int, typer.Option(min=1, max=168, help="Hours of delivery to settle.")] = 24,
    keep: Annotated[bool, typer.Option("--keep", help="Stay up afterwards, as `up` does.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Replay measured data over real MQTT and OPC UA, run the hourly pipeline, settle on a chain, and report.

    Exit status 1 when a trade cannot be proved.

    Example: energy-cloud demo --hours 6
    """
    from energy_cloud_dagster.cli import bringup, logs, report
    from energy_cloud_dagster.settings import load_settings

    started = time.perf_counter()
    console = plain_console(stderr=as_json)
    stages = Stages(console)
    given = load_settings(replay=True, automation="stopped", simulate_resources=True)
    logs.configure(given, quiet=True)
    with ExitStack() as stack:
        with stages.stage("Start database, broker and chain"):
            settings, parts = stack.enter_context(bringup.running(given))
        report.banner(console, parts.running)
        found = _run(settings, stages, hours)
        found["seconds"] = {**stages.seconds, "Whole demo": time.perf_counter() - started}
        if as_json:
            typer.echo(report.as_json(found))
        else:
            report.show(console, found)
        if keep:
            from energy_cloud_dagster.cli.up import stay

            stay(settings, console)
        if found["audit"]["broken"]:
            raise typer.Exit(1)


def _run(settings: Settings, stages: Stages, hours: int) -> dict[str, Any]:
    """Run all stages and return what the report says."""
    from energy_cloud_dagster.cli import bringup, pipeline, report
    from energy_cloud_dagster.cli.replay import replay

    first = FIRST_DELIVERY - _LEAD
    end = FIRST_DELIVERY + hours * HOUR
    history_start = first - bringup.HISTORY
    with stages.stage("Migrate the database and register the community"):
        passwords = bringup.prepare(settings, history_start)
    report.credentials(stages.console, passwords)
    with stages.stage("Load eight weeks of history", bringup.HISTORY.days) as progress:
        history = bringup.load_history(settings, history_start, first, progress)
    total = int((end - first) / HOUR)
    with stages.stage(f"Replay {total} hours over MQTT and OPC UA") as progress:
        replayed = replay(settings, first, end, progress)
    with stages.stage("Import the pipeline (Dagster, dbt, Great Expectations)"):
        from energy_cloud_dagster.definitions import defs  # noqa: F401

        pipeline.end_orphans(settings)
    with pipeline.instance() as instance:
        with stages.stage("Validate the history and build its marts"):
            pipeline.validate_history(history_start, first)
        with stages.stage("Judge and fit the load's models"):
            day = (first - timedelta(days=1)).replace(hour=0)
            pipeline.fit_day(instance, day)
        with stages.stage(f"Run the hourly pipeline for {total} hours, from meter to chain"):
            run_id = pipeline.run_hours(instance, first, end - HOUR)
        efforts = pipeline.work_seconds(instance, run_id)
        with stages.stage("Score the forecasts that were published"):
            for days in range(1, 1 + -(-hours // 24)):  # the first delivery is the first hour of a local day
                pipeline.score_day(instance, (FIRST_DELIVERY + timedelta(days=days)).replace(hour=0))
    with stages.stage("Verify every trade from database and chain"):
        audited = report.audit(settings, FIRST_DELIVERY, end)
    return report.gather(settings, FIRST_DELIVERY, end) | {
        "history_rows": history,
        "replayed": replayed,
        "audit": audited,
        "run": run_id,
        "efforts": efforts,
        "passwords": passwords,
    }
