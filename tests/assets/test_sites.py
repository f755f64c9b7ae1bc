"""The homes' forecasts from history to points: one model for all, every home answered, nothing read twice."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from energy_cloud_dagster.adapters import forecasts, marts
from energy_cloud_dagster.assets.sites import POOLED, homes_of, sites_key
from energy_cloud_dagster.domain.forecasting.sites.pooled import FittedSites
from energy_cloud_dagster.domain.intervals import HOUR, run_time

if TYPE_CHECKING:
    from tests.conftest import Pipeline


def test_every_home_is_forecast_by_the_model_of_all(pipeline: Pipeline) -> None:
    now = run_time(pipeline.first)
    with pipeline.begin() as connection:
        homes = homes_of(connection, "seoul")
        rows = forecasts.issued(connection, now, prefixes=("site/",))
        stored = forecasts.newest_model(connection, sites_key("seoul"), POOLED, now)
    assert stored is not None
    assert set(FittedSites.from_text(stored.artifact).keys) == set(homes)
    assert stored.metrics["usual_of_similar_day"] < 1.05
    by_key = defaultdict(list)
    for row in rows:
        by_key[row.series_key].append(row)
    assert set(by_key) == {f"site/{home}/{role}" for home in homes for role in ("load", "pv")}
    for key, found in by_key.items():
        assert [row.ts for row in found] == [pipeline.first + (n + 1) * HOUR for n in range(24)]
        assert {row.rung for row in found} == {"champion" if key.endswith("load") else "similar_day"}
        assert all(0 <= row.p10 <= row.p50 <= row.p90 for row in found)
    nights = [
        row for key, found in by_key.items() if key.endswith("pv") for row in found if row.ts.hour in (15, 16, 17)
    ]
    assert nights
    assert all(row.p90 == 0 for row in nights), "the sun does not shine between midnight and three"


def test_the_columns_are_the_rows_of_the_mart(pipeline: Pipeline) -> None:
    end = pipeline.first + HOUR
    window = ("seoul", ("load", "pv"), end - timedelta(days=3), end, run_time(pipeline.first))
    with pipeline.begin() as connection:
        rows = marts.history(connection, *window)
        columns = marts.participant_series(connection, *window)
    wanted: dict[tuple[str, str, int], float] = defaultdict(float)
    for row in rows:
        if row.participant_id and row.energy_kwh is not None:
            wanted[row.participant_id, row.role, int(row.hour.timestamp()) // 3600] += row.energy_kwh
    found = {
        (one.participant_id, one.role, hour): value
        for one in columns
        for hour, value in zip(one.hours, one.energy_kwh, strict=True)
    }
    assert len(found) > 1000
    assert found == pytest.approx(wanted)
