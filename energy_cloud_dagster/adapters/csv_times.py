"""Times as files write them: ISO 8601 with or without an offset, dates of several countries, seconds since 1970."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import numpy.typing as npt
import pandas as pd

from energy_cloud_dagster.domain.errors import InvalidInput

_EPOCH: Final = r"\d{9,19}(?:\.\d+)?"
_COMPACT: Final = r"(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:[01]\d|2[0-3])(?:[0-5]\d){0,2}"
_OFFSET: Final = r"\d{2}(?::?\d{2}(?::?\d{2}(?:[.,]\d+)?)?)?\s*(?:Z|z|UTC|[+-]\d{2}(?::?\d{2})?)"
_ISO: Final = r"\d{4}-\d{2}-\d{2}(?:[T ].*)?"
_DATE: Final = (
    r"(\d{1,4})([./-])(\d{1,2})[./-](\d{1,4})"
    r"(?:[T ,]+(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,]\d+)?)?\s*([AaPp]\.?[Mm]\.?)?)?"
)
_RANGE: Final = re.compile(r"(.*\d.*?)\s+[-\u2013]\s+(.*\d.*)")
_Whole = npt.NDArray[np.integer[Any]]
_EXAMPLE: Final = "write ISO 8601, such as 2024-01-31T13:00:00Z or 2024-01-31 13:00"


def zone_of(name: str) -> ZoneInfo:
    """Return the IANA time zone ``name``; an unknown one raises ``InvalidInput``."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidInput(f"{name!r} is not an IANA time zone; give one such as Europe/Paris or UTC") from error


def utc_times(
    cells: Sequence[str], lines: Sequence[int], name: str, timezone: str
) -> tuple[pd.DatetimeIndex, tuple[str, ...]]:
    """Return the cells of column ``name`` as UTC times and notes; a time that the clocks skipped is NaT.

    - With offsets (all of them or none): as they say. Without: wall time of ``timezone``; of an hour that came twice
      in autumn the first row is the first hour (in a file that runs backwards the last), and an hour that was skipped
      in spring has no time.
    - Numbers of 9 to 19 digits are seconds, milliseconds, micro- or nanoseconds since 1970, by their size;
      ``YYYYMMDDhh[mm[ss]]`` is read as a date.
    - ``31.12.2024 13:00``, ``12/31/2024 1:00 PM``: which of the first two numbers is the day must follow from the
      column: from a number above 12, or from the regular step that only one reading gives.
    - ``24:00`` is the midnight that ends its day; of a range ``a - b`` the first time counts.

    Anything else raises ``InvalidInput`` with the line and the cell.
    """
    zone = zone_of(timezone)
    text = pd.Series(list(cells), dtype=object).astype("str")
    missing = np.flatnonzero((text == "").to_numpy())
    if len(missing):
        raise InvalidInput(f"line {lines[missing[0]]}: column {name!r} has no time")
    if _RANGE.fullmatch(text.iloc[0]):
        text = text.str.replace(_RANGE.pattern, r"\1", regex=True)
    if text.str.fullmatch(_EPOCH).all() and not _is_compact(text):
        return _epoch(text), ()
    if text.str.fullmatch(_COMPACT).all():
        text = text.str.replace(r"(\d{4})(\d{2})(\d{2})(\d{2})", r"\1-\2-\3 \4:", n=1, regex=True)
        text = text.str.replace(r":(\d{2})(\d{2})$", r":\1:\2", regex=True).str.replace(r":$", ":00", regex=True)
    midnight = text.str.contains(r"[T ]24:00(?::00)?", regex=True).to_numpy()
    if midnight.any():
        text = text.str.replace(r"([T ])24:00", r"\g<1>00:00", n=1, regex=True)
    offsets = text.str.contains(rf"[T ]{_OFFSET}$", regex=True).to_numpy()
    if text.str.fullmatch(_ISO).all():
        if offsets.any() and not offsets.all():
            some, other = int(np.flatnonzero(offsets)[0]), int(np.flatnonzero(~offsets)[0])
            raise InvalidInput(
                f"column {name!r} has times with an offset ({cells[some]!r}, line {lines[some]}) and without "
                f"({cells[other]!r}, line {lines[other]}); write all in one way"
            )
        clean = text.str.replace("UTC", "Z").str.replace("z", "Z").str.replace(r"\s+(Z|[+-]\d)", r"\1", regex=True)
        stamps = pd.to_datetime(clean, format="ISO8601", utc=bool(offsets.all()), errors="coerce")
        _refuse_unread(stamps, cells, lines, name)
        naive = pd.DatetimeIndex(stamps)
    else:
        naive = _dates(text, cells, lines, name)
    naive = naive + pd.to_timedelta(midnight.astype(np.int64), unit="D")
    if naive.tz is not None:
        return naive, ()
    return _localised(naive, zone, timezone)


def _refuse_unread(stamps: pd.Series[Any], cells: Sequence[str], lines: Sequence[int], name: str) -> None:
    unread = np.flatnonzero(stamps.isna().to_numpy())
    if len(unread):
        place = int(unread[0])
        raise InvalidInput(f"line {lines[place]}: {cells[place]!r} in column {name!r} is not a time; {_EXAMPLE}")


def _is_compact(text: pd.Series[str]) -> bool:
    """Tell YYYYMMDDhh from seconds since 1970 (both ten digits): the hours of one day differ by one."""
    if not text.str.fullmatch(_COMPACT).all():
        return False
    if (text.str.len() != 10).any():
        return True
    steps = np.diff(np.unique(text.astype(np.int64).to_numpy()))
    return bool(len(steps)) and float(np.median(steps)) < 60


def _epoch(text: pd.Series[str]) -> pd.DatetimeIndex:
    values = text.astype(np.float64)
    size = float(values.abs().median())
    unit = "s" if size < 1e11 else "ms" if size < 1e14 else "us" if size < 1e17 else "ns"
    if not text.str.contains(".", regex=False).any():
        return pd.DatetimeIndex(pd.to_datetime(text.astype(np.int64), unit=cast("Any", unit), utc=True))
    return pd.DatetimeIndex(pd.to_datetime(values, unit=cast("Any", unit), utc=True).dt.round("ms"))


def _dates(text: pd.Series[str], cells: Sequence[str], lines: Sequence[int], name: str) -> pd.DatetimeIndex:
    parts = text.str.extract(f"^{_DATE}$")
    _refuse_unread(parts[0].where(parts[0].notna()), cells, lines, name)
    first, second, third = (parts[place].astype(np.int64).to_numpy() for place in (0, 2, 3))
    hour = parts[4].fillna("0").astype(np.int64).to_numpy()
    minute, seconds = (parts[place].fillna("0").astype(np.int64).to_numpy() for place in (5, 6))
    half = parts[7].str.lower().str[0]
    hour = np.where(half.notna(), hour % 12 + 12 * (half == "p"), hour)

    def built(year: _Whole, month: _Whole, day: _Whole) -> pd.Series[Any]:
        year = np.where(year < 100, year + 2000, year)
        clock = {"hour": hour, "minute": minute, "second": seconds}
        return pd.to_datetime(pd.DataFrame({"year": year, "month": month, "day": day} | clock), errors="coerce")

    if parts[0].str.len().eq(4).all():
        stamps = built(first, second, third)
        _refuse_unread(stamps, cells, lines, name)
        return pd.DatetimeIndex(stamps)
    day_first, month_first = built(third, second, first), built(third, first, second)
    if parts[1].eq(".").all():  # no country writes the month first with dots
        _refuse_unread(day_first, cells, lines, name)
        return pd.DatetimeIndex(day_first)
    readings = [each for each in (day_first, month_first) if each.notna().all()]
    if not readings:
        better = day_first if day_first.notna().sum() >= month_first.notna().sum() else month_first
        _refuse_unread(better, cells, lines, name)
    if len(readings) == 1 or readings[0].equals(readings[1]):
        return pd.DatetimeIndex(readings[0])
    regular = [_regularity(each) for each in readings]
    if abs(regular[0] - regular[1]) < 0.01:
        raise InvalidInput(
            f"line {lines[0]}: {cells[0]!r} in column {name!r} may have the day first or the month first, "
            f"and no row tells which; {_EXAMPLE}"
        )
    return pd.DatetimeIndex(readings[int(np.argmax(regular))])


def _regularity(stamps: pd.Series[Any]) -> float:
    """Return the share of the steps between sorted times that are the most frequent one."""
    steps = np.diff(np.unique(stamps.to_numpy()))
    return float(np.unique(steps, return_counts=True)[1].max() / len(steps)) if len(steps) else 0.0


def _localised(naive: pd.DatetimeIndex, zone: ZoneInfo, timezone: str) -> tuple[pd.DatetimeIndex, tuple[str, ...]]:
    backwards = len(naive) > 1 and naive[0] > naive[-1]
    order = naive[::-1] if backwards else naive
    first = ~order.duplicated(keep="first")
    first = first[::-1] if backwards else first
    stamps = naive.tz_localize(zone, ambiguous=np.asarray(first), nonexistent="NaT").tz_convert("UTC")
    skipped = np.flatnonzero(stamps.isna())
    if not len(skipped):
        return stamps, ()
    days = sorted({f"{naive[int(place)]:%Y-%m-%d}" for place in skipped})
    shown = ", ".join(days[:3]) + (", ..." if len(days) > 3 else "")
    rows = f"{len(skipped)} row{'' if len(skipped) == 1 else 's'}"
    said = (
        f"{rows} in an hour that the clocks of {timezone} skip ({shown}): dropped; a logger whose clock never changes "
        "wants a fixed zone, such as --tz Etc/GMT-1 for UTC+1"
    )
    return stamps, (said,)
