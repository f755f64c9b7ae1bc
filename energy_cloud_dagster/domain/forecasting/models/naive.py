"""The models that need no fitting to speak of: last week's hour, and the last known value."""

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
from energy_cloud_dagster.domain.forecasting.series import (
    Floats,
    floats,
    future_index,
    hour_of,
    hourly,
    hours_of_day,
    residual_bands,
    value_at,
)

WEEK_HOURS: Final = 168
DAY_HOURS: Final = 24
HOUR: Final = pd.Timedelta(hours=1)


def _lagged(past: pd.Series[float], index: pd.DatetimeIndex, lag: int) -> Floats:
    """Return for every hour the value a whole number of ``lag`` hours before, the smallest that lies in the past."""
    leads = np.arange(len(index))
    steps = (leads // lag + 1) * lag
    return value_at(past, index - pd.to_timedelta(steps, unit="h"))


def _naive_centre(past: pd.Series[float], index: pd.DatetimeIndex) -> tuple[Floats, tuple[str, ...]]:
    centre = _lagged(past, index, WEEK_HOURS)
    notes = []
    missing = np.isnan(centre)
    if missing.any():
        for days in range(1, 8):
            candidate = value_at(past, index - pd.to_timedelta((np.arange(len(index)) // 24 + days) * 24, unit="h"))
            centre = np.where(np.isnan(centre), candidate, centre)
        notes.append(f"{int(missing.sum())} of {len(index)} hours take the day before: the week before is missing")
    holes = int(np.isnan(centre).sum())
    if holes:
        centre = np.where(np.isnan(centre), past.iloc[-1], centre)
        notes.append(f"{holes} of {len(index)} hours take the last known value")
    return centre, tuple(notes)


def _daily_centre(past: pd.Series[float], index: pd.DatetimeIndex) -> tuple[Floats, tuple[str, ...]]:
    centre = _lagged(past, index, DAY_HOURS)
    for days in range(2, 8):
        back = (np.arange(len(index)) // DAY_HOURS + days) * DAY_HOURS
        centre = np.where(np.isnan(centre), value_at(past, index - pd.to_timedelta(back, unit="h")), centre)
    holes = int(np.isnan(centre).sum())
    centre = np.where(np.isnan(centre), past.iloc[-1], centre)
    return centre, (f"{holes} of {len(index)} hours take the last known value",) if holes else ()


@dataclass(frozen=True)
class _FittedNaive:
    """An hour of the past with a band by hour of the day; the bands are all that it learned."""

    timezone: str
    train_start: datetime
    train_end: datetime
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    name: str = ""
    regressors: tuple[str, ...] = ()

    @classmethod
    def of(cls, past: pd.Series[float], timezone: str, lag: int) -> Self:
        """Return the model of an ``hourly`` series whose bands come from the differences over ``lag`` hours."""
        if past.empty:
            raise InvalidInput(f"the {cls.name.replace('_', ' ')} model needs at least one known hour")
        values = floats(past)
        hours = hours_of_day(pd.DatetimeIndex(past.index), timezone)
        lower, upper = residual_bands(values[lag:] - values[:-lag], hours[lag:])
        return cls(
            timezone=timezone,
            train_start=past.index[0].to_pydatetime(),
            train_end=(past.index[-1] + HOUR).to_pydatetime(),
            lower=tuple(float(value) for value in lower),
            upper=tuple(float(value) for value in upper),
        )

    @property
    def digest(self) -> str:
        """SHA-256 of the text."""
        return text_digest(self.to_text())

    def _centre(self, past: pd.Series[float], index: pd.DatetimeIndex) -> tuple[Floats, tuple[str, ...]]:
        raise NotImplementedError

    def predict(
        self, recent: pd.Series[Any], future_regressors: pd.DataFrame | None, origin: datetime, horizon: int
    ) -> Forecast:
        """Forecast as ``Fitted`` says; regressors are not used. An empty ``recent`` raises ``InvalidInput``."""
        del future_regressors
        refuse_look_ahead(self.train_end, origin)
        index = future_index(origin, horizon)
        past = hourly(recent, before=origin)
        if past.empty:
            called = self.name.replace("_", " ")
            raise InvalidInput(f"the {called} forecast needs at least one known hour before its origin")
        centre, notes = self._centre(past, index)
        hours = hours_of_day(index, self.timezone)
        return banded(
            index,
            centre,
            centre + np.asarray(self.lower)[hours],
            centre + np.asarray(self.upper)[hours],
            model=self.name,
            rung="champion",
            notes=notes,
            floor=natural_floor(floats(past)),
        )

    def to_text(self) -> str:
        """Return canonical JSON."""
        return canonical_text(
            {
                "model": self.name,
                "format": 1,
                "timezone": self.timezone,
                "train_start": self.train_start.isoformat(),
                "train_end": self.train_end.isoformat(),
                "lower": self.lower,
                "upper": self.upper,
            }
        )

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Return the model that ``to_text`` wrote."""
        document = parsed_text(text, cls.name)
        return cls(
            timezone=document["timezone"],
            train_start=datetime.fromisoformat(document["train_start"]),
            train_end=datetime.fromisoformat(document["train_end"]),
            lower=tuple(document["lower"]),
            upper=tuple(document["upper"]),
        )


@dataclass(frozen=True)
class FittedSeasonalNaive(_FittedNaive):
    """Last week's hour with a band by hour of the day."""

    name: str = "seasonal_naive"

    def _centre(self, past: pd.Series[float], index: pd.DatetimeIndex) -> tuple[Floats, tuple[str, ...]]:
        return _naive_centre(past, index)


@dataclass(frozen=True)
class SeasonalNaive:
    """The value of 168 hours before; where that is missing, of 24 hours before. The yardstick of every other model."""

    name: str = "seasonal_naive"

    def fit(
        self, history: pd.Series[Any], regressors: pd.DataFrame | None, *, timezone: str, seed: int
    ) -> FittedSeasonalNaive:
        """Learn the bands from the weekly differences (daily ones in less than two weeks); see ``Model``."""
        del regressors, seed
        past = hourly(history)
        return FittedSeasonalNaive.of(past, timezone, WEEK_HOURS if len(past) >= 2 * WEEK_HOURS else DAY_HOURS)


@dataclass(frozen=True)
class FittedDailyNaive(_FittedNaive):
    """Yesterday's hour with a band by hour of the day."""

    name: str = "daily_naive"

    def _centre(self, past: pd.Series[float], index: pd.DatetimeIndex) -> tuple[Floats, tuple[str, ...]]:
        return _daily_centre(past, index)


@dataclass(frozen=True)
class DailyNaive:
    """The value of 24 hours before: hard to beat where days resemble one another more than weeks do."""

    name: str = "daily_naive"

    def fit(
        self, history: pd.Series[Any], regressors: pd.DataFrame | None, *, timezone: str, seed: int
    ) -> FittedDailyNaive:
        """Learn the bands from the daily differences; see ``Model``."""
        del regressors, seed
        return FittedDailyNaive.of(hourly(history), timezone, DAY_HOURS)


def seasonal_naive(history: pd.Series[Any], *, origin: datetime, horizon: int, timezone: str) -> Forecast:
    """Fit and predict in one call on the hours before ``origin``; an empty history raises ``InvalidInput``."""
    past = hourly(history, before=origin)
    return SeasonalNaive().fit(past, None, timezone=timezone, seed=0).predict(past, None, origin, horizon)


def persistence(history: pd.Series[Any], *, origin: datetime, horizon: int) -> Forecast:
    """Hold the last known value before ``origin``; the last rung of the ladder, so it always answers.

    The band of lead ``h`` holds the middle 80 % of the changes over ``h`` hours in the last 14 days, where ten or more
    are known. An empty history gives zeros and says so.
    """
    index = future_index(origin, horizon)
    past = hourly(history, before=origin)
    if past.empty:
        zeros = np.zeros(horizon)
        note = "no known hour before the origin: zeros"
        return Forecast(index, zeros, zeros, zeros, model="persistence", rung="persistence", notes=(note,))
    last = float(past.iloc[-1])
    age = int((hour_of(origin) - past.index[-1]) / HOUR)
    values = floats(past)[-14 * DAY_HOURS :]
    lower, upper = np.zeros(horizon), np.zeros(horizon)
    spread = (0.0, 0.0)
    for step in range(horizon):
        lead = age + step
        changes = values[lead:] - values[:-lead] if lead < len(values) else np.empty(0)
        changes = changes[np.isfinite(changes)]
        if len(changes) >= 10:
            quantiles = np.quantile(changes, [0.1, 0.9])
            spread = (float(quantiles[0]), float(quantiles[1]))
        lower[step], upper[step] = spread
    notes = [] if age == 1 else [f"the last known value is {age} hours old"]
    if not lower.any() and not upper.any():
        notes.append("no spread is known")
    return banded(
        index,
        np.full(horizon, last),
        last + lower,
        last + upper,
        model="persistence",
        rung="persistence",
        notes=tuple(notes),
        floor=natural_floor(floats(past)),
    )
