"""The figures of the energy document where the sample's own day does not reach."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from energy_cloud_dagster.adapters import energy_document, readings, registry, tables
from energy_cloud_dagster.adapters.energy import SeriesSum
from energy_cloud_dagster.adapters.readings import ReadingRow
from energy_cloud_dagster.sample_data.community import SEOUL_COMMUNITY

START = datetime(2025, 7, 1, 12, tzinfo=UTC)
END = START + timedelta(hours=1)


def store(connection: sa.Connection, *measured: tuple[str, str, float]) -> None:
    registry.seed(connection, SEOUL_COMMUNITY, START)
    known = readings.series_ids(connection)
    readings.store(
        connection,
        [
            ReadingRow(known[device, metric].series_id, START, value, "high", END, "mqtt")
            for device, metric, value in measured
        ],
    )


def test_the_grid_gives_what_generation_and_discharge_leave_open(connection: sa.Connection) -> None:
    store(
        connection,
        ("SM-H01", "consumption", 10.0),
        ("PV-H01", "generation", 2.0),
        ("WT-R80711", "output", 6.0),  # ten minutes: 1 kWh
        ("BAT-001", "output", 12.0),  # a quarter of an hour: 3 kWh
        ("BAT-001", "soc", 0.25),
    )
    found = energy_document.region_energy(connection, "seoul", START, END)
    assert found.sources == {"solar": 2.0, "wind": 1.0, "hydro": 0.0, "grid": 4.0}
    assert found.generation == 7.0
    assert (found.storage.status, found.storage.current_kwh) == ("discharging", 250.0)
    assert found.quality == "high"


def test_a_turbine_that_stood_still_gave_nothing(connection: sa.Connection) -> None:
    store(connection, ("WT-R80711", "output", -6.0), ("PV-H01", "generation", 2.0), ("SM-H01", "consumption", 1.0))
    found = energy_document.region_energy(connection, "seoul", START, END)
    assert found.sources == {"solar": 2.0, "wind": 0.0, "hydro": 0.0, "grid": 0.0}
    assert found.generation == 2.0


def test_meters_are_summed_by_the_class_of_their_customer(connection: sa.Connection) -> None:
    registry.seed(connection, SEOUL_COMMUNITY, START)
    for device, customer_class in (("SM-H02", "commercial"), ("SM-H03", "industrial"), ("SM-H04", None)):
        connection.execute(
            sa.update(tables.device).where(tables.device.c.device_id == device).values(customer_class=customer_class)
        )
    store(connection, *((f"SM-H0{home}", "consumption", float(home)) for home in (1, 2, 3, 4)))
    found = energy_document.region_energy(connection, "seoul", START, END)
    assert found.breakdown == {"residential": 5.0, "commercial": 2.0, "industrial": 3.0}
    assert found.consumption == 10.0


@pytest.mark.parametrize(
    ("counts", "quality"),
    [
        ({"high": 95, "medium": 5}, "high"),
        ({"high": 94, "medium": 6}, "medium"),
        ({"high": 90, "low": 10}, "low"),
        ({"bad": 1}, "bad"),
        ({}, "bad"),
    ],
)
def test_the_quality_is_what_nearly_all_readings_reach(counts: dict[str, int], quality: str) -> None:
    assert energy_document.overall_quality([SeriesSum(0.0, sum(counts.values()), counts)]) == quality
