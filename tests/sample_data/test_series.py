import gzip
import hashlib
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energy_cloud_dagster import sample_data
from energy_cloud_dagster.domain.errors import InvalidInput, NotFound
from energy_cloud_dagster.sample_data import build, files
from energy_cloud_dagster.sample_data.calendar import FONTANA, LA_HAUTE_BORNE, NETHERLANDS, VICTORIA, source_moment
from energy_cloud_dagster.sample_data.community import HOMES

START = datetime(2026, 3, 2, 15, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as ``build`` expects it, with the shipped cells under the names and columns of the sets."""
    folder = tmp_path_factory.mktemp("measured")

    def write(key: str, frame: pd.DataFrame, name: str = "") -> None:
        path = folder / build.SOURCES[key].format(name=name)
        path.parent.mkdir(parents=True, exist_ok=True)
        # a day that lies outside of every window, a column that nobody asked for
        frame = pd.concat([frame.head(1).assign(timestamp="2001-01-01T00:00:00Z"), frame])
        frame.assign(unasked="x").to_csv(path, index=False)

    def shipped(file: files.SampleFile) -> pd.DataFrame:
        return files.read_text(files.FOLDER / file.name, ("timestamp", *file.columns))

    for key, file in (("region", files.REGION), ("tariff", files.TARIFF), ("prices", files.PRICES)):
        write(key, shipped(file))
    for name, file in files.WIND.items():
        found = shipped(file)
        # the clock fault of the spring night: the second reading of a stamp is left out
        write(
            "turbine", pd.concat([found.head(5), found.iloc[4:5].assign(active_power_kw="9999"), found.iloc[5:]]), name
        )
    load, pv = shipped(files.LOAD), shipped(files.PV)
    homes = [
        pd.DataFrame(
            {
                "home_id": home,
                "timestamp": load["timestamp"],
                "load_kwh": load[home],
                "pv_kwh": pv[home],
                "pv_w_per_kw": pv["home_01_w_per_kw"],
            }
        )
        for home in files.HOME_COLUMNS
    ]
    write("homes", pd.concat([*homes, homes[0].head(1).assign(home_id="home_11")]))
    return folder


@pytest.mark.parametrize("name", sample_data.names())
def test_every_series_has_every_interval_of_a_day(name: str) -> None:
    found = sample_data.series(name, START, START + DAY)
    step = timedelta(minutes=sample_data.interval_minutes(name))
    assert list(found.index) == [START + n * step for n in range(DAY // step)]
    assert found.dtype == float
    assert found.notna().all()
    assert found.name == name


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from(sample_data.names()),
    st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    st.timedeltas(timedelta(0), timedelta(days=3)),
)
def test_a_span_is_the_sum_of_its_parts(name: str, start: datetime, length: timedelta) -> None:
    middle, end = start + length / 3, start + length
    whole = sample_data.series(name, start, end)
    assert all(start <= ts < end for ts in whole.index)
    parts = [sample_data.series(name, start, middle), sample_data.series(name, middle, end)]
    joined = pd.concat([part for part in parts if len(part)] or parts[:1])
    assert list(zip(joined.index, joined, strict=True)) == list(zip(whole.index, whole, strict=True))


def test_an_empty_or_reversed_span_is_empty() -> None:
    assert sample_data.series("region/load_kw", START, START).empty
    assert sample_data.series("region/load_kw", START, START - DAY).empty


def test_unknown_names_are_named() -> None:
    with pytest.raises(NotFound, match="home_11/load_kwh"):
        sample_data.series("home_11/load_kwh", START, START + DAY)


def test_night_and_noon_are_where_they_belong() -> None:
    solar = sample_data.series("pv_w_per_kw", START, START + 28 * DAY)
    by_hour = solar.groupby((solar.index.hour + 9) % 24).mean()
    assert 11 <= by_hour.idxmax() <= 14
    assert by_hour[0] == by_hour[3] == 0


def test_missing_readings_stay_missing() -> None:
    year = sample_data.series("wind/R80711/active_power_kw", datetime(2024, 1, 1, tzinfo=UTC), START)
    expected = (START - datetime(2024, 1, 1, tzinfo=UTC)) // timedelta(minutes=10)
    assert 0 < expected - len(year) < 500


def source(folder: Path, relative: str, columns: list[str]) -> pd.DataFrame:
    frame = pd.read_csv(folder / relative)
    frame["timestamp"] = pd.to_datetime(frame["timestamp"], utc=True)
    return frame.drop_duplicates([*columns, "timestamp"]).set_index([*columns, "timestamp"])


def test_values_are_those_that_were_measured(measured: Path) -> None:
    demand = source(measured, build.SOURCES["region"], [])
    homes = source(measured, build.SOURCES["homes"], ["home_id"])
    tariff = source(measured, build.SOURCES["tariff"], [])
    prices = source(measured, build.SOURCES["prices"], [])
    turbine = source(measured, build.SOURCES["turbine"].format(name="R80721"), [])
    for moment in (START + n * timedelta(hours=601) for n in range(40)):
        hour = moment + timedelta(hours=1)

        def value(name: str, moment: datetime = moment, hour: datetime = hour) -> float:
            return float(sample_data.series(name, moment, hour).iloc[0])

        there = source_moment(VICTORIA, moment)
        assert value("region/load_kw") == pytest.approx(demand["demand_mw"][there] / 4)
        assert value("region/temperature_c") == demand["temperature_c"][there]
        there = source_moment(FONTANA, moment)
        for home in HOMES:
            row = homes.loc[(f"home_{home:02}", there)]
            assert value(f"home_{home:02}/load_kwh") == row["load_kwh"]
            assert value(f"home_{home:02}/pv_kwh") == row["pv_kwh"]
        assert value("pv_w_per_kw") == homes["pv_w_per_kw"]["home_01", there]
        assert value("market/tariff_usd_per_kwh") == tariff["tariff_usd_per_kwh"][there]
        assert value("market/day_ahead_eur_per_mwh") == prices["price_eur_per_mwh"][source_moment(NETHERLANDS, moment)]
        there = source_moment(LA_HAUTE_BORNE, moment)
        assert value("wind/R80721/active_power_kw") == turbine["active_power_kw"][there]
        assert value("wind/R80721/wind_speed_ms") == turbine["wind_speed_ms"][there]


def test_building_again_gives_the_shipped_files(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build.main(["--from", str(measured), "--to", str(tmp_path)]) == 0
    assert "in total" in capsys.readouterr().out
    for file in files.FILES:
        shipped, built = ((folder / file.name).read_bytes() for folder in (files.FOLDER, tmp_path))
        # Another zlib may pack the same text into other bytes.
        assert gzip.decompress(shipped) == gzip.decompress(built)
        assert shipped[:10] == built[:10]


def test_the_sums_and_the_size_hold() -> None:
    sums = dict(line.split("  ")[::-1] for line in (files.FOLDER / "SHA256SUMS").read_text().splitlines())
    assert sums == {
        file.name: hashlib.sha256((files.FOLDER / file.name).read_bytes()).hexdigest() for file in files.FILES
    }
    assert sum((files.FOLDER / name).stat().st_size for name in sums) < build.MAX_BYTES
    licences = (files.FOLDER / "LICENSES.md").read_text()
    assert all(name in licences for name in sums)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "victoria_30min.csv.gz"
    path.write_bytes(gzip.compress(b"timestamp,demand\n2012-01-01T00:00:00Z,1\n"))
    with pytest.raises(InvalidInput, match=r"victoria_30min.csv.gz: column demand_mw is missing.*timestamp, demand"):
        files.read_values(path, ("demand_mw",))


@pytest.mark.parametrize(
    ("row", "reason"),
    [(b"2012-01-01T00:00:00Z,much", "column a has a value that is no number"), (b"noon,1", "no ISO-8601 time")],
)
def test_a_wrong_cell_is_named(tmp_path: Path, row: bytes, reason: str) -> None:
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(b"timestamp,a\n" + row + b"\n"))
    with pytest.raises(InvalidInput, match=reason):
        files.read_values(path, ("a",))


def test_a_damaged_file_and_a_wrong_folder_give_a_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main(["--from", str(tmp_path), "--to", str(tmp_path / "out")]) == 1
    assert "does not exist" in capsys.readouterr().err
    damaged = tmp_path / build.SOURCES["region"]
    damaged.parent.mkdir()
    damaged.write_bytes((files.FOLDER / files.REGION.name).read_bytes()[:5_000])
    assert build.main(["--from", str(tmp_path), "--to", str(tmp_path / "out")]) == 1
    assert f"{damaged} cannot be read" in capsys.readouterr().err


def test_files_over_the_limit_are_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "build", lambda _source, _target: {"a": build.MAX_BYTES + 1})
    assert build.main(["--from", str(tmp_path)]) == 1
    assert "larger than" in capsys.readouterr().err


def test_importing_reads_no_file_and_no_pandas() -> None:
    check = "import sys, energy_cloud_dagster.sample_data; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
