"""Partition keys, ranges, and what a settlement reads of earlier partitions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import dagster as dg
from hypothesis import given
from hypothesis import strategies as st

from energy_cloud_dagster import partitions
from energy_cloud_dagster.domain.intervals import GATE_LEAD_HOURS, HOUR, delivery_cleared_by

HOURS = st.integers(0, 50_000).map(lambda count: partitions.FIRST_HOUR + count * HOUR)


@given(HOURS, st.sampled_from([UTC, timezone(timedelta(hours=9)), timezone(timedelta(hours=-3, minutes=-30))]))
def test_a_key_names_its_hour_in_any_zone(hour: datetime, zone: timezone) -> None:
    key = partitions.hour_key(hour.astimezone(zone))
    window = partitions.hourly.time_window_for_partition_key(key)
    assert (window.start, window.end) == (hour, hour + HOUR)
    assert partitions.hours_in(dg.TimeWindow(window.start, window.end)) == [hour]


@given(HOURS, st.integers(0, 200))
def test_a_range_is_the_hours_from_first_to_last(first: datetime, more: int) -> None:
    last = first + more * HOUR
    tags = partitions.range_tags(first, last)
    keys = dg.PartitionKeyRange(tags["dagster/asset_partition_range_start"], tags["dagster/asset_partition_range_end"])
    windows = [partitions.hourly.time_window_for_partition_key(key) for key in (keys.start, keys.end)]
    covered = partitions.hours_in(dg.TimeWindow(windows[0].start, windows[1].end))
    assert covered == [first + step * HOUR for step in range(more + 1)]


@given(HOURS)
def test_an_hour_is_settled_from_the_partition_that_cleared_it(hour: datetime) -> None:
    mapping = partitions.offset(GATE_LEAD_HOURS)
    assert (mapping.start_offset, mapping.end_offset) == (-GATE_LEAD_HOURS, -GATE_LEAD_HOURS)
    assert delivery_cleared_by(hour - GATE_LEAD_HOURS * HOUR) == hour


def test_days_and_hours_begin_together_in_utc() -> None:
    assert partitions.hourly.start == partitions.daily.start == partitions.FIRST_HOUR
    assert partitions.hourly.get_first_partition_key() == partitions.hour_key(partitions.FIRST_HOUR)
    assert partitions.daily.timezone == partitions.hourly.timezone == "UTC"
