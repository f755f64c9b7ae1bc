"""Wind generation: the turbine's power curve on the wind that is forecast, and its analogs.

1. The power curve: fitted to SCADA (``power_curve``), or to the forecast wind itself where no anemometer is known. A
   curve of measured speeds is met by one factor from the forecast's wind (another height, another roughness) to the
   turbine's, the one that explains the plant's past output best.
2. The measured performance against that curve: analogs by normalised speed, direction, and how the wind changes in the
   hour before and after: a forecast front comes an hour early or late.
3. Memory: the last hours' output against its forecast (``analogs.Memory``).
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
from energy_cloud_dagster.domain.forecasting.generation.power_curve import PowerCurve, normal_speed, power_curve
from energy_cloud_dagster.domain.forecasting.series import Floats, floats, future_index, hourly, hourly_frame

WIND_SPEED: Final = "wind_speed"
DIRECTION: Final = "wind_direction"
DENSITY: Final = "air_density"
#: Fewest hours with both a forecast wind and an output.
LEAST_HOURS: Final = 72
#: What is near: m/s, the sine and cosine of the direction, m/s of change to the neighbouring hours.
NEAR_SPEED: Final = 0.5
NEAR_DIRECTION: Final = 0.4
NEAR_CHANGE: Final = 1.0
#: Days after which an hour counts a third.
RECENCY: Final = 1095.0
#: Factors from the forecast's wind to the turbine's that are tried.
FACTORS: Final = np.round(np.arange(0.5, 1.81, 0.02), 2)
#: The curve of a plant whose wind is not known: its analogs are all that is said.
CALM: Final = PowerCurve((0.0, 40.0), (0.0, 0.0))
HOUR: Final = pd.Timedelta(hours=1)


@dataclass(frozen=True)
class WindModel:
    """A wind turbine or farm. ``curve``: its power over its own wind in the unit of the history, None to fit one.

    Regressors: ``wind_speed`` (m/s), and where known ``wind_direction`` (degrees) and ``air_density`` (kg/m³). Without
    a wind speed it forecasts from the plant's own past: the last value, fading into the spread of all.
    """

    curve: PowerCurve | None = None

    @property
    def name(self) -> str:
        """``wind``."""
        return "wind"

    def fit(self, history: pd.Series[Any], regressors: pd.DataFrame | None, *, timezone: str, seed: int) -> FittedWind:
        """Fit as ``Model`` says; deterministic, the zone is not used.

        Raises ``InvalidInput`` with fewer than 72 hours of output (and of wind speed, where it is given), or where the
        output never changed.
        """
        del timezone, seed
        past = hourly(history)
        columns = _columns(regressors)
        index = pd.DatetimeIndex(past.index)
        weather = None if not columns else hourly_frame(regressors[list(columns)], index)  # type: ignore[index]
        values = floats(past)
        speed = _speed(weather, len(index))
        known = np.isfinite(values) & np.isfinite(speed)
        if known.sum() < LEAST_HOURS:
            what = "a wind speed and an output" if columns else "an output"
            raise InvalidInput(f"only {int(known.sum())} hours have {what}; the wind model needs {LEAST_HOURS}")
        if values[known].min() == values[known].max():
            raise InvalidInput(f"a constant series: every known hour is {values[known][0]:g}")
        if not columns:
            curve, factor = CALM, 1.0
        elif self.curve is None:
            curve, factor = power_curve(speed[known], values[known]), 1.0
        else:
            curve, factor = self.curve, _factor(self.curve, speed[known], values[known])
        hours = np.asarray((index - pd.Timestamp(0, tz="UTC")) // HOUR, dtype=np.int64)
        features = _features(weather, len(index))
        missed = values - curve(speed * factor)
        weights = np.exp((hours - hours[-1]) / (24.0 * RECENCY))
        analogs = Analogs.of(features, missed, hours, weights).rounded()
        usable = np.isfinite(missed) & np.isfinite(features).all(axis=1) & (hours > hours[-1] - RANKED_HOURS)
        scores = np.full(len(index), np.nan)
        scores[usable] = scores_of(analogs.ranks(features[usable], missed[usable], hours[usable]))
        return FittedWind(
            train_start=index[0].to_pydatetime(),
            train_end=(index[-1] + HOUR).to_pydatetime(),
            regressors=columns,
            curve=curve,
            factor=factor,
            least=float(values[known].min()),
            most=float(max(values[known].max(), *curve.power)),
            analogs=analogs,
            memory=Memory.fit(scores[-RANKED_HOURS:]),
        )


@dataclass(frozen=True, eq=False)
class FittedWind:
    """The curve, its analogs and their memory; see the module."""

    train_start: datetime
    train_end: datetime
    regressors: tuple[str, ...]
    curve: PowerCurve
    #: From the wind of the forecast to that of the curve.
    factor: float
    least: float
    most: float
    analogs: Analogs
    memory: Memory
    name: str = "wind"

    @property
    def digest(self) -> str:
        """SHA-256 of the text."""
        return text_digest(self.to_text())

    def predict(
        self, recent: pd.Series[Any], future_regressors: pd.DataFrame | None, origin: datetime, horizon: int
    ) -> Forecast:
        """Forecast as ``Fitted`` says; the earlier rows of the regressors say how the last days' output came about.

        A wind speed that is missing in an hour ahead raises ``InvalidInput``; direction and density may have gaps.
        """
        refuse_look_ahead(self.train_end, origin)
        index = future_index(origin, horizon)
        span = pd.date_range(index[0] - pd.Timedelta(hours=LONGEST_WINDOW), index[-1], freq="h")
        weather = self._weather(future_regressors, span)
        speed = _speed(weather, len(span))
        unknown = np.isnan(speed[LONGEST_WINDOW:])
        if unknown.any():
            raise InvalidInput(f"wind_speed is unknown in {int(unknown.sum())} hours from {index[unknown][0]}")
        centre = self.curve(speed * self.factor)
        features = _features(weather, len(span))
        missed = floats(hourly(recent, before=origin).reindex(span)) - centre
        usable = np.flatnonzero(np.isfinite(missed[:LONGEST_WINDOW]))
        scores = np.full(LONGEST_WINDOW, np.nan)
        if len(usable):
            hours = np.asarray((span[usable] - pd.Timestamp(0, tz="UTC")) // HOUR, dtype=np.int64)
            scores[usable] = scores_of(self.analogs.ranks(features[usable], missed[usable], hours))
        mean, spread = self.memory.ahead(scores, np.arange(horizon))
        output = centre[LONGEST_WINDOW:, None] + self.analogs.quantiles(
            features[LONGEST_WINDOW:], band_ranks(mean, spread)
        )
        output = np.clip(output, self.least, self.most)
        rests_on = "a power curve on the wind ahead" if self.regressors else "the plant's own past: no wind speed"
        notes = [f"wind from {rests_on}"]
        if not len(usable):
            notes.append(f"nothing is known of the last {LONGEST_WINDOW} hours")
        return banded(
            index,
            output[:, 1],
            output[:, 0],
            output[:, 2],
            model=self.name,
            rung="champion",
            notes=tuple(notes),
            floor=natural_floor(np.array([self.least])),
        )

    def _weather(self, given: pd.DataFrame | None, span: pd.DatetimeIndex) -> pd.DataFrame | None:
        if not self.regressors:
            return None
        missing = [name for name in self.regressors if given is None or name not in given.columns]
        if given is None or missing:
            raise InvalidInput(f"the wind model was fitted with {', '.join(missing)}, which is not given ahead")
        return hourly_frame(given[list(self.regressors)], span)

    def to_text(self) -> str:
        """Return canonical JSON."""
        return canonical_text(
            {
                "model": self.name,
                "format": 1,
                "train_start": self.train_start.isoformat(),
                "train_end": self.train_end.isoformat(),
                "regressors": self.regressors,
                "curve": self.curve.document(),
                "factor": self.factor,
                "range": [self.least, self.most],
                "analogs": self.analogs.document(),
                "memory": self.memory.document(),
            }
        )

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Return the model that ``to_text`` wrote; other text raises ``InvalidInput``."""
        document = parsed_text(text, "wind")
        try:
            least, most = document["range"]
            return cls(
                train_start=datetime.fromisoformat(document["train_start"]),
                train_end=datetime.fromisoformat(document["train_end"]),
                regressors=tuple(document["regressors"]),
                curve=PowerCurve.from_document(document["curve"]),
                factor=float(document["factor"]),
                least=float(least),
                most=float(most),
                analogs=Analogs.from_document(document["analogs"]),
                memory=Memory.from_document(document["memory"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(f"a stored wind model cannot be read: {error}; fit it again") from error


def _columns(regressors: pd.DataFrame | None) -> tuple[str, ...]:
    """Return the regressors that are used; a direction alone says nothing of the output."""
    if regressors is None or WIND_SPEED not in regressors.columns:
        return ()
    return tuple(name for name in (WIND_SPEED, DIRECTION, DENSITY) if name in regressors.columns)


def _speed(weather: pd.DataFrame | None, hours: int) -> Floats:
    if weather is None:
        return np.zeros(hours)
    density = floats(weather[DENSITY]) if DENSITY in weather.columns else None
    return normal_speed(floats(weather[WIND_SPEED]), density)


def _factor(curve: PowerCurve, speed: Floats, values: Floats) -> float:
    """Return the factor on the speed with which the curve errs least (mean absolute error)."""
    errors = [float(np.abs(curve(speed * factor) - values).mean()) for factor in FACTORS]
    return float(FACTORS[int(np.argmin(errors))])


def _features(weather: pd.DataFrame | None, hours: int) -> Floats:
    """Return what makes hours alike, in neighbourhoods; an unknown direction or neighbour is a middling one."""
    speed = _speed(weather, hours)
    if weather is None:
        return speed[:, None]
    change = np.nan_to_num(np.diff(speed))
    columns = [
        speed / NEAR_SPEED,
        np.concatenate([[0.0], change]) / NEAR_CHANGE,
        np.concatenate([change, [0.0]]) / NEAR_CHANGE,
    ]
    if DIRECTION in weather.columns:
        angle = np.radians(floats(weather[DIRECTION]))
        columns += [np.nan_to_num(np.sin(angle)) / NEAR_DIRECTION, np.nan_to_num(np.cos(angle)) / NEAR_DIRECTION]
    return np.stack(columns, axis=1)
