"""Totals of the latest intervals: kept up to date reading by reading, whatever the number of meters.

A meter counts by its latest interval, complete or still open, until that has ended longer than ``STALE_AFTER`` before
the newest reading of all. The newest reading says what time it is, so a replay of the past is as live as the present.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


class _Counted:
    """A meter's latest interval, and what it needs to be counted without asking twice."""

    __slots__ = ("group", "kw_per_value", "kwh", "kwh_per_value", "patience", "revision", "ts")

    def __init__(self, meter: Meter) -> None:
        minutes = meter.interval_minutes
        power = meter.kind == "power"
        self.group = meter.group
        self.kwh_per_value = energy_kwh(1.0, minutes) if power else 1.0
        self.kw_per_value = 1.0 if power else MINUTES_PER_HOUR / minutes
        self.patience = timedelta(minutes=minutes) + STALE_AFTER
        self.ts: datetime | None = None
        self.revision = 0
        self.kwh = 0.0


class LiveTotals:
    """The total of every group of ``meters``, from the readings that were applied, in any order and any repetition."""

    def __init__(self, meters: Iterable[Meter] = ()) -> None:
        self._meters: dict[int, _Counted] = {}
        self._totals: dict[Group, Total] = {}
        self._newest: datetime | None = None
        self._longest = timedelta(0)
        self.add(meters)

    def add(self, meters: Iterable[Meter]) -> None:
        """Count more meters."""
        for meter in meters:
            counted = _Counted(meter)
            self._meters[meter.series_id] = counted
            self._totals.setdefault(counted.group, _NOTHING)
            self._longest = max(self._longest, counted.patience)

    def __contains__(self, series_id: int) -> bool:
        return series_id in self._meters

    @property
    def horizon(self) -> datetime | None:
        """The start before which no interval can count any more; None before the first reading."""
        return None if self._newest is None else self._newest - self._longest

    @property
    def totals(self) -> dict[Group, Total]:
        """The total of every group, those that nobody reported to included."""
        return self._totals

    def tell(self, moment: datetime) -> None:
        """Say that a reading of ``moment`` exists, so that what is stale beside it does not count."""
        if self._newest is None or moment > self._newest:
            self._newest = moment

    def apply(self, readings: Sequence[LiveReading]) -> set[Group]:
        """Take readings in and return the groups whose totals changed. Those of unknown series only tell the time."""
        if not readings:
            return set()
        self.tell(max(one.ts for one in readings))
        newest = self._newest
        changes: dict[Group, _Change] = {}
        for series_id, ts, revision, value in readings:
            meter = self._meters.get(series_id)
            if meter is None or (meter.ts is not None and (ts, revision) <= (meter.ts, meter.revision)):
                continue
            if newest is not None and newest - ts > meter.patience:
                continue
            change = changes.get(meter.group)
            if change is None:
                change = changes[meter.group] = _Change(ts)
            kwh = value * meter.kwh_per_value
            change.kwh += kwh - meter.kwh
            change.kw += (kwh - meter.kwh) / meter.kwh_per_value * meter.kw_per_value
            change.meters += meter.ts is None
            change.newest = max(change.newest, ts)
            meter.ts, meter.revision, meter.kwh = ts, revision, kwh
        for group, change in changes.items():
            self._totals[group] = change.on(self._totals[group])
        return set(changes)

    def settle(self) -> set[Group]:
        """Drop what has become stale, sum everything anew so that rounding cannot pile up; return what changed."""
        kept: dict[Group, list[_Counted]] = {group: [] for group in self._totals}
        for meter in self._meters.values():
            if meter.ts is None or self._newest is None:
                continue
            if self._newest - meter.ts > meter.patience:
                meter.ts, meter.revision, meter.kwh = None, 0, 0.0
            else:
                kept[meter.group].append(meter)
        touched = {group for group, counted in kept.items() if len(counted) != self._totals[group].meters}
        for group, counted in kept.items():
            self._totals[group] = Total(
                fsum(one.kwh for one in counted),
                fsum(one.kwh / one.kwh_per_value * one.kw_per_value for one in counted),
                len(counted),
                max((one.ts for one in counted if one.ts is not None), default=None),
            )
        return touched


class _Change:
    """What some readings change in one total."""

    __slots__ = ("kw", "kwh", "meters", "newest")

    def __init__(self, newest: datetime) -> None:
        self.kwh = self.kw = 0.0
        self.meters = 0
        self.newest = newest

    def on(self, total: Total) -> Total:
        newest = self.newest if total.newest is None else max(total.newest, self.newest)
        return Total(total.kwh + self.kwh, total.kw + self.kw, total.meters + self.meters, newest)


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
