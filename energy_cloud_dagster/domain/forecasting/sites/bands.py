"""How wide the bands of many sites have to be: split conformal by hour of the day for all, then by site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from energy_cloud_dagster.domain.forecasting.arrays import packed, unpacked
from energy_cloud_dagster.domain.forecasting.series import Floats, Integers

#: Days of all sites' scores that a site's own band weighs as much as.
SHRINK_DAYS: Final = 7
#: Share of the scores that a band holds on either side: a little more than nine tenths, since the days ahead differ
#: from those that it was measured on.
HELD: Final = 0.905
#: Fewest scores from which the factor of an hour is taken, and days of those of a site.
LEAST_SCORES: Final = 50
LEAST_DAYS: Final = 3


@dataclass(frozen=True, eq=False)
class Bands:
    """Factors on the widths of bands.

    ``below`` and ``above`` (24,) by hour of the day, ``sites`` (sites, 2) by site.
    """

    below: Floats
    above: Floats
    sites: Floats

    @classmethod
    def wide(cls, sites: int) -> Self:
        """Return the factors of one: bands as they are."""
        return cls(np.ones(24), np.ones(24), np.ones((sites, 2)))

    def applied(self, quantiles: Floats, hours: Integers) -> tuple[Floats, Floats]:
        """Return P10 and P90 with the bands of ``quantiles`` (sites, targets, 3) widened, NaN where unknown.

        ``hours`` are the hours of the day of the targets.
        """
        centre = quantiles[..., 1]
        below = (centre - quantiles[..., 0]) * self.below[hours] * self.sites[:, :1]
        above = (quantiles[..., 2] - centre) * self.above[hours] * self.sites[:, 1:]
        return centre - np.maximum(below, 0.0), centre + np.maximum(above, 0.0)

    def document(self) -> dict[str, Any]:
        """Return the factors for JSON."""
        return {name: packed(getattr(self, name)) for name in ("below", "above", "sites")}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Return the factors that ``document()`` wrote; broken arrays raise ``InvalidInput``."""
        return cls(unpacked(document["below"]), unpacked(document["above"]), unpacked(document["sites"]))


def calibrated(quantiles: Floats, actual: Floats, known: npt.NDArray[np.bool_], hours: Integers) -> Bands:
    """Return the factors under which a tenth of ``actual`` lies below P10 and a tenth above P90.

    ``quantiles`` (sites, hours, 3) were made without ``actual`` (sites, hours); ``known`` says which count. A
    deviation from P50 is measured in the band's own width on that side; the factor is the quantile of these scores
    that leaves a tenth outside: over all sites for an hour of the day, then over a site's own scores against that,
    drawn towards 1 as if ``SHRINK_DAYS`` days of it had been seen (split conformal prediction, Romano et al. 2019).
    """
    centre = quantiles[..., 1]
    factors, widths = [], np.ones((len(actual), 2))
    for side, (bound, sign) in enumerate(((0, -1.0), (2, 1.0))):
        width = np.abs(quantiles[..., bound] - centre)
        usable = known & (width > 0)
        scores = np.where(usable, sign * (actual - centre) / np.where(usable, width, 1.0), np.nan)
        factor = np.ones(24)
        for hour in range(24):
            own = scores[:, hours == hour]
            own = own[np.isfinite(own)]
            if len(own) >= LEAST_SCORES:
                factor[hour] = max(float(np.quantile(own, HELD)), 0.0)
        factors.append(factor)
        relative = scores / np.maximum(factor[hours], 1e-6)
        days = np.isfinite(relative).sum(axis=1) / 24
        for site in np.flatnonzero(days >= LEAST_DAYS):
            own = relative[site][np.isfinite(relative[site])]
            raw = float(np.clip(np.quantile(own, HELD), 0.2, 5.0))
            widths[site, side] = (days[site] * raw + SHRINK_DAYS) / (days[site] + SHRINK_DAYS)
    return Bands(factors[0], factors[1], widths)
