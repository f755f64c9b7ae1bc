"""Rolling origins: what every model would have said each day, and how it looks once calibrated by what came before.

Backtest and selection share this. Nothing at or after an origin reaches a model, a calibration, a weight or a choice
that is used at that origin, but the regressors that the caller says were known ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from energy_cloud_dagster.domain.errors import EnergyCloudError, InvalidInput
from energy_cloud_dagster.domain.forecasting.forecast import Fitted, Forecast, Model
from energy_cloud_dagster.domain.forecasting.judging.accuracy import Accuracy, accuracy
from energy_cloud_dagster.domain.forecasting.judging.calibration import Calibration, calibrated, no_calibration
from energy_cloud_dagster.domain.forecasting.judging.champion import MARGIN, choose
from energy_cloud_dagster.domain.forecasting.judging.ensemble import ENSEMBLE, weights_of
from energy_cloud_dagster.domain.forecasting.ladder import ladder
from energy_cloud_dagster.domain.forecasting.series import Floats, Integers, hours_of_day, local, value_at

#: Regressors of the hours from an origin on, with what was measured before it; None where nothing is known.
Ahead = Callable[[datetime, int], pd.DataFrame | None]
#: Told what was done, of how much, and with which model.
Progress = Callable[[int, int, str], None]
Clock = Callable[[], float]

#: What a model may raise without stopping the others; the reason is kept.
FAILURES: Final = (EnergyCloudError, ImportError, ValueError, ArithmeticError, LookupError)
#: Models that others are measured by: their bands are calibrated, their medians stay what they are.
YARDSTICKS: Final = frozenset({"seasonal_naive", "daily_naive"})
#: The ensemble keeps its median too: its members have already been corrected.
UNSHIFTED: Final = YARDSTICKS | {ENSEMBLE}
#: Days of residuals that calibrate and weigh; older ones hardly count.
WINDOW_DAYS: Final = 120
#: Days of residuals before which no model is preferred to another.
LEAST_DAYS: Final = 3


@runtime_checkable
class Refittable(Protocol):
    """A fitted model that can go on from where it is, cheaper than a fit from nothing."""

    def refit(self, history: pd.Series[Any], regressors: pd.DataFrame | None, *, timezone: str, seed: int) -> Fitted:
        """Return the model fitted on ``history``, starting from its own state."""


@dataclass(eq=False)
class Track:
    """What one model said, raw, by origin; the seconds that it took; and what went wrong."""

    name: str
    forecasts: dict[datetime, Forecast] = field(default_factory=dict)
    fit_seconds: list[float] = field(default_factory=list)
    predict_seconds: list[float] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)
    fallbacks: int = 0
    reason: str | None = None

    @property
    def answered(self) -> bool:
        """Whether it ever answered itself."""
        return self.fallbacks < len(self.forecasts)


def midnights(history: pd.Series[float], timezone: str, horizon: int = 24) -> list[datetime]:
    """Return the first hour of every local day that has ``horizon`` hours up to the end of a gapless hourly grid.

    A day whose midnight is skipped by a change of the clock, or lies between two UTC hours, starts at its first hour.
    The first day counts only where it begins at its first hour.
    """
    index = pd.DatetimeIndex(history.index)
    if not len(index):
        return []
    days = local(pd.date_range(index[0] - pd.Timedelta(hours=1), index[-1], freq="h"), timezone).normalize()
    starts = index[np.asarray(days[1:] != days[:-1])]
    last = index[-1] + pd.Timedelta(hours=1)
    return [stamp.to_pydatetime() for stamp in starts if stamp + pd.Timedelta(hours=horizon) <= last]


def measured_ahead(regressors: pd.DataFrame | None) -> Ahead:
    """Return an outlook that knows the horizon's regressors as they were measured, and two weeks before it."""

    def ahead(origin: datetime, horizon: int) -> pd.DataFrame | None:
        if regressors is None:
            return None
        start = pd.Timestamp(origin)
        stamps = regressors.index
        rows = (stamps >= start - pd.Timedelta(days=14)) & (stamps < start + pd.Timedelta(hours=horizon))
        return regressors[rows]

    return ahead


def follow_model(
    model: Model,
    history: pd.Series[float],
    regressors: pd.DataFrame | None,
    origins: Sequence[datetime],
    *,
    timezone: str,
    seed: int,
    horizon: int,
    refit_days: int | None,
    ahead: Ahead,
    clock: Clock | None = None,
    progress: Callable[[], None] | None = None,
) -> Track:
    """Forecast ``horizon`` hours at every one of ``origins`` (ascending), refitted every ``refit_days`` (None: once).

    ``history`` is an ``hourly`` series. Where the model cannot answer, the ladder does, counted as a fallback.
    """
    track = Track(model.name)
    fitted: Fitted | None = None
    due = pd.Timestamp(origins[0]) if origins else None
    tick = clock or (lambda: 0.0)
    for origin in origins:
        start = pd.Timestamp(origin)
        past = history[: start - pd.Timedelta(hours=1)]
        if due is not None and start >= due:
            # Two hours less: local midnights move with the clock.
            due = None if refit_days is None else start + pd.Timedelta(days=refit_days, hours=-2)
            known = None if regressors is None else regressors[regressors.index < start]
            before = tick()
            try:
                earlier: object = fitted  # the protocols overlap
                if isinstance(earlier, Refittable):
                    fitted = earlier.refit(past, known, timezone=timezone, seed=seed)
                else:
                    fitted = model.fit(past, known, timezone=timezone, seed=seed)
            except FAILURES as error:
                track.reason = str(error)
                track.notes[f"not fitted at {origin:%Y-%m-%d}: {error}"] = None
            track.fit_seconds.append(tick() - before)
        before = tick()
        try:
            if fitted is None:
                raise InvalidInput(track.reason or "never fitted")
            made = fitted.predict(past, ahead(origin, horizon), origin, horizon)
            track.predict_seconds.append(tick() - before)
        except FAILURES as error:
            track.reason = str(error)
            track.fallbacks += 1
            made = ladder(None, past, None, origin, horizon, timezone)
        track.forecasts[origin] = made
        if progress is not None:
            progress()
    if track.fallbacks:
        track.notes[f"{track.fallbacks} of {len(origins)} days by a lower rung: {track.reason}"] = None
    return track


@dataclass(frozen=True, eq=False)
class Followed:
    """Tracks once calibrated day by day, with the ensemble among them.

    ``forecasts`` by model and origin; ``champions`` the model that would have been chosen at each origin;
    ``calibrations``, ``weights`` and ``champion`` are those after the last day.
    """

    forecasts: dict[str, dict[datetime, Forecast]]
    champions: dict[datetime, str]
    calibrations: dict[str, Calibration]
    weights: dict[str, float]
    champion: str


class _Book:
    """The residuals of every model in arrays of shape (days, hours), and what the days before one day call for."""

    def __init__(self, tracks: Sequence[Track], origins: Sequence[datetime], actual: pd.Series[float], zone: str):
        self.timezone = zone
        self.starts = pd.DatetimeIndex(list(origins))
        indexes = [tracks[0].forecasts[origin].index for origin in origins]
        self.stamps = np.array([index.as_unit("ns").asi8 for index in indexes])
        self.hours: Integers = np.array([hours_of_day(index, zone) for index in indexes])
        self.actual: Floats = np.array([value_at(actual, index) for index in indexes])
        self.days = np.arange(len(origins), dtype=np.float64)
        self.quantiles: dict[str, Floats] = {
            track.name: np.array(
                [[getattr(track.forecasts[origin], name) for name in ("p10", "p50", "p90")] for origin in origins]
            )
            for track in tracks
        }

    def usable(self, day: int) -> tuple[int, Any]:
        """Return the first day of the window and which of its hours had been measured at the origin of ``day``."""
        first = max(0, day - WINDOW_DAYS)
        start = np.iinfo(np.int64).max if day >= len(self.starts) else self.starts[day].as_unit("ns").value
        return first, (self.stamps[first:day] < start) & np.isfinite(self.actual[first:day])

    def calibration(self, name: str, quantiles: Floats, day: int) -> Calibration:
        """Return the calibration of ``name``'s ``quantiles`` (days, 3, hours) that the days before ``day`` call for."""
        first, mask = self.usable(day)
        if day < LEAST_DAYS or not mask.any():
            return no_calibration(self.timezone)
        ages = np.broadcast_to((day - 1 - self.days[first:day])[:, None], mask.shape)[mask]
        p10, p50, p90 = (quantiles[first:day, place][mask] for place in range(3))
        hours, actual = self.hours[first:day][mask], self.actual[first:day][mask]
        return calibrated(self.timezone, hours, ages, actual, p10, p50, p90, centred=name not in UNSHIFTED)

    def weights(self, medians: Mapping[str, Floats], day: int) -> dict[str, float]:
        """Return the ensemble's weights that the days before ``day`` call for; ``medians`` are (days, hours)."""
        first, mask = self.usable(day)
        if day < LEAST_DAYS or not mask.any():
            return {name: 1 / len(medians) for name in medians}
        ages = np.broadcast_to((day - 1 - self.days[first:day])[:, None], mask.shape)[mask]
        actual = self.actual[first:day][mask]
        errors = np.column_stack([values[first:day][mask] - actual for values in medians.values()])
        return dict(zip(medians, (float(one) for one in weights_of(errors, ages)), strict=True))

    def scores(self, medians: Mapping[str, Floats], day: int) -> dict[str, Accuracy]:
        """Return the mean absolute errors over the days before ``day``, as far as choosing needs them."""
        first, mask = self.usable(day)
        actual = self.actual[first:day][mask]
        found = {}
        for name, values in medians.items():
            mae = float(np.abs(values[first:day][mask] - actual).mean()) if len(actual) else None
            found[name] = Accuracy(len(actual), None, mae, None, None, None, None, None)
        return found


def follow(
    tracks: Sequence[Track],
    actual: pd.Series[float],
    origins: Sequence[datetime],
    *,
    timezone: str,
    current: str | None,
) -> Followed:
    """Calibrate, weigh and choose at every origin by the days before it, and once more after the last.

    ``tracks`` all have a forecast at every one of ``origins``; one that never answered itself is left out of the
    ensemble and of the choice. ``current`` is the champion before the first day.
    """
    answering = [track for track in tracks if track.answered]
    if not answering:
        raise InvalidInput("no model could forecast this series: " + "; ".join(sorted({str(t.reason) for t in tracks})))
    book = _Book(answering, origins, actual, timezone)
    raw = book.quantiles
    names = list(raw)
    done = {name: np.full_like(values, np.nan) for name, values in raw.items()}
    mixed = np.full_like(raw[names[0]], np.nan)
    with_ensemble = len(names) > 1
    final = np.full_like(mixed, np.nan)
    champions: dict[datetime, str] = {}
    champion = current if current in names or (current == ENSEMBLE and with_ensemble) else None

    def medians(*, everyone: bool) -> dict[str, Floats]:
        found = {name: done[name][:, 1] for name in names}
        return {**found, ENSEMBLE: final[:, 1]} if everyone and with_ensemble else found

    def state(day: int) -> tuple[dict[str, Calibration], dict[str, float], str]:
        fits = {name: book.calibration(name, raw[name], day) for name in names}
        shares = book.weights(medians(everyone=False), day)
        if with_ensemble:
            fits[ENSEMBLE] = book.calibration(ENSEMBLE, mixed, day)
        scores = book.scores(medians(everyone=True), day)
        if day < LEAST_DAYS or not next(iter(scores.values())).hours:
            return fits, shares, champion or (ENSEMBLE if with_ensemble else names[0])
        return fits, shares, choose(scores, champion, MARGIN)

    for day, origin in enumerate(origins):
        fits, shares, champion = state(day)
        hours = book.hours[day]
        for name in names:
            done[name][day] = fits[name].quantiles(hours, *raw[name][day])
        if with_ensemble:
            mixed[day] = sum(shares[name] * done[name][day] for name in names)
            final[day] = fits[ENSEMBLE].quantiles(hours, *mixed[day])
        champions[origin] = champion
    fits, shares, champion = state(len(origins))
    forecasts: dict[str, dict[datetime, Forecast]] = {}
    for track in answering:
        forecasts[track.name] = {
            origin: _rebuilt(track.forecasts[origin], track.name, done[track.name][day])
            for day, origin in enumerate(origins)
        }
    if with_ensemble:
        like = answering[0]
        forecasts[ENSEMBLE] = {
            origin: _rebuilt(like.forecasts[origin], ENSEMBLE, final[day], fresh=True)
            for day, origin in enumerate(origins)
        }
    return Followed(forecasts, champions, fits, shares if with_ensemble else {names[0]: 1.0}, champion)


def _rebuilt(forecast: Forecast, name: str, quantiles: Floats, *, fresh: bool = False) -> Forecast:
    p10, p50, p90 = quantiles
    return Forecast(
        forecast.index,
        np.minimum(p10, p50),
        p50,
        np.maximum(p90, p50),
        model=name if fresh else forecast.model,
        rung="champion" if fresh else forecast.rung,
        notes=() if fresh else forecast.notes,
    )


def score(
    followed: Followed, actual: pd.Series[float], origins: Sequence[datetime], history: pd.Series[Any]
) -> dict[str, Accuracy]:
    """Return the accuracy of every model at ``origins``, MASE scaled by ``history``."""
    return {
        name: accuracy(actual, [made[origin] for origin in origins], history=history)
        for name, made in followed.forecasts.items()
    }
