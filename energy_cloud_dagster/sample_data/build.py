"""Cut the files of this folder from a folder of the measured data, the same bytes every time.

    python -m energy_cloud_dagster.sample_data.build --from FOLDER

``FOLDER`` holds the sets that LICENSES.md names, under the paths of ``SOURCES``. Cells are copied as text: nothing is
rounded, filled or smoothed. Of the turbines' six doubled stamps (the clock fault of their spring night) the first
reading is kept.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

from energy_cloud_dagster.domain.errors import EnergyCloudError
from energy_cloud_dagster.domain.intervals import rfc3339
from energy_cloud_dagster.sample_data import files
from energy_cloud_dagster.sample_data.calendar import Origin
from energy_cloud_dagster.sample_data.community import TURBINES

if TYPE_CHECKING:
    import pandas as pd

SOURCES: Final = {
    "region": "load_weather/victoria_au_2012_2014_30min.csv.gz",
    "homes": "prosumers/fontana_us_homes_2016_2017_hourly.csv.gz",
    "tariff": "prosumers/fontana_us_weather_tariff_carbon_hourly.csv.gz",
    "turbine": "scada/la_haute_borne_{name}_2014_10min.csv.gz",
    "prices": "prices/netherlands_day_ahead_2015_2021_hourly.csv.gz",
}
MAX_BYTES: Final = 3_000_000


def build(source: Path, target: Path) -> dict[str, int]:
    """Write every sample file and ``SHA256SUMS`` into ``target``; return the sizes in bytes by file name.

    Raises ``InvalidInput`` that names the file, and the column where one is missing.
    """
    frames: dict[str, pd.DataFrame] = {}
    for file, key in ((files.REGION, "region"), (files.TARIFF, "tariff"), (files.PRICES, "prices")):
        frames[file.name] = files.read_text(source / SOURCES[key], ("timestamp", *file.columns))
    homes = files.read_text(source / SOURCES["homes"], ("home_id", "timestamp", "load_kwh", "pv_kwh", "pv_w_per_kw"))
    homes = homes[homes["home_id"].isin(files.HOME_COLUMNS)]
    frames[files.LOAD.name] = _wide(homes, "load_kwh")
    pv = _wide(homes, "pv_kwh")
    first = homes[homes["home_id"] == files.HOME_COLUMNS[0]]
    pv["home_01_w_per_kw"] = pv["timestamp"].map(dict(zip(first["timestamp"], first["pv_w_per_kw"], strict=True)))
    frames[files.PV.name] = pv
    for name in TURBINES:
        file = files.WIND[name]
        turbine = files.read_text(source / SOURCES["turbine"].format(name=name), ("timestamp", *file.columns))
        frames[file.name] = turbine.drop_duplicates("timestamp", keep="first")

    target.mkdir(parents=True, exist_ok=True)
    sums, sizes = [], {}
    for file in files.FILES:
        packed = _gzip(_within(frames[file.name], file.origin).to_csv(index=False, lineterminator="\n").encode())
        (target / file.name).write_bytes(packed)
        sums.append(f"{hashlib.sha256(packed).hexdigest()}  {file.name}\n")
        sizes[file.name] = len(packed)
    (target / "SHA256SUMS").write_text("".join(sorted(sums, key=lambda line: line[66:])))
    return sizes


def _wide(homes: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return one column per home."""
    return homes.pivot(index="timestamp", columns="home_id", values=column).reset_index()


def _within(frame: pd.DataFrame, origin: Origin) -> pd.DataFrame:
    """Return the rows of the origin's window; RFC 3339 in UTC sorts as text."""
    zone = ZoneInfo(origin.zone)
    begin, end = (
        rfc3339(datetime.combine(day, datetime.min.time(), zone).astimezone(UTC))
        for day in (origin.first, origin.first + timedelta(days=origin.days))
    )
    return frame[(frame["timestamp"] >= begin) & (frame["timestamp"] < end)]


def _gzip(content: bytes) -> bytes:
    """Return gzip without a name or a time in its header."""
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=packed, mtime=0) as stream:
        stream.write(content)
    return packed.getvalue()


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; 0 when the files were written, 1 with a reason on stderr otherwise."""
    parser = argparse.ArgumentParser(prog="python -m energy_cloud_dagster.sample_data.build", description=__doc__)
    parser.add_argument("--from", dest="source", type=Path, required=True, help="folder of the measured data")
    parser.add_argument("--to", dest="target", type=Path, default=files.FOLDER, help="default: this package's folder")
    options = parser.parse_args(arguments)
    try:
        sizes = build(options.source, options.target)
    except EnergyCloudError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for name, size in sizes.items():
        sys.stdout.write(f"{size:>10,} {name}\n")
    total = sum(sizes.values())
    sys.stdout.write(f"{total:>10,} in total\n")
    if total > MAX_BYTES:
        sys.stderr.write(f"the files are larger than the {MAX_BYTES:,} bytes that they may take\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
