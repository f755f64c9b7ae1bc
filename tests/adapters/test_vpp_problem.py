"""What a plan on request takes for granted where nobody said anything."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from energy_cloud_dagster.adapters import markets, registry, vpp_problem, vpp_registry, vpps
from energy_cloud_dagster.adapters.markets import OutsidePrice
from energy_cloud_dagster.adapters.vpp_problem import Steps
from energy_cloud_dagster.domain.dispatch import parse_problem
from energy_cloud_dagster.sample_data.community import SEOUL_COMMUNITY

if TYPE_CHECKING:
    import sqlalchemy as sa

NOW = datetime(2026, 3, 1, 15, 20, tzinfo=UTC)
HOUR = timedelta(hours=1)
FIRST = NOW.replace(minute=0)


@given(st.dictionaries(st.integers(-50, 50), st.floats(0, 9), min_size=1), st.lists(st.integers(-80, 80), min_size=1))
def test_an_unknown_hour_takes_the_same_clock_hour_of_the_last_day_that_has_one(
    known: dict[int, float], wanted: list[int]
) -> None:
    values = vpp_problem._by_hour(
        {FIRST + hour * HOUR: value for hour, value in known.items()}, [FIRST + hour * HOUR for hour in wanted]
    )
    for hour, value in zip(wanted, values, strict=True):
        days = (known[at] for at in range(hour, -51, -24) if at in known)
        assert value == next(days, known[max(known)])


@pytest.fixture
def plant(connection: sa.Connection) -> vpps.Vpp:
    registry.seed(connection, SEOUL_COMMUNITY, NOW, demo_key="test")
    return vpp_registry.create(connection, "Test", 90.0, "seoul", actor="x", now=NOW, vpp_id="VPP-T")


def documents(connection: sa.Connection, plant: vpps.Vpp, number: int = 3) -> list[dict[str, object]]:
    resources = vpp_problem.dispatchable(connection, plant)
    steps = Steps(FIRST, 60, number)
    found = vpp_problem.resource_documents(connection, plant, resources, {}, steps, NOW, grid_price=0.3)
    parse_problem({"demand": 1, "horizon": number, "resources": found})
    return found


def test_a_vpp_without_resources_has_its_own_connection_at_the_market_s_price(
    connection: sa.Connection, plant: vpps.Vpp
) -> None:
    (own,) = documents(connection, plant)
    assert own == {"id": "VPP-T-GRID", "type": "grid", "capacity": 90, "costPerKWh": [0.3] * 3}
    published = [OutsidePrice("KRW-KWH", FIRST + h * HOUR, (7 + h) * 10**6, 10**6, FIRST) for h in (0, 1)]
    later = OutsidePrice("KRW-KWH", FIRST + 2 * HOUR, 99 * 10**6, 10**6, NOW + HOUR)
    markets.publish_prices(connection, [*published, later])
    (own,) = documents(connection, plant)
    assert own["costPerKWh"] == [7, 8, 8]  # the third was not known yet
    assert "exportPrice" not in own  # it trades nowhere


def test_what_is_registered_stands_where_nothing_is_known(connection: sa.Connection, plant: vpps.Vpp) -> None:
    for kind, parameters in (
        ("storage", {"energyCapacity": 8, "soc": 0.2}),
        ("solar", {"availability": 0.4}),
        ("grid", {"costPerKWh": 0.5}),
    ):
        wanted = vpp_registry.NewResource(kind, 4.0, parameters)
        vpp_registry.create_resource(connection, "VPP-T", wanted, actor="x", now=NOW)
    by_type = {each["type"]: each for each in documents(connection, plant)}
    assert set(by_type) == {"storage", "solar", "grid"}
    assert by_type["storage"]["soc"] == 0.2
    assert by_type["solar"]["availability"] == 0.4
    assert by_type["grid"]["costPerKWh"] == 0.5
