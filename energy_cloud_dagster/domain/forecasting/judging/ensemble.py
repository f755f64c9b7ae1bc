"""Several models in one forecast: weights that would have served best, and their mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting.forecast import Forecast
from energy_cloud_dagster.domain.forecasting.series import Floats, floats

ENSEMBLE: Final = "ensemble"
#: Share of the best model's squared error that is added to each one's own: estimates of few days are not trusted.
RIDGE: Final = 0.05
#: Models whose mean absolute error is beyond this multiple of the best one's take no part: what they seem to add is
#: chance, and gone the month after.
COMPETITIVE: Final = 1.5
#: Weights below this are dropped: a member that hardly counts is not worth its time.
NEGLIGIBLE: Final = 0.02
#: Rounds of least squares with rows weighed by the inverse of their error, which turns squares into absolute errors.
REWEIGHTINGS: Final = 5
HALF_LIFE_DAYS: Final = 60.0
STEPS: Final = 500


def weights(p50: pd.DataFrame, actual: pd.Series[Any], ages: Floats | None = None) -> dict[str, float]:
    """Return the weight of every column of ``p50`` (past medians by hour, a column a model) in the best mean.

    Best is the least mean absolute error against ``actual`` (same index), nearly: by least squares reweighted a few
    times, over weights that are not negative and sum to 1. ``ages`` in days make older rows count less (half after
    60). Rows with a gap are left out; a model without any value gets 0; without a usable row all share equally. No
    column raises ``InvalidInput``.
    """
    if p50.shape[1] == 0:
        raise InvalidInput("an ensemble needs at least one model")
    names = [str(name) for name in p50.columns]
    matrix = floats(p50, "medians")
    found = weights_of(matrix - floats(actual, "actual")[:, None], ages)
    return {name: float(weight) for name, weight in zip(names, found, strict=True)}


def weights_of(errors: Floats, ages: Floats | None = None) -> Floats:
    """Return the weights, shape ``(models,)``, for ``errors`` of shape ``(hours, models)``; see ``weights``."""
    count = errors.shape[1]
    answering = np.isfinite(errors).any(axis=0)
    if not answering.any():
        return np.full(count, 1 / count)
    used = errors[:, answering]
    rows = np.isfinite(used).all(axis=1)
    found = np.zeros(count)
    if not rows.any():
        found[answering] = 1 / answering.sum()
        return found
    mass = np.ones(len(errors)) if ages is None else 0.5 ** (ages / HALF_LIFE_DAYS)
    largest = float(np.abs(used[rows]).max())
    chosen, mass = used[rows] / (largest or 1.0), mass[rows]
    means = np.average(np.abs(chosen), axis=0, weights=mass)
    able = np.flatnonzero(means <= COMPETITIVE * means.min())
    best = _on_simplex(_moments(chosen[:, able], mass))
    for _ in range(REWEIGHTINGS):
        size = np.abs(chosen[:, able] @ best)
        if float(size.mean()) <= 1e-9:
            break  # perfect already
        best = _on_simplex(_moments(chosen[:, able], mass / np.maximum(size, 0.2 * size.mean())))
    best = np.where(best < NEGLIGIBLE, 0.0, best)
    found[np.flatnonzero(answering)[able]] = best / best.sum()
    return found


def _moments(errors: Floats, mass: Floats) -> Floats:
    found: Floats = (errors * mass[:, None]).T @ errors / mass.sum()
    found += np.eye(len(found)) * RIDGE * float(np.diag(found).min())
    return found


def _on_simplex(moments: Floats) -> Floats:
    """Return the ``w >= 0`` with sum 1 that makes ``w' moments w`` least.

    Active set: solve with the sum alone, drop the most negative weight, and again; then look whether a dropped one
    would lower the sum of squares, and take it back. Ends after finitely many steps; a tie is broken by position.
    """
    size = len(moments)
    perfect = np.diag(moments) <= 1e-12 * float(np.diag(moments).max())
    if perfect.any():  # nothing to gain, and a singular matrix to lose by
        return np.asarray(perfect / perfect.sum(), dtype=np.float64)
    active = list(range(size))
    best = np.full(size, 1 / size)
    for _ in range(STEPS):
        part = np.linalg.lstsq(moments[np.ix_(active, active)], np.ones(len(active)), rcond=None)[0]
        part = part / part.sum()
        if float(part.min()) < -1e-12 and len(active) > 1:
            active.pop(int(np.argmin(part)))
            continue
        best = np.zeros(size)
        best[active] = np.maximum(part, 0.0)
        best /= best.sum()
        slopes = moments @ best
        level = float(best @ slopes)
        outside = [place for place in range(size) if place not in active and slopes[place] < level * (1 - 1e-9)]
        if not outside:
            return best
        active = sorted([*active, min(outside, key=lambda place: float(slopes[place]))])
    return best


def combine(forecasts: Mapping[str, Forecast], weights: Mapping[str, float]) -> Forecast:
    """Return the weighted mean of the quantiles of ``forecasts`` (one origin and horizon), as model ``ensemble``.

    Weights of models that did not answer are shared among the others and a note says so. Raises ``InvalidInput``
    where none with a weight answered.
    """
    wanted = {name: weight for name, weight in weights.items() if weight > 0}
    present = {name: weight for name, weight in wanted.items() if name in forecasts}
    total = sum(present.values())
    if total <= 0:
        raise InvalidInput(f"no member of the ensemble answered: {', '.join(sorted(wanted)) or 'it has none'}")
    first = forecasts[next(iter(present))]
    if any(not forecasts[name].index.equals(first.index) for name in present):
        raise InvalidInput("the members of an ensemble forecast different hours")
    p10, p50, p90 = (
        sum((getattr(forecasts[name], field) * (weight / total) for name, weight in present.items()), np.zeros(1))
        for field in ("p10", "p50", "p90")
    )
    absent = sorted(set(wanted) - set(present))
    notes = [f"ensemble without {', '.join(absent)}"] if absent else []
    # Rounding can cross equal quantiles by an ulp.
    return Forecast(
        first.index, np.minimum(p10, p50), p50, np.maximum(p90, p50), ENSEMBLE, "champion", tuple(notes)
    ).with_notes(*(note for name in present for note in forecasts[name].notes))
