"""Many sites at once: panels, cheap forecasts in columns, the pooled model, and the ladder of every site."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting import seasonal_naive, similar_day
from energy_cloud_dagster.domain.forecasting.sites.blend import forecast_sites
from energy_cloud_dagster.domain.forecasting.sites.panel import Panel, wall_hours
from energy_cloud_dagster.domain.forecasting.sites.pooled import FittedSites, SiteModel
from energy_cloud_dagster.domain.forecasting.sites.profiles import Past, off_days, typical_day, weekly_naive
from energy_cloud_dagster.domain.forecasting.sites.profiles import similar_day as similar_days

START = datetime(2026, 1, 5, tzinfo=UTC)  # a Monday
ORIGIN = START + timedelta(days=42)


def homes(count: int = 6, days: int = 44, *, zone: str = "UTC", start: datetime = START) -> Panel:
    """Return made homes: a base, a morning and an evening peak that come and go, and weekends that differ."""
    draw = np.random.default_rng(5)
    index = pd.date_range(start, periods=24 * days, freq="h")
    walls = wall_hours(index, zone)
    hour, off = walls % 24, off_days(walls)
    values = []
    for _ in range(count):
        base, peak, moment = draw.uniform(0.1, 0.5), draw.uniform(0.5, 3), draw.integers(17, 21)
        shape = base + peak * np.exp(-0.5 * np.square((hour - moment) / 1.5)) * np.where(off, 1.4, 1.0)
        values.append(shape * draw.gamma(2.0, 0.5, len(index)))
    return Panel.of({f"home-{n}": pd.Series(one, index=index) for n, one in enumerate(values)}, zone)


def with_site(panel: Panel, values: np.ndarray, place: int = 0) -> Panel:
    changed = panel.values.copy()
    changed[place, : len(values)] = values
    return Panel(panel.keys, panel.start, changed, panel.timezone)


@pytest.fixture(scope="module")
def fitted() -> FittedSites:
    return SiteModel(trees=20).fit(homes().before(ORIGIN), seed=3)


def past_of(panel: Panel, origin: datetime, horizon: int = 24, *, kinds: bool = True) -> Past:
    targets = wall_hours(pd.date_range(origin, periods=horizon, freq="h"), panel.timezone)
    return Past.at(panel.before(origin).walls(), int(targets[0]), targets, kinds=kinds)


# -- in columns as one by one


@given(
    data=st.data(),
    hour=st.integers(0, 23),
    zone=st.sampled_from(["UTC", "Asia/Seoul", "America/Los_Angeles"]),
    kinds=st.booleans(),
    horizon=st.sampled_from([1, 24, 48]),
)
@settings(max_examples=30, deadline=None)
def test_similar_days_of_a_panel_are_those_of_each_series(
    data: st.DataObject, hour: int, zone: str, kinds: bool, horizon: int
) -> None:
    panel = homes(3, 30, zone=zone)
    holes = data.draw(st.lists(st.integers(0, 24 * 29), max_size=8))
    values = panel.values.copy()
    for hole in holes:
        values[hole % 3, hole : hole + 30] = np.nan
    panel = Panel(panel.keys, panel.start, values, zone)
    origin = START + timedelta(days=28, hours=hour)
    found = similar_days(past_of(panel, origin, horizon, kinds=kinds))
    for place in range(3):
        series = pd.Series(values[place], index=panel.index)
        one = similar_day(series, origin=origin, horizon=horizon, timezone=zone, same_kind=kinds)
        np.testing.assert_allclose(found[place], one.p50, rtol=1e-12)


@given(hour=st.integers(0, 23), horizon=st.sampled_from([1, 24, 200, 336]))
@settings(max_examples=20, deadline=None)
def test_the_weekly_naive_of_a_panel_is_that_of_each_series(hour: int, horizon: int) -> None:
    panel = homes(2, 30)
    origin = START + timedelta(days=28, hours=hour)
    found = weekly_naive(past_of(panel, origin, horizon))
    for place in range(2):
        series = pd.Series(panel.values[place], index=panel.index)
        one = seasonal_naive(series, origin=origin, horizon=horizon, timezone="UTC")
        np.testing.assert_allclose(found[place], one.p50)


@pytest.mark.parametrize(("zone", "night"), [("America/Los_Angeles", "2026-03-08"), ("Europe/Zurich", "2026-10-25")])
def test_a_clock_change_does_not_move_the_habits(zone: str, night: str) -> None:
    """A home that lives by the clock is forecast without error on the day of the change and after it."""
    change = pd.Timestamp(night, tz=zone)
    index = pd.date_range(change - pd.Timedelta(days=35), periods=24 * 40, freq="h").tz_convert("UTC")
    hours = index.tz_convert(zone).hour
    panel = Panel.of({"home": pd.Series(np.where(hours == 7, 5.0, hours / 10), index=index)}, zone)
    for days in (0, 1):
        origin = (change + pd.DateOffset(days=days)).tz_convert("UTC").to_pydatetime()
        ahead = panel.index[panel.index >= pd.Timestamp(origin)][:25]
        found = forecast_sites(None, panel, origin, 25)
        np.testing.assert_allclose(found.p50[0], panel.values[0, panel.index.get_indexer(ahead)], atol=1e-9)


def test_the_typical_day_lies_in_order_and_within_what_was_measured() -> None:
    panel = homes()
    found = typical_day(past_of(panel, ORIGIN))
    assert (np.diff(found, axis=-1) >= 0).all()
    assert (found.min(axis=(1, 2)) >= panel.values.min(axis=1)).all()
    assert (found.max(axis=(1, 2)) <= panel.values.max(axis=1)).all()


# -- the panel


def test_a_panel_of_columns_is_that_of_series() -> None:
    panel = homes(2, 3)
    first = int(START.timestamp()) // 3600
    hours = list(range(first - 1, first + 24 * 3 + 1))
    columns = {key: (hours, [9.0, *line, 9.0]) for key, line in zip(panel.keys, panel.values, strict=True)}
    made = Panel.of_columns((*panel.keys, "new"), columns, "UTC", start=START, end=START + timedelta(days=3))
    np.testing.assert_array_equal(made.values[:2], panel.values)
    assert np.isnan(made.values[2]).all()
    assert made.start == panel.start


def test_a_panel_refuses_what_does_not_fit_together() -> None:
    with pytest.raises(InvalidInput, match="cannot hold"):
        Panel(("a",), pd.Timestamp(START), np.zeros((2, 3)), "UTC")
    with pytest.raises(InvalidInput, match="twice"):
        Panel(("a", "a"), pd.Timestamp(START), np.zeros((2, 3)), "UTC")


# -- the ladder


def test_nothing_after_the_origin_matters(fitted: FittedSites) -> None:
    panel = homes()
    later = panel.values.copy()
    later[:, 24 * 42 :] = 1e6
    spiked = Panel(panel.keys, panel.start, later, panel.timezone)
    one, other = (forecast_sites(fitted, each, ORIGIN, 24) for each in (panel, spiked))
    for name in ("p10", "p50", "p90", "weights"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    before = forecast_sites(None, spiked, ORIGIN, 24)
    np.testing.assert_array_equal(before.p50, forecast_sites(None, panel, ORIGIN, 24).p50)


def test_a_fit_sees_nothing_after_its_end_and_repeats_itself(fitted: FittedSites) -> None:
    again = SiteModel(trees=20).fit(homes().before(ORIGIN), seed=3)
    assert again.digest == fitted.digest
    read = FittedSites.from_text(fitted.to_text())
    assert read.digest == fitted.digest
    panel = homes()
    one, other = (forecast_sites(each, panel, ORIGIN, 24) for each in (fitted, read))
    np.testing.assert_array_equal(one.p50, other.p50)
    np.testing.assert_array_equal(one.p90, other.p90)


def test_a_model_of_later_days_is_refused(fitted: FittedSites) -> None:
    found = forecast_sites(fitted, homes(), ORIGIN - timedelta(hours=1), 24)
    assert set(found.rungs) == {"similar_day"}
    assert all("after the origin" in notes[0] for notes in found.notes)


def test_every_site_is_answered_and_says_how(fitted: FittedSites) -> None:
    """Gaps, a stuck meter, a new meter, one never heard of, a prosumer and zeros by night: each on its own rung."""
    panel = homes()
    values = panel.values.copy()
    hours = 24 * 42
    values[0, hours - 30 : hours] = np.nan
    values[1, hours - 200 : hours] = 0.7
    values[2, : hours - 5] = np.nan
    values[3] = np.nan
    values[4] -= 1.0
    night = np.arange(values.shape[1]) % 24 < 6
    values[5, night] = 0.0
    found = forecast_sites(fitted, Panel(panel.keys, panel.start, values, "UTC"), ORIGIN, 24)
    assert found.rungs == ("champion", "similar_day", "persistence", "persistence", "champion", "champion")
    assert any("gaps: 30 of the last 168" in note for note in found.notes[0])
    np.testing.assert_allclose(found.p50[1], 0.7)
    assert any("constant series" in note for note in found.notes[1])
    np.testing.assert_allclose(found.p50[2], values[2, hours - 1])
    assert found.notes[3][-1].startswith("no known hour")
    assert (found.p50[3] == 0).all()
    assert (found.p50[4] < 0).any()
    assert (found.p90[5, 1:5] == 0).all()
    assert (found.p10[[0, 1, 2, 3, 5]] >= 0).all()
    for key in panel.keys:
        assert found.forecast(key).horizon == 24  # a Forecast refuses crossed or unknown values
    with pytest.raises(InvalidInput, match="no site"):
        found.forecast("else")


@given(
    start=st.integers(0, 1000),
    length=st.integers(1, 1000),
    what=st.sampled_from([np.nan, 0.0, -3.0, 1e9]),
    days=st.integers(0, 44),
    horizon=st.sampled_from([1, 24, 72, 336]),
    hour=st.integers(0, 23),
)
@settings(max_examples=40, deadline=None)
def test_no_history_is_too_odd(start: int, length: int, what: float, days: int, horizon: int, hour: int) -> None:
    panel = homes(2)
    values = panel.values.copy()
    values[0, start : start + length] = what
    origin = START + timedelta(days=days, hours=hour)
    found = forecast_sites(None, Panel(panel.keys, panel.start, values, "UTC"), origin, horizon)
    for key in found.keys:
        assert found.forecast(key).horizon == horizon


def test_the_blend_follows_what_was_right_on_the_site_itself() -> None:
    """Shifts that repeat by weekday only: the weekday's mean wins the site, and the others keep their own weights."""
    panel = homes()
    shifts = np.repeat(np.array([5.0, 0.0, 3.0, 0.0, 6.0, 0.0, 0.5]), 24)
    panel = with_site(panel, np.resize(shifts, panel.values.shape[1]))
    found = forecast_sites(None, panel, ORIGIN, 24)
    weekday, weekly = found.weights[0, 3], found.weights[0, 4]
    assert weekday + weekly > 0.95
    np.testing.assert_allclose(found.p50[0], 5.0, atol=0.2)
    assert found.weights[1, 3] < 0.5
    np.testing.assert_allclose(found.weights.sum(axis=1), 1.0)


def test_days_since_the_fit_tell_more_than_the_fit_did(fitted: FittedSites) -> None:
    """What was said of the pooled model at its fit weighs at first, and nothing once a fortnight has shown it."""
    panel = homes(days=57)
    praised, blamed = (replace(fitted, worth=np.full(6, worth)) for worth in (0.2, 5.0))
    for days, alike in ((0, False), (14, True)):
        origin = ORIGIN + timedelta(days=days)
        one, other = (forecast_sites(each, panel, origin, 24).weights[:, 0] for each in (praised, blamed))
        assert np.allclose(one, other) == alike
        assert (one >= other).all()


def test_the_bands_hold_on_made_homes(fitted: FittedSites) -> None:
    panel = homes()
    found = forecast_sites(fitted, panel, ORIGIN, 48)
    truth = panel.values[:, 24 * 42 :]
    assert 0.65 <= ((found.p10 <= truth) & (truth <= found.p90)).mean() <= 0.92


def test_a_site_that_came_later_takes_what_is_usual(fitted: FittedSites) -> None:
    panel = homes()
    renamed = Panel(("new", *panel.keys[1:]), panel.start, panel.values, panel.timezone)
    worth, bands = fitted.judged(renamed.keys)
    assert worth[0] == fitted.usual
    np.testing.assert_array_equal(bands.sites[0], 1.0)
    assert forecast_sites(fitted, renamed, ORIGIN, 24).rungs[0] == "champion"


def test_too_little_to_learn_from_is_refused() -> None:
    with pytest.raises(InvalidInput, match="needs 18 days"):
        SiteModel().fit(homes(2, 17), seed=1)
    nothing = Panel(("a",), pd.Timestamp(START), np.full((1, 24 * 30), np.nan), "UTC")
    with pytest.raises(InvalidInput, match="learn from"):
        SiteModel().fit(nothing, seed=1)


@pytest.mark.parametrize("text", ["{", '{"model":"prophet","format":1}', '{"model":"pooled_sites","format":1}'])
def test_broken_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        FittedSites.from_text(text)
