"""Cheap forecasts of many sites at once: last week's hour, similar days, and the typical day as weighted quantiles.

Every function takes a ``Past``: the days before one origin as an array (sites, days, 24) whose slot ``j`` is the hour
``origin + j`` some whole days earlier, so that an origin at any hour of the day reads the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from energy_cloud_dagster.domain.forecasting.series import Floats, Integers
from energy_cloud_dagster.domain.forecasting.sites.panel import Walls

Flags = npt.NDArray[np.bool_]

#: Days of the block before an origin: what every forecast here looks back at most.
BLOCK_DAYS: Final = 28
#: Days of the similar-day mean for loads, and for the sun, which knows no weekend.
LOAD_DAYS: Final = 14
SOLAR_DAYS: Final = 5
#: Days after which a day counts half for the typical day.
HALF_LIFE_DAYS: Final = 10.0
#: Weight of a day of the other kind (workday, day off), and of the hours beside, in the typical day.
OTHER_KIND: Final = 0.15
BESIDE: Final = 0.35
#: An hour of the day is known by at least this share of the 24, else there is no profile.
LEAST_HOURS: Final = 12


def off_days(hours: Integers) -> Flags:
    """Return which wall hours lie on a Saturday or a Sunday."""
    return np.asarray((hours // 24 + 3) % 7 >= 5)  # 1970-01-01 was a Thursday


@dataclass(frozen=True, eq=False)
class Past:
    """What is known before one origin, and which wall hours are wanted.

    ``block`` has the shape (sites, ``BLOCK_DAYS``, 24), the newest day first; ``off`` (days, 24) says which of its
    hours lie on days off, all false where the kind of day does not matter. ``targets`` are the wall hours
    ahead, ``leads`` their distance from the origin, ``target_off`` their kind.
    """

    block: Floats
    off: Flags
    targets: Integers
    leads: Integers
    target_off: Flags

    @classmethod
    def at(cls, walls: Walls, origin: int, targets: Integers, *, kinds: bool = True) -> Past:
        """Return the past of the wall hour ``origin``; without ``kinds`` all days are alike."""
        hours = origin - 24 * (np.arange(BLOCK_DAYS)[:, None] + 1) + np.arange(24)
        off, target_off = off_days(hours), off_days(targets)
        if not kinds:
            off, target_off = np.zeros_like(off), np.zeros_like(target_off)
        return cls(walls.block(origin, BLOCK_DAYS), off, targets, np.maximum(targets - origin, 0), target_off)

    @property
    def slots(self) -> Integers:
        """Slot of the day of every target."""
        return self.leads % 24

    def lagged(self, days: int) -> Floats:
        """Return for every target the value a whole number of ``days`` days before, the newest that is known by then.

        Shape (sites, targets).
        """
        steps = (self.leads // (24 * days) + 1) * days - self.leads // 24 - 1
        return self.block[:, np.minimum(steps, BLOCK_DAYS - 1), self.slots]


def mean_known(values: Floats, axis: int | tuple[int, ...]) -> Floats:
    """Return the mean over ``axis`` of what is known, NaN where nothing is; without warnings."""
    known = np.isfinite(values)
    count = known.sum(axis=axis)
    total = np.where(known, values, 0.0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def weekly_naive(past: Past) -> Floats:
    """Return the value of the week before; where it is missing, of the newest day that has one. NaN without any."""
    found = past.lagged(7)
    if np.isnan(found).any():
        for day in range(7):
            found = np.where(np.isnan(found), past.block[:, day, past.slots], found)
    return found


def weekday(past: Past) -> Floats:
    """Return the mean of the same hour of the same weekday over the last four weeks, shape (sites, targets)."""
    weeks = np.arange(0, BLOCK_DAYS, 7)[:, None] + (6 - past.leads // 24) % 7
    return mean_known(past.block[:, weeks, past.slots], 1)


def last_days(past: Past, days: int = 3) -> Floats:
    """Return the mean of the same hour over the last ``days`` days, shape (sites, targets)."""
    return mean_known(past.block[:, :days], 1)[:, past.slots]


def similar_day(past: Past, days: int = LOAD_DAYS) -> Floats:
    """Return the mean of the same hour over the last ``days`` days of the same kind, shape (sites, targets).

    As ``similar_day.similar_day`` does for one series: an hour with fewer than two days of its kind looks at all
    days, hours of the day that were never measured are filled between their neighbours, and a site of which fewer
    than half of the hours of the day are known has NaN.
    """
    block, off = past.block[:, :days], past.off[:days]
    known = np.isfinite(block)
    filled = np.where(known, block, 0.0)
    found = np.full((len(block), len(past.leads)), np.nan)
    known_hours = known.any(axis=1).sum(axis=1)
    overall = mean_known(block, 1)
    for kind in np.unique(past.target_off):
        same = (off == kind)[None] & known
        count = same.sum(axis=1)
        own = np.where(count >= 2, (filled * same).sum(axis=1) / np.maximum(count, 1), overall)
        own = _around_the_clock(own)
        wanted = past.target_off == kind
        found[:, wanted] = own[:, past.slots[wanted]]
    found[known_hours < LEAST_HOURS] = np.nan
    return found


def _around_the_clock(profile: Floats) -> Floats:
    """Fill unknown hours of a day between their known neighbours, midnight included, site by site where there are."""
    holes = np.isnan(profile)
    for site in np.flatnonzero(holes.any(axis=1) & ~holes.all(axis=1)):
        known = np.flatnonzero(~holes[site])
        profile[site] = np.interp(np.arange(24), known, profile[site, known], period=24)
    return profile


def typical_day(past: Past, shares: tuple[float, ...] = (0.1, 0.5, 0.9)) -> Floats:
    """Return the quantiles ``shares`` of the same hour over recent days, shape (sites, targets, shares).

    The days are weighted: half for every ``HALF_LIFE_DAYS`` of age, ``OTHER_KIND`` for days of the other kind, and the
    hours before and after count ``BESIDE`` (the shower is not taken at the minute). The median of what happened is
    the forecast of the least absolute error, which the mean is not where a kettle or a heat pump makes peaks.
    """
    block = past.block
    days = np.arange(BLOCK_DAYS)
    age = 0.5 ** (days / HALF_LIFE_DAYS)
    flat = block[:, ::-1].reshape(len(block), -1)  # in time order, so that the neighbours of midnight are beside it
    before = np.concatenate([np.full((len(flat), 1), np.nan), flat[:, :-1]], axis=1)
    after = np.concatenate([flat[:, 1:], np.full((len(flat), 1), np.nan)], axis=1)
    pooled = np.concatenate([one.reshape(block.shape)[:, ::-1] for one in (flat, before, after)], axis=1)
    order = np.argsort(pooled, axis=1)  # NaN last
    values = np.take_along_axis(pooled, order, axis=1)
    found = np.full((len(block), len(past.leads), len(shares)), np.nan)
    for kind in np.unique(past.target_off):
        weight = age[:, None] * np.where(past.off == kind, 1.0, OTHER_KIND)
        weight = np.concatenate([weight, BESIDE * weight, BESIDE * weight])
        quantiles = _weighted_quantiles(values, order, weight, shares)
        wanted = past.target_off == kind
        found[:, wanted] = quantiles[:, past.slots[wanted]]
    return found


def _weighted_quantiles(values: Floats, order: Any, weight: Floats, shares: tuple[float, ...]) -> Floats:
    """Return the weighted quantiles along axis 1 of ascending ``values``, between their neighbours."""
    sites, _, slots = values.shape
    sorted_weight = weight[order, np.arange(slots)[None, None]]
    sorted_weight = np.where(np.isfinite(values), sorted_weight, 0.0)
    total = sorted_weight.cumsum(axis=1)
    middle = (total - sorted_weight / 2) / np.maximum(total[:, -1:], 1e-12)
    usable = np.isfinite(values).sum(axis=1)
    last = np.maximum(usable - 1, 0)
    found = np.full((sites, slots, len(shares)), np.nan)
    rows, columns = np.ogrid[:sites, :slots]
    for place, share in enumerate(shares):
        upper = np.minimum((middle < share).sum(axis=1), last)
        lower = np.maximum(upper - 1, 0)
        low, high = middle[rows, lower, columns], middle[rows, upper, columns]
        part = np.clip((share - low) / np.maximum(high - low, 1e-12), 0.0, 1.0)
        part = np.where(upper == lower, 0.0, part)
        below, above = values[rows, lower, columns], values[rows, upper, columns]
        found[..., place] = np.where(usable > 0, below + part * (above - below), np.nan)
    return found
