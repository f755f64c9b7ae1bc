"""CSV files as people have them: which separator, which line is the header, and which numbers the cells are.

Nothing is guessed that could be read in two ways: such a cell is refused with its line and the mend.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Final

import numpy as np

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting.series import Floats

SEPARATORS: Final = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
#: Lines in which the header is looked for: exports put titles and licences above it.
HEADER_LINES: Final = 60
#: What people write where there is no value (compared without case).
MISSING: Final = frozenset(
    {"", "-", "--", ".", "?", "na", "n/a", "#n/a", "nan", "null", "none", "missing", "no data", "inf", "-inf", "+inf"}
)
_YES: Final = frozenset({"true", "yes", "y"})
_NO: Final = frozenset({"false", "no", "n"})
_PLAIN: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
#: Separators of thousands that are never a decimal sign: Swiss apostrophes, spaces, underscores.
_SPACERS: Final = re.compile(r"(?<=\d)['\u2019_ \u00a0\u2009\u202f](?=\d{3}(?!\d))", re.ASCII)
_COMMA_DECIMAL: Final = re.compile(r"[+-]?(\d{1,3}(\.\d{3})+|\d+),\d*([eE][+-]?\d+)?", re.ASCII)
_COMMA_THOUSANDS: Final = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?", re.ASCII)
_DOT_THOUSANDS: Final = re.compile(r"[+-]?[1-9]\d{0,2}(\.\d{3})+", re.ASCII)


@dataclass(frozen=True)
class Table:
    """The wanted columns of a CSV as text: one entry per row in ``lines`` (1-based lines of the file) and each column.

    ``names`` says which column of the header stands behind each wanted one.
    """

    columns: dict[str, list[str]]
    names: dict[str, str]
    lines: list[int]
    separator: str
    notes: tuple[str, ...]


def file_text(path: Path) -> tuple[str, tuple[str, ...]]:
    """Return the text of a CSV (plain or gzip; ``-`` is standard input) and notes on its encoding.

    A file that cannot be read, or is no text, raises ``InvalidInput`` that names it.
    """
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        if data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
    except (OSError, EOFError) as error:
        raise InvalidInput(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if data.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise InvalidInput(f"{path}: is a spreadsheet or an archive, not text; export it as CSV")
    if data.startswith(b"PAR1"):
        raise InvalidInput(f"{path}: is Parquet, not text; export it as CSV")
    try:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            return data.decode("utf-16"), ("the file is UTF-16",)
        return data.decode("utf-8-sig"), ()
    except UnicodeDecodeError:
        if b"\x00" in data:
            raise InvalidInput(f"{path}: is not text; give a CSV file") from None
        return data.decode("cp1252", errors="replace"), ("the file is not UTF-8: read as Windows-1252",)


def _fields(line: str, separator: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])]


def _match(name: str, header: Sequence[str]) -> int | None:
    """Return the place of ``name`` in ``header``: as written, else without case and outer spaces."""
    if name in header:
        return header.index(name)
    folded = [each.casefold() for each in header]
    wanted = name.strip().casefold()
    return folded.index(wanted) if folded.count(wanted) == 1 else None


def _header(path: Path, lines: Sequence[str], wanted: Sequence[str]) -> tuple[int, str, list[str]]:
    """Return the place of the header among ``lines``, the separator and the column names."""
    top = [(number, line) for number, line in enumerate(lines[:HEADER_LINES]) if line.strip()]
    if not top:
        raise InvalidInput(f"{path}: is empty; give a CSV with a header line")
    best: tuple[int, int, int, str, list[str]] = (-1, 0, 0, ",", [])
    for number, line in top:
        for separator in SEPARATORS:
            names = _fields(line, separator)
            found = sum(_match(name, names) is not None for name in wanted)
            if found == len(wanted) and len(set(names)) == len(names):
                return number, separator, names
            if (found, len(names)) > best[:2]:
                best = (found, len(names), number, separator, names)
    _, _, number, separator, names = best
    missing = [name for name in wanted if _match(name, names) is None]
    if not missing:
        raise InvalidInput(f"{path}: the header on line {number + 1} names a column twice; rename one")
    folded = {each.casefold(): each for each in names}
    near = get_close_matches(missing[0].casefold(), folded, n=1)
    hint = f"; did you mean {folded[near[0]]!r}?" if near else ""
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    raise InvalidInput(
        f"{path}: no column {missing[0]!r} in the header, which has {shown} (separator {SEPARATORS[separator]}){hint}"
    )


def read_table(path: Path, wanted: Sequence[str]) -> Table:
    """Return the columns ``wanted`` of the CSV at ``path`` as text, cells without outer spaces.

    The header is the first line that has all wanted names, so titles above it do no harm; the separator is the one
    (comma, semicolon, tab, bar) with which it has them. Blank lines are passed over. Raises ``InvalidInput`` for a
    missing column (naming those there are), for a line with more fields than the header (a decimal comma in a
    comma-separated file, most often) and for a file without rows.
    """
    text, notes = file_text(path)
    lines = text.splitlines()
    at, separator, names = _header(path, lines, wanted)
    places = {name: place for name in wanted if (place := _match(name, names)) is not None}
    columns: dict[str, list[str]] = {name: [] for name in places}
    numbers: list[int] = []
    reader = csv.reader(io.StringIO("\n".join(lines[at + 1 :])), delimiter=separator, skipinitialspace=True)
    width, repeated = len(names), 0
    try:
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if [cell.strip() for cell in row[:width]] == names:  # files that were put one behind the other
                repeated += 1
                continue
            if len(row) > width and any(cell.strip() for cell in row[width:]):
                raise InvalidInput(_too_wide(path, at + 1 + reader.line_num, len(row), width, separator))
            numbers.append(at + 1 + reader.line_num)
            for name, place in places.items():
                columns[name].append(row[place].strip() if place < len(row) else "")
    except csv.Error as error:
        raise InvalidInput(f"{path}: line {at + 1 + reader.line_num} is not CSV ({error})") from None
    if not numbers:
        raise InvalidInput(f"{path}: has a header and no rows")
    if repeated:
        notes = (*notes, f"the header appears {repeated + 1} times: taken once")
    return Table(columns, {name: names[place] for name, place in places.items()}, numbers, separator, notes)


def _too_wide(path: Path, line: int, found: int, width: int, separator: str) -> str:
    said = f"{path}: line {line} has {found} fields where the header has {width}"
    if separator == ",":
        said += "; a decimal comma cannot be told from the separator: write decimal points or separate by semicolons"
    return said


def numbers(cells: Sequence[str], lines: Sequence[int], name: str) -> tuple[Floats, tuple[str, ...]]:
    """Return the cells of column ``name`` as floats, what is missing as NaN, and notes on how they were read.

    Decimal points are taken as they are. Decimal commas and separators of thousands are understood where every cell of
    the column can be read in one way only (``12,5`` or ``1.234,5``, ``1,234.5``, ``1'234.5``); a column where commas
    could be either (only ``1,234``), or that mixes decimal points and commas, raises ``InvalidInput`` with the lines.
    Words are refused, except those for yes, no and a missing value.
    """
    values = np.full(len(cells), np.nan)
    strange: dict[int, str] = {}
    point: int | None = None
    for place, cell in enumerate(cells):
        if _PLAIN.fullmatch(cell):
            values[place] = float(cell)
            if point is None and "." in cell and not _DOT_THOUSANDS.fullmatch(cell):
                point = place
        elif (folded := cell.casefold()) not in MISSING:
            if folded in _YES or folded in _NO:
                values[place] = float(folded in _YES)
            else:
                strange[place] = _SPACERS.sub("", cell)
    if not strange:
        return values, ()
    if _decimal_commas(strange, point, cells, lines, name):  # then dots separate thousands in every cell
        dotted = {place: cell for place, cell in enumerate(cells) if "." in cell and np.isfinite(values[place])}
        for place, cell in (strange | dotted).items():
            values[place] = float(cell.replace(".", "").replace(",", "."))
        return values, (f"column {name!r} has decimal commas",)
    for place, cell in strange.items():
        values[place] = float(cell.replace(",", ""))
    return values, (f"column {name!r} has separators of thousands",)


def _decimal_commas(
    strange: Mapping[int, str], point: int | None, cells: Sequence[str], lines: Sequence[int], name: str
) -> bool:
    """Tell whether commas are decimal in the cells that are not plain numbers; refuse what cannot be told.

    ``point`` is the place of a cell whose dot can only be a decimal point.
    """
    for place, cell in strange.items():
        if not (_PLAIN.fullmatch(cell) or _COMMA_DECIMAL.fullmatch(cell) or _COMMA_THOUSANDS.fullmatch(cell)):
            raise InvalidInput(
                f"line {lines[place]}: {cells[place]!r} in column {name!r} is not a number; "
                "leave the cell empty where a value is missing"
            )
    commas = {place: cell for place, cell in strange.items() if "," in cell}
    decimal = next((place for place, cell in commas.items() if not _COMMA_THOUSANDS.fullmatch(cell)), None)
    thousands = next((place for place, cell in commas.items() if not _COMMA_DECIMAL.fullmatch(cell)), None)
    other = thousands if thousands is not None else point
    if decimal is not None and other is not None:
        raise InvalidInput(
            f"column {name!r} writes numbers in two languages: {cells[decimal]!r} on line {lines[decimal]} and "
            f"{cells[other]!r} on line {lines[other]}; write decimal points throughout"
        )
    if commas and decimal is None and other is None:
        place = next(iter(commas))
        raise InvalidInput(
            f"line {lines[place]}: {cells[place]!r} in column {name!r} may be a decimal comma or a thousands comma, "
            "and no cell of the column tells which; write decimal points and no separators of thousands"
        )
    return decimal is not None
