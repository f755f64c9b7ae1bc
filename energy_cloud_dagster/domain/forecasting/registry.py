"""The models by name, so that a stored text finds its reader."""

from __future__ import annotations

import json
from typing import Final

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting.forecast import Fitted
from energy_cloud_dagster.domain.forecasting.naive import FittedSeasonalNaive
from energy_cloud_dagster.domain.forecasting.prophet_model import FittedProphet

#: Readers of stored models; a new model adds a line here.
FITTED: Final[dict[str, type[Fitted]]] = {"prophet": FittedProphet, "seasonal_naive": FittedSeasonalNaive}


def fitted_from_text(text: str) -> Fitted:
    """Return the fitted model that ``to_text`` of any model wrote; other text raises ``InvalidInput``."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise InvalidInput(f"a stored model is not JSON: {error}") from error
    name = document.get("model") if isinstance(document, dict) else None
    if name not in FITTED:
        raise InvalidInput(f"no model is called {name!r}; known are {', '.join(sorted(FITTED))}")
    return FITTED[name].from_text(text)
