"""Many hourly series side by side, in columns: one array of sites by hours instead of a thousand series.

Hours are counted in local wall time (``wall hours``: whole hours since 1970-01-01T00:00 of the local clock), so that
"the same hour yesterday" is plain arithmetic on daylight-saving days too: the hour that spring leaves out is unknown,
the hour that autumn repeats is the mean of its two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
import pandas as pd

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting.series import Floats, Integers, hour_of, hourly, local

HOUR: Final = pd.Timedelta(hours=1)
_EPOCH: Final = pd.Timestamp(0)


def wall_hours(index: pd.DatetimeIndex, timezone: str) -> Integers:
    """Return the wall hour of every UTC hour start; zones with a half hour count from their own half hour."""
    return np.asarray((local(index, timezone) - _EPOCH) // HOUR, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Panel:
    """Sites' hourly values: ``values[site, hour]`` in kWh, NaN where unknown, from the UTC hour ``start`` on."""

    keys: tuple[str, ...]
    start: pd.Timestamp
    values: Floats
    timezone: str

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[0] != len(self.keys):
            raise InvalidInput(f"a panel of {len(self.keys)} sites cannot hold values of shape {self.values.shape}")
        if len(set(self.keys)) != len(self.keys):
            raise InvalidInput("a panel names a site twice")

    @classmethod
    def of(cls, series: Mapping[str, pd.Series[Any]], timezone: str) -> Panel:
        """Return the panel of hourly series with a UTC index; faults raise ``InvalidInput`` as in ``hourly``."""
        grids = {key: hourly(one, what=key) for key, one in series.items()}
        known = [one for one in grids.values() if len(one)]
        start = min((one.index[0] for one in known), default=pd.Timestamp(0, tz="UTC"))
        end = max((one.index[-1] for one in known), default=start - HOUR)
        values = np.full((len(grids), int((end - start) // HOUR) + 1), np.nan)
        for place, one in enumerate(grids.values()):
            if len(one):
                first = int((one.index[0] - start) // HOUR)
                values[place, first : first + len(one)] = one.to_numpy()
        return cls(tuple(grids), start, values, timezone)

    @classmethod
    def of_columns(
        cls,
        keys: Sequence[str],
        columns: Mapping[str, tuple[Sequence[int], Sequence[float]]],
        timezone: str,
        *,
        start: datetime,
        end: datetime,
    ) -> Panel:
        """Return the panel of (hours since 1970 in UTC, kWh) columns in ``[start, end)``.

        A key without columns is a site of which nothing is known; hours outside, and values that are not finite, are
        left out.
        """
        first = hour_of(start, "start")
        width = max(int((hour_of(end, "end") - first) // HOUR), 0)
        values = np.full((len(keys), width), np.nan)
        zero = int(first.timestamp()) // 3600
        for place, key in enumerate(keys):
            if key in columns:
                hours, energy = columns[key]
                at, found = np.asarray(hours, dtype=np.int64) - zero, np.asarray(energy, dtype=np.float64)
                inside = (at >= 0) & (at < width) & np.isfinite(found)
                values[place, at[inside]] = found[inside]
        return cls(tuple(keys), first, values, timezone)

    @property
    def index(self) -> pd.DatetimeIndex:
        """UTC starts of the columns."""
        return pd.date_range(self.start, periods=self.values.shape[1], freq="h")

    def before(self, origin: datetime) -> Panel:
        """Return the panel without the hours at or after ``origin``."""
        hours = int(np.clip((hour_of(origin) - self.start) // HOUR, 0, self.values.shape[1]))
        return Panel(self.keys, self.start, self.values[:, :hours], self.timezone)

    def trimmed(self) -> Panel:
        """Return the panel from the first hour that any site knows on; without any it is empty."""
        known = np.isfinite(self.values).any(axis=0)
        first = int(known.argmax()) if known.any() else len(known)
        return Panel(self.keys, self.start + first * HOUR, self.values[:, first:], self.timezone)

    def take(self, places: Integers) -> Panel:
        """Return the panel of some of its sites, by place."""
        return Panel(tuple(self.keys[place] for place in places), self.start, self.values[places], self.timezone)

    def walls(self) -> Walls:
        """Return the values by wall hour."""
        if not self.values.shape[1]:
            return Walls(0, np.full((len(self.keys), 0), np.nan))
        hours = wall_hours(self.index, self.timezone)
        first = int(hours.min())
        width = int(hours.max()) - first + 1
        places = hours - first
        values = np.full((len(self.keys), width), np.nan)
        values[:, places] = self.values
        repeated = np.flatnonzero(np.diff(places) <= 0) + 1
        for column in repeated:
            both = self.values[:, (column - 1, column)]
            known = np.isfinite(both)
            total = np.where(known, both, 0.0).sum(axis=1)
            values[:, places[column]] = np.where(known.any(axis=1), total / np.maximum(known.sum(axis=1), 1), np.nan)
        return Walls(first, values)


@dataclass(frozen=True, eq=False)
class Walls:
    """Values by wall hour: ``values[site, hour - first]``."""

    first: int
    values: Floats

    def take(self, places: Integers) -> Walls:
        """Return some of the sites, by place."""
        return Walls(self.first, self.values[places])

    def block(self, end: int, days: int) -> Floats:
        """Return the ``days`` days before the wall hour ``end``: shape (sites, days, 24), the newest day first.

        Slot ``j`` of day ``k`` is the hour ``end - 24 (k + 1) + j``; hours that are not there are NaN.
        """
        hours = 24 * days
        begin = end - hours - self.first
        found = np.full((len(self.values), hours), np.nan)
        low, high = max(begin, 0), min(end - self.first, self.values.shape[1])
        if high > low:
            found[:, low - begin : high - begin] = self.values[:, low:high]
        return found.reshape(-1, days, 24)[:, ::-1]

    def at(self, hours: Integers) -> Floats:
        """Return the values at wall hours, shape (sites, hours), NaN where there are none."""
        places = hours - self.first
        inside = (places >= 0) & (places < self.values.shape[1])
        if not inside.any():
            return np.full((len(self.values), len(hours)), np.nan)
        return np.where(inside, self.values[:, np.clip(places, 0, self.values.shape[1] - 1)], np.nan)
