"""Hours like the one ahead: a distribution from past hours in the same weather, and the memory of what it missed.

The analog ensemble (Delle Monache et al. 2013; for solar power Alessandrini et al. 2015): the past hours whose features
(forecast weather, place of the sun) are near those of the hour ahead say how the plant answered to such weather, as a
weighted distribution and not only as a mean. What that distribution misses persists: a plant under snow stays under
snow, a wind that outran its forecast does so for some hours. So each past hour is given its rank in the distribution of
its analogs, ranks become normal scores, and the score ahead is regressed on the last ones by lead. P10, P50 and P90
are the ranks of that normal distribution, read from the analogs of the hour ahead.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting.arrays import packed, unpacked
from energy_cloud_dagster.domain.forecasting.series import Floats, Integers

Singles = npt.NDArray[np.float32]

#: Factors by which the neighbourhood grows until it weighs as much as ``ENOUGH`` hours.
WIDTHS: Final = (1.0, 1.5, 2.2, 3.3, 5.0)
ENOUGH: Final = 25.0
#: A past hour nearer than this to one that is ranked says nothing about it: they share their error.
APART_HOURS: Final = 24
#: Hours that are ranked to learn how scores persist: the last ones.
RANKED_HOURS: Final = 2160
#: Fewest origins that a group of leads is learnt from; below it nothing persists.
LEAST_PAIRS: Final = 72
#: Longest part of the past over which scores are averaged.
LONGEST_WINDOW: Final = 120
#: First lead (hours ahead) of every group that shares coefficients.
LEADS: Final = (0, 1, 2, 3, 6, 12, 24, 48)
_MIDDLES: Final = tuple((first + end - 1) / 2 for first, end in zip(LEADS, (*LEADS[1:], LEADS[-1] + 24), strict=True))
#: Weights that are held at once while hours are ranked.
CHUNK: Final = 131_072
#: A neighbourhood that weighs less is none.
LEAST_WEIGHT: Final = 1e-12
_NORMAL: Final = NormalDist()
_RANKS: Final = np.arange(0.005, 1.0, 0.005)
_SCORES: Final = np.array([_NORMAL.inv_cdf(float(rank)) for rank in _RANKS])
_P90: Final = _NORMAL.inv_cdf(0.9)


def scores_of(ranks: Floats) -> Floats:
    """Return the normal score of every rank in 0..1, between about -2.6 and 2.6."""
    scores: Floats = np.interp(ranks, _RANKS, _SCORES)
    return scores


def ranks_of(scores: Floats) -> Floats:
    """Return the rank of every normal score."""
    ranks: Floats = np.interp(scores, _SCORES, _RANKS)
    return ranks


@dataclass(frozen=True, eq=False)
class Analogs:
    """Past hours by their features, ordered by value.

    ``features`` has the shape ``(hours, features)`` and is measured in neighbourhoods (a distance of 1 is near),
    ``values`` ascend, ``hours`` are UTC hours since 1970, ``weights`` say how much an hour counts (its recency).
    """

    features: Floats
    values: Floats
    hours: Integers
    weights: Floats

    @classmethod
    def of(cls, features: Floats, values: Floats, hours: Integers, weights: Floats) -> Analogs:
        """Return the analogs of hours in any order; rows that are not finite are left out."""
        known = np.isfinite(values) & np.isfinite(features).all(axis=1)
        order = np.flatnonzero(known)[np.argsort(values[known], kind="stable")]
        return cls(features[order], values[order], hours[order], weights[order])

    def near(self, targets: Floats, hours: Integers | None = None) -> Singles:
        """Return the weight of every past hour for every target, shape ``(targets, hours)``, not normalised.

        With ``hours`` (those of the targets) past hours within a day of the target weigh nothing. A target far from
        every past hour widens its neighbourhood, at last to everything.
        """
        features, some = self.features.astype(np.float32), targets.astype(np.float32)
        distance = some @ (-2 * features.T)
        distance += np.square(some).sum(axis=1)[:, None]
        distance += np.square(features).sum(axis=1)[None, :]
        np.maximum(distance, 0.0, out=distance)
        allowed = np.broadcast_to(self.weights.astype(np.float32), distance.shape)
        if hours is not None:
            allowed = allowed * (np.abs(hours[:, None] - self.hours[None, :]) >= APART_HOURS)
        return _widening(distance, allowed)

    def quantiles(self, targets: Floats, ranks: Floats) -> Floats:
        """Return the values at ``ranks`` (shape ``(targets, any)``) of every target's distribution."""
        found = np.empty(ranks.shape)
        for row, weights in enumerate(self.near(targets)):
            sums = np.cumsum(weights, dtype=np.float64)
            found[row] = np.interp(ranks[row], (sums - weights / 2) / sums[-1], self.values)
        return found

    def ranks(self, targets: Floats, values: Floats, hours: Integers) -> Floats:
        """Return the rank of every value among the analogs of its target, its own day left out."""
        ranks = np.empty(len(targets))
        below = np.searchsorted(self.values, values, side="left")
        upto = np.searchsorted(self.values, values, side="right")
        step = max(1, CHUNK // len(self.values))
        for start in range(0, len(targets), step):
            part = slice(start, start + step)
            sums = np.cumsum(self.near(targets[part], hours[part]), axis=1)
            rows = np.arange(len(sums))
            under = np.where(below[part] > 0, sums[rows, below[part] - 1], 0.0)
            until = np.where(upto[part] > 0, sums[rows, upto[part] - 1], 0.0)
            ranks[part] = (under + until) / (2 * sums[:, -1])
        return ranks

    def document(self) -> dict[str, Any]:
        """Return the analogs for JSON, in single precision."""
        return {
            "features": packed(self.features.astype(np.float32)),
            "values": packed(self.values.astype(np.float32)),
            "hours": packed(self.hours),
            "weights": packed(self.weights.astype(np.float32)),
        }

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Analogs:
        """Return what ``document`` wrote; anything else raises ``InvalidInput``."""
        try:
            features, values, hours, weights = (
                unpacked(document[name]) for name in ("features", "values", "hours", "weights")
            )
        except (KeyError, TypeError) as error:
            raise InvalidInput(f"stored analogs lack {error}; fit the model again") from error
        if features.ndim != 2 or not len(features) == len(values) == len(hours) == len(weights) > 0:
            raise InvalidInput("stored analogs do not fit together; fit the model again")
        return cls(
            features.astype(np.float64), values.astype(np.float64), hours.astype(np.int64), weights.astype(np.float64)
        )

    def rounded(self) -> Analogs:
        """Return the analogs as their document holds them, so that a stored model forecasts as the fresh one."""
        features, values, weights = (
            one.astype(np.float32).astype(np.float64) for one in (self.features, self.values, self.weights)
        )
        return Analogs(features, values, self.hours, weights)


def _widening(distance: Singles, allowed: Singles) -> Singles:
    weights = np.zeros_like(distance)
    todo = np.arange(len(distance))
    for width in WIDTHS:
        every = len(todo) == len(distance)
        tried = (distance if every else distance[todo]) / np.float32(-2 * width**2)
        np.exp(tried, out=tried)
        tried *= allowed if every else allowed[todo]
        total = tried.sum(axis=1)
        enough = np.square(total) >= ENOUGH * np.einsum("ij,ij->i", tried, tried)
        enough &= total > 0
        weights[todo] = tried
        todo = todo[~enough]
        if not len(todo):
            break
    alone = weights.sum(axis=1) <= LEAST_WEIGHT
    if alone.any():
        weights[alone] = allowed[alone] + np.float32(LEAST_WEIGHT)
    return weights


@dataclass(frozen=True)
class Memory:
    """How normal scores persist: for every group of ``LEADS`` three coefficients and a spread.

    The predictors are the scores of the last six hours (the newest weighing most), their means over the last day and
    over the last five days.
    """

    coefficients: tuple[tuple[float, float, float], ...]
    spread: tuple[float, ...]

    @classmethod
    def none(cls) -> Memory:
        """Return the memory of what was never seen: every hour stands for itself."""
        return cls(tuple((0.0, 0.0, 0.0) for _ in LEADS), tuple(1.0 for _ in LEADS))

    def document(self) -> list[Any]:
        """Return the memory for JSON."""
        return [[list(one) for one in self.coefficients], list(self.spread)]

    @classmethod
    def from_document(cls, document: object) -> Memory:
        """Return what ``document`` wrote; anything else raises ``InvalidInput``."""
        try:
            given, spread = document if isinstance(document, list) else (None, None)
            coefficients = tuple((float(one), float(two), float(three)) for one, two, three in given or ())
            found = cls(coefficients, tuple(float(one) for one in spread or ()))
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"a stored memory cannot be read: {error}; fit the model again") from error
        if not len(found.coefficients) == len(found.spread) == len(LEADS):
            raise InvalidInput("a stored memory knows other leads; fit the model again")
        return found

    @classmethod
    def fit(cls, scores: Floats) -> Memory:
        """Learn from a gapless grid of hourly scores, NaN where the hour has none (night, gaps)."""
        if np.isfinite(scores).sum() < LEAST_PAIRS:
            return cls.none()
        before = _predictors(scores)
        coefficients, spread = [], []
        ends = (*LEADS[1:], LEADS[-1] + 24)
        for first, end in zip(LEADS, ends, strict=True):
            rows, truths = [], []
            for lead in range(first, end, max(1, (end - first) // 4)):
                # row i of the predictors knows the hours before i; its lead 0 is hour i itself
                truth = scores[lead:]
                known = np.isfinite(truth)
                rows.append(before[: len(truth)][known])
                truths.append(truth[known])
            matrix, truth = np.concatenate(rows), np.concatenate(truths)
            if len(truth) < LEAST_PAIRS:
                coefficients.append((0.0, 0.0, 0.0))
                spread.append(1.0)
                continue
            gram = matrix.T @ matrix + np.eye(3) * (0.02 * len(truth) + 20)
            found = np.linalg.solve(gram, matrix.T @ truth)
            left = truth - matrix @ found
            coefficients.append((float(found[0]), float(found[1]), float(found[2])))
            spread.append(float(np.clip(np.sqrt(np.square(left).mean()), 0.2, 1.2)))
        return cls(tuple(coefficients), tuple(spread))

    def widened(self, factor: float) -> Memory:
        """Return the memory with every spread times ``factor``."""
        return Memory(self.coefficients, tuple(factor * one for one in self.spread))

    def ahead(self, scores: Floats, leads: Integers) -> tuple[Floats, Floats]:
        """Return the mean and the spread of the scores ``leads`` hours after the end of ``scores`` (0: the next).

        Between the middles of the groups of leads both go over into each other.
        """
        now = _predictors(np.concatenate([scores[-LONGEST_WINDOW:], [np.nan]]))[-1]
        means = np.array(self.coefficients) @ now
        return np.interp(leads, _MIDDLES, means), np.interp(leads, _MIDDLES, self.spread)


def _predictors(scores: Floats) -> Floats:
    """Return for every hour what is known just before it, shape ``(len, 3)``; nothing known is zero."""
    known = np.isfinite(scores)
    filled = np.where(known, scores, 0.0)
    weights = 0.5 ** np.arange(6.0)
    recent = np.convolve(filled, weights)[: len(scores)] / np.maximum(np.convolve(known, weights)[: len(scores)], 0.5)
    sums, counts = np.concatenate([[0.0], filled.cumsum()]), np.concatenate([[0.0], known.cumsum()])
    columns = [np.concatenate([[0.0], recent[:-1]])]
    places = np.arange(len(scores))
    for window in (24, LONGEST_WINDOW):
        start = np.maximum(places - window, 0)
        # two hours of doubt: a mean over few hours is not believed in full
        columns.append((sums[places] - sums[start]) / (counts[places] - counts[start] + 2.0))
    return np.stack(columns, axis=1)


def band_ranks(centre: Floats, spread: Floats) -> Floats:
    """Return the ranks of P10, P50 and P90 of normal scores, shape ``(len, 3)``."""
    return ranks_of(np.stack([centre - _P90 * spread, centre, centre + _P90 * spread], axis=1))
