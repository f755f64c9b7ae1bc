"""Gradient boosting: no look-ahead, the same text every time, trees as the package's own, and any history answered."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta

import lightgbm
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting import Fitted, SeasonalNaive, accuracy
from energy_cloud_dagster.domain.forecasting.arrays import packed, unpacked
from energy_cloud_dagster.domain.forecasting.models import boosting_training, features, trees
from energy_cloud_dagster.domain.forecasting.models.boosting import FittedBoosting, GradientBoosting
from energy_cloud_dagster.domain.forecasting.models.hour_ridge import cells_of, fit_hour_ridge

ZONE = "Australia/Melbourne"  # its clock changes: the wall time jumps and repeats
START = pd.Timestamp("2026-01-31T13:00Z")
DAYS = 80  # over the change of 5 April
HOUR = pd.Timedelta(hours=1)


def community(days: int = DAYS, seed: int = 1) -> tuple[pd.Series, pd.DataFrame]:
    """Load of a daily and weekly shape that heats below 16 °C; temperature and a holiday flag, two weeks further."""
    index = pd.date_range(START, periods=(days + 14) * 24, freq="h")
    generator = np.random.default_rng(seed)
    wall = index.tz_convert(ZONE)
    holiday = np.isin(wall.strftime("%m-%d"), ["03-09", "04-03", "04-06"])
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


def before(origin: pd.Timestamp, series: pd.Series = LOAD) -> pd.Series:
    return series[series.index < origin]


def fit(seed: int = 1) -> FittedBoosting:
    known = REGRESSORS[REGRESSORS.index < FIT_END]
    return GradientBoosting().fit(before(FIT_END), known, timezone=ZONE, seed=seed)


@pytest.fixture(scope="module")
def fitted() -> FittedBoosting:
    return fit()


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer trees: what is tested is that an answer comes, not how good it is."""
    monkeypatch.setattr(boosting_training, "ROUNDS", (8, 8))
    monkeypatch.setattr(boosting_training, "BAND_ROUNDS", 8)


def test_it_beats_last_week_on_days_that_it_never_saw(fitted: FittedBoosting) -> None:
    assert isinstance(fitted, Fitted)
    naive = SeasonalNaive().fit(before(FIT_END), None, timezone=ZONE, seed=0)
    origins = [FIT_END + day * 24 * HOUR for day in range(10)]
    own, others = (
        accuracy(LOAD, [model.predict(before(at), REGRESSORS, at.to_pydatetime(), 24) for at in origins])
        for model in (fitted, naive)
    )
    assert own.mae is not None
    assert others.mae is not None
    assert own.mae < 0.5 * others.mae
    assert own.mae < 12  # the noise alone is 8
    assert own.coverage is not None
    assert 0.55 < own.coverage < 0.95


def test_the_trees_answer_as_the_package_does() -> None:
    """On columns with ties, and on values that no threshold was chosen from."""
    generator = np.random.default_rng(5)
    table = generator.normal(size=(800, 6)).astype(np.float32)
    table[:, 1] = np.round(table[:, 1], 1)
    table[:, 2] = generator.integers(0, 2, 800)
    target = table[:, 0] * table[:, 1] + table[:, 2] + generator.normal(0, 0.1, 800)
    parameters = {**trees.FIXED, "objective": "l2", "num_leaves": 15, "min_data_in_leaf": 5, "seed": 3}
    weights = generator.uniform(0.5, 1, 800)
    booster = lightgbm.train(parameters, lightgbm.Dataset(table, label=target, weight=weights), num_boost_round=30)
    forest = trees.Ground(table, weights, bins=255).grown(target, rounds=30, settings=parameters)
    fresh = np.vstack([table, generator.normal(0, 3, size=(200, 6)).astype(np.float32)])
    np.testing.assert_allclose(forest.evaluate(fresh), booster.predict(fresh), rtol=1e-5, atol=1e-5)
    again = trees.Forest.of(json.loads(json.dumps(forest.document())))
    np.testing.assert_array_equal(again.evaluate(fresh), forest.evaluate(fresh))
    doubled = trees.joined([forest, forest], 0.5)
    np.testing.assert_allclose(doubled.evaluate(fresh), forest.evaluate(fresh), rtol=1e-5, atol=1e-5)


def test_rows_left_out_do_not_matter_to_a_forest() -> None:
    generator = np.random.default_rng(6)
    table = generator.normal(size=(400, 3)).astype(np.float32)
    target, chosen = table[:, 0].astype(float) ** 2, np.arange(400) % 4 != 1
    ground = trees.Ground(table, np.ones(400), bins=63)
    settings = {"num_leaves": 7, "seed": 1}
    clean = ground.grown(target, rows=chosen, rounds=5, settings=settings)
    spoilt = ground.grown(np.where(chosen, target, 1e6), rows=chosen, rounds=5, settings=settings)
    np.testing.assert_array_equal(clean.evaluate(table), spoilt.evaluate(table))
    assert np.abs(ground.grown(target, rounds=5, settings=settings).evaluate(table) - clean.evaluate(table)).max() > 0


def test_a_target_without_pattern_gives_trees_of_one_leaf() -> None:
    ground = trees.Ground(np.zeros((50, 2), np.float32), np.ones(50), bins=15)
    forest = ground.grown(np.ones(50), rounds=3, settings={"seed": 1})
    assert np.isfinite(forest.evaluate(np.zeros((4, 2), np.float32))).all()


def test_equal_arguments_give_equal_texts_and_equal_texts_equal_forecasts(fitted: FittedBoosting) -> None:
    assert fit().to_text() == fitted.to_text()
    again = FittedBoosting.from_text(fitted.to_text())
    assert again.to_text() == fitted.to_text()
    assert again.digest == fitted.digest
    one, two = (m.predict(before(FIT_END), REGRESSORS, FIT_END.to_pydatetime(), 60) for m in (fitted, again))
    for name in ("p10", "p50", "p90"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert one.model == "gradient_boosting"
    assert one.rung == "champion"


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9 * 24), st.integers(1, 50), st.integers(0, 2**32 - 1))
def test_no_value_at_or_after_the_origin_matters(fitted: FittedBoosting, hours: int, horizon: int, seed: int) -> None:
    origin = FIT_END + hours * HOUR
    spoilt = LOAD.copy()
    late = spoilt.index >= origin
    spoilt[late] = np.random.default_rng(seed).uniform(-1e6, 1e6, int(late.sum()))
    known = REGRESSORS[REGRESSORS.index < origin + horizon * HOUR]
    clean = fitted.predict(before(origin), known, origin.to_pydatetime(), horizon)
    other = fitted.predict(spoilt, REGRESSORS, origin.to_pydatetime(), horizon)
    np.testing.assert_array_equal(clean.p50, other.p50)
    np.testing.assert_array_equal(clean.p90, other.p90)


@settings(max_examples=25, deadline=None)
@given(st.integers(features.LOOK_BACK, 60 * 24), st.integers(0, 2**32 - 1))
def test_no_column_of_a_row_looks_at_its_origin_or_later(origin: int, seed: int) -> None:
    """The rows of a fit cannot leak: whatever the load is from the origin on, their columns are the same."""
    grid = features.grid_of(
        LOAD, REGRESSORS, start=START.to_pydatetime(), hours=len(LOAD), timezone=ZONE, names=("holiday", "temperature")
    )
    spoilt = grid.load.copy()
    spoilt[origin:] = np.where(np.random.default_rng(seed).random(len(spoilt) - origin) < 0.5, np.nan, 1e6)
    rows = features.rows_of(np.array([origin]), np.arange(24))
    clean = features.memory_columns(grid, rows, grid.load - 500) | features.tree_columns(grid, rows)
    grid.load[:] = spoilt
    other = features.memory_columns(grid, rows, spoilt - 500) | features.tree_columns(grid, rows)
    for name in clean:
        np.testing.assert_array_equal(clean[name], other[name], err_msg=name)


def test_days_ahead_are_less_certain_and_follow_on(fitted: FittedBoosting) -> None:
    """A day ahead is the same in a longer forecast, and further days are never surer by much."""
    origin = FIT_END.to_pydatetime()
    short = fitted.predict(before(FIT_END), REGRESSORS, origin, 24)
    long = fitted.predict(before(FIT_END), REGRESSORS, origin, 336)
    np.testing.assert_array_equal(short.p50, long.p50[:24])
    widths = (long.p90 - long.p10).reshape(-1, 24).mean(axis=1)
    assert (widths[1:] > 0.8 * widths[0]).all()
    assert long.p50.min() > 300
    assert long.p50.max() < 1000


def test_only_the_future_of_a_regressor_must_be_known(fitted: FittedBoosting) -> None:
    origin = FIT_END.to_pydatetime()
    ahead = REGRESSORS[(REGRESSORS.index >= FIT_END) & (REGRESSORS.index < FIT_END + 24 * HOUR)]
    week = REGRESSORS[REGRESSORS.index >= FIT_END - 168 * HOUR].copy()
    whole = fitted.predict(before(FIT_END), REGRESSORS, origin, 24)
    recent = fitted.predict(before(FIT_END), week, origin, 24)
    alone = fitted.predict(before(FIT_END), ahead, origin, 24)
    assert np.abs(whole.p50 / recent.p50 - 1).max() < 0.02
    assert np.abs(whole.p50 / alone.p50 - 1).max() < 0.1
    for broken, what in (
        (None, "needs the regressors holiday, temperature"),
        (ahead.drop(columns="holiday"), "needs the regressors"),
        (ahead.iloc[:-1], "missing in 1 of 24"),
        (ahead.assign(temperature=np.nan), "missing in 24 of 24"),
    ):
        with pytest.raises(InvalidInput, match=what):
            fitted.predict(before(FIT_END), broken, origin, 24)
    week.iloc[5:60] = np.nan
    assert np.isfinite(fitted.predict(before(FIT_END), week, origin, 24).p50).all()


def test_one_wrong_reading_does_not_carry_the_forecast_away(fitted: FittedBoosting) -> None:
    clean = fitted.predict(before(FIT_END), REGRESSORS, FIT_END.to_pydatetime(), 24)
    for wrong in (0.0, 5e4, -800.0):
        spiked = before(FIT_END).copy()
        spiked.iloc[-1] = wrong
        forecast = fitted.predict(spiked, REGRESSORS, FIT_END.to_pydatetime(), 24)
        assert forecast.p50.min() > 0.6 * clean.p50.min()
        assert forecast.p50.max() < 1.5 * clean.p50.max()


def test_it_refuses_what_it_cannot_answer(fitted: FittedBoosting) -> None:
    origin = FIT_END.to_pydatetime()
    with pytest.raises(InvalidInput, match="saw hours up to"):
        fitted.predict(before(FIT_END), REGRESSORS, origin - timedelta(hours=1), 24)
    with pytest.raises(InvalidInput, match="24 known hours in the last week"):
        fitted.predict(before(FIT_END).iloc[:-160], REGRESSORS, origin, 24)
    model = GradientBoosting()
    with pytest.raises(InvalidInput, match="336 known hours"):
        model.fit(LOAD.iloc[:300], None, timezone=ZONE, seed=1)
    with pytest.raises(InvalidInput, match="every known hour is 7"):
        model.fit(pd.Series(7.0, index=LOAD.index), None, timezone=ZONE, seed=1)
    with pytest.raises(InvalidInput, match="IANA"):
        model.fit(LOAD, None, timezone="Nowhere/Land", seed=1)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("kind", ["gaps", "prosumer", "night", "spikes", "fortnight", "steps", "tiny"])
def test_any_history_gets_an_answer(kind: str) -> None:
    """Gaps of weeks, negative loads, zeros by night, spikes, two weeks only, few values, tiny ones."""
    load, frame = LOAD.iloc[: 40 * 24].copy(), REGRESSORS.copy()
    hours = pd.DatetimeIndex(load.index).tz_convert(ZONE).hour.to_numpy()
    if kind == "gaps":
        load.iloc[300:520] = np.nan
        load.iloc[::7] = np.nan
        frame.iloc[100:400, 0] = np.nan
    elif kind == "prosumer":
        load = load - 520
    elif kind == "night":
        load = (load - 500).where((hours > 6) & (hours < 18), 0.0).clip(lower=0)
    elif kind == "spikes":
        load.iloc[[100, 401, 700]] *= 80
    elif kind == "fortnight":
        load = load.iloc[-15 * 24 :]
    elif kind == "steps":
        load = (load > 550).astype(float)
    else:
        load = load * 1e-9
    origin = load.index[-1] + HOUR
    fitted = GradientBoosting().fit(load, frame[frame.index < origin], timezone=ZONE, seed=1)
    again = FittedBoosting.from_text(fitted.to_text())
    for at in (origin, origin + 7 * HOUR):
        forecast = again.predict(load, frame, at.to_pydatetime(), 48)
        assert (forecast.p10 <= forecast.p90).all()
        margin = 0.26 * (load.max() - load.min())
        assert forecast.p90.max() <= load.max() + margin
        assert forecast.p10.min() >= load.min() - margin
        if load.min() >= 0:
            assert forecast.p10.min() >= 0


def test_each_hour_learns_its_own_line_and_outliers_do_not_bend_it() -> None:
    generator = np.random.default_rng(2)
    hours = np.tile(np.arange(24), 200)
    column = generator.normal(size=len(hours))
    target = 10.0 + hours + (hours % 5) * column + generator.normal(0, 0.1, len(hours))
    target[::50] += 60
    ridge = fit_hour_ridge(column[:, None], target, hours, np.ones(len(hours)), parts=1, days=1e6, penalty=1.0)
    assert np.abs(ridge.coefficients[:, 0] - np.arange(24) % 5).max() < 0.2
    assert np.abs(ridge.intercept - 10 - np.arange(24)).max() < 0.2
    few = fit_hour_ridge(column[:48, None], target[:48], hours[:48], np.ones(48), parts=1, days=2, penalty=1.0)
    assert few.coefficients.std() < ridge.coefficients.std()  # two days lend each other


def test_cells_are_hours_by_quarters_of_the_lead() -> None:
    cells = cells_of(np.repeat(np.arange(24), 24), np.tile(np.arange(24), 24))
    assert sorted(set(cells.tolist())) == list(range(96))
    assert np.bincount(cells).tolist() == [6] * 96


def test_bridges_and_eves_need_tomorrows_holiday() -> None:
    """Tuesday 3 November 2026 is Melbourne Cup Day: the Monday before is a bridge, known at the grid's edge."""
    monday = pd.Timestamp("2026-11-01T13:00Z")
    index = pd.date_range(monday, periods=24, freq="h")
    tuesday = int(pd.Timestamp("2026-11-03").timestamp() // 86400)
    flags = pd.DataFrame({"holiday": 0.0}, index=index)
    arguments = {"start": monday.to_pydatetime(), "hours": 24, "timezone": ZONE, "names": ("holiday",)}
    load = pd.Series(1.0, index=index)
    with_it = features.grid_of(load, flags, holidays=frozenset({tuesday}), **arguments)  # type: ignore[arg-type]
    without = features.grid_of(load, flags, **arguments)  # type: ignore[arg-type]
    assert with_it.bridge.tolist() == [1.0] * 24
    assert without.bridge.tolist() == [0.0] * 24


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["<f8", "<f4", "<i8", "<i2"]),
    st.lists(st.integers(-1000, 1000), max_size=40),
    st.integers(0, 400),
)
def test_arrays_come_back_and_damaged_ones_are_refused(kind: str, values: list[int], place: int) -> None:
    document = packed(np.array(values, dtype=kind))
    back = unpacked(json.loads(json.dumps(document)))
    assert back.tolist() == values
    assert back.dtype == np.dtype(kind)
    data = str(document["data"])
    cut = data[: place % len(data)]
    with pytest.raises(InvalidInput, match="fit the model again"):
        unpacked({**document, "data": cut})
    with pytest.raises(InvalidInput, match="fit the model again"):
        unpacked({**document, "shape": [len(values) + 1]})


def test_a_damaged_text_is_refused(fitted: FittedBoosting) -> None:
    document = json.loads(fitted.to_text())
    changes: tuple[dict[str, object], ...] = (
        {"format": 2},
        {"static": {}},
        {"tail": None},
        {"centre": {**document["centre"], "left": document["centre"]["right"] | {"shape": [1]}}},
        {"memory": {**document["memory"], "intercept": packed(np.zeros(5))}},
        {"train_end": "yesterday"},
    )
    for change in changes:
        with pytest.raises(InvalidInput):
            FittedBoosting.from_text(json.dumps({**document, **change}))
    with pytest.raises(InvalidInput):
        FittedBoosting.from_text("{")


def test_a_forecast_needs_neither_the_package_nor_its_import(fitted: FittedBoosting) -> None:
    """The hourly forecast starts in a new process: a second of import for nothing would be the larger part of it."""
    code = (
        "import sys; from datetime import datetime, timedelta, UTC; import numpy as np, pandas as pd\n"
        "from energy_cloud_dagster.domain.forecasting.models.boosting import FittedBoosting\n"
        "fitted = FittedBoosting.from_text(sys.stdin.read())\n"
        "index = pd.date_range(fitted.train_end - timedelta(days=8), periods=9 * 24, freq='h')\n"
        "frame = pd.DataFrame({'temperature': 12.0, 'holiday': 0.0}, index=index)\n"
        "load = pd.Series(np.arange(8 * 24) % 24 + 500.0, index=index[:-24])\n"
        "assert len(fitted.predict(load, frame, fitted.train_end, 24).p50) == 24\n"
        "print({'lightgbm', 'scipy', 'prophet', 'holidays'} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=fitted.to_text(), capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.stderr, done.stdout.strip()) == ("", "set()")
