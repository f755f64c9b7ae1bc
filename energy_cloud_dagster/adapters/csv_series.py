"""A user's CSV as an hourly series with its regressors, and everything that was done to make it one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from energy_cloud_dagster.adapters.csv_table import Table, numbers, read_table
from energy_cloud_dagster.adapters.csv_times import utc_times, zone_of
from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting.series import Floats
from energy_cloud_dagster.domain.forecasting.weather import TEMPERATURE

Aggregate = Literal["mean", "sum"]
HOUR: Final = pd.Timedelta(hours=1)
#: Share of the steps that must be whole multiples of the usual one for a file to count as regular.
REGULAR_SHARE: Final = 0.9
#: Share of an hour's readings that must be known for the hour to have a value.
LEAST_OF_AN_HOUR: Final = 0.5
#: Median of a column called temperature beyond which it cannot be in degrees Celsius.
HOT_FOR_CELSIUS: Final = 45.0
_CANONICAL: Final = {
    TEMPERATURE: re.compile(r"(?:^|[^a-z])(?:temp|t2m|tavg|tair)"),
    "humidity": re.compile(r"(?:^|[^a-z])(?:hum|rh(?:[^a-z]|$))"),
    "holiday": re.compile(r"(?:^|[^a-z])(?:holiday|public_?hol|feiertag|ferie)"),
}


@dataclass(frozen=True, eq=False)
class CsvSeries:
    """What a CSV says, hour by hour.

    ``values``: one float an hour (mean or sum of the readings that start in it, in the column's own unit), UTC, gaps as
    NaN, from the first known hour to the last. ``regressors``: the same grid, longer where the file knows them further
    (then they are the known future); None without any. ``step_minutes``: distance of the rows. ``notes``: one sentence
    for everything that was repaired, left out or taken to mean something.
    """

    name: str
    values: pd.Series[float]
    regressors: pd.DataFrame | None
    timezone: str
    step_minutes: int
    rows: int
    notes: tuple[str, ...]


def read_series(
    path: Path,
    *,
    time: str,
    target: str,
    regressors: Sequence[str] = (),
    timezone: str = "UTC",
    aggregate: Aggregate = "mean",
    stamps: Literal["start", "end"] = "start",
) -> CsvSeries:
    """Read column ``target`` of the CSV at ``path`` over the times of column ``time``.

    ``time`` may name two columns, ``Date,Time``. ``timezone`` (IANA) is the wall clock of times without an offset, and
    gives the local days. Times are interval starts unless ``stamps`` is ``end``. Rows may stand in any order, repeat
    (the last row of a time counts) and miss; they must be a whole part of an hour apart. ``aggregate`` makes hours of
    finer rows: ``mean`` for power and temperature, ``sum`` for energy; regressors are always averaged. An hour with
    fewer than half of its readings is a gap; a sum is scaled up to the whole hour.

    Each of ``regressors`` is a column, or ``name=column`` to say what it is; columns that are called like a
    temperature, a humidity or a holiday get the canonical names ``temperature`` (°C; °F and K are converted where the
    column says so), ``humidity`` and ``holiday``.

    Raises ``InvalidInput`` with the line where the file cannot be read in exactly one way.
    """
    zone_of(timezone)
    named = [_named(each) for each in regressors]
    wanted = [column for _, column in named]
    table, times = _read(path, time, [target, *wanted])
    notes = list(table.notes)
    try:
        index, said = _times(table, times, timezone)
        notes += said
        columns: dict[str, Floats] = {}
        for column in dict.fromkeys([target, *wanted]):
            columns[column], said = numbers(table.columns[column], table.lines, table.names[column])
            notes += said
        frame = pd.DataFrame(columns, index=index)
        rows = len(frame)
        frame, said = _unique(frame[frame.index.notna()])
        notes += said
        frame, step, said = _regular(frame)
        notes += said
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from None
    if stamps == "end":
        frame.index = pd.DatetimeIndex(frame.index) - pd.Timedelta(minutes=step)
    values, said = _hours(frame[target], step, aggregate)
    notes += said
    if values.empty:
        raise InvalidInput(f"{path}: column {target!r} has no hour with a value")
    extra = None
    if wanted:
        extra, said = _regressors(frame, named, step)
        notes += said
    gaps = _gaps(values)
    return CsvSeries(
        name=table.names[target],
        values=values,
        regressors=extra,
        timezone=timezone,
        step_minutes=step,
        rows=rows,
        notes=tuple(dict.fromkeys([*notes, *gaps])),
    )


def _named(regressor: str) -> tuple[str | None, str]:
    name, equals, column = regressor.partition("=")
    return (name.strip(), column.strip()) if equals else (None, regressor.strip())


def _read(path: Path, time: str, others: Sequence[str]) -> tuple[Table, list[str]]:
    """Return the table and the column (or the two columns) that make the time."""
    wanted = list(dict.fromkeys(others))
    try:
        return read_table(path, [time, *wanted]), [time]
    except InvalidInput:
        parts = [part.strip() for part in time.split(",")]
        if len(parts) == 1 or str(path) == "-":
            raise
        return read_table(path, [*parts, *wanted]), parts


def _times(table: Table, columns: Sequence[str], timezone: str) -> tuple[pd.DatetimeIndex, tuple[str, ...]]:
    cells = [" ".join(parts).strip() for parts in zip(*(table.columns[name] for name in columns), strict=True)]
    return utc_times(cells, table.lines, ",".join(table.names[name] for name in columns), timezone)


def _unique(frame: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return ``frame`` in order of time; of repeated times the last known value of each column."""
    repeated = np.asarray(frame.index.duplicated(keep="last"))
    notes = []
    if repeated.any():
        same = np.asarray(frame.reset_index(names="time").duplicated(keep="last"))
        differing = int((repeated & ~same).sum())
        said = f"{counted(int(repeated.sum()), 'row')} repeated a time"
        notes.append(f"{said}, {differing} with another value: the last row of a time counts" if differing else said)
        frame = frame.groupby(level=0, sort=True).last()
    return frame.sort_index(), tuple(notes)


def _regular(frame: pd.DataFrame) -> tuple[pd.DataFrame, int, tuple[str, ...]]:
    """Return ``frame`` on its own grid and the minutes between its rows; what is not regular is refused."""
    index = pd.DatetimeIndex(frame.index)
    if len(index) < 2:
        raise InvalidInput("one row is no series; give at least two hours")
    moments = index.as_unit("ns").asi8
    steps = np.diff(moments)
    sizes, counts = np.unique(steps, return_counts=True)
    usual = pd.Timedelta(int(sizes[np.argmax(counts)]), unit="ns")
    if usual > HOUR or HOUR % usual != pd.Timedelta(0) or usual % pd.Timedelta(minutes=1) != pd.Timedelta(0):
        raise InvalidInput(
            f"the rows are {_span(usual)} apart; give rows that are a whole part of an hour apart "
            "(1, 5, 10, 15, 30 or 60 minutes, say)"
        )
    size = int(usual.value)
    share = float((steps % size == 0).mean())
    if share < REGULAR_SHARE:
        raise InvalidInput(
            f"the rows are not at a regular distance: only {share:.0%} are whole multiples of {_span(usual)} apart; "
            "resample them first"
        )
    phases, counts = np.unique(moments % size, return_counts=True)
    phase = int(phases[np.argmax(counts)])
    notes = []
    odd = moments % size != phase
    floored = index.floor(usual)
    if odd.any():
        places = np.flatnonzero(odd)
        notes.append(
            f"{counted(len(places), 'row')} off the grid of {_span(usual)} (the first {_stamp(index[places[0]])}): "
            "each counts for the interval that it lies in"
        )
    if phase:
        notes.append(
            f"times lie {_span(pd.Timedelta(phase, unit='ns'))} after the UTC grid of {_span(usual)}: moved onto it"
        )
    kept = ~np.asarray(floored.duplicated(keep="last"))
    moved = frame[kept]
    moved.index = floored[kept]
    return moved, round(usual / pd.Timedelta(minutes=1)), tuple(notes)


def _hours(series: pd.Series[Any], step: int, aggregate: Aggregate) -> tuple[pd.Series[float], tuple[str, ...]]:
    """Return the hourly means or sums of ``series``, gapless, and how many hours were incomplete."""
    known = series[np.isfinite(series.to_numpy())]
    whole = 60 // step
    groups = known.groupby(pd.DatetimeIndex(known.index).floor("h"))
    counts = groups.size()
    kept = counts >= LEAST_OF_AN_HOUR * whole
    values = groups.mean()[kept] * (whole if aggregate == "sum" else 1)
    notes = []
    if whole > 1:
        notes.append(f"rows of {counted(step, 'minute')} became hours: the {aggregate} of {whole}")
    partly, left = int((counts[kept] < whole).sum()), int((~kept).sum())
    if partly:
        scaled = ", scaled to the whole hour" if aggregate == "sum" else ""
        notes.append(
            f"{counted(partly, 'hour')} without some of the readings: the {aggregate} is of the others{scaled}"
        )
    if left:
        notes.append(f"{counted(left, 'hour')} with fewer than half of the readings: left out")
    if values.empty:
        return values, tuple(notes)
    hours = pd.DatetimeIndex(values.index)
    return values.reindex(pd.date_range(hours[0], hours[-1], freq="h")), tuple(notes)


def canonical(column: str) -> str:
    """Return what a column called ``column`` is to the models: ``temperature``, ``humidity``, ``holiday`` or itself."""
    plain = unicodedata.normalize("NFKD", column).encode("ascii", "ignore").decode().casefold()
    return next((name for name, pattern in _CANONICAL.items() if pattern.search(plain)), column)


def _regressors(
    frame: pd.DataFrame, named: Sequence[tuple[str | None, str]], step: int
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    columns: dict[str, pd.Series[float]] = {}
    notes: list[str] = []
    for given, column in named:
        name = given or canonical(column)
        if name in columns:
            if given:
                raise InvalidInput(f"two regressors are called {name!r}; give each its own name")
            notes.append(f"{column!r} keeps its own name: {name} is there already")
            name = column
        values, _ = _hours(frame[column], step, "mean")
        if name == TEMPERATURE:
            values, said, believed = _celsius(values, column)
            notes += said
            name = name if believed else column
        elif name == "holiday":
            values = (values >= 0.5).astype(np.float64).where(values.notna())
        if name != column:
            notes.append(f"column {column!r} is used as {name}")
        if values.empty:
            notes.append(f"regressor {column!r} has no value: left out")
            continue
        columns[name] = values
    return pd.DataFrame(columns).sort_index(), tuple(notes)


def _celsius(values: pd.Series[float], column: str) -> tuple[pd.Series[float], tuple[str, ...], bool]:
    """Return the temperature in °C, what was done to it, and whether it can be one."""
    plain = column.casefold().rstrip(")] ")
    if re.search(r"(?:[^a-z]|^)(?:f|fahrenheit|degf)$", plain):
        return (values - 32) / 1.8, (f"column {column!r} was converted from °F to °C",), True
    if re.search(r"(?:[^a-z]|^)(?:k|kelvin)$", plain):
        return values - 273.15, (f"column {column!r} was converted from K to °C",), True
    if not values.empty and values.median() > HOT_FOR_CELSIUS:
        said = f"column {column!r} (median {values.median():.0f}) cannot be °C: used as a plain number"
        return values, (said,), False
    return values, (), True


def _gaps(values: pd.Series[float]) -> tuple[str, ...]:
    """Say how many hours are missing and where the longest gap is."""
    missing: npt.NDArray[np.bool_] = np.isnan(values.to_numpy())
    if not missing.any():
        return ()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], missing, [False]]).astype(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    longest = int(np.argmax(ends - starts))
    where = _stamp(pd.DatetimeIndex(values.index)[int(starts[longest])])
    size = counted(int(ends[longest] - starts[longest]), "hour")
    gaps = counted(len(starts), "gap")
    share = f"{int(missing.sum()):,} of {len(values):,} hours"
    said = f"{share} are missing, in {gaps}; the longest, of {size}, begins {where}"
    return (said,)


def counted(number: int, thing: str) -> str:
    """Return such as ``1 row`` and ``2 rows``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _span(span: pd.Timedelta) -> str:
    seconds = span.total_seconds()
    for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= size and seconds % size == 0:
            return counted(int(seconds // size), unit)
    return f"{seconds:g} seconds"


def _stamp(moment: pd.Timestamp) -> str:
    return f"{moment.tz_convert('UTC'):%Y-%m-%dT%H:%MZ}"
