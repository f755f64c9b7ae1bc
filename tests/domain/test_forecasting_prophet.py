"""Prophet: the same text every time, equal to the package, quiet, and better than last week on measured load."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting import (
    Fitted,
    FittedProphet,
    ProphetModel,
    accuracy,
    fitted_from_text,
    ladder,
    seasonal_naive,
    temperature_outlook,
)
from energy_cloud_dagster.domain.forecasting.models import prophet_model as module
from energy_cloud_dagster.domain.forecasting.models import prophet_terms
from energy_cloud_dagster.sample_data import files

ZONE = "Australia/Melbourne"  # its clock changes: the wall time jumps and repeats
ORIGIN = datetime(2026, 4, 20, 14, tzinfo=UTC)


def community(days: int = 35, seed: int = 1) -> tuple[pd.Series, pd.DataFrame]:
    """Load of a daily and weekly shape that heats below 16 °C, and the temperature, before ``ORIGIN``."""
    index = pd.date_range(end=pd.Timestamp(ORIGIN) - pd.Timedelta(hours=1), periods=days * 24, freq="h")
    generator = np.random.default_rng(seed)
    hours = index.tz_convert(ZONE).hour.to_numpy()
    working = index.tz_convert(ZONE).day_of_week.to_numpy() < 5
    fronts = 13 + 4 * np.sin(np.arange(days) / 3) + generator.normal(0, 0.5, days)
    weather = np.repeat(fronts, 24) + 4 * np.sin((hours - 9) * np.pi / 12)
    load = 500 + 80 * np.sin((hours - 8) * np.pi / 12) * (0.4 + working) + 20 * np.maximum(16 - weather, 0)
    load += generator.normal(0, 10, len(index))
    return pd.Series(load, index=index), pd.DataFrame({"temperature": weather}, index=index)


@pytest.fixture(scope="module")
def fitted() -> FittedProphet:
    return ProphetModel().fit(*community(), timezone=ZONE, seed=1)


def ahead(horizon: int = 24) -> pd.DataFrame | None:
    return temperature_outlook(community()[1]["temperature"], origin=ORIGIN, horizon=horizon).regressors


def test_it_learns_the_shape(fitted: FittedProphet) -> None:
    assert isinstance(fitted, Fitted)
    history, regressors = community()
    assert fitted.train_start == history.index[0]
    assert fitted.train_end == ORIGIN
    slopes = {name: coefficient for name, coefficient, _ in fitted.columns}
    assert slopes["heating"] + slopes["heating_day"] == pytest.approx(200, abs=20)  # 20 per degree, in tens of degrees
    inside = fitted.evaluate(
        pd.DatetimeIndex(history.index),
        prophet_terms.regression_columns(regressors, ZONE, yearly=False),
    )
    assert np.abs(inside - history).mean() < 15


def test_the_evaluation_is_the_packages_own() -> None:
    """Level, Fourier terms by kind of day over a change of clocks, and regressors agree with ``Prophet.predict``."""
    history, regressors = community()
    index = pd.DatetimeIndex(history.index)
    columns = prophet_terms.regression_columns(regressors, ZONE, yearly=True)
    table = module._table(index, columns, prophet_terms.conditions(index, ZONE), ZONE)
    seasons = (*prophet_terms.MEDIUM, prophet_terms.YEARLY)
    package = module._package_fit(table.assign(y=history.to_numpy()), seasons, tuple(columns), 1)
    level, seasonal, coefficients = module._coefficients(package, seasons, tuple(columns))
    ours = FittedProphet(
        timezone=ZONE,
        train_start=index[0].to_pydatetime(),
        train_end=ORIGIN,
        regressors=("temperature",),
        seasons=seasons,
        level=level,
        seasonal=seasonal,
        columns=tuple((name, value, None) for name, value in coefficients.items()),
        lower=(0.0,) * 24,
        upper=(0.0,) * 24,
        floor=None,
    ).evaluate(index, columns)
    # The package sorts by wall time; where the clock was set back two rows share theirs, so they are matched by row.
    theirs = package.predict(table.assign(row=range(len(table))))
    rows = package.setup_dataframe(table.assign(row=range(len(table))))["row"].to_numpy()
    np.testing.assert_allclose(theirs["yhat"].to_numpy(), ours[rows], rtol=1e-9)


def test_the_same_input_gives_the_same_text_here_and_in_another_process(fitted: FittedProphet) -> None:
    again = ProphetModel().fit(*community(), timezone=ZONE, seed=1)
    assert again.to_text() == fitted.to_text()
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_forecasting_prophet as here\n"
        "print(here.ProphetModel().fit(*here.community(), timezone=here.ZONE, seed=1).digest)"
    )
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert other.stdout.strip() == fitted.digest
    assert ProphetModel().fit(*community(seed=2), timezone=ZONE, seed=1).digest != fitted.digest


def test_a_fit_is_quiet_and_leaves_the_loggers_as_they_were(capfd: pytest.CaptureFixture[str]) -> None:
    ProphetModel().fit(*community(days=15), timezone=ZONE, seed=1)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""
    assert not logging.getLogger("cmdstanpy").disabled


def test_it_survives_its_text(fitted: FittedProphet) -> None:
    read = fitted_from_text(fitted.to_text())
    assert read == fitted
    assert read.digest == fitted.digest
    one, other = (model.predict(community()[0], ahead(), ORIGIN, 24) for model in (fitted, read))
    np.testing.assert_array_equal(one.frame().to_numpy(), other.frame().to_numpy())
    assert len(fitted.to_text()) < 250_000


def test_a_text_of_format_1_forecasts_as_it_did() -> None:
    """Stored before there was a correction: weekends apart, degree-hours, bands by hour."""
    old = {
        "model": "prophet",
        "format": 1,
        "timezone": "UTC",
        "train_start": "2026-03-01T00:00:00+00:00",
        "train_end": "2026-04-20T00:00:00+00:00",
        "regressors": ["holiday", "temperature"],
        "seasons": [["daily_workday", 1.0, 1, "workday"], ["daily_day_off", 1.0, 1, "day_off"]],
        "level": 100.0,
        "seasonal": [0.0, 10.0, 0.0, 1.0],
        "columns": [["heating", 20.0, 1.0], ["holiday", 3.0, None]],
        "lower": [-2.0] * 24,
        "upper": [4.0] * 24,
        "floor": 0.0,
    }
    monday = datetime(2026, 4, 20, tzinfo=UTC)
    weather = pd.DataFrame(
        {"temperature": 11.0, "holiday": 1.0}, index=pd.date_range(monday, periods=24, freq="h", tz="UTC")
    )
    weather.iloc[12:, 0] = -30.0
    one = fitted_from_text(json.dumps(old)).predict(community()[0], weather, monday, 24)
    workday = 10 * np.cos(2 * np.pi * np.arange(24) / 24)  # a holiday kept the shape of a workday then
    heating = np.where(np.arange(24) < 12, 0.5, 1.0)
    np.testing.assert_allclose(one.p50, 100 + workday + 20 * heating + 3)
    np.testing.assert_allclose(one.p90 - one.p10, 6)
    assert one.notes == ()
    with pytest.raises(InvalidInput, match="format 1 or 2; fit it again"):
        fitted_from_text(json.dumps(old | {"format": 3}))


def test_linear_algebra_finds_what_stan_finds(fitted: FittedProphet) -> None:
    other = ProphetModel(search="algebra").fit(*community(), timezone=ZONE, seed=1)
    assert other.level == pytest.approx(fitted.level, rel=1e-5)
    np.testing.assert_allclose(other.seasonal, fitted.seasonal, atol=1e-4 * fitted.level)
    one, two = (model.predict(community()[0], ahead(), ORIGIN, 24) for model in (fitted, other))
    np.testing.assert_allclose(one.p50, two.p50, rtol=1e-5)


def test_no_prophet_is_imported_to_forecast(fitted: FittedProphet) -> None:
    script = (
        "import sys\nfrom energy_cloud_dagster.domain.forecasting import fitted_from_text\n"
        "fitted_from_text(sys.stdin.read())\n"
        "assert not {'prophet', 'cmdstanpy', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], input=fitted.to_text(), text=True, check=True, timeout=60)


def test_the_origin_bounds_what_matters(fitted: FittedProphet) -> None:
    history, regressors = community()
    future = pd.date_range(ORIGIN, periods=100, freq="h")
    spiked = pd.concat([history, pd.Series(1e9, index=future)])
    weather = pd.concat([regressors["temperature"], pd.Series(60.0, index=future)])
    outlook = temperature_outlook(weather, origin=ORIGIN, horizon=24).regressors
    one = ladder(fitted, history, ahead(), ORIGIN, 24, ZONE)
    other = ladder(fitted, spiked, outlook, ORIGIN, 24, ZONE)
    assert one.rung == "champion"
    np.testing.assert_array_equal(one.frame().to_numpy(), other.frame().to_numpy())
    with pytest.raises(InvalidInput, match="after the origin"):
        fitted.predict(history, ahead(), ORIGIN - timedelta(hours=1), 24)


def test_missing_regressors_fall_to_the_similar_day(fitted: FittedProphet) -> None:
    history = community()[0]
    assert "needs the regressors temperature" in ladder(fitted, history, None, ORIGIN, 24, ZONE).notes[0]
    thin = ahead()
    assert thin is not None
    one = ladder(fitted, history, thin.iloc[:-3], ORIGIN, 24, ZONE)
    assert one.rung == "similar_day"
    assert "a regressor is missing in 3 of 24 hours" in one.notes[0]


def test_yesterday_counts() -> None:
    """Where deviations last for days, one before the origin is expected to go on, and the less the further ahead."""
    history, regressors = community(days=42)
    drift = pd.Series(np.random.default_rng(5).normal(0, 8, len(history)), index=history.index)
    history = history + drift.ewm(halflife=24).mean() * 24
    fitted = ProphetModel(search="algebra").fit(history, regressors, timezone=ZONE, seed=1)
    higher = history.copy()
    higher.iloc[-48:] += 60
    rise = fitted.predict(higher, ahead(72), ORIGIN, 72).p50 - fitted.predict(history, ahead(72), ORIGIN, 72).p50
    assert rise[:6].mean() > 15
    assert rise[48:].mean() < rise[:6].mean() < 75


def test_without_the_last_week_the_regression_stands_alone(fitted: FittedProphet) -> None:
    history, future = community()[0], ahead()
    assert future is not None
    alone = replace(fitted, correction=None).predict(history, future, ORIGIN, 24)
    for recent, weather in ((history.iloc[:0], future), (history, future.iloc[-24:]), (history.iloc[:-168], future)):
        one = fitted.predict(recent, weather, ORIGIN, 24)
        assert one.notes == ("too little of the last week is known to correct the regression",)
        assert np.isfinite(one.p50).all()
    np.testing.assert_array_equal(fitted.predict(history.iloc[:0], future, ORIGIN, 24).p50, alone.p50)


@settings(max_examples=25, deadline=None)
@given(
    horizon=st.integers(1, 336),
    back=st.integers(0, 200),
    gap=st.tuples(st.integers(0, 300), st.integers(0, 150)),
    spike=st.floats(-1e6, 1e6),
)
def test_any_hour_horizon_and_fault_of_the_past_is_answered(
    fitted: FittedProphet, horizon: int, back: int, gap: tuple[int, int], spike: float
) -> None:
    """Gaps in the load and the weather, a spike, an origin at any hour: a finite forecast whose quantiles do not cross.

    (``Forecast`` itself refuses anything else.)
    """
    later = ORIGIN + timedelta(hours=back)
    recent = community()[0].shift(freq=timedelta(hours=back))
    weather = pd.DataFrame(
        {"temperature": 12.0}, index=pd.date_range(recent.index[-400], periods=400 + horizon, freq="h")
    )
    weather.iloc[sum(gap) // 2 : sum(gap) // 2 + 50] = np.nan
    recent.iloc[-gap[0] - gap[1] - 1 : len(recent) - gap[0] - 1] = np.nan
    recent.iloc[-30] = spike
    one = fitted.predict(recent, weather, later, horizon)
    assert one.horizon == horizon
    assert one.p50.max() < 20 * community()[0].max()


@pytest.mark.parametrize("shape", ["constant", "zeros", "zeros by night", "negative", "spikes", "weeks missing"])
def test_odd_series_are_fitted(shape: str) -> None:
    history, regressors = community(days=35)
    night = history.index.hour < 8
    odd = {
        "constant": history * 0 + 5,
        "zeros": history * 0,
        "zeros by night": history.mask(night, 0.0),
        "negative": history - 600,
        "spikes": history.mask(np.arange(len(history)) % 301 == 7, 1e7),
        "weeks missing": history.drop(history.index[200:500]),
    }[shape]
    fitted = ProphetModel(search="algebra").fit(odd, regressors.assign(holiday=0.0), timezone=ZONE, seed=1)
    future = ahead()
    assert future is not None
    one = fitted.predict(odd, future.assign(holiday=0.0), ORIGIN, 24)
    if shape in ("constant", "zeros"):
        np.testing.assert_allclose(one.p50, odd.iloc[0], atol=0.01)
    if shape == "negative":
        assert one.p50.min() < 0


def test_an_old_model_says_so(fitted: FittedProphet) -> None:
    later = ORIGIN + timedelta(days=20)
    recent = community()[0].shift(freq=timedelta(days=20))
    weather = pd.DataFrame({"temperature": 12.0}, index=pd.date_range(recent.index[-200], periods=224, freq="h"))
    assert fitted.predict(recent, weather, later, 24).notes == ("the model was fitted 20 days before",)


def test_heat_never_seen_is_not_extrapolated_without_bound(fitted: FittedProphet) -> None:
    def at(temperature: float) -> float:
        weather = pd.DataFrame({"temperature": temperature}, index=pd.date_range(ORIGIN, periods=24, freq="h"))
        return float(fitted.predict(community()[0], weather, ORIGIN, 24).p50.max())

    assert at(200.0) == at(400.0) < 3 * at(15.0)


@pytest.mark.parametrize("days", [0, 5, 13])
def test_a_short_history_is_refused(days: int) -> None:
    history, regressors = community(days=max(days, 1))
    with pytest.raises(InvalidInput, match="prophet needs 336 hours"):
        ProphetModel().fit(history.iloc[: days * 24], regressors, timezone=ZONE, seed=1)


def test_gaps_constants_and_other_columns_are_taken() -> None:
    history, regressors = community(days=21)
    history = history.drop(history.index[50:60])
    flagged = regressors.assign(holiday=(np.arange(len(regressors)) // 24 % 7 == 3).astype(float))
    history += 100 * flagged["holiday"].reindex(history.index)
    fitted = ProphetModel().fit(history, flagged, timezone=ZONE, seed=1)
    index = pd.DatetimeIndex(history.index)
    columns = prophet_terms.regression_columns(flagged.loc[index], ZONE, yearly=False)
    on_holidays = (fitted.evaluate(index, columns) - history)[columns["holiday"] > 0]
    assert abs(on_holidays.mean()) < 2
    constant = ProphetModel().fit(pd.Series(5.0, index=history.index), None, timezone=ZONE, seed=1)
    one = constant.predict(history, None, ORIGIN, 24)
    np.testing.assert_allclose(one.p50, 5.0, atol=0.01)
    assert constant.regressors == ()


# -- measured load


@pytest.mark.parametrize(("weeks", "number", "most_mape"), [(8, 4, 5.5), (52, 2, 5.5)])
def test_prophet_beats_last_week_on_victoria(weeks: int, number: int, most_mape: float) -> None:
    """Days spread over a year, temperature by its outlook, as the models would have run."""
    hours = files.read_values(files.FOLDER / files.REGION.name, files.REGION.columns).resample("1h").mean()
    load, weather = hours["demand_mw"], hours["temperature_c"].rename("temperature")
    scores: dict[str, list[float]] = {"prophet": [], "naive": [], "mape": [], "alone": []}
    origins = pd.date_range("2013-02-03", "2014-01-20", periods=number).normalize().tz_localize(ZONE).tz_convert("UTC")
    for origin in origins:
        history = load[(load.index < origin) & (load.index >= origin - pd.Timedelta(weeks=weeks))]
        fitted = ProphetModel(search="algebra").fit(history, weather.to_frame(), timezone=ZONE, seed=1)
        outlook = temperature_outlook(weather, origin=origin, horizon=24)
        one = accuracy(load, fitted.predict(history, outlook.regressors, origin, 24), history=history)
        other = accuracy(load, seasonal_naive(history, origin=origin, horizon=24, timezone=ZONE), history=history)
        scores["prophet"].append(one.mase or 0)
        scores["naive"].append(other.mase or 0)
        scores["mape"].append(one.mape or 0)
        alone = replace(fitted, correction=None).predict(history, outlook.regressors, origin, 24)
        scores["alone"].append(accuracy(load, alone, history=history).mape or 0)
    assert np.mean(scores["prophet"]) < np.mean(scores["naive"])
    assert np.mean(scores["mape"]) < most_mape
    assert np.mean(scores["mape"]) < np.mean(scores["alone"])
