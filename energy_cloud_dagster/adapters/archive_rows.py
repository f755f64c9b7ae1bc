"""The rows of one day of readings between PostgreSQL's binary COPY and Arrow, exact to the bit, and their digest.

Quality and source travel as numbers (their place in the day's sorted texts), so that every row has the same length and
nothing is done row by row in Python.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from energy_cloud_dagster.domain.errors import Conflict

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

#: Rows of one row group of the file, and of one step of every loop: what bounds the memory.
GROUP_ROWS: Final = 131_072
#: COPY's binary header: signature, flags, length of the extension. A trailer of two bytes follows the rows.
_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER: Final = b"\xff\xff"
_FIELDS: Final = (
    ("series_id", "i4"),
    ("ts", "i8"),
    ("revision", "i2"),
    ("value", "f8"),
    ("received_at", "i8"),
    ("quality", "i2"),
    ("source", "i2"),
)
#: PostgreSQL counts microseconds from 2000, Arrow from 1970.
_EPOCH_MICROSECONDS: Final = 946_684_800_000_000
_STAMPS: Final = ("ts", "received_at")

#: Columns of the file: those of ``raw.reading``, then what lets it stand alone.
FILE_COLUMNS: Final = (
    "series_id",
    "ts",
    "revision",
    "value",
    "quality",
    "received_at",
    "source",
    "device_id",
    "metric",
    "unit",
)


class Texts(NamedTuple):
    """The qualities and sources that occur in a day, each sorted; a row holds places in them."""

    qualities: tuple[str, ...]
    sources: tuple[str, ...]

    def encode(self) -> bytes:
        """Return their canonical bytes, which are part of the digest and of the file's metadata."""
        return json.dumps([self.qualities, self.sources], ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, raw: bytes) -> Texts:
        """Return what ``encode`` wrote."""
        qualities, sources = json.loads(raw)
        return cls(tuple(qualities), tuple(sources))


class SeriesNames(NamedTuple):
    """Device, metric and unit of every registered series, sorted by ``ids``; bounded by the registry's size."""

    ids: np.ndarray[Any, np.dtype[np.int32]]
    names: pa.Table

    def of(self, series_id: np.ndarray[Any, Any]) -> pa.Table:
        """Return device_id, metric and unit of each series, null where the registry does not know it."""
        import numpy as np
        import pyarrow as pa

        if not len(self.ids):
            return self.names.take(pa.nulls(len(series_id), pa.int64()))
        places = np.minimum(np.searchsorted(self.ids, series_id), len(self.ids) - 1)
        return self.names.take(pa.array(places, mask=self.ids[places] != series_id))


class RowsDigest:
    """SHA-256 over texts and rows in key order: the same for the same rows, wherever they lie."""

    def __init__(self, texts: Texts) -> None:
        self._hash = hashlib.sha256(texts.encode())
        self.rows = 0

    def update(self, rows: np.ndarray[Any, Any]) -> None:
        """Add rows as ``rows_of_copy`` and ``rows_of_batch`` return them."""
        self._hash.update(memoryview(rows).cast("B") if len(rows) else b"")
        self.rows += len(rows)

    def hexdigest(self) -> str:
        """Return 64 hex digits."""
        return self._hash.hexdigest()


def row_dtype() -> np.dtype[Any]:
    """Return the record of one row in memory and in the digest: packed, little-endian, 34 bytes."""
    import numpy as np

    return np.dtype([(name, f"<{kind}") for name, kind in _FIELDS])


def _copy_dtype() -> np.dtype[Any]:
    """Return the record of one row on the wire: a count of fields, then each with its length, big-endian."""
    import numpy as np

    described: list[tuple[str, str]] = [("fields", ">i2")]
    for name, kind in _FIELDS:
        described += [(f"{name} length", ">i4"), (name, f">{kind}")]
    return np.dtype(described)


def copy_statement(relation: str, texts: Texts, where: str = "true") -> tuple[str, list[Any]]:
    """Return the COPY (and its parameters) that sends the rows of ``relation`` in key order as ``groups`` reads them.

    ``relation`` and ``where`` are SQL of ours.
    """
    statement = f"""
    copy (
        select series_id, ts, revision, value, received_at,
            (array_position(%s::text[], quality) - 1)::int2, (array_position(%s::text[], source) - 1)::int2
        from {relation} where {where} order by series_id, ts, revision
    ) to stdout (format binary)
    """
    return statement, [list(texts.qualities), list(texts.sources)]


def groups(messages: Iterable[Any]) -> Iterator[np.ndarray[Any, Any]]:
    """Yield the rows of a COPY, ``GROUP_ROWS`` at a time; ``Conflict`` where it is not of the expected shape."""
    import numpy as np

    wire = _copy_dtype()
    gathered = bytearray()
    whole = GROUP_ROWS * wire.itemsize
    first = True
    for message in messages:
        gathered += message
        if first:
            if len(gathered) < len(_HEADER):
                continue
            if not gathered.startswith(_HEADER):
                raise Conflict("PostgreSQL sent a binary COPY with a header that is not known")
            del gathered[: len(_HEADER)]
            first = False
        while len(gathered) > whole:
            yield _parsed(np.frombuffer(gathered[:whole], wire))
            del gathered[:whole]
    if not gathered.endswith(_TRAILER):
        raise Conflict("PostgreSQL's COPY ended early")
    if len(gathered) > len(_TRAILER):
        yield _parsed(np.frombuffer(gathered[: -len(_TRAILER)], wire))


def _parsed(wire: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import numpy as np

    if (wire["fields"] != len(_FIELDS)).any():
        raise Conflict("PostgreSQL's COPY does not have one length of row")
    rows = np.empty(len(wire), row_dtype())
    for name, _ in _FIELDS:
        rows[name] = wire[name]
    return rows


def copy_bytes(batches: Iterable[np.ndarray[Any, Any]]) -> Iterator[bytes]:
    """Yield what COPY … FROM STDIN (FORMAT binary) reads: the columns in the order of the row, texts as places."""
    import numpy as np

    wire = _copy_dtype()
    yield _HEADER
    for rows in batches:
        sent = np.empty(len(rows), wire)
        sent["fields"] = len(_FIELDS)
        for name, kind in _FIELDS:
            sent[f"{name} length"] = int(kind[1:])
            sent[name] = rows[name]
        yield sent.tobytes()
    yield _TRAILER


def file_schema(texts: Texts) -> pa.Schema:
    """Return the schema of the file; its metadata carries the texts' order, from which the digest follows."""
    import pyarrow as pa

    stamp, text = pa.timestamp("us", tz="UTC"), pa.string()
    kinds = {
        "series_id": pa.int32(),
        "ts": stamp,
        "revision": pa.int16(),
        "value": pa.float64(),
        "received_at": stamp,
    }
    optional = {"device_id", "metric", "unit"}
    return pa.schema(
        [pa.field(name, kinds.get(name, text), nullable=name in optional) for name in FILE_COLUMNS],
        metadata={"texts": texts.encode()},
    )


def batch_of_rows(rows: np.ndarray[Any, Any], texts: Texts, names: SeriesNames) -> pa.Table:
    """Return rows as a table of the file's schema."""
    import numpy as np
    import pyarrow as pa

    schema = file_schema(texts)
    made: dict[str, Any] = {}
    for name, _ in _FIELDS:
        column = np.ascontiguousarray(rows[name])
        made[name] = column + _EPOCH_MICROSECONDS if name in _STAMPS else column
    for name, known in (("quality", texts.qualities), ("source", texts.sources)):
        made[name] = pa.array(known, pa.string()).take(pa.array(made[name]))
    for name in _STAMPS:
        made[name] = pa.array(made[name]).cast(schema.field(name).type)
    named = names.of(made["series_id"])
    made |= {name: named[name] for name in ("device_id", "metric", "unit")}
    return pa.table([made[name] for name in FILE_COLUMNS], schema=schema)


def rows_of_batch(batch: pa.RecordBatch, texts: Texts) -> np.ndarray[Any, Any]:
    """Return a batch of the file as rows: the inverse of ``batch_of_rows``; ``Conflict`` where it cannot be one."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = np.empty(batch.num_rows, row_dtype())
    for name, _ in _FIELDS:
        column = batch.column(name)
        if name in _STAMPS:
            rows[name] = column.cast(pa.int64()).to_numpy() - _EPOCH_MICROSECONDS
            continue
        if name in {"quality", "source"}:
            known = texts.qualities if name == "quality" else texts.sources
            column = pc.index_in(column, value_set=pa.array(known, pa.string()))
        if column.null_count:
            raise Conflict(f"the column {name} of the file holds what its metadata does not name")
        rows[name] = column.to_numpy(zero_copy_only=False)
    return rows
