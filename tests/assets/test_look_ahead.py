"""What is planned for an hour uses only rows that were received before its gate."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import sqlalchemy as sa

from energy_cloud_dagster.adapters import readings
from energy_cloud_dagster.domain.intervals import HOUR, gate_closure
from energy_cloud_dagster.domain.readings import ReadingRow

if TYPE_CHECKING:
    from tests.conftest import Pipeline

PLANNED = (
    "outside_prices_hourly",
    "region_load_forecast_hourly",
    "generation_availability_hourly",
    "site_forecast_hourly",
    "dispatch_plan_hourly",
    "market_clearing_hourly",
)


def test_rows_received_after_the_gate_change_nothing_that_was_planned(altered: Pipeline) -> None:
    """Everything deleted that came after the gate, and planned anew: the same forecasts, plans, orders and clearing.

    Late first readings and corrections of every length of interval are among what came after.
    """
    partition = altered.first + 2 * HOUR
    gate = gate_closure(partition + 2 * HOUR)
    original = _planned(altered, altered.range_run, partition)

    planned = []
    for known_later in (True, False):
        altered.restore("pipeline_before")
        with altered.begin() as connection:
            _arrive_late(connection, altered.first + HOUR, gate)
            if not known_later:
                _delete_from(connection, gate)
        planned.append(_planned(altered, altered.run(altered.first, partition), partition))

    assert planned[0] == planned[1]
    assert planned[0] != original, "the late rows matter: with them in time the plan was another"


def _delete_from(connection: sa.Connection, gate: datetime) -> None:
    deleted = connection.execute(sa.text("delete from raw.reading where received_at >= :gate"), {"gate": gate})
    assert deleted.rowcount > 200


def _planned(pipeline: Pipeline, run: str, until: datetime) -> dict[tuple[str, str], str]:
    from energy_cloud_dagster.partitions import hour_key

    wanted = {hour_key(hour) for hour in pipeline.hours if hour <= until}
    return {key: one for key, one in pipeline.digests(run).items() if key[0] in PLANNED and key[1] in wanted}


def _arrive_late(connection: sa.Connection, hour: datetime, gate: datetime) -> None:
    """Let a reading of turbine, feeder, battery and home arrive after the gate, and correct others then."""
    ids = readings.series_ids(connection)
    late = gate + timedelta(minutes=25)
    move = sa.text("update raw.reading set received_at = :late where series_id = :series and ts = :ts")
    for key, ts in (
        (("WT-R80711", "output"), hour + timedelta(minutes=20)),
        (("GRID-SEOUL", "load"), hour + timedelta(minutes=30)),
        (("BAT-001", "soc"), hour + timedelta(minutes=45)),
        (("SM-H03", "consumption"), hour),
    ):
        moved = connection.execute(move, {"late": late, "series": ids[key].series_id, "ts": ts})
        assert moved.rowcount == 1
    corrected = [
        ReadingRow(ids[key].series_id, ts, value, "high", late, "mqtt")
        for key, ts, value in (
            (("SM-H04", "consumption"), hour, 3.25),
            (("WT-R80721", "output"), hour + timedelta(minutes=10), 900.5),
            (("BAT-001", "soc"), hour + timedelta(minutes=30), 0.91),
        )
    ]
    assert readings.store(connection, corrected).revisions == len(corrected)
