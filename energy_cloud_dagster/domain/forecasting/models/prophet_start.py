"""Where Prophet's search begins: the mode of its posterior by linear algebra, and residuals of hours left out.

With a flat trend Prophet is a linear regression with normal priors, so that for a given noise its mode is a ridge
regression (Hoerl & Kennard 1970). Stan begins there and has little left to search. The same sums of squares, less
those of a block of days, give the coefficients of a fit that did not see the block, and so residuals as they would be
on days ahead; a fit's own residuals are too small to say how far they carry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from energy_cloud_dagster.domain.forecasting.series import Floats

#: Standard deviation of Prophet's prior on the level.
LEVEL_PRIOR: Final = 5.0
#: Days that are left out together, and the fewest such blocks.
BLOCK_DAYS: Final = 14
LEAST_BLOCKS: Final = 6
#: Smallest noise, as a share of the largest value: a constant series has none.
LEAST_NOISE: Final = 1e-4


@dataclass(frozen=True, eq=False)
class Start:
    """Level, coefficients and noise in units of the largest value, ``scale``.

    ``residuals`` are those out of sample, in the unit of the series.
    """

    level: float
    coefficients: Floats
    noise: float
    scale: float
    residuals: Floats

    def parameters(self) -> dict[str, Any]:
        """Return what Prophet's ``fit`` takes as ``init``."""
        return {
            "k": 0.0,
            "m": self.level,
            "delta": np.zeros(1),
            "beta": self.coefficients,
            "sigma_obs": self.noise,
        }


def posterior_mode(rows: Floats, values: Floats, priors: Floats, *, days: float) -> Start:
    """Return the ridge regression of ``values`` on ``rows``, shape (hours, columns), without gaps.

    ``priors`` are the standard deviations of the coefficients where values are in units of the largest. ``days`` is
    the length of the history; residuals are those of blocks of consecutive rows that were left out in turn.
    """
    scale = float(np.abs(values).max()) or 1.0
    wide = np.column_stack([np.ones(len(rows)), rows])
    target = values / scale
    squares, products = wide.T @ wide, wide.T @ target
    precision = 1 / np.concatenate([[LEVEL_PRIOR], priors]) ** 2
    noise = max(float(target.std()), LEAST_NOISE)
    found = np.zeros(wide.shape[1])
    for _ in range(2):  # the noise is first that of the values themselves, then that of the residuals
        found = np.linalg.solve(squares + np.diag(noise**2 * precision), products)
        noise = max(float((target - wide @ found).std()), LEAST_NOISE)
    penalty = np.diag(noise**2 * precision)
    residuals = np.empty(len(values))
    for block in np.array_split(np.arange(len(values)), min(len(values), max(LEAST_BLOCKS, round(days / BLOCK_DAYS)))):
        part = wide[block]
        without = np.linalg.solve(squares - part.T @ part + penalty, products - part.T @ target[block])
        residuals[block] = (target[block] - part @ without) * scale
    return Start(float(found[0]), found[1:], noise, scale, residuals)
