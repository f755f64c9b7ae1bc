"""Pages by keyset: a cursor names the last row that was seen, so that rows arriving meanwhile move nothing."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import Depends, Query

from energy_cloud_dagster.api.values import moment
from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.intervals import rfc3339

MAX_LIMIT: Final = 1000
DEFAULT_LIMIT: Final = 100


class Paging:
    """What a caller asked of a list: how many rows, after which."""

    def __init__(self, limit: int, cursor: str | None) -> None:
        self.limit = limit
        self._cursor = cursor

    @property
    def fetch(self) -> int:
        """How many rows to read: one more than the page, to see whether another follows."""
        return self.limit + 1

    def after(self, *kinds: type) -> tuple[Any, ...] | None:
        """Return the key in the cursor as values of ``kinds`` (str, int or datetime), None for the first page.

        A cursor that this list did not hand out is ``InvalidInput``.
        """
        if self._cursor is None:
            return None
        try:
            padded = self._cursor + "=" * (-len(self._cursor) % 4)
            parts = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
            return tuple(_read(part, kind) for part, kind in zip(parts, kinds, strict=True))
        except (binascii.Error, ValueError, TypeError, RecursionError):
            raise InvalidInput("cursor: pass nextCursor of this list as it came, or none", pointer="/cursor") from None

    def page[Row](self, rows: Sequence[Row], key: Callable[[Row], tuple[Any, ...]]) -> tuple[Sequence[Row], str | None]:
        """Split off the row past the page; return the page and the cursor of its last row, None at the end."""
        if len(rows) <= self.limit:
            return rows, None
        kept = rows[: self.limit]
        parts = [rfc3339(part) if isinstance(part, datetime) else part for part in key(kept[-1])]
        text = json.dumps(parts, separators=(",", ":")).encode()
        return kept, base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def _read(part: Any, kind: type) -> Any:
    if kind is datetime:
        if not isinstance(part, str):
            raise TypeError
        return moment(part)
    if type(part) is not kind:
        raise TypeError
    return part


def _paging(
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Rows a page.")] = DEFAULT_LIMIT,
    cursor: Annotated[str | None, Query(max_length=1024, description="`nextCursor` of the page before.")] = None,
) -> Paging:
    return Paging(limit, cursor)


Paged = Annotated[Paging, Depends(_paging)]
"""The paging of a list route."""
