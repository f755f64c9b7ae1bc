"""What one model sees of many sites: every column in multiples of the site's own size, so that homes can be pooled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from energy_cloud_dagster.domain.forecasting.series import Floats
from energy_cloud_dagster.domain.forecasting.sites.profiles import (
    LOAD_DAYS,
    SOLAR_DAYS,
    Past,
    last_days,
    mean_known,
    similar_day,
    typical_day,
    weekday,
    weekly_naive,
)

#: The ways to forecast a site that its blend weighs: the pooled model first, then the cheap ones.
EXPERTS: Final = ("pooled", "similar_day", "typical_day", "weekday", "weekly_naive", "last_days")
#: Version of the columns below; a stored model of another version is refused.
FEATURES: Final = 1
_LAGS: Final = (0, 1, 2, 6, 13)


@dataclass(frozen=True, eq=False)
class Cheap:
    """The forecasts that need no fit.

    ``experts`` (sites, targets, 5) in the order of ``EXPERTS[1:]``; ``typical`` (sites, targets, 3) the quantiles
    of the typical day.
    """

    experts: Floats
    typical: Floats

    @classmethod
    def of(cls, past: Past, *, kinds: bool) -> Cheap:
        """Return them for one origin; ``kinds`` is whether weekends differ, which the sun does not know."""
        typical = typical_day(past)
        similar = similar_day(past, LOAD_DAYS if kinds else SOLAR_DAYS)
        every = (similar, typical[..., 1], weekday(past), weekly_naive(past), last_days(past))
        return cls(np.stack(every, axis=-1), typical)


def size_of(past: Past) -> Floats:
    """Return the mean magnitude of every site over the block; zero where nothing is known."""
    return np.nan_to_num(mean_known(np.abs(past.block), (1, 2)))


def features(past: Past, cheap: Cheap, size: Floats) -> npt.NDArray[np.float32]:
    """Return the columns of every (site, target), shape (sites, targets, columns), all finite.

    Lags and means of the same hour, the cheap forecasts, how the last hours and days stand against the last weeks, what
    the whole community did (the weather that nobody told), and the calendar. A lag that is unknown is taken to have
    been typical.
    """
    block, slots = past.block, past.slots
    sites, targets = len(block), len(slots)
    days = mean_known(block, 2)
    newest = block[:, 0]
    week, month = mean_known(block[:, :7], 1), mean_known(block, 1)
    near = (np.roll(week, 1, axis=1) + week + np.roll(week, -1, axis=1)) / 3
    by_slot = [*(block[:, day] for day in _LAGS), mean_known(block[:, :3], 1), week, month, near, _spread(block, 1)]
    own = [_filled_min(newest), -_filled_min(-newest), newest[:, 23], mean_known(newest[:, 21:], 1)]
    own += [mean_known(newest[:, 12:], 1), days[:, 0], days[:, 1], days[:, 6], mean_known(days[:, :3], 1)]
    own += [mean_known(days[:, :7], 1), _spread(block.reshape(sites, -1), 1)]
    scale = np.maximum(size, 1e-12)[:, None]
    typical = np.nan_to_num(cheap.typical) / scale[..., None]
    columns = [one[:, slots] / scale for one in by_slot]
    columns = [np.where(np.isfinite(one), one, typical[..., 1]) for one in columns]
    columns += [typical[..., place] for place in range(3)]
    columns += [cheap.experts[..., place] / scale for place in (0, 2)]
    columns += [np.broadcast_to(one[:, None] / scale, (sites, targets)) for one in own]
    alive = size > 0
    for everyone in (newest, month):
        columns.append(mean_known(everyone[alive] / scale[alive], 0)[slots])
    for count in (1, 3, 7):
        columns.append(np.full(targets, mean_known(mean_known(days[alive, :count], 1) / scale[alive, 0], 0)))
    calendar = (past.targets % 24, (past.targets // 24 + 3) % 7, past.target_off, np.minimum(past.leads, 47))
    columns += [np.asarray(one, dtype=np.float64) for one in calendar]
    table = np.stack([np.broadcast_to(one, (sites, targets)) for one in columns], axis=-1).astype(np.float32)
    return np.nan_to_num(table, copy=False, posinf=0.0, neginf=0.0)


def _spread(values: Floats, axis: int) -> Floats:
    """Return the standard deviation along ``axis`` of what is known."""
    centre = mean_known(values, axis)
    return np.sqrt(mean_known(np.square(values - np.expand_dims(centre, axis)), axis))


def _filled_min(values: Floats) -> Floats:
    """Return the least known value of every row, NaN where none is."""
    least = np.where(np.isfinite(values), values, np.inf).min(axis=1)
    return np.where(np.isfinite(least), least, np.nan)


def last_known(values: Floats) -> Floats:
    """Return every row's last known value, 0 where none is."""
    known = np.isfinite(values)
    width = values.shape[1]
    if not width:
        return np.zeros(len(values))
    found = values[np.arange(len(values)), width - 1 - np.argmax(known[:, ::-1], axis=1)]
    return np.where(known.any(axis=1), found, 0.0)
