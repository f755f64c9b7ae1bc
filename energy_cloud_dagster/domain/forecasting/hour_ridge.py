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
    """``intercept[hour] + columns @ coefficients[hour]``; shapes ``(24,)`` and ``(24, columns)``."""

    coefficients: Floats
    intercept: Floats
    filler: Filler

    def evaluate(self, table: Floats, hours: Integers) -> Floats:
        """Return the answers for ``table``, shape ``(rows, columns)``, at the local ``hours`` of the day."""
        tame = self.filler(table)
        return np.asarray(np.einsum("rc,rc->r", tame, self.coefficients[hours]) + self.intercept[hours])

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
        width = made.filler.middle.shape
        if made.coefficients.shape != (24, *width) or made.intercept.shape != (24,):
            raise InvalidInput("a stored regression has arrays that do not fit together; fit the model again")
        return made


def _lending(days: float) -> Floats:
    """Return the weights ``(24, 24)`` with which the rows of one hour count for another."""
    distance = np.abs(np.arange(24)[:, None] - np.arange(24)[None, :])
    distance = np.minimum(np.minimum(distance, 24 - distance), 3)
    lent = [min(most, share / max(days, 1.0)) for share, most in zip(LENT_DAYS, MOST_LENT, strict=True)]
    return np.asarray(np.array([1.0, *lent])[distance], dtype=np.float64)


def fit_hour_ridge(table: Floats, target: Floats, hours: Integers, weights: Floats, *, penalty: float) -> HourRidge:
    """Return the regression of ``target`` on ``table`` by local hour, rows weighted by ``weights``.

    Columns are standardised, so that ``penalty`` is in rows; the intercept is free. ``target`` is finite, ``table``
    may have holes. A column that never moves gets no coefficient.
    """
    filler = Filler.fit(table)
    tame = filler(table)
    centre = np.average(tame, axis=0, weights=weights)
    scale = np.sqrt(np.average((tame - centre) ** 2, axis=0, weights=weights))
    inverse = np.where(scale > 1e-9, 1.0 / np.maximum(scale, 1e-9), 0.0)
    unit = np.column_stack([(tame - centre) * inverse, np.ones(len(tame))])
    width = unit.shape[1]
    products, answers = np.zeros((24, width, width)), np.zeros((24, width))
    overall = float(np.average(target, weights=weights))
    level = np.full(24, overall)
    for hour in range(24):
        rows = hours == hour
        if not rows.any():
            continue
        own = unit[rows]
        weighted = own * weights[rows][:, None]
        level[hour] = np.average(target[rows], weights=weights[rows])
        products[hour] = own.T @ weighted
        answers[hour] = weighted.T @ (target[rows] - level[hour])
    # rows per hour and day may be many (several origins), so the weight of a day is that of its rows
    lending = _lending(float(products[:, -1, -1].max()))
    ridge = np.diag([penalty] * (width - 1) + [1e-6])
    summed = np.tensordot(lending, products, axes=1) + ridge
    solved = np.linalg.solve(summed, (lending @ answers)[:, :, None])[:, :, 0]
    coefficients = solved[:, :-1] * inverse
    intercept = solved[:, -1] + level - coefficients @ centre
    return HourRidge(coefficients, intercept, filler)
