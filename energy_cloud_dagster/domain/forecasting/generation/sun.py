"""Where the sun stands and what it sends, by the hour: positions, clear sky, irradiance split into parts (pvlib)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting.series import Floats

#: Minutes into the hour at which the sun is placed; an hour is their mean.
MINUTES: Final = (7.5, 22.5, 37.5, 52.5)
#: W/m² of clear sky below which the clearness of an hour is not told from its noise.
LEAST_CLEAR: Final = 20.0
#: Clearness above which an irradiance is not believed (the edges of clouds add up to a third).
MOST_CLEARNESS: Final = 1.4


@dataclass(frozen=True)
class Place:
    """A place on the earth: degrees north, degrees east, metres above the sea; out of range raises ``InvalidInput``."""

    latitude: float
    longitude: float
    altitude: float = 0.0

    def __post_init__(self) -> None:
        if not (-90 <= self.latitude <= 90 and -180 <= self.longitude <= 180 and -500 <= self.altitude <= 9000):
            raise InvalidInput(
                f"there is no place at latitude {self.latitude}, longitude {self.longitude}, "
                f"altitude {self.altitude} m; latitude is -90 to 90, longitude -180 to 180"
            )


@dataclass(frozen=True, eq=False)
class Sky:
    """Hours of sky, every array of the length of the index; means of the hour."""

    #: Global horizontal irradiance under a clear sky, W/m².
    clear: Floats
    #: Irradiance by clear-sky irradiance, 0..1.4; 1 where no irradiance was given and below 20 W/m² of clear sky.
    clearness: Floats
    #: Azimuth from north over east, and elevation above the horizon, degrees.
    azimuth: Floats
    elevation: Floats
    #: Beam from the east, the north and above, and diffuse irradiance, kW/m², shape ``(4, len)``: the output of an
    #: unshaded plane is linear in them, whatever its tilt and azimuth.
    parts: Floats


def load_pvlib() -> None:
    """Import what the sky needs, so that it is not counted as work."""
    sky(pd.date_range("2026-01-01", periods=1, freq="h", tz="UTC"), Place(0.0, 0.0))


def sky(index: pd.DatetimeIndex, place: Place, irradiance: Floats | None = None) -> Sky:
    """Return the sky over ``place`` in the hours that start at ``index`` (UTC).

    ``irradiance`` is the global horizontal irradiance, W/m² as mean of the hour (None: a clear sky; NaN stays NaN in
    ``clearness`` and ``parts``). Clear sky by Ineichen and Perez with pvlib's climatology of turbidity, direct and
    diffuse part by Erbs; inside the hour the clearness is constant.
    """
    from pvlib import atmosphere, clearsky, solarposition  # type: ignore[import-untyped]
    from pvlib import irradiance as splitting

    starts = index.as_unit("ns").asi8
    stamps = pd.DatetimeIndex(np.concatenate([starts + int(minute * 60e9) for minute in MINUTES]), tz="UTC")
    shape = (len(MINUTES), len(index))
    position = solarposition.get_solarposition(
        stamps, place.latitude, place.longitude, altitude=place.altitude, method="ephemeris"
    )
    zenith = position["apparent_zenith"].to_numpy()
    azimuth = np.radians(position["azimuth"].to_numpy())
    mass = atmosphere.get_absolute_airmass(atmosphere.get_relative_airmass(zenith), atmosphere.alt2pres(place.altitude))
    turbidity = clearsky.lookup_linke_turbidity(stamps, place.latitude, place.longitude).to_numpy()
    with np.errstate(all="ignore"):
        clear = np.nan_to_num(clearsky.ineichen(zenith, mass, turbidity, altitude=place.altitude)["ghi"])
    hour = clear.reshape(shape).mean(axis=0)
    if irradiance is None:
        clearness = np.ones(len(index))
    else:
        clearness = np.clip(np.asarray(irradiance) / np.maximum(hour, LEAST_CLEAR), 0.0, MOST_CLEARNESS)
        clearness = np.where(hour < LEAST_CLEAR, np.where(np.isnan(clearness), np.nan, 1.0), clearness)
    with np.errstate(all="ignore"):
        split = splitting.erbs(np.nan_to_num(clear.reshape(shape) * clearness).ravel(), zenith, stamps)
    direct, diffuse = np.nan_to_num(np.asarray(split["dni"])), np.nan_to_num(np.asarray(split["dhi"]))
    height = np.radians(90.0 - zenith)
    level = np.cos(height)
    beams = [level * np.sin(azimuth), level * np.cos(azimuth), np.maximum(np.sin(height), 0.0)]
    parts = np.stack([*(direct * beam for beam in beams), diffuse]).reshape(4, *shape).mean(axis=1) / 1000
    return Sky(
        clear=hour,
        clearness=clearness,
        azimuth=np.degrees(_mean_angle(azimuth.reshape(shape))),
        elevation=(90.0 - zenith).reshape(shape).mean(axis=0),
        parts=np.where(np.isnan(clearness), np.nan, parts),
    )


def _mean_angle(angles: Floats) -> Floats:
    """Return the mean direction over the first axis, 0 to 2 pi."""
    mean: Floats = np.arctan2(np.sin(angles).sum(axis=0), np.cos(angles).sum(axis=0)) % (2 * np.pi)
    return mean
