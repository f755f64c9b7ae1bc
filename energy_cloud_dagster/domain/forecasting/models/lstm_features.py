"""What the LSTM sees of an hour: as part of the look-back, and as an hour ahead.

Everything is a deviation from the *base*, the last value of a like hour: a week before; on a public holiday the last
Sunday; two or three weeks before where that day was a holiday. So the network learns what differs from the last like
hour (a colder evening, yesterday's surplus) and not the level, which moves over the years.

No feature of a row looks at values less than 24 hours before it, so the rows of a day ahead are the same whether or
not its values are known: training cuts them from one table, and a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from energy_cloud_dagster.domain.forecasting.series import Floats, Integers, floats, local
from energy_cloud_dagster.domain.forecasting.weather import TEMPERATURE, degree_features

Singles = npt.NDArray[np.float32]

HOLIDAY: Final = "holiday"
#: Hours that the encoder reads.
LOOK_BACK: Final = 168
#: Hours that the decoder writes at a time.
BLOCK: Final = 24
#: Hours before an origin that any feature looks at: the look-back, and three weeks and a change of clocks before it.
REACH: Final = LOOK_BACK + 3 * 168 + 24
#: Deviations count up to this many times their usual size, so that a spike is not the loudest input.
LIMIT: Final = 6.0
#: Days around an hour whose same hour stands in for an unknown regressor.
NEIGHBOURS: Final = 7
#: Columns of ``Table.origin``: mean deviation over the last hours, and the last day's level against the week's.
_WINDOWS: Final = (1, 3, 24, 168)


@dataclass(frozen=True)
class Scale:
    """Units of the network, learned once and kept over warm starts."""

    #: Standard deviation of the series, and of its deviations from the base, in its unit.
    spread: float
    deviation: float
    #: Name, mean and standard deviation of each regressor but the holiday flag.
    regressors: tuple[tuple[str, float, float], ...]
    #: Whether the season is an input (from a year of history on).
    yearly: bool


@dataclass(frozen=True, eq=False)
class Table:
    """Features of ``n`` consecutive hours.

    ``past`` (n, P): the hour as part of the look-back; column 0 is the value over ``spread``, column 1 whether it is
    known. ``ahead`` (n, A): the hour as one to forecast. ``origin`` (n, 5): what was known at its start. ``base`` and
    ``level`` (n,): the last like value and the mean of the 168 hours before, in the unit of the series, NaN where
    unknown. ``counts`` (n,): known values among these 168.
    """

    past: Singles
    ahead: Singles
    origin: Singles
    base: Floats
    level: Floats
    counts: Integers


def _wall_places(wall: pd.DatetimeIndex, index: pd.DatetimeIndex) -> dict[int, Integers]:
    """Return by days the row of the same wall time so many days before; with one day, of 24 hours before."""
    rows = np.arange(len(index), dtype=np.int64)
    offsets = ((wall.to_numpy() - index.tz_localize(None).to_numpy()) // np.timedelta64(1, "h")).astype(np.int64)
    places = {1: rows - 24}  # a step of 23 hours could reach into the day that is being forecast
    for days in (*range(2, 8), 14, 21):
        before = rows - 24 * days
        places[days] = before + offsets - offsets[np.maximum(before, 0)]
    return places


def taken(values: Floats, places: Integers) -> Floats:
    """Return ``values[places]``, NaN where a place lies before the first row."""
    if not len(values):
        return np.full(len(places), np.nan)
    return np.where(places >= 0, values[np.clip(places, 0, len(values) - 1)], np.nan)


def _base_places(
    values: Floats, wall: pd.DatetimeIndex, by_days: dict[int, Integers], holiday: npt.NDArray[np.bool_]
) -> Integers:
    """Return the row whose value is each row's base, -1 where there is none."""
    flags = holiday.astype(np.float64)
    weekday = np.asarray(wall.day_of_week, dtype=np.int64)
    chosen = by_days[7]
    if holiday.any():
        first, second = (taken(flags, by_days[days]) > 0.5 for days in (7, 14))
        chosen = np.where(first & (weekday < 5), np.where(second, by_days[21], by_days[14]), chosen)
        for day in range(5):  # a holiday on a workday is like the Sunday before
            chosen = np.where(holiday & (weekday == day), by_days[day + 1], chosen)
    known = np.isfinite(taken(values, chosen))
    for days in (7, 14, 21, *range(1, 7)):
        if known.all():
            break
        chosen = np.where(known, chosen, by_days[days])
        known = np.isfinite(taken(values, chosen))
    return np.where(known, chosen, -1)


def mean_before(values: Floats, hours: int) -> tuple[Floats, Integers]:
    """Return the mean of the known among the ``hours`` rows before each row (NaN without any) and their number."""
    known = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])[:-1]
    counts = np.concatenate([[0], np.cumsum(known)])[:-1]
    starts = np.maximum(np.arange(len(values)) - hours, 0)
    number = counts - counts[starts]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(number > 0, (sums - sums[starts]) / number, np.nan), np.asarray(number, dtype=np.int64)


def filled(frame: pd.DataFrame) -> dict[str, Floats]:
    """Return the columns with gaps filled by the same hour of the nearest day that knows it, up to a week away."""
    columns = {}
    for name in frame.columns:
        values = floats(frame[name]).copy()
        for days in range(1, NEIGHBOURS + 1):
            gaps = np.flatnonzero(~np.isfinite(values))
            if not len(gaps):
                break
            for step in (-24 * days, 24 * days):
                places = gaps + step
                inside = (places >= 0) & (places < len(values))
                source = floats(frame[name])[places[inside]]
                target = gaps[inside]
                empty = ~np.isfinite(values[target])
                values[target[empty]] = source[empty]
        columns[str(name)] = values
    return columns


def _temperature_columns(values: Floats) -> list[Floats]:
    """Return degree-hours of the hour and of the trailing day; hours that are not known count as neither."""
    trailing = floats(pd.Series(values).rolling(24, min_periods=1).mean())
    return list(degree_features(values, trailing).values())


def _calendar(wall: pd.DatetimeIndex, holiday: Floats, *, yearly: bool) -> tuple[Floats, Floats]:
    """Return the calendar as columns of the look-back (7) and of the hours ahead (19)."""
    hours = np.asarray(wall.hour, dtype=np.float64)
    weekday = np.asarray(wall.day_of_week, dtype=np.int64)
    angles = 2 * np.pi * np.outer(hours, [1, 2, 3, 4]) / 24
    circle = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    week = 2 * np.pi * (weekday + hours / 24) / 7
    off = np.maximum(holiday, weekday >= 5)
    past = np.column_stack([circle[:, 0], circle[:, 4], np.sin(week), np.cos(week), off, holiday, hours / 24])
    season = 2 * np.pi * np.asarray(wall.day_of_year, dtype=np.float64) / 365.25 * float(yearly)
    yesterday = np.nan_to_num(taken(holiday, np.arange(len(wall)) - 24))
    days = np.eye(7)[weekday]
    ahead = np.column_stack([circle, days, holiday, yesterday, np.sin(season), np.cos(season)])
    return past, ahead


def table(values: Floats, regressors: dict[str, Floats], index: pd.DatetimeIndex, timezone: str, scale: Scale) -> Table:
    """Return the features of the hours ``index`` (UTC, gapless); ``values`` and ``regressors`` may hold NaN."""
    holiday = np.nan_to_num(regressors.get(HOLIDAY, np.zeros(len(index))))
    wall = local(index, timezone)
    by_days = _wall_places(wall, index)
    places = _base_places(values, wall, by_days, holiday > 0.5)
    base = taken(values, places)
    day = by_days[1]
    deviation = np.clip((values - base) / scale.deviation, -LIMIT, LIMIT)
    lags = [
        taken(deviation, day),
        taken(deviation, day - 24),
        taken(deviation, places),
        *((taken(values, by_days[days]) - base) / scale.deviation for days in (1, 2, 7, 14)),
    ]
    past_calendar, ahead_calendar = _calendar(wall, holiday, yearly=scale.yearly)
    now: list[Floats] = []
    for name, mean, spread in scale.regressors:
        now.append((regressors[name] - mean) / spread)
        if name == TEMPERATURE:
            now += _temperature_columns(regressors[name])
    since_base = [column - taken(column, places) for column in now]
    since_day = [column - taken(column, day) for column in now]
    at_day = [taken(column, day) for column in since_base]
    known = np.isfinite(values)
    past = np.column_stack([values / scale.spread, known, deviation, past_calendar, *now, *since_base])
    ahead = np.column_stack([ahead_calendar, *np.clip(lags, -LIMIT, LIMIT), *now, *since_base, *since_day, *at_day])
    level, counts = mean_before(values, LOOK_BACK)
    recent = [mean_before(deviation, hours)[0] for hours in _WINDOWS]
    trend = (mean_before(values, 24)[0] - level) / scale.spread
    return Table(
        past=np.nan_to_num(past).astype(np.float32),
        ahead=np.nan_to_num(ahead).astype(np.float32),
        origin=np.nan_to_num(np.column_stack([*recent, trend])).astype(np.float32),
        base=base,
        level=level,
        counts=counts,
    )


def scale_of(values: Floats, regressors: dict[str, Floats], index: pd.DatetimeIndex, timezone: str) -> Scale:
    """Return the units for a history: robust against spikes, 1 where something does not vary."""
    holiday = np.nan_to_num(regressors.get(HOLIDAY, np.zeros(len(index))))
    wall = local(index, timezone)
    deviations = values - taken(values, _base_places(values, wall, _wall_places(wall, index), holiday > 0.5))
    columns = []
    for name in sorted(regressors):
        if name != HOLIDAY:
            known = regressors[name][np.isfinite(regressors[name])]
            columns.append((name, float(known.mean()), float(known.std()) or 1.0))
    spread = _width(values)
    return Scale(
        spread=spread,
        deviation=_width(deviations) if np.isfinite(deviations).any() else spread,
        regressors=tuple(columns),
        yearly=index[-1] - index[0] >= timedelta(days=365),
    )


def _width(values: Floats) -> float:
    """Return the spread of the middle 90 %, as a standard deviation of normal values; 1 where it is zero."""
    low, high = np.nanquantile(values, [0.05, 0.95])
    return float(high - low) / 3.29 or float(np.nanstd(values)) or 1.0
