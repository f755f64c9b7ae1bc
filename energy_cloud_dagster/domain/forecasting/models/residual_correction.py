"""What the last week's residuals say about the next hours: an autoregressive correction of another model's forecast.

A regression on calendar and weather does not look at yesterday. Its residuals hang together, though: an hour that was
4 % above the regression yesterday will mostly be above it today. So the residual of an hour ahead is regressed on the
residuals before the origin, by ridge, for every lead and hour of the day.

Rows of other hours and kinds of day lend their sums of squares by a kernel (local regression, Cleveland 1979), so that
eight weeks of history already give stable coefficients and three years give each hour its own. The residuals must be
out-of-sample (those of a fit that did not see the hour); those of a fit to its own rows understate how far they carry.
"""

from __future__ import annotations

import base64
import zlib
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting.series import Floats, Integers

#: Hours before the origin that a correction looks at.
WINDOW: Final = 168
#: Leads (hours from the origin, 0 is the first) that are fitted; between them coefficients are interpolated.
KNOTS: Final = (0, 1, 2, 4, 7, 11, 15, 19, 23, 24, 35, 47, 48, 71, 119, 167, 168, 335)
#: Blocks before the origin whose mean is a feature: from, to, in hours back.
BLOCKS: Final = ((0, 3), (0, 6), (0, 24), (0, 72), (0, 168))
#: Single hours before the origin.
LAST_HOURS: Final = (1, 2, 3, *range(4, 25, 2))
#: Fewest hours to fit a lead on; a lead with fewer takes the coefficients of the one before.
LEAST_ROWS: Final = 144
#: Kinds of target day: whether it is off, and whether the day before is.
KINDS: Final = 4
GROUPS: Final = 24 * KINDS
FOLDS: Final = 5
#: Hours over which the weight of a neighbouring hour of the day falls by e; weight of another kind of day.
HOUR_WIDTH: Final = 0.8
OTHER_KIND: Final = 0.1
#: Weight of the least similar season, days over which similarity falls, days over which the past counts half.
SEASON_FLOOR: Final = 0.03
SEASON_DAYS: Final = 35.0
HALF_LIFE_DAYS: Final = 700.0
#: Errors beyond this many medians count less, in proportion (Huber 1964).
ROBUST: Final = 2.0
#: Penalty on coefficients of features of unit magnitude.
RIDGE: Final = 10.0
#: Days of history below which the penalty grows, by the square of what is lacking.
SHORT_DAYS: Final = 56.0
#: Steps to either side of zero in which a coefficient is kept.
STEPS: Final = 32767
#: How much of a residual is believed to be left a day later, where the day itself is not known.
FADING: Final = 0.7
QUANTILES: Final = (0.1, 0.5, 0.9)
#: A residual further out than this many of its typical magnitude is cut to it before it is used as a feature.
MOST_SPREADS: Final = 8.0


def packed(values: Floats) -> str:
    """Return ``values`` as base64 text: whole 32767ths of each last-axis column's largest magnitude, compressed."""
    columns = values.reshape(-1, values.shape[-1])
    scale = (np.abs(columns).max(axis=0) / STEPS).astype("<f4")
    steps = np.round(columns / np.where(scale > 0, scale, 1.0)).clip(-STEPS, STEPS).astype("<i2")
    return base64.b64encode(zlib.compress(scale.tobytes() + steps.tobytes(), 9)).decode()


def unpacked(text: str, shape: tuple[int, ...]) -> Floats:
    """Return the array of ``shape`` that ``packed`` wrote; other text raises ``InvalidInput``."""
    try:
        data = zlib.decompress(base64.b64decode(text, validate=True))
        scale = np.frombuffer(data, dtype="<f4", count=shape[-1])
        steps = np.frombuffer(data, dtype="<i2", offset=4 * shape[-1])
        return np.asarray(steps.reshape(shape) * scale.astype(np.float64), dtype=np.float64)
    except (ValueError, zlib.error) as error:
        raise InvalidInput(f"the correction of a stored model cannot be read: {error}; fit it again") from error


def filled(residuals: Floats) -> Floats:
    """Return ``residuals`` (hourly) with every gap as the same hour of the day before, up to a week back, else zero.

    Only earlier values fill a gap, so nothing after an origin reaches a feature.
    """
    values = residuals.copy()
    for _ in range(WINDOW // 24):
        holes = np.flatnonzero(np.isnan(values[24:])) + 24
        if not len(holes):
            break
        values[holes] = FADING * values[holes - 24]
    return np.where(np.isnan(values), 0.0, values)


def features(
    residuals: Floats, context: Floats, off: npt.NDArray[np.bool_], targets: Integers, lead: Integers
) -> Floats:
    """Return the features of the hours ``targets`` (positions) from the origins ``targets - lead``.

    ``residuals`` (hours) has no gap before the origins; ``context`` (hours x columns) is what else is known of every
    hour, 0 where nothing is; ``off`` says which hours lie on a day off. The result has the shape (targets, features).
    No residual at or after an origin is read; every origin must have a week before it.
    """
    origins = targets - lead
    back = 24 * (lead // 24 + 1)
    sums = np.concatenate([[0.0], np.cumsum(residuals)])
    same_hour = [targets - back - 24 * day for day in range(7)]
    of_days = residuals[np.stack(same_hour)]
    alike = off[np.stack(same_hour)] == off[targets]
    counts = alike.sum(axis=0)
    mean = of_days.mean(axis=0)
    columns = [
        np.ones(len(targets)),
        of_days[0],
        of_days[1],
        residuals[targets - WINDOW * (lead // WINDOW + 1)],
        mean,
        np.where(counts > 0, (of_days * alike).sum(axis=0) / np.maximum(counts, 1), mean),
        residuals[targets - back - 1],
    ]
    columns += [residuals[origins - hours] for hours in LAST_HOURS]
    columns += [(sums[origins - near] - sums[origins - far]) / (far - near) for near, far in BLOCKS]
    # A peak above the regression fades otherwise than a trough below it: heat breaks, holidays end.
    highs = np.concatenate([[0.0], np.cumsum(np.maximum(residuals, 0.0))])
    columns += [np.maximum(of_days[0], 0.0), (highs[origins] - highs[origins - 24]) / 24]
    now, then = context[targets], context[targets - back]
    return np.column_stack([*columns, now, now - then])


def kinds_of(off: npt.NDArray[np.bool_], targets: Integers) -> Integers:
    """Return the kind of day of the hours ``targets``: 0 to 3, by whether it and the day before are days off."""
    return 2 * off[targets].astype(np.int64) + off[targets - 24]


def _mixing(days: float) -> Floats:
    """Return how much the rows of every group count for every other, shape (groups, groups)."""
    hours = np.arange(24)
    apart = np.abs(hours[:, None] - hours[None, :])
    apart = np.minimum(apart, 24 - apart)
    floor = min(1.0, 10.0 / max(days, 1.0))
    by_hour = floor + (1 - floor) * np.exp(-apart / HOUR_WIDTH)
    by_kind = np.full((KINDS, KINDS), OTHER_KIND)
    np.fill_diagonal(by_kind, 1.0)
    return np.kron(by_kind, by_hour)


@dataclass(frozen=True)
class Correction:
    """Fitted coefficients and error quantiles, in the unit of the series."""

    #: Number of features, and the largest magnitude of a residual that is believed.
    size: int
    most: float
    #: ``packed`` coefficients of shape (knots, groups, features).
    coefficients: str
    #: ``packed`` P10, P50 and P90 of the errors left, shape (knots, 24, 3).
    errors: str

    @cached_property
    def _tables(self) -> tuple[Floats, Floats]:
        return (
            unpacked(self.coefficients, (len(KNOTS), GROUPS, self.size)),
            unpacked(self.errors, (len(KNOTS), 24, len(QUANTILES))),
        )

    def apply(
        self, residuals: Floats, context: Floats, off: npt.NDArray[np.bool_], hours: Integers, horizon: int
    ) -> tuple[Floats, Floats]:
        """Return what to add to the last ``horizon`` hours, and the error quantiles around it, shape (horizon, 3).

        All arrays are hourly and end with the horizon; at least a week comes before it. ``residuals`` of the horizon
        are not read; gaps before it are NaN.
        """
        coefficients, errors = self._tables
        lead = np.arange(horizon)
        targets = lead + len(off) - horizon
        rows = features(
            np.clip(filled(residuals[: len(off) - horizon]), -self.most, self.most), context, off, targets, lead
        )
        upper = np.searchsorted(KNOTS, lead).clip(max=len(KNOTS) - 1)
        lower = np.where(np.asarray(KNOTS)[upper] == lead, upper, upper - 1)
        span = np.maximum(np.asarray(KNOTS)[upper] - np.asarray(KNOTS)[lower], 1)
        share = ((lead - np.asarray(KNOTS)[lower]) / span)[:, None]
        group = 24 * kinds_of(off, targets) + hours[targets]
        mixed = (1 - share) * coefficients[lower, group] + share * coefficients[upper, group]
        spread = (1 - share) * errors[lower, hours[targets]] + share * errors[upper, hours[targets]]
        return np.einsum("hf,hf->h", rows, mixed), spread

    def document(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)

    @classmethod
    def of(cls, document: dict[str, Any]) -> Self:
        """Return the correction of ``document``."""
        return cls(document["size"], document["most"], document["coefficients"], document["errors"])


def season_weights(hours: int) -> Floats:
    """Return how much every one of the last ``hours`` counts for a forecast from their end on.

    What yesterday says about today differs between a heat wave and a mild spring, so hours of the same season count
    most, and recent years more than old ones.
    """
    days = np.arange(hours)[::-1] / 24
    apart = np.abs((days + 182.625) % 365.25 - 182.625)
    alike = SEASON_FLOOR + (1 - SEASON_FLOOR) * np.exp(-((apart / SEASON_DAYS) ** 2) / 2)
    return np.asarray(alike * np.exp2(-days / HALF_LIFE_DAYS), dtype=np.float64)


def fit_correction(
    residuals: Floats, context: Floats, off: npt.NDArray[np.bool_], hours: Integers
) -> Correction | None:
    """Fit the correction on out-of-sample ``residuals`` (hourly, NaN where unknown); None where too few are known.

    ``hours`` are the local hours of the day. The error quantiles are those of folds: every fifth of the hours is
    corrected by coefficients that the other four gave.
    """
    known = np.isfinite(residuals)
    if known[WINDOW + 24 :].sum() < LEAST_ROWS:
        return None
    size = len(residuals)
    season = season_weights(size)
    most = float(MOST_SPREADS * np.median(np.abs(residuals[known]))) or 1.0
    usable = np.clip(filled(residuals), -most, most)
    days = float(known.sum()) / 24
    mixing = _mixing(days)
    ridge = RIDGE * max(1.0, SHORT_DAYS / days) ** 2
    tables: list[Floats] = []
    quantiles: list[Floats] = []
    count = 0
    for lead in KNOTS:
        targets = np.flatnonzero(known & (np.arange(size) >= lead + WINDOW + 24))
        if len(targets) < LEAST_ROWS and tables:
            tables.append(tables[-1])
            quantiles.append(quantiles[-1])
            continue
        rows = features(usable, context, off, targets, np.full(len(targets), lead))
        truth = np.clip(residuals[targets], -2 * most, 2 * most)
        count = rows.shape[1]
        scale = _scales(rows, 1 + 2 * context.shape[1], float(np.sqrt(np.mean(usable**2))))
        rows = rows / scale
        group = 24 * kinds_of(off, targets) + hours[targets]
        fold = FOLDS * np.arange(len(targets)) // max(len(targets), 1)
        weights = season[targets]
        squares, products = _sums(rows, truth, weights, group, fold)
        first = _solved(squares.sum(axis=0), products.sum(axis=0), mixing, ridge)
        errors = np.abs(truth - np.einsum("nf,nf->n", rows, first[group]))
        weights = weights * np.minimum(1.0, ROBUST * np.median(errors) / np.maximum(errors, 1e-9 * most))
        squares, products = _sums(rows, truth, weights, group, fold)
        expected = np.zeros(len(targets))
        for one in range(FOLDS):
            chosen = fold == one
            part = _solved(squares.sum(axis=0) - squares[one], products.sum(axis=0) - products[one], mixing, ridge)
            expected[chosen] = np.einsum("nf,nf->n", rows[chosen], part[group[chosen]])
        tables.append(_solved(squares.sum(axis=0), products.sum(axis=0), mixing, ridge) / scale)
        quantiles.append(_error_quantiles(residuals[targets] - expected, hours[targets], season[targets]))
    return Correction(count, most, packed(np.stack(tables)), packed(np.stack(quantiles)))


def _scales(rows: Floats, others: int, typical: float) -> Floats:
    """Return by what the columns are divided before the penalty, which then means the same for all of them.

    What is made of residuals is divided by ``typical``, the magnitude of a residual: divided by its own, the mean of a
    quiet week would be given a coefficient that a shift of the level multiplies. The intercept (first) and the context
    (last), together ``others``, are divided by their own.
    """
    scale = np.sqrt(np.mean(rows**2, axis=0))
    scale[1 : len(scale) - others + 1] = typical
    return np.where(scale > 0, scale, 1.0)


def _sums(rows: Floats, truth: Floats, weights: Floats, group: Integers, fold: Integers) -> tuple[Floats, Floats]:
    """Return the weighted sums of squares and products of ``rows`` by fold and group."""
    cell = fold * GROUPS + group
    order = np.argsort(cell, kind="stable")
    cuts = np.searchsorted(cell[order], np.arange(FOLDS * GROUPS + 1))
    rows, truth, weights = rows[order], truth[order], weights[order]
    count = rows.shape[1]
    squares = np.zeros((FOLDS * GROUPS, count, count))
    products = np.zeros((FOLDS * GROUPS, count))
    for place in range(FOLDS * GROUPS):
        part = slice(cuts[place], cuts[place + 1])
        weighted = rows[part] * weights[part, None]
        squares[place] = weighted.T @ rows[part]
        products[place] = weighted.T @ truth[part]
    return squares.reshape(FOLDS, GROUPS, count, count), products.reshape(FOLDS, GROUPS, count)


def _solved(squares: Floats, products: Floats, mixing: Floats, ridge: float) -> Floats:
    """Return the ridge coefficients of every group, each with its share of the other groups' sums."""
    count = products.shape[1]
    penalty = ridge * np.eye(count)
    penalty[0, 0] = 1e-6  # the intercept
    mixed = (mixing @ squares.reshape(GROUPS, -1)).reshape(GROUPS, count, count)
    return np.linalg.solve(mixed + penalty, (mixing @ products)[:, :, None])[:, :, 0]


def _error_quantiles(errors: Floats, hours: Integers, weights: Floats) -> Floats:
    """Return the weighted quantiles of ``errors`` by hour of the day with its two neighbours, shape (24, 3)."""
    order = np.argsort(errors, kind="stable")
    errors, hours, weights = errors[order], hours[order], weights[order]
    table = np.zeros((24, len(QUANTILES)))
    for hour in range(24):
        near = (hours - hour + 1) % 24 <= 2
        chosen = near if near.sum() >= 24 else np.ones(len(errors), dtype=np.bool_)
        reached = np.cumsum(weights[chosen])
        # The middle of a value's own weight is its place, as for the plain quantile of equal weights.
        places = (reached - weights[chosen] / 2) / reached[-1]
        table[hour] = np.interp(QUANTILES, places, errors[chosen])
    return table
