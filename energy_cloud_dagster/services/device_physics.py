"""What commanded devices do between two moments: a battery under a setpoint or on its way back, a limited generator.

Pure and exact: power is constant and the state of charge linear within each piece, so that a span gives the same energy
whole or in parts. Moments are UTC seconds since 1970, powers kW at the terminals (discharge positive), states of charge
fractions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from energy_cloud_dagster.sample_data.calendar import LOCAL_OFFSET
from energy_cloud_dagster.services import battery

_DAY: Final = 86_400.0
#: Within this a battery is on its schedule.
_SAME_SOC: Final = 1e-9
#: Shorter pieces are below the resolution of the clock.
_SHORTEST: Final = 1e-6
_CORNERS: Final = tuple(3_600 * hour for hour in (*battery.CHARGE_HOURS, *battery.DISCHARGE_HOURS, 24.0))


@dataclass(frozen=True, slots=True)
class Battery:
    """A battery's limits; ``efficiency`` is of the round trip, lost in equal parts (its root) each way."""

    kw: float
    kwh: float
    efficiency: float = 0.9
    min_soc: float = 0.0
    max_soc: float = 1.0

    def rate(self, kw: float) -> float:
        """Return by how much the state of charge changes a second at ``kw``; discharging lowers it."""
        one_way = math.sqrt(self.efficiency)
        return -(kw / one_way if kw > 0 else kw * one_way) / self.kwh / 3_600

    def power(self, rate: float) -> float:
        """Return the kW at which the state of charge changes by ``rate`` a second: the inverse of ``rate``."""
        one_way = math.sqrt(self.efficiency)
        return -rate * self.kwh * 3_600 * (one_way if rate < 0 else 1 / one_way)


class Piece(NamedTuple):
    """A span of constant power, never empty."""

    begin: float
    end: float
    soc_begin: float
    soc_end: float
    kw: float


def scheduled_soc(moment: float) -> float:
    """Return the state of charge that the battery's own schedule has at ``moment``."""
    import numpy as np

    return float(battery.soc(np.array([moment]))[0])


def on_schedule(soc: float, moment: float) -> bool:
    """Return whether a battery with ``soc`` at ``moment`` follows its schedule."""
    return abs(soc - scheduled_soc(moment)) <= _SAME_SOC


def pieces(limits: Battery, soc: float, begin: float, end: float, setpoint_kw: float | None) -> Iterator[Piece]:
    """Yield what a battery with ``soc`` at ``begin`` does until ``end``.

    Under a setpoint it keeps that power until it is empty or full, and then none. Without one it goes at its full power
    to where its schedule is by then, and follows the schedule from the moment on which it meets it.
    """
    now = begin
    while end - now > _SHORTEST:
        if setpoint_kw is None:
            piece = _returning(limits, soc, now, end)
        else:
            piece = _holding(limits, soc, now, end, setpoint_kw)
        yield piece
        now, soc = piece.end, piece.soc_end


def mean_limited(available_kw: float, limits: Iterator[tuple[float, float | None]]) -> float:
    """Return the mean output of a generator that could give ``available_kw``: seconds and limit (None: none) of parts.

    Its own consumption, a negative output, is not limited.
    """
    total = energy = 0.0
    for seconds, limit in limits:
        total += seconds
        energy += seconds * (available_kw if limit is None else min(available_kw, limit))
    return energy / total if total else available_kw


def _holding(limits: Battery, soc: float, now: float, end: float, kw: float) -> Piece:
    rate = limits.rate(kw)
    room = (limits.min_soc if rate < 0 else limits.max_soc) - soc
    until_limit = room / rate if rate else math.inf
    if until_limit <= _SHORTEST:
        return Piece(now, end, soc, soc, 0.0)
    if now + until_limit < end:
        return Piece(now, now + until_limit, soc, limits.min_soc if rate < 0 else limits.max_soc, kw)
    return Piece(now, end, soc, soc + rate * (end - now), kw)


def _returning(limits: Battery, soc: float, now: float, end: float) -> Piece:
    end = min(end, _next_corner(now))
    target, last = scheduled_soc(now), scheduled_soc(end)
    slope = (last - target) / (end - now)
    gap = target - soc
    if abs(gap) <= _SAME_SOC:
        return Piece(now, end, soc, last, limits.power(slope))
    kw = -limits.kw if gap > 0 else limits.kw
    closing = limits.rate(kw) - slope
    until_met = gap / closing if gap * closing > 0 else math.inf
    if until_met < end - now:
        met = now + max(until_met, _SHORTEST)
        return Piece(now, met, soc, scheduled_soc(met), kw)
    return Piece(now, end, soc, soc + limits.rate(kw) * (end - now), kw)


def _next_corner(now: float) -> float:
    """Return the next moment on which the schedule bends; between two it is linear."""
    within = (now + LOCAL_OFFSET.total_seconds()) % _DAY
    return now + next(corner - within for corner in _CORNERS if corner - within > _SHORTEST)
