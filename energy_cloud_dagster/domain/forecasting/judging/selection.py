"""What production uses for a series: the models that proved best on its last days, how to mix and how to calibrate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

import pandas as pd

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting.forecast import Fitted, Model
from energy_cloud_dagster.domain.forecasting.judging.accuracy import Accuracy, regressors_ahead
from energy_cloud_dagster.domain.forecasting.judging.calibration import Calibration
from energy_cloud_dagster.domain.forecasting.judging.ensemble import ENSEMBLE
from energy_cloud_dagster.domain.forecasting.judging.rolling import (
    FAILURES,
    Ahead,
    follow,
    follow_model,
    midnights,
    score,
)
from energy_cloud_dagster.domain.forecasting.series import hourly

BASELINE: Final = "seasonal_naive"
FORMAT: Final = 1


@dataclass(frozen=True, eq=False)
class Selection:
    """Champion, ensemble and calibrations of one series, and the scores they rest on.

    ``weights`` are the ensemble's (sum 1; empty where nothing was judged), ``calibrations`` and ``scores`` by model,
    the ensemble's under ``ensemble``, ``days`` the number of days they rest on. ``fitted`` holds the models that a
    forecast needs, refitted on everything; it is not part of ``to_dict``.
    """

    champion: str
    timezone: str
    weights: dict[str, float]
    calibrations: dict[str, Calibration]
    scores: dict[str, Accuracy]
    days: int
    notes: tuple[str, ...] = ()
    fitted: dict[str, Fitted] = field(default_factory=dict)

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the models that have to be fitted for the champion to speak."""
        if self.champion != ENSEMBLE:
            return (self.champion,)
        return tuple(name for name, weight in self.weights.items() if weight > 0)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the fitted models, for JSON."""
        return {
            "format": FORMAT,
            "champion": self.champion,
            "timezone": self.timezone,
            "weights": dict(self.weights),
            "calibrations": {name: one.to_dict() for name, one in self.calibrations.items()},
            "scores": {name: one.as_dict() for name, one in self.scores.items()},
            "days": self.days,
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """Return what ``to_dict`` wrote, without fitted models; other documents raise ``InvalidInput``."""
        if document.get("format") != FORMAT:
            raise InvalidInput(f"a stored selection has the format {document.get('format')!r}, not {FORMAT}")
        try:
            return cls(
                champion=str(document["champion"]),
                timezone=str(document["timezone"]),
                weights={name: float(weight) for name, weight in document["weights"].items()},
                calibrations={name: Calibration.from_dict(one) for name, one in document["calibrations"].items()},
                scores={name: Accuracy(**one) for name, one in document["scores"].items()},
                days=int(document["days"]),
                notes=tuple(document["notes"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise InvalidInput(f"a stored selection lacks or repeats a field: {error}") from error


def select(
    models: Sequence[Model],
    history: pd.Series[Any],
    regressors: pd.DataFrame | None,
    *,
    timezone: str,
    seed: int,
    days: int = 28,
    current: str | None = None,
    ahead: Ahead | None = None,
) -> Selection:
    """Judge ``models`` on the last ``days`` local days (at most a third of the history) and choose.

    All are fitted once on what lies before these days and forecast them a day ahead at a time; what that shows
    calibrates, weighs and chooses, by the rules of the backtest. Then the champion, the ensemble's members and the
    seasonal naive are fitted again on everything. ``current`` keeps its place unless clearly beaten. ``ahead`` gives
    the regressors as they were known at an origin; by default the temperature by its outlook, others as they are.

    Always returns: a history too short to judge gives no scores and the seasonal naive (else the first model that
    fits) as champion; an empty one gives a selection without fitted models, which the ladder answers for.
    """
    past = hourly(history)
    known = ahead or (lambda origin, horizon: regressors_ahead(regressors, origin, horizon))
    starts = midnights(past, timezone)
    judged = starts[len(starts) - min(days, len(starts) // 3) :]
    notes: list[str] = []
    if len(judged) < days:
        notes.append(f"judged on {len(judged)} days only: {len(starts)} full days are known")
    tracks = [
        follow_model(
            model, past, regressors, judged, timezone=timezone, seed=seed, horizon=24, refit_days=None, ahead=known
        )
        for model in models
    ]
    for track in tracks:
        notes.extend(f"{track.name}: {note}" for note in track.notes)
    if not judged or not any(track.answered for track in tracks):
        return _unjudged(models, past, regressors, timezone=timezone, seed=seed, notes=notes)
    followed = follow(tracks, past, judged, timezone=timezone, current=current)
    scores = score(followed, past, judged, past[past.index < pd.Timestamp(judged[0])])
    wanted = {followed.champion, BASELINE, *(name for name, weight in followed.weights.items() if weight > 0)}
    fitted = _refitted([m for m in models if m.name in wanted], past, regressors, timezone, seed, notes)
    return Selection(
        champion=followed.champion,
        timezone=timezone,
        weights=followed.weights,
        calibrations=followed.calibrations,
        scores=scores,
        days=len(judged),
        notes=tuple(notes),
        fitted=fitted,
    )


def _refitted(
    models: Sequence[Model],
    past: pd.Series[float],
    regressors: pd.DataFrame | None,
    timezone: str,
    seed: int,
    notes: list[str],
) -> dict[str, Fitted]:
    fitted = {}
    for model in models:
        try:
            fitted[model.name] = model.fit(past, _until(regressors, past), timezone=timezone, seed=seed)
        except FAILURES as error:
            notes.append(f"{model.name}: not fitted on everything: {error}")
    return fitted


def _until(regressors: pd.DataFrame | None, past: pd.Series[float]) -> pd.DataFrame | None:
    if regressors is None or past.empty:
        return regressors
    seen: pd.DataFrame = regressors[regressors.index <= past.index[-1]]
    return seen


def _unjudged(
    models: Sequence[Model],
    past: pd.Series[float],
    regressors: pd.DataFrame | None,
    *,
    timezone: str,
    seed: int,
    notes: list[str],
) -> Selection:
    fitted = _refitted(models, past, regressors, timezone, seed, notes)
    champion = BASELINE if BASELINE in fitted or not fitted else next(iter(fitted))
    return Selection(
        champion=champion,
        timezone=timezone,
        weights={},
        calibrations={},
        scores={},
        days=0,
        notes=(*notes, f"nothing could be judged: {champion} speaks"),
        fitted={name: one for name, one in fitted.items() if name in {champion, BASELINE}},
    )
