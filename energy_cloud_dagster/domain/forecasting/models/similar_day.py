"""Days like the one ahead: the mean of the same local hour over recent days of the same kind."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
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
    Integers,
    days_off,
    floats,
    future_index,
    hour_of,
    hourly,
    hours_of_day,
)

#: Days that the forecast of a site looks back.
SITE_DAYS: Final = 14
#: An hour of the day is known by at least this share of the 24, else the history is too short.
LEAST_HOURS: Final = 12


def _group_mean(values: Floats, groups: Integers, size: int) -> tuple[Floats, Integers]:
    counts = np.bincount(groups, minlength=size)
    sums = np.bincount(groups, weights=values, minlength=size)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan), counts


def _around_the_clock(profile: Floats) -> Floats:
    """Fill unknown hours of a day between their known neighbours, midnight included."""
    known = np.flatnonzero(np.isfinite(profile))
    return np.interp(np.arange(24), known, profile[known], period=24)


def _spread(deviations: Floats, hours: Integers, counts: Integers) -> tuple[Floats, Floats]:
    """Return the bands of the 24 hours from the deviations of each hour and its two neighbours.

    Neighbours are pooled because a fortnight has only a few days of a kind. The factor is that of the predictive
    spread of one more draw around a mean of ``n``: sqrt((n + 1) / (n - 1)) on deviations from that same mean.
    """
    lower, upper = np.zeros(24), np.zeros(24)
    for hour in range(24):
        near = (hours - hour + 1) % 24 <= 2
        number = counts[hour]
        if number >= 2 and near.any():
            factor = float(np.sqrt((number + 1) / (number - 1)))
            lower[hour], upper[hour] = np.quantile(deviations[near], [0.1, 0.9]) * factor
    return lower, upper


def similar_day(
    history: pd.Series[Any],
    *,
    origin: datetime,
    horizon: int,
    timezone: str,
    days: int = SITE_DAYS,
    same_kind: bool = True,
    model: str = "similar_day",
    ceiling: float | None = None,
) -> Forecast:
    """Forecast every hour as the mean of its local hour over the ``days`` days before ``origin``.

    With ``same_kind`` workdays look at workdays and weekends at weekends; a kind with fewer than two days in the
    window looks at all. Hours of the day that were never measured (a PV meter asleep at night) are filled between
    their neighbours. The band comes from the spread of the days. Raises ``InvalidInput`` where fewer than half of the
    hours of the day are known.
    """
    index = future_index(origin, horizon)
    past = hourly(history, before=origin)
    start = hour_of(origin) - timedelta(days=days)
    recent = past[past.index >= start].dropna()
    stamps = pd.DatetimeIndex(recent.index)
    values = floats(recent)
    hours = hours_of_day(stamps, timezone)
    known_hours = len(np.unique(hours))
    if known_hours < LEAST_HOURS:
        raise InvalidInput(f"only {known_hours} hours of the day are known in the last {days} days")
    off = days_off(stamps, timezone) if same_kind else np.zeros(len(values), dtype=np.bool_)
    target_off = days_off(index, timezone) if same_kind else np.zeros(horizon, dtype=np.bool_)
    target_hours = hours_of_day(index, timezone)
    notes = []
    if known_hours < 24:
        notes.append(f"{24 - known_hours} hours of the day were never measured: filled between their neighbours")
    overall, _ = _group_mean(values, hours, 24)
    centre, lower, upper = np.zeros(horizon), np.zeros(horizon), np.zeros(horizon)
    for kind in np.unique(target_off):
        chosen = off == kind
        own, counts = _group_mean(values[chosen], hours[chosen], 24)
        if (counts < 2).any() and same_kind:
            thin = counts < 2
            if (thin & np.isfinite(overall)).any():
                notes.append(f"too few {'weekend' if kind else 'work'} days: some hours look at all days")
            chosen = chosen | np.isin(hours, np.flatnonzero(thin))
            own, counts = _group_mean(values[chosen], hours[chosen], 24)
        low, high = _spread(values[chosen] - own[hours[chosen]], hours[chosen], counts)
        profile = _around_the_clock(own)
        targets = target_off == kind
        centre[targets] = profile[target_hours[targets]]
        lower[targets] = low[target_hours[targets]]
        upper[targets] = high[target_hours[targets]]
    return banded(
        index,
        centre,
        centre + lower,
        centre + upper,
        model=model,
        rung="similar_day",
        notes=tuple(notes),
        floor=natural_floor(floats(past)),
        ceiling=ceiling,
    )


@dataclass(frozen=True)
class FittedSimilarDay:
    """How many days to look back; all else is in the days themselves."""

    timezone: str
    train_start: datetime
    train_end: datetime
    days: int = SITE_DAYS
    name: str = "similar_day"
    regressors: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of the text."""
        return text_digest(self.to_text())

    def predict(
        self, recent: pd.Series[Any], future_regressors: pd.DataFrame | None, origin: datetime, horizon: int
    ) -> Forecast:
        """Forecast as ``similar_day`` does; regressors are not used."""
        del future_regressors
        refuse_look_ahead(self.train_end, origin)
        made = similar_day(recent, origin=origin, horizon=horizon, timezone=self.timezone, days=self.days)
        return replace(made, rung="champion")

    def to_text(self) -> str:
        """Return canonical JSON."""
        return canonical_text(
            {
                "model": self.name,
                "format": 1,
                "timezone": self.timezone,
                "train_start": self.train_start.isoformat(),
                "train_end": self.train_end.isoformat(),
                "days": self.days,
            }
        )

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Return the model that ``to_text`` wrote."""
        document = parsed_text(text, "similar_day")
        return cls(
            timezone=document["timezone"],
            train_start=datetime.fromisoformat(document["train_start"]),
            train_end=datetime.fromisoformat(document["train_end"]),
            days=int(document["days"]),
        )


@dataclass(frozen=True)
class SimilarDay:
    """The mean of the same hour over the last ``days`` days of the same kind, as a model that can be chosen."""

    days: int = SITE_DAYS
    name: str = "similar_day"

    def fit(
        self, history: pd.Series[Any], regressors: pd.DataFrame | None, *, timezone: str, seed: int
    ) -> FittedSimilarDay:
        """Note the span of the history; see ``Model``."""
        del regressors, seed
        past = hourly(history)
        if past.empty:
            raise InvalidInput("the similar-day model needs at least one known hour")
        hours_of_day(pd.DatetimeIndex(past.index[:1]), timezone)  # refuses an unknown zone
        end = past.index[-1] + pd.Timedelta(hours=1)
        return FittedSimilarDay(timezone, past.index[0].to_pydatetime(), end.to_pydatetime(), self.days)
