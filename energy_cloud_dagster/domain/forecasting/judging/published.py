"""How good the forecasts were that were published: each local day against what was measured, beside the naive ones.

Issued forecasts come as a frame, one row for every issue, model and hour, with the columns ``ISSUED``: times in UTC,
quantiles in the series' unit. The origin of an issue is the start of the hour of its ``issued_at``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import date, datetime
from itertools import pairwise
from typing import Any, Final, Literal

import numpy as np
import pandas as pd

from energy_cloud_dagster.domain.forecasting.forecast import Forecast
from energy_cloud_dagster.domain.forecasting.judging.accuracy import Accuracy, accuracy
from energy_cloud_dagster.domain.forecasting.series import floats, hour_of, hourly, hours_of_day, local, value_at

Lead = Literal["day_ahead", "gate"]
LEADS: Final[tuple[Lead, ...]] = ("day_ahead", "gate")
ISSUED: Final = ("issued_at", "model", "ts", "p10", "p50", "p90", "chosen", "rung")
#: Name under which the chosen hours are scored, whichever models and rungs they came from.
PUBLISHED: Final = "published"
HOUR: Final = pd.Timedelta(hours=1)


@dataclass(frozen=True)
class DayScore:
    """The accuracy of one day at one lead; ``rungs`` counts its hours by model and step of the ladder."""

    day: date
    lead: Lead
    model: str
    accuracy: Accuracy
    rungs: dict[str, int]


def days_that_ended(start: datetime, end: datetime, timezone: str) -> list[date]:
    """Return the local days whose end lies after ``start`` and not after ``end``, in order.

    Consecutive windows give every day exactly once. A zone off the whole hour has its days' hours by their start.
    """
    stamps = pd.date_range(hour_of(start, "start"), hour_of(end, "end"), freq="h")
    dates = [stamp.date() for stamp in local(stamps, timezone)]
    return [before for before, after in pairwise(dates) if before != after]


def hours_of_local_day(day: date, timezone: str) -> pd.DatetimeIndex:
    """Return the UTC hour starts that lie on the local ``day``: 24 of them, 23 or 25 where the clock changes."""
    around = pd.date_range(pd.Timestamp(day, tz="UTC") - 16 * HOUR, periods=58, freq="h")
    return around[np.asarray(local(around, timezone).date == day)]


def at_lead(issued: pd.DataFrame, lead: Lead, day: date, timezone: str) -> pd.DataFrame:
    """Return the rows of ``issued`` that forecast the local ``day`` at ``lead``, by model and hour.

    ``day_ahead``: of the issue whose origin is the day's first hour, as a backtest has it. ``gate``: of the issue whose
    origin is one hour before each hour, which is what the hour's market knew when it closed.
    """
    hours = hours_of_local_day(day, timezone)
    ahead = pd.DatetimeIndex(issued["ts"])
    origins = pd.DatetimeIndex(issued["issued_at"]).floor("h")
    inside = np.asarray((ahead >= hours[0]) & (ahead <= hours[-1]))
    wanted = np.asarray(origins == hours[0]) if lead == "day_ahead" else np.asarray(origins == ahead - HOUR)
    return issued[inside & wanted].sort_values(["model", "ts"])


def day_scores(
    issued: pd.DataFrame, actual: pd.Series[Any], *, day: date, timezone: str, history: pd.Series[Any]
) -> list[DayScore]:
    """Return the accuracy of a local day by lead and model, and of what was chosen as ``published``.

    ``actual`` is hourly; hours that it does not know are left out, and a lead without a known hour has no score.
    ``history``, what was known before the day, scales MASE.
    """
    known = hourly(actual, what="actual")
    before = hourly(history, before=hours_of_local_day(day, timezone)[0].to_pydatetime())
    found = []
    for lead in LEADS:
        rows = at_lead(issued, lead, day, timezone)
        groups = {str(name): part for name, part in rows.groupby("model", sort=True)}
        for name, part in {PUBLISHED: rows[rows["chosen"].to_numpy(dtype=bool)], **groups}.items():
            one = accuracy(known, _hours(part), history=before)
            if one.hours:
                rungs = Counter(f"{model} ({rung})" for model, rung in zip(part["model"], part["rung"], strict=True))
                found.append(DayScore(day, lead, name, one, dict(sorted(rungs.items()))))
    return found


def errors_by_hour(issued: pd.DataFrame, actual: pd.Series[Any], timezone: str) -> pd.DataFrame:
    """Return the mean absolute error of P50 by local hour of the day (index 0 to 23), a column a model.

    Every row of ``issued`` counts; hours of the day without a known one are NaN.
    """
    ahead = pd.DatetimeIndex(issued["ts"])
    errors = pd.DataFrame(
        {
            "hour": hours_of_day(ahead, timezone),
            "model": issued["model"].to_numpy(),
            "error": np.abs(floats(issued["p50"]) - value_at(hourly(actual, what="actual"), ahead)),
        }
    ).dropna()
    return errors.pivot_table(index="hour", columns="model", values="error", aggfunc="mean").reindex(range(24))


def _hours(rows: pd.DataFrame) -> list[Forecast]:
    """Return every row as a forecast of its one hour: neighbours may come from different issues."""
    return [
        Forecast(
            pd.DatetimeIndex([row.ts]),
            np.array([row.p10]),
            np.array([row.p50]),
            np.array([row.p90]),
            model=PUBLISHED,
            rung="champion",
        )
        for row in rows.itertuples(index=False)
    ]
