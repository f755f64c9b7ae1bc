"""The models by name: which there are, and which one wrote a stored text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import import_module
from typing import Final

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting.forecast import Fitted, Model

_PACKAGE: Final = "energy_cloud_dagster.domain.forecasting.models"
#: Module, model and fitted model by name; imported when asked for. A new model adds a line here.
MODELS: Final[dict[str, tuple[str, str, str]]] = {
    "seasonal_naive": ("naive", "SeasonalNaive", "FittedSeasonalNaive"),
    "daily_naive": ("naive", "DailyNaive", "FittedDailyNaive"),
    "similar_day": ("similar_day", "SimilarDay", "FittedSimilarDay"),
    "prophet": ("prophet_model", "ProphetModel", "FittedProphet"),
    "gradient_boosting": ("boosting", "GradientBoosting", "FittedBoosting"),
    "lstm": ("lstm", "LSTM", "FittedLSTM"),
}


def model_named(name: str) -> Model:
    """Return the model ``name`` with its own settings; an unknown name or a missing extra raises ``InvalidInput``."""
    module, settings, _ = _entry(name)
    try:
        made: Model = getattr(import_module(f"{_PACKAGE}.{module}"), settings)()
    except ImportError as error:
        raise InvalidInput(f"the model {name} is not installed: {error}") from error
    return made


def models_named(names: Sequence[str]) -> tuple[list[Model], tuple[str, ...]]:
    """Return the models ``names`` that are installed, and for each of the others why it is left out.

    An unknown name raises ``InvalidInput``: that is a typo, not a missing part.
    """
    found, left_out = [], []
    for name in dict.fromkeys(names):
        _entry(name)
        try:
            found.append(model_named(name))
        except InvalidInput as error:
            left_out.append(str(error))
    return found, tuple(left_out)


def fitted_from_text(text: str) -> Fitted:
    """Return the fitted model that ``to_text`` of any model wrote; other text raises ``InvalidInput``."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise InvalidInput(f"a stored model is not JSON: {error}") from error
    name = document.get("model") if isinstance(document, dict) else None
    module, _, fitted = _entry(name)
    reader: type[Fitted] = getattr(import_module(f"{_PACKAGE}.{module}"), fitted)
    return reader.from_text(text)


def _entry(name: object) -> tuple[str, str, str]:
    if not isinstance(name, str) or name not in MODELS:
        raise InvalidInput(f"no model is called {name!r}; known are {', '.join(sorted(MODELS))}")
    return MODELS[name]
