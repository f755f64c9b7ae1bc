"""How good the forecasts of sun and wind are, with the weather ahead and without, beside what they must beat.

The protocol: 24 hours from the local midnights of the last fifth of the days (73 of them), nothing of the output known
after the origin. As in the hourly run a plant is fitted anew at each origin to its last 42 days. Errors are shares of
the plant's capacity over all hours; coverage counts the hours of daylight (sun) or all (wind).

- PV: one inverter at NREL, Golden, with satellite irradiance and temperature of the same hours (NSRDB PSM3).
- Wind: two turbines of La Haute Borne, with the wind of a reanalysis (MERRA-2), the power curve from their SCADA.

Neither is a forecast: both know the weather of the day as it was. A real forecast is worse, by how much is its own.

    python benchmarks/generation.py [--quick]

The plant at NREL and the weather lie beside the checkout (`../shared/data`) and are left out, with a word, where they
do not; the turbines are sample data.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from energy_cloud_dagster.domain.forecasting import Forecast, similar_day, wind_availability
from energy_cloud_dagster.domain.forecasting.generation.plants import solar_output, wind_output
from energy_cloud_dagster.domain.forecasting.generation.power_curve import power_curve
from energy_cloud_dagster.domain.forecasting.generation.sun import Place, sky
from energy_cloud_dagster.domain.forecasting.series import floats
from energy_cloud_dagster.sample_data import files

SHARED = Path(__file__).parents[2] / "shared" / "data"
HISTORY = timedelta(days=42)
ORIGINS = 73
HORIZON = 24
GOLDEN = Place(39.742, -105.173, 1829.0)
#: W and kW: the inverter's largest output, the turbines' rated power.
INVERTER_W = 3_400.0
TURBINE_KW = 2_050.0

Rule = Callable[[pd.Series, pd.Timestamp], Forecast]


@dataclass
class Plant:
    """A plant's output as a share of its capacity by hour, the weather of the same hours, and what counts as day."""

    name: str
    timezone: str
    output: pd.Series
    weather: pd.DataFrame | None
    counted: Callable[[pd.DatetimeIndex], np.ndarray]
    rules: dict[str, Rule] = field(default_factory=dict)


def read(path: str) -> pd.DataFrame:
    """Return a file of the shared data on its UTC stamps."""
    frame = pd.read_csv(SHARED / path)
    frame.index = pd.DatetimeIndex(pd.to_datetime(frame.pop("timestamp"), utc=True))
    return frame


def held(index: pd.DatetimeIndex, values: np.ndarray, name: str) -> Forecast:
    """Return a forecast of single values: what has no band."""
    return Forecast(index, values, values, values, name, "persistence")


def yesterday(past: pd.Series, origin: pd.Timestamp) -> Forecast:
    """Return the output of the day before, the last known value where there was none."""
    index = pd.date_range(origin, periods=HORIZON, freq="h")
    before = past.reindex(index - pd.Timedelta(days=1)).fillna(past.dropna().iloc[-1])
    return held(index, before.to_numpy(), "yesterday")


def last(past: pd.Series, origin: pd.Timestamp) -> Forecast:
    """Return the last known value for every hour."""
    return held(
        pd.date_range(origin, periods=HORIZON, freq="h"), np.full(HORIZON, past.dropna().iloc[-1]), "last value"
    )


def inverter() -> Plant:
    """Return the plant at NREL under its satellite weather."""
    power = read("pv/nrel_serf_east_2011_2013_15min.csv.gz")["ac_power_w"].resample("h")
    output = (power.mean() / INVERTER_W).where(power.count() >= 3).clip(0, 1)
    instants = read("pv/nrel_serf_east_psm3_2011_2013_30min.csv.gz")[["ghi_wm2", "temp_air_c"]]
    weather = ((instants + 2 * instants.shift(-1) + instants.shift(-2)) / 4)[::2]  # means of the hours from :00 on
    weather.columns = ["irradiance", "temperature"]
    zone = "America/Denver"

    def rule(weather: pd.DataFrame | None, place: Place | None) -> Rule:
        return lambda past, origin: solar_output(
            past, origin=origin.to_pydatetime(), horizon=HORIZON, timezone=zone, place=place, weather=weather
        )

    return Plant(
        "PV at NREL",
        zone,
        output,
        weather,
        lambda index: sky(index, GOLDEN).clear > 20,
        {
            "irradiance known": rule(weather, GOLDEN),
            "own past": rule(None, GOLDEN),
            "mean of 5 days": lambda past, origin: similar_day(
                past, origin=origin.to_pydatetime(), horizon=HORIZON, timezone=zone, days=5, same_kind=False
            ),
            "yesterday": yesterday,
        },
    )


def turbine(name: str) -> Plant:
    """Return a turbine of the samples, under the reanalysis where that is there."""
    scada = files.read_values(files.FOLDER / files.WIND[name].name, files.WIND[name].columns)
    power = (scada["active_power_kw"] / TURBINE_KW).resample("h")
    output = power.mean().where(power.count() >= 4).clip(0, 1)
    zone, weather = "Europe/Paris", None
    path = "scada/la_haute_borne_merra2_2014_hourly.csv.gz"
    if (SHARED / path).exists():
        merra = read(path)
        weather = pd.DataFrame(
            {
                "wind_speed": merra["wind_speed_50m_ms"],
                "wind_direction": np.degrees(np.arctan2(-merra["u50_ms"], -merra["v50_ms"])) % 360,
                "air_density": merra["air_density_50m_kgm3"],
            }
        )
        weather.index -= pd.Timedelta(minutes=30)  # named by its middle

    def with_weather(past: pd.Series, origin: pd.Timestamp) -> Forecast:
        known = scada[(scada.index >= past.index[0]) & (scada.index < origin)]
        curve = power_curve(floats(known["wind_speed_ms"]), floats(known["active_power_kw"]) / TURBINE_KW)
        return wind_output(
            past, origin=origin.to_pydatetime(), horizon=HORIZON, timezone=zone, curve=curve, weather=weather
        )

    rules: dict[str, Rule] = {
        "wind known": with_weather,
        "own past": lambda past, origin: wind_output(
            past, origin=origin.to_pydatetime(), horizon=HORIZON, timezone=zone
        ),
        "AR(1)": lambda past, origin: wind_availability(past, origin=origin.to_pydatetime(), horizon=HORIZON),
        "last value": last,
        "yesterday": yesterday,
    }
    if weather is None:
        del rules["wind known"]
    return Plant(f"turbine {name}", zone, output, weather, lambda index: np.ones(len(index), dtype=bool), rules)


def plants() -> Iterator[Plant]:
    """Yield the plants whose data is there."""
    if (SHARED / "pv").is_dir():
        yield inverter()
    else:
        print(f"the plant at NREL is left out: {SHARED / 'pv'} is not there")
    for name in files.WIND:
        yield turbine(name)


def origins(plant: Plant, every: int) -> pd.DatetimeIndex:
    """Return the scored local midnights."""
    index = pd.DatetimeIndex(plant.output.index)
    midnights = index[index.tz_convert(plant.timezone).hour == 0]
    midnights = midnights[midnights + pd.Timedelta(hours=HORIZON) <= index[-1] + pd.Timedelta(hours=1)]
    test = midnights[int(np.ceil(0.8 * len(midnights))) :]
    return test[np.unique(np.linspace(0, len(test) - 1, ORIGINS).round().astype(int))][::every]


def judge(plant: Plant, every: int) -> None:
    """Print the lines of a plant."""
    chosen = origins(plant, every)
    print(f"\n{plant.name}: {len(chosen)} days from {chosen[0]:%Y-%m-%d} on")
    print(f"{'':18}{'MAE %':>8}{'skill %':>9}{'pinball %':>11}{'coverage %':>12}{'ms':>7}")
    errors = {}
    for name in reversed(plant.rules):  # what must be beaten first: the others are told as shares of it
        made, seconds = [], time.process_time()
        for origin in chosen:
            past = plant.output[(plant.output.index >= origin - HISTORY) & (plant.output.index < origin)]
            made.append(plant.rules[name](past, origin))
        seconds = time.process_time() - seconds
        truth = np.concatenate([plant.output.reindex(one.index).to_numpy() for one in made])
        p10, p50, p90 = (np.concatenate([getattr(one, q) for one in made]) for q in ("p10", "p50", "p90"))
        known = np.isfinite(truth)
        counted = known & np.concatenate([plant.counted(one.index) for one in made])
        errors[name] = float(np.abs(p50 - truth)[known].mean())
        loss = np.mean(
            [
                np.maximum(share * (truth - guess), (share - 1) * (truth - guess))[known].mean()
                for share, guess in ((0.1, p10), (0.5, p50), (0.9, p90))
            ]
        )
        covered = float(((p10 <= truth) & (truth <= p90))[counted].mean())
        skill = 1 - errors[name] / errors["yesterday"]
        band = f"{100 * covered:12.1f}" if (p90 > p10).any() else f"{'-':>12}"
        print(
            f"{name:18}{100 * errors[name]:8.2f}{100 * skill:9.1f}{100 * loss:11.2f}{band}"
            f"{1000 * seconds / len(chosen):7.0f}"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="every fourth day")
    every = 4 if parser.parse_args().quick else 1
    print("generation, 24 hours ahead; skill: 1 - MAE / MAE of yesterday's output; ms: fit and forecast, CPU")
    for plant in plants():
        judge(replace(plant), every)


if __name__ == "__main__":
    main()
