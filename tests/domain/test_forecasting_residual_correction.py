"""The correction of residuals: what it reads, that it carries what persists, and that gaps do not stop it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting.models import residual_correction as module
from energy_cloud_dagster.domain.forecasting.models.prophet_start import posterior_mode

HOURS = 24 * 60
OFF = np.arange(HOURS) // 24 % 7 >= 5
CLOCK = np.arange(HOURS) % 24


def persistent(seed: int = 1, share: float = 0.95) -> np.ndarray:
    """Residuals of which ``share`` is left an hour later."""
    steps = np.random.default_rng(seed).normal(0, 1, HOURS)
    values = np.zeros(HOURS)
    for hour in range(1, HOURS):
        values[hour] = share * values[hour - 1] + steps[hour]
    return values


@pytest.fixture(scope="module")
def fitted() -> module.Correction:
    found = module.fit_correction(persistent(), np.zeros((HOURS, 0)), OFF, CLOCK)
    assert found is not None
    return found


def applied(
    fitted: module.Correction, residuals: np.ndarray, end: int, horizon: int = 24
) -> tuple[np.ndarray, np.ndarray]:
    part = slice(end - 240, end + horizon)
    return fitted.apply(residuals[part], np.zeros((240 + horizon, 0)), OFF[part], CLOCK[part], horizon)


def test_what_persists_is_carried_on_and_fades(fitted: module.Correction) -> None:
    """On hours that the fit did not see: better than nothing soon after the origin, no worse far from it."""
    other = persistent(seed=2)
    ends = range(300, HOURS - 24, 24)
    left = np.array([other[end : end + 24] - applied(fitted, other, end)[0] for end in ends])
    plain = np.array([other[end : end + 24] for end in ends])
    assert np.abs(left[:, 0]).mean() < 0.5 * np.abs(plain[:, 0]).mean()
    assert np.abs(left[:, -1]).mean() < 1.1 * np.abs(plain[:, -1]).mean()
    spread = applied(fitted, other, 500)[1]
    assert (np.diff(spread, axis=1) >= 0).all()
    assert spread[-1, 2] - spread[-1, 0] > 1.5 * (spread[0, 2] - spread[0, 0])


@settings(max_examples=20, deadline=None)
@given(end=st.integers(240, HOURS - 336), horizon=st.integers(1, 336), spike=st.floats(-1e6, 1e6))
def test_nothing_at_or_after_the_origin_is_read(
    fitted: module.Correction, end: int, horizon: int, spike: float
) -> None:
    spiked = persistent(seed=3)
    clean = applied(fitted, spiked, end, horizon)[0]
    spiked[end:] = spike
    np.testing.assert_array_equal(applied(fitted, spiked, end, horizon)[0], clean)
    assert clean.shape == (horizon,)
    assert np.isfinite(clean).all()


def test_the_features_of_training_and_of_use_are_the_same(fitted: module.Correction) -> None:
    """A lead between knots lies between them, a knot is its own coefficients."""
    residuals, end = persistent(seed=4), 700
    added, _ = applied(fitted, residuals, end)
    table = module.unpacked(fitted.coefficients, (len(module.KNOTS), module.GROUPS, fitted.size))
    for lead in (0, 4, 23):
        target = np.array([end + lead])
        row = module.features(residuals, np.zeros((HOURS, 0)), OFF, target, np.array([lead]))[0]
        group = 24 * module.kinds_of(OFF, target)[0] + CLOCK[end + lead]
        assert added[lead] == pytest.approx(row @ table[module.KNOTS.index(lead), group])


def test_gaps_are_filled_from_before_and_fade() -> None:
    values = persistent(seed=5)[:400]
    gap = values.copy()
    gap[200:240] = np.nan
    filled = module.filled(gap)
    np.testing.assert_array_equal(filled[200:224], module.FADING * values[176:200])
    np.testing.assert_array_equal(filled[:200], values[:200])
    assert (module.filled(np.full(300, np.nan)) == 0).all()


def test_a_spike_moves_the_correction_no_further_than_what_is_believed(fitted: module.Correction) -> None:
    spiked, far = persistent(seed=6), persistent(seed=6)
    spiked[690], far[690] = 1e3, 1e9
    np.testing.assert_array_equal(applied(fitted, spiked, 700)[0], applied(fitted, far, 700)[0])


def test_too_little_gives_no_correction_and_a_constant_series_a_zero_one() -> None:
    few = np.where(np.arange(HOURS) < 300, persistent(), np.nan)
    assert module.fit_correction(few, np.zeros((HOURS, 0)), OFF, CLOCK) is None
    short = slice(600)
    flat = module.fit_correction(np.zeros(600), np.zeros((600, 0)), OFF[short], CLOCK[short])
    assert flat is not None
    added, spread = applied(flat, np.zeros(HOURS), 500)
    assert not added.any()
    assert not spread.any()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**16))
def test_packing_keeps_every_column_to_its_step(rows: int, columns: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    values = generator.normal(0, 1, (rows, columns)) * 10.0 ** generator.integers(-6, 6, columns)
    read = module.unpacked(module.packed(values), values.shape)
    assert (np.abs(read - values) <= np.abs(values).max(axis=0) / module.STEPS).all()
    with pytest.raises(InvalidInput, match="cannot be read"):
        module.unpacked(module.packed(values), (rows + 1, columns))


def test_residuals_of_left_out_days_are_as_large_as_on_new_days() -> None:
    """A regression on noise explains part of its own rows; the residuals it gives do not flatter it."""
    generator = np.random.default_rng(7)
    rows, noise = generator.normal(0, 1, (400, 100)), generator.normal(0, 1, 400)
    start = posterior_mode(rows, noise, np.full(100, 10.0), days=400 / 24)
    own = noise - (start.level + rows @ start.coefficients) * start.scale
    assert own.std() < 0.95
    assert start.residuals.std() > 1.05
    new = generator.normal(0, 1, (4000, 100))
    fresh = generator.normal(0, 1, 4000) - (start.level + new @ start.coefficients) * start.scale
    assert start.residuals.std() == pytest.approx(fresh.std(), rel=0.15)
