"""How good a forecast was, and what it could have known of its weather."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
import pandas as pd

from energy_cloud_dagster.domain.forecasting.forecast import QUANTILES, Forecast
from energy_cloud_dagster.domain.forecasting.series import Floats, hourly, value_at
from energy_cloud_dagster.domain.forecasting.weather import TEMPERATURE, temperature_outlook

WEEK_HOURS: Final = 168
#: Share of the mean magnitude below which an hour does not count for MAPE.
NEGLIGIBLE: Final = 0.1


@dataclass(frozen=True)
class Accuracy:
    """Errors of P50 (and of the quantiles) over ``hours`` hours whose actual value is known; None: not defined.

    With ``e = p50 - actual``, in the unit of the series unless said otherwise:
    """

    #: Number of hours that were compared.
    hours: int
    #: Mean of ``|e| / |actual|`` in percent, over the hours whose actual is at least 10 % of the mean magnitude
    #: (dusk, calm and standby would drown the rest; a series of zeros has none).
    mape: float | None
    #: Mean of ``|e|``.
    mae: float | None
    #: Root of the mean of ``e²``.
    rmse: float | None
    #: ``mae`` divided by the mean weekly change ``|x(t) - x(t - 168 h)|`` of the history: below 1 is better than
    #: last week's value was on the history (Hyndman & Koehler 2006, seasonal form).
    mase: float | None
    #: Mean of ``e``: positive says too much.
    bias: float | None
    #: Mean over P10, P50 and P90 of the pinball loss ``max(q (actual - f), (q - 1) (actual - f))``.
    pinball: float | None
    #: Share of the hours with ``p10 <= actual <= p90``; 0.8 is right.
    coverage: float | None

    def as_dict(self) -> dict[str, float | int | None]:
        """Return the fields for JSON."""
        return asdict(self)


def weekly_scale(history: pd.Series[Any]) -> float | None:
    """Return the mean of ``|x(t) - x(t - 168 h)|`` over the known pairs, None where there is none or it is zero."""
    values = hourly(history).to_numpy()
    changes = np.abs(values[WEEK_HOURS:] - values[:-WEEK_HOURS])
    changes = changes[np.isfinite(changes)]
    scale = float(changes.mean()) if len(changes) else 0.0
    return scale if scale > 0 else None


def _mape(actual: Floats, errors: Floats) -> float | None:
    magnitude = np.abs(actual)
    counted = (magnitude > 0) & (magnitude >= NEGLIGIBLE * magnitude.mean())
    return float(100 * (np.abs(errors[counted]) / magnitude[counted]).mean()) if counted.any() else None


def accuracy(
    actual: pd.Series[Any], forecast: Forecast | Sequence[Forecast], *, history: pd.Series[Any] | None = None
) -> Accuracy:
    """Compare one forecast or several with what was measured.

    ``actual`` is hourly with a UTC index; hours that it does not know are left out, and without any every figure is
    None. ``history`` (what was known before the forecasts) scales ``mase``.
    """
    forecasts = [forecast] if isinstance(forecast, Forecast) else list(forecast)
    known = hourly(actual, what="actual")
    truth = np.concatenate([np.empty(0), *(value_at(known, one.index) for one in forecasts)])
    keep = np.isfinite(truth)
    truth = truth[keep]
    if not len(truth):
        return Accuracy(0, None, None, None, None, None, None, None)
    p10, p50, p90 = (np.concatenate([getattr(one, name) for one in forecasts])[keep] for name in ("p10", "p50", "p90"))
    errors = p50 - truth
    mae = float(np.abs(errors).mean())
    scale = None if history is None else weekly_scale(history)
    losses = [
        np.maximum(share * (truth - guess), (share - 1) * (truth - guess)).mean()
        for share, guess in zip(QUANTILES, (p10, p50, p90), strict=True)
    ]
    return Accuracy(
        hours=len(truth),
        mape=_mape(truth, errors),
        mae=mae,
        rmse=float(np.sqrt(np.square(errors).mean())),
        mase=None if scale is None else mae / scale,
        bias=float(errors.mean()),
        pinball=float(np.mean(losses)),
        coverage=float(((p10 <= truth) & (truth <= p90)).mean()),
    )


def regressors_ahead(regressors: pd.DataFrame | None, origin: datetime, horizon: int) -> pd.DataFrame | None:
    """Return what would have been known: the temperature by its outlook, calendar columns as they are."""
    if regressors is None or TEMPERATURE not in regressors.columns:
        return regressors
    outlook = temperature_outlook(regressors[TEMPERATURE], origin=origin, horizon=horizon).regressors
    others = regressors.drop(columns=TEMPERATURE)
    return others if outlook is None else outlook.join(others, how="left")
