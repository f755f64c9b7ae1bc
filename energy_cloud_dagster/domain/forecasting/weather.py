"""Temperature as a regressor: what it does to load, and what is known of it ahead."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
import pandas as pd

from energy_cloud_dagster.domain.forecasting.series import Floats, future_index, hour_of, hourly, value_at

TEMPERATURE: Final = "temperature"
#: Degrees Celsius below which buildings heat, above which they cool, and above which cooling grows steeper.
HEATING_BELOW: Final = 16.0
COOLING_ABOVE: Final = 20.0
HOT_ABOVE: Final = 28.0
#: Hours over which a building remembers the weather: the trailing mean beside the hour's own temperature.
MEMORY_HOURS: Final = 24
#: Hours of the measured past that an outlook begins with: what models with lags of two weeks look at.
PAST_HOURS: Final = 360
#: Hours over which a weather forecast is compared with the station.
LEVEL_HOURS: Final = 168
#: How many days back the outlook looks for the same hour.
OUTLOOK_DAYS: Final = 7


@dataclass(frozen=True, eq=False)
class Outlook:
    """Regressors that ``Fitted.predict`` takes, and what they rest on.

    ``regressors`` has the column ``temperature`` (°C) for the 360 hours before the origin, NaN where none was measured,
    and the horizon after it; None where nothing is known. ``notes`` belong to every forecast that uses it.
    """

    regressors: pd.DataFrame | None
    notes: tuple[str, ...]


def temperature_outlook(history: pd.Series[Any], *, origin: datetime, horizon: int) -> Outlook:
    """Return the temperature ahead by diurnal persistence: the last known value of the same hour of the day.

    The same hour is looked for in the last seven days before ``origin``; where none is known the last known value
    stands in. Rows of ``history`` at or after ``origin`` never matter. No history gives no regressors and a note.
    """
    index = future_index(origin, horizon)
    past = hourly(history, before=origin, what="temperature")
    if past.empty:
        return Outlook(None, ("no temperature is known before the origin",))
    ahead = np.full(horizon, np.nan)
    for days in range(1, OUTLOOK_DAYS + 1):
        back = (np.arange(horizon) // 24 + days) * 24
        ahead = np.where(np.isnan(ahead), value_at(past, index - pd.to_timedelta(back, unit="h")), ahead)
    holes = int(np.isnan(ahead).sum())
    ahead = np.where(np.isnan(ahead), float(past.iloc[-1]), ahead)
    notes = ["temperature ahead by diurnal persistence: the last known value of the same hour"]
    if holes:
        notes.append(f"temperature of {holes} of {horizon} hours is the last known value")
    before = pd.date_range(end=hour_of(origin) - pd.Timedelta(hours=1), periods=PAST_HOURS, freq="h")
    values = np.concatenate([value_at(past, before), ahead])
    return Outlook(pd.DataFrame({TEMPERATURE: values}, index=before.append(index)), tuple(notes))


def forecast_outlook(
    history: pd.Series[Any], forecast: pd.Series[Any], *, origin: datetime, horizon: int
) -> Outlook | None:
    """Return the temperature ahead by a weather forecast, moved to the level of the station that measures ``history``.

    ``forecast`` holds the hours ahead as known at ``origin``, and past hours as they were forecast. A weather model's
    grid lies higher or further from the sea than the station: the mean difference of the last week, where at least a
    day of it is known on both sides, is added. None where an hour of the horizon has no forecast.
    """
    index = future_index(origin, horizon)
    foreseen = hourly(forecast, what="forecast temperature")
    ahead = value_at(foreseen, index)
    if np.isnan(ahead).any():
        return None
    past = hourly(history, before=origin, what="temperature")
    before = pd.date_range(end=hour_of(origin) - pd.Timedelta(hours=1), periods=PAST_HOURS, freq="h")
    measured, said = value_at(past, before), value_at(foreseen, before)
    differences = (measured - said)[-LEVEL_HOURS:]
    differences = differences[np.isfinite(differences)]
    level = float(differences.mean()) if len(differences) >= MEMORY_HOURS else 0.0
    values = np.concatenate([np.where(np.isnan(measured), said + level, measured), ahead + level])
    moved = f", moved by {level:+.1f} °C to the station's level" if level else ""
    note = f"temperature ahead by weather forecast{moved}"
    return Outlook(pd.DataFrame({TEMPERATURE: values}, index=before.append(index)), (note,))


def degree_features(temperature: Floats, trailing_mean: Floats) -> dict[str, Floats]:
    """Return the degree-hours of ``temperature`` (°C) and of its trailing mean, in tens of degrees.

    Load answers to heating and cooling need, not to temperature itself: it is flat between the base temperatures
    and rises on both sides. Tens of degrees bring the columns near the scale of the load's own normalisation, so
    that one prior serves all of them.
    """
    return {
        "heating": np.maximum(HEATING_BELOW - temperature, 0.0) / 10,
        "cooling": np.maximum(temperature - COOLING_ABOVE, 0.0) / 10,
        "hot": np.maximum(temperature - HOT_ABOVE, 0.0) / 10,
        "heating_day": np.maximum(HEATING_BELOW - trailing_mean, 0.0) / 10,
        "cooling_day": np.maximum(trailing_mean - COOLING_ABOVE, 0.0) / 10,
    }


def trailing_mean(temperature: pd.Series[float]) -> pd.Series[float]:
    """Return the mean of the last 24 hours up to each hour of a gapless hourly grid, over what is known of them."""
    return temperature.rolling(MEMORY_HOURS, min_periods=1).mean()
