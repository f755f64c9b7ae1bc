"""The columns of the Prophet regression: Fourier terms by kind of day, degree-hours, and their products."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from energy_cloud_dagster.domain.forecasting.series import Floats, days_off, floats, local
from energy_cloud_dagster.domain.forecasting.weather import TEMPERATURE, degree_features, trailing_mean

HOLIDAY: Final = "holiday"

#: Name, period in days, Fourier pairs, and the kind of day on which it acts.
Season = tuple[str, float, int, str | None]
#: Two kinds of day, for a history of some weeks.
SHORT: Final[tuple[Season, ...]] = (
    ("daily_workday", 1.0, 10, "working"),
    ("daily_day_off", 1.0, 10, "resting"),
    ("weekly", 7.0, 3, None),
)
#: Saturdays apart from Sundays and holidays, for a history of months.
MEDIUM: Final[tuple[Season, ...]] = (
    ("daily_workday", 1.0, 10, "working"),
    ("daily_saturday", 1.0, 10, "saturday"),
    ("daily_rest", 1.0, 10, "rest"),
    ("weekly", 7.0, 3, None),
)
YEARLY: Final[Season] = ("yearly", 365.25, 6, None)
#: Fourier pairs of the day and of the year in the products that let the daily shape change with the season.
DAY_ORDER: Final = 4
YEAR_ORDER: Final = 2
#: Fourier pairs of the day by which the effect of heating and cooling changes.
WEATHER_DAY_ORDER: Final = 2
DEGREE_COLUMNS: Final = (
    "heating",
    "cooling",
    "hot",
    "heating_day",
    "cooling_day",
    "heating_days",
    "cooling_days",
    "cold",
)
#: Degree-hours whose effect depends on the hour.
BY_HOUR: Final = ("heating", "cooling", "hot", "heating_day")


def conditions(
    index: pd.DatetimeIndex, timezone: str, holiday: Floats | None = None
) -> dict[str, npt.NDArray[np.bool_]]:
    """Return which hours of ``index`` lie on which kind of local day; a ``holiday`` (above 0.5) is a day of rest.

    ``workday`` and ``day_off`` know weekends only.
    """
    weekend = days_off(index, timezone)
    saturday = np.asarray(local(index, timezone).day_of_week == 5, dtype=np.bool_)
    feast = np.zeros(len(index), dtype=np.bool_) if holiday is None else np.nan_to_num(holiday) > 0.5
    resting = weekend | feast
    return {
        "workday": ~weekend,
        "day_off": weekend,
        "working": ~resting,
        "resting": resting,
        "saturday": saturday & ~feast,
        "rest": resting & ~(saturday & ~feast),
    }


def _days(index: pd.DatetimeIndex, timezone: str) -> Floats:
    return np.asarray((local(index, timezone) - pd.Timestamp(0)) / pd.Timedelta(days=1), dtype=np.float64)


def _fourier(days: Floats, period: float, order: int) -> Floats:
    angles = 2 * np.pi * days[:, None] * np.arange(1, order + 1) / period
    return np.stack([np.sin(angles), np.cos(angles)], axis=2).reshape(len(days), 2 * order)


def seasonal_terms(
    index: pd.DatetimeIndex, timezone: str, seasons: tuple[Season, ...], holiday: Floats | None = None
) -> Floats:
    """Return Prophet's Fourier columns, shape ``(hours, 2 x sum of orders)``, in its order: sine, cosine by order."""
    days = _days(index, timezone)
    kinds = conditions(index, timezone, holiday)
    blocks = []
    for _, period, order, condition in seasons:
        block = _fourier(days, period, order)
        blocks.append(block if condition is None else block * kinds[condition][:, None])
    return np.hstack(blocks)


def product_columns(index: pd.DatetimeIndex, timezone: str) -> dict[str, Floats]:
    """Return the products of the year's and the day's Fourier terms, by which the daily shape follows the season."""
    days = _days(index, timezone)
    year, day = _fourier(days, YEARLY[1], YEAR_ORDER), _fourier(days, 1.0, DAY_ORDER)
    return {f"year{i}_day{j}": year[:, i] * day[:, j] for i in range(year.shape[1]) for j in range(day.shape[1])}


def weather_columns(temperature: pd.Series[float], most: Mapping[str, float] | None = None) -> dict[str, Floats]:
    """Return degree-hours of ``temperature`` on a gapless hourly grid: of the hour, the last day and the last days.

    ``most`` cuts a column at the largest value that is believed.
    """
    columns = degree_features(floats(temperature), floats(trailing_mean(temperature)))
    slow = floats(temperature.ewm(halflife=24, ignore_na=True).mean())
    longer = degree_features(slow, slow)
    columns |= {"heating_days": longer["heating"], "cooling_days": longer["cooling"]}
    columns["cold"] = np.maximum(9.0 - floats(temperature), 0.0) / 10
    return {name: np.minimum(values, (most or {}).get(name, np.inf)) for name, values in columns.items()}


def regression_columns(
    frame: pd.DataFrame, timezone: str, *, yearly: bool, limits: Mapping[str, float] | None = None
) -> dict[str, Floats]:
    """Return the regression columns of ``frame``, a gapless hourly grid, by name.

    ``temperature`` becomes degree-hours (cut at ``limits``) and their products with the day's Fourier terms, any other
    column stays as it is; with ``yearly`` the products of year and day are added.
    """
    index = pd.DatetimeIndex(frame.index)
    columns: dict[str, Floats] = {}
    for name in frame.columns:
        if name == TEMPERATURE:
            degrees = weather_columns(frame[name], limits)
            day = _fourier(_days(index, timezone), 1.0, WEATHER_DAY_ORDER)
            columns |= degrees
            columns |= {f"{one}_by_hour{j}": degrees[one] * day[:, j] for one in BY_HOUR for j in range(day.shape[1])}
        else:
            columns[str(name)] = floats(frame[name])
    return columns | (product_columns(index, timezone) if yearly else {})


def context_of(columns: Mapping[str, Floats], hours: int) -> Floats:
    """Return the degree-hours among ``columns`` for the residual correction, unknown ones 0, shape (hours, 0 or 8)."""
    if DEGREE_COLUMNS[0] not in columns:
        return np.zeros((hours, 0))
    return np.nan_to_num(np.column_stack([columns[name] for name in DEGREE_COLUMNS]))
