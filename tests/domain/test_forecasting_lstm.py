"""The LSTM: no look-ahead, the same text every time, NumPy says what JAX trained, and gaps do not stop it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting import Fitted, SeasonalNaive, accuracy
from energy_cloud_dagster.domain.forecasting.models import lstm_network
from energy_cloud_dagster.domain.forecasting.models import lstm_training as training
from energy_cloud_dagster.domain.forecasting.models.lstm import LSTM, PLAN, FittedLSTM
from energy_cloud_dagster.domain.forecasting.models.lstm_features import LOOK_BACK, REACH, filled, scale_of, table

ZONE = "Australia/Melbourne"  # its clock changes: the wall time jumps and repeats
START = pd.Timestamp("2026-01-05T13:00Z")
DAYS = 100  # over the change of 5 April
#: Small enough for a test, long enough to learn the synthetic load. Compiling costs most: all tests share its shapes.
SMALL = replace(PLAN, hidden=16, head=16, batch=64, round_steps=16, rounds=12, last_steps=16, warm_steps=16, rate=1e-2)
HOUR = pd.Timedelta(hours=1)


def community(days: int = DAYS, seed: int = 1) -> tuple[pd.Series, pd.DataFrame]:
    """Load of a daily and weekly shape that heats below 16 °C; temperature and a holiday flag, two weeks further."""
    index = pd.date_range(START, periods=(days + 14) * 24, freq="h")
    generator = np.random.default_rng(seed)
    wall = index.tz_convert(ZONE)
    holiday = np.isin(wall.strftime("%m-%d"), ["01-26", "04-03"])
    working = (wall.day_of_week.to_numpy() < 5) & ~holiday
    hours = wall.hour.to_numpy()
    fronts = np.repeat(13 + 4 * np.sin(np.arange(days + 14) / 3) + generator.normal(0, 0.5, days + 14), 24)
    weather = fronts + 4 * np.sin((hours - 9) * np.pi / 12)
    load = 500 + 80 * np.sin((hours - 8) * np.pi / 12) * (0.4 + working) + 20 * np.maximum(16 - weather, 0)
    load += generator.normal(0, 10, len(index))
    frame = pd.DataFrame({"temperature": weather, "holiday": holiday.astype(float)}, index=index)
    return pd.Series(load, index=index).iloc[: days * 24], frame


LOAD, REGRESSORS = community()
FIT_END = START + (DAYS - 10) * 24 * HOUR


def fit(plan: training.Plan = SMALL, seed: int = 1) -> FittedLSTM:
    known = REGRESSORS[REGRESSORS.index < FIT_END]
    return LSTM(plan=plan, members=1).fit(LOAD[LOAD.index < FIT_END], known, timezone=ZONE, seed=seed)


@pytest.fixture(scope="module")
def fitted() -> FittedLSTM:
    return fit()


def before(origin: pd.Timestamp, series: pd.Series = LOAD) -> pd.Series:
    return series[series.index < origin]


def test_it_beats_last_week_on_days_that_it_never_saw(fitted: FittedLSTM) -> None:
    assert isinstance(fitted, Fitted)
    naive = SeasonalNaive().fit(before(FIT_END), None, timezone=ZONE, seed=0)
    origins = [FIT_END + day * 24 * HOUR for day in range(10)]
    own, others = (
        accuracy(LOAD, [model.predict(before(at), REGRESSORS, at.to_pydatetime(), 24) for at in origins])
        for model in (fitted, naive)
    )
    assert own.mae is not None
    assert others.mae is not None
    assert own.mae < 0.6 * others.mae
    assert own.coverage is not None
    assert own.coverage > 0.4


def test_numpy_says_what_jax_trained() -> None:
    generator = np.random.default_rng(3)
    weights = training.first_weights(9, 14, SMALL, generator)
    weights = {name: generator.normal(0, 0.4, array.shape).astype(np.float32) for name, array in weights.items()}
    past = generator.normal(size=(LOOK_BACK, 9)).astype(np.float32)
    ahead = generator.normal(size=(24, 14)).astype(np.float32)
    mask = np.ones((1, SMALL.hidden), dtype=np.float32)
    theirs = np.asarray(training.network(weights, past[:, None], ahead[:, None], mask))[:, 0]  # type: ignore[arg-type]
    ours = lstm_network.network([weights], past, ahead)
    np.testing.assert_allclose(ours, theirs, atol=2e-5)
    assert (np.diff(ours, axis=1) > 0).all()
    other = {name: -array for name, array in weights.items()}
    both = lstm_network.network([weights, other], past, ahead)
    np.testing.assert_allclose(both, (ours + lstm_network.network([other], past, ahead)) / 2, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(REACH, len(LOAD) - 24), st.integers(0, 2**32 - 1))
def test_no_input_of_a_day_ahead_depends_on_its_values(origin: int, seed: int) -> None:
    """Whatever lies at or after the origin, the inputs are the same: training tables cannot leak."""
    values = LOAD.to_numpy(dtype=float).copy()
    index = pd.DatetimeIndex(LOAD.index)
    columns = filled(REGRESSORS.reindex(index))
    scale = scale_of(values, columns, index, ZONE)
    whole = table(values, columns, index, ZONE, scale)
    blanked = values.copy()
    blanked[origin:] = np.where(np.random.default_rng(seed).random(len(values) - origin) < 0.5, np.nan, 1e6)
    other = table(blanked, columns, index, ZONE, scale)
    day = slice(origin, origin + 24)
    # A like hour that is unknown is replaced by another; none of a day ahead may be.
    np.testing.assert_array_equal(whole.base[day], other.base[day])
    np.testing.assert_array_equal(whole.ahead[day], other.ahead[day])
    np.testing.assert_array_equal(whole.past[:origin], other.past[:origin])
    np.testing.assert_array_equal(whole.origin[origin], other.origin[origin])
    assert whole.level[origin] == other.level[origin]


@pytest.mark.parametrize("hour", [0, 5, 17])
def test_prediction_sees_the_inputs_of_training(fitted: FittedLSTM, hour: int) -> None:
    """Cutting the last four weeks out of the history changes nothing that the network sees."""
    origin = FIT_END + hour * HOUR
    row = int((origin - START) / HOUR)
    index = pd.DatetimeIndex(LOAD.index)
    whole = table(LOAD.to_numpy(dtype=float), filled(REGRESSORS.reindex(index)), index, ZONE, fitted.scale)
    cut = slice(row - REACH, row + 24)
    frame = REGRESSORS.reindex(index[cut])
    values = LOAD.to_numpy(dtype=float)[cut].copy()
    values[REACH:] = np.nan
    part = table(values, filled(frame), index[cut], ZONE, fitted.scale)
    np.testing.assert_allclose(part.past[REACH - LOOK_BACK : REACH], whole.past[row - LOOK_BACK : row], atol=1e-5)
    np.testing.assert_allclose(part.ahead[REACH:], whole.ahead[row : row + 24], atol=1e-5)
    np.testing.assert_allclose(part.origin[REACH], whole.origin[row], atol=1e-5)


def test_a_spike_in_the_future_moves_nothing(fitted: FittedLSTM) -> None:
    spiked = LOAD.copy()
    spiked[spiked.index >= FIT_END] = 1e9
    plain = fitted.predict(before(FIT_END), REGRESSORS, FIT_END.to_pydatetime(), 30)
    other = fitted.predict(spiked, REGRESSORS, FIT_END.to_pydatetime(), 30)
    np.testing.assert_array_equal(plain.frame(), other.frame())


def test_the_same_arguments_give_the_same_text() -> None:
    tiny = replace(SMALL, rounds=1)
    first, again, other = fit(tiny), fit(tiny), fit(tiny, seed=2)
    assert first.digest == again.digest
    assert first.digest != other.digest


def test_the_text_is_all_there_is(fitted: FittedLSTM) -> None:
    text = fitted.to_text()
    restored = FittedLSTM.from_text(text)
    assert restored.to_text() == text
    at = FIT_END.to_pydatetime()
    np.testing.assert_array_equal(
        restored.predict(before(FIT_END), REGRESSORS, at, 24).frame(),
        fitted.predict(before(FIT_END), REGRESSORS, at, 24).frame(),
    )
    for damaged in (
        text.replace('"data":"', '"data":"!', 1),
        text.replace('"spread"', '"width"'),
        text.replace('"format":1', '"format":2'),
        text[:-1],
    ):
        with pytest.raises(InvalidInput):
            FittedLSTM.from_text(damaged)


def test_prediction_needs_no_jax(fitted: FittedLSTM, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("lstm") / "model.json"
    path.write_text(fitted.to_text())
    program = (
        "import sys, pandas as pd; sys.modules['jax'] = sys.modules['optax'] = None\n"
        "from energy_cloud_dagster.domain.forecasting.models.lstm import LSTM, FittedLSTM\n"
        "from energy_cloud_dagster.domain.errors import InvalidInput\n"
        f"model = FittedLSTM.from_text(open({str(path)!r}).read())\n"
        "index = pd.date_range(model.train_end, periods=1000, freq='h') - pd.Timedelta(hours=1000)\n"
        "past = pd.Series([500.0 + i % 24 for i in range(1000)], index=index)\n"
        "ahead = pd.DataFrame({'temperature': 9.0, 'holiday': 0.0}, index=index + pd.Timedelta(hours=1000))\n"
        "print(len(model.predict(past, ahead, model.train_end, 24).index))\n"
        "try: LSTM().fit(past, None, timezone='UTC', seed=1)\n"
        "except InvalidInput as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == "24"
    assert "uv sync --extra lstm" in second


@pytest.mark.parametrize("horizon", [1, 23, 25, 48, 336])
def test_any_horizon_from_any_hour(fitted: FittedLSTM, horizon: int) -> None:
    origin = (FIT_END + 11 * HOUR).to_pydatetime()
    forecast = fitted.predict(LOAD, REGRESSORS, origin, horizon)
    assert forecast.horizon == horizon
    assert forecast.origin == origin
    assert forecast.rung == "champion"
    short = fitted.predict(LOAD, REGRESSORS, origin, min(horizon, 24))
    np.testing.assert_allclose(forecast.p50[:24], short.p50, rtol=1e-6)
    assert 300 < forecast.p50.min() <= forecast.p50.max() < 1000


def test_gaps_in_the_past_do_not_stop_it(fitted: FittedLSTM) -> None:
    at = FIT_END.to_pydatetime()
    whole = fitted.predict(before(FIT_END), REGRESSORS, at, 24)
    holes = before(FIT_END).copy()
    holes.iloc[-10:-4] = np.nan
    holes.iloc[-400:-232] = np.nan  # a week
    regressors = REGRESSORS.copy()
    regressors.loc[FIT_END - 60 * HOUR : FIT_END - 40 * HOUR, "temperature"] = np.nan
    for recent, frame in (
        (holes, REGRESSORS),
        (before(FIT_END), regressors),
        (before(FIT_END), REGRESSORS[REGRESSORS.index >= FIT_END - 24 * HOUR]),
        (before(FIT_END), REGRESSORS[REGRESSORS.index >= FIT_END]),
        (before(FIT_END).iloc[:-5], REGRESSORS),
        (before(FIT_END).iloc[-LOOK_BACK:], REGRESSORS),
    ):
        made = fitted.predict(recent, frame, at, 24)
        assert np.abs(made.p50 / whole.p50 - 1).mean() < 0.1


def test_a_spike_in_the_past_is_not_believed(fitted: FittedLSTM) -> None:
    at = FIT_END.to_pydatetime()
    whole = fitted.predict(before(FIT_END), REGRESSORS, at, 24)
    spiked = before(FIT_END).copy()
    spiked.iloc[[-168, -165, -30]] = [1e9, -1e9, 1e5]
    made = fitted.predict(spiked, REGRESSORS, at, 24)
    assert np.abs(made.p50 / whole.p50 - 1).max() < 0.2
    assert "3 hours before the origin look like faults and were left out" in made.notes


def test_what_it_cannot_answer_is_said(fitted: FittedLSTM) -> None:
    at = FIT_END.to_pydatetime()
    with pytest.raises(InvalidInput, match="temperature"):
        fitted.predict(before(FIT_END), None, at, 24)
    with pytest.raises(InvalidInput, match="missing in 3 of 24"):
        fitted.predict(before(FIT_END), REGRESSORS[REGRESSORS.index < FIT_END + 21 * HOUR], at, 24)
    with pytest.raises(InvalidInput, match="known hours of the last 168; 10"):
        fitted.predict(before(FIT_END).iloc[-10:], REGRESSORS, at, 24)
    with pytest.raises(InvalidInput, match="0 are known, 696 look like faults"):
        fitted.predict(before(FIT_END) * 1000, REGRESSORS, at, 24)
    with pytest.raises(InvalidInput, match="saw hours"):
        fitted.predict(LOAD, REGRESSORS, at - timedelta(days=1), 24)


def test_what_it_cannot_learn_is_said() -> None:
    def refused(series: pd.Series, frame: pd.DataFrame | None, match: str) -> None:
        with pytest.raises(InvalidInput, match=match):
            LSTM(plan=SMALL, members=1).fit(series, frame, timezone=ZONE, seed=1)

    refused(LOAD.iloc[:168], None, "504 known hours; 168")
    refused(LOAD * 0, None, "never changes")
    refused(LOAD, REGRESSORS.assign(humidity=np.nan), "humidity has no value")
    refused(LOAD.iloc[::7], None, "504 known")
    refused(pd.concat([LOAD.iloc[:600:6], LOAD.iloc[600:1800:3], LOAD.iloc[1800::6]]), None, "gaps|known hours")


def test_a_warm_start_goes_on_from_what_was_learned(fitted: FittedLSTM) -> None:
    rounds: list[int] = []
    history, known = LOAD, REGRESSORS[REGRESSORS.index < LOAD.index[-1] + HOUR]
    warm = LSTM(warm=fitted, plan=SMALL).fit(
        history, known, timezone=ZONE, seed=1, told=lambda number, _: rounds.append(number)
    )
    assert rounds == []  # the first leg was left out
    assert warm.train_end == START + DAYS * 24 * HOUR
    assert warm.scale == fitted.scale
    assert warm.digest != fitted.digest
    LSTM(warm=fitted, plan=replace(SMALL, rounds=1), members=1).fit(
        history, known, timezone="UTC", seed=1, told=lambda number, _: rounds.append(number)
    )
    assert rounds == [0]  # other hours: a first fit
    LSTM(warm=replace(fitted, learnt=len(history) // 2), plan=replace(SMALL, rounds=1), members=1).fit(
        history, known, timezone=ZONE, seed=1, told=lambda number, _: rounds.append(number)
    )
    assert rounds == [0, 0]  # twice the history: a first fit


def test_the_base_of_a_holiday_is_the_sunday_before_and_never_the_base_of_a_workday() -> None:
    index = pd.date_range("2026-03-01", periods=50 * 24, freq="h", tz="UTC")
    values = np.asarray(index.day_of_year, dtype=float)
    holiday = np.asarray(index.day_of_year == 96, dtype=float)  # Monday 6 April
    columns = {"holiday": holiday}
    base = table(values, columns, index, "UTC", scale_of(values, columns, index, "UTC")).base
    days = pd.Series(base, index=index.day_of_year)
    assert set(days[96]) == {95.0}
    assert set(days[103]) == {89.0}  # the Monday after looks two weeks back
    assert set(days[104]) == {97.0}


def test_like_hours_are_like_on_the_clock() -> None:
    """Summer time ends on 5 April: the hour of 7 o'clock keeps its base of 7 o'clock."""
    index = pd.date_range("2026-03-20T13:00Z", periods=30 * 24, freq="h")
    values = np.asarray(index.tz_convert(ZONE).hour, dtype=float)
    base = table(values, {}, index, ZONE, scale_of(values, {}, index, ZONE)).base
    known = np.isfinite(base)
    assert known[8 * 24 :].all()
    repeated = pd.DatetimeIndex(index.tz_convert(ZONE).tz_localize(None)).duplicated(keep=False)
    np.testing.assert_array_equal(base[8 * 24 :][~repeated[8 * 24 :]], values[8 * 24 :][~repeated[8 * 24 :]])


def test_prosumers_may_be_negative(fitted: FittedLSTM) -> None:
    at = FIT_END.to_pydatetime()
    made = LSTM(plan=replace(SMALL, rounds=1), members=1).fit(before(FIT_END) - 700, REGRESSORS, timezone=ZONE, seed=1)
    assert made.predict(before(FIT_END) - 700, REGRESSORS, at, 24).p50.min() < 0
    assert made.floor is None
    assert fitted.floor == 0.0
