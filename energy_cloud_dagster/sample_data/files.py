"""The files of the sample data: their columns, and reading them with a reason where something is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.sample_data.calendar import FONTANA, LA_HAUTE_BORNE, NETHERLANDS, VICTORIA, Origin
from energy_cloud_dagster.sample_data.community import HOMES, TURBINES

if TYPE_CHECKING:
    import pandas as pd

FOLDER: Final = Path(__file__).parent
HOME_COLUMNS: Final = tuple(f"home_{home:02}" for home in HOMES)


@dataclass(frozen=True, slots=True)
class SampleFile:
    """A gzip-compressed CSV of ``timestamp`` (UTC interval starts) and value columns."""

    name: str
    columns: tuple[str, ...]
    origin: Origin
    minutes: int


REGION: Final = SampleFile("victoria_30min.csv.gz", ("demand_mw", "temperature_c"), VICTORIA, 30)
LOAD: Final = SampleFile("homes_load_kwh_hourly.csv.gz", HOME_COLUMNS, FONTANA, 60)
PV: Final = SampleFile("homes_pv_kwh_hourly.csv.gz", (*HOME_COLUMNS, "home_01_w_per_kw"), FONTANA, 60)
TARIFF: Final = SampleFile("homes_tariff_weather_hourly.csv.gz", ("tariff_usd_per_kwh", "outdoor_temp_c"), FONTANA, 60)
PRICES: Final = SampleFile("day_ahead_hourly.csv.gz", ("price_eur_per_mwh",), NETHERLANDS, 60)
WIND: Final = {
    name: SampleFile(f"turbine_{name}_10min.csv.gz", ("active_power_kw", "wind_speed_ms"), LA_HAUTE_BORNE, 10)
    for name in TURBINES
}
FILES: Final = (REGION, LOAD, PV, TARIFF, PRICES, *WIND.values())


def read_text(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Return ``columns`` of a CSV as text, cells as they stand, empty ones as "".

    A missing or unreadable file and a missing column raise ``InvalidInput`` that names the file and the column.
    """
    import pandas as pd

    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise InvalidInput(f"{path} does not exist; give the folder that holds it") from None
    except (OSError, EOFError, ValueError) as error:
        raise InvalidInput(f"{path} cannot be read as gzip-compressed CSV ({error})") from None
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise InvalidInput(
            f"{path.name}: column {', '.join(missing)} is missing; the header has {', '.join(map(str, frame.columns))}"
        )
    return frame[list(columns)]


def read_values(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Return ``columns`` as floats, indexed by the UTC times of column ``timestamp``; empty cells are NaN.

    Raises ``InvalidInput`` as ``read_text`` does, and for a cell that is no number or no time.
    """
    import pandas as pd

    text = read_text(path, ("timestamp", *columns))
    try:
        index = pd.DatetimeIndex(pd.to_datetime(text["timestamp"], format="ISO8601", utc=True))
    except ValueError as error:
        raise InvalidInput(f"{path.name}: column timestamp has a value that is no ISO-8601 time ({error})") from None
    values = {}
    for column in columns:
        try:
            values[column] = pd.to_numeric(text[column].mask(text[column] == "")).to_numpy(dtype=float)
        except ValueError as error:
            raise InvalidInput(f"{path.name}: column {column} has a value that is no number ({error})") from None
    return pd.DataFrame(values, index=index)
