"""Time: UTC throughout, intervals named by their start, and the gates that every hour passes.

Partition K covers ``[K, K + 1 h)``. It is worked on at ``run_time(K) = K + 1 h + 5 min``: delivery K is validated and
settled then, and the hours from K + 1 h on are planned. The gate of delivery D closes at ``D - 1 h + 5 min``, which is
the run time of partition D - 2 h.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

HOUR: Final = timedelta(hours=1)
#: Minutes that an hour's last readings have to arrive before the hour is worked on.
SETTLING_TIME: Final = timedelta(minutes=5)
#: Hours between the partition that clears a delivery and that delivery.
GATE_LEAD_HOURS: Final = 2


def utc(moment: datetime) -> datetime:
    """Return ``moment`` in UTC; a naive moment is a ``ValueError``, never a guess."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} has no offset; give one, such as a trailing Z")
    return moment.astimezone(UTC)


def hour_start(moment: datetime) -> datetime:
    """Return the start of the UTC hour that contains ``moment``."""
    return utc(moment).replace(minute=0, second=0, microsecond=0)


def run_time(partition: datetime) -> datetime:
    """Return the as-of time of partition ``partition``: its end plus the settling time."""
    return utc(partition) + HOUR + SETTLING_TIME


def gate_closure(delivery: datetime) -> datetime:
    """Return when the market for delivery hour ``delivery`` closes."""
    return utc(delivery) - HOUR + SETTLING_TIME


def delivery_cleared_by(partition: datetime) -> datetime:
    """Return the delivery hour whose gate closes at the run time of ``partition``."""
    return utc(partition) + GATE_LEAD_HOURS * HOUR


def hours(start: datetime, end: datetime) -> Iterator[datetime]:
    """Yield the hour starts of ``[start, end)`` in order."""
    current = hour_start(start)
    while current < utc(end):
        yield current
        current += HOUR


def rfc3339(moment: datetime) -> str:
    """Return ``moment`` as RFC 3339 in UTC with a trailing Z, microseconds only where there are any."""
    return utc(moment).isoformat().replace("+00:00", "Z")
