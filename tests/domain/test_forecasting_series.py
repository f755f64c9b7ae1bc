"""Series, the forecast itself, and how accuracy is measured."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting import Forecast, accuracy, hourly, temperature_outlook, weekly_scale
from energy_cloud_dagster.domain.forecasting.series import (
    days_off,
    future_index,
    hourly_frame,
    hours_of_day,
    residual_bands,
)
from energy_cloud_dagster.domain.forecasting.weather import forecast_outlook

START = datetime(2026, 3, 2, tzinfo=UTC)


def made(values: list[float], start: datetime = START) -> pd.Series:
    return pd.Series(values, index=pd.date_range(start, periods=len(values), freq="h"), dtype=float)


def forecast(p10: list[float], p50: list[float], p90: list[float], start: datetime = START) -> Forecast:
    return Forecast(
        future_index(start, len(p50)), np.array(p10), np.array(p50), np.array(p90), model="m", rung="champion"
    )


def test_hourly_orders_and_shows_gaps() -> None:
    series = made([1.0, 2.0, np.inf, 4.0, np.nan]).iloc[[3, 0, 1, 2, 4]]
    grid = hourly(series)
    assert list(grid.index) == list(pd.date_range(START, periods=4, freq="h"))
    np.testing.assert_array_equal(grid.to_numpy(), [1.0, 2.0, np.nan, 4.0])


def test_hourly_takes_any_zone_and_answers_in_utc() -> None:
    series = made([1.0, 2.0]).tz_convert("Asia/Seoul")
    assert str(hourly(series).index.tz) == "UTC"


def test_hourly_drops_everything_from_before_on() -> None:
    assert len(hourly(made([1.0, 2.0, 3.0]), before=START + timedelta(hours=2))) == 2
    assert hourly(made([1.0]), before=START).empty
    assert hourly(made([np.nan])).empty
    assert str(hourly(pd.Series([], dtype=float)).index.tz) == "UTC"


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (pd.DatetimeIndex(["2026-03-02T00:00Z", "2026-03-02T00:00Z"]), "1 repeated hours"),
        (pd.DatetimeIndex(["2026-03-02T00:00", "2026-03-02T01:00"]), "time zone"),
        (pd.DatetimeIndex(["2026-03-02T00:00Z", "2026-03-02T00:30Z"]), "not a whole hour"),
        (pd.DatetimeIndex(["2026-03-02T00:00Z", None]), "without a time"),
        (pd.Index([0, 1]), "DatetimeIndex"),
    ],
)
def test_hourly_refuses(index: pd.Index, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        hourly(pd.Series([1.0, 2.0], index=index))


def test_words_are_not_numbers() -> None:
    with pytest.raises(InvalidInput, match="load has a value that is not a number"):
        hourly(pd.Series(["1", "many"], index=pd.date_range(START, periods=2, freq="h")), what="load")


def test_frame_on_an_index() -> None:
    frame = pd.DataFrame({"temperature": [1.0, np.inf]}, index=pd.date_range(START, periods=2, freq="h"))
    on = hourly_frame(frame, pd.date_range(START, periods=3, freq="h"))
    np.testing.assert_array_equal(on["temperature"].to_numpy(), [1.0, np.nan, np.nan])


@pytest.mark.parametrize(
    ("origin", "horizon", "words"),
    [
        (datetime(2026, 3, 2, tzinfo=UTC).replace(tzinfo=None), 24, "no offset"),
        (START + timedelta(minutes=5), 24, "whole hour"),
        (START, 0, "horizon is 0"),
        (START, 10_000, "horizon is 10000"),
    ],
)
def test_future_index_refuses(origin: datetime, horizon: int, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        future_index(origin, horizon)


def test_local_hours_and_days_off() -> None:
    index = future_index(datetime(2026, 3, 6, 14, tzinfo=timezone(timedelta(hours=0))), 2)
    assert list(hours_of_day(index, "Asia/Seoul")) == [23, 0]
    assert list(days_off(index, "Asia/Seoul")) == [False, True]
    with pytest.raises(InvalidInput, match="not an IANA time zone"):
        hours_of_day(index, "Asia/Atlantis")


def test_bands_fall_back_to_all_hours() -> None:
    residuals = np.concatenate([np.linspace(-1, 1, 11), [9.0, np.nan]])
    hours = np.array([5] * 11 + [6, 6])
    lower, upper = residual_bands(residuals, hours)
    assert lower[5] == pytest.approx(-0.8)
    assert upper[5] == pytest.approx(0.8)
    assert lower[6] == lower[7] == pytest.approx(np.quantile(residuals[:12], 0.1))
    assert not residual_bands(np.array([np.nan]), np.array([0]))[0].any()


@given(hnp.arrays(float, st.integers(1, 60), elements=st.floats(-1e6, 1e6)))
@settings(max_examples=50)
def test_bands_hold_their_centre(residuals: np.ndarray) -> None:
    lower, upper = residual_bands(residuals, np.arange(len(residuals)) % 24)
    assert (lower <= 0).all()
    assert (upper >= 0).all()


def test_a_forecast_keeps_its_promises() -> None:
    one = forecast([0.0, 1.0], [1.0, 1.0], [2.0, 1.0])
    assert one.origin == START
    assert one.horizon == 2
    assert list(one.frame().columns) == ["p10", "p50", "p90"]
    assert one.with_notes("a", "b").with_notes("b", "c").notes == ("a", "b", "c")
    with pytest.raises(ValueError, match="read-only"):
        one.p50[0] = 3.0


def test_a_forecast_refuses_a_breach() -> None:
    index = future_index(START, 2)
    ones = np.ones(2)
    with pytest.raises(InvalidInput, match="cross"):
        forecast([2.0], [1.0], [3.0])
    with pytest.raises(InvalidInput, match="not finite"):
        forecast([0.0], [1.0], [np.inf])
    with pytest.raises(InvalidInput, match="shape"):
        Forecast(index, np.ones(3), ones, ones, model="m", rung="champion")
    with pytest.raises(InvalidInput, match="without gaps"):
        Forecast(index.delete(0).append(index[:1]), ones, ones, ones, model="m", rung="champion")
    with pytest.raises(InvalidInput, match="UTC index"):
        Forecast(index.tz_convert("Asia/Seoul"), ones, ones, ones, model="m", rung="champion")


# -- accuracy


def test_accuracy_by_hand() -> None:
    actual = made([10.0, 20.0, 0.0, np.nan, 40.0])
    one = forecast([8, 18, 0, 0, 45], [11, 18, 1, 7, 50], [12, 19, 2, 9, 60])
    history = made([1.0] * 168 + [3.0] * 10, START - timedelta(hours=178))
    score = accuracy(actual, one, history=history)
    assert score.hours == 4
    assert score.mae == pytest.approx((1 + 2 + 1 + 10) / 4)
    assert score.bias == pytest.approx((1 - 2 + 1 + 10) / 4)
    assert score.rmse == pytest.approx(np.sqrt((1 + 4 + 1 + 100) / 4))
    assert score.mape == pytest.approx(100 * (0.1 + 0.1 + 0.25) / 3)  # the hour of zero does not count
    assert score.mase == pytest.approx(3.5 / 2)
    assert score.coverage == pytest.approx(2 / 4)  # 20 lies above its P90, 40 below its P10
    p10 = (0.1 * 2 + 0.1 * 2 + 0 + 0.9 * 5) / 4
    p50 = (1 + 2 + 1 + 10) / 8
    p90 = (0.1 * 2 + 0.9 * 1 + 0.1 * 2 + 0.1 * 20) / 4
    assert score.pinball == pytest.approx((p10 + p50 + p90) / 3)
    assert score.as_dict()["hours"] == 4


def test_accuracy_without_a_single_known_hour() -> None:
    one = forecast([1.0], [1.0], [1.0])
    assert accuracy(made([np.nan]), one).as_dict() == dict.fromkeys(
        ("mape", "mae", "rmse", "mase", "bias", "pinball", "coverage")
    ) | {"hours": 0}
    assert accuracy(made([1.0]), []).hours == 0


def test_accuracy_of_zeros_has_no_percentage_and_no_scale() -> None:
    score = accuracy(made([0.0, 0.0]), forecast([0, 0], [1, 0], [1, 0]), history=made([5.0] * 400))
    assert score.mape is None
    assert score.mase is None
    assert score.mae == 0.5
    assert weekly_scale(made([1.0, 2.0])) is None


def test_several_forecasts_are_pooled() -> None:
    actual = made([1.0, 2.0])
    first, second = forecast([1], [1], [1]), forecast([4], [4], [4], START + timedelta(hours=1))
    assert accuracy(actual, [first, second]).mae == 1.0


# -- temperature


def test_outlook_is_the_same_hour_of_the_day_before() -> None:
    history = made([float(hour) for hour in range(48)], START - timedelta(hours=48))
    outlook = temperature_outlook(history, origin=START, horizon=30)
    assert outlook.regressors is not None
    ahead = outlook.regressors["temperature"].loc[START:]
    np.testing.assert_array_equal(ahead, [*range(24, 48), *range(24, 30)])
    past = outlook.regressors["temperature"].iloc[:360]
    assert past.index[0] == START - timedelta(hours=360)
    np.testing.assert_array_equal(past, [*[np.nan] * 312, *range(48)])
    assert len(outlook.notes) == 1
    assert "diurnal persistence" in outlook.notes[0]


def test_outlook_looks_back_over_a_gap_then_takes_the_last_value() -> None:
    history = made([float(hour) for hour in range(48)], START - timedelta(hours=48))
    history.iloc[30] = np.nan
    outlook = temperature_outlook(history, origin=START, horizon=24)
    assert outlook.regressors is not None
    assert outlook.regressors["temperature"].loc[START + timedelta(hours=6)] == 6.0
    short = temperature_outlook(history.iloc[-2:], origin=START, horizon=24)
    assert short.regressors is not None
    assert short.regressors["temperature"].iloc[-3:].tolist() == [47.0, 46.0, 47.0]
    assert "22 of 24 hours" in short.notes[1]


def test_a_weather_forecast_is_moved_to_the_level_of_the_station() -> None:
    """The forecast says two degrees less than the station measured all week; the hours ahead are moved by as much."""
    measured = made([20.0] * 400, START - timedelta(hours=400))
    measured.iloc[-3] = np.nan
    foreseen = made([18.0] * 200 + [25.0] * 24, START - timedelta(hours=200))
    outlook = forecast_outlook(measured, foreseen, origin=START, horizon=24)
    assert outlook is not None
    assert outlook.regressors is not None
    temperature = outlook.regressors["temperature"]
    assert temperature.loc[START:].tolist() == [27.0] * 24
    assert temperature.loc[: START - timedelta(hours=1)].tolist() == [20.0] * 360, (
        "measured, and filled where it is not"
    )
    assert outlook.notes == ("temperature ahead by weather forecast, moved by +2.0 °C to the station's level",)


def test_a_weather_forecast_is_taken_as_it_is_where_nothing_is_measured_and_not_at_all_with_a_gap() -> None:
    foreseen = made([18.0] * 48, START - timedelta(hours=24))
    outlook = forecast_outlook(made([]), foreseen, origin=START, horizon=24)
    assert outlook is not None
    assert outlook.regressors is not None
    assert outlook.regressors["temperature"].iloc[-48:].tolist() == [18.0] * 48
    assert forecast_outlook(made([]), foreseen, origin=START, horizon=25) is None


def test_outlook_of_nothing() -> None:
    outlook = temperature_outlook(made([1.0]), origin=START, horizon=2)
    assert outlook.regressors is None
    assert "no temperature" in outlook.notes[0]
