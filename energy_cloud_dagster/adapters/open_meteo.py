"""Weather forecasts in the form of Open-Meteo's API (https://open-meteo.com/en/docs), over HTTP.

Any server that speaks it will do: the public one, a customer's, one's own. Asked for in its own units, answered here as
means of hours that are named by their start: an instant variable is the mean of the hour's two ends, a radiation (which
the API gives as the mean of the preceding hour) moves back by one.
"""

from __future__ import annotations

import json
import math
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Any, Final, NamedTuple

from energy_cloud_dagster.domain.errors import InvalidInput, Misconfigured, WeatherUnavailable

SOURCE: Final = "open-meteo"
PATH: Final = "/v1/forecast"
HOUR: Final = timedelta(hours=1)
#: What is asked for, with the unit that the answer must name.
UNITS: Final = {
    "temperature_2m": "°C",
    "relative_humidity_2m": "%",
    "surface_pressure": "hPa",
    "shortwave_radiation": "W/m²",
    "wind_speed_80m": "m/s",
    "wind_direction_80m": "°",
}
#: Largest answer that is read, and longest pause that the server may ask for.
MOST_BYTES: Final = 32 * 1024 * 1024
LONGEST_PAUSE: Final = 30.0
#: Places in one request.
MOST_PLACES: Final = 50
#: J/(kg K) of dry air, and 0 °C in K.
GAS_CONSTANT: Final = 287.05
FREEZING: Final = 273.15


class WeatherPoint(NamedTuple):
    """The mean of one variable over the hour from ``ts`` on.

    Variables: ``temperature`` (°C), ``humidity`` (%), ``irradiance`` (global horizontal, W/m²), ``wind_speed`` (m/s at
    80 m), ``wind_direction`` (degrees it comes from), ``air_density`` (kg/m³ of dry air).
    """

    variable: str
    ts: datetime
    value: float


@dataclass(frozen=True)
class OpenMeteo:
    """A server at ``url`` (``/v1/forecast`` unless it names a path), with an API key where it wants one.

    An attempt takes at most ``timeout`` seconds; ``pause`` sleeps between attempts.
    """

    url: str
    key: str = ""
    timeout: float = 20.0
    attempts: int = 3
    pause: Callable[[float], None] = field(default=time.sleep, repr=False)

    def forecast(
        self, places: Sequence[tuple[float, float]], *, hours: int, past_hours: int
    ) -> list[list[WeatherPoint]]:
        """Return for every place (latitude, longitude) the forecast of about ``hours`` hours from now on.

        ``past_hours`` hours before now come first. Hours that the server does not know are left out. Raises
        ``WeatherUnavailable`` where it does not answer, or answers something else, after all attempts;
        ``InvalidInput`` with its own reason where it refuses the request; ``Misconfigured`` for an impossible URL.
        """
        found: list[list[WeatherPoint]] = []
        for start in range(0, len(places), MOST_PLACES):
            some = places[start : start + MOST_PLACES]
            answer = self._get(self._address(some, hours, past_hours))
            each = answer if isinstance(answer, list) else [answer]
            if len(each) != len(some):
                raise WeatherUnavailable(f"the weather service answered {len(each)} of {len(some)} places")
            found += [points_of(one) for one in each]
        return found

    def _address(self, places: Sequence[tuple[float, float]], hours: int, past_hours: int) -> str:
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            shown = self.url.partition("?")[0]
            raise Misconfigured(f"ENERGY_CLOUD_WEATHER_URL: {shown!r} is not an http:// or https:// address")
        asked = {
            "latitude": ",".join(f"{latitude:.4f}" for latitude, _ in places),
            "longitude": ",".join(f"{longitude:.4f}" for _, longitude in places),
            "hourly": ",".join(UNITS),
            # the mean of an hour needs its end, and the API names what it gives by the end of the hour
            "forecast_hours": str(hours + 1),
            "past_hours": str(past_hours),
            "timeformat": "unixtime",
            "timezone": "GMT",
            "wind_speed_unit": "ms",
            **({"apikey": self.key} if self.key else {}),
        }
        path = parts.path if parts.path.strip("/") else PATH
        query = "&".join(one for one in (parts.query, urllib.parse.urlencode(asked, safe=",")) if one)
        return urllib.parse.urlunsplit((parts.scheme, parts.netloc, path, query, ""))

    def _get(self, address: str) -> Any:
        """Return the JSON at ``address``; what may pass is tried again, after 1, 2, 4 … seconds or as asked."""
        request = urllib.request.Request(address, headers={"Accept": "application/json"})  # noqa: S310 - see _address
        for attempt in range(1, self.attempts + 1):
            wait = float(2 ** (attempt - 1))
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as response:  # noqa: S310
                    body = response.read(MOST_BYTES + 1)
                if len(body) > MOST_BYTES:
                    raise WeatherUnavailable(f"the weather service answered more than {MOST_BYTES} bytes")
                return json.loads(body)
            except urllib.error.HTTPError as error:
                reason = f"HTTP {error.code}: {_reason(error)}"
                if error.code != 429 and error.code < 500:
                    raise InvalidInput(f"the weather service refuses the request: {reason}") from error
                wait = _asked_pause(error.headers.get("Retry-After"), wait)
            except (OSError, HTTPException) as error:
                reason = f"{type(error).__name__}: {getattr(error, 'reason', None) or error}"
            except ValueError as error:
                reason = f"not JSON: {error}"
            if attempt < self.attempts:
                self.pause(wait)
        host = urllib.parse.urlsplit(address).netloc.rpartition("@")[2]
        raise WeatherUnavailable(f"the weather service at {host} did not answer {self.attempts} times, last {reason}")


def _reason(error: urllib.error.HTTPError) -> str:
    """Return what the API says of an error, ``{"error": true, "reason": …}``, else the status' own words."""
    try:
        told = json.loads(error.read(65_536))
    except (OSError, ValueError, HTTPException):
        return error.reason
    return str(told.get("reason", error.reason)) if isinstance(told, dict) else error.reason


def _asked_pause(header: str | None, otherwise: float) -> float:
    """Return the seconds of a ``Retry-After`` header, in seconds or as a date, at most half a minute."""
    if not header:
        return otherwise
    try:
        asked = float(header)
    except ValueError:
        try:
            asked = (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return otherwise
    return min(max(asked, 0.0), LONGEST_PAUSE) if math.isfinite(asked) else otherwise


def points_of(answer: object) -> list[WeatherPoint]:
    """Return the hours of one place's answer; one that is not of the API's form raises ``WeatherUnavailable``."""
    if not isinstance(answer, dict):
        raise WeatherUnavailable("the weather service answered something that is not a forecast")
    if answer.get("error"):
        raise InvalidInput(f"the weather service refuses the request: {answer.get('reason')}")
    units, hourly = answer.get("hourly_units"), answer.get("hourly")
    if not isinstance(units, dict) or not isinstance(hourly, dict) or not isinstance(hourly.get("time"), list):
        raise WeatherUnavailable("the weather service answered a forecast without hourly values")
    for name, unit in UNITS.items():
        if name in hourly and units.get(name) != unit:
            raise WeatherUnavailable(f"the weather service gives {name} in {units.get(name)!r}, not in {unit}")
    try:
        stamps = [datetime.fromtimestamp(int(one), UTC) for one in hourly["time"]]
        values = {name: _numbers(name, hourly.get(name), stamps) for name in UNITS}
    except (TypeError, ValueError, OverflowError, OSError) as error:
        raise WeatherUnavailable(f"the weather service answered hours that cannot be read: {error}") from error
    found: list[WeatherPoint] = []
    for ts in stamps:
        found += [WeatherPoint(name, ts, value) for name, value in _hour(values, ts).items() if value is not None]
    return found


def _numbers(name: str, given: object, stamps: Sequence[datetime]) -> dict[datetime, float]:
    """Return the known values of a variable by their time; a missing variable has none."""
    if given is None:
        return {}
    if not isinstance(given, list) or len(given) != len(stamps):
        raise ValueError(f"{name} has not one value for every hour")
    pairs = ((ts, float(value)) for ts, value in zip(stamps, given, strict=True) if value is not None)
    return {ts: value for ts, value in pairs if math.isfinite(value)}


def _hour(values: Mapping[str, Mapping[datetime, float]], ts: datetime) -> dict[str, float | None]:
    """Return the means of the hour from ``ts`` on, None where one of its ends is unknown."""
    end = ts + HOUR

    def ends(name: str) -> tuple[float, float] | None:
        one, other = values[name].get(ts), values[name].get(end)
        return None if one is None or other is None else (one, other)

    def mean(name: str) -> float | None:
        both = ends(name)
        return None if both is None else (both[0] + both[1]) / 2

    temperature, pressure = mean("temperature_2m"), mean("surface_pressure")
    density = None
    if temperature is not None and pressure is not None and temperature > -FREEZING:
        density = 100 * pressure / (GAS_CONSTANT * (temperature + FREEZING))
    angles = ends("wind_direction_80m")
    direction = None
    if angles is not None:
        one, other = (math.radians(angle) for angle in angles)
        east, north = math.sin(one) + math.sin(other), math.cos(one) + math.cos(other)
        direction = round(math.degrees(math.atan2(east, north)), 3) % 360
    return {
        "temperature": temperature,
        "humidity": mean("relative_humidity_2m"),
        "irradiance": values["shortwave_radiation"].get(end),
        "wind_speed": mean("wind_speed_80m"),
        "wind_direction": direction,
        "air_density": density,
    }
