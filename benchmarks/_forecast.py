"""Parts of the forecast benchmark: the series, a plain Prophet to stand beside ours, and the fan chart."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from energy_cloud_dagster.domain.forecasting import Backtest, Forecast, with_holidays
from energy_cloud_dagster.domain.forecasting.series import future_index, hourly
from energy_cloud_dagster.sample_data import files

SHARED = Path(__file__).parents[2] / "shared" / "data"


@dataclass(frozen=True)
class Task:
    """One hourly series with what is known beside it. ``regressors`` always has ``holiday``."""

    name: str
    unit: str
    timezone: str
    load: pd.Series[float]
    regressors: pd.DataFrame


def _task(name: str, unit: str, timezone: str, load: pd.Series[float], temperature: pd.Series[float] | None) -> Task:
    series = hourly(load)
    frame = None if temperature is None else temperature.to_frame("temperature")
    return Task(name, unit, timezone, series, with_holidays(frame, pd.DatetimeIndex(series.index), timezone))


def _victoria(*, weather: bool) -> Task:
    frame = files.read_values(files.FOLDER / files.REGION.name, files.REGION.columns).resample("h").mean()
    name = "Victoria, temperature" if weather else "Victoria"
    return _task(name, "MW", "Australia/Melbourne", frame["demand_mw"], frame["temperature_c"] if weather else None)


def _homes() -> Task:
    frame = files.read_values(files.FOLDER / files.LOAD.name, files.LOAD.columns)
    weather = files.read_values(files.FOLDER / files.TARIFF.name, files.TARIFF.columns)["outdoor_temp_c"]
    return _task("ten homes, temperature", "kWh", "America/Los_Angeles", frame.sum(axis=1, skipna=False), weather)


def _steel() -> Task:
    path = SHARED / "meters" / "korea_steel_plant_2018_15min.csv.gz"
    text = files.read_text(path, ("timestamp_end", "usage_kwh"))
    starts = pd.to_datetime(text["timestamp_end"], utc=True) - pd.Timedelta(minutes=15)
    usage = pd.Series(text["usage_kwh"].astype(float).to_numpy(), index=pd.DatetimeIndex(starts))
    return _task("steel plant", "kWh", "Asia/Seoul", usage.resample("h").sum(min_count=4), None)


SERIES: dict[str, Callable[[], Task]] = {
    "victoria": lambda: _victoria(weather=False),
    "victoria-temperature": lambda: _victoria(weather=True),
    "homes": _homes,
    "steel": _steel,
}


@contextmanager
def _quiet() -> Any:
    loggers = [logging.getLogger(name) for name in ("cmdstanpy", "prophet", "prophet.plot")]
    for logger in loggers:
        logger.disabled = True  # cmdstanpy resets its level when it is first imported
    try:
        yield
    finally:
        for logger in loggers:
            logger.disabled = False


@dataclass(frozen=True)
class _FittedPlain:
    model: Any

    def predict(self, recent: pd.Series[Any], future: object, origin: datetime, horizon: int) -> Forecast:
        del recent, future
        index = future_index(origin, horizon)
        made = self.model.predict(pd.DataFrame({"ds": index.tz_localize(None)}))
        p50 = made["yhat"].to_numpy()
        p10, p90 = np.minimum(made["yhat_lower"], p50), np.maximum(made["yhat_upper"], p50)
        return Forecast(index, np.asarray(p10), p50, np.asarray(p90), "prophet_plain", "champion")


@dataclass(frozen=True)
class PlainProphet:
    """Prophet as `Prophet(interval_width=0.8)` makes it: what a user has without us. In UTC, no regressors."""

    name: str = "prophet_plain"

    def fit(self, history: pd.Series[Any], regressors: object, *, timezone: str, seed: int) -> Any:
        del regressors, timezone
        with _quiet():
            from prophet import Prophet

            model = Prophet(interval_width=0.8)
            frame = pd.DataFrame({"ds": pd.DatetimeIndex(history.index).tz_localize(None), "y": history.to_numpy()})
            model.fit(frame, seed=seed)
        return _FittedPlain(model)


def fan_chart(result: Backtest, unit: str, title: str, path: Path) -> None:
    """Draw the champion's forecasts of ``result`` (days that follow one another) beside what was measured."""
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "energy-cloud"  # the same file every time
    from matplotlib import dates
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 3.4), layout="constrained")
    champion = result.models[result.champion].forecasts
    for place, one in enumerate(champion):
        hours = one.index.tz_convert(result.timezone).tz_localize(None)
        label = ("P10 to P90", "P50, issued at midnight") if place == 0 else (None, None)
        axes.fill_between(hours, one.p10, one.p90, color="#4c9be8", alpha=0.35, linewidth=0, label=label[0])
        axes.plot(hours, one.p50, color="#1f5fa8", linewidth=1.4, label=label[1])
    span = champion[0].index[0], champion[-1].index[-1]
    actual = result.actual[span[0] : span[1]]
    local = pd.DatetimeIndex(actual.index).tz_convert(result.timezone).tz_localize(None)
    axes.plot(local, actual.to_numpy(), color="#222222", linewidth=1.0, linestyle=(0, (2, 1)), label="measured")
    axes.set_ylabel(unit)
    axes.set_title(title, fontsize=10, loc="left")
    axes.xaxis.set_major_locator(dates.DayLocator())
    axes.xaxis.set_major_formatter(dates.DateFormatter("%a %d %b"))
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=3, fontsize=8, loc="upper left")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=140)
    plt.close(figure)
