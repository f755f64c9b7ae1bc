"""The Parquet file of an archived day: written from rows and read back as rows, a group at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import sqlalchemy as sa

from energy_cloud_dagster.adapters.archive_rows import (
    GROUP_ROWS,
    RowsDigest,
    SeriesNames,
    Texts,
    batch_of_rows,
    file_schema,
    rows_of_batch,
)
from energy_cloud_dagster.adapters.archive_store import ArchiveStore
from energy_cloud_dagster.adapters.tables import device, series
from energy_cloud_dagster.domain.errors import Conflict

_ZSTD_LEVEL: Final = 3


def write(stream: Any, groups: Iterable[Any], texts: Texts, names: SeriesNames, written: RowsDigest) -> None:
    """Write groups of rows in key order to an open file and add them to ``written``."""
    import pyarrow.parquet as pq

    schema = file_schema(texts)
    order = pq.SortingColumn.from_ordering(
        schema, [("series_id", "ascending"), ("ts", "ascending"), ("revision", "ascending")]
    )
    options = {"compression": "zstd", "compression_level": _ZSTD_LEVEL, "sorting_columns": order}
    with pq.ParquetWriter(stream, schema, **options) as writer:
        for rows in groups:
            written.update(rows)
            writer.write_table(batch_of_rows(rows, texts, names), row_group_size=GROUP_ROWS)


def series_names(connection: sa.Connection) -> SeriesNames:
    """Return what the registry calls every series."""
    import numpy as np
    import pyarrow as pa

    statement = (
        sa.select(series.c.series_id, device.c.device_id, series.c.metric, series.c.unit)
        .join_from(series, device, series.c.device_id == device.c.device_id)
        .order_by(series.c.series_id)
        .execution_options(yield_per=50_000)
    )
    kinds = pa.schema(
        [("series_id", pa.int32()), ("device_id", pa.string()), ("metric", pa.string()), ("unit", pa.string())]
    )
    parts = []
    for rows in connection.execute(statement).partitions():
        columns = zip(kinds, zip(*rows, strict=True), strict=True)
        parts.append(pa.table([pa.array(values, field.type) for field, values in columns], schema=kinds))
    table = pa.concat_tables([kinds.empty_table(), *parts]).combine_chunks()
    return SeriesNames(table["series_id"].to_numpy().astype(np.int32), table.drop_columns("series_id"))


def read(store: ArchiveStore, name: str) -> Iterator[Any]:
    """Yield the texts of a file, then its rows a group at a time; ``Conflict`` where it is no archive of ours."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with store.read(name) as file:
        try:
            parquet = pq.ParquetFile(file)
            texts = Texts.decode((parquet.schema_arrow.metadata or {})[b"texts"])
            yield texts
            for batch in parquet.iter_batches(GROUP_ROWS):
                yield rows_of_batch(batch, texts)
        except (pa.ArrowInvalid, pa.ArrowTypeError, KeyError, ValueError) as error:
            raise Conflict(f"{store.uri(name)} is no archived day ({' '.join(str(error).split())[:200]})") from error


def digest(store: ArchiveStore, name: str) -> RowsDigest:
    """Return the rows of a file and their digest, as it lies in the archive."""
    rows = read(store, name)
    found = RowsDigest(next(rows))
    for group in rows:
        found.update(group)
    return found
