"""What production uses of a series: chosen on its last days, refitted, asked in the room; it always answers."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting import (
    DailyNaive,
    Forecast,
    SeasonalNaive,
    Selection,
    SimilarDay,
    select,
)
from energy_cloud_dagster.domain.forecasting.judging import room
from energy_cloud_dagster.domain.forecasting.models.naive import FittedSeasonalNaive

ZONE = "Asia/Seoul"
START = pd.Timestamp("2026-01-04T15:00Z")
MODELS = (SeasonalNaive(), DailyNaive(), SimilarDay())


def load(days: int = 42, seed: int = 1, noise: float = 30) -> pd.Series[float]:
    """Return a weekly rhythm with noise: similar days beat single ones."""
    rng = np.random.default_rng(seed)
    index = pd.date_range(START, periods=24 * days, freq="h")
    hours = np.arange(len(index))
    shape = 1000 + 200 * np.sin(2 * np.pi * hours / 24) - 150 * (hours // 24 % 7 >= 5)
    return pd.Series(shape + rng.normal(0, noise, len(index)), index=index)


def end_of(history: pd.Series[Any]) -> datetime:
    return (history.index[-1] + pd.Timedelta(hours=1)).to_pydatetime()


@dataclass(frozen=True)
class Oracle:
    """Know the rhythm; need the column ``warmth`` ahead."""

    name: str = "oracle"

    def fit(self, history: pd.Series[Any], regressors: pd.DataFrame | None, *, timezone: str, seed: int) -> Any:
        inner = SeasonalNaive().fit(history, regressors, timezone=timezone, seed=seed)
        return _FittedOracle(inner)


@dataclass(frozen=True)
class _FittedOracle:
    inner: FittedSeasonalNaive

    def predict(self, recent: pd.Series[Any], future: Any, origin: datetime, horizon: int) -> Forecast:
        if future is None or "warmth" not in future.columns:
            raise InvalidInput("regressor warmth is missing for the future")
        made = self.inner.predict(recent, future, origin, horizon)
        days = np.asarray((made.index - START) // pd.Timedelta(days=1)) % 7
        centre = 1000 + 200 * np.sin(2 * np.pi * np.asarray((made.index - START) // pd.Timedelta(hours=1)) / 24)
        centre = centre - 150 * (days >= 5)
        return replace(made, p10=centre - 5, p50=centre, p90=centre + 5, model="oracle")


@pytest.fixture(scope="module")
def history() -> pd.Series[float]:
    return load()


@pytest.fixture(scope="module")
def chosen(history: pd.Series[float]) -> Selection:
    return select(MODELS, history, None, timezone=ZONE, seed=1, days=14)


def warm(history: pd.Series[float]) -> pd.DataFrame:
    index = pd.date_range(history.index[0], periods=len(history) + 48, freq="h")
    return pd.DataFrame({"warmth": np.zeros(len(index))}, index=index)


def test_the_better_models_are_chosen_and_fitted_on_everything(chosen: Selection, history: pd.Series[float]) -> None:
    errors = {name: one.mase for name, one in chosen.scores.items()}
    assert set(errors) == {"seasonal_naive", "daily_naive", "similar_day", "ensemble"}
    best = min(errors.values(), key=lambda error: error or 9.0)
    assert best is not None
    assert (errors[chosen.champion] or 9.0) <= best * 1.03
    assert chosen.days == 14
    assert set(chosen.members) <= set(chosen.fitted)
    assert "seasonal_naive" in chosen.fitted
    assert all(one.train_end == end_of(history) for one in chosen.fitted.values())


def test_the_document_holds_all_but_the_models(chosen: Selection) -> None:
    again = Selection.from_dict(json.loads(json.dumps(chosen.to_dict())))
    assert again.to_dict() == chosen.to_dict()
    assert again.calibrations == chosen.calibrations
    assert again.fitted == {}
    for broken in ({}, {"format": 1}, {**chosen.to_dict(), "weights": None}, {**chosen.to_dict(), "scores": {"a": {}}}):
        with pytest.raises(InvalidInput, match="stored selection"):
            Selection.from_dict(broken)


def test_the_room_asks_every_model_and_answers_with_the_champion(chosen: Selection, history: pd.Series[float]) -> None:
    origin = end_of(history)
    made = room.predict(chosen, chosen.fitted, history, None, origin, 24, ZONE, notes=("as known then",))
    assert set(made) == {*chosen.fitted, "ensemble", "champion"}
    champion = made["champion"]
    assert champion.model == chosen.champion
    assert champion.rung == "champion"
    assert "as known then" in champion.notes
    assert np.array_equal(champion.p50, made[chosen.champion].p50)


def test_what_comes_after_the_origin_never_matters(chosen: Selection, history: pd.Series[float]) -> None:
    origin = end_of(history)
    later = load(50, seed=2) * 100
    longer = pd.concat([history, later[later.index >= pd.Timestamp(origin)]])
    one = room.predict(chosen, chosen.fitted, history, None, origin, 24, ZONE)
    other = room.predict(chosen, chosen.fitted, longer, None, origin, 24, ZONE)
    for name in one:
        assert np.array_equal(one[name].frame().to_numpy(), other[name].frame().to_numpy()), name


@pytest.mark.parametrize("hour", range(0, 24, 5))
def test_any_hour_can_be_an_origin(chosen: Selection, history: pd.Series[float], hour: int) -> None:
    longer = load(44)
    origin = end_of(history) + timedelta(hours=hour)
    made = room.predict(chosen, chosen.fitted, longer, None, origin, 48, ZONE)
    assert made["champion"].origin == origin
    assert made["champion"].horizon == 48
    truth = longer.reindex(made["champion"].index[: 48 - hour])
    assert np.abs(made["champion"].p50[: 48 - hour] - truth).mean() < 60


def test_a_champion_without_its_regressor_steps_down_and_says_why(history: pd.Series[float]) -> None:
    known = warm(history)
    chosen = select([*MODELS, Oracle()], history, known, timezone=ZONE, seed=1, days=14)
    alone = replace(chosen, champion="oracle")
    assert chosen.weights["oracle"] > 0.5
    made = room.predict(alone, chosen.fitted, history, known, end_of(history), 24, ZONE)
    assert made["champion"].model == "oracle"
    without = room.predict(alone, chosen.fitted, history, None, end_of(history), 24, ZONE)
    assert "oracle" not in without
    assert without["champion"].rung == "similar_day"
    assert any("warmth is missing" in note for note in without["champion"].notes)


def test_an_ensemble_goes_on_without_a_member_and_says_so(history: pd.Series[float]) -> None:
    known = warm(history)
    chosen = select([SimilarDay(), Oracle()], history, known, timezone=ZONE, seed=1, days=14)
    mixed = replace(chosen, champion="ensemble", weights={"similar_day": 0.5, "oracle": 0.5})
    fitted = {"similar_day": SimilarDay().fit(history, None, timezone=ZONE, seed=1), **chosen.fitted}
    made = room.predict(mixed, fitted, history, None, end_of(history), 24, ZONE)["champion"]
    assert made.model == "ensemble"
    assert any("ensemble without oracle" in note for note in made.notes)
    assert any("oracle: regressor warmth is missing" in note for note in made.notes)


def test_the_sitting_champion_keeps_its_place_among_equals(history: pd.Series[float]) -> None:
    twins = [replace(SimilarDay(), name="a"), replace(SimilarDay(), name="b")]
    for current in ("a", "b"):
        assert select(twins, history, None, timezone=ZONE, seed=1, days=14, current=current).champion == current


def test_only_the_days_before_the_judged_ones_are_learnt_from(history: pd.Series[float]) -> None:
    seen: list[pd.Timestamp] = []

    @dataclass(frozen=True)
    class Watching(SimilarDay):
        name: str = "watching"

        def fit(self, history: pd.Series[Any], regressors: pd.DataFrame | None, *, timezone: str, seed: int) -> Any:
            seen.append(max([history.index[-1], *(regressors.index[-1:] if regressors is not None else [])]))
            return super().fit(history, regressors, timezone=timezone, seed=seed)

    select([Watching()], history, warm(history), timezone=ZONE, seed=1, days=14)
    assert seen == [history.index[-1] - pd.Timedelta(days=14), history.index[-1]]


def test_the_weather_of_a_judged_day_is_not_known_on_it(history: pd.Series[float]) -> None:
    told: list[pd.DataFrame] = []

    @dataclass(frozen=True)
    class Listening(Oracle):
        name: str = "listening"

        def fit(self, history: pd.Series[Any], regressors: pd.DataFrame | None, *, timezone: str, seed: int) -> Any:
            outer = SimilarDay().fit(history, regressors, timezone=timezone, seed=seed)

            class Fitted:
                def predict(self, recent: pd.Series[Any], future: Any, origin: datetime, horizon: int) -> Forecast:
                    told.append(future)
                    return outer.predict(recent, None, origin, horizon)

            return Fitted()

    frame = pd.DataFrame({"temperature": 10.0, "holiday": 0.0}, index=history.index)
    frame.iloc[-24:] = [45.0, 1.0]
    select([Listening()], history, frame, timezone=ZONE, seed=1, days=14)
    ahead = told[13].loc[frame.index[-24:]]
    assert (ahead["temperature"] == 10.0).all()
    assert (ahead["holiday"] == 1.0).all()  # the calendar is known


@pytest.mark.parametrize(("days", "judged"), [(0, 0), (1, 0), (2, 0), (3, 1), (9, 3), (60, 14)])
def test_a_short_history_is_judged_on_fewer_days_and_always_answered(days: int, judged: int) -> None:
    history = load(max(days, 1)).iloc[: 24 * days]
    chosen = select(MODELS, history, None, timezone=ZONE, seed=1, days=14)
    assert chosen.days == judged
    assert Selection.from_dict(chosen.to_dict()).champion == chosen.champion
    origin = START.to_pydatetime() + timedelta(days=days)
    made = room.predict(chosen, chosen.fitted, history, None, origin, 24, ZONE)
    assert np.isfinite(made["champion"].p90).all()
    assert judged == 14 or chosen.notes


def test_one_hour_and_a_stuck_meter_are_answered(history: pd.Series[float]) -> None:
    single = history.iloc[:1]
    chosen = select(MODELS, single, None, timezone=ZONE, seed=1)
    assert np.isfinite(
        room.predict(chosen, chosen.fitted, single, None, end_of(single), 24, ZONE)["champion"].p50
    ).all()
    stuck = history * 0 + 7
    chosen = select(MODELS, stuck, None, timezone=ZONE, seed=1)
    made = room.predict(chosen, chosen.fitted, stuck, None, end_of(stuck), 24, ZONE)["champion"]
    assert made.p50.tolist() == [7.0] * 24
    assert any("constant series" in note for note in made.notes)


def test_published_bands_hold_on_the_days_that_follow(history: pd.Series[float]) -> None:
    longer = load(70)
    chosen = select(MODELS, history, None, timezone=ZONE, seed=1, days=14)
    inside = []
    for day in range(27):
        origin = end_of(history) + timedelta(days=day)
        made = room.predict(chosen, chosen.fitted, longer, None, origin, 24, ZONE)["champion"]
        truth = longer.reindex(made.index)
        inside.append(((made.p10 <= truth) & (truth <= made.p90)).mean())
    assert 0.74 <= float(np.mean(inside)) <= 0.9


def test_malformed_calls_are_refused(chosen: Selection, history: pd.Series[float]) -> None:
    with pytest.raises(InvalidInput, match="horizon"):
        room.predict(chosen, chosen.fitted, history, None, end_of(history), 0, ZONE)
    with pytest.raises(InvalidInput, match="IANA"):
        room.predict(chosen, chosen.fitted, history, None, end_of(history), 24, "Mars/Base")
