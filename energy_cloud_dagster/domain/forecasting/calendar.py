"""Public holidays as a regressor: 1 in the local hours of a day off by law, 0 elsewhere."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting.series import local
from energy_cloud_dagster.domain.forecasting.zones import COUNTRY, SUBDIVISION

HOLIDAY: Final = "holiday"


def holiday_flags(
    index: pd.DatetimeIndex, timezone: str, country: str | None = None, subdivision: str | None = None
) -> pd.Series[float]:
    """Return 1.0 for the hours of ``index`` on a public holiday of the local calendar, else 0.0.

    ``country`` is an ISO 3166-1 code and ``subdivision`` an ISO 3166-2 one; by default both come from ``timezone``
    (Australia/Melbourne: AU, VIC). A zone of no country (UTC), or a country whose holidays are not known, has none.
    A ``country`` or ``subdivision`` that was named and is not known raises ``InvalidInput``.
    """
    days = local(index, timezone).normalize()
    named = country is not None
    code = country.upper() if country is not None else COUNTRY.get(timezone)
    if subdivision is None and code is not None and COUNTRY.get(timezone) == code:
        subdivision = SUBDIVISION.get(timezone)
    if code is None or not len(index):
        return pd.Series(np.zeros(len(index)), index=index, name=HOLIDAY)
    import holidays

    try:
        table = holidays.country_holidays(code, subdiv=subdivision, years=range(days.min().year, days.max().year + 1))
    except NotImplementedError as error:
        if named:
            raise InvalidInput(f"no holidays are known of {code}{f'-{subdivision}' if subdivision else ''}") from error
        return pd.Series(np.zeros(len(index)), index=index, name=HOLIDAY)
    off = days.isin(pd.DatetimeIndex(list(table)))
    return pd.Series(off.astype(np.float64), index=index, name=HOLIDAY)


def with_holidays(
    regressors: pd.DataFrame | None,
    index: pd.DatetimeIndex,
    timezone: str,
    country: str | None = None,
    subdivision: str | None = None,
) -> pd.DataFrame:
    """Return ``regressors`` on ``index`` with the column ``holiday``; one that has it keeps its own.

    Rows of ``regressors`` outside ``index`` are dropped, hours that it lacks are NaN (a column ``holiday`` of its own
    too). None gives the column alone.
    """
    if regressors is None:
        return holiday_flags(index, timezone, country, subdivision).to_frame()
    frame: pd.DataFrame = regressors.reindex(index)
    if HOLIDAY in frame.columns:
        return frame
    return frame.assign(**{HOLIDAY: holiday_flags(index, timezone, country, subdivision)})
