"""Sites and their region: forecasts that add up, and are not worse for it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting.sites.reconcile import fit_reconciler


def errors(sites: int, hours: int, seed: int, total: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    own = draw.normal(0, draw.uniform(0.1, 2.0, (sites, 1)), (sites, hours)) + 0.5 * draw.normal(size=hours)
    return total * draw.normal(size=hours), own


@given(sites=st.integers(1, 12), hours=st.integers(1, 200), seed=st.integers(0, 99), signed=st.booleans())
@settings(max_examples=50, deadline=None)
def test_what_is_reconciled_adds_up(sites: int, hours: int, seed: int, signed: bool) -> None:
    draw = np.random.default_rng(seed)
    signs = draw.choice([-1.0, 1.0], sites) if signed else np.ones(sites)
    reconciler = fit_reconciler(*errors(sites, hours, seed), signs)
    total, each = reconciler.reconcile(draw.normal(9, 1, 24), draw.normal(2, 1, (sites, 24)))
    np.testing.assert_allclose(signs @ each, total, atol=1e-9)
    again = reconciler.reconcile(total, each)
    np.testing.assert_allclose(again[0], total, atol=1e-9)
    np.testing.assert_allclose(again[1], each, atol=1e-9)


def test_it_is_the_projection_of_mint() -> None:
    """The closed form equals S (S' W^-1 S)^-1 S' W^-1 y with the same shrunk covariance."""
    total, each = errors(4, 400, 7)
    reconciler = fit_reconciler(total, each)
    stacked = np.vstack([total, each])
    sample = np.cov(stacked, bias=True)
    covariance = (1 - reconciler.shrinkage) * sample + reconciler.shrinkage * np.diag(np.diag(sample))
    summing = np.vstack([np.ones(4), np.eye(4)])
    inverse = np.linalg.inv(covariance)
    project = summing @ np.linalg.solve(summing.T @ inverse @ summing, summing.T @ inverse)
    base = np.array([11.0, 2.0, 3.0, 1.0, 4.0])
    found = reconciler.reconcile(base[:1], base[1:, None])
    np.testing.assert_allclose(np.concatenate([found[0], found[1][:, 0]]), project @ base, rtol=1e-9)


def test_the_surer_side_moves_less() -> None:
    draw = np.random.default_rng(1)
    each = draw.normal(0, np.array([[0.1], [1.0]]), (2, 500))
    sure = fit_reconciler(0.01 * draw.normal(size=500), each)
    unsure = fit_reconciler(100 * draw.normal(size=500), each)
    assert abs(sure.total) < 0.01
    assert sure.sites[1] > 20 * sure.sites[0]
    assert unsure.total == pytest.approx(-1, abs=0.01)
    np.testing.assert_allclose(unsure.sites, 0, atol=0.01)


def test_a_total_that_knows_more_makes_the_sites_better() -> None:
    """Sites that miss a common error gain from a total that does not; so the reconciled errors are smaller."""
    draw = np.random.default_rng(3)
    common = draw.normal(size=2000)
    each = 0.6 * common + draw.normal(0, 0.5, (8, 2000))
    total = draw.normal(0, 0.5, 2000)
    reconciler = fit_reconciler(total[:1000], each[:, :1000])
    _, better = reconciler.reconcile(total[1000:], each[:, 1000:])  # the truth is zero everywhere
    assert np.abs(better).mean() < 0.85 * np.abs(each[:, 1000:]).mean()


def test_little_evidence_leaves_the_total_and_shares_by_size() -> None:
    each = np.array([[1.0, -1.0], [3.0, np.nan]])
    reconciler = fit_reconciler(np.array([1.0, 2.0]), each)
    assert reconciler.total == 0
    np.testing.assert_allclose(reconciler.sites, [0.25, 0.75])
    unknown = fit_reconciler(np.full(60, np.nan), np.full((2, 60), np.nan))
    np.testing.assert_allclose(unknown.sites, 0.5)
    still = fit_reconciler(np.zeros(60), np.zeros((2, 60)))
    np.testing.assert_allclose(still.sites, 0.5)


def test_what_is_no_hierarchy_is_refused() -> None:
    with pytest.raises(InvalidInput, match="hierarchy"):
        fit_reconciler(np.zeros(3), np.zeros((2, 4)))
    with pytest.raises(InvalidInput, match="signs"):
        fit_reconciler(np.zeros(4), np.zeros((2, 4)), np.array([1.0, 2.0]))
    with pytest.raises(InvalidInput, match="hierarchy"):
        fit_reconciler(*errors(3, 100, 1)).reconcile(np.zeros(24), np.zeros((2, 24)))
