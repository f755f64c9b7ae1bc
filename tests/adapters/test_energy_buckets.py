"""Sums by hour and day: what the marts say of closed hours is what the raw readings say."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import pytest
import sqlalchemy as sa

from energy_cloud_dagster.adapters import energy, readings
from energy_cloud_dagster.adapters.energy_buckets import bucketed
from energy_cloud_dagster.adapters.readings import ReadingRow
from energy_cloud_dagster.domain.intervals import HOUR

if TYPE_CHECKING:
    from collections.abc import Callable

    from energy_cloud_dagster.adapters.energy import Bucket, EnergySeries, Flow
    from tests.conftest import Pipeline

FLOWS: tuple[Literal["consumption"], Literal["generation"]] = ("consumption", "generation")


def series_of(connection: sa.Connection, flow: Flow) -> list[EnergySeries]:
    found = energy.flow_series(connection, flow, region_id="seoul")
    assert len(found) > 5
    return found


def asked(
    connection: sa.Connection, flow: Flow, bucket: Bucket, start: datetime, end: datetime, **how: Any
) -> list[tuple[Any, ...]]:
    rows = bucketed(connection, series_of(connection, flow), bucket, start, end, **({"limit": None} | how))
    return [
        (row.ts, row.series.device_id, round(row.kwh, 9), row.quality, row.readings, row.received_at) for row in rows
    ]


def window(pipeline: Pipeline) -> tuple[datetime, datetime]:
    """From two days before the run to two hours after it, which nobody has worked on yet."""
    return pipeline.first - timedelta(days=2), pipeline.last + 3 * HOUR


@pytest.mark.parametrize("bucket", ["hourly", "daily"])
@pytest.mark.parametrize("flow", FLOWS)
def test_marts_and_raw_readings_agree(pipeline: Pipeline, flow: Flow, bucket: Bucket) -> None:
    with pipeline.begin() as connection:
        for start, end in (window(pipeline), (pipeline.first + timedelta(minutes=20), pipeline.last)):
            answer = asked(connection, flow, bucket, start, end)
            assert answer == asked(connection, flow, bucket, start, end, from_marts=False)
            assert len(answer) >= 10


@pytest.fixture
def marked(altered: Pipeline) -> Pipeline:
    """The pipeline with 1,000 kWh more in every mart row of a meter, so that its answers show where they come from."""
    with altered.begin() as connection:
        connection.execute(
            sa.text("update marts.fct_series__hourly set energy_kwh = energy_kwh + 1000 where device_id = 'SM-H01'")
        )
    return altered


def hourly(connection: sa.Connection, start: datetime, end: datetime, **how: Any) -> dict[datetime, bool]:
    """Return by hour whether the mart answered for SM-H01."""
    measured = energy.flow_series(connection, "consumption", device_id="SM-H01")
    rows = bucketed(connection, measured, "hourly", start, end, **({"limit": None} | how))
    return {row.ts: row.kwh >= 1000 for row in rows}


def test_closed_hours_come_from_the_marts_and_open_ones_from_raw_readings(marked: Pipeline) -> None:
    start, end = window(marked)
    with marked.begin() as connection:
        found = hourly(connection, start, end)
        assert found == {ts: ts <= marked.last for ts in found}
        assert len(found) == (end - start) / HOUR
        assert any(found.values())
        assert not all(found.values())
        # Pages go on where the one before ended.
        measured = energy.flow_series(connection, "consumption", device_id="SM-H01")
        after = marked.last - HOUR, measured[0].series_id
        assert hourly(connection, start, end, after=after, limit=3) == {
            marked.last + number * HOUR: number == 0 for number in range(3)
        }


def test_what_was_known_at_a_time_comes_from_raw_readings(marked: Pipeline) -> None:
    with marked.begin() as connection:
        found = hourly(connection, *window(marked), as_of=marked.last)
    assert found
    assert not any(found.values())


@pytest.mark.parametrize(
    "lack",
    [
        "delete from marts.fct_series__hourly where device_id = 'SM-H01' and hour_utc = :hour",
        "update marts.fct_series__hourly set coverage = 0.75 where device_id = 'SM-H01' and hour_utc = :hour",
        "update marts.fct_series__hourly set worst_quality = null where device_id = 'SM-H01' and hour_utc = :hour",
    ],
    ids=["gone", "with gaps", "of an older build"],
)
@pytest.mark.parametrize("place", [0, 1, 3, 5])
def test_an_hour_that_the_mart_lacks_comes_from_raw_readings(marked: Pipeline, lack: str, place: int) -> None:
    hour = marked.first + place * HOUR
    with marked.begin() as connection:
        connection.execute(sa.text(lack), {"hour": hour})
        found = hourly(connection, marked.first, marked.last + HOUR)
        assert found == {ts: ts != hour for ts in marked.hours}
        connection.rollback()


def test_part_of_an_hour_comes_from_raw_readings(altered: Pipeline) -> None:
    ten = timedelta(minutes=10)
    with altered.begin() as connection:
        measured = energy.flow_series(connection, "generation", device_id="WT-R80711")
        found = bucketed(
            connection, measured, "hourly", altered.first + ten, altered.first + 3 * HOUR - ten, limit=None
        )
    assert [(row.ts, row.readings) for row in found] == [
        (altered.first + number * HOUR, readings) for number, readings in enumerate((5, 6, 5))
    ]


def test_before_the_first_build_raw_readings_answer(altered: Pipeline) -> None:
    with altered.begin() as connection:
        expected = asked(connection, "consumption", "hourly", *window(altered), from_marts=False)
        connection.execute(sa.text("drop schema marts cascade"))
        assert asked(connection, "consumption", "hourly", *window(altered)) == expected
        connection.rollback()


def test_a_quarantined_correction_leaves_the_revision_before_it(
    connection: sa.Connection, quarantined: Callable[[sa.Connection, ReadingRow, int], None]
) -> None:
    """As in the marts, whose hour is the latest valid revision of each interval."""
    from energy_cloud_dagster.adapters import registry
    from energy_cloud_dagster.sample_data.community import community

    ts = datetime.fromisoformat("2031-05-01T00:00Z")
    registry.seed(connection, community(), ts)
    info = readings.series_ids(connection)["SM-H01", "consumption"]
    rows = [ReadingRow(info.series_id, ts, value, "high", ts + HOUR, "mqtt") for value in (1.5, 9_999.0)]
    readings.store(connection, rows)
    quarantined(connection, rows[1], 2)
    measured = energy.flow_series(connection, "consumption", device_id="SM-H01")
    assert [row.kwh for row in bucketed(connection, measured, "hourly", ts, ts + HOUR, limit=None)] == [1.5]
    assert energy.sums(connection, measured, ts, ts + HOUR)[info.series_id].total == 1.5


@pytest.fixture
def quarantined() -> Callable[[sa.Connection, ReadingRow, int], None]:
    from energy_cloud_dagster.adapters.tables import quarantine

    def hold(connection: sa.Connection, row: ReadingRow, revision: int) -> None:
        values = row._asdict() | {"revision": revision, "rule": "plausible", "detail": "too much"}
        values.pop("source")
        connection.execute(sa.insert(quarantine).values(values))

    return hold
