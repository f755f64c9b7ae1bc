"""What was published is compared with the right hours of the right issue, and drift is told from chance."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energy_cloud_dagster.domain.forecasting.judging.drift import LEAST_HOURS, MOST_HOURS, measure_drift
from energy_cloud_dagster.domain.forecasting.judging.published import (
    PUBLISHED,
    at_lead,
    day_scores,
    days_that_ended,
    errors_by_hour,
    hours_of_local_day,
)

HOUR = timedelta(hours=1)
START = datetime(2026, 4, 1, tzinfo=UTC)
SETTLED = timedelta(minutes=5)


def issue(
    origin: datetime,
    value: float,
    *,
    model: str = "ensemble",
    chosen: bool = True,
    hours: int = 24,
    rung: str = "champion",
) -> pd.DataFrame:
    """Return one issue's rows: every hour has the median ``value`` in a band of ten."""
    return pd.DataFrame(
        {
            "issued_at": pd.Timestamp(origin + SETTLED),
            "model": model,
            "ts": pd.date_range(origin, periods=hours, freq="h"),
            "p10": value - 5.0,
            "p50": value,
            "p90": value + 5.0,
            "chosen": chosen,
            "rung": rung,
        }
    )


def flat(value: float, hours: int, start: datetime = START) -> pd.Series:
    return pd.Series(value, index=pd.date_range(start, periods=hours, freq="h"))


# -- days


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["Asia/Seoul", "UTC", "Europe/Lisbon", "Atlantic/Azores", "America/New_York", "Asia/Kolkata"]),
    st.dates(date(2026, 1, 5), date(2026, 12, 20)),
    st.integers(1, 4),
)
def test_every_local_day_ends_in_exactly_one_of_the_days_before_and_after(zone: str, first: date, count: int) -> None:
    start = datetime(first.year, first.month, first.day, tzinfo=UTC)
    day = timedelta(days=1)
    apart = [
        one for step in range(count) for one in days_that_ended(start + step * day, start + (step + 1) * day, zone)
    ]
    assert apart == days_that_ended(start, start + count * day, zone)
    assert apart == [apart[0] + step * day for step in range(len(apart))], "no day is left out and none repeats"


@pytest.mark.parametrize(("day", "hours"), [(date(2026, 3, 29), 23), (date(2026, 10, 25), 25), (date(2026, 7, 1), 24)])
def test_a_local_day_has_the_hours_that_its_clock_shows(day: date, hours: int) -> None:
    found = hours_of_local_day(day, "Europe/Berlin")
    assert len(found) == hours
    assert set(found.tz_convert("Europe/Berlin").date) == {day}
    assert found[0].tz_convert("Europe/Berlin").hour == 0


# -- leads


def test_the_days_forecast_is_that_of_its_midnight_and_the_gates_that_of_an_hour_before() -> None:
    day = date(2026, 4, 2)
    midnight = hours_of_local_day(day, "Asia/Seoul")[0].to_pydatetime()
    issued = pd.concat([issue(midnight + step * HOUR, float(step)) for step in range(-26, 30)])
    ahead = at_lead(issued, "day_ahead", day, "Asia/Seoul")
    assert ahead["p50"].tolist() == [0.0] * 24
    gate = at_lead(issued, "gate", day, "Asia/Seoul")
    assert gate["p50"].tolist() == [float(step - 1) for step in range(24)]
    assert gate["ts"].tolist() == ahead["ts"].tolist() == list(hours_of_local_day(day, "Asia/Seoul"))


def test_a_day_is_scored_by_model_and_as_published_over_its_measured_hours() -> None:
    day = date(2026, 4, 2)
    issued = pd.concat(
        [
            issue(START + 24 * HOUR, 110.0),
            issue(START + 24 * HOUR, 130.0, model="seasonal_naive", chosen=False),
            issue(START + 29 * HOUR, 100.0, model="similar_day", rung="similar_day"),
        ]
    )
    actual = pd.concat([flat(90.0, 24), flat(100.0, 18, START + 24 * HOUR)])
    found = {(one.lead, one.model): one for one in day_scores(issued, actual, day=day, timezone="UTC", history=actual)}
    assert set(found) == {
        ("day_ahead", PUBLISHED),
        ("day_ahead", "ensemble"),
        ("day_ahead", "seasonal_naive"),
        ("gate", PUBLISHED),
        ("gate", "ensemble"),
        ("gate", "seasonal_naive"),
        ("gate", "similar_day"),
    }
    published = found["day_ahead", PUBLISHED]
    assert (published.accuracy.hours, published.accuracy.mae, published.accuracy.coverage) == (18, 10.0, 0.0)
    assert published.rungs == {"ensemble (champion)": 24}
    assert found["day_ahead", "seasonal_naive"].accuracy.mae == 30.0
    gate = found["gate", PUBLISHED]
    assert gate.rungs == {"ensemble (champion)": 1, "similar_day (similar_day)": 1}
    assert gate.accuracy.mae == 5.0


def test_a_day_that_nobody_forecast_or_measured_has_no_score() -> None:
    day = date(2026, 4, 2)
    nothing = issue(START, 1.0).iloc[:0]
    assert day_scores(nothing, flat(1.0, 48), day=day, timezone="UTC", history=flat(1.0, 24)) == []
    issued = issue(START + 24 * HOUR, 1.0)
    assert day_scores(issued, flat(1.0, 24), day=day, timezone="UTC", history=flat(1.0, 24)) == []


def test_errors_stand_at_the_local_hour_of_the_hour_that_was_forecast() -> None:
    issued = pd.concat([issue(START, 100.0), issue(START + 24 * HOUR, 100.0)])
    actual = flat(100.0, 48)
    actual.loc[START + 3 * HOUR] = 90.0  # noon in Seoul
    errors = errors_by_hour(issued, actual, "Asia/Seoul")
    assert errors["ensemble"].to_dict() == {hour: 5.0 if hour == 12 else 0.0 for hour in range(24)}


# -- drift


def drift(issued: pd.DataFrame, actual: pd.Series, **changed: float | None) -> tuple[bool, int, float | None]:
    known = {"expected": 0.5, "scale": 10.0, "factor": 1.5} | changed
    found = measure_drift(issued, actual, since=START + SETTLED, **known)
    assert found.reason
    return found.drifted, found.hours, found.mase


def since_fit(value: float, hours: int) -> pd.DataFrame:
    return pd.concat([issue(START + step * HOUR, value) for step in range(1, hours + 1)])


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 30), st.integers(LEAST_HOURS, 30))
def test_drifted_is_an_error_beyond_the_factor_of_what_was_expected(error: float, hours: int) -> None:
    drifted, known, mase = drift(since_fit(100.0 + error, hours), flat(100.0, hours + 1))
    assert known == hours
    assert mase == pytest.approx(error / 10)
    assert drifted == (mase > 1.5 * 0.5)


def test_few_hours_tell_nothing() -> None:
    assert drift(since_fit(500.0, 40), flat(100.0, LEAST_HOURS)) == (False, LEAST_HOURS - 1, None)
    assert drift(since_fit(500.0, 40), flat(100.0, LEAST_HOURS + 1))[0]


def test_what_was_issued_before_the_fit_took_over_does_not_count() -> None:
    earlier = pd.concat([issue(START - step * HOUR, 500.0, hours=60) for step in range(24)])
    both = pd.concat([earlier, since_fit(101.0, 20)])
    assert drift(both, flat(100.0, 21)) == (False, 20, pytest.approx(0.1))


def test_only_the_last_two_days_count() -> None:
    wrong, right = since_fit(500.0, 40), pd.concat([issue(START + step * HOUR, 100.0) for step in range(41, 101)])
    actual = flat(100.0, 101)
    found = drift(pd.concat([wrong[wrong["ts"] < pd.Timestamp(START + 41 * HOUR)], right]), actual)
    assert found == (False, MOST_HOURS, 0.0)


def test_a_fit_without_a_backtest_cannot_drift() -> None:
    for missing in ({"expected": None}, {"scale": None}, {"expected": 0.0}):
        assert drift(since_fit(500.0, 20), flat(100.0, 21), **missing) == (False, 20, None)


def test_gaps_and_nothing_at_all_are_no_drift() -> None:
    actual = flat(100.0, 30)
    actual.iloc[::2] = np.nan
    assert drift(since_fit(100.0, 29), actual)[1:] == (15, 0.0)
    assert drift(since_fit(1.0, 5).iloc[:0], flat(100.0, 30)) == (False, 0, None)


def test_the_naive_beside_is_measured_on_the_same_hours() -> None:
    issued = pd.concat(
        [
            since_fit(120.0, 20),
            *(issue(START + step * HOUR, 110.0, model="seasonal_naive", chosen=False) for step in range(1, 21)),
        ]
    )
    found = measure_drift(issued, flat(100.0, 21), since=START, expected=0.5, scale=10.0, factor=1.5)
    assert (found.mase, found.naive, found.drifted) == (2.0, 1.0, True)
    assert "naive 1.00" in found.reason
