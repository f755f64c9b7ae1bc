"""What a forecast may look at, as columns: the calendar, the weather, and the last days before an origin.

Everything is an array over the hours of one ``Grid``. A row is a pair (origin, lead): the hour ``origin + lead`` as it
is forecast with nothing of the load at or after the origin. The same functions build the rows of a fit, many origins
at once, and those of a forecast, so the two cannot differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
import pandas as pd

from energy_cloud_dagster.domain.forecasting.series import Floats, Integers, floats, hour_of, local
from energy_cloud_dagster.domain.forecasting.weather import TEMPERATURE

#: Days over which the long memory of an hour of the day goes back.
LONG_DAYS: Final = 28
#: Days back among which those of the same kind (workday or day off) are looked for.
KIND_DAYS: Final = 10
#: Hours before an origin that a row may look at: four weeks, a day, and the hour that a change of clocks moves.
LOOK_BACK: Final = (LONG_DAYS + 1) * 24 + 2
HOLIDAY: Final = "holiday"
DAY: Final = 24
#: Degrees Celsius where the answer of a load to the temperature may bend.
KNOTS: Final = (8.0, 12.0, 15.0, 18.0, 21.0, 24.0, 27.0, 30.0, 34.0)
#: The same for its trailing means, which move less.
MEAN_KNOTS: Final = (12.0, 15.0, 18.0, 21.0, 24.0, 27.0)


@dataclass(frozen=True, eq=False)
class Grid:
    """One gapless hourly grid of ``n`` hours; arrays of shape ``(n,)``, NaN where nothing is known."""

    index: pd.DatetimeIndex
    load: Floats
    #: Regressors by name.
    columns: Mapping[str, Floats]
    #: Local hour of the day, day of the week (0 is Monday), day since 1970, day of the year (from 0, 29 February
    #: counts as the 28th).
    hour: Integers
    weekday: Integers
    day: Integers
    year_day: Integers
    #: Hours that the local clock is ahead of UTC, whole.
    ahead: Integers
    #: 1 on days off (weekend or holiday) of the local calendar as far as it is known, a day longer than the grid on
    #: both sides: entry ``i + 24`` belongs to hour ``i``.
    rest: Floats

    @property
    def size(self) -> int:
        """Number of hours."""
        return len(self.load)

    @property
    def off(self) -> Floats:
        """Return 1 on Saturdays, Sundays and holidays, else 0."""
        return self.rest[DAY:-DAY]

    @property
    def bridge(self) -> Floats:
        """Return 1 on a workday between two days off, else 0."""
        return self.rest[: -2 * DAY] * (1.0 - self.off) * self.rest[2 * DAY :]

    @property
    def eve(self) -> Floats:
        """Return 1 on a workday before a day off that is no Saturday, else 0."""
        return np.asarray((1.0 - self.off) * self.rest[2 * DAY :] * (self.weekday != 4), dtype=np.float64)

    @property
    def holiday(self) -> Floats:
        """Return the holiday flag, 0 where none is known."""
        flags = self.columns.get(HOLIDAY)
        return np.zeros(self.size) if flags is None else np.nan_to_num(flags)


def grid_of(
    load: pd.Series[float],
    regressors: pd.DataFrame | None,
    *,
    start: datetime,
    hours: int,
    timezone: str,
    names: tuple[str, ...],
    holidays: frozenset[int] = frozenset(),
) -> Grid:
    """Return the grid of ``hours`` hours from ``start`` on; ``load`` and ``regressors`` have a sorted UTC index.

    ``holidays`` are days since 1970 that the calendar knows beyond the regressors (the day after the last hour).
    """
    index = pd.date_range(hour_of(start), periods=hours, freq="h")
    wide = pd.date_range(index[0] - pd.Timedelta(days=1), periods=hours + 2 * DAY, freq="h")
    wall = local(wide, timezone)
    seconds = np.asarray(wall.as_unit("s").asi8, dtype=np.int64)
    day = seconds // 86400
    weekday = (day + 3) % 7  # 1 January 1970 was a Thursday
    ahead = np.rint((seconds - np.asarray(wide.as_unit("s").asi8)) / 3600).astype(np.int64)
    year_day = np.asarray(wall.day_of_year, dtype=np.int64) - 1
    year_day = year_day - (np.asarray(wall.is_leap_year) & (year_day > 58))
    columns = {}
    if regressors is not None and names:
        table = regressors.reindex(index)
        columns = {name: floats(table[name]) for name in names}
    rest = (weekday >= 5).astype(np.float64)
    if holidays:
        rest = np.maximum(rest, np.isin(day, np.fromiter(holidays, dtype=np.int64)))
    if HOLIDAY in columns:
        rest[DAY:-DAY] = np.maximum(rest[DAY:-DAY], np.nan_to_num(columns[HOLIDAY]) > 0)
    inner = slice(DAY, -DAY)
    return Grid(
        index=index,
        load=floats(load.reindex(index)).copy(),  # a forecast of several days writes its first ones into it
        columns=columns,
        hour=(seconds // 3600 % 24)[inner],
        weekday=weekday[inner],
        day=day[inner],
        year_day=year_day[inner],
        ahead=ahead[inner],
        rest=rest,
    )


def trailing(values: Floats, hours: int) -> Floats:
    """Return the mean of the last ``hours`` known values up to and with each hour; NaN where none is known."""
    known = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    first = np.maximum(np.arange(len(values)) + 1 - hours, 0)
    last = np.arange(len(values)) + 1
    number = counts[last] - counts[first]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(number > 0, (sums[last] - sums[first]) / np.maximum(number, 1), np.nan)


def fading(values: Floats, hours: float, reach: int) -> Floats:
    """Return the mean of the last ``reach`` values with weights that fall by e over ``hours``, over what is known."""
    known = np.isfinite(values)
    weights = np.exp(-np.arange(reach) / hours)
    sums = np.convolve(np.where(known, values, 0.0), weights)[: len(values)]
    mass = np.convolve(known.astype(np.float64), weights)[: len(values)]
    return np.where(mass > 1e-9, sums / np.maximum(mass, 1e-9), np.nan)


def weather_columns(grid: Grid) -> dict[str, Floats]:
    """Return what the temperature does by the hour, degrees Celsius; empty without one."""
    if TEMPERATURE not in grid.columns:
        return {}
    now = grid.columns[TEMPERATURE]
    return {
        "t": now,
        "t3": trailing(now, 4),
        "t24": trailing(now, 24),
        "t36": fading(now, 36.0, 144),
        "t_max": _rolling_extreme(now, 24, np.fmax),
        "t_min": _rolling_extreme(now, 24, np.fmin),
    }


def _rolling_extreme(values: Floats, hours: int, choose: np.ufunc) -> Floats:
    """Return the largest or smallest (``choose``) known value of the last ``hours`` hours, by doubling windows."""
    best, width = values, 1
    while width < hours:
        step = min(width, hours - width)
        best = choose(best, np.concatenate([np.full(step, np.nan), best[:-step]]))
        width += step
    return np.asarray(best, dtype=np.float64)


def static_design(grid: Grid, *, yearly: bool) -> tuple[list[str], Floats]:
    """Return names and columns, shape ``(n, columns)``, of what does not look at the load: calendar and weather."""
    columns: dict[str, Floats] = {}
    holiday = grid.holiday
    working = 1.0 - holiday
    for day in range(7):
        columns[f"weekday_{day}"] = (grid.weekday == day) * (working if day < 5 else 1.0)
    if HOLIDAY in grid.columns:
        columns["holiday"] = holiday * (grid.weekday < 5)
        columns["holiday_weekend"] = holiday * (grid.weekday >= 5)
        columns["after_holiday"] = before(holiday, 24) * working
        columns["bridge"] = grid.bridge
        columns["eve"] = grid.eve
    off = grid.off
    if yearly:
        angle = 2 * np.pi * (grid.year_day + grid.hour / 24) / 365.25
        for order in (1, 2, 3):
            columns[f"year_sin_{order}"] = np.sin(order * angle)
            columns[f"year_cos_{order}"] = np.cos(order * angle)
        columns["year_sin_off"] = np.sin(angle) * off
        columns["year_cos_off"] = np.cos(angle) * off
        for name, (first, last) in YEAR_END.items():
            columns[name] = _in_days(grid.year_day, first, last)
        columns["year_end_off"] = columns["year_end"] * off
    weather = weather_columns(grid)
    if weather:
        for name, knots in (("t", KNOTS), ("t3", MEAN_KNOTS), ("t24", MEAN_KNOTS), ("t36", MEAN_KNOTS)):
            values = weather[name]
            columns[name] = values
            for knot in knots:
                columns[f"{name}_{knot:g}"] = np.maximum(values - knot, 0.0)
        columns["heat_off"] = np.maximum(18.0 - weather["t3"], 0.0) * off
        columns["cool_off"] = np.maximum(weather["t3"] - 21.0, 0.0) * off
        columns["t_max"] = weather["t_max"]
        columns["t_min"] = weather["t_min"]
    for name, values in grid.columns.items():
        if name not in {TEMPERATURE, HOLIDAY}:
            columns[f"x_{name}"] = values
    return list(columns), np.column_stack(list(columns.values()))


#: The weeks around the turn of the year, days of the year from 0.
YEAR_END: Final = {
    "before_christmas": (353, 356),
    "christmas_eve": (357, 357),
    "christmas": (358, 359),
    "year_end": (360, 364),
    "new_year": (0, 4),
    "early_january": (5, 14),
    "late_january": (15, 25),
}


def _in_days(year_day: Integers, first: int, last: int) -> Floats:
    return ((year_day >= first) & (year_day <= last)).astype(np.float64)


def before(values: Floats, hours: int) -> Floats:
    """Return ``values`` of ``hours`` hours earlier; the first ones stand in for what is before the grid."""
    return np.concatenate([np.repeat(values[:1], min(hours, len(values))), values[:-hours]])


@dataclass(frozen=True, eq=False)
class Rows:
    """Pairs (origin, lead) as places on a grid; arrays of shape ``(rows,)``."""

    origin: Integers
    lead: Integers

    @property
    def place(self) -> Integers:
        """Where the forecast hour is on the grid."""
        return self.origin + self.lead

    @property
    def days_back(self) -> Integers:
        """How many days before its hour the same hour of the day is certainly known."""
        return self.lead // 24 + 1


def rows_of(origins: Integers, leads: Integers) -> Rows:
    """Return every pair of ``origins`` and ``leads``, leads running fastest."""
    return Rows(np.repeat(origins, len(leads)), np.tile(leads, len(origins)))


def same_hour(grid: Grid, rows: Rows, days: Integers | int) -> Integers:
    """Return the places of the same local hour ``days`` days before each row's hour.

    A change of clocks in between moves the place by an hour; one that this would move to the origin or later stays
    before it. Places before the grid are -1.
    """
    place = rows.place
    back = place - 24 * np.asarray(days, dtype=np.int64)
    inside = np.clip(back, 0, grid.size - 1)
    moved = back + grid.ahead[place] - grid.ahead[inside]
    moved = np.where((moved >= rows.origin) & (back < rows.origin), back, moved)
    return np.where(moved < 0, -1, moved)


def at(values: Floats, places: Integers) -> Floats:
    """Return ``values`` at ``places``, NaN at negative ones."""
    return np.where(places >= 0, values[np.maximum(places, 0)], np.nan)


def daily_trailing(values: Floats, days: int) -> Floats:
    """Return the mean of each value and those of 24, 48 … hours before, ``days`` in all, over what is known."""
    size = len(values)
    length = -(-size // DAY) * DAY
    square = np.concatenate([values, np.full(length - size, np.nan)]).reshape(-1, DAY)
    known = np.isfinite(square)
    sums = np.cumsum(np.where(known, square, 0.0), axis=0)
    counts = np.cumsum(known, axis=0)
    sums[days:] = sums[days:] - sums[:-days].copy() if len(sums) > days else sums[days:]
    counts[days:] = counts[days:] - counts[:-days].copy() if len(counts) > days else counts[days:]
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan).ravel()[:size]


def memory_columns(grid: Grid, rows: Rows, residual: Floats) -> dict[str, Floats]:
    """Return what the last days say of each row, from ``residual``: load minus what calendar and weather explain.

    Daily lags are counted from the last day that is known at the origin, so that a lead beyond a day has them too.
    """
    columns: dict[str, Floats] = {}
    back = rows.days_back
    origin = rows.origin
    yesterday = same_hour(grid, rows, back)
    places = [same_hour(grid, rows, back + number) for number in range(KIND_DAYS)]
    lags = np.column_stack([at(residual, place) for place in places])
    for number in (0, 1, 2, 6):
        columns[f"day_{number + 1}"] = lags[:, number]
    columns["days_7"] = _row_mean(lags[:, :7])
    # the last days of the same kind: on a Monday yesterday says little, Friday more
    alike = np.column_stack([at(grid.off, place) for place in places]) == grid.off[rows.place][:, None]
    alike_lags = np.where(alike, lags, np.nan)
    known = np.isfinite(alike_lags)
    first = alike_lags[np.arange(len(lags)), known.argmax(axis=1)]
    columns["kind_1"] = np.where(known.any(axis=1), first, np.nan)
    columns["kind_mean"] = _row_mean(alike_lags)
    for days in (14, LONG_DAYS):
        columns[f"days_{days}"] = at(daily_trailing(residual, days), yesterday)
    means = {hours: trailing(residual, hours) for hours in (3, 8, 24, 72, 168)}
    fade, fade_long = np.exp(-rows.lead / 3.0), np.exp(-rows.lead / 12.0)
    columns["last"] = at(residual, origin - 1) * fade
    columns["last_slow"] = at(residual, origin - 1) * fade_long
    columns["before_last"] = at(residual, origin - 2) * fade
    for hours, mean in means.items():
        columns[f"last_{hours}"] = at(mean, origin - 1)
    columns["last_3_slow"] = columns["last_3"] * fade_long
    columns["growth"] = (columns["last_3"] - at(means[3], origin - 25)) * fade_long
    # the neighbours of yesterday's hour, where they are before the origin
    for step in (-2, -1, 1, 2):
        near = np.minimum(yesterday + step, origin - 1)
        columns[f"near_{step:+d}"] = at(residual, np.where(yesterday < 0, -1, near))
    return columns | _profile_columns(grid, rows, residual, means[3])


def similar_days(grid: Grid, rows: Rows) -> Floats:
    """Return the mean load of the same hour over the days of the same kind in two weeks; NaN where there is none."""
    places = [same_hour(grid, rows, rows.days_back + number) for number in range(14)]
    alike = np.column_stack([at(grid.off, place) for place in places]) == grid.off[rows.place][:, None]
    return _row_mean(np.where(alike, np.column_stack([at(grid.load, place) for place in places]), np.nan))


def _profile_columns(grid: Grid, rows: Rows, residual: Floats, mean: Floats) -> dict[str, Floats]:
    """Return the last day by the hour of the clock, and its three-hour means by season and kind of day.

    What an afternoon says of the next one is not the same in summer and winter, nor from a Friday to a Saturday.
    """
    columns: dict[str, Floats] = {}
    before_origin = grid.hour[rows.origin - 1]
    place = rows.place
    for hour in range(24):
        columns[f"clock_{hour}"] = at(residual, rows.origin - 1 - (before_origin - hour) % 24)
    off = grid.off[place]
    changed = (off != at(grid.off, same_hour(grid, rows, rows.days_back))).astype(np.float64)
    columns["off_again"] = off * (1.0 - changed)
    columns["work_after_off"] = (1.0 - off) * changed
    angle = 2 * np.pi * grid.year_day[place] / 365.25
    season = {"off": off, "changed": changed, "cos": np.cos(angle), "sin": np.sin(angle)}
    for hour in range(2, 24, 3):
        block = at(mean, rows.origin - 1 - (before_origin - hour) % 24)
        for name, factor in season.items():
            columns[f"clock_{hour}_{name}"] = block * factor
    return columns


def _row_mean(stacked: Floats) -> Floats:
    known = np.isfinite(stacked)
    return np.where(
        known.any(axis=1),
        np.where(known, stacked, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1),
        np.nan,
    )


def tree_columns(grid: Grid, rows: Rows) -> dict[str, Floats]:
    """Return what only the trees look at: the load of the last days itself, calendar and weather as they are."""
    place, back = rows.place, rows.days_back
    holiday, off = grid.holiday, grid.off
    yesterday = same_hour(grid, rows, back)
    week = 7 * ((back + 6) // 7)
    last_week = same_hour(grid, rows, week)
    columns: dict[str, Floats] = {
        "lead": rows.lead.astype(np.float64),
        "hour": grid.hour[place].astype(np.float64),
        "weekday": grid.weekday[place].astype(np.float64),
        "year_day": grid.year_day[place].astype(np.float64),
        "off": off[place],
        "off_yesterday": at(off, yesterday),
        "bridge": grid.bridge[place],
        "load_1": at(grid.load, yesterday),
        "load_2": at(grid.load, same_hour(grid, rows, back + 1)),
        "load_7": at(grid.load, last_week),
        "load_14": at(grid.load, same_hour(grid, rows, week + 7)),
        "load_24": at(trailing(grid.load, 24), rows.origin - 1),
        "load_168": at(trailing(grid.load, 168), rows.origin - 1),
        "christmas": np.clip(np.abs((grid.year_day[place] - 358 + 182) % 365 - 182), 0, 25).astype(np.float64),
    }
    columns["change_7"] = at(trailing(grid.load, 3), rows.origin - 1) - at(trailing(grid.load, 3), rows.origin - 169)
    if HOLIDAY in grid.columns:
        columns["holiday"] = holiday[place]
        columns["holiday_yesterday"] = at(holiday, yesterday)
        columns["holiday_week"] = at(holiday, last_week)
    weather = weather_columns(grid)
    for name, values in weather.items():
        columns[name] = values[place]
    if weather:
        columns["t_yesterday"] = columns["t"] - at(weather["t"], yesterday)
        columns["t24_yesterday"] = columns["t24"] - at(weather["t24"], yesterday)
        columns["t_week"] = columns["t"] - at(weather["t"], last_week)
        columns["t3_change"] = columns["t"] - weather["t"][np.maximum(place - 3, 0)]
    for name, values in grid.columns.items():
        if name not in {TEMPERATURE, HOLIDAY}:
            columns[f"x_{name}"] = values[place]
            columns[f"x_{name}_change"] = values[place] - at(values, yesterday)
    return columns


def stacked(columns: Mapping[str, Any]) -> Floats:
    """Return the columns side by side, shape ``(rows, columns)``."""
    return np.column_stack([np.asarray(values, dtype=np.float64) for values in columns.values()])
