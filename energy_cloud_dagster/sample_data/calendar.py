"""One calendar for series that were measured in different years, places and hemispheres.

The sample community lives at UTC+9 all year. Each of its local days replays one day of each origin, the same local hour
at the same local hour, so that weekday and season agree: the origin's days are moved by whole weeks, and by half a year
more for an origin of the southern hemisphere.

An origin has a window of one or three whole years. Its replays are laid end to end in cycles: cycle ``c`` begins at the
whole week nearest to ``c`` windows of mean Gregorian years (365.2425 days), so the season never drifts by more than
half a week. A cycle therefore has 52 or 53 weeks (156 or 157). The few days of a long cycle that lie beyond the window
replay the days a week earlier (a window of one year) or 52 weeks earlier (three years); their season agrees within five
days. Pure: no clock, no file.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from energy_cloud_dagster.domain.intervals import utc

#: The simulated community's clock: Asia/Seoul, which knows no daylight saving time.
LOCAL_OFFSET: Final = timedelta(hours=9)

_MEAN_YEAR: Final = 3_652_425  # in 10⁻⁴ days, so that everything below is integer arithmetic
_WEEK: Final = 70_000


@dataclass(frozen=True, slots=True)
class Origin:
    """Where and when a set of series was measured.

    ``zone`` is the clock by which its days are cut, ``first`` the first whole local day and ``days`` how many follow
    each other (365 or 366 a year).
    """

    name: str
    zone: str
    first: date
    days: int
    southern: bool = False

    @property
    def years(self) -> int:
        """Return the whole years of the window."""
        return round(self.days / 365.2425)


VICTORIA: Final = Origin("Victoria", "Australia/Melbourne", date(2012, 1, 1), 1_096, southern=True)
FONTANA: Final = Origin("Fontana", "America/Los_Angeles", date(2016, 8, 1), 365)
# At 5.6° E, UTC is within half an hour of the sun's time, and no wind follows a change of clocks.
LA_HAUTE_BORNE: Final = Origin("La Haute Borne", "UTC", date(2014, 1, 1), 365)
NETHERLANDS: Final = Origin("Netherlands", "Europe/Amsterdam", date(2018, 1, 1), 1_096)


def local(moment: datetime) -> datetime:
    """Return the community's wall clock at ``moment``, naive; a naive ``moment`` is a ``ValueError``."""
    return (utc(moment) + LOCAL_OFFSET).replace(tzinfo=None)


def cycle_start(origin: Origin, cycle: int) -> int:
    """Return the proleptic ordinal of the simulated day on which ``cycle`` begins."""
    exact = cycle * origin.years * _MEAN_YEAR + (_MEAN_YEAR // 2 if origin.southern else 0)
    return origin.first.toordinal() + 7 * ((exact + _WEEK // 2) // _WEEK)


def place(origin: Origin, ordinal: int) -> int:
    """Return which day of the origin's window (from 0) the simulated local day ``ordinal`` replays."""
    cycle = (ordinal - origin.first.toordinal()) * 10_000 // (origin.years * _MEAN_YEAR)
    while cycle_start(origin, cycle) > ordinal:
        cycle -= 1
    while cycle_start(origin, cycle + 1) <= ordinal:
        cycle += 1
    day = ordinal - cycle_start(origin, cycle)
    if day < origin.days:
        return day
    return day - (7 if origin.years == 1 else 364)


def source_local(origin: Origin, moment: datetime) -> datetime:
    """Return the origin's wall clock, naive, replayed at ``moment``; its weekday and time of day are the local ones."""
    here = local(moment)
    day = origin.first + timedelta(days=place(origin, here.toordinal()))
    return datetime.combine(day, here.time())


def source_moment(origin: Origin, moment: datetime) -> datetime:
    """Return the UTC time of the measurement that is replayed at ``moment``.

    An hour that the origin's clock skipped in spring replays the hour after it; of an hour that it had twice in autumn,
    the first is replayed (PEP 495 with ``fold=0``).
    """
    return source_local(origin, moment).replace(tzinfo=ZoneInfo(origin.zone)).astimezone(UTC)
