"""Solar generation: a plane fitted to what the plant really made under the sky, and its analogs.

1. The sky of every hour (``sun.sky``): from the irradiance where it is known, else a clear one.
2. The plane: output as a linear function of the beam from the east, the north and above, and of the diffuse part,
   each with its loss by temperature. Tilt, azimuth, area and efficiency are in the coefficients, so nobody has to say
   them; least absolute deviations, so that outages and snow do not bend it.
3. The measured performance against the plane: analogs by azimuth and elevation of the sun (shading, inverter limits),
   clearness of the hour and of its neighbours, and temperature. Under a clear-sky plane the analogs are those of the
   same sun, and their spread is the cloudiness of the place.
4. Memory: yesterday's clouds, snow or soiling, and the last hours' (``analogs.Memory``).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Self

import numpy as np
import pandas as pd

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting.forecast import (
    Forecast,
    banded,
    canonical_text,
    natural_floor,
    parsed_text,
    refuse_look_ahead,
    text_digest,
)
from energy_cloud_dagster.domain.forecasting.generation.analogs import (
    LONGEST_WINDOW,
    RANKED_HOURS,
    Analogs,
    Memory,
    band_ranks,
    scores_of,
)
from energy_cloud_dagster.domain.forecasting.generation.sun import Place, Sky, sky
from energy_cloud_dagster.domain.forecasting.series import Floats, Integers, floats, future_index, hourly, hourly_frame

IRRADIANCE: Final = "irradiance"
TEMPERATURE: Final = "temperature"
#: W/m² of clear sky from which on an hour is a day's.
DAYLIGHT: Final = 5.0
#: Fewest known daylight hours that a plane is fitted to: about three days.
LEAST_HOURS: Final = 30
#: The best hours are taken as this quantile: a spike is none.
HIGHEST: Final = 0.995
#: A plant whose best hour stays below it makes nothing.
LEAST_OUTPUT: Final = 1e-9
#: What is near: degrees of azimuth and elevation, clearness, clearness of the neighbours, degrees Celsius.
NEAR_SUN: Final = (9.0, 7.0)
NEAR_CLEARNESS: Final = (0.09, 0.15, 0.15)
NEAR_TEMPERATURE: Final = 7.0
#: Days after which an hour counts a third.
RECENCY: Final = 1095.0
#: A few days do not show all the clouds of a place: bands under a clear sky are wider by these over the known days.
FEW_DAYS: Final = 4.0
#: Output under a clear-sky plane is compared as a ratio; the plane is at least this share of its maximum.
LEAST_PLANE: Final = 0.02
HOUR: Final = pd.Timedelta(hours=1)


@dataclass(frozen=True)
class SolarModel:
    """A photovoltaic plant at ``latitude``, ``longitude`` (degrees) and ``altitude`` (m).

    Regressors: ``irradiance`` (global horizontal, W/m², mean of the hour) and ``temperature`` (°C); without an
    irradiance it forecasts from the clear sky and the plant's own last days.
    """

    latitude: float
    longitude: float
    altitude: float = 0.0

    @property
    def name(self) -> str:
        """``solar``."""
        return "solar"

    def fit(self, history: pd.Series[Any], regressors: pd.DataFrame | None, *, timezone: str, seed: int) -> FittedSolar:
        """Fit as ``Model`` says; deterministic, the zone is not used (the sun knows none).

        Raises ``InvalidInput`` where fewer than 30 daylight hours are known (with their irradiance, if it is given), or
        where the plant made nothing in them.
        """
        del timezone, seed
        place = Place(self.latitude, self.longitude, self.altitude)
        past = hourly(history)
        if past.empty:
            raise InvalidInput("the solar model needs a history; there is no known hour")
        index = pd.DatetimeIndex(past.index)
        columns = _columns(regressors)
        weather = None if not columns else hourly_frame(regressors[list(columns)], index)  # type: ignore[index]
        above = sky(index, place, None if weather is None else floats(weather[IRRADIANCE]))
        values = floats(past)
        matrix = _matrix(above, _temperature(weather))
        day = (above.clear >= DAYLIGHT) & np.isfinite(values) & np.isfinite(matrix).all(axis=1)
        if day.sum() < LEAST_HOURS:
            raise InvalidInput(f"only {int(day.sum())} daylight hours are known; the solar model needs {LEAST_HOURS}")
        most = float(np.quantile(values[day], HIGHEST))
        if most < LEAST_OUTPUT:
            raise InvalidInput(f"the plant made nothing in {int(day.sum())} daylight hours")
        plane = _plane(matrix[day], values[day], most)
        centre = np.clip(matrix @ plane, 0.0, most)
        features = _features(above, _temperature(weather), with_irradiance=weather is not None)
        hours = _hours(index)
        weights = np.exp((hours - hours[-1]) / (24.0 * RECENCY))
        compared = np.where(day, _compared(values, centre, most, bool(columns)), np.nan)
        analogs = Analogs.of(features, compared, hours, weights).rounded()
        ranked = np.flatnonzero(np.isfinite(compared) & (hours > hours[-1] - RANKED_HOURS))
        ranked = ranked[np.isfinite(features[ranked]).all(axis=1)]
        scores = np.full(len(index), np.nan)
        scores[ranked] = scores_of(analogs.ranks(features[ranked], compared[ranked], hours[ranked]))
        days = len(np.unique(hours[day] // 24))
        night = values[(above.clear < DAYLIGHT / 5) & np.isfinite(values)]
        return FittedSolar(
            place=place,
            train_start=index[0].to_pydatetime(),
            train_end=(index[-1] + HOUR).to_pydatetime(),
            regressors=columns,
            plane=tuple(float(one) for one in plane),
            most=most,
            night=tuple(float(one) for one in np.quantile(night, (0.1, 0.5, 0.9))) if len(night) else (0.0, 0.0, 0.0),
            analogs=analogs,
            memory=Memory.fit(scores[-RANKED_HOURS:]).widened(1.0 if columns else 1 + FEW_DAYS / days),
        )


@dataclass(frozen=True, eq=False)
class FittedSolar:
    """The plane, its analogs and their memory; see the module."""

    place: Place
    train_start: datetime
    train_end: datetime
    regressors: tuple[str, ...]
    plane: tuple[float, ...]
    most: float
    #: P10, P50 and P90 by night: what the inverter draws, zeros mostly.
    night: tuple[float, ...]
    analogs: Analogs
    memory: Memory
    name: str = "solar"

    @property
    def digest(self) -> str:
        """SHA-256 of the text."""
        return text_digest(self.to_text())

    def predict(
        self, recent: pd.Series[Any], future_regressors: pd.DataFrame | None, origin: datetime, horizon: int
    ) -> Forecast:
        """Forecast as ``Fitted`` says; the earlier rows of the regressors say how the last days' output came about.

        A regressor that is missing in an hour of daylight raises ``InvalidInput``.
        """
        refuse_look_ahead(self.train_end, origin)
        index = future_index(origin, horizon)
        start = index[0] - pd.Timedelta(hours=LONGEST_WINDOW)
        span = pd.date_range(start, index[-1], freq="h")
        ahead = slice(LONGEST_WINDOW, None)
        weather = self._weather(future_regressors, span)
        above = sky(span, self.place, None if weather is None else floats(weather[IRRADIANCE]))
        matrix = _matrix(above, _temperature(weather))
        day = above.clear >= DAYLIGHT
        unknown = day & ~np.isfinite(matrix).all(axis=1)
        if unknown[ahead].any():
            first = span[ahead][unknown[ahead]][0]
            names = " and ".join(self.regressors)
            raise InvalidInput(f"{names}: unknown in {int(unknown[ahead].sum())} daylight hours from {first}")
        centre = np.clip(np.nan_to_num(matrix @ np.array(self.plane)), 0.0, self.most)
        features = _features(above, _temperature(weather), with_irradiance=weather is not None)
        past = hourly(recent, before=origin)
        known = floats(past.reindex(span))
        compared = _compared(known, centre, self.most, bool(self.regressors))
        scores = np.full(LONGEST_WINDOW, np.nan)
        usable = np.flatnonzero((day & np.isfinite(compared) & np.isfinite(features).all(axis=1))[:LONGEST_WINDOW])
        if len(usable):
            scores[usable] = scores_of(self.analogs.ranks(features[usable], compared[usable], _hours(span[usable])))
        mean, spread = self.memory.ahead(scores, np.arange(horizon))
        found = self.analogs.quantiles(np.nan_to_num(features[ahead]), band_ranks(mean, spread))
        if self.regressors:
            output = centre[ahead, None] + found
        else:
            output = np.maximum(centre[ahead, None], LEAST_PLANE * self.most) * found
        output = np.clip(output, 0.0, 1.1 * self.most)
        output = np.where(day[ahead, None], output, np.array(self.night)[None, :])
        rests_on = "irradiance" if self.regressors else "the clear sky and the plant's last days: no irradiance"
        known_share = int(np.isfinite(known[:LONGEST_WINDOW]).sum())
        notes = [f"solar from {rests_on}"]
        if not known_share:
            notes.append(f"nothing is known of the last {LONGEST_WINDOW} hours")
        return banded(
            index,
            output[:, 1],
            output[:, 0],
            output[:, 2],
            model=self.name,
            rung="champion",
            notes=tuple(notes),
            floor=natural_floor(np.array([*self.night, 0.0])),
        )

    def _weather(self, given: pd.DataFrame | None, span: pd.DatetimeIndex) -> pd.DataFrame | None:
        if not self.regressors:
            return None
        missing = [name for name in self.regressors if given is None or name not in given.columns]
        if given is None or missing:
            raise InvalidInput(f"the solar model was fitted with {', '.join(missing)}, which is not given ahead")
        return hourly_frame(given[list(self.regressors)], span)

    def to_text(self) -> str:
        """Return canonical JSON."""
        return canonical_text(
            {
                "model": self.name,
                "format": 1,
                "place": [self.place.latitude, self.place.longitude, self.place.altitude],
                "train_start": self.train_start.isoformat(),
                "train_end": self.train_end.isoformat(),
                "regressors": self.regressors,
                "plane": self.plane,
                "most": self.most,
                "night": self.night,
                "analogs": self.analogs.document(),
                "memory": self.memory.document(),
            }
        )

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Return the model that ``to_text`` wrote; other text raises ``InvalidInput``."""
        document = parsed_text(text, "solar")
        try:
            return cls(
                place=Place(*document["place"]),
                train_start=datetime.fromisoformat(document["train_start"]),
                train_end=datetime.fromisoformat(document["train_end"]),
                regressors=tuple(document["regressors"]),
                plane=tuple(document["plane"]),
                most=document["most"],
                night=tuple(document["night"]),
                analogs=Analogs.from_document(document["analogs"]),
                memory=Memory.from_document(document["memory"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(f"a stored solar model cannot be read: {error}; fit it again") from error


def _columns(regressors: pd.DataFrame | None) -> tuple[str, ...]:
    """Return the regressors that are used; a temperature alone says nothing of the clouds."""
    if regressors is None or IRRADIANCE not in regressors.columns:
        return ()
    return (IRRADIANCE, TEMPERATURE) if TEMPERATURE in regressors.columns else (IRRADIANCE,)


def _temperature(weather: pd.DataFrame | None) -> Floats | None:
    return None if weather is None or TEMPERATURE not in weather.columns else floats(weather[TEMPERATURE])


def _hours(index: pd.DatetimeIndex) -> Integers:
    return np.asarray((index - pd.Timestamp(0, tz="UTC")) // HOUR, dtype=np.int64)


def _matrix(above: Sky, temperature: Floats | None) -> Floats:
    """Return the columns of the plane: four parts of the sky, and each by tens of degrees above 25 °C."""
    parts = above.parts.T
    return parts if temperature is None else np.concatenate([parts, parts * (temperature[:, None] - 25.0) / 10], axis=1)


def _plane(matrix: Floats, values: Floats, most: float) -> Floats:
    """Return the coefficients with the least absolute deviations, by reweighted least squares, slightly shrunk."""
    scale = np.sqrt(np.square(matrix).mean(axis=0))
    scale = np.where(scale > 0, scale, 1.0)
    unit = matrix / scale
    least = 0.01 * most
    weights = np.ones(len(values))
    found = np.zeros(matrix.shape[1])
    for _ in range(8):
        weighted = unit * weights[:, None]
        gram = weighted.T @ unit + 1e-3 * weights.sum() * np.eye(unit.shape[1])
        found = np.linalg.solve(gram, weighted.T @ values)
        weights = 1 / np.maximum(np.abs(unit @ found - values), least)
    coefficients: Floats = found / scale
    return coefficients


def _features(above: Sky, temperature: Floats | None, *, with_irradiance: bool) -> Floats:
    """Return what makes hours alike, in neighbourhoods; without an irradiance only the place of the sun."""
    columns = [above.azimuth / NEAR_SUN[0], above.elevation / NEAR_SUN[1]]
    if with_irradiance:
        clearness = above.clearness
        around = np.nan_to_num(np.concatenate([clearness[:1], clearness, clearness[-1:]]), nan=1.0)
        neighbours = (clearness, around[:-2], around[2:])
        columns += [one / near for one, near in zip(neighbours, NEAR_CLEARNESS, strict=True)]
        if temperature is not None:
            columns.append(temperature / NEAR_TEMPERATURE)
    return np.stack(columns, axis=1)


def _compared(values: Floats, centre: Floats, most: float, with_irradiance: bool) -> Floats:
    """Return output against the plane: the difference where the irradiance is known, else the ratio."""
    if with_irradiance:
        return values - centre
    return values / np.maximum(centre, LEAST_PLANE * most)
