"""Ridge regression with coefficients of their own for every hour of the day.

Load at six in the morning answers to other things than at six in the evening, so each hour gets its own line. With
years of history it has enough days for that; with weeks it has not, so the days of the other hours count too, those
of the neighbours more, and the fewer days there are the more they count. (The idea of one lasso per hour with lags of
all kinds is that of Uniejewski, Nowotarski & Weron 2016, here with a ridge and on what calendar and weather leave.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting.arrays import packed, unpacked
from energy_cloud_dagster.domain.forecasting.series import Floats, Integers

#: Days of weight that the hours at a distance of one, two and more lend to an hour, and the most of their own weight.
LENT_DAYS: Final = (60.0, 10.0, 1.0)
MOST_LENT: Final = (0.7, 0.4, 0.1)
#: Parts of a day's leads that have coefficients of their own, and what the rows of the other parts weigh.
LEAD_PARTS: Final = 4
LENT_LEADS: Final = 0.15
#: Fits of a regression, each on the weights that the errors of the one before give.
PASSES: Final = 4
#: Beyond the training range a column is believed for this share of it.
MARGIN: Final = 0.15


def spread(values: Floats) -> float:
    """Return a robust standard deviation of the finite ``values``: 0.74 times the middle half; 0 without any."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 0.0
    low, high = np.quantile(finite, [0.25, 0.75])
    return 0.7413 * float(high - low)


@dataclass(frozen=True, eq=False)
class Filler:
    """Makes columns finite and tame: a hole becomes the median, a value beyond the training range is cut."""

    middle: Floats
    low: Floats
    high: Floats

    @classmethod
    def fit(cls, table: Floats) -> Self:
        """Learn from ``table``, shape ``(rows, columns)``; a column without any value becomes zero."""
        some = np.isfinite(table).any(axis=0)
        safe = np.where(some, table, 0.0)
        low, middle, high = np.nanquantile(safe, [0.0, 0.5, 1.0], axis=0)
        margin = MARGIN * (high - low)
        return cls(middle, low - margin, high + margin)

    def __call__(self, table: Floats) -> Floats:
        """Return ``table`` without holes and within the range."""
        return np.clip(np.where(np.isfinite(table), table, self.middle), self.low, self.high)

    def document(self) -> dict[str, Any]:
        """Return the arrays for JSON."""
        return {"middle": packed(self.middle), "low": packed(self.low), "high": packed(self.high)}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Return what ``document()`` wrote."""
        return cls(*(unpacked(document.get(name)) for name in ("middle", "low", "high")))


@dataclass(frozen=True, eq=False)
class HourRidge:
    """``intercept[cell] + columns @ coefficients[cell]``; shapes ``(cells,)`` and ``(cells, columns)``.

    A cell is a local hour of the day, or an hour of the day and a part of the leads: see ``cells_of``.
    """

    coefficients: Floats
    intercept: Floats
    filler: Filler

    def evaluate(self, table: Floats, cells: Integers) -> Floats:
        """Return the answers for ``table``, shape ``(rows, columns)``, in ``cells``, shape ``(rows,)``."""
        tame = self.filler(table)
        answers = np.einsum("rc,rc->r", tame, self.coefficients[cells]) + self.intercept[cells]
        return np.asarray(answers, dtype=np.float64)

    def document(self) -> dict[str, Any]:
        """Return the arrays for JSON."""
        return {
            "coefficients": packed(self.coefficients),
            "intercept": packed(self.intercept),
            "filler": self.filler.document(),
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Return what ``document()`` wrote; arrays that do not fit together raise ``InvalidInput``."""
        made = cls(
            unpacked(document.get("coefficients")), unpacked(document.get("intercept")), Filler.of(document["filler"])
        )
        if made.coefficients.shape != (*made.intercept.shape, *made.filler.middle.shape):
            raise InvalidInput("a stored regression has arrays that do not fit together; fit the model again")
        return made


def cells_of(hours: Integers, leads: Integers) -> Integers:
    """Return the cell of every row: its local hour and the quarter of a day that its lead (0 to 23) lies in."""
    return np.asarray(hours * LEAD_PARTS + leads * LEAD_PARTS // 24, dtype=np.int64)


def _lending(parts: int, days: float) -> Floats:
    """Return the weights ``(cells, cells)`` with which the rows of one cell count for another."""
    distance = np.abs(np.arange(24)[:, None] - np.arange(24)[None, :])
    distance = np.minimum(np.minimum(distance, 24 - distance), 3)
    lent = [min(most, share / max(days, 1.0)) for share, most in zip(LENT_DAYS, MOST_LENT, strict=True)]
    by_hour = np.array([1.0, *lent])[distance]
    by_lead = np.where(np.eye(parts, dtype=np.bool_), 1.0, LENT_LEADS)
    return np.asarray(np.kron(by_hour, by_lead), dtype=np.float64)


def fit_hour_ridge(
    table: Floats, target: Floats, cells: Integers, weights: Floats, *, parts: int, days: float, penalty: float
) -> HourRidge:
    """Return the regression of ``target`` on ``table`` by cell, rows weighted by ``weights``.

    There are 24 times ``parts`` cells, and ``days`` of history say how much they lend each other. Columns are
    standardised, so that ``penalty`` is in rows; the intercept is free. ``target`` is finite, ``table`` may have
    holes. A column that never moves gets no coefficient. A row whose error is beyond the median one counts less (the
    weights of Huber's estimator, reweighted ``PASSES`` times): a heat wave is learnt, but does not bend the rest.
    """
    filler = Filler.fit(table)
    tame = filler(table)
    centre = np.average(tame, axis=0, weights=weights)
    scale = np.sqrt(np.average((tame - centre) ** 2, axis=0, weights=weights))
    inverse = np.where(scale > 1e-9, 1.0 / np.maximum(scale, 1e-9), 0.0)
    order = np.argsort(cells, kind="stable")
    unit = np.column_stack([(tame[order] - centre) * inverse, np.ones(len(tame))])
    bounds = np.searchsorted(cells[order], np.arange(24 * parts + 1))
    target, base, own = target[order], weights[order], weights[order]
    lending = _lending(parts, days)
    solved, level = np.zeros((24 * parts, unit.shape[1])), np.zeros(24 * parts)
    for attempt in range(PASSES):
        solved, level = _solve(unit, target, own, bounds, lending, penalty)
        if attempt < PASSES - 1:
            error = np.abs(target - np.einsum("rc,rc->r", unit, solved[cells[order]]) - level[cells[order]])
            own = base / np.maximum(error / (float(np.median(error)) or 1.0), 1.0)
    coefficients = solved[:, :-1] * inverse
    return HourRidge(coefficients, solved[:, -1] + level - coefficients @ centre, filler)


def _solve(
    unit: Floats, target: Floats, weights: Floats, bounds: Integers, lending: Floats, penalty: float
) -> tuple[Floats, Floats]:
    """Return the coefficients by cell, the last one free, on top of the level of each cell."""
    cells, width = len(bounds) - 1, unit.shape[1]
    products, answers = np.zeros((cells, width, width)), np.zeros((cells, width))
    level = np.full(cells, float(np.average(target, weights=weights)))
    for cell in range(cells):
        rows = slice(bounds[cell], bounds[cell + 1])
        if bounds[cell] == bounds[cell + 1]:
            continue
        weighted = unit[rows] * weights[rows, None]
        level[cell] = np.average(target[rows], weights=weights[rows])
        products[cell] = unit[rows].T @ weighted
        answers[cell] = weighted.T @ (target[rows] - level[cell])
    ridge = np.diag([penalty] * (width - 1) + [1e-6])
    summed = (lending @ products.reshape(cells, -1)).reshape(cells, width, width) + ridge
    return np.linalg.solve(summed, (lending @ answers)[:, :, None])[:, :, 0], level
