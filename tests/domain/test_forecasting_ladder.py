"""The rungs, the ladder over them, sites and availabilities: they always answer and never look ahead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting import (
    Fitted,
    Forecast,
    SeasonalNaive,
    fitted_from_text,
    ladder,
    persistence,
    seasonal_naive,
    similar_day,
    solar_availability,
    temperature_outlook,
    wind_availability,
)

ORIGIN = datetime(2026, 3, 9, 15, tzinfo=UTC)  # midnight from Monday to Tuesday in Seoul
ZONE = "Asia/Seoul"

Rule = Callable[[pd.Series, datetime, int], Forecast]
RULES: dict[str, Rule] = {
    "ladder": lambda history, origin, horizon: ladder(None, history, None, origin, horizon, ZONE),
    "ladder_with_a_champion": lambda history, origin, horizon: ladder(
        SeasonalNaive().fit(hourly_week(origin), None, timezone=ZONE, seed=0), history, None, origin, horizon, ZONE
    ),
    "persistence": lambda history, origin, horizon: persistence(history, origin=origin, horizon=horizon),
    "solar": lambda history, origin, horizon: solar_availability(
        history, origin=origin, horizon=horizon, timezone=ZONE
    ),
    "wind": lambda history, origin, horizon: wind_availability(history, origin=origin, horizon=horizon),
}


def before(values: list[float] | np.ndarray, origin: datetime = ORIGIN) -> pd.Series:
    """An hourly series that ends with the last hour before ``origin``."""
    end = pd.Timestamp(origin) - pd.Timedelta(hours=1)
    return pd.Series(np.asarray(values, dtype=float), index=pd.date_range(end=end, periods=len(values), freq="h"))


def hourly_week(origin: datetime) -> pd.Series:
    return before(np.arange(400) % 24, origin)


@st.composite
def histories(draw: st.DrawFn) -> pd.Series:
    """Up to six weeks with gaps, negative values, constants, spikes, in any order of rows."""
    length = draw(st.integers(0, 1000))
    seed = draw(st.integers(0, 2**32 - 1))
    generator = np.random.default_rng(seed)
    shape = draw(st.sampled_from(["noise", "constant", "daily", "zeros", "spikes"]))
    values = {
        "noise": generator.normal(0, 5, length),
        "constant": np.full(length, 3.25),
        "daily": 2 + np.sin(np.arange(length) * 2 * np.pi / 24) + generator.normal(0, 0.1, length),
        "zeros": np.zeros(length),
        "spikes": np.where(generator.random(length) < 0.02, 1e9, 1.0),
    }[shape]
    values = np.where(generator.random(length) < draw(st.sampled_from([0.0, 0.1, 0.9])), np.nan, values)
    series = before(values)
    keep = generator.random(length) >= draw(st.sampled_from([0.0, 0.2]))
    return series[keep].sample(frac=1, random_state=seed % 1000)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
@given(history=histories(), horizon=st.sampled_from([1, 24, 50]), ahead=st.integers(0, 400))
@settings(max_examples=25, deadline=None)
def test_every_rule_always_answers(rule: Rule, history: pd.Series, horizon: int, ahead: int) -> None:
    """The invariants of a forecast are checked when it is made; here also the origin, the range and repeatability."""
    origin = ORIGIN + timedelta(hours=ahead)
    one, again = rule(history, origin, horizon), rule(history, origin, horizon)
    assert one.horizon == horizon
    assert one.origin == origin
    assert one.model
    assert (one.p10 <= one.p50).all()
    assert (one.p50 <= one.p90).all()
    assert one.notes == again.notes
    for name in ("p10", "p50", "p90"):
        np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
    if not (history.dropna() < 0).any():
        assert (one.p10 >= 0).all()
    if rule in (RULES["solar"], RULES["wind"]):
        assert (one.p10 >= 0).all()
        assert (one.p90 <= 1).all()


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
@given(history=histories(), spikes=st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=200))
@settings(max_examples=15, deadline=None)
def test_nothing_at_or_after_the_origin_matters(rule: Rule, history: pd.Series, spikes: list[float]) -> None:
    future = pd.Series(spikes, index=pd.date_range(ORIGIN, periods=len(spikes), freq="h"))
    one, spiked = rule(history, ORIGIN, 24), rule(pd.concat([future, history]), ORIGIN, 24)
    assert one.notes == spiked.notes
    for name in ("p10", "p50", "p90"):
        np.testing.assert_array_equal(getattr(one, name), getattr(spiked, name))


def test_temperature_after_the_origin_does_not_matter() -> None:
    history = before(np.arange(100.0))
    spiked = pd.concat([history, pd.Series([99.0] * 30, index=pd.date_range(ORIGIN, periods=30, freq="h"))])
    one = temperature_outlook(history, origin=ORIGIN, horizon=24).regressors
    other = temperature_outlook(spiked, origin=ORIGIN, horizon=24).regressors
    assert one is not None
    assert other is not None
    pd.testing.assert_frame_equal(one, other)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_repeated_hours_are_refused(rule: Rule) -> None:
    history = before([1.0, 2.0])
    with pytest.raises(InvalidInput, match="repeated"):
        rule(pd.concat([history, history]), ORIGIN, 24)


# -- seasonal naive and persistence


def test_seasonal_naive_takes_the_week_before() -> None:
    values = np.arange(400.0)
    one = seasonal_naive(before(values), origin=ORIGIN, horizon=200, timezone=ZONE)
    np.testing.assert_array_equal(one.p50[:168], values[-168:])
    np.testing.assert_array_equal(one.p50[168:], values[-168:-136])
    assert one.model == "seasonal_naive"
    np.testing.assert_array_equal(one.p90 - one.p50, np.full(200, 168.0))  # it rises by 168 a week


def test_seasonal_naive_falls_back_to_the_day_before_then_to_the_last_value() -> None:
    values = np.arange(60.0)
    values[40] = np.nan  # 20 hours before the origin; the day before that is known
    one = seasonal_naive(before(values), origin=ORIGIN, horizon=24, timezone=ZONE)
    assert one.p50[4] == 16.0
    assert one.p50[5] == 41.0
    assert "24 of 24 hours take the day before" in one.notes[0]
    short = seasonal_naive(before([5.0, 6.0]), origin=ORIGIN, horizon=24, timezone=ZONE)
    assert short.p50.tolist() == [6.0] * 22 + [5.0, 6.0]
    assert "22 of 24 hours take the last known value" in short.notes[1]


def test_seasonal_naive_needs_something() -> None:
    with pytest.raises(InvalidInput, match="at least one known hour"):
        seasonal_naive(before([]), origin=ORIGIN, horizon=24, timezone=ZONE)
    fitted = SeasonalNaive().fit(before([1.0]), None, timezone=ZONE, seed=0)
    with pytest.raises(InvalidInput, match="at least one known hour"):
        fitted.predict(before([]), None, ORIGIN, 24)


def test_seasonal_naive_survives_its_text() -> None:
    generator = np.random.default_rng(1)
    history = before(generator.random(900))
    fitted = SeasonalNaive().fit(history, None, timezone=ZONE, seed=0)
    read = fitted_from_text(fitted.to_text())
    assert read == fitted
    assert isinstance(read, Fitted)
    assert read.digest == fitted.digest
    assert len(fitted.digest) == 64
    assert fitted.train_end == ORIGIN
    np.testing.assert_array_equal(
        read.predict(history, None, ORIGIN, 24).p10, fitted.predict(history, None, ORIGIN, 24).p10
    )


@pytest.mark.parametrize("text", ["", "[]", '{"model": "oracle"}', '{"model": "seasonal_naive", "format": 2}'])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="model"):
        fitted_from_text(text)
    with pytest.raises(InvalidInput, match="stored model"):
        SeasonalNaive().fit(before([1.0]), None, timezone=ZONE, seed=0).from_text(text)


def test_persistence_holds_the_last_value_and_widens() -> None:
    generator = np.random.default_rng(2)
    values = 100 + np.cumsum(generator.normal(0, 1, 300))
    one = persistence(before(values), origin=ORIGIN, horizon=24)
    assert set(one.p50) == {values[-1]}
    assert (one.p90 - one.p10)[23] > (one.p90 - one.p10)[0] > 0
    late = persistence(before(values), origin=ORIGIN + timedelta(hours=3), horizon=2)
    assert "4 hours old" in late.notes[0]
    assert persistence(before([7.0]), origin=ORIGIN, horizon=2).notes == ("no spread is known",)


# -- similar day


def test_similar_day_tells_workdays_from_weekends() -> None:
    index = pd.date_range(end=pd.Timestamp(ORIGIN) - pd.Timedelta(hours=1), periods=14 * 24, freq="h")
    weekend = index.tz_convert(ZONE).day_of_week >= 5
    history = pd.Series(np.where(weekend, 1.0, 5.0) + index.tz_convert(ZONE).hour / 100, index=index)
    tuesday = similar_day(history, origin=ORIGIN, horizon=24, timezone=ZONE)
    np.testing.assert_allclose(tuesday.p50, 5 + np.arange(24) / 100)
    saturday = similar_day(history, origin=ORIGIN + timedelta(days=4), horizon=24, timezone=ZONE)
    np.testing.assert_allclose(saturday.p50, 1 + np.arange(24) / 100)
    both = similar_day(history, origin=ORIGIN, horizon=24, timezone=ZONE, same_kind=False)
    assert both.p50[0] == pytest.approx((10 * 5 + 4 * 1) / 14)
    assert both.p10[0] < both.p50[0] < both.p90[0]


def test_similar_day_of_two_workdays_serves_a_weekend_and_says_so() -> None:
    history = before(np.arange(48.0))
    one = similar_day(history, origin=ORIGIN + timedelta(days=4), horizon=24, timezone=ZONE)
    assert "too few weekend days" in one.notes[0]
    assert one.p50[0] == 12.0


def test_similar_day_fills_a_meter_that_sleeps_at_night() -> None:
    history = before(np.tile(np.arange(24.0), 5))
    local_hours = history.index.tz_convert(ZONE).hour
    awake = history[(local_hours >= 6) & (local_hours < 20)]
    one = similar_day(awake, origin=ORIGIN, horizon=24, timezone=ZONE)
    assert one.p50[1] == pytest.approx(19 + (6 - 19) * 6 / 11)
    assert "10 hours of the day" in one.notes[0]
    with pytest.raises(InvalidInput, match="only 5 hours of the day"):
        similar_day(before(np.arange(5.0)), origin=ORIGIN, horizon=24, timezone=ZONE)


def test_spread_covers_days_like_those_that_made_it() -> None:
    generator = np.random.default_rng(3)
    inside = []
    for _ in range(60):
        values = 10 + generator.normal(0, 1, 15 * 24)
        one = similar_day(before(values[:-24]), origin=ORIGIN, horizon=24, timezone=ZONE, same_kind=False)
        inside.append(((one.p10 <= values[-24:]) & (values[-24:] <= one.p90)).mean())
    assert np.mean(inside) == pytest.approx(0.8, abs=0.05)


# -- ladder


def test_the_champion_answers_when_all_is_well() -> None:
    history = before(np.tile(np.arange(24.0), 20))
    fitted = SeasonalNaive().fit(history, None, timezone=ZONE, seed=0)
    one = ladder(fitted, history, None, ORIGIN, 24, ZONE, notes=("from the caller",))
    assert one.rung == "champion"
    assert one.notes == ("from the caller",)


def test_a_champion_that_saw_the_future_is_not_asked() -> None:
    history = before(np.tile(np.arange(24.0), 20))
    fitted = SeasonalNaive().fit(history, None, timezone=ZONE, seed=0)
    one = ladder(replace(fitted, train_end=ORIGIN + timedelta(hours=1)), history, None, ORIGIN, 24, ZONE)
    assert one.rung == "similar_day"
    assert "after the origin" in one.notes[0]


def test_a_constant_series_falls_to_similar_day() -> None:
    history = before(np.full(400, 3.0))
    fitted = SeasonalNaive().fit(before(np.arange(400.0)), None, timezone=ZONE, seed=0)
    one = ladder(fitted, history, None, ORIGIN, 24, ZONE)
    assert one.rung == "similar_day"
    assert set(one.p50) == {3.0}
    assert any("constant series" in note for note in one.notes)


def test_gaps_and_short_histories_are_named() -> None:
    history = before(np.tile(np.arange(24.0), 4))
    history.iloc[10:20] = np.nan
    one = ladder(None, history, None, ORIGIN, 24, ZONE)
    assert one.rung == "similar_day"
    assert "champion: none is fitted" in one.notes
    assert "gaps: 10 of the last 96 hours are missing" in one.notes
    assert "short history: 96 hours" in one.notes


def test_the_ladder_ends_in_persistence_and_then_in_zeros() -> None:
    short = ladder(None, before([1.0, 2.0]), None, ORIGIN, 24, ZONE)
    assert short.rung == "persistence"
    assert set(short.p50) == {2.0}
    assert any(note.startswith("similar day: only 2 hours") for note in short.notes)
    empty = ladder(None, before([]), None, ORIGIN, 24, ZONE)
    assert empty.rung == "persistence"
    assert not empty.p90.any()
    assert any("zeros" in note for note in empty.notes)


def test_malformed_calls_are_refused_before_any_rung() -> None:
    with pytest.raises(InvalidInput, match="IANA"):
        ladder(None, before([1.0]), None, ORIGIN, 24, "Nowhere/Land")
    with pytest.raises(InvalidInput, match="horizon"):
        ladder(None, before([1.0]), None, ORIGIN, 0, ZONE)


# -- sun and wind


def test_the_sun_is_the_mean_of_the_last_days() -> None:
    day = np.clip(np.sin((np.arange(24) - 6) * np.pi / 12), 0, None)
    history = before(np.concatenate([day * scale for scale in (9.0, 0.2, 0.4, 0.6, 0.8, 1.0)]))
    one = solar_availability(history, origin=ORIGIN, horizon=24, timezone=ZONE)
    assert one.model == "similar_day"
    np.testing.assert_allclose(one.p50, day * 0.6)
    assert one.p50[0] == 0.0
    assert one.p10[12] < one.p50[12] < one.p90[12] <= 1.0


def test_a_new_solar_plant_is_not_counted_on() -> None:
    one = solar_availability(before([0.3, 0.5, 0.4]), origin=ORIGIN, horizon=24, timezone=ZONE)
    assert one.rung == "persistence"
    assert not one.p50.any()
    assert set(one.p90) == {0.5}
    assert not solar_availability(before([]), origin=ORIGIN, horizon=24, timezone=ZONE).p90.any()


def test_wind_decays_to_its_mean() -> None:
    generator = np.random.default_rng(4)
    values = np.full(28 * 24, 0.4)
    for hour in range(1, len(values)):
        values[hour] = np.clip(0.4 + 0.9 * (values[hour - 1] - 0.4) + generator.normal(0, 0.03), 0, 1)
    values[-1] = 0.9
    one = wind_availability(before(values), origin=ORIGIN, horizon=48)
    assert one.rung == "champion"
    assert one.model == "ar1"
    assert 0.75 < one.p50[0] < 0.9
    assert one.p50[-1] == pytest.approx(values.mean(), abs=0.02)
    assert (np.diff(one.p50) < 0).all()
    late = wind_availability(before(values), origin=ORIGIN + timedelta(hours=2), horizon=24)
    assert late.p50[0] == pytest.approx(one.p50[2], abs=0.001)  # the window moved by two hours
    assert "3 hours old" in late.notes[0]


def test_wind_without_a_past_to_learn_from() -> None:
    short = wind_availability(before([0.2, 1.7]), origin=ORIGIN, horizon=3)
    assert short.rung == "persistence"
    assert short.p50.tolist() == [1.0] * 3
    assert not wind_availability(before([]), origin=ORIGIN, horizon=3).p90.any()
    assert wind_availability(before(np.full(300, 0.5)), origin=ORIGIN, horizon=3).rung == "persistence"
