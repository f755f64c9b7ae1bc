"""Weather is kept as it was known: what came later changes no earlier answer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from energy_cloud_dagster.adapters import weather
from energy_cloud_dagster.adapters.open_meteo import WeatherPoint
from energy_cloud_dagster.adapters.tables import weather as table
from energy_cloud_dagster.domain.intervals import HOUR

if TYPE_CHECKING:
    from energy_cloud_dagster.adapters.weather import KnownWeather

START = datetime(2026, 6, 20, 12, tzinfo=UTC)
PLACE = weather.location_key(37.5665, 126.978)


def points(*values: float) -> list[WeatherPoint]:
    return [WeatherPoint("temperature", START + index * HOUR, value) for index, value in enumerate(values)]


def known(
    connection: sa.Connection, as_of: datetime, lead: timedelta | None = None, hours: int = 4
) -> list[KnownWeather]:
    return weather.known(connection, PLACE, ("temperature",), START, START + hours * HOUR, as_of, lead=lead)


def test_an_as_of_knows_nothing_that_was_issued_later(connection: sa.Connection) -> None:
    weather.save(connection, PLACE, START - 6 * HOUR, "test", points(20.0, 21.0))
    weather.save(connection, PLACE, START - HOUR, "test", points(25.0, 21.0, 22.0))
    assert known(connection, START - 7 * HOUR) == []
    assert [one.value for one in known(connection, START - 2 * HOUR)] == [20.0, 21.0]
    assert [one.value for one in known(connection, START - HOUR)] == [25.0, 21.0, 22.0]
    assert weather.known(connection, "0.00,0.00", ("temperature",), START, START + HOUR, START) == []


def test_the_past_can_be_had_as_it_was_forecast(connection: sa.Connection) -> None:
    """With a lead the newest issue that came so long before its hour; where there is none, the first."""
    weather.save(connection, PLACE, START - 24 * HOUR, "test", points(10.0, 11.0))
    weather.save(connection, PLACE, START - 12 * HOUR, "test", points(12.0, 13.0))
    weather.save(connection, PLACE, START, "test", points(14.0, 15.0, 16.0))
    assert [one.value for one in known(connection, START + 9 * HOUR)] == [14.0, 15.0, 16.0]
    assert [one.value for one in known(connection, START + 9 * HOUR, 12 * HOUR)] == [12.0, 13.0, 16.0]
    assert [one.value for one in known(connection, START + 9 * HOUR, 13 * HOUR)] == [10.0, 13.0, 16.0]
    assert [one.value for one in known(connection, START + 9 * HOUR, 99 * HOUR)] == [10.0, 11.0, 16.0]


def test_only_news_take_room_and_the_same_issue_twice_is_one(connection: sa.Connection) -> None:
    assert weather.save(connection, PLACE, START, "test", points(20.0, 21.0)) == 2
    assert weather.save(connection, PLACE, START + HOUR, "test", points(20.0, 21.0)) == 0
    assert weather.save(connection, PLACE, START + 2 * HOUR, "test", points(20.0, 23.0)) == 1
    assert weather.save(connection, PLACE, START + 2 * HOUR, "test", points(20.0, 24.0)) == 1
    assert [one.value for one in known(connection, START + 3 * HOUR)] == [20.0, 24.0]
    assert weather.save(connection, PLACE, START + 4 * HOUR, "test", []) == 0


@given(issues=st.lists(st.lists(st.sampled_from([1.0, 2.0, 3.0]), min_size=1, max_size=4), min_size=1, max_size=5))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_left_out_as_no_news_is_read_all_the_same(connection: sa.Connection, issues: list[list[float]]) -> None:
    connection.execute(sa.delete(table))
    expected: dict[datetime, float] = {}
    for hour, values in enumerate(issues):
        weather.save(connection, PLACE, START + hour * HOUR, "test", points(*values))
        expected |= {point.ts: point.value for point in points(*values)}
        assert {one.ts: one.value for one in known(connection, START + hour * HOUR)} == expected


def test_a_place_is_named_by_a_kilometre() -> None:
    assert PLACE == "37.57,126.98"
    assert weather.location_key(-0.001, 0.0) == "0.00,0.00"
