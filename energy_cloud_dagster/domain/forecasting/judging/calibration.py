"""Quantiles that hold: bands stretched until they would have covered 80 % of the recent hours, hour by hour of the day.

Conformal in form (Vovk et al. 2005; Romano, Patterson & Candès 2019, asymmetric version): how far each past value lay
outside or inside a forecast made before it is the score, and the score's quantile is what the next band is stretched
by. Only forecasts whose hour had been measured before the origin count, so that the result can be trusted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Self

import numpy as np
import pandas as pd

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting.forecast import Forecast, natural_floor
from energy_cloud_dagster.domain.forecasting.series import Floats, Integers, floats, hourly, hours_of_day, value_at

#: Columns of a residual frame, beside its index of UTC hour starts.
COLUMNS: Final = ("hour", "actual", "p10", "p50", "p90")
#: Share of a band that is the forecast's own width; the rest is the mean width of that hour of the day.
OWN_WIDTH: Final = 0.7
#: Days after which a residual counts half.
HALF_LIFE_DAYS: Final = 60.0
#: Weight of a neighbouring hour of the day.
NEIGHBOUR: Final = 0.5
#: Scores of an hour of the day at which its own factor weighs as much as that of all hours.
SHRINK: Final = 14.0
#: Fewest known residuals that calibrate anything.
LEAST: Final = 48


@dataclass(frozen=True)
class Calibration:
    """What turns a model's own quantiles into calibrated ones, 24 entries by local hour of the day in each tuple.

    With ``down = p50 - p10`` and ``up = p90 - p50``: the median moves by ``shift``, the band reaches
    ``lower_offset + lower_scale * down`` below it and ``upper_offset + upper_scale * up`` above it; all in the
    forecast's unit but the scales. ``hours`` is the number of residuals behind it, ``floor`` a bound that no quantile
    goes below (0 for a series that is never negative).
    """

    timezone: str
    shift: tuple[float, ...]
    lower_scale: tuple[float, ...]
    lower_offset: tuple[float, ...]
    upper_scale: tuple[float, ...]
    upper_offset: tuple[float, ...]
    hours: int
    floor: float | None = None

    def apply(self, forecast: Forecast) -> Forecast:
        """Return ``forecast`` with calibrated quantiles; everything else stays."""
        hours = hours_of_day(forecast.index, self.timezone)
        p10, p50, p90 = self.quantiles(hours, forecast.p10, forecast.p50, forecast.p90)
        return replace(forecast, p10=p10, p50=p50, p90=p90)

    def quantiles(self, hours: Integers, p10: Floats, p50: Floats, p90: Floats) -> tuple[Floats, Floats, Floats]:
        """Return the calibrated ``p10, p50, p90`` of entries at the local ``hours`` of the day; all of one shape."""
        low = -math.inf if self.floor is None else self.floor
        centre = np.maximum(p50 + np.asarray(self.shift)[hours], low)
        down = np.asarray(self.lower_offset)[hours] + np.asarray(self.lower_scale)[hours] * (p50 - p10)
        up = np.asarray(self.upper_offset)[hours] + np.asarray(self.upper_scale)[hours] * (p90 - p50)
        return np.maximum(centre - np.maximum(down, 0.0), low), centre, centre + np.maximum(up, 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """Return what ``to_dict`` wrote; other documents raise ``InvalidInput``."""
        try:
            fields: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value for name, value in document.items()
            }
            made = cls(**fields)
        except TypeError as error:
            raise InvalidInput(f"a stored calibration has other fields: {error}") from error
        lengths = {len(value) for value in asdict(made).values() if isinstance(value, tuple)}
        if lengths != {24}:
            raise InvalidInput(f"a stored calibration has {sorted(lengths)} entries, not 24")
        return made


def no_calibration(timezone: str) -> Calibration:
    """Return the calibration that leaves every forecast as it is."""
    zeros, ones = (0.0,) * 24, (1.0,) * 24
    return Calibration(timezone, zeros, ones, zeros, ones, zeros, 0)


def residual_frame(forecasts: Sequence[Forecast], actual: pd.Series[Any], timezone: str) -> pd.DataFrame:
    """Return past forecasts beside what was measured: ``COLUMNS`` by UTC hour; hours without an actual are left out.

    An hour that several forecasts cover appears once for each. ``hour`` is the local hour of the day.
    """
    known = hourly(actual, what="actual")
    parts = [
        pd.DataFrame(
            {
                "hour": hours_of_day(one.index, timezone),
                "actual": value_at(known, one.index),
                "p10": one.p10,
                "p50": one.p50,
                "p90": one.p90,
            },
            index=one.index,
        )
        for one in forecasts
    ]
    if not parts:
        return pd.DataFrame(columns=list(COLUMNS), index=pd.DatetimeIndex([], tz="UTC"), dtype=np.float64)
    return pd.concat(parts).dropna(subset=["actual"])


def fit_calibration(residuals: pd.DataFrame, timezone: str, *, centred: bool = True) -> Calibration:
    """Return the calibration that ``residuals`` (a ``residual_frame``) call for; too few of them change nothing.

    Recent rows count more (half after 60 days). Without ``centred`` the median stays where it is: for a yardstick.
    """
    frame = residuals.sort_index(kind="stable")
    stamps = pd.DatetimeIndex(frame.index)
    columns = {name: floats(frame[name], f"residuals' {name}") for name in COLUMNS}
    ages = (
        np.empty(0) if not len(stamps) else np.asarray((stamps[-1] - stamps) / pd.Timedelta(days=1), dtype=np.float64)
    )
    hours = columns["hour"].astype(np.int64)
    quantiles = (columns[name] for name in ("p10", "p50", "p90"))
    return calibrated(timezone, hours, ages, columns["actual"], *quantiles, centred=centred)


def calibrated(
    timezone: str,
    hours: Integers,
    ages: Floats,
    actual: Floats,
    p10: Floats,
    p50: Floats,
    p90: Floats,
    *,
    centred: bool = True,
) -> Calibration:
    """Fit on columns of one length: local hours of the day, ages in days (0: newest), actuals and quantiles."""
    keep = np.isfinite(actual)
    hours, ages, actual = hours[keep], ages[keep], actual[keep]
    p10, p50, p90 = p10[keep], p50[keep], p90[keep]
    if len(actual) < LEAST:
        return no_calibration(timezone)
    weights = 0.5 ** (ages / HALF_LIFE_DAYS)
    shift = _shift(actual - p50, hours, weights) if centred else np.zeros(24)
    beyond = actual - p50 - shift[hours]
    lower_scale, lower_offset = _stretch(-beyond, p50 - p10, hours, weights)
    upper_scale, upper_offset = _stretch(beyond, p90 - p50, hours, weights)
    return Calibration(
        timezone=timezone,
        shift=_tuple(shift),
        lower_scale=_tuple(lower_scale),
        lower_offset=_tuple(lower_offset),
        upper_scale=_tuple(upper_scale),
        upper_offset=_tuple(upper_offset),
        hours=len(actual),
        floor=natural_floor(actual),
    )


def _tuple(values: Floats) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _shift(errors: Floats, hours: Integers, weights: Floats) -> Floats:
    """Return by hour of the day what the median has lately been off by, as far as that is more than chance.

    The median error keeps the share ``1 - (s / m)²``, with ``m`` its size and ``s`` its standard error (normal, from
    the errors' mean size; the hours of a day count as one draw): the positive-part rule of James and Stein.
    """
    order = np.argsort(errors, kind="stable")
    sums = np.cumsum(_nearness()[:, hours[order]] * weights[order], axis=1)
    median = weighted_quantile(errors[order], sums, 0.5)
    days = np.maximum(np.bincount(hours, weights=weights, minlength=24), 1e-9)
    size = _hour_means(np.abs(errors), hours, weights)
    # 1.253 mean sizes are a deviation of a normal; the median's own error is 1.253 times the mean's.
    chance = 1.253**2 * size / np.sqrt(days)
    kept = np.maximum(1 - (chance / np.maximum(np.abs(median), 1e-12)) ** 2, 0.0)
    shift: Floats = median * kept
    return shift


def _stretch(beyond: Floats, width: Floats, hours: Integers, weights: Floats) -> tuple[Floats, Floats]:
    """Return scale and offset by hour of one side's band: ``beyond`` is how far the actual lay on that side.

    The score is ``beyond`` in units of a blend of the forecast's own half-width and the hour's mean one: the first
    knows which days are hard, the second does not vanish where a model names no width.
    """
    usual = _hour_means(width, hours, weights)
    if float(usual.max()) <= 0.0:  # the model names no width: its own errors do
        usual = np.maximum(_hour_means(np.abs(beyond), hours, weights), 1e-9)
        own = 0.0
    else:
        usual = np.maximum(usual, 1e-3 * float(usual.max()))
        own = OWN_WIDTH
    unit = own * width + (1 - own) * usual[hours]
    factor = _factors(beyond / unit, hours, weights)
    return factor * own, factor * (1 - own) * usual


def _nearness() -> Floats:
    """Return how much the hour of the column counts for the hour of the row, shape ``(24, 24)``."""
    apart = np.abs(np.arange(24)[:, None] - np.arange(24)[None, :])
    around = np.minimum(apart, 24 - apart)
    return np.where(around == 0, 1.0, np.where(around == 1, NEIGHBOUR, 0.0))


def _hour_means(values: Floats, hours: Integers, weights: Floats) -> Floats:
    overall = float(np.average(values, weights=weights))
    sums = np.bincount(hours, weights=values * weights, minlength=24)
    mass = np.bincount(hours, weights=weights, minlength=24)
    return (sums + overall) / (mass + 1.0)  # one pseudo-day of the mean over all hours


def _factors(scores: Floats, hours: Integers, weights: Floats) -> Floats:
    """Return by hour of the day the 90 % quantile of ``scores``, pooled with the neighbours and shrunk to all hours."""
    order = np.argsort(scores, kind="stable")
    ranked, mass = scores[order], weights[order]
    overall = weighted_quantile(ranked, np.cumsum(mass)[None, :], 0.9)[0]
    sums = np.cumsum(_nearness()[:, hours[order]] * mass, axis=1)
    own = weighted_quantile(ranked, sums, 0.9)
    counts = sums[:, -1]
    factors: Floats = np.maximum((counts * own + SHRINK * overall) / (counts + SHRINK), 0.0)
    return factors


def weighted_quantile(ranked: Floats, sums: Floats, level: float) -> Floats:
    """Return for every row of ``sums`` the ``level`` quantile of the ascending ``ranked``, with room for what comes.

    ``sums`` of shape ``(rows, len(ranked))`` holds the running sums of the weights. The quantile is the first value at
    which they reach ``level * (n + 1)``, with ``n`` the row's whole weight: the conformal correction for one value to
    come, capped at the largest value that has a weight.
    """
    totals = sums[:, -1]
    targets = np.minimum(level * (totals + 1.0), totals) * (1 - 1e-12)
    places = (sums < targets[:, None]).sum(axis=1)
    return np.asarray(ranked[np.minimum(places, len(ranked) - 1)], dtype=np.float64)
