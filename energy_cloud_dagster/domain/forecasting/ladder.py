"""The ladder: champion, similar day, persistence. It always answers, and says which rung answered and why."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Protocol

import numpy as np
import pandas as pd

from energy_cloud_dagster.domain.errors import EnergyCloudError, InvalidInput
from energy_cloud_dagster.domain.forecasting.forecast import Forecast
from energy_cloud_dagster.domain.forecasting.models.naive import persistence
from energy_cloud_dagster.domain.forecasting.models.similar_day import SITE_DAYS, similar_day
from energy_cloud_dagster.domain.forecasting.series import future_index, hour_of, hourly, hours_of_day

#: Hours over which the series is looked at for gaps and for a stuck meter.
LOOK_BACK_HOURS: Final = 168
#: Fewest known hours in the look-back from which a flat line means a stuck meter.
STUCK_HOURS: Final = 24


class Speaker(Protocol):
    """Whatever answers as a fitted model does."""

    def predict(
        self, recent: pd.Series[Any], future_regressors: pd.DataFrame | None, origin: datetime, horizon: int
    ) -> Forecast:
        """Forecast as ``Fitted.predict`` says."""


def _condition(past: pd.Series[float], origin: datetime) -> tuple[tuple[str, ...], bool]:
    """Return what is remarkable about the last week before ``origin``, and whether it is one constant value."""
    if past.empty:
        return ("no known hour before the origin",), False
    notes = []
    start = hour_of(origin)
    recent = past[past.index >= start - pd.Timedelta(hours=LOOK_BACK_HOURS)].to_numpy()
    known = recent[np.isfinite(recent)]
    span = min(LOOK_BACK_HOURS, int((start - past.index[0]) / pd.Timedelta(hours=1)))
    if len(known) < span:
        notes.append(f"gaps: {span - len(known)} of the last {span} hours are missing")
    if span < LOOK_BACK_HOURS:
        notes.append(f"short history: {span} hours")
    constant = len(known) >= STUCK_HOURS and float(known.min()) == float(known.max())
    if constant:
        notes.append(f"constant series: every known hour of the last {span} is {known[0]:g}")
    return tuple(notes), constant


def ladder(
    fitted: Speaker | None,
    history: pd.Series[Any],
    future_regressors: pd.DataFrame | None,
    origin: datetime,
    horizon: int,
    timezone: str,
    *,
    days: int = SITE_DAYS,
    notes: tuple[str, ...] = (),
) -> Forecast:
    """Forecast ``horizon`` hours from ``origin`` on with the highest rung that can answer.

    - ``champion``: ``fitted``, unless it refuses (a regressor is missing, it saw hours after the origin) or the series
      has been one constant value for the last week (a stuck meter, whose past the model does not describe);
    - ``similar_day``: the mean of the last ``days`` days, where enough hours of the day are known;
    - ``persistence``: the last known value, zeros where there is none.

    The forecast's notes say why a lower rung answered, what is remarkable about the last week, and ``notes``. Rows of
    ``history`` at or after ``origin`` never matter. Only malformed input raises (``InvalidInput``): repeated hours,
    stamps without a zone or off the hour, an impossible horizon, an unknown time zone.
    """
    hours_of_day(future_index(origin, horizon), timezone)  # refuses a horizon or a zone before any rung is tried
    past = hourly(history, before=origin)
    remarks, constant = _condition(past, origin)
    reasons: list[str] = []
    if fitted is None:
        reasons.append("champion: none is fitted")
    elif constant:
        reasons.append("champion: not used on a constant series")
    else:
        try:
            return fitted.predict(past, future_regressors, origin, horizon).with_notes(*remarks, *notes)
        except EnergyCloudError as error:
            reasons.append(f"champion: {error}")
    try:
        answer = similar_day(past, origin=origin, horizon=horizon, timezone=timezone, days=days)
    except InvalidInput as error:
        reasons.append(f"similar day: {error}")
        answer = persistence(past, origin=origin, horizon=horizon)
    return answer.with_notes(*reasons, *remarks, *notes)
