"""Rows as JSON, CSV or Parquet, whichever the caller's ``Accept`` names first."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal

from fastapi import Request
from starlette.responses import Response

from energy_cloud_dagster.domain.intervals import rfc3339

type Format = Literal["json", "csv", "parquet"]

CSV: Final = "text/csv"
PARQUET: Final = "application/vnd.apache.parquet"
_FORMATS: Final[Mapping[str, Format]] = {
    CSV: "csv",
    PARQUET: "parquet",
    "application/x-parquet": "parquet",
    "application/json": "json",
    "application/*": "json",
    "*/*": "json",
}
#: What OpenAPI says of a route that answers in all three.
CONTENT: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "content": {
            CSV: {"schema": {"type": "string"}},
            PARQUET: {"schema": {"type": "string", "format": "binary"}},
        },
        "headers": {"Link": {"description": "Of the next page (CSV, Parquet).", "schema": {"type": "string"}}},
    }
}


def wanted(request: Request) -> Format:
    """Return the format that ``Accept`` likes best; JSON where it names none of the three."""
    liked: list[tuple[float, int, Format]] = []
    for place, part in enumerate(request.headers.get("accept", "").split(",")):
        name, *parameters = (each.strip() for each in part.split(";"))
        if name.lower() in _FORMATS:
            liked.append((-_quality(parameters), place, _FORMATS[name.lower()]))
    return min(liked, default=(0.0, 0, "json"))[2]


def table(
    request: Request, kind: Format, columns: Sequence[str], rows: Sequence[Sequence[Any]], cursor: str | None
) -> Response:
    """Return rows as CSV or Parquet, with a ``Link`` to the next page where there is one."""
    headers = {"Vary": "Accept"}
    if cursor is not None:
        following = request.url.include_query_params(cursor=cursor)
        headers["Link"] = f'<{following.path}?{following.query}>; rel="next"'
    body = _csv(columns, rows) if kind == "csv" else _parquet(columns, rows)
    return Response(body, headers=headers, media_type=CSV if kind == "csv" else PARQUET)


def _quality(parameters: Sequence[str]) -> float:
    for each in parameters:
        name, _, value = each.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def _csv(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([rfc3339(value) if isinstance(value, datetime) else value for value in row])
    return text.getvalue().encode()


def _parquet(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    by_column = list(zip(*rows, strict=True)) if rows else [()] * len(columns)
    stream = io.BytesIO()
    pq.write_table(pa.table(dict(zip(columns, (list(each) for each in by_column), strict=True))), stream)
    return stream.getvalue()
