"""Rolling origins, calibration, ensemble, champion: nothing later leaks in, and the arithmetic is what it says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting import (
    Accuracy,
    Backtest,
    Calibration,
    DailyNaive,
    Forecast,
    SeasonalNaive,
    SimilarDay,
    accuracy,
    fit_calibration,
    fitted_from_text,
    holiday_flags,
    model_named,
    models_named,
    run_backtest,
    weekly_scale,
    with_holidays,
)
from energy_cloud_dagster.domain.forecasting.judging.backtest import scored_origins
from energy_cloud_dagster.domain.forecasting.judging.calibration import (
    no_calibration,
    residual_frame,
    weighted_quantile,
)
from energy_cloud_dagster.domain.forecasting.judging.champion import choose
from energy_cloud_dagster.domain.forecasting.judging.ensemble import combine, weights
from energy_cloud_dagster.domain.forecasting.judging.rolling import midnights
from energy_cloud_dagster.domain.forecasting.models.naive import FittedSeasonalNaive

ZONE = "Australia/Melbourne"
START = pd.Timestamp("2013-08-31T14:00Z")  # a local midnight, five weeks before the clock moves


def load(days: int = 60, seed: int = 1, start: pd.Timestamp = START) -> pd.Series[float]:
    """Return a load with a daily and weekly rhythm and noise that grows by day."""
    rng = np.random.default_rng(seed)
    index = pd.date_range(start, periods=24 * days, freq="h")
    hours = np.arange(len(index))
    shape = 1000 + 200 * np.sin(2 * np.pi * hours / 24) + 100 * np.sin(2 * np.pi * hours / 168)
    return pd.Series(shape + rng.normal(0, 30, len(index)), index=index)


@dataclass(frozen=True)
class Flat:
    """Say one value with a band of one width; refuse from a day on; note every call."""

    name: str = "flat"
    value: float = 1000.0
    width: float = 1.0
    refuses_fit: bool = False
    refuses_from: datetime | None = None

    def fit(self, history: pd.Series[Any], regressors: pd.DataFrame | None, *, timezone: str, seed: int) -> Any:
        if self.refuses_fit:
            raise InvalidInput("it takes a longer history")
        inner = SeasonalNaive().fit(history, regressors, timezone=timezone, seed=seed)
        return _FlatFitted(self, inner)


@dataclass(frozen=True)
class _FlatFitted:
    model: Flat
    inner: FittedSeasonalNaive

    def predict(self, recent: pd.Series[Any], future: Any, origin: datetime, horizon: int) -> Forecast:
        if self.model.refuses_from is not None and origin >= self.model.refuses_from:
            raise InvalidInput("the weather is missing")
        made = self.inner.predict(recent, future, origin, horizon)
        centre = np.full(horizon, self.model.value)
        return replace(
            made, p10=centre - self.model.width, p50=centre, p90=centre + self.model.width, model=self.model.name
        )


def run(history: pd.Series[Any], models: Any = None, regressors: Any = None, **options: Any) -> Backtest:
    chosen = [SeasonalNaive(), DailyNaive(), SimilarDay()] if models is None else models
    defaults: dict[str, Any] = {"timezone": ZONE, "seed": 1, "origins": None, "burn_in_days": 14}
    return run_backtest(chosen, history, regressors, **{**defaults, **options})


@pytest.fixture(scope="module")
def plain() -> Backtest:
    return run(load())


def test_origins_are_local_midnights_across_a_change_of_the_clock() -> None:
    starts = midnights(load(50), ZONE)
    local = pd.DatetimeIndex(starts).tz_convert(ZONE)
    assert len(starts) == 50  # the clock moved forward: the 51st local day has its first hour only
    assert (local.hour == 0).all()
    gaps = {(later - earlier).total_seconds() / 3600 for earlier, later in pairwise(starts)}
    assert gaps == {23.0, 24.0}


def test_a_zone_between_the_hours_starts_its_days_at_their_first_whole_hour() -> None:
    starts = pd.DatetimeIndex(midnights(load(5, start=pd.Timestamp("2020-01-01T00:00Z")), "Asia/Kolkata"))
    assert {(stamp.hour, stamp.minute) for stamp in starts.tz_convert("Asia/Kolkata")} == {(0, 30)}


@given(days=st.integers(1, 400), origins=st.none() | st.integers(1, 100), share=st.floats(0.05, 0.9))
@settings(max_examples=50, deadline=None)
def test_scored_origins_spread_over_the_last_share(days: int, origins: int | None, share: float) -> None:
    stamps = [START.to_pydatetime() + pd.Timedelta(days=day) for day in range(days)]
    chosen = scored_origins(stamps, origins, share)
    assert chosen == sorted(set(chosen))
    steps = {(later - earlier).days for earlier, later in pairwise([*chosen, stamps[-1] + pd.Timedelta(days=1)])}
    assert max(steps) - min(steps) <= 1
    test_days = max(1, len(stamps) - int(np.ceil(days * (1 - share) - 1e-9)))
    assert len(chosen) == (test_days if origins is None else min(origins, test_days))
    assert chosen[0] == stamps[-test_days]


def test_a_planted_spike_moves_no_forecast_before_it(plain: Backtest) -> None:
    history = load()
    spike_day = plain.origins[6]
    spiked = history.copy()
    spiked[pd.Timestamp(spike_day) :] *= 10
    other = run(spiked)
    for name, result in plain.models.items():
        for place in range(7):
            seen, again = result.forecasts[place], other.models[name].forecasts[place]
            assert np.array_equal(seen.frame().to_numpy(), again.frame().to_numpy()), (name, place)
    assert [plain.champions[o] for o in plain.origins[:7]] == [other.champions[o] for o in plain.origins[:7]]
    later = (plain.models["ensemble"].forecasts[8].p50, other.models["ensemble"].forecasts[8].p50)
    assert not np.array_equal(*later)  # the spike is not simply ignored


def test_a_spike_within_the_hour_that_two_days_share_does_not_leak() -> None:
    """A 23-hour day's forecast reaches one hour past the next midnight: that hour is not known there."""
    history = load(50)
    days = midnights(history, ZONE)
    short = next(p for p, (a, b) in enumerate(pairwise(days)) if (b - a).total_seconds() < 24 * 3600)
    following = days[short + 1]
    spiked = history.copy()
    spiked[pd.Timestamp(following)] *= 10
    models = [SeasonalNaive(), SimilarDay()]
    seen, again = (run(one, models, burn_in_days=4, share=0.45) for one in (history, spiked))
    place = seen.origins.index(following)
    for name in seen.models:
        assert np.array_equal(seen.models[name].forecasts[place].p90, again.models[name].forecasts[place].p90), name


def test_figures_are_those_of_the_forecasts(plain: Backtest) -> None:
    history = load()
    assert "every 14 days, at first on 34 days; 26 days forecast, 12 of them scored" in plain.windows
    before = history[history.index < pd.Timestamp(plain.origins[0])]
    for result in plain.models.values():
        assert result.accuracy == accuracy(history, result.forecasts, history=before)
        assert [one.origin for one in result.forecasts] == list(plain.origins)
    naive = plain.models["seasonal_naive"]
    lag = history.shift(168, freq="h")
    errors = np.concatenate([(lag.reindex(f.index) - history.reindex(f.index)).abs() for f in naive.forecasts])
    scale = weekly_scale(before)
    assert scale is not None
    assert naive.accuracy.mase == pytest.approx(errors.mean() / scale)


def test_the_ensemble_is_no_worse_than_its_best_member_by_more_than_noise(plain: Backtest) -> None:
    errors = {name: result.accuracy.mae for name, result in plain.models.items()}
    assert all(error is not None for error in errors.values())
    best = min(error for name, error in errors.items() if name != "ensemble" and error is not None)
    assert errors["ensemble"] is not None
    assert errors["ensemble"] < 1.05 * best
    assert sum(plain.weights.values()) == pytest.approx(1)


def test_the_champion_has_the_least_error_of_the_table(plain: Backtest) -> None:
    errors = {name: result.accuracy.mase for name, result in plain.models.items() if result.accuracy.mase is not None}
    assert errors[plain.champion] <= min(errors.values()) * 1.0011


def test_a_model_that_cannot_is_left_out_and_says_why() -> None:
    result = run(load(30), [Flat(refuses_fit=True), SeasonalNaive()])
    assert result.models["flat"].failed == "it takes a longer history"
    assert result.models["flat"].accuracy.mae is None
    assert result.champion == "seasonal_naive"
    assert "flat" not in result.weights
    assert "ensemble" not in result.models  # of one there is no mean


def test_a_day_that_a_model_refuses_is_answered_a_rung_lower() -> None:
    history = load(30)
    result = run(history, [Flat(refuses_from=midnights(history, ZONE)[-2]), SeasonalNaive()])
    flat = result.models["flat"]
    assert [one.rung for one in flat.forecasts[-2:]] == ["similar_day", "similar_day"]
    assert {one.rung for one in flat.forecasts[:-2]} == {"champion"}
    assert any("2 of " in note and "the weather is missing" in note for note in flat.notes)
    assert flat.failed is None
    assert flat.accuracy.hours == 24 * len(result.origins)


def test_the_naive_yardstick_is_always_there_and_names_are_unique() -> None:
    assert "seasonal_naive" in run(load(30), [SimilarDay()]).models
    with pytest.raises(InvalidInput, match="names of their own"):
        run(load(30), [SimilarDay(), SimilarDay(days=7)])


@pytest.mark.parametrize(
    ("history", "options", "reason"),
    [
        (load(8), {}, "needs 10 full local days"),
        (load(30), {"share": 1.5}, "share is 1.5"),
        (load(30), {"origins": 0}, "origins is 0"),
        (load(30), {"refit_days": 0}, "refit_days is 0"),
        (load(30), {"timezone": "Mars/Base"}, "not an IANA time zone"),
    ],
)
def test_bad_input_is_refused_with_a_reason(history: pd.Series[Any], options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        run(history, **options)


def holes(history: pd.Series[float]) -> pd.Series[float]:
    history = history.copy()
    history.iloc[200:210] = np.nan
    return history.drop(history.index[24 * 30 : 24 * 44])


@pytest.mark.parametrize(
    "change",
    [holes, lambda h: h * 0 + 5, lambda h: h * 0, lambda h: h - 1000, lambda h: h.where(h.index.hour % 24 > 8, 0.0)],
    ids=["gaps", "constant", "zeros", "negative", "zeros_by_night"],
)
def test_odd_series_are_backtested_all_the_same(change: Callable[[pd.Series[float]], pd.Series[float]]) -> None:
    result = run(change(load(48)), [SeasonalNaive(), SimilarDay()], share=0.15, burn_in_days=8)
    assert result.models["ensemble"].accuracy.hours > 0
    assert all(np.isfinite(f.frame().to_numpy()).all() for one in result.models.values() for f in one.forecasts)


def test_measured_weather_is_said_to_be_measured() -> None:
    history = load(30)
    frame = pd.DataFrame({"temperature": 20.0, "holiday": 0.0}, index=history.index)
    notes = run(history, [SeasonalNaive()], frame).notes
    assert any("temperature" in note and "holiday" not in note for note in notes)
    assert not run(history, [SeasonalNaive()], frame[["holiday"]]).notes


def test_progress_and_clock() -> None:
    told: list[tuple[int, int, str]] = []
    ticks = iter(range(10**6))
    result = run(load(30), progress=lambda *args: told.append(args), clock=lambda: float(next(ticks)))
    assert [one[0] for one in told] == list(range(1, told[0][1] + 1))
    assert result.models["similar_day"].fit_seconds == 1.0
    assert result.models["ensemble"].predict_seconds == sum(weight > 0 for weight in result.weights.values())


# calibration


def frame_of(scale: float, days: int = 60, seed: int = 3) -> pd.DataFrame:
    """Return residuals of standard normal errors times ``scale`` around bands of one unit."""
    index = pd.date_range(START, periods=24 * days, freq="h")
    noise = np.random.default_rng(seed).normal(0, scale, len(index))
    hours = index.tz_convert(ZONE).hour
    return pd.DataFrame({"hour": hours, "actual": noise, "p10": -1.0, "p50": 0.0, "p90": 1.0}, index=index)


@pytest.mark.parametrize("scale", [0.1, 1.0, 20.0])
def test_calibrated_bands_hold_80_percent_of_new_hours(scale: float) -> None:
    made = fit_calibration(frame_of(scale), ZONE)
    new = frame_of(scale, seed=4)
    hours = new["hour"].to_numpy(dtype=np.int64)
    p10, p50, p90 = made.quantiles(hours, *(new[name].to_numpy() for name in ("p10", "p50", "p90")))
    inside = ((p10 <= new["actual"]) & (new["actual"] <= p90)).mean()
    assert 0.77 <= inside <= 0.85
    assert (p10 <= p50).all()
    assert (p50 <= p90).all()


def test_hours_of_the_day_get_their_own_bands() -> None:
    frame = frame_of(1.0)
    frame.loc[frame["hour"] >= 12, "actual"] *= 10
    made = fit_calibration(frame, ZONE)
    reach = np.asarray(made.upper_scale) + np.asarray(made.upper_offset)
    assert reach[16:20].min() > 3 * reach[3:8].max()


def test_a_lasting_bias_is_taken_back_and_chance_is_not() -> None:
    biased = fit_calibration(frame_of(1.0).assign(p10=2.0, p50=3.0, p90=4.0), ZONE)
    assert np.asarray(biased.shift) == pytest.approx(np.full(24, -3.0), abs=0.5)
    assert np.abs(fit_calibration(frame_of(1.0, days=30), ZONE).shift).mean() < 0.1
    yardstick = fit_calibration(frame_of(1.0).assign(p50=3.0, p90=4.0), ZONE, centred=False)
    assert set(yardstick.shift) == {0.0}


def test_a_model_without_bands_gets_them_from_its_errors() -> None:
    frame = frame_of(5.0).assign(p10=0.0, p90=0.0)
    made = fit_calibration(frame, ZONE)
    hours = frame["hour"].to_numpy(dtype=np.int64)
    p10, _, p90 = made.quantiles(hours, *(frame[name].to_numpy() for name in ("p10", "p50", "p90")))
    assert 0.75 <= ((p10 <= frame["actual"]) & (frame["actual"] <= p90)).mean() <= 0.87


def test_too_few_residuals_change_nothing() -> None:
    assert fit_calibration(frame_of(1.0, days=1), ZONE) == no_calibration(ZONE)
    empty = residual_frame([], load(2), ZONE)
    assert fit_calibration(empty, ZONE) == no_calibration(ZONE)


def test_a_calibration_survives_its_document_and_refuses_others() -> None:
    made = fit_calibration(frame_of(2.0), ZONE)
    assert Calibration.from_dict(made.to_dict()) == made
    with pytest.raises(InvalidInput, match="other fields"):
        Calibration.from_dict({**made.to_dict(), "more": 1})
    with pytest.raises(InvalidInput, match="entries"):
        Calibration.from_dict({**made.to_dict(), "shift": [0.0]})


def test_a_load_that_is_never_negative_has_no_negative_quantile() -> None:
    frame = frame_of(1.0)
    frame["actual"] = frame["actual"].abs()
    made = fit_calibration(frame, ZONE)
    hours = np.arange(24)
    assert (made.quantiles(hours, np.full(24, -5.0), np.full(24, -2.0), np.zeros(24))[0] == 0).all()


quantile_rows = hnp.arrays(np.float64, (24, 3), elements=st.floats(-1e6, 1e6)).map(lambda rows: np.sort(rows, axis=1))


@given(rows=quantile_rows, scale=st.floats(1e-3, 1e3))
@settings(max_examples=50, deadline=None)
def test_no_calibration_crosses_quantiles(rows: np.ndarray, scale: float) -> None:
    made = fit_calibration(frame_of(scale, days=10), ZONE)
    p10, p50, p90 = made.quantiles(np.arange(24), *rows.T)
    assert (p10 <= p50).all()
    assert (p50 <= p90).all()


@given(values=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=40), level=st.floats(0.05, 0.95))
@settings(max_examples=50, deadline=None)
def test_a_weighted_quantile_holds_its_share_and_counts_weights(values: list[float], level: float) -> None:
    ranked = np.sort(values)
    sums = np.cumsum(np.ones((1, len(ranked))), axis=1)
    found = weighted_quantile(ranked, sums, level)[0]
    assert found in ranked
    assert (ranked <= found).mean() >= level - 1e-9
    assert weighted_quantile(ranked, sums, min(1.0, level + 0.04))[0] >= found
    doubled = weighted_quantile(np.repeat(ranked, 2), np.cumsum(np.full((1, 2 * len(ranked)), 0.5), axis=1), level)[0]
    assert doubled == found


# ensemble and champion


@given(errors=hnp.arrays(np.float64, st.tuples(st.integers(5, 60), st.integers(1, 5)), elements=st.floats(-100, 100)))
@settings(max_examples=50, deadline=None)
def test_weights_are_a_share_and_beat_equal_ones(errors: np.ndarray) -> None:
    names = [f"m{place}" for place in range(errors.shape[1])]
    found = weights(pd.DataFrame(errors, columns=names), pd.Series(np.zeros(len(errors))))
    shares = np.array([found[name] for name in names])
    assert (shares >= 0).all()
    assert shares.sum() == pytest.approx(1)
    own = float(np.abs(errors @ shares).mean())
    assert own <= np.abs(errors.mean(axis=1)).mean() + 0.15 * np.abs(errors).mean() + 1e-9


def test_weights_find_the_good_model_and_the_pair_that_cancels() -> None:
    rng = np.random.default_rng(5)
    actual = pd.Series(rng.normal(size=500))
    noise = rng.normal(size=(500, 3))
    good = pd.DataFrame({"good": actual + 0.1 * noise[:, 0], "bad": actual + 5 * noise[:, 1]})
    assert weights(good, actual)["good"] > 0.97
    pair = pd.DataFrame({"over": actual + 1 + 0.1 * noise[:, 0], "under": actual - 1 + 0.1 * noise[:, 1]})
    assert weights(pair, actual)["over"] == pytest.approx(0.5, abs=0.05)


def test_weights_of_nothing() -> None:
    actual = pd.Series([1.0, 2.0])
    assert weights(pd.DataFrame({"a": [np.nan] * 2, "b": [np.nan] * 2}), actual) == {"a": 0.5, "b": 0.5}
    assert weights(pd.DataFrame({"a": [np.nan] * 2, "b": [1.0, 2.0]}), actual) == {"a": 0.0, "b": 1.0}
    with pytest.raises(InvalidInput, match="at least one"):
        weights(pd.DataFrame(index=range(2)), actual)


def at(value: float, width: float = 1.0, model: str = "m", hours: int = 3) -> Forecast:
    index = pd.date_range(START, periods=hours, freq="h")
    centre = np.full(hours, value)
    return Forecast(index, centre - width, centre, centre + width, model, "champion")


def test_combining_is_the_weighted_mean_and_survives_a_missing_member() -> None:
    made = combine({"a": at(10), "b": at(20, 3)}, {"a": 0.75, "b": 0.25, "c": 0.0})
    assert (made.p50 == 12.5).all()
    assert (made.p90 == 14.0).all()
    assert made.model == "ensemble"
    assert not made.notes
    alone = combine({"b": at(20)}, {"a": 0.75, "b": 0.25})
    assert (alone.p50 == 20).all()
    assert alone.notes == ("ensemble without a",)
    with pytest.raises(InvalidInput, match="no member"):
        combine({"c": at(1)}, {"a": 1.0})
    with pytest.raises(InvalidInput, match="different hours"):
        combine({"a": at(1), "b": at(1, hours=4)}, {"a": 0.5, "b": 0.5})


def scored(mase: float | None, mae: float | None = 1.0) -> Accuracy:
    return Accuracy(24, None, mae, None, mase, None, None, None)


@pytest.mark.parametrize(
    ("scores", "current", "chosen"),
    [
        ({"a": scored(0.50), "b": scored(0.495)}, "a", "a"),
        ({"a": scored(0.50), "b": scored(0.48)}, "a", "b"),
        ({"a": scored(0.50), "b": scored(0.495)}, None, "b"),
        ({"a": scored(0.50), "b": scored(0.50)}, None, "a"),
        ({"a": scored(None, None), "b": scored(0.9)}, "a", "b"),
        ({"a": scored(None, 3.0), "b": scored(None, 2.0)}, None, "b"),
        ({"a": scored(0.1)}, "gone", "a"),
    ],
)
def test_a_champion_stays_unless_clearly_beaten(scores: dict[str, Accuracy], current: str | None, chosen: str) -> None:
    assert choose(scores, current) == chosen


def test_without_scores_there_is_no_champion() -> None:
    with pytest.raises(InvalidInput, match="no model has a score"):
        choose({"a": scored(None, None)}, "a")


# calendar and the models' names


def test_holidays_follow_the_zone() -> None:
    index = pd.date_range("2014-12-24T13:00Z", periods=48, freq="h")  # 25 December begins in Melbourne
    assert holiday_flags(index, ZONE).sum() == 48
    assert holiday_flags(index, "UTC").sum() == 0
    assert holiday_flags(index, "UTC", "de").sum() == 37  # from midnight UTC of the 25th on
    cup_day = pd.date_range("2014-11-04T00:00", periods=24, freq="h", tz=ZONE).tz_convert("UTC")
    assert holiday_flags(cup_day, ZONE).all()
    assert not holiday_flags(cup_day, "Australia/Sydney").any()
    chuseok = pd.date_range("2026-09-25T00:00", periods=24, freq="h", tz="Asia/Seoul").tz_convert("UTC")
    assert holiday_flags(chuseok, "Asia/Seoul").all()


def test_an_unknown_country_is_refused_only_where_it_was_named() -> None:
    index = pd.date_range("2014-12-24T13:00Z", periods=2, freq="h")
    with pytest.raises(InvalidInput, match="no holidays are known of XX"):
        holiday_flags(index, "UTC", "XX")
    assert holiday_flags(index, "Antarctica/Troll").sum() == 0
    with pytest.raises(InvalidInput, match="not an IANA"):
        holiday_flags(index, "Mars/Base")


def test_a_holiday_column_of_the_users_own_stays() -> None:
    index = pd.date_range("2014-12-24T13:00Z", periods=3, freq="h")
    own = pd.DataFrame({"holiday": [0.5, 0.5, 0.5]}, index=index)
    assert with_holidays(own, index, ZONE)["holiday"].tolist() == [0.5] * 3
    weather = pd.DataFrame({"temperature": [1.0, 2.0]}, index=index[:2])
    both = with_holidays(weather, index, ZONE)
    assert both["holiday"].tolist() == [1.0] * 3
    assert both["temperature"].isna().tolist() == [False, False, True]
    assert list(with_holidays(None, index, ZONE).columns) == ["holiday"]


@pytest.mark.parametrize("name", ["seasonal_naive", "daily_naive", "similar_day"])
def test_simple_models_survive_their_text_and_ignore_what_comes_later(name: str) -> None:
    history = load(30)
    origin = datetime(2013, 9, 25, 14, tzinfo=UTC)
    past = history[history.index < pd.Timestamp(origin)]
    fitted = model_named(name).fit(past, None, timezone=ZONE, seed=1)
    again = fitted_from_text(fitted.to_text())
    assert again.digest == fitted.digest
    spiked = history.where(history.index < pd.Timestamp(origin), 1e9)
    one, other = fitted.predict(past, None, origin, 48), again.predict(spiked, None, origin, 48)
    assert np.array_equal(one.frame().to_numpy(), other.frame().to_numpy())
    assert one.model == name
    assert one.rung == "champion"


def test_unknown_models_are_refused_and_missing_ones_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from energy_cloud_dagster.domain.forecasting.models import registry

    with pytest.raises(InvalidInput, match="no model is called 'crystal_ball'"):
        models_named(["crystal_ball"])
    monkeypatch.setitem(registry.MODELS, "lstm", ("no_such_module", "LSTM", "FittedLSTM"))
    found, left_out = models_named(["similar_day", "lstm", "similar_day"])
    assert [model.name for model in found] == ["similar_day"]
    assert len(left_out) == 1
    assert "lstm is not installed" in left_out[0]
