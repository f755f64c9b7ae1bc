"""The forecasting room: every fitted model of a series asked, calibrated, mixed, and the champion over its ladder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import pandas as pd

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting.forecast import Fitted, Forecast
from energy_cloud_dagster.domain.forecasting.judging.ensemble import ENSEMBLE, combine
from energy_cloud_dagster.domain.forecasting.judging.rolling import FAILURES
from energy_cloud_dagster.domain.forecasting.judging.selection import Selection
from energy_cloud_dagster.domain.forecasting.ladder import ladder
from energy_cloud_dagster.domain.forecasting.series import future_index, hourly, hours_of_day

#: Key of the ladder's answer among the forecasts by model.
CHAMPION: Final = "champion"


@dataclass(frozen=True)
class _Spoken:
    """A champion that has already answered, or says why it did not."""

    answer: Forecast | None
    reason: str

    def predict(
        self, recent: pd.Series[Any], future_regressors: pd.DataFrame | None, origin: datetime, horizon: int
    ) -> Forecast:
        del recent, future_regressors, origin, horizon
        if self.answer is None:
            raise InvalidInput(self.reason)
        return self.answer


def predict(
    selection: Selection,
    fitted: Mapping[str, Fitted],
    history: pd.Series[Any],
    future_regressors: pd.DataFrame | None,
    origin: datetime,
    horizon: int,
    timezone: str,
    *,
    notes: tuple[str, ...] = (),
) -> dict[str, Forecast]:
    """Return the calibrated forecasts of ``fitted`` by model name, ``ensemble``, and ``champion``.

    ``champion`` is always there: the selection's champion, or the rung of the ladder below it that could answer; its
    ``model`` and ``rung`` say which and its notes why, followed by ``notes``. Models that cannot answer are absent
    from the others. Rows of ``history`` at or after ``origin`` never matter. Raises ``InvalidInput`` as the ladder
    does, on malformed input only.
    """
    hours_of_day(future_index(origin, horizon), timezone)
    past = hourly(history, before=origin)
    made: dict[str, Forecast] = {}
    reasons: dict[str, str] = {}
    for name, model in fitted.items():
        try:
            raw = model.predict(past, future_regressors, origin, horizon)
        except FAILURES as error:
            reasons[name] = str(error)
            continue
        made[name] = _calibrated(selection, name, raw)
    try:
        if len(selection.weights) > 1:
            mixed = combine(made, selection.weights)
            why = (f"{name}: {reasons[name]}" for name in selection.weights if name in reasons)
            made[ENSEMBLE] = _calibrated(selection, ENSEMBLE, mixed).with_notes(*why)
    except InvalidInput as error:
        reasons[ENSEMBLE] = "; ".join([str(error), *(f"{name}: {why}" for name, why in reasons.items())])
    answer = made.get(selection.champion)
    reason = reasons.get(selection.champion, f"{selection.champion} is not fitted")
    spoken = _Spoken(answer, reason)
    champion = ladder(spoken, past, future_regressors, origin, horizon, timezone, notes=notes)
    return {**made, CHAMPION: champion}


def _calibrated(selection: Selection, name: str, forecast: Forecast) -> Forecast:
    calibration = selection.calibrations.get(name)
    return forecast if calibration is None else calibration.apply(forecast)
