"""Solar and wind: the models know their plant, forecast in bands that hold, never look ahead, and always answer."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energy_cloud_dagster import sample_data
from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting import Fitted, Forecast, wind_availability
from energy_cloud_dagster.domain.forecasting.generation.analogs import LEADS, Analogs, Memory, ranks_of, scores_of
from energy_cloud_dagster.domain.forecasting.generation.plants import solar_output, wind_output
from energy_cloud_dagster.domain.forecasting.generation.power_curve import PowerCurve, power_curve
from energy_cloud_dagster.domain.forecasting.generation.solar import FittedSolar, SolarModel
from energy_cloud_dagster.domain.forecasting.generation.sun import Place, sky
from energy_cloud_dagster.domain.forecasting.generation.wind import FittedWind, WindModel

GOLDEN = Place(39.742, -105.173, 1829.0)
DATA = Path(__file__).parents[2].parent / "shared" / "data"
ORIGIN = datetime(2026, 6, 10, 6, tzinfo=UTC)
HOUR = pd.Timedelta(hours=1)


@cache
def plant(days: int = 60) -> pd.DataFrame:
    """A plane that looks south at 30 degrees under changing clouds, up to a week after ``ORIGIN``; 1 is 1 kW."""
    index = pd.date_range(pd.Timestamp(ORIGIN) - pd.Timedelta(days=days), periods=24 * (days + 7), freq="h")
    dice = np.random.default_rng(1)
    cloudy = np.repeat(dice.choice([0.25, 0.6, 1.0], size=days + 7), 24) * dice.uniform(0.85, 1.0, len(index))
    clear = sky(index, GOLDEN)
    irradiance = clear.clear * cloudy
    above = sky(index, GOLDEN, irradiance)
    east, north, up, diffuse = above.parts
    tilt = np.radians(30)
    plane = np.maximum(up * np.cos(tilt) - north * np.sin(tilt), 0) + diffuse
    frame = pd.DataFrame({"irradiance": irradiance, "temperature": 15.0, "output": 0.85 * plane}, index=index)
    assert np.abs(east).max() > 0
    return frame


@cache
def farm(hours: int = 1200) -> pd.DataFrame:
    """A turbine (1 is its rated power) whose wind the forecast knows with an error that lasts some hours."""
    index = pd.date_range(pd.Timestamp(ORIGIN) - hours * HOUR, periods=hours + 72, freq="h")
    dice = np.random.default_rng(2)
    speed, error = np.empty(len(index)), np.empty(len(index))
    level = slip = 0.0
    for place in range(len(index)):
        level = 0.97 * level + dice.normal(0, 0.25)
        slip = 0.9 * slip + dice.normal(0, 0.2)
        speed[place], error[place] = level, slip
    truth = np.clip(8 + 3 * speed, 0.2, 24)
    frame = pd.DataFrame({"wind_speed": np.clip(truth + error, 0, 30) / 1.2}, index=index)
    frame["site"] = truth
    frame["output"] = CURVE(truth)
    return frame


CURVE = PowerCurve((0.0, 3.0, 6.0, 9.0, 12.0, 14.0), (0.0, 0.0, 0.15, 0.55, 0.95, 1.0))


def mean_error(forecast: Forecast, truth: pd.Series) -> float:
    return float(np.abs(forecast.p50 - truth.reindex(forecast.index).to_numpy()).mean())


# -- the sun


def test_the_sky_is_a_sky() -> None:
    index = pd.date_range("2026-06-21", periods=24, freq="h", tz="UTC")
    seen = sky(index, Place(0.0, 0.0))
    assert seen.clear.argmax() in (11, 12)
    assert (seen.clear[:5] == 0).all()
    assert 800 < seen.clear.max() < 1150
    assert seen.elevation.max() == pytest.approx(90 - 23.4, abs=2)  # the sun of midsummer over the equator
    assert seen.azimuth[8] < 90
    assert seen.azimuth[16] > 270
    half = sky(index, Place(0.0, 0.0), 0.5 * seen.clear)
    bright = seen.clear > 100
    assert half.clearness[bright] == pytest.approx(0.5)
    level = half.parts[2] + half.parts[3]
    assert level[bright] == pytest.approx(0.5 * seen.clear[bright] / 1000, rel=0.05)  # the parts add up


@pytest.mark.parametrize(("latitude", "longitude"), [(91, 0), (0, 181), (-90.5, 0)])
def test_a_place_off_the_earth_is_refused(latitude: float, longitude: float) -> None:
    with pytest.raises(InvalidInput, match="latitude"):
        Place(latitude, longitude)


def solar_fit(columns: list[str] | None) -> Fitted:
    past = plant()[: pd.Timestamp(ORIGIN) - HOUR]
    model = SolarModel(GOLDEN.latitude, GOLDEN.longitude, GOLDEN.altitude)
    return model.fit(past["output"], None if columns is None else past[columns], timezone="America/Denver", seed=0)


def test_known_irradiance_gives_the_output_of_a_plane_that_nobody_described() -> None:
    frame = plant()
    past = frame["output"][: pd.Timestamp(ORIGIN) - HOUR]
    one = solar_fit(["irradiance", "temperature"]).predict(past, frame, ORIGIN, 48)
    assert mean_error(one, frame["output"]) < 0.02
    yesterday = frame["output"].shift(24).reindex(one.index)
    assert mean_error(one, frame["output"]) < 0.2 * float((yesterday - frame["output"].reindex(one.index)).abs().mean())


def test_without_irradiance_the_last_hours_clouds_stay() -> None:
    """The same plant at the same hour: after a dull morning less is expected than after a bright one."""
    frame = plant()
    noon = pd.Timestamp(ORIGIN) + 12 * HOUR
    fitted = solar_fit(None)
    clear = 0.85 * sky(pd.DatetimeIndex(frame.index), GOLDEN).clear / 1000
    base = frame["output"][: noon - HOUR]
    answers = []
    for share in (0.2, 1.0):
        morning = base.copy()
        morning.iloc[-24:] = share * clear[: len(base)][-24:]
        answers.append(fitted.predict(morning, None, noon.to_pydatetime(), 6).p50.sum())
    assert answers[0] < 0.75 * answers[1]


def test_the_sun_does_not_shine_by_night() -> None:
    frame = plant()
    for columns, ahead in ((None, None), (["irradiance"], frame)):
        one = solar_fit(columns).predict(frame["output"][: pd.Timestamp(ORIGIN) - HOUR], ahead, ORIGIN, 24)
        dark = sky(one.index, GOLDEN).clear == 0
        assert dark.sum() >= 7
        assert not one.p90[dark].any()


def test_irradiance_that_is_missing_ahead_is_refused_and_the_ladder_steps_down() -> None:
    frame = plant()
    past = frame["output"][: pd.Timestamp(ORIGIN) - HOUR]
    fitted = solar_fit(["irradiance"])
    with pytest.raises(InvalidInput, match="irradiance"):
        fitted.predict(past, None, ORIGIN, 24)
    holed = frame.copy()
    holed.loc[pd.Timestamp(ORIGIN) + 13 * HOUR, "irradiance"] = np.nan
    with pytest.raises(InvalidInput, match="1 daylight hours"):
        fitted.predict(past, holed, ORIGIN, 24)
    one = solar_output(past, origin=ORIGIN, horizon=24, timezone="America/Denver", place=GOLDEN, weather=holed)
    assert any("unknown in 1 daylight hours" in note for note in one.notes)
    assert any("no irradiance" in note for note in one.notes)
    gaps = frame.copy()
    gaps.iloc[10:40] = np.nan  # in the past they stop nothing
    rested = solar_output(past, origin=ORIGIN, horizon=24, timezone="America/Denver", place=GOLDEN, weather=gaps)
    assert "solar from irradiance" in rested.notes


def test_a_plant_without_a_place_takes_the_mean_of_its_days() -> None:
    past = plant()["output"][: pd.Timestamp(ORIGIN) - HOUR]
    one = solar_output(past, origin=ORIGIN, horizon=24, timezone="America/Denver")
    assert one.model == "similar_day"
    assert any("no location" in note for note in one.notes)


# -- the wind


def test_a_power_curve_is_the_mean_of_its_bins_and_leaves_faults_out() -> None:
    dice = np.random.default_rng(3)
    speed = dice.uniform(0, 16, 6000)
    power = CURVE(speed) + dice.normal(0, 0.02, 6000)
    power[dice.random(6000) < 0.03] = 0.0  # standstills
    power[:50] = np.nan
    found = power_curve(speed, power)
    asked = np.arange(0, 15, 0.25)
    assert np.abs(found(asked) - CURVE(asked)).max() < 0.03
    assert (np.diff(found.power) >= 0).all()
    assert found(30.0) == 0
    thin = power_curve(speed, power, density=np.full(6000, 1.0))
    assert thin(8.0, np.array(1.0)) == pytest.approx(found(8.0), abs=0.02)  # the same air, in and out
    assert thin(8.0) > found(8.0)  # denser air makes more of the same wind


def test_too_little_for_a_power_curve_is_refused() -> None:
    with pytest.raises(InvalidInput, match="bins"):
        power_curve(np.array([5.0] * 50), np.array([0.1] * 50))
    with pytest.raises(InvalidInput, match="pair"):
        power_curve(np.zeros(3), np.zeros(4))


def test_wind_from_its_forecast_beats_the_plant_s_own_past_and_finds_the_height() -> None:
    frame = farm()
    past = frame[: pd.Timestamp(ORIGIN) - HOUR]
    weather = frame[["wind_speed"]]
    fitted = WindModel(CURVE).fit(past["output"], past[["wind_speed"]], timezone="UTC", seed=0)
    assert fitted.factor == pytest.approx(1.2, abs=0.05)
    with_wind = fitted.predict(past["output"], weather, ORIGIN, 48)
    own = wind_output(past["output"], origin=ORIGIN, horizon=48, timezone="UTC")
    assert mean_error(with_wind, frame["output"]) < 0.6 * mean_error(own, frame["output"])
    assert (with_wind.p90 - with_wind.p10).mean() < (own.p90 - own.p10).mean()


def test_wind_bands_hold_what_they_say() -> None:
    frame = farm()
    for columns, least, most in ((["wind_speed"], 0.7, 0.9), (None, 0.62, 0.95)):
        inside = []
        for back in range(24, 24 * 21, 48):
            origin = pd.Timestamp(ORIGIN) + 72 * HOUR - back * HOUR
            past = frame[: origin - HOUR]
            fitted = WindModel().fit(past["output"], None if columns is None else past[columns], timezone="UTC", seed=0)
            one = fitted.predict(past["output"], frame, origin.to_pydatetime(), 24)
            truth = frame["output"].reindex(one.index).to_numpy()
            inside.append(((one.p10 - 1e-9 <= truth) & (truth <= one.p90 + 1e-9)).mean())
        assert least < np.mean(inside) < most, (columns, np.mean(inside))


def test_the_last_hours_error_of_the_wind_fades() -> None:
    frame = farm()
    past = frame[: pd.Timestamp(ORIGIN) - HOUR]
    fitted = WindModel(CURVE).fit(past["output"], past[["wind_speed"]], timezone="UTC", seed=0)
    steady = frame[["wind_speed"]].copy()
    steady[pd.Timestamp(ORIGIN) - 6 * HOUR :] = 7.0
    answers = {}
    for level in (0.2, 0.9):
        recent = past["output"].copy()
        recent.iloc[-6:] = level
        answers[level] = fitted.predict(recent, steady, ORIGIN, 48).p50
    difference = answers[0.9] - answers[0.2]
    assert difference[0] > 0.05
    assert difference[40] < difference[0] / 3


def test_wind_that_is_missing_ahead_steps_down() -> None:
    frame = farm()
    past = frame["output"][: pd.Timestamp(ORIGIN) - HOUR]
    short = frame[["wind_speed"]][: pd.Timestamp(ORIGIN) + 5 * HOUR]
    one = wind_output(past, origin=ORIGIN, horizon=24, timezone="UTC", curve=CURVE, weather=short)
    assert any("wind_speed is unknown in 18 hours" in note for note in one.notes)
    assert any("no wind speed" in note for note in one.notes)


# -- both


RULES: dict[str, Callable[[pd.Series, datetime], Forecast]] = {
    "solar": lambda history, origin: solar_output(
        history, origin=origin, horizon=24, timezone="America/Denver", place=GOLDEN, weather=plant()
    ),
    "clear": lambda history, origin: solar_output(
        history, origin=origin, horizon=24, timezone="America/Denver", place=GOLDEN
    ),
    "wind": lambda history, origin: wind_output(
        history, origin=origin, horizon=24, timezone="UTC", curve=CURVE, weather=farm()[["wind_speed"]]
    ),
    "own": lambda history, origin: wind_output(history, origin=origin, horizon=24, timezone="UTC"),
}


@pytest.mark.parametrize("rule", RULES)
def test_nothing_at_or_after_the_origin_matters(rule: str) -> None:
    output = (farm() if rule in ("wind", "own") else plant())["output"]
    planted = output.copy()
    planted[pd.Timestamp(ORIGIN) :] = 77.0
    for origin in (ORIGIN, ORIGIN.replace(hour=17, day=9)):
        expected = RULES[rule](output[: pd.Timestamp(origin) - HOUR], origin)
        for history in (output, planted):
            found = RULES[rule](history, origin)
            assert found.frame().equals(expected.frame())
            assert found.notes == expected.notes


@pytest.mark.parametrize("rule", RULES)
@given(
    values=st.lists(st.one_of(st.none(), st.floats(-2, 3), st.sampled_from([0.0, 0.5, 1e6])), min_size=0, max_size=200)
)
@settings(max_examples=8, deadline=None)
def test_every_history_gets_a_fraction_and_a_reason(rule: str, values: list[float | None]) -> None:
    index = pd.date_range(end=pd.Timestamp(ORIGIN) - HOUR, periods=len(values), freq="h")
    history = pd.Series([np.nan if one is None else one for one in values], index=index, dtype=float)
    one = RULES[rule](history, ORIGIN)
    assert (one.p10 >= 0).all()
    assert (one.p90 <= 1).all()
    assert one.rung == "champion" or one.notes


DICE = np.random.default_rng(6)
BROKEN = {
    "zeros": np.zeros(1008),
    "constant": np.full(1008, 0.5),
    "negative": -DICE.random(1008),
    "unknown": np.full(1008, np.nan),
    "one week": np.where(np.arange(1008) < 840, np.nan, DICE.random(1008)),
    "two weeks' gap": np.where(np.arange(1008) > 672, np.nan, DICE.random(1008)),
    "infinite": np.where(DICE.random(1008) < 0.01, np.inf, DICE.random(1008)),
    "almost nothing": 1e-300 * DICE.random(1008),
}


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("name", BROKEN)
def test_broken_histories_get_an_answer_and_a_word(name: str) -> None:
    index = pd.date_range(end=pd.Timestamp(ORIGIN) - HOUR, periods=1008, freq="h")
    history = pd.Series(BROKEN[name], index=index)
    span = pd.date_range(index[0], periods=1008 + 48, freq="h")
    level = pd.DataFrame({"irradiance": 400.0, "wind_speed": 8.0, "wind_direction": 10.0}, index=span)
    for weather in (level, level[:1011]):
        for place in (GOLDEN, Place(90.0, 0.0)):
            one = solar_output(history, origin=ORIGIN, horizon=48, timezone="UTC", place=place, weather=weather)
            assert one.notes
        assert wind_output(history, origin=ORIGIN, horizon=48, timezone="UTC", weather=weather).notes


def test_a_spike_bends_no_plane() -> None:
    frame = plant()
    past = frame["output"][: pd.Timestamp(ORIGIN) - HOUR].copy()
    past.iloc[[100, 700]] = 1e6
    model = SolarModel(GOLDEN.latitude, GOLDEN.longitude, GOLDEN.altitude)
    fitted = model.fit(past, frame[["irradiance"]], timezone="UTC", seed=0)
    assert mean_error(fitted.predict(past, frame, ORIGIN, 48), frame["output"]) < 0.02


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: solar_fit(None), FittedSolar),
        (lambda: solar_fit(["irradiance", "temperature"]), FittedSolar),
        (
            lambda: WindModel(CURVE).fit(
                farm()["output"][: pd.Timestamp(ORIGIN) - HOUR], farm()[["wind_speed"]], timezone="UTC", seed=0
            ),
            FittedWind,
        ),
    ],
)
def test_a_stored_model_forecasts_as_the_fresh_one(make: Callable[[], Fitted], kind: type[Fitted]) -> None:
    fitted = make()
    frame = farm() if kind is FittedWind else plant()
    past = frame["output"][: pd.Timestamp(ORIGIN) - HOUR]
    again = kind.from_text(fitted.to_text())
    assert again.digest == fitted.digest == make().digest
    one, other = (each.predict(past, frame, ORIGIN, 24) for each in (fitted, again))
    assert one.frame().equals(other.frame())
    with pytest.raises(InvalidInput, match="saw hours"):
        fitted.predict(past, frame, datetime(2026, 6, 1, tzinfo=UTC), 24)
    for spoilt in ("{}", fitted.to_text().replace('"analogs"', '"analog"'), fitted.to_text().replace("shape", "form")):
        with pytest.raises(InvalidInput):
            kind.from_text(spoilt)


def test_analogs_are_a_weighted_distribution() -> None:
    dice = np.random.default_rng(4)
    features = dice.uniform(0, 10, (4000, 1))
    values = features[:, 0] + dice.uniform(-1, 1, 4000)
    analogs = Analogs.of(features / 0.3, values, np.arange(4000) * 100, np.ones(4000))
    asked = np.array([[2.0], [7.0]]) / 0.3
    found = analogs.quantiles(asked, np.tile([0.1, 0.5, 0.9], (2, 1)))
    assert found == pytest.approx(np.array([[1.2, 2.0, 2.8], [6.2, 7.0, 7.8]]), abs=0.2)
    ranks = analogs.ranks(features / 0.3, values, np.arange(4000) * 100)
    assert np.quantile(ranks, [0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9], abs=0.03)
    far = analogs.quantiles(np.array([[1e4]]), np.array([[0.5]]))
    assert 0 < far[0, 0] < 10, "far from everything, everything counts"


def test_memory_learns_how_long_a_deviation_lasts() -> None:
    dice = np.random.default_rng(5)
    scores = np.empty(2000)
    level = 0.0
    for hour in range(2000):
        level = 0.9 * level + dice.normal(0, np.sqrt(1 - 0.81))
        scores[hour] = level
    memory = Memory.fit(scores)
    mean, spread = memory.ahead(np.full(200, 1.5), np.array([0, 5, 47]))
    assert mean[0] == pytest.approx(0.9 * 1.5, abs=0.25)
    assert mean[0] > mean[1] > mean[2]
    assert spread[0] == pytest.approx(np.sqrt(0.19), abs=0.1)
    assert spread[0] < spread[1] <= spread[2] + 0.1
    assert Memory.fit(scores[:20]) == Memory.none()
    assert len(memory.spread) == len(LEADS)
    assert ranks_of(scores_of(np.array([0.1, 0.5, 0.9]))) == pytest.approx([0.1, 0.5, 0.9])


# -- measured plants


def test_a_measured_turbine_of_the_samples() -> None:
    """The bands hold, and are better than the AR(1) process' own around the same middle, on a turbine."""
    start, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)
    output = (sample_data.series("wind/R80711/active_power_kw", start, end) / 2050).clip(0, 1).resample("h").mean()
    inside, own, lower = [], [], []
    for day in range(45, 88, 3):
        origin = pd.Timestamp(start) + pd.Timedelta(days=day)
        past = output[origin - pd.Timedelta(days=42) : origin - HOUR]
        one = wind_output(past, origin=origin.to_pydatetime(), horizon=24, timezone="UTC")
        assert one.model == "ar1"
        truth = output.reindex(one.index).to_numpy()
        inside.append(((one.p10 <= truth) & (truth <= one.p90)).mean())
        own.append(pinball(one, truth))
        lower.append(pinball(wind_availability(past, origin=origin.to_pydatetime(), horizon=24), truth))
    assert 0.65 < np.mean(inside) < 0.95
    assert np.mean(own) < np.mean(lower)


def pinball(forecast: Forecast, truth: np.ndarray) -> float:
    return float(
        np.mean(
            [
                np.maximum(share * (truth - guess), (share - 1) * (truth - guess)).mean()
                for share, guess in ((0.1, forecast.p10), (0.5, forecast.p50), (0.9, forecast.p90))
            ]
        )
    )


@pytest.mark.skipif(not (DATA / "pv").is_dir(), reason="the measured plant lies beside the project: ../shared/data/pv")
def test_a_measured_plant_under_satellite_irradiance() -> None:
    power = pd.read_csv(DATA / "pv/nrel_serf_east_2011_2013_15min.csv.gz")
    power.index = pd.to_datetime(power["timestamp"], utc=True)
    output = power["ac_power_w"]["2012-05":"2012-08-20"].resample("h").mean().div(3400).clip(0, 1)
    sat = pd.read_csv(DATA / "pv/nrel_serf_east_psm3_2011_2013_30min.csv.gz")
    sat.index = pd.to_datetime(sat["timestamp"], utc=True)
    sat = sat[["ghi_wm2", "temp_air_c"]]["2012-05":"2012-08-20"]
    weather = ((sat + 2 * sat.shift(-1) + sat.shift(-2)) / 4)[::2]
    weather.columns = ["irradiance", "temperature"]
    inside, errors, yesterday = [], [], []
    for day in range(60, 108, 6):
        origin = pd.Timestamp("2012-05-01T06:00Z") + pd.Timedelta(days=day)
        past = output[origin - pd.Timedelta(days=56) : origin - HOUR]
        one = solar_output(
            past, origin=origin.to_pydatetime(), horizon=24, timezone="America/Denver", place=GOLDEN, weather=weather
        )
        truth = output.reindex(one.index)
        day_hours = truth.to_numpy() > 0.02
        inside.append(((one.p10 <= truth) & (truth <= one.p90))[day_hours].mean())
        errors.append(float(np.abs(one.p50 - truth).mean()))
        yesterday.append(float((truth - output.reindex(one.index - 24 * HOUR).to_numpy()).abs().mean()))
    assert np.mean(errors) < 0.6 * np.mean(yesterday)
    assert 0.65 < np.mean(inside) < 0.95
