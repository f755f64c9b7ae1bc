"""CSV files in, hourly series out: separators, decimal commas, clocks, gaps, and refusals that name the line."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energy_cloud_dagster.adapters.csv_series import CsvSeries, canonical, read_series
from energy_cloud_dagster.domain.errors import InvalidInput

PARIS = ZoneInfo("Europe/Paris")
START = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., CsvSeries]:
    def read(text: str | bytes, *, time: str = "time", target: str = "kw", **options: Any) -> CsvSeries:
        path = tmp_path / "series.csv"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return read_series(path, time=time, target=target, **options)

    return read


def table(rows: list[tuple[str, str]], separator: str = ",", header: str = "time,kw") -> str:
    return "\n".join([header.replace(",", separator), *(separator.join(row) for row in rows)]) + "\n"


def hours(count: int, cell: Callable[[int], str], stamp: str = "%Y-%m-%dT%H:%M:%SZ") -> list[tuple[str, str]]:
    return [(f"{START + timedelta(hours=place):{stamp}}", cell(place)) for place in range(count)]


PLAIN = table(hours(4, lambda hour: f"{hour}.5"))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(PLAIN, id="comma"),
        pytest.param(PLAIN.replace(",", ";"), id="semicolon"),
        pytest.param(PLAIN.replace(",", "\t"), id="tab"),
        pytest.param(PLAIN.replace(",", ";").replace(".", ","), id="decimal comma"),
        pytest.param("\ufeff" + PLAIN.replace("\n", "\r\n"), id="byte order mark and CRLF"),
        pytest.param(PLAIN.encode("utf-16"), id="UTF-16"),
        pytest.param(gzip.compress(PLAIN.encode()), id="gzip"),
        pytest.param("Export of meter 7\nfrom, to\n\n" + PLAIN, id="titles above the header"),
        pytest.param(PLAIN.replace("\n", ",\n"), id="a separator at the end of each line"),
        pytest.param(PLAIN + PLAIN, id="two exports, one behind the other"),
        pytest.param("\n".join([PLAIN.split("\n")[0], *reversed(PLAIN.split("\n")[1:])]), id="newest first"),
        pytest.param(PLAIN.replace("T", " ").replace("Z", "+00:00"), id="offsets"),
        pytest.param(PLAIN.replace("T", " ").replace("Z", ""), id="without offsets"),
        pytest.param(table(hours(4, lambda hour: f"{hour}.5", "%d.%m.%Y %H:%M")), id="days with dots"),
        pytest.param(table(hours(4, lambda hour: f"{hour}.5", "%Y/%m/%d %H:%M")), id="year first"),
        pytest.param(table(hours(4, lambda hour: f"{hour}.5", "%Y%m%d%H")), id="compact"),
        pytest.param(table(hours(4, lambda hour: f"{hour}.5", "%Y%m%d%H%M")), id="compact minutes"),
        pytest.param(table(hours(4, lambda hour: f"{hour}.5", "%m/%d/%Y %I:%M %p")), id="first of January, AM"),
        pytest.param(table(hours(4, lambda hour: f"{hour}.5", "%s")), id="seconds since 1970"),
        pytest.param(table(hours(4, lambda hour: f"{hour}.5", "%s000")), id="milliseconds since 1970"),
        pytest.param(table(hours(4, lambda hour: f"{hour}.5", "%d.%m.%Y %H:%M - x1")), id="ranges"),
    ],
)
def test_the_same_hours_in_many_hands(read: Callable[..., CsvSeries], text: str | bytes) -> None:
    found = read(text)
    expected = pd.Series([0.5, 1.5, 2.5, 3.5], index=pd.date_range(START, periods=4, freq="h"))
    pd.testing.assert_series_equal(found.values, expected, check_names=False, check_freq=False, check_index_type=False)


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1.234,5", "1.234", "-2"], [1234.5, 1234, -2]),
        (["1,234.5", "1,234", "12"], [1234.5, 1234, 12]),
        (["1'234.5", "1 234", "1\u202f234.25"], [1234.5, 1234, 1234.25]),
        (["0,123", "1,234", "5"], [0.123, 1.234, 5]),
        (["1,234", "12.5", "5"], [1234, 12.5, 5]),
        (["1e3", "-.5", "+2."], [1000, -0.5, 2]),
        (["NaN", "n/a", "3"], [np.nan, np.nan, 3]),
    ],
)
def test_numbers_are_understood_where_they_can_be_read_in_one_way(
    read: Callable[..., CsvSeries], cells: list[str], values: list[float]
) -> None:
    rows = hours(4, lambda hour: "7" if hour == 3 else cells[hour])
    found = read(table(rows, ";")).values
    assert found.reindex(pd.date_range(START, periods=3, freq="h")).tolist() == pytest.approx(values, nan_ok=True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            table(hours(3, lambda _: "1,234"), ";"),
            "line 2: '1,234' in column 'kw' may be a decimal comma or a thousands",
        ),
        (
            table(hours(3, lambda hour: ["1,5", "2.5", "3"][hour]), ";"),
            "two languages: '1,5' on line 2 and '2.5' on line 3",
        ),
        (table(hours(3, lambda hour: f"{hour},5")), "line 2 has 3 fields where the header has 2; a decimal comma"),
        (table(hours(3, lambda hour: ["1", "2", "off"][hour])), "line 4: 'off' in column 'kw' is not a number"),
        (table(hours(3, lambda _: "١٢")), "is not a number"),
        (table([("soon", "1"), ("later", "2")]), "line 2: 'soon' in column 'time' is not a time; write ISO 8601"),
        (table([("2024-01-01", "1"), ("", "2")]), "line 3: column 'time' has no time"),
        (table([("2024-02-30 01:00", "1"), ("2024-03-01 01:00", "2")]), "line 2: '2024-02-30 01:00'"),
        (
            table([("2024-01-01 00:00", "1"), ("2024-01-01T01:00Z", "2")]),
            "with an offset ('2024-01-01T01:00Z', line 3)",
        ),
        (table([("01/02/2024 00:00", "1"), ("01/02/2024 01:00", "2")]), "may have the day first or the month first"),
        (table([("31/01/2024 00:00", "1"), ("01/31/2024 01:00", "2")]), "is not a time"),
        (table([("2024-01-01", "1"), ("2024-01-02", "2"), ("2024-01-03", "3")]), "the rows are 1 day apart"),
        (table([("2024-01-01 00:00", "1"), ("2024-01-01 01:30", "2")]), "the rows are 90 minutes apart"),
        (table([("2024-01-01 00:00", "1"), ("2024-01-01 00:07", "2")]), "the rows are 7 minutes apart"),
        (table([("2024-01-01 00:00", "1")]), "one row is no series"),
        (table([("2024-01-01 00:00", ""), ("2024-01-01 01:00", "")]), "has no hour with a value"),
        ("time,load\n", "no column 'kw' in the header, which has time, load (separator comma)"),
        ("time,kW_\n1,2\n", "did you mean 'kW_'?"),
        ("time,kw\n", "a header and no rows"),
        ("time,kw,kw\n1,2,3\n", "names a column twice"),
        ("", "is empty"),
        (b"PK\x03\x04....", "export it as CSV"),
        (b"\x81\x00\xff", "is not text"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused_with_its_line(
    read: Callable[..., CsvSeries], text: str | bytes, says: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        read(text)
    assert says in str(refused.value)


def test_random_steps_are_refused_with_the_share_that_is_regular(read: Callable[..., CsvSeries]) -> None:
    rows = [
        (f"{START + timedelta(minutes=place * 15 + place * place % 11):%Y-%m-%dT%H:%MZ}", "1") for place in range(60)
    ]
    with pytest.raises(InvalidInput, match=r"rows are .* apart|not at a regular distance"):
        read(table(rows))


@settings(max_examples=30, deadline=None)
@given(
    day=st.sampled_from([datetime(2024, 3, 30, tzinfo=PARIS), datetime(2024, 10, 26, tzinfo=PARIS)]),
    minutes=st.sampled_from([15, 30, 60]),
    backwards=st.booleans(),
)
def test_wall_clock_days_of_23_and_25_hours_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, day: datetime, minutes: int, backwards: bool
) -> None:
    start = pd.Timestamp(day).tz_convert("UTC")
    index = pd.date_range(start, start + pd.Timedelta(days=3), freq=f"{minutes}min", inclusive="left")
    rows = [(f"{stamp.tz_convert(PARIS):%Y-%m-%d %H:%M}", str(place)) for place, stamp in enumerate(index)]
    path = tmp_path_factory.mktemp("dst") / "series.csv"
    path.write_text(table(rows[::-1] if backwards else rows))
    found = read_series(path, time="time", target="kw", timezone="Europe/Paris")
    expected = pd.Series(np.arange(len(index), dtype=float), index=index).resample("h").mean()
    assert found.values.index.equals(expected.index)
    assert found.values.to_numpy() == pytest.approx(expected.to_numpy())
    assert not [note for note in found.notes if "missing" in note or "repeated" in note]


def test_a_clock_that_never_changes_is_noticed(read: Callable[..., CsvSeries]) -> None:
    rows = [
        (f"{datetime(2024, 3, 30, tzinfo=PARIS) + timedelta(hours=place):%Y-%m-%d %H:%M}", "1") for place in range(72)
    ]
    found = read(table(rows), timezone="Europe/Paris")
    assert any("hour that the clocks of Europe/Paris skip (2024-03-31)" in note for note in found.notes)
    assert len(read(table(rows), timezone="Etc/GMT-1").values) == 72


def test_hours_are_means_or_sums_and_thin_ones_are_gaps(read: Callable[..., CsvSeries]) -> None:
    stamps = [START + timedelta(minutes=15 * place) for place in range(16)]
    cells = ["1", "2", "3", "4", "5", "", "7", "", "", "", "", "9", "2", "2", "2", "2"]
    text = table([(f"{stamp:%Y-%m-%dT%H:%MZ}", cell) for stamp, cell in zip(stamps, cells, strict=True)])
    mean, total = read(text), read(text, aggregate="sum")
    assert mean.values.tolist() == pytest.approx([2.5, 6, np.nan, 2], nan_ok=True)
    assert total.values.tolist() == pytest.approx([10, 24, np.nan, 8], nan_ok=True)
    assert mean.step_minutes == 15
    said = " ".join(total.notes)
    for words in (
        "the sum of 4",
        "1 hour without some",
        "scaled",
        "1 hour with fewer than half",
        "1 of 4 hours are missing",
    ):
        assert words in said


def test_interval_ends_and_hour_24_name_the_hour_before(read: Callable[..., CsvSeries]) -> None:
    text = table([("2024-01-01 23:00", "1"), ("2024-01-01 24:00", "2"), ("2024-01-02 01:00", "3")])
    starts = read(text, stamps="end").values.index
    assert [f"{stamp:%d %H}" for stamp in starts] == ["01 22", "01 23", "02 00"]


def test_of_a_repeated_time_the_last_known_value_counts(read: Callable[..., CsvSeries]) -> None:
    rows = hours(4, str)
    found = read(table([*rows, (rows[1][0], "9"), rows[2], (rows[3][0], "")]))
    assert found.values.tolist() == [0, 9, 2, 3]
    assert any("3 rows repeated a time, 2 with another value" in note for note in found.notes)


def test_regressors_get_their_names_and_units_and_may_reach_ahead(read: Callable[..., CsvSeries]) -> None:
    header = "time,kw,Temp. (°F),rel_humidity,Feiertag,price"
    rows = [
        (stamp, f"{kw},212,50,{'yes' if kw else 'no'},3")
        for stamp, kw in hours(5, lambda hour: "1" if hour < 3 else "")
    ]
    found = read(table(rows, header=header), regressors=["Temp. (°F)", "rel_humidity", "Feiertag", "price"])
    assert found.regressors is not None
    assert list(found.regressors.columns) == ["temperature", "humidity", "holiday", "price"]
    assert (len(found.values), len(found.regressors)) == (3, 5)
    assert found.regressors["temperature"].tolist() == [100.0] * 5
    assert found.regressors["holiday"].tolist() == [1, 1, 1, 0, 0]
    assert "column 'Temp. (°F)' was converted from °F to °C" in found.notes


def test_a_temperature_that_cannot_be_celsius_is_a_plain_number(read: Callable[..., CsvSeries]) -> None:
    rows = [(stamp, f"{kw},285") for stamp, kw in hours(3, str)]
    found = read(table(rows, header="time,kw,temp"), regressors=["temp"])
    assert found.regressors is not None
    assert list(found.regressors.columns) == ["temp"]
    assert any("cannot be °C" in note for note in found.notes)


@pytest.mark.parametrize(
    ("column", "name"),
    [
        ("temperature_c", "temperature"),
        ("outdoor_temp_c", "temperature"),
        ("Température", "temperature"),
        ("attempts", "attempts"),
        ("RH", "humidity"),
        ("rhythm", "rhythm"),
        ("public holiday", "holiday"),
        ("price", "price"),
    ],
)
def test_columns_are_recognised_by_their_names(column: str, name: str) -> None:
    assert canonical(column) == name


def test_date_and_time_may_stand_in_two_columns(read: Callable[..., CsvSeries]) -> None:
    text = "Date;Time;kw\n16/12/2006;17:00:00;1\n16/12/2006;18:00:00;2\n"
    assert read(text, time="Date,Time").values.tolist() == [1, 2]


def test_an_unknown_zone_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="'Mars/Base' is not an IANA time zone"):
        read_series(tmp_path / "none.csv", time="t", target="x", timezone="Mars/Base")
    with pytest.raises(InvalidInput, match=r"none\.csv: cannot be read"):
        read_series(tmp_path / "none.csv", time="t", target="x")
