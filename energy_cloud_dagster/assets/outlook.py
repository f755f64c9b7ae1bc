"""What the load's models may look at besides the load: temperature and public holidays, past and ahead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from energy_cloud_dagster.assets.weather import locations, weather_of
from energy_cloud_dagster.domain.intervals import SETTLING_TIME

if TYPE_CHECKING:
    import pandas as pd

#: Days of weather forecasts, as they were made, that an outlook is compared with the station on.
COMPARED: Final = timedelta(days=8)


def region_regressors(load: pd.Series[float], temperature: pd.Series[float], timezone: str) -> pd.DataFrame:
    """Return what the load's models may regress on: public holidays, and the temperature (°C) where it is measured."""
    import pandas as pd

    from energy_cloud_dagster.domain.forecasting.calendar import with_holidays

    first = min(one.index.min() for one in (load, temperature) if len(one))
    last = max(one.index.max() for one in (load, temperature) if len(one))
    measured = temperature.to_frame("temperature") if len(temperature) else None
    return with_holidays(measured, pd.date_range(first, last, freq="h"), timezone)


def region_outlook(
    temperature: pd.Series[float],
    timezone: str,
    origin: datetime,
    horizon: int,
    foreseen: pd.Series[float] | None = None,
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the same regressors for the hours ahead, with two weeks before them, and what they rest on.

    The temperature is that of the weather forecast ``foreseen`` where it covers the horizon, else the last known value
    of the same hour. Rows of ``temperature`` at or after ``origin`` never matter.
    """
    import pandas as pd

    from energy_cloud_dagster.domain.forecasting.calendar import with_holidays
    from energy_cloud_dagster.domain.forecasting.weather import PAST_HOURS, forecast_outlook, temperature_outlook

    outlook = None
    if foreseen is not None:
        outlook = forecast_outlook(temperature, foreseen, origin=origin, horizon=horizon)
    if outlook is None:
        outlook = temperature_outlook(temperature, origin=origin, horizon=horizon)
    index = pd.date_range(origin - timedelta(hours=PAST_HOURS), periods=PAST_HOURS + horizon, freq="h")
    return with_holidays(outlook.regressors, index, timezone), outlook.notes


def foreseen_temperature(
    connection: sa.Connection, region: str, origin: datetime, now: datetime
) -> pd.Series[float] | None:
    """Return the temperature (°C) by weather forecast as known at ``now``, the mean of the region's plants.

    Hours before ``origin`` are as they were forecast. None where the region has no weather forecasts.
    """
    import pandas as pd

    places = sorted(set(locations(connection, region).values()))
    frames = [weather_of(connection, place, origin - COMPARED, origin, now) for place in places]
    columns = [frame["temperature"] for frame in frames if frame is not None and "temperature" in frame]
    return pd.concat(columns, axis=1).mean(axis=1) if columns else None


def outlook_then(
    connection: sa.Connection, region: str, temperature: pd.Series[float], timezone: str, origins: Sequence[datetime]
) -> tuple[Callable[[datetime, int], pd.DataFrame], set[datetime]]:
    """Return the outlook as it was known at each of ``origins``, and those that had a weather forecast.

    Of other origins the outlook is that without one.
    """
    foreseen = {origin: foreseen_temperature(connection, region, origin, origin + SETTLING_TIME) for origin in origins}
    made: dict[tuple[datetime, int], pd.DataFrame] = {}

    def ahead(origin: datetime, horizon: int) -> pd.DataFrame:
        if (origin, horizon) not in made:  # every model asks for it
            made[origin, horizon], _ = region_outlook(temperature, timezone, origin, horizon, foreseen.get(origin))
        return made[origin, horizon]

    return ahead, {origin for origin, one in foreseen.items() if one is not None}
