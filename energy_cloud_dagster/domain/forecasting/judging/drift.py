"""Drift: whether what was published since the last fit is worse than the fit's own backtest led one to expect."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
import pandas as pd

from energy_cloud_dagster.domain.forecasting.series import floats, hourly, value_at

#: Hours of evidence below which nothing is said: a night is not a day.
LEAST_HOURS: Final = 12
#: Hours of evidence that count; older ones speak of what another fit or another day was like.
MOST_HOURS: Final = 48


@dataclass(frozen=True)
class Drift:
    """What the hours since the fit say. MASE is scaled as in the backtest, so that the two compare."""

    #: Known hours that were forecast since the fit.
    hours: int
    #: MASE of what was chosen over these hours, of all issues that forecast them; None without an hour or a scale.
    mase: float | None
    #: The same of the seasonal naive beside it: worse as well means an unusual day rather than a worse model.
    naive: float | None
    #: MASE in the backtest of the fit.
    expected: float | None
    drifted: bool
    #: One sentence.
    reason: str


def measure_drift(
    issued: pd.DataFrame,
    actual: pd.Series[Any],
    *,
    since: datetime,
    expected: float | None,
    scale: float | None,
    factor: float,
) -> Drift:
    """Compare what was issued after ``since`` (columns as in ``published.ISSUED``) with ``actual``.

    Drifted is a MASE above ``factor`` times ``expected``, over the last 48 known hours at most and 12 at least.
    ``scale`` is the mean weekly change that divided the backtest's errors, in the series' unit.
    """
    known = hourly(actual, what="actual")
    rows = issued[np.asarray(pd.DatetimeIndex(issued["issued_at"]) > pd.Timestamp(since))]
    truth = value_at(known, pd.DatetimeIndex(rows["ts"]))
    usable = np.isfinite(truth)
    if usable.any():
        newest = pd.DatetimeIndex(rows["ts"])[usable].max()
        usable &= np.asarray(pd.DatetimeIndex(rows["ts"]) > newest - pd.Timedelta(hours=MOST_HOURS))
    rows, truth = rows[usable], truth[usable]
    errors = np.abs(floats(rows["p50"]) - truth)
    chosen = rows["chosen"].to_numpy(dtype=bool)
    hours = int(rows.loc[chosen, "ts"].nunique())
    if hours < LEAST_HOURS:
        return Drift(hours, None, None, expected, False, f"{hours} hours are known since the fit; {LEAST_HOURS} tell")
    if not scale or not expected:
        return Drift(hours, None, None, expected, False, "the fit has no backtest to compare with")
    mase = float(errors[chosen].mean()) / scale
    beside = (rows["model"] == "seasonal_naive").to_numpy(dtype=bool)
    naive = float(errors[beside].mean()) / scale if beside.any() else None
    drifted = mase > factor * expected
    verdict = "above" if drifted else "within"
    reason = (
        f"MASE {mase:.2f} over {hours} hours since the fit (naive {'-' if naive is None else f'{naive:.2f}'}) is "
        f"{verdict} {factor:g} times the {expected:.2f} of its backtest"
    )
    return Drift(hours, mase, naive, expected, drifted, reason)
