"""What sun and wind will allow, as a fraction of capacity, from the plant's own past and no weather."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np
import pandas as pd

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting.forecast import Forecast, banded
from energy_cloud_dagster.domain.forecasting.models.naive import persistence
from energy_cloud_dagster.domain.forecasting.models.similar_day import similar_day
from energy_cloud_dagster.domain.forecasting.series import Floats, floats, future_index, hour_of, hourly

#: Days over which the mean, the coefficient and the bands of wind are taken.
WIND_DAYS: Final = 28
SOLAR_DAYS: Final = 5
#: Fewest pairs of neighbouring hours from which the coefficient is fitted.
LEAST_PAIRS: Final = 48
#: Strongest memory that is believed: half of a deviation is left after three days.
MOST_MEMORY: Final = 0.99


def solar_availability(history: pd.Series[Any], *, origin: datetime, horizon: int, timezone: str) -> Forecast:
    """Forecast the fraction of capacity that the sun will allow, 0..1: the mean of the same hour of the last days.

    ``history`` holds past output as a fraction of capacity; values outside 0..1 are cut. Nothing known gives zeros:
    a plan must not count on a plant that was never seen.
    """
    fraction = history.clip(0.0, 1.0)
    return _solar(fraction, origin=origin, horizon=horizon, timezone=timezone, ceiling=1.0)


def _solar(
    history: pd.Series[Any], *, origin: datetime, horizon: int, timezone: str, ceiling: float | None
) -> Forecast:
    try:
        return similar_day(
            history,
            origin=origin,
            horizon=horizon,
            timezone=timezone,
            days=SOLAR_DAYS,
            same_kind=False,
            ceiling=ceiling,
        )
    except InvalidInput as error:
        # Holding the last value would let the sun shine all night.
        past = hourly(history, before=origin)
        zeros = np.zeros(horizon)
        return banded(
            future_index(origin, horizon),
            zeros,
            zeros,
            np.full(horizon, 0.0 if past.empty else float(past.max())),
            model="persistence",
            rung="persistence",
            notes=(f"similar day: {error}", "zeros: nothing is counted on"),
        )


def _memory(deviations: Floats) -> float | None:
    """Return the lag-1 coefficient by least squares through the origin, cut to ``[0, MOST_MEMORY]``."""
    before, after = deviations[:-1], deviations[1:]
    pairs = np.isfinite(before) & np.isfinite(after)
    energy = float(np.square(before[pairs]).sum())
    if pairs.sum() < LEAST_PAIRS or energy == 0:
        return None
    return float(np.clip((before[pairs] * after[pairs]).sum() / energy, 0.0, MOST_MEMORY))


def wind_availability(history: pd.Series[Any], *, origin: datetime, horizon: int) -> Forecast:
    """Forecast the fraction of capacity that the wind will allow, 0..1, as an AR(1) process around its recent mean.

    With the mean ``m`` of the last 28 days and the coefficient ``c`` fitted on them (least squares on neighbouring
    hours), the value ``h`` hours after the last known one ``x`` is ``m + c^h (x - m)``: persistence that decays to the
    mean. The band of lead ``h`` holds the middle 80 % of the errors that this rule made at that lead in the same days.
    ``history`` holds past output as a fraction of capacity; values outside 0..1 (own use) are cut. Fewer than 48
    pairs of hours, or a constant history, fall back to persistence; nothing known gives zeros.
    """
    index = future_index(origin, horizon)
    past = hourly(history, before=origin).clip(0.0, 1.0)
    recent = past[past.index >= hour_of(origin) - timedelta(days=WIND_DAYS)]
    values = floats(recent)
    mean = float(np.nanmean(values)) if np.isfinite(values).any() else 0.0
    memory = _memory(values - mean) if len(values) > 1 else None
    if memory is None:
        fallback = persistence(past, origin=origin, horizon=horizon)
        reason = f"AR(1): fewer than {LEAST_PAIRS} pairs of hours in the last {WIND_DAYS} days, or a constant history"
        return banded(
            index,
            fallback.p50,
            fallback.p10,
            fallback.p90,
            model="persistence",
            rung="persistence",
            notes=(reason, *fallback.notes),
            floor=0.0,
            ceiling=1.0,
        )
    age = int((index[0] - past.index[-1]) / pd.Timedelta(hours=1))
    leads = age + np.arange(horizon)
    last = float(past.iloc[-1])
    centre = floats(mean + memory**leads * (last - mean))
    lower, upper = np.zeros(horizon), np.zeros(horizon)
    spread = np.quantile(values[np.isfinite(values)] - mean, [0.1, 0.9])
    for step, lead in enumerate(leads):
        errors = values[lead:] - (mean + memory**lead * (values[:-lead] - mean)) if lead < len(values) else np.empty(0)
        errors = errors[np.isfinite(errors)]
        lower[step], upper[step] = np.quantile(errors, [0.1, 0.9]) if len(errors) >= LEAST_PAIRS else spread
    return banded(
        index,
        centre,
        centre + lower,
        centre + upper,
        model="ar1",
        rung="champion",
        notes=() if age == 1 else (f"the last known value is {age} hours old",),
        floor=0.0,
        ceiling=1.0,
    )
