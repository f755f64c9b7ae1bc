"""What is known of the past, as the forecasts take it: hourly series with a UTC index, from rows of the marts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from energy_cloud_dagster.adapters import marts
from energy_cloud_dagster.domain.intervals import hour_start

if TYPE_CHECKING:
    import pandas as pd

#: Weeks of history that an issue looks back on, and that a fit learns from, where there are so many.
RECENT_WEEKS: Final = 8
FIT_WEEKS: Final = 156


def region_history(
    connection: sa.Connection, region: str, now: datetime, weeks: int = RECENT_WEEKS
) -> tuple[pd.Series[float], pd.Series[float]]:
    """Return the region's load (kWh) and temperature (°C) of the last ``weeks`` by hour as known at ``now``."""
    start = now - timedelta(weeks=weeks)
    rows = marts.history(connection, region, ("region_load", "temperature"), start, hour_start(now), now)
    return (
        series_of((row.hour, row.energy_kwh) for row in rows if row.role == "region_load"),
        series_of((row.hour, row.mean_value) for row in rows if row.role == "temperature"),
    )


def series_of(pairs: Iterable[tuple[datetime, float | None]]) -> pd.Series[float]:
    """Return (hour, value) pairs as an hourly series with a UTC index; hours without a value are left out."""
    import pandas as pd

    known = [(hour, value) for hour, value in pairs if value is not None]
    index = pd.DatetimeIndex([hour for hour, _ in known], tz="UTC")
    return pd.Series([value for _, value in known], index=index, dtype="float64")


def by_device(rows: Iterable[marts.SeriesHour]) -> Mapping[str, pd.Series[float]]:
    """Return the energy in kWh of every device by hour."""
    pairs: dict[str, list[tuple[datetime, float | None]]] = defaultdict(list)
    for row in rows:
        pairs[row.device_id].append((row.hour, row.energy_kwh))
    return _Histories({key: series_of(sorted(found)) for key, found in pairs.items()})


def states_by_device(rows: Iterable[marts.SeriesHour]) -> Mapping[str, pd.Series[float]]:
    """Return the mean of every device's state by hour; a device is one series here."""
    pairs: dict[str, list[tuple[datetime, float | None]]] = defaultdict(list)
    for row in rows:
        pairs[row.device_id].append((row.hour, row.mean_value))
    return _Histories({key: series_of(sorted(found)) for key, found in pairs.items()})


class _Histories(dict[Any, Any]):
    """Histories by key; one that was never measured is empty, so that the ladder answers and says so."""

    def __missing__(self, key: Any) -> pd.Series[float]:
        return series_of(())
