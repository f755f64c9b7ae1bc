"""Forecasts that add up: sites and their region, reconciled by minimum trace (MinT).

The region's own forecast sees what no site shows (the weather of all), the sites' forecasts see what the region hides.
Forecasts ``y = (total, sites)`` are coherent where ``total = sum(signs * sites)``. With the covariance ``W`` of their
errors, the coherent forecast that is nearest in ``W``'s norm, and best among the linear unbiased ones, is

    y - W c (c' W c)^-1 c' y,   c = (1, -signs)

(Wickramasuriya, Athanasopoulos & Hyndman 2019, in the form of Di Fonzo & Girolimetto 2023). One total makes ``c' W c``
a single number, so that thousands of sites cost one product of a matrix and a vector, and no inverse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting.series import Floats

#: Fewest hours with all errors known from which covariances are taken; with fewer, the sites' shares of the load.
LEAST_HOURS: Final = 48


@dataclass(frozen=True, eq=False)
class Reconciler:
    """How a gap between total and sites is shared out: ``total`` and ``sites`` (sites,) times the gap.

    The gap is ``total - sum(signs * sites)``; the parts take it up whole: ``sum(signs * sites) - total`` is 1.
    ``shrinkage`` says how far the sample covariance was drawn towards its diagonal (1: only variances count).
    """

    total: float
    sites: Floats
    signs: Floats
    shrinkage: float

    def reconcile(self, total: Floats, sites: Floats) -> tuple[Floats, Floats]:
        """Return coherent P50s from those of the total (hours,) and of the sites (sites, hours)."""
        if total.shape != sites.shape[1:] or len(sites) != len(self.sites):
            raise InvalidInput(f"a total of shape {total.shape} and sites of {sites.shape} are not one hierarchy")
        gap = total - self.signs @ sites
        return total + self.total * gap, sites + self.sites[:, None] * gap


def fit_reconciler(total_errors: Floats, site_errors: Floats, signs: Floats | None = None) -> Reconciler:
    """Return the reconciler for errors (forecast less actual) of the total (hours,) and the sites (sites, hours).

    The errors are out-of-sample ones of the same hours and lead; hours of which one is unknown do not count. ``signs``
    are +1 or -1 by site (a load that adds to the total, a generation that takes from it); all +1 by default. The
    covariance is the sample's, its correlations shrunk towards zero by the intensity of Schäfer & Strimmer (2005), as
    MinT(shrink). Fewer than ``LEAST_HOURS`` hours, or no error at all, leave the total as it is and share the gap
    among the sites by the mean magnitude of their errors, evenly where none is known.
    """
    sites = len(site_errors)
    if not sites or total_errors.shape != site_errors.shape[1:]:
        raise InvalidInput(f"errors of shape {total_errors.shape} and {site_errors.shape} are not one hierarchy")
    along = np.ones(sites) if signs is None else np.asarray(signs, dtype=np.float64)
    if along.shape != (sites,) or not np.isin(along, (-1.0, 1.0)).all():
        raise InvalidInput("signs are +1 or -1, one a site")
    errors = np.concatenate([total_errors[None], site_errors])
    complete = np.isfinite(errors).all(axis=0)
    if complete.sum() < LEAST_HOURS:
        return _by_size(site_errors, along)
    known = errors[:, complete]
    shrinkage = _shrinkage(known)
    direction = np.concatenate([[1.0], -along])
    centred = known - known.mean(axis=1, keepdims=True)
    hours = known.shape[1]
    variance = np.square(centred).mean(axis=1)
    # W c without W: the sample part is a projection of the errors, the shrunk part their variances
    carried = (1 - shrinkage) * centred @ (direction @ centred) / hours + shrinkage * variance * direction
    whole = float(direction @ carried)
    if whole <= 1e-12 * max(float(variance.max()), 1e-300):
        return _by_size(site_errors, along)
    shares = -carried / whole
    return Reconciler(float(shares[0]), shares[1:], along, shrinkage)


def _by_size(site_errors: Floats, signs: Floats) -> Reconciler:
    known = np.isfinite(site_errors)
    size = np.where(known, np.abs(site_errors), 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    size = size if size.sum() > 0 else np.ones(len(size))
    return Reconciler(0.0, signs * size / size.sum(), signs, 1.0)


def _shrinkage(errors: Floats) -> float:
    """Return how far the correlations of ``errors`` (series, hours) are to be drawn to zero, 0..1.

    The sum of the variances of the off-diagonal correlations over the sum of their squares (Schäfer & Strimmer 2005,
    eq. 10), from moments only: no matrix of hours by series by series is made.
    """
    hours = errors.shape[1]
    centred = errors - errors.mean(axis=1, keepdims=True)
    spread = np.sqrt(np.square(centred).mean(axis=1, keepdims=True))
    scaled = np.where(spread > 0, centred / np.where(spread > 0, spread, 1.0), 0.0)
    products = scaled @ scaled.T / hours
    squares = np.square(scaled)
    variances = (squares @ squares.T / hours - np.square(products)) / max(hours - 1, 1)
    off = ~np.eye(len(errors), dtype=bool)
    total = float(np.square(products[off]).sum())
    return float(np.clip(variances[off].sum() / total, 0.0, 1.0)) if total > 0 else 1.0
