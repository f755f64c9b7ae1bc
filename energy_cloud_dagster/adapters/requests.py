"""Answered writes by ``Idempotency-Key``: ``raw.request``, committed with what they wrote.

Functions take an open connection and never commit. Call ``claim`` before anything else that the transaction locks.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from energy_cloud_dagster.adapters.tables import request
from energy_cloud_dagster.domain.errors import InvalidInput

#: How long an answer is kept: a caller that has not heard it by then sends a new key.
KEPT: Final = timedelta(hours=24)
#: Answers past their time that one write clears away.
_SWEPT: Final = 20


class Answered(NamedTuple):
    """What a write was answered."""

    status: int
    body: bytes


def claim(connection: sa.Connection, caller: str, key: str, digest: str, now: datetime) -> Answered | None:
    """Return what ``caller`` was answered under ``key``, None where it was not; hold the key until the commit.

    Another call with the same key waits here until this transaction ends. A key that was used for another request
    (``digest``) is ``InvalidInput``.
    """
    lock = sa.func.hashtextextended(f"{len(caller)}:{caller}{key}", 0)
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(lock)))
    row = connection.execute(
        sa.select(request.c.digest, request.c.status, request.c.answer).where(
            request.c.caller == caller, request.c.idempotency_key == key, request.c.created_at > now - KEPT
        )
    ).one_or_none()
    if row is None:
        return None
    if row.digest != digest:
        raise InvalidInput("this Idempotency-Key was used for another request; take a new key for new content")
    return Answered(row.status, row.answer)


def keep(
    connection: sa.Connection, caller: str, key: str, digest: str, *, status: int, body: bytes, now: datetime
) -> None:
    """Keep what ``caller`` is answered under the ``key`` that it claimed, and clear some answers past their time."""
    values = {"digest": digest, "status": status, "answer": body, "created_at": now}
    statement = insert(request).values(caller=caller, idempotency_key=key, **values)
    connection.execute(
        statement.on_conflict_do_update(index_elements=[request.c.caller, request.c.idempotency_key], set_=values)
    )
    old = (
        sa.select(request.c.caller, request.c.idempotency_key)
        .where(request.c.created_at <= now - KEPT)
        .order_by(request.c.created_at)
        .limit(_SWEPT)
        .with_for_update(skip_locked=True)
    )
    connection.execute(sa.delete(request).where(sa.tuple_(request.c.caller, request.c.idempotency_key).in_(old)))
