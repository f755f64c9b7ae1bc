"""The client of Open-Meteo's API against a server that replays its documented JSON: hours, faults, patience."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from energy_cloud_dagster.adapters.open_meteo import UNITS, OpenMeteo, WeatherPoint, points_of
from energy_cloud_dagster.domain.errors import InvalidInput, Misconfigured, WeatherUnavailable

START = 1_781_956_800  # 2026-06-20T12:00Z
SEOUL = (37.5665, 126.978)


def document(**hourly: list[float | None]) -> dict[str, Any]:
    """The documented answer for one place, four hours long."""
    values: dict[str, list[float | None]] = {
        "temperature_2m": [20.0, 22.0, 24.0, 26.0],
        "relative_humidity_2m": [60, 58, 56, 54],
        "surface_pressure": [1000.0, 1000.0, 1002.0, 1002.0],
        "shortwave_radiation": [111.0, 222.0, 333.0, 444.0],
        "wind_speed_80m": [5.0, 7.0, 9.0, 9.0],
        "wind_direction_80m": [350, 10, 20, 30],
        **hourly,
    }
    return {
        "latitude": 37.55,
        "longitude": 127.0,
        "generationtime_ms": 0.06,
        "utc_offset_seconds": 0,
        "timezone": "GMT",
        "timezone_abbreviation": "GMT",
        "elevation": 38.0,
        "hourly_units": {"time": "unixtime", **UNITS},
        "hourly": {"time": [START + 3600 * hour for hour in range(4)], **values},
    }


Answer = tuple[int, dict[str, str], bytes]


class Served:
    """A server that gives one answer after the other, the last for ever, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.asked: list[str] = []
        self.pauses: list[float] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                status, headers, body = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def says(self, *answers: object, status: int = 200, **headers: str) -> None:
        self.answers += [
            (status, headers, one if isinstance(one, bytes) else json.dumps(one).encode()) for one in answers
        ]

    def client(self, **how: Any) -> OpenMeteo:
        return OpenMeteo(**{"url": self.url, "pause": self.pauses.append, "timeout": 5.0, **how})


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def at(hour: int) -> datetime:
    return datetime.fromtimestamp(START + 3600 * hour, UTC)


def test_hours_are_means_named_by_their_start(served: Served) -> None:
    served.says(document())
    ((*points,),) = served.client().forecast([SEOUL], hours=3, past_hours=0)
    found = {(point.variable, point.ts): point.value for point in points}
    assert found["temperature", at(0)] == 21.0, "an instant: the mean of the hour's ends"
    assert found["humidity", at(1)] == 57.0
    assert found["irradiance", at(0)] == 222.0, "a mean of the preceding hour"
    assert found["irradiance", at(2)] == 444.0
    assert found["wind_speed", at(1)] == 8.0
    assert found["wind_direction", at(0)] == pytest.approx(0, abs=1e-9), "between 350 and 10 lies north"
    assert found["air_density", at(0)] == pytest.approx(100_000 / (287.05 * 294.15))
    assert {ts for _, ts in found} == {at(0), at(1), at(2)}, "the last stamp only ends an hour"


def test_the_request_is_the_documented_one(served: Served) -> None:
    served.says(document())
    served.client(url=f"{served.url}/?models=icon_seamless", key="secret").forecast([SEOUL], hours=48, past_hours=24)
    asked = urlsplit(served.asked[0])
    assert asked.path == "/v1/forecast"
    assert {name: value for name, (value,) in parse_qs(asked.query).items()} == {
        "latitude": "37.5665",
        "longitude": "126.9780",
        "hourly": ",".join(UNITS),
        "forecast_hours": "49",
        "past_hours": "24",
        "timeformat": "unixtime",
        "timezone": "GMT",
        "wind_speed_unit": "ms",
        "apikey": "secret",
        "models": "icon_seamless",
    }


def test_several_places_are_asked_at_once(served: Served) -> None:
    served.says([document(), document(temperature_2m=[0.0, 0.0, 0.0, 0.0])])
    first, second = served.client().forecast([SEOUL, (48.45, 5.58)], hours=3, past_hours=0)
    assert len(served.asked) == 1
    assert WeatherPoint("temperature", at(0), 21.0) in first
    assert WeatherPoint("temperature", at(0), 0.0) in second
    served.answers.clear()
    served.says([document()])
    with pytest.raises(WeatherUnavailable, match="1 of 2 places"):
        served.client().forecast([SEOUL, SEOUL], hours=3, past_hours=0)


def test_what_is_unknown_is_left_out() -> None:
    told = document(temperature_2m=[20.0, None, 24.0, 26.0])
    del told["hourly"]["wind_speed_80m"]
    found = {(point.variable, point.ts) for point in points_of(told)}
    assert ("temperature", at(2)) in found
    assert not {("temperature", at(0)), ("temperature", at(1)), ("air_density", at(0))} & found
    assert "wind_speed" not in {variable for variable, _ in found}


def test_a_busy_server_is_asked_again(served: Served) -> None:
    served.says({"error": True, "reason": "Minutely API request limit exceeded."}, status=429, **{"Retry-After": "7"})
    served.says(b"<html>bad gateway</html>", status=502)
    served.says(document())
    (points,) = served.client().forecast([SEOUL], hours=3, past_hours=0)
    assert points
    assert served.pauses == [7.0, 2.0]


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        (b"<html>bad gateway</html>", 502, "3 times, last HTTP 502"),
        (b"<html>hello</html>", 200, "3 times, last not JSON"),
        (b'{"hourly": ', 200, "not JSON"),
        (b"[]", 200, "0 of 1 places"),
        (b'"hello"', 200, "not a forecast"),
        (b"{}", 200, "without hourly values"),
        (json.dumps({**document(), "hourly_units": {"temperature_2m": "°F"}}).encode(), 200, "'°F', not in °C"),
        (json.dumps(document(temperature_2m=[1.0])).encode(), 200, "one value for every hour"),
        (json.dumps(document(temperature_2m=["warm"] * 4)).encode(), 200, "cannot be read"),  # type: ignore[list-item]
    ],
)
def test_an_answer_that_is_none_says_what_came(served: Served, answer: bytes, status: int, message: str) -> None:
    served.says(answer, status=status)
    with pytest.raises(WeatherUnavailable, match=message) as found:
        served.client().forecast([SEOUL], hours=3, past_hours=0)
    assert found.value.retryable


def test_a_refusal_is_not_asked_again(served: Served) -> None:
    reason = "Latitude must be in range of -90 to 90°. Given: 137.0."
    served.says({"error": True, "reason": reason}, status=400)
    with pytest.raises(InvalidInput, match="Latitude must be in range"):
        served.client().forecast([(137.0, 0.0)], hours=3, past_hours=0)
    assert len(served.asked) == 1
    assert not served.pauses


def test_nobody_there(served: Served) -> None:
    port = served.server.server_port
    served.server.server_close()
    client: Callable[..., object] = served.client(key="secret").forecast
    with pytest.raises(WeatherUnavailable, match=f"127.0.0.1:{port} did not answer 3 times") as found:
        client([SEOUL], hours=3, past_hours=0)
    assert "secret" not in str(found.value)
    assert served.pauses == [1.0, 2.0]


@pytest.mark.parametrize("url", ["ftp://example.org", "example.org/v1", "file:///etc/passwd"])
def test_a_url_that_is_none_names_the_setting(url: str) -> None:
    with pytest.raises(Misconfigured, match="ENERGY_CLOUD_WEATHER_URL"):
        OpenMeteo(url).forecast([SEOUL], hours=3, past_hours=0)
