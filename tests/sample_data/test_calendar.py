from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energy_cloud_dagster.sample_data.calendar import (
    FONTANA,
    LA_HAUTE_BORNE,
    NETHERLANDS,
    VICTORIA,
    Origin,
    cycle_start,
    local,
    place,
    source_local,
    source_moment,
)

ORIGINS = st.sampled_from([VICTORIA, FONTANA, LA_HAUTE_BORNE, NETHERLANDS])
MOMENTS = st.datetimes(datetime(1950, 1, 1), datetime(2150, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
DAYS = st.dates(date(1950, 1, 1), date(2150, 1, 1)).map(date.toordinal)
YEAR = 365.2425


def season_error(origin: Origin, ordinal: int) -> float:
    """Days by which the replayed day's place in the year differs from the simulated one's."""
    replayed = origin.first.toordinal() + place(origin, ordinal)
    apart = ordinal - replayed - (YEAR / 2 if origin.southern else 0)
    return (apart + YEAR / 2) % YEAR - YEAR / 2


def length(origin: Origin, ordinal: int) -> tuple[int, int]:
    """The day's place in its cycle and the days of that cycle, found without ``place``."""
    cycle = next(c for c in range(-100, 300) if cycle_start(origin, c) <= ordinal < cycle_start(origin, c + 1))
    return ordinal - cycle_start(origin, cycle), cycle_start(origin, cycle + 1) - cycle_start(origin, cycle)


@settings(max_examples=100, deadline=None)
@given(ORIGINS, MOMENTS)
def test_weekday_and_local_time_agree(origin: Origin, moment: datetime) -> None:
    here, there = local(moment), source_local(origin, moment)
    assert there.time() == here.time()
    assert there.weekday() == here.weekday()


@settings(max_examples=100, deadline=None)
@given(ORIGINS, DAYS)
def test_the_replayed_day_lies_in_the_window_and_in_season(origin: Origin, ordinal: int) -> None:
    assert 0 <= place(origin, ordinal) < origin.days
    day, _ = length(origin, ordinal)
    assert abs(season_error(origin, ordinal)) <= (4 if day < origin.days else 5)


@settings(max_examples=100, deadline=None)
@given(ORIGINS, DAYS)
def test_days_follow_each_other_inside_a_cycle(origin: Origin, ordinal: int) -> None:
    day, days = length(origin, ordinal)
    step = place(origin, ordinal + 1) - place(origin, ordinal)
    if day + 1 == days:
        assert place(origin, ordinal + 1) == 0
    elif day + 1 != origin.days:
        assert step == 1


@settings(max_examples=100, deadline=None)
@given(ORIGINS, st.integers(-50, 100))
def test_cycles_have_whole_weeks_near_whole_years(origin: Origin, cycle: int) -> None:
    days = cycle_start(origin, cycle + 1) - cycle_start(origin, cycle)
    assert days in ({364, 371} if origin.years == 1 else {1_092, 1_099})


@settings(max_examples=100, deadline=None)
@given(ORIGINS, MOMENTS)
def test_every_moment_was_measured_inside_the_window(origin: Origin, moment: datetime) -> None:
    measured = source_moment(origin, moment)
    assert measured.tzinfo is UTC
    begin = datetime.combine(origin.first, datetime.min.time(), UTC)
    assert begin - timedelta(days=1) <= measured < begin + timedelta(days=origin.days + 1)


def test_winter_in_seoul_is_winter_in_melbourne() -> None:
    # A Monday in January, 18:00 in Seoul.
    replayed = source_local(VICTORIA, datetime(2026, 1, 12, 9, tzinfo=UTC))
    assert (replayed.month, replayed.weekday(), replayed.hour) == (7, 0, 18)


def test_an_hour_that_the_origin_skipped_is_the_hour_after_it() -> None:
    skipped = next(
        moment
        for hours in range(24 * 400)
        if source_local(FONTANA, moment := datetime(2025, 8, 1, tzinfo=UTC) + timedelta(hours=hours))
        == datetime(2017, 3, 12, 2)  # noqa: DTZ001
    )
    assert source_moment(FONTANA, skipped) == source_moment(FONTANA, skipped + timedelta(hours=1))


def test_a_time_without_offset_is_refused() -> None:
    with pytest.raises(ValueError, match="no offset"):
        local(datetime(2026, 1, 1))  # noqa: DTZ001
