"""What every forecasting asset shares: how far it looks, its table's columns, and how it stores and describes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from energy_cloud_dagster.adapters.forecasts import IssuedPoint
from energy_cloud_dagster.assets.report import columns
from energy_cloud_dagster.domain.audit.canonical import rows_digest

if TYPE_CHECKING:
    from energy_cloud_dagster.domain.forecasting import Forecast

#: Hours that every forecast and plan looks ahead.
HORIZON_HOURS: Final = 24

POINT_COLUMNS: Final = columns(
    series_key="What is forecast: region/{id}/load, site/{participant}/load or pv, resource/{vpp}/{id}/availability",
    issued_at="The now of the forecast: nothing received later was used",
    model="prophet, seasonal_naive, similar_day, ar1 …",
    ts="Start of the hour that is forecast",
    p10="Lower bound of the 80 % band: kWh, or a fraction for an availability",
    p50="Median: kWh, or a fraction",
    p90="Upper bound of the 80 % band",
    chosen="Whether the next stage uses this model",
    rung="champion, similar_day or persistence: which step of the ladder answered",
)


def points_of(key: str, now: datetime, forecast: Forecast, *, chosen: bool) -> list[IssuedPoint]:
    """Return a forecast issued at ``now`` as rows of ``forecast.point``."""
    return [
        IssuedPoint(
            key, now, forecast.model, ts.to_pydatetime(), float(p10), float(p50), float(p90), chosen, forecast.rung
        )
        for ts, p10, p50, p90 in zip(forecast.index, forecast.p10, forecast.p50, forecast.p90, strict=True)
    ]


def described(points: Sequence[IssuedPoint], issued: Sequence[Forecast]) -> dict[str, Any]:
    """Return an hour's metadata: rows, digest, rungs, and what the forecasts say about themselves."""
    rungs: dict[str, int] = defaultdict(int)
    for forecast in issued:
        rungs[f"{forecast.model} ({forecast.rung})"] += 1
    notes = sorted({note for forecast in issued for note in forecast.notes})
    return {
        "dagster/partition_row_count": len(points),
        "forecasts": dict(rungs),
        "notes": notes[:20],
        "digest": rows_digest(points),
    }
