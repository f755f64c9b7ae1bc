"""What a plant of the sun or the wind will make: the ladders over the models of ``solar`` and ``wind``.

The highest rung that can answer does: the model with the weather ahead; from the plant's own past the model of the sun
or an AR(1) process of the wind; the mean of the last days (sun); persistence. The notes say why none above it did.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pandas as pd

from energy_cloud_dagster.domain.errors import EnergyCloudError
from energy_cloud_dagster.domain.forecasting.forecast import Forecast, Model, banded
from energy_cloud_dagster.domain.forecasting.generation.availability import solar_availability, wind_availability
from energy_cloud_dagster.domain.forecasting.generation.power_curve import PowerCurve
from energy_cloud_dagster.domain.forecasting.generation.solar import IRRADIANCE, SolarModel
from energy_cloud_dagster.domain.forecasting.generation.sun import Place
from energy_cloud_dagster.domain.forecasting.generation.wind import WIND_SPEED, WindModel
from energy_cloud_dagster.domain.forecasting.series import future_index, hour_of, hourly


def solar_output(
    history: pd.Series[Any],
    *,
    origin: datetime,
    horizon: int,
    timezone: str,
    place: Place | None = None,
    weather: pd.DataFrame | None = None,
) -> Forecast:
    """Forecast the fraction of capacity (0..1) that the sun will allow; always answers.

    ``history`` is past output as a fraction of capacity. ``weather`` covers past and future hours as they were known
    (``irradiance`` in W/m², ``temperature`` in °C; NaN and missing columns where unknown). Without a ``place`` the sun
    is not known, and the mean of the last days answers.
    """
    models: list[tuple[Model, bool]] = []
    if place is not None:
        model = SolarModel(place.latitude, place.longitude, place.altitude)
        models = [(model, True), (model, False)]
    answer, reasons = _first(models, history, weather, IRRADIANCE, origin, horizon, timezone)
    if place is None:
        reasons.append("solar: the plant has no location")
    if answer is None:
        answer = solar_availability(history, origin=origin, horizon=horizon, timezone=timezone)
    return _as_fraction(answer, reasons)


def wind_output(
    history: pd.Series[Any],
    *,
    origin: datetime,
    horizon: int,
    timezone: str,
    curve: PowerCurve | None = None,
    weather: pd.DataFrame | None = None,
) -> Forecast:
    """Forecast the fraction of capacity (0..1) that the wind will allow; always answers.

    ``history`` is past output as a fraction of capacity, ``curve`` gives such a fraction from the plant's own wind.
    ``weather`` covers past and future hours as they were known (``wind_speed`` in m/s, ``wind_direction`` in degrees,
    ``air_density`` in kg/m³; NaN and missing columns where unknown).

    Without the wind ahead the middle is the AR(1) process' and the band that of the plant's own ranks (the AR(1)'s own
    is too narrow): months of calm make the median of such a forecast lie far below the output that a plan may expect.
    """
    models: list[tuple[Model, bool]] = [(WindModel(curve), True)]
    answer, reasons = _first(models, history, weather, WIND_SPEED, origin, horizon, timezone)
    if answer is None:
        answer = wind_availability(history, origin=origin, horizon=horizon)
        if answer.rung == "champion":
            band, _ = _first([(WindModel(), False)], history, None, WIND_SPEED, origin, horizon, timezone)
            answer = answer if band is None else _between(answer, band)
    return _as_fraction(answer, reasons)


def _between(middle: Forecast, band: Forecast) -> Forecast:
    return banded(
        middle.index,
        middle.p50,
        band.p10,
        band.p90,
        model=middle.model,
        rung=middle.rung,
        notes=(*middle.notes, *band.notes),
    )


def _first(
    models: list[tuple[Model, bool]],
    history: pd.Series[Any],
    weather: pd.DataFrame | None,
    needed: str,
    origin: datetime,
    horizon: int,
    timezone: str,
) -> tuple[Forecast | None, list[str]]:
    """Return the answer of the first model that has one, and why the others have none."""
    future_index(origin, horizon)
    past = hourly(history, before=origin).clip(0.0, 1.0)
    reasons: list[str] = []
    for model, with_weather in models:
        if with_weather and (weather is None or needed not in weather.columns):
            continue
        known = None
        if with_weather and weather is not None:
            ahead = weather[weather.index >= hour_of(origin)]
            # what is unknown ahead and can be spared is not learnt from
            known = weather.loc[:, [name for name in weather.columns if name == needed or ahead[name].notna().all()]]
        before = None if known is None else known[known.index < hour_of(origin)]
        try:
            fitted = model.fit(past, before, timezone=timezone, seed=0)
            if with_weather and not fitted.regressors:
                continue
            return fitted.predict(past, known, origin, horizon), reasons
        except EnergyCloudError as error:
            reasons.append(f"{model.name}{'' if with_weather else ' without weather'}: {error}")
    return None, reasons


def _as_fraction(answer: Forecast, reasons: list[str]) -> Forecast:
    return banded(
        answer.index,
        answer.p50,
        answer.p10,
        answer.p90,
        model=answer.model,
        rung=answer.rung,
        notes=answer.notes,
        floor=0.0,
        ceiling=1.0,
    ).with_notes(*reasons)
