"""The marts that dbt builds: its own tests, bitemporal history, and the same energy that Python computes."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from energy_cloud_dagster.adapters import audit, marts, readings
from energy_cloud_dagster.domain.intervals import HOUR, SETTLING_TIME, hours, rfc3339, run_time
from energy_cloud_dagster.domain.readings import ReadingRow
from energy_cloud_dagster.domain.readings.energy import LEAST_COVERAGE, metered_wh

if TYPE_CHECKING:
    from tests.conftest import Pipeline


def build(start: datetime, end: datetime, select: str = "") -> list[str]:
    """Build the marts of ``[start, end)`` and return what did not go well."""
    from energy_cloud_dagster.resources import Dbt

    found = list(Dbt().build({"start_hour": rfc3339(start), "end_hour": rfc3339(end)}, select))
    assert len(found) > 3
    return [f"{node.unique_id}: {node.message}" for node in found if not node.ok]


def rebuild(pipeline: Pipeline, hour: datetime) -> None:
    """Validate one hour and build its marts, as the hourly run does."""
    from energy_cloud_dagster.assets.readings import validate

    with pipeline.begin() as connection:
        validate(connection, "seoul", hour, hour + HOUR, "test")
    assert build(hour, hour + HOUR) == []


def history(pipeline: Pipeline, role: str, hour: datetime, as_of: datetime) -> dict[str, float | None]:
    with pipeline.begin() as connection:
        rows = marts.history(connection, "seoul", (role,), hour, hour + HOUR, as_of)
    return {row.device_id: row.energy_kwh for row in rows}


def test_all_tests_of_the_project_pass_over_the_whole_history(altered: Pipeline) -> None:
    assert build(altered.first - timedelta(weeks=3), altered.last + HOUR) == []


def test_building_an_hour_again_leaves_the_others_and_gives_the_same(altered: Pipeline) -> None:
    span = altered.first - timedelta(days=2), altered.last + HOUR
    tables = ("fct_series__hourly", "fct_region__hourly", "fct_participant__hourly")
    with altered.begin() as connection:
        before = [marts.fingerprints(connection, table, *span) for table in tables]
    assert build(altered.first, altered.first + HOUR) == []
    with altered.begin() as connection:
        assert [marts.fingerprints(connection, table, *span) for table in tables] == before
    assert {len(one) for one in before} == {48 + 6}


@pytest.fixture
def corrected(altered: Pipeline) -> tuple[Pipeline, datetime, datetime]:
    """An hour of which one meter's value was corrected, and one turbine's interval came first, after it was used."""
    hour, later = altered.first, run_time(altered.first) + timedelta(minutes=40)
    with altered.begin() as connection:
        ids = readings.series_ids(connection)
        readings.store(
            connection, [ReadingRow(ids["SM-H01", "consumption"].series_id, hour, 4.5, "high", later, "mqtt")]
        )
        moved = connection.execute(
            sa.text("update raw.reading set received_at = :later where series_id = :series and ts = :ts"),
            {"later": later, "series": ids["WT-R80711", "output"].series_id, "ts": hour + timedelta(minutes=30)},
        )
        assert moved.rowcount == 1
    rebuild(altered, hour)
    return altered, hour, later


def test_a_correction_is_a_second_state_and_the_first_stays_known(
    corrected: tuple[Pipeline, datetime, datetime],
) -> None:
    pipeline, hour, later = corrected
    original = history(pipeline, "load", hour, later)
    assert history(pipeline, "load", hour, run_time(hour)) == original
    assert original["SM-H01"] != 4.5
    afterwards = history(pipeline, "load", hour, later + timedelta(microseconds=1))
    assert afterwards == original | {"SM-H01": 4.5}
    assert history(pipeline, "load", hour, hour) == {}, "nothing is known of an hour before it was"


def test_an_interval_that_came_late_leaves_what_was_known_without_it(
    corrected: tuple[Pipeline, datetime, datetime],
) -> None:
    """At its gate the hour was the mean of five intervals; the sixth adds a state and takes none away."""
    pipeline, hour, later = corrected
    with pipeline.begin() as connection:
        series = readings.series_ids(connection)["WT-R80711", "output"].series_id
        values = dict(
            connection.execute(
                sa.text("select ts, value from raw.reading where series_id = :series and ts >= :hour and ts < :end"),
                {"series": series, "hour": hour, "end": hour + HOUR},
            ).all()
        )
    in_time = [value for ts, value in values.items() if ts != hour + timedelta(minutes=30)]
    assert len(values) == 6
    known = history(pipeline, "wind", hour, run_time(hour))["WT-R80711"]
    assert known == pytest.approx(sum(in_time) / 5)
    now = history(pipeline, "wind", hour, later + timedelta(seconds=1))["WT-R80711"]
    assert now == pytest.approx(sum(values.values()) / 6)


def test_only_the_latest_state_counts_as_now(corrected: tuple[Pipeline, datetime, datetime]) -> None:
    pipeline, hour, later = corrected
    with pipeline.begin() as connection:
        states = connection.execute(
            sa.text(
                "select known_at_utc, is_latest, substituted from marts.fct_series__hourly"
                " where device_id = 'WT-R80711' and metric = 'output' and hour_utc = :hour order by 1"
            ),
            {"hour": hour},
        ).all()
        now = {one.participant_id: one for one in marts.participants(connection, "seoul", hour, hour + HOUR)}
    assert [(row.is_latest, row.substituted) for row in states] == [(False, True), (True, False)]
    assert states[1].known_at_utc == now["VPP-001"].known_at == later
    assert states[0].known_at_utc < hour + HOUR + SETTLING_TIME
    assert now["HOME-01"].consumption_kwh == 4.5


def test_less_than_half_an_hour_is_no_hour(altered: Pipeline) -> None:
    hour = altered.first
    with altered.begin() as connection:
        series = readings.series_ids(connection)["WT-R80711", "output"].series_id
        connection.execute(
            sa.text("delete from raw.reading where series_id = :series and ts > :hour and ts < :end"),
            {"series": series, "hour": hour + timedelta(minutes=10), "end": hour + HOUR},
        )
    rebuild(altered, hour)
    assert LEAST_COVERAGE > 2 / 6
    assert "WT-R80711" not in history(altered, "wind", hour, run_time(hour))
    with altered.begin() as connection:
        vpp = {one.participant_id: one for one in marts.participants(connection, "seoul", hour, hour + HOUR)}["VPP-001"]
    assert not vpp.complete


def test_a_participants_energy_is_what_its_readings_give(pipeline: Pipeline) -> None:
    """Every hour and participant of the fixture: the mart in SQL and the audit in Python agree to the Wh."""
    start, end = pipeline.first - timedelta(days=4), pipeline.last + HOUR
    with pipeline.begin() as connection:
        mart: dict[datetime, dict[str, int]] = {}
        for one in marts.participants(connection, "seoul", start, end):
            mart.setdefault(one.hour, {})[one.participant_id] = metered_wh(one.net_injection_kwh)
        again = {
            hour: audit.metered_from_readings(audit.validated_rows(connection, "seoul", hour, end + HOUR))
            for hour in hours(start, end)
        }
    assert mart == again
    assert len(mart) == 4 * 24 + 6
    assert all(len(one) == 11 for one in mart.values())


def test_the_mart_agrees_with_python_after_corrections_and_gaps(corrected: tuple[Pipeline, datetime, datetime]) -> None:
    pipeline, hour, later = corrected
    with pipeline.begin() as connection:
        mart = {
            one.participant_id: metered_wh(one.net_injection_kwh)
            for one in marts.participants(connection, "seoul", hour, hour + HOUR)
        }
        rows = audit.validated_rows(connection, "seoul", hour, later)
    assert mart == audit.metered_from_readings(rows)


def test_the_constants_of_both_languages_are_the_same() -> None:
    import yaml

    from energy_cloud_dagster.resources.dbt import project_dir

    variables = yaml.safe_load((project_dir() / "dbt_project.yml").read_text())["vars"]
    assert variables["least_coverage"] == LEAST_COVERAGE
    assert timedelta(minutes=variables["settling_minutes"]) == SETTLING_TIME
