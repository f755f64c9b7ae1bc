"""Forecasts: models behind one protocol, a ladder that always answers, and how good they were.

Everything here is a function of its arguments. Series are hourly with a UTC index of interval starts; an ``origin`` is
the start of the first hour ahead, and no value at or after it matters.
"""

from energy_cloud_dagster.domain.forecasting.calendar import holiday_flags, with_holidays
from energy_cloud_dagster.domain.forecasting.forecast import Fitted, Forecast, Model, Rung
from energy_cloud_dagster.domain.forecasting.generation.availability import (
    solar_availability,
    wind_availability,
)
from energy_cloud_dagster.domain.forecasting.judging.accuracy import Accuracy, accuracy, weekly_scale
from energy_cloud_dagster.domain.forecasting.judging.backtest import Backtest, ModelResult, run_backtest
from energy_cloud_dagster.domain.forecasting.judging.calibration import Calibration, fit_calibration
from energy_cloud_dagster.domain.forecasting.judging.selection import Selection, select
from energy_cloud_dagster.domain.forecasting.ladder import ladder
from energy_cloud_dagster.domain.forecasting.models.naive import (
    DailyNaive,
    FittedDailyNaive,
    FittedSeasonalNaive,
    SeasonalNaive,
    persistence,
    seasonal_naive,
)
from energy_cloud_dagster.domain.forecasting.models.prophet_model import FittedProphet, ProphetModel
from energy_cloud_dagster.domain.forecasting.models.registry import fitted_from_text, model_named, models_named
from energy_cloud_dagster.domain.forecasting.models.similar_day import FittedSimilarDay, SimilarDay, similar_day
from energy_cloud_dagster.domain.forecasting.series import hourly
from energy_cloud_dagster.domain.forecasting.weather import Outlook, temperature_outlook

__all__ = [
    "Accuracy",
    "Backtest",
    "Calibration",
    "DailyNaive",
    "Fitted",
    "FittedDailyNaive",
    "FittedProphet",
    "FittedSeasonalNaive",
    "FittedSimilarDay",
    "Forecast",
    "Model",
    "ModelResult",
    "Outlook",
    "ProphetModel",
    "Rung",
    "SeasonalNaive",
    "Selection",
    "SimilarDay",
    "accuracy",
    "fit_calibration",
    "fitted_from_text",
    "holiday_flags",
    "hourly",
    "ladder",
    "model_named",
    "models_named",
    "persistence",
    "run_backtest",
    "seasonal_naive",
    "select",
    "similar_day",
    "solar_availability",
    "temperature_outlook",
    "weekly_scale",
    "wind_availability",
    "with_holidays",
]
