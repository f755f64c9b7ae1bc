from __future__ import annotations

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from energy_cloud_dagster.adapters import readings, registry, vpp_document, vpps
from energy_cloud_dagster.adapters.readings import ReadingRow
from energy_cloud_dagster.sample_data.community import SEOUL_COMMUNITY

NOW = datetime(2026, 3, 1, 10, 20, tzinfo=UTC)
QUARTER = timedelta(minutes=15)


def current_kw(connection: sa.Connection) -> float | None:
    found = vpps.by_id(connection, "VPP-001")
    assert found is not None
    (state,) = vpp_document.describe(connection, [found], NOW, None)
    (battery,) = [each for each in state.resources if each.resource.resource_id == "BAT-001"]
    return battery.current_kw


def test_what_a_device_says_of_the_moment_counts_until_a_newer_interval_ends(connection: sa.Connection) -> None:
    registry.seed(connection, SEOUL_COMMUNITY, NOW)
    ids = readings.series_ids(connection, ["BAT-001"])

    def report(metric: str, ts: datetime, kw: float) -> None:
        row = ReadingRow(ids["BAT-001", metric].series_id, ts, kw, "high", NOW, "mqtt")
        assert readings.store(connection, [row]).inserted == 1

    assert current_kw(connection) is None
    report("output", NOW - timedelta(minutes=20), 40.0)  # covers 10:00 to 10:15
    assert current_kw(connection) == 40.0
    report("power", NOW - timedelta(minutes=10), 10.0)  # within that quarter
    assert current_kw(connection) == 40.0
    report("power", NOW, -200.0)
    assert current_kw(connection) == -200.0
    report("output", NOW - timedelta(minutes=5), -150.0)  # 10:15 to 10:30
    assert current_kw(connection) == -150.0
