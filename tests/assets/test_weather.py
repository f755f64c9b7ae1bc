"""Weather is fetched while an hour is the present, kept as it was known, and plants are forecast with it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import dagster as dg
import pytest
import sqlalchemy as sa

from energy_cloud_dagster.adapters import registry, vpp_registry, weather
from energy_cloud_dagster.adapters.open_meteo import UNITS, WeatherPoint
from energy_cloud_dagster.adapters.vpp_registry import NewResource
from energy_cloud_dagster.assets import weather as assets
from energy_cloud_dagster.assets.generation import generation_availability_hourly, plant_forecast
from energy_cloud_dagster.domain.intervals import HOUR, run_time
from energy_cloud_dagster.partitions import hour_key
from energy_cloud_dagster.resources import Database
from energy_cloud_dagster.sample_data.community import SEOUL_COMMUNITY

if TYPE_CHECKING:
    from tests.conftest import Pipeline

PARTITION = datetime(2026, 6, 20, 3, tzinfo=UTC)


class OpenMeteoReplay:
    """A server that answers as the API does: the hours that were asked for, around a clock of its own."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        self.warmth = 20.0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = {name: value for name, (value,) in parse_qs(urlsplit(self.path).query).items()}
                outer.asked.append(asked)
                body = json.dumps(outer.answer(int(asked["past_hours"]), int(asked["forecast_hours"]))).encode()
                self.send_response(200)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, past: int, ahead: int) -> dict[str, Any]:
        first = int(run_time(PARTITION).replace(minute=0).timestamp()) - 3600 * past
        stamps = [first + 3600 * hour for hour in range(past + ahead)]
        values = {name: [1000.0 if unit == "hPa" else self.warmth] * len(stamps) for name, unit in UNITS.items()}
        return {"hourly_units": {"time": "unixtime", **UNITS}, "hourly": {"time": stamps, **values}}


@pytest.fixture
def replay() -> Iterator[OpenMeteoReplay]:
    made = OpenMeteoReplay()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.fixture
def region(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> str:
    """A region of its own with one VPP; the pipeline works on it."""
    (market,), (seoul, _), (vpp,) = SEOUL_COMMUNITY.markets, SEOUL_COMMUNITY.regions, SEOUL_COMMUNITY.vpps
    made = replace(
        SEOUL_COMMUNITY,
        markets=(market,),
        regions=(replace(seoul, region_id="jeju", grid_id="KR-JJ-001", aliases=()),),
        participants=(replace(SEOUL_COMMUNITY.participants[-2], participant_id="VPP-JEJU", region_id="jeju"),),
        devices=(),
        vpps=(
            replace(
                vpp,
                vpp_id="VPP-JEJU",
                region_id="jeju",
                participant_id="VPP-JEJU",
                resources=tuple(replace(one, device_id=None) for one in vpp.resources),
                location={"lat": 33.5, "lng": 126.5},
            ),
        ),
    )
    with engine.begin() as connection:
        registry.seed(connection, made, PARTITION)
    monkeypatch.setenv("ENERGY_CLOUD_REGION", "jeju")
    return "33.50,126.50"


def materialize(database_url: str) -> dict[str, Any]:
    done = dg.materialize(
        [assets.weather_forecast_hourly, assets.weather_service],
        partition_key=hour_key(PARTITION),
        resources={"database": Database(url=database_url)},
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
    )
    (made,) = done.asset_materializations_for_node("weather_forecast_hourly")
    return {name: value.value for name, value in made.metadata.items()}


def test_an_hour_of_the_present_is_fetched_and_one_of_the_past_is_not(
    engine: sa.Engine, database_url: str, region: str, replay: OpenMeteoReplay, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = run_time(PARTITION)
    said = materialize(database_url)
    assert "ENERGY_CLOUD_WEATHER_URL is empty" in said["note"]
    assert said["dagster/partition_row_count"] == 0

    monkeypatch.setenv("ENERGY_CLOUD_WEATHER_URL", replay.url)
    monkeypatch.setattr(assets, "clock", lambda: now + timedelta(days=1))
    assert "is not the present" in materialize(database_url)["note"]
    assert not replay.asked

    monkeypatch.setattr(assets, "clock", lambda: now + timedelta(minutes=3))
    first = materialize(database_url)
    assert replay.asked[0]["past_hours"] == str(42 * 24), "the first time what the models learn from comes along"
    with engine.connect() as connection:
        rows = weather.known(connection, region, ["temperature"], now - 400 * HOUR, now + 400 * HOUR, now)
        assert {one.issued_at for one in rows} == {now}
        assert max(one.ts for one in rows) == PARTITION + 48 * HOUR
        assert not weather.known(connection, region, ["temperature"], now, now + HOUR, now - timedelta(seconds=1))
    again = materialize(database_url)
    assert replay.asked[1]["past_hours"] == "24"
    assert again["digest"] == first["digest"]

    monkeypatch.setattr(assets, "clock", lambda: now + timedelta(days=1))
    assert materialize(database_url)["digest"] == first["digest"], "later the same hour is described alike"


def test_a_service_that_is_away_stops_nothing(
    database_url: str, region: str, replay: OpenMeteoReplay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENERGY_CLOUD_WEATHER_URL", "http://127.0.0.1:1")
    monkeypatch.setattr(assets, "clock", lambda: run_time(PARTITION))
    monkeypatch.setattr("time.sleep", lambda _: None)
    assert "did not answer" in materialize(database_url)["note"]


def test_the_past_is_learnt_from_as_it_was_forecast(connection: sa.Connection) -> None:
    place = (1.0, 2.0)
    origin, key = PARTITION, weather.location_key(*place)
    hours = [origin + offset * HOUR for offset in range(-30, 24)]
    for issued, value in ((origin - 60 * HOUR, 1.0), (origin - HOUR, 2.0), (origin + HOUR, 3.0)):
        points = [WeatherPoint("irradiance", ts, value) for ts in hours]
        weather.save(connection, key, issued, "test", points)
    frame = assets.weather_of(connection, place, origin - 30 * HOUR, origin, origin)
    assert frame is not None
    assert set(frame["irradiance"][: origin - HOUR]) == {1.0}
    assert set(frame["irradiance"][origin:]) == {2.0}
    assert frame.attrs["afterwards"] == 0
    assert assets.weather_of(connection, (5.0, 5.0), origin - HOUR, origin, origin) is None
    weather.save(connection, "3.00,4.00", origin, "test", [WeatherPoint("irradiance", ts, 1.0) for ts in hours])
    late = assets.weather_of(connection, (3.0, 4.0), origin - 30 * HOUR, origin, origin)
    assert late is not None
    assert late.attrs["afterwards"] == 30


def test_what_is_issued_later_moves_no_forecast_of_a_plant(altered: Pipeline) -> None:
    """Weather known at the hour's now is used; what came a second later is not."""
    from energy_cloud_dagster.adapters import forecasts

    partition = altered.first + HOUR
    now, origin = run_time(partition), partition + HOUR
    hours = [origin + offset * HOUR for offset in range(-21 * 24, 24)]
    seen = {}
    issues = (("nothing", None, 0.0), ("known", now, 1.0), ("later", now + timedelta(seconds=1), 0.1))
    for name, issued, factor in issues:
        if issued:
            points = [WeatherPoint("wind_speed", ts, factor * (3 + ts.hour % 12)) for ts in hours]
            points += [WeatherPoint("irradiance", ts, factor * 300.0) for ts in hours]
            with altered.begin() as connection:
                weather.save(connection, weather.location_key(37.5665, 126.978), issued, "test", points)
        dg.materialize(
            [generation_availability_hourly],
            partition_key=hour_key(partition),
            resources={"database": Database()},
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
        with altered.begin() as connection:
            seen[name] = forecasts.issued(connection, now, prefixes=["resource/"])
    assert seen["known"] == seen["later"]
    assert seen["known"] != seen["nothing"]
    assert {one.model for one in seen["known"]} == {"solar", "wind"}
    assert len(seen["known"]) == 3 * 24


def test_a_plant_is_forecast_from_where_it_stands() -> None:
    from energy_cloud_dagster.adapters.vpps import Vpp, VppResource

    owner = Vpp("V", "V", "seoul", None, 1.0, {"lat": 1.0, "lng": 2.0})
    own = VppResource("V", "S", "solar", 1.0, None, {}, {"lat": 3.0, "lng": 4.0})
    assert assets.location(own, owner) == (3.0, 4.0)
    assert assets.location(own._replace(location=None), owner) == (1.0, 2.0)
    assert assets.location(own._replace(location=None), owner._replace(location=None)) is None
    import pandas as pd

    empty = pd.Series([], index=pd.DatetimeIndex([], tz="UTC"), dtype=float)
    for kind in ("solar", "wind"):
        new = plant_forecast(own._replace(type=kind), empty, empty, (3.0, 4.0), None, PARTITION, "Asia/Seoul")
        assert not new.p50.any(), "nothing is counted on that was never seen"
        ahead = pd.DataFrame({"irradiance": [1.0], "wind_speed": [1.0]}, index=pd.DatetimeIndex([PARTITION]))
        ahead.attrs["afterwards"] = 30
        said = plant_forecast(own._replace(type=kind), empty, empty, (3.0, 4.0), ahead, PARTITION, "Asia/Seoul")
        assert "weather of 30 past hours was known only afterwards: bands may be narrow" in said.notes


def test_no_weather_is_asked_for_where_a_simulated_plant_stands(altered: Pipeline) -> None:
    with altered.begin() as connection:
        before = assets.locations(connection, "seoul")
        far = NewResource("solar", 5.0, {}, "FAR", None, {"lat": 35.1, "lng": 129.0})
        made = {"actor": "test", "now": run_time(altered.last), "simulated": True}
        vpp_registry.create_resource(connection, "VPP-001", far, **made)
        assert assets.locations(connection, "seoul") == before != {}
