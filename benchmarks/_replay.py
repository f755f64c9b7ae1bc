"""Parts of the replay benchmark: the sample community's month as measured, and as it was forecast hour by hour."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from energy_cloud_dagster import sample_data
from energy_cloud_dagster.assets.prices import sample_prices
from energy_cloud_dagster.domain.dispatch import Problem, parse_problem
from energy_cloud_dagster.domain.dispatch.ahead.scenarios import Band, Outlook
from energy_cloud_dagster.domain.forecasting import (
    Fitted,
    Forecast,
    Model,
    model_named,
    temperature_outlook,
    with_holidays,
)
from energy_cloud_dagster.domain.forecasting.generation.plants import wind_output
from energy_cloud_dagster.domain.forecasting.generation.solar import SolarModel
from energy_cloud_dagster.domain.forecasting.weather import PAST_HOURS
from energy_cloud_dagster.domain.units import MICRO
from energy_cloud_dagster.sample_data.community import SEOUL_COMMUNITY

ZONE = "Asia/Seoul"
HORIZON = 24
HOUR = timedelta(hours=1)
#: What the models learn from: less than a cycle of the sample calendar, so that none has seen the month before.
LOAD_WEEKS = 104
RECENT = timedelta(weeks=8)
PLANT_DAYS = timedelta(days=42)
SEED = 14


@dataclass(frozen=True)
class Measured:
    """Hourly series by UTC hour start: kW of the region, fractions of capacity by plant, degrees, money per kWh."""

    load: pd.Series[float]
    temperature: pd.Series[float]
    availability: dict[str, pd.Series[float]]
    import_price: pd.Series[float]
    export_price: pd.Series[float]


def month(text: str) -> tuple[datetime, datetime]:
    """Return the first and the last moment of a local month such as ``2026-10``, in UTC."""
    first = pd.Timestamp(f"{text}-01", tz=ZONE)
    last = first + pd.DateOffset(months=1)
    return first.tz_convert("UTC").to_pydatetime(), last.tz_convert("UTC").to_pydatetime()


def measured(start: datetime, end: datetime) -> Measured:
    """Return what the forecasts of ``[start, end)`` learn from, what then came, and the prices as published."""
    before = start - timedelta(weeks=LOAD_WEEKS)
    until = end + HORIZON * HOUR

    def hourly(name: str, since: datetime) -> pd.Series[float]:
        series = sample_data.series(name, since, until).resample("h").mean()
        index = pd.date_range(series.index[0], until - HOUR, freq="h")
        return series.reindex(index)

    availability = {}
    for resource in SEOUL_COMMUNITY.vpps[0].resources:
        if resource.device_id is None or resource.type not in ("solar", "wind"):
            continue
        series = SEOUL_COMMUNITY.device(resource.device_id).series[0]
        output = hourly(series.sample or "", start - PLANT_DAYS - HORIZON * HOUR) * series.scale
        availability[resource.resource_id] = (output / resource.capacity_kw).clip(0.0, 1.0)
    prices = sample_prices("", start, until, start)
    index = pd.DatetimeIndex([one.hour for one in prices])
    return Measured(
        hourly("region/load_kw", before),
        hourly("region/temperature_c", before),
        availability,
        pd.Series([one.import_price_micro / MICRO for one in prices], index=index),
        pd.Series([one.export_price_micro / MICRO for one in prices], index=index),
    )


class Forecaster:
    """Issues forecasts as the hourly pipeline does, from what was measured before each origin and nothing else.

    The load's model is fitted anew every week, the sun's every day, the wind's at every hour.
    """

    def __init__(self, known: Measured) -> None:
        self._known = known
        self._load: tuple[datetime, Fitted] | None = None
        self._sun: dict[str, tuple[datetime, Fitted]] = {}
        place = SEOUL_COMMUNITY.vpps[0].location or {}
        self._sun_model: Model = SolarModel(place["lat"], place["lng"], 0.0)
        self._load_model = model_named("gradient_boosting")

    def outlook(self, origin: datetime) -> Outlook:
        """Return the bands of the next 24 hours as known at ``origin``."""
        bands = {
            name: _band(self._solar(name, series, origin) if name.startswith("SOLAR") else _wind(series, origin))
            for name, series in self._known.availability.items()
        }
        return Outlook(_band(self._region(origin)), bands)

    def _region(self, origin: datetime) -> Forecast:
        load, temperature = (one[one.index < origin] for one in (self._known.load, self._known.temperature))
        if self._load is None or origin - self._load[0] >= timedelta(weeks=1):
            seen = with_holidays(temperature.to_frame("temperature"), pd.DatetimeIndex(load.index), ZONE)
            self._load = origin, self._load_model.fit(load, seen, timezone=ZONE, seed=SEED)
        foreseen = temperature_outlook(temperature, origin=origin, horizon=HORIZON).regressors
        index = pd.date_range(origin - PAST_HOURS * HOUR, periods=PAST_HOURS + HORIZON, freq="h")
        recent = load[load.index >= origin - RECENT]
        return self._load[1].predict(recent, with_holidays(foreseen, index, ZONE), origin, HORIZON)

    def _solar(self, name: str, series: pd.Series[Any], origin: datetime) -> Forecast:
        past = _past(series, origin)
        if name not in self._sun or origin - self._sun[name][0] >= timedelta(days=1):
            self._sun[name] = origin, self._sun_model.fit(past, None, timezone=ZONE, seed=SEED)
        return self._sun[name][1].predict(past, None, origin, HORIZON)


def _wind(series: pd.Series[Any], origin: datetime) -> Forecast:
    return wind_output(_past(series, origin), origin=origin, horizon=HORIZON, timezone=ZONE)


def _past(series: pd.Series[Any], origin: datetime) -> pd.Series[Any]:
    return series[(series.index >= origin - PLANT_DAYS) & (series.index < origin)]


def _band(one: Forecast) -> Band:
    return Band(one.p10, one.p50, one.p90)


def site(known: Measured, start: datetime, end: datetime) -> Problem:
    """Return what really came in ``[start, end)`` and the 24 hours after, as one dispatch problem of the sample VPP."""

    def values(series: pd.Series[float]) -> list[float]:
        # an hour without a value takes the last known
        return series.ffill().reindex(pd.date_range(start, end + (HORIZON - 1) * HOUR, freq="h")).tolist()

    resources: list[dict[str, Any]] = []
    for one in SEOUL_COMMUNITY.vpps[0].resources:
        resource = {"id": one.resource_id, "type": one.type, "capacity": one.capacity_kw, **one.parameters}
        if one.resource_id in known.availability:
            resource["availability"] = values(known.availability[one.resource_id])
        if one.type == "grid":
            resource["costPerKWh"] = values(known.import_price)
            resource["exportPrice"] = values(known.export_price)
        resources.append(resource)
    demand = values(known.load)
    return parse_problem({"demand": demand, "resources": resources, "start": start.isoformat()})


def accuracy(actual: Problem, outlooks: list[Outlook]) -> None:
    """Print how far the forecasts were off, in the first hour and over all 24, and what their bands covered."""
    units = actual.generators
    rows = {"load": (actual.demand, [one.demand for one in outlooks], float(actual.demand.mean()))}
    for index, place in enumerate(units.place.tolist()):
        if (name := actual.ids[place]) in outlooks[0].availability:
            rows[name] = (units.availability[index], [one.availability[name] for one in outlooks], 1.0)
    print("\n| forecast | error in the first hour | over 24 hours | P10 to P90 covers |\n|---|---|---|---|")
    for name, (truth, bands, scale) in rows.items():
        came = np.stack([truth[step : step + HORIZON] for step in range(len(bands))])
        p10, p50, p90 = (np.stack([getattr(one, q) for one in bands]) for q in ("p10", "p50", "p90"))
        off = np.abs(came - p50) / scale
        # a night without sun is inside a band of zeros
        covered = ((p10 <= came + 1e-3) & (came <= p90 + 1e-3)).mean()
        print(f"| {name} | {100 * off[:, 0].mean():.1f} % | {100 * off.mean():.1f} % | {100 * covered:.0f} % |")


#: Colours of the rules that are drawn over time.
_COLOURS = {"perfect foresight": "#222222", "scenarios": "#1f5fa8", "greedy self-consumption": "#d98c2b"}
#: First hour and number of hours that are drawn.
_DRAWN = (10 * 24, 5 * 24)


def plot(results: dict[str, tuple[float, np.ndarray]], actual: Problem, start: datetime, path: Path) -> None:
    """Draw what each rule cost above perfect foresight, and some days of the storage's state of charge."""
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "energy-cloud"  # the same file every time
    from matplotlib import dates
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained", width_ratios=(2, 3))
    best = results["perfect foresight"][0]
    names = [name for name in results if name != "perfect foresight"]
    above = [100 * (results[name][0] / best - 1) for name in names]
    left.barh(names, above, color=[_COLOURS.get(name, "#9db8d6") for name in names])
    for row, value in enumerate(above):
        left.annotate(f"{value:.1f} %", (value, row), xytext=(3, 0), textcoords="offset points", va="center", size=8)
    left.invert_yaxis()
    left.margins(x=0.18)
    left.set_title("cost above perfect foresight", fontsize=10, loc="left")
    left.tick_params(labelsize=8)
    hours = len(results["scenarios"][1])
    first = _DRAWN[0] if hours >= sum(_DRAWN) else 0
    part = slice(first, min(first + _DRAWN[1], hours))
    local = pd.date_range(start, periods=hours, freq="h").tz_convert(ZONE).tz_localize(None)[part]
    price = actual.ties.cost[0, part]
    dear = price > np.median(price)
    right.fill_between(local, 0, 1, where=dear, step="post", color="#e9e2d0", linewidth=0, label="dear hours")
    for name, colour in _COLOURS.items():
        # the state after an hour stands at its end
        right.plot(local + HOUR, results[name][1][part], color=colour, linewidth=1.2, label=name)
    right.set_ylim(0, 1.28)
    right.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    right.set_title("state of charge", fontsize=10, loc="left")
    right.xaxis.set_major_locator(dates.DayLocator())
    right.xaxis.set_major_formatter(dates.DateFormatter("%a %d %b"))
    right.tick_params(labelsize=8)
    right.legend(frameon=False, ncols=2, fontsize=8, loc="upper left")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=140)
    plt.close(figure)
