"""Totals of the latest intervals: kept up to date reading by reading, whatever the number of meters.

A meter counts by its latest interval, complete or still open, until that has ended longer than ``STALE_AFTER`` before
the newest reading of all. The newest reading says what time it is, so a replay of the past is as live as the present.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from math import fsum
from typing import Final, Literal, NamedTuple

from energy_cloud_dagster.domain.units import MINUTES_PER_HOUR, energy_kwh

Flow = Literal["consumption", "generation"]

STALE_AFTER: Final = timedelta(hours=2)


class Meter(NamedTuple):
    """A series that counts; ``part`` is the customer class of its consumption or the source of its generation."""

    series_id: int
    flow: Flow
    region_id: str
    part: str
    kind: str
    interval_minutes: int

    @property
    def group(self) -> Group:
        """Return the total that it counts in."""
        return Group(self.flow, self.region_id, self.part)


class Group(NamedTuple):
    """What one total is of."""

    flow: Flow
    region_id: str
    part: str


class LiveReading(NamedTuple):
    """One stored reading; ``value`` in kWh or kW, as the kind of its series says."""

    series_id: int
    ts: datetime
    revision: int
    value: float


class Total(NamedTuple):
    """The latest intervals of ``meters`` series: their energy, their mean power, and the newest start among them."""

    kwh: float
    kw: float
    meters: int
    newest: datetime | None


class _Latest(NamedTuple):
    ts: datetime
    revision: int
    kwh: float
    kw: float


class LiveTotals:
    """The total of every group of ``meters``, from the readings that were applied, in any order and any repetition."""

    def __init__(self, meters: Iterable[Meter] = ()) -> None:
        self._meters: dict[int, Meter] = {}
        self._latest: dict[int, _Latest] = {}
        self._totals: dict[Group, Total] = {}
        self._newest: datetime | None = None
        self._longest = timedelta(0)
        self.add(meters)

    def add(self, meters: Iterable[Meter]) -> None:
        """Count more meters."""
        for meter in meters:
            self._meters[meter.series_id] = meter
            self._totals.setdefault(meter.group, _NOTHING)
            self._longest = max(self._longest, timedelta(minutes=meter.interval_minutes))

    def __contains__(self, series_id: int) -> bool:
        return series_id in self._meters

    @property
    def horizon(self) -> datetime | None:
        """The start before which no interval can count any more; None before the first reading."""
        return None if self._newest is None else self._newest - self._longest - STALE_AFTER

    @property
    def totals(self) -> dict[Group, Total]:
        """The total of every group, those that nobody reported to included."""
        return self._totals

    def tell(self, moment: datetime) -> None:
        """Say that a reading of ``moment`` exists, so that what is stale beside it does not count."""
        if self._newest is None or moment > self._newest:
            self._newest = moment

    def apply(self, readings: Iterable[LiveReading]) -> set[Group]:
        """Take readings in and return the groups whose totals changed. Those of unknown series only tell the time."""
        touched: set[Group] = set()
        for series_id, ts, revision, value in readings:
            self.tell(ts)
            meter = self._meters.get(series_id)
            if meter is None:
                continue
            before = self._latest.get(series_id)
            if before is not None and (ts, revision) <= (before.ts, before.revision):
                continue
            if self._stale(ts, meter):
                continue
            minutes = meter.interval_minutes
            power = meter.kind == "power"
            kwh = energy_kwh(value, minutes) if power else value
            kw = value if power else value * MINUTES_PER_HOUR / minutes
            self._latest[series_id] = _Latest(ts, revision, kwh, kw)
            group = meter.group
            total = self._totals[group]
            self._totals[group] = Total(
                total.kwh + kwh - (before.kwh if before else 0.0),
                total.kw + kw - (before.kw if before else 0.0),
                total.meters + (before is None),
                ts if total.newest is None else max(total.newest, ts),
            )
            touched.add(group)
        return touched

    def settle(self) -> set[Group]:
        """Drop what has become stale, sum everything anew so that rounding cannot pile up; return what changed."""
        kept: dict[Group, list[_Latest]] = {}
        for series_id, latest in list(self._latest.items()):
            meter = self._meters[series_id]
            if self._stale(latest.ts, meter):
                del self._latest[series_id]
            else:
                kept.setdefault(meter.group, []).append(latest)
        touched = set()
        for group, before in self._totals.items():
            counted = kept.get(group, [])
            if len(counted) != before.meters:
                touched.add(group)
            newest = max((one.ts for one in counted), default=None)
            self._totals[group] = Total(
                fsum(one.kwh for one in counted), fsum(one.kw for one in counted), len(counted), newest
            )
        return touched

    def _stale(self, ts: datetime, meter: Meter) -> bool:
        return self._newest is not None and ts < self._newest - timedelta(minutes=meter.interval_minutes) - STALE_AFTER


_NOTHING: Final = Total(0.0, 0.0, 0, None)


def united(totals: Iterable[Total]) -> Total:
    """Return one total over several."""
    listed = list(totals)
    return Total(
        fsum(one.kwh for one in listed),
        fsum(one.kw for one in listed),
        sum(one.meters for one in listed),
        max((one.newest for one in listed if one.newest is not None), default=None),
    )
