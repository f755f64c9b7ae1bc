"""Really measured series of a composite community, on one calendar; see README.md and LICENSES.md beside this file.

``series(name, start, end)`` gives any of ``names()`` for any span of UTC time. Files are read at first use and kept.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple

from energy_cloud_dagster.domain.errors import NotFound
from energy_cloud_dagster.domain.intervals import utc
from energy_cloud_dagster.sample_data import files
from energy_cloud_dagster.sample_data.calendar import LOCAL_OFFSET, place
from energy_cloud_dagster.sample_data.community import HOMES, REGION_SCALE_DOWN, TURBINES

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

__all__ = ["interval_minutes", "interval_starts", "names", "series"]


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class _Place(NamedTuple):
    file: files.SampleFile
    column: str
    scale: float = 1.0


_PLACES: Final = {
    **{f"home_{home:02}/load_kwh": _Place(files.LOAD, f"home_{home:02}") for home in HOMES},
    **{f"home_{home:02}/pv_kwh": _Place(files.PV, f"home_{home:02}") for home in HOMES},
    "pv_w_per_kw": _Place(files.PV, "home_01_w_per_kw"),
    "homes/temperature_c": _Place(files.TARIFF, "outdoor_temp_c"),
    "region/load_kw": _Place(files.REGION, "demand_mw", 1_000 / REGION_SCALE_DOWN),
    "region/temperature_c": _Place(files.REGION, "temperature_c"),
    **{f"wind/{name}/active_power_kw": _Place(files.WIND[name], "active_power_kw") for name in TURBINES},
    **{f"wind/{name}/wind_speed_ms": _Place(files.WIND[name], "wind_speed_ms") for name in TURBINES},
    "market/day_ahead_eur_per_mwh": _Place(files.PRICES, "price_eur_per_mwh"),
    "market/tariff_usd_per_kwh": _Place(files.TARIFF, "tariff_usd_per_kwh"),
}


def names() -> tuple[str, ...]:
    """Return the names of all sample series; the unit is the end of the name."""
    return tuple(_PLACES)


def interval_minutes(name: str) -> int:
    """Return the length of the intervals of ``name`` in minutes; an unknown name raises ``NotFound``."""
    return _place(name).file.minutes


def interval_starts(minutes: int, start: datetime, end: datetime) -> np.ndarray:
    """Return the starts in ``[start, end)`` of intervals of ``minutes``, as whole UTC seconds since 1970 (int64)."""
    import numpy as np

    step = timedelta(minutes=minutes)
    first, last = (-((_EPOCH - utc(moment)) // step) for moment in (start, end))
    return np.arange(first, max(first, last), dtype=np.int64) * (minutes * 60)


def series(name: str, start: datetime, end: datetime) -> pd.Series[float]:
    """Return the intervals of ``name`` whose start lies in ``[start, end)``.

    The index holds the intervals' starts in UTC, ascending; values that were never measured are absent. Any span works:
    the measured years repeat (see ``calendar``). Raises ``NotFound`` for an unknown name, ``InvalidInput`` for a
    damaged file, ``ValueError`` for a time without offset.
    """
    import numpy as np
    import pandas as pd

    file, column, scale = _place(name)
    seconds = interval_starts(file.minutes, start, end)
    days, within = np.divmod(seconds + int(LOCAL_OFFSET.total_seconds()), 86_400)
    distinct, which = np.unique(days, return_inverse=True)
    places = np.array([place(file.origin, int(day) + _EPOCH.toordinal()) for day in distinct], dtype=np.int64)
    values = _window(file)[column][places[which], within // (file.minutes * 60)] * scale
    index = pd.DatetimeIndex(seconds.astype("datetime64[s]"), tz="UTC", name="ts").as_unit("us")
    measured = ~np.isnan(values)
    return pd.Series(values[measured], index=index[measured], name=name, dtype=float)


def _place(name: str) -> _Place:
    try:
        return _PLACES[name]
    except KeyError:
        raise NotFound(f"there is no sample series {name}; there are {', '.join(_PLACES)}") from None


@cache
def _window(file: files.SampleFile) -> dict[str, np.ndarray]:
    """Return each column as an array (days of the window, intervals of a local day), NaN where nothing was measured."""
    import numpy as np
    import pandas as pd

    slots = 24 * 60 // file.minutes
    wall = pd.date_range(file.origin.first, periods=file.origin.days * slots, freq=f"{file.minutes}min")
    # The same rule as calendar.source_moment: a skipped hour is the one after it, of a doubled hour the first.
    moments = wall.tz_localize(
        file.origin.zone, ambiguous=np.ones(len(wall), dtype=bool), nonexistent=pd.Timedelta(hours=1)
    ).tz_convert("UTC")
    frame = files.read_values(files.FOLDER / file.name, file.columns).reindex(moments)
    return {column: frame[column].to_numpy().reshape(file.origin.days, slots) for column in file.columns}
