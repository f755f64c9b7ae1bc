"""The partitions: hours and days in UTC, by region and never by meter."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import dagster as dg

from energy_cloud_dagster.domain.intervals import HOUR, hours

#: First hour that can be worked on; sample and live data both begin after it.
FIRST_HOUR: Final = datetime(2026, 1, 1, tzinfo=UTC)
_KEY_FORMAT: Final = "%Y-%m-%d-%H:%M"

hourly = dg.HourlyPartitionsDefinition(start_date=FIRST_HOUR, timezone="UTC", fmt=_KEY_FORMAT)
daily = dg.DailyPartitionsDefinition(start_date=FIRST_HOUR, timezone="UTC")

#: A range of hours is one run: it pays the imports once and gives the same digests as hour by hour.
ONE_RUN: Final = dg.BackfillPolicy.single_run()
#: Tag of the jobs that settle: Dagster's home lets one of their runs go on at a time, for they share one account.
ONE_AT_A_TIME: Final = {"energy-cloud/one-at-a-time": "settlement"}


def hour_key(hour: datetime) -> str:
    """Return the partition key of an hour."""
    return hour.astimezone(UTC).strftime(_KEY_FORMAT)


def hours_in(window: dg.TimeWindow) -> list[datetime]:
    """Return the hour starts of a partition or of a range of partitions, in order."""
    return list(hours(window.start, window.end))


def range_tags(first: datetime, last: datetime) -> dict[str, str]:
    """Return the tags that make a run cover the hours ``first`` to ``last``, both included."""
    return {
        "dagster/asset_partition_range_start": hour_key(first),
        "dagster/asset_partition_range_end": hour_key(last),
    }


def offset(hours_back: int) -> dg.TimeWindowPartitionMapping:
    """Return the mapping to the partition ``hours_back`` hours earlier (0: the same)."""
    return dg.TimeWindowPartitionMapping(start_offset=-hours_back, end_offset=-hours_back)


__all__ = [
    "FIRST_HOUR",
    "HOUR",
    "ONE_AT_A_TIME",
    "ONE_RUN",
    "daily",
    "hour_key",
    "hourly",
    "hours_in",
    "offset",
    "range_tags",
]
