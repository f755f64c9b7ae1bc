"""How good every model would have been on a series, judged a day ahead on days that it had not seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import numpy as np
import pandas as pd

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting.forecast import Forecast, Model
from energy_cloud_dagster.domain.forecasting.judging.accuracy import Accuracy, accuracy
from energy_cloud_dagster.domain.forecasting.judging.champion import choose
from energy_cloud_dagster.domain.forecasting.judging.ensemble import ENSEMBLE
from energy_cloud_dagster.domain.forecasting.judging.rolling import (
    Ahead,
    Clock,
    Progress,
    Track,
    follow,
    follow_model,
    measured_ahead,
    midnights,
    score,
)
from energy_cloud_dagster.domain.forecasting.models.naive import SeasonalNaive
from energy_cloud_dagster.domain.forecasting.series import hourly

#: Fewest full local days that can be judged: a week to learn from, a day to judge, and room between.
LEAST_DAYS: Final = 10
#: Fewest days that a model learns from before its first forecast.
TRAIN_DAYS: Final = 7


@dataclass(frozen=True, eq=False)
class ModelResult:
    """One model in a backtest. ``failed`` says why it never answered; its figures are then None.

    ``forecasts`` are the calibrated ones at the scored origins, in their order. ``fit_seconds`` is the mean of its
    fits, ``predict_seconds`` the median of a call; both 0 without a clock, and the sum of the members' for the
    ensemble.
    """

    name: str
    accuracy: Accuracy
    forecasts: tuple[Forecast, ...]
    fit_seconds: float
    predict_seconds: float
    notes: tuple[str, ...] = ()
    failed: str | None = None


@dataclass(frozen=True, eq=False)
class Backtest:
    """The result of ``run_backtest``.

    ``models`` by name, the ensemble included where two or more models answered. ``champion`` has the least
    MASE on the scored days, ``weights`` are what all forecast days call for. ``followed`` is the accuracy of taking, at
    each scored origin, the champion of the days before it: no later knowledge in it; ``champions`` says which.
    ``actual`` is the hourly series, for plots; ``windows`` says in a sentence what the models learnt from.
    """

    origins: tuple[datetime, ...]
    models: dict[str, ModelResult]
    champion: str
    weights: dict[str, float]
    horizon: int
    timezone: str
    champions: dict[datetime, str]
    followed: Accuracy
    actual: pd.Series[float]
    notes: tuple[str, ...] = ()
    windows: str = ""


def scored_origins(days: Sequence[datetime], origins: int | None, share: float) -> list[datetime]:
    """Return ``origins`` of the last ``share`` of ``days``, evenly spread from its first day; all of them for None."""
    test = list(days[math.ceil(len(days) * (1 - share) - 1e-9) :]) or list(days[-1:])
    if origins is None or origins >= len(test):
        return test
    if origins < 1:
        raise InvalidInput(f"origins is {origins}; give 1 or more")
    return [test[place * len(test) // origins] for place in range(origins)]


def run_backtest(
    models: Sequence[Model],
    history: pd.Series[Any],
    regressors: pd.DataFrame | None,
    *,
    timezone: str,
    seed: int,
    horizon: int = 24,
    origins: int | None = 73,
    share: float = 0.2,
    refit_days: int = 14,
    burn_in_days: int = 56,
    clock: Clock | None = None,
    progress: Progress | None = None,
    ahead: Ahead | None = None,
) -> Backtest:
    """Forecast every local midnight of the last ``share`` of the days, and of ``burn_in_days`` before them.

    Every model is refitted every ``refit_days`` on everything before; values at or after an origin are blanked.
    Calibration, the ensemble's weights and the champion of a day rest on the days before it; the burn-in is theirs
    alone. Scored are ``origins`` midnights spread evenly over that last share; MASE is scaled by the weekly naive on
    the history before it. ``regressors`` are taken as perfectly known ahead unless ``ahead`` says what was known; the
    result's notes say so. The seasonal naive model is always among the models. ``clock`` gives seconds; ``progress``
    is told (days done, days in all, model). Raises ``InvalidInput`` where fewer than 10 local days are there or no
    model answers.
    """
    past = hourly(history)
    days = midnights(past, timezone, horizon)
    if len(days) < LEAST_DAYS:
        raise InvalidInput(f"a backtest needs {LEAST_DAYS} full local days; this series has {len(days)}")
    if not 0 < share < 1:
        raise InvalidInput(f"share is {share:g}; give a fraction between 0 and 1")
    if refit_days < 1:
        raise InvalidInput(f"refit_days is {refit_days}; give 1 or more")
    scored = scored_origins(days, origins, share)
    first = days.index(scored[0])
    begin = max(min(first, TRAIN_DAYS), first - burn_in_days, min(first, len(days) // 4))
    run = days[begin:]
    everyone = list(models)
    if all(model.name != "seasonal_naive" for model in everyone):
        everyone.insert(0, SeasonalNaive())
    names = [model.name for model in everyone]
    if len(set(names)) < len(names) or ENSEMBLE in names:
        raise InvalidInput(f"models need names of their own, none {ENSEMBLE!r}: {', '.join(names)}")
    known = ahead or measured_ahead(regressors)
    total, done = len(run) * len(everyone), 0
    tracks = []
    for model in everyone:

        def step(name: str = model.name) -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(done, total, name)

        tracks.append(
            follow_model(
                model,
                past,
                regressors,
                run,
                timezone=timezone,
                seed=seed,
                horizon=horizon,
                refit_days=refit_days,
                ahead=known,
                clock=clock,
                progress=step,
            )
        )
    result = judge(tracks, past, run, scored, timezone=timezone, horizon=horizon, notes=_notes(regressors, ahead))
    learnt = int((pd.Timestamp(run[0]) - past.index[0]) / pd.Timedelta(hours=24))
    windows = (
        f"fitted on everything before the day, every {refit_days} days, at first on {learnt} days; "
        f"{len(run)} days forecast, {len(scored)} of them scored; bands, weights and choices from the days before"
    )
    return replace(result, windows=windows)


def _notes(regressors: pd.DataFrame | None, ahead: Ahead | None) -> tuple[str, ...]:
    if regressors is None or ahead is not None:
        return ()
    measured = [str(name) for name in regressors.columns if name != "holiday"]
    if not measured:
        return ()
    return (f"{', '.join(measured)}: measured values stand in for a perfect forecast of the day",)


def judge(
    tracks: Sequence[Track],
    actual: pd.Series[float],
    run: Sequence[datetime],
    scored: Sequence[datetime],
    *,
    timezone: str,
    horizon: int,
    notes: tuple[str, ...] = (),
) -> Backtest:
    """Return the backtest of ``tracks`` that forecast at every origin of ``run``, scored at ``scored``."""
    followed = follow(tracks, actual, run, timezone=timezone, current=None)
    before = actual[actual.index < pd.Timestamp(scored[0])]
    scores = score(followed, actual, scored, before)
    results = {}
    for track in tracks:
        made = followed.forecasts.get(track.name)
        results[track.name] = ModelResult(
            name=track.name,
            accuracy=scores.get(track.name, NOTHING),
            forecasts=() if made is None else tuple(made[origin] for origin in scored),
            fit_seconds=float(np.mean(track.fit_seconds)) if track.fit_seconds else 0.0,
            predict_seconds=float(np.median(track.predict_seconds)) if track.predict_seconds else 0.0,
            notes=tuple(track.notes),
            failed=None if track.answered else track.reason or "it never answered",
        )
    if ENSEMBLE in followed.forecasts:
        members = [results[name] for name, weight in followed.weights.items() if weight > 0]
        results[ENSEMBLE] = ModelResult(
            name=ENSEMBLE,
            accuracy=scores[ENSEMBLE],
            forecasts=tuple(followed.forecasts[ENSEMBLE][origin] for origin in scored),
            fit_seconds=sum(one.fit_seconds for one in members),
            predict_seconds=sum(one.predict_seconds for one in members),
        )
    taken = [followed.forecasts[followed.champions[origin]][origin] for origin in scored]
    return Backtest(
        origins=tuple(scored),
        models=results,
        champion=_least_error(results) or followed.champion,
        weights=followed.weights,
        horizon=horizon,
        timezone=timezone,
        champions={origin: followed.champions[origin] for origin in scored},
        followed=accuracy(actual, taken, history=before),
        actual=actual,
        notes=notes,
    )


#: Share of the error by which the ensemble must be better than the best of its members.
TIE: Final = 0.001
#: The figures of a model that never answered.
NOTHING: Final = Accuracy(0, None, None, None, None, None, None, None)


def _least_error(results: dict[str, ModelResult]) -> str | None:
    """Return the model with the best score, None where a gap leaves nothing to score.

    An ensemble that is one model but for rounding leaves that model its place.
    """
    scores = {name: one.accuracy for name, one in results.items() if one.failed is None and one.accuracy.hours}
    single = {name: one for name, one in scores.items() if name != ENSEMBLE}
    return choose(scores, choose(single, None), TIE) if single else None
