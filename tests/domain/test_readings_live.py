"""Live totals equal what a fresh sum of the latest intervals gives, however the readings came."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from energy_cloud_dagster.domain.readings.live import STALE_AFTER, Group, LiveReading, LiveTotals, Meter, united

T0 = datetime(2026, 3, 1, tzinfo=UTC)
METERS = [
    Meter(1, "consumption", "seoul", "residential", "energy", 60),
    Meter(2, "consumption", "seoul", "residential", "energy", 15),
    Meter(3, "consumption", "seoul", "industrial", "power", 30),
    Meter(4, "consumption", "busan", "residential", "energy", 15),
    Meter(5, "generation", "seoul", "wind", "power", 10),
]
HOMES = Group("consumption", "seoul", "residential")


def quarter(number: int) -> datetime:
    return T0 + number * timedelta(minutes=15)


#: Some are of a series (6) that is no meter.
histories = st.lists(
    st.builds(
        LiveReading,
        st.integers(1, 6),
        st.integers(0, 40).map(quarter),
        st.integers(1, 3),
        st.floats(-1e6, 1e6, allow_nan=False),
    ),
    max_size=60,
    unique_by=lambda one: (one.series_id, one.ts, one.revision),
)


def expected(history: list[LiveReading]) -> dict[Group, tuple[float, float, int]]:
    """The sums by definition, from all readings at once."""
    newest = max((one.ts for one in history), default=T0)
    found = {meter.group: (0.0, 0.0, 0) for meter in METERS}
    for meter in METERS:
        own = [one for one in history if one.series_id == meter.series_id]
        if not own:
            continue
        last = max(own, key=lambda one: (one.ts, one.revision))
        if last.ts + timedelta(minutes=meter.interval_minutes) + STALE_AFTER < newest:
            continue
        hours = meter.interval_minutes / 60
        kwh, kw = (last.value * hours, last.value) if meter.kind == "power" else (last.value, last.value / hours)
        before = found[meter.group]
        found[meter.group] = (before[0] + kwh, before[1] + kw, before[2] + 1)
    return found


@given(histories, st.randoms(use_true_random=False), st.integers(1, 7))
def test_totals_depend_on_what_was_read_and_not_on_order_or_repetition(
    history: list[LiveReading], random: object, step: int
) -> None:
    shuffled = [*history, *history[: len(history) // 2]]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    totals = LiveTotals(METERS)
    for first in range(0, len(shuffled), step):
        totals.apply(shuffled[first : first + step])
    totals.settle()
    for group, (kwh, kw, meters) in expected(history).items():
        found = totals.totals[group]
        assert found.kwh == pytest.approx(kwh, rel=1e-9, abs=1e-6)
        assert found.kw == pytest.approx(kw, rel=1e-9, abs=1e-6)
        assert found.meters == meters
        assert (found.newest is None) is (meters == 0)


def test_only_groups_whose_total_changed_are_named() -> None:
    totals = LiveTotals(METERS)
    assert totals.apply([LiveReading(1, T0, 1, 2.0), LiveReading(9, T0, 1, 5.0)]) == {HOMES}
    assert totals.apply([LiveReading(1, T0, 1, 2.0)]) == set()
    assert totals.apply([LiveReading(1, T0 - timedelta(hours=1), 3, 9.0)]) == set()
    assert totals.apply([LiveReading(1, T0, 2, 4.0)]) == {HOMES}
    assert totals.totals[HOMES].kwh == 4.0


def test_a_silent_meter_stops_counting_once_the_others_are_far_ahead() -> None:
    totals = LiveTotals(METERS)
    totals.apply([LiveReading(1, T0, 1, 2.0), LiveReading(2, T0, 1, 1.0)])
    # the hour of the first ends 45 minutes after the quarter of the second
    totals.apply([LiveReading(2, T0 + timedelta(minutes=15) + STALE_AFTER, 1, 0.5)])
    assert totals.settle() == set()
    assert totals.totals[HOMES].meters == 2
    totals.apply([LiveReading(5, T0 + timedelta(minutes=61) + STALE_AFTER, 1, 600.0)])
    assert totals.settle() == {HOMES}
    assert (totals.totals[HOMES].kwh, totals.totals[HOMES].meters) == (0.5, 1)
    # and a late reading of long ago does not bring it back
    assert totals.apply([LiveReading(1, T0, 2, 7.0)]) == set()


def test_the_horizon_leaves_out_no_interval_that_may_count() -> None:
    totals = LiveTotals(METERS)
    assert totals.horizon is None
    totals.tell(T0)
    totals.tell(T0 - timedelta(hours=9))
    assert totals.horizon == T0 - timedelta(minutes=60) - STALE_AFTER
    assert totals.apply([LiveReading(1, totals.horizon, 1, 1.0)]) == {HOMES}


def test_a_meter_that_is_added_later_counts_from_then_on() -> None:
    totals = LiveTotals()
    assert totals.apply([LiveReading(1, T0, 1, 2.0)]) == set()
    assert 1 not in totals
    totals.add(METERS)
    assert 1 in totals
    assert totals.apply([LiveReading(1, T0, 1, 2.0)]) == {HOMES}
    assert united(totals.totals.values())[:3] == (2.0, 2.0, 1)
