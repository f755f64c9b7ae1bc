"""Hourly series as the models see them: one value an hour, gaps as NaN, nothing at or after the origin."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import numpy.typing as npt
import pandas as pd

from energy_cloud_dagster.domain.errors import InvalidInput

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

#: Longest horizon that is answered, in hours.
MAX_HORIZON = 336


def hour_of(moment: datetime, what: str = "origin") -> pd.Timestamp:
    """Return ``moment`` as a UTC timestamp; one without an offset or off the hour is refused as ``what``."""
    if moment.tzinfo is None:
        raise InvalidInput(f"{what} {moment.isoformat()} has no offset; give one, such as a trailing Z")
    stamp = pd.Timestamp(moment.astimezone(UTC))
    if stamp != stamp.floor("h"):
        raise InvalidInput(f"{what} {stamp.isoformat()} is not a whole hour; name the start of the first hour")
    return stamp


def future_index(origin: datetime, horizon: int) -> pd.DatetimeIndex:
    """Return the ``horizon`` hour starts from ``origin`` on, in UTC."""
    if not 1 <= horizon <= MAX_HORIZON:
        raise InvalidInput(f"horizon is {horizon} hours; give 1 to {MAX_HORIZON}")
    return pd.date_range(hour_of(origin), periods=horizon, freq="h")


def _checked_index(index: pd.Index[Any], what: str) -> pd.DatetimeIndex:
    if len(index) == 0:
        return pd.DatetimeIndex([], tz="UTC")  # nothing known has no zone to be wrong about
    if not isinstance(index, pd.DatetimeIndex) or index.tz is None:
        raise InvalidInput(f"{what} needs a DatetimeIndex with a time zone: the UTC starts of its hours")
    stamps = index.tz_convert("UTC")
    if stamps.hasnans:
        raise InvalidInput(f"{what} has an hour without a time; drop it")
    repeated = stamps[stamps.duplicated()]
    if len(repeated):
        raise InvalidInput(f"{what} has {len(repeated)} repeated hours, the first {repeated[0].isoformat()}")
    off = stamps[stamps != stamps.floor("h")]
    if len(off):
        raise InvalidInput(f"{what} is not hourly: {off[0].isoformat()} is not a whole hour; aggregate it first")
    return stamps


def floats(values: object, what: str = "history") -> Floats:
    """Return ``values`` as an array of float64; anything else than numbers is refused as ``what``."""
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{what} has a value that is not a number: {error}") from error


def hourly(series: pd.Series[Any], *, before: datetime | None = None, what: str = "history") -> pd.Series[float]:
    """Return ``series`` on a gapless UTC hourly grid, ascending, gaps and non-finite values as NaN.

    The grid runs from the first to the last hour that has a value; without any it is empty. Rows at or after
    ``before`` are dropped before anything else looks at them. Repeated hours, a naive index and stamps off the hour
    raise ``InvalidInput`` that names the series as ``what``.
    """
    stamps = _checked_index(series.index, what)
    values: pd.Series[float] = pd.Series(floats(series, what), index=stamps)
    if before is not None:
        values = values[stamps < hour_of(before)]
    values = values[np.isfinite(values.to_numpy())].sort_index()
    if values.empty:
        return values
    return values.reindex(pd.date_range(values.index[0], values.index[-1], freq="h"))


def hourly_frame(frame: pd.DataFrame, index: pd.DatetimeIndex, *, what: str = "regressors") -> pd.DataFrame:
    """Return ``frame`` as floats on ``index``, missing and non-finite values as NaN; faults as in ``hourly``."""
    stamps = _checked_index(frame.index, what)
    columns = [str(name) for name in frame.columns]
    numbers = pd.DataFrame(floats(frame, what), index=stamps, columns=columns)
    return numbers.reindex(index).replace([np.inf, -np.inf], np.nan)


def local(index: pd.DatetimeIndex, timezone: str) -> pd.DatetimeIndex:
    """Return ``index`` in local wall time, without a zone (the repeated hour of autumn appears twice)."""
    try:
        zone = ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise InvalidInput(f"{timezone!r} is not an IANA time zone") from error
    return index.tz_convert(zone).tz_localize(None)


def hours_of_day(index: pd.DatetimeIndex, timezone: str) -> Integers:
    """Return the local hour of the day, 0 to 23, of every entry."""
    return np.asarray(local(index, timezone).hour, dtype=np.int64)


def days_off(index: pd.DatetimeIndex, timezone: str) -> npt.NDArray[np.bool_]:
    """Return which entries lie on a local Saturday or Sunday."""
    return np.asarray(local(index, timezone).day_of_week >= 5, dtype=np.bool_)


def value_at(series: pd.Series[float], stamps: pd.DatetimeIndex) -> Floats:
    """Return the values of an ``hourly`` series at ``stamps``, NaN where it has none."""
    if series.empty:
        return np.full(len(stamps), math.nan)
    grid = series.to_numpy()
    places = np.asarray((stamps - series.index[0]) // pd.Timedelta(hours=1), dtype=np.int64)
    inside = (places >= 0) & (places < len(grid))
    return np.where(inside, grid[np.clip(places, 0, len(grid) - 1)], math.nan)


def residual_bands(residuals: Floats, hours: Integers, *, least: int = 8) -> tuple[Floats, Floats]:
    """Return the 10 % and 90 % quantiles of ``residuals`` by hour of the day, two arrays of shape ``(24,)``.

    An hour with fewer than ``least`` finite residuals takes those of all hours; without any, both are zero. The lower
    band is never above zero and the upper never below, so that a band always holds its own centre.
    """
    finite = np.isfinite(residuals)
    residuals, hours = residuals[finite], hours[finite]
    lower, upper = np.zeros(24), np.zeros(24)
    if len(residuals):
        overall = np.quantile(residuals, [0.1, 0.9])
        for hour in range(24):
            own = residuals[hours == hour]
            lower[hour], upper[hour] = np.quantile(own, [0.1, 0.9]) if len(own) >= least else overall
    return np.minimum(lower, 0.0), np.maximum(upper, 0.0)
