"""A bad reading waits in quarantine, a missing meter holds its own hour, and the late reading releases it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg
import pytest
import sqlalchemy as sa

from energy_cloud_dagster.adapters import readings, registry, settlements, validation
from energy_cloud_dagster.cli.pipeline import RunFailed
from energy_cloud_dagster.domain.intervals import HOUR, rfc3339
from energy_cloud_dagster.domain.readings import ReadingRow
from energy_cloud_dagster.partitions import hour_key

if TYPE_CHECKING:
    from tests.conftest import Pipeline


@pytest.fixture
def bad(altered: Pipeline) -> tuple[Pipeline, datetime]:
    """The next two hours: in the first one meter sent an implausible correction, and another one bad quality."""
    hour = altered.last + HOUR
    with altered.begin() as connection:
        ids = readings.series_ids(connection)
        implausible = ids["SM-H01", "consumption"].series_id
        row = ReadingRow(implausible, hour, 9999.0, "high", hour + HOUR + timedelta(seconds=30), "mqtt")
        assert readings.store(connection, [row]).revisions == 1
        connection.execute(
            sa.text("update raw.reading set quality = 'bad' where series_id = :series and ts = :hour"),
            {"series": ids["SM-H02", "consumption"].series_id, "hour": hour},
        )
        registry.start_operating(connection, "seoul", altered.first)
    return altered, hour


def settled(pipeline: Pipeline, hour: datetime) -> settlements.BatchRow | None:
    with pipeline.begin() as connection:
        return settlements.batch_of_hour(connection, "KRW-KWH", hour)


def test_a_missing_meter_holds_its_own_hour_until_its_reading_arrives(bad: tuple[Pipeline, datetime]) -> None:
    from energy_cloud_dagster.sensors.automation import late_readings

    pipeline, hour = bad
    run = pipeline.run(hour, hour + HOUR)

    with pipeline.begin() as connection:
        quarantined = connection.execute(
            sa.text(
                "select device_id, rule, detail, state from validated.quarantine q join registry.series s"
                " using (series_id) where ts = :hour order by device_id"
            ),
            {"hour": hour},
        ).all()
        census = validation.census(connection, "seoul", hour, hour + 2 * HOUR)
        due = validation.due_hours(connection, "seoul", "KRW-KWH", hour + 4 * HOUR, 6)
    assert [tuple(row) for row in quarantined] == [
        (
            "SM-H01",
            "above_plausible_range",
            "9999.0 is outside 0.0 to 50.0 for load",
            "held",
        ),
        ("SM-H02", "quality_bad", quarantined[1].detail, "held"),
    ]
    assert "quality bad" in quarantined[1].detail
    assert [(one.complete, one.missing, one.rows_quarantined) for one in census] == [
        (False, ["SM-H02/consumption"], 2),
        (True, [], 0),
    ]
    assert settled(pipeline, hour) is None
    following = settled(pipeline, hour + HOUR)
    assert following is not None
    assert following.state == "confirmed"
    assert hour not in due

    checks = pipeline.checks(run)
    warn = dg.AssetCheckSeverity.WARN
    assert {
        name: one.passed for name, one in checks.items() if not name.startswith(("not_null", "unique", "hour_rows"))
    } == {
        "few_readings_in_quarantine": True,
        "every_series_has_readings": False,
        "readings_are_fresh": True,
        "delivery_may_be_settled": False,
    } | {name: True for name in checks if name.startswith(("accepted", "assert"))}
    assert checks["every_series_has_readings"].severity == warn
    assert checks["every_series_has_readings"].metadata["missing"].value == {rfc3339(hour): ["SM-H02/consumption"]}
    assert checks["few_readings_in_quarantine"].metadata["quarantined"].value == {rfc3339(hour): 2}
    assert checks["delivery_may_be_settled"].severity == warn, "another hour of the run is good"
    held = checks["delivery_may_be_settled"].metadata["held"].value
    assert held == {rfc3339(hour): ["HOME-02: meter_missing"]}

    with pytest.raises(RunFailed, match="delivery_may_be_settled"):
        pipeline.run(hour)
    assert settled(pipeline, hour) is None

    arrived = hour + 2 * HOUR + timedelta(minutes=20)
    with pipeline.begin() as connection:
        series = readings.series_ids(connection)["SM-H02", "consumption"].series_id
        readings.store(connection, [ReadingRow(series, hour, 0.75, "high", arrived, "mqtt")])
    (asked,) = pipeline.asked_by(late_readings)
    assert asked.partition_key == hour_key(hour)

    again = pipeline.run(hour)

    batch = settled(pipeline, hour)
    assert batch is not None
    assert (batch.state, batch.known_at) == ("confirmed", arrived)
    checks = pipeline.checks(again)
    assert checks["delivery_may_be_settled"].passed
    assert checks["every_series_has_readings"].passed
    assert not checks["readings_are_fresh"].passed
    assert checks["readings_are_fresh"].metadata["late"].value == {rfc3339(hour): rfc3339(arrived)}
    assert pipeline.asked_by(late_readings) == "no hour has readings that arrived after its validation"


def test_energy_beyond_a_connection_holds_its_hour_in_a_range_too(altered: Pipeline) -> None:
    hour = altered.last + HOUR
    with altered.begin() as connection:
        series = readings.series_ids(connection)["PV-VPP-001", "generation"].series_id
        row = ReadingRow(series, hour, 50_000.0, "high", hour + HOUR + timedelta(seconds=30), "mqtt")
        assert readings.store(connection, [row]).revisions == 1

    run = altered.run(hour, hour + HOUR)

    assert settled(altered, hour) is None
    assert settled(altered, hour + HOUR) is not None
    assert altered.checks(run)["delivery_may_be_settled"].metadata["held"].value == {
        rfc3339(hour): ["VPP-001: beyond_connection"]
    }


def test_many_bad_readings_are_a_warning(altered: Pipeline) -> None:
    hour = altered.last
    with altered.begin() as connection:
        connection.execute(sa.text("update raw.reading set quality = 'bad' where ts = :hour"), {"hour": hour})
    ran = altered.job("hourly", hour, asset_selection=[dg.AssetKey("validated_readings_hourly")])
    found = altered.checks(ran.run_id)["few_readings_in_quarantine"]
    assert ran.success, "it warns and holds nothing back"
    assert not found.passed
    assert found.severity == dg.AssetCheckSeverity.WARN
    assert float(str(found.metadata["worst_share"].value)) > 0.05


def test_what_someone_released_is_valid_and_what_they_confirmed_stays_out(altered: Pipeline) -> None:
    from energy_cloud_dagster.assets.readings import validate

    hour = altered.last
    with altered.begin() as connection:
        ids = readings.series_ids(connection)
        for device in ("SM-H01", "SM-H02"):
            connection.execute(
                sa.text("update raw.reading set value = 77 where ts = :hour and series_id = :series"),
                {"hour": hour, "series": ids[device, "consumption"].series_id},
            )
        (before,) = validate(connection, "seoul", hour, hour + HOUR, "test")
        assert before.missing == ["SM-H01/consumption", "SM-H02/consumption"]
        for device, state in (("SM-H01", "released"), ("SM-H02", "confirmed")):
            connection.execute(
                sa.text("update validated.quarantine set state = :state where ts = :hour and series_id = :series"),
                {"hour": hour, "series": ids[device, "consumption"].series_id, "state": state},
            )
        (after,) = validate(connection, "seoul", hour, hour + HOUR, "test")
        states = connection.execute(
            sa.text("select state from validated.quarantine where ts = :hour order by state"), {"hour": hour}
        ).scalars()
        assert after.missing == ["SM-H02/consumption"]
        assert list(states) == ["confirmed", "released"]


def test_an_hour_without_any_reading_is_told_and_held(altered: Pipeline) -> None:
    from energy_cloud_dagster.assets.readings import validate
    from energy_cloud_dagster.assets.settlement import Held, _prepare

    hour = altered.last
    with altered.begin() as connection:
        connection.execute(
            sa.text("delete from raw.reading where ts >= :hour and ts < :hour + interval '1 hour'"), {"hour": hour}
        )
        (census,) = validate(connection, "seoul", hour, hour + HOUR, "test")
        assert (census.rows_read, census.known_at, census.complete) == (0, None, False)
        held = _prepare(connection, "seoul", hour, "test")
        assert isinstance(held, Held)
        assert "validated" in held.reason
        assert isinstance(_prepare(connection, "seoul", altered.first, "test"), Held)


def test_a_check_by_itself_looks_at_the_newest_hour(pipeline: Pipeline) -> None:
    from energy_cloud_dagster.checks.window import hours_checked

    context = dg.build_asset_check_context(instance=pipeline.instance)
    with pipeline.begin() as connection:
        assert hours_checked(context, connection, "seoul") == [pipeline.last]
        assert hours_checked(context, connection, "busan") == []
