"""Audit steps and the evidence of every settled trade: schema ``audit``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from energy_cloud_dagster.adapters.tables import batch, evidence, step, trade
from energy_cloud_dagster.domain.audit.evidence import SealedTrade
from energy_cloud_dagster.domain.errors import NotFound

# -- read


class EvidenceRow(NamedTuple):
    """The evidence of one trade in one batch; hashes are 0x and 64 hex digits, ``proof`` runs from the leaf up."""

    trade_id: str
    batch_id: str
    leaf_index: int
    document: dict[str, Any]
    leaf: str
    proof: list[Any]
    buyer_id: str
    seller_id: str


def of_trade(connection: sa.Connection, trade_id: str) -> EvidenceRow | None:
    """Return the evidence of a trade in the newest revision of its batch, None where there is none."""
    row = connection.execute(
        sa.select(
            evidence.c.trade_id,
            evidence.c.batch_id,
            evidence.c.leaf_index,
            evidence.c.document,
            evidence.c.leaf,
            evidence.c.proof,
            trade.c.buyer_id,
            trade.c.seller_id,
        )
        .join_from(evidence, batch, batch.c.batch_id == evidence.c.batch_id)
        .join(trade, trade.c.trade_id == evidence.c.trade_id)
        .where(evidence.c.trade_id == trade_id)
        .order_by(batch.c.revision.desc())
        .limit(1)
    ).one_or_none()
    return None if row is None else EvidenceRow._make(row)


# -- write


def save_steps(connection: sa.Connection, rows: Sequence[tuple[str, str, datetime, str, int, str]]) -> None:
    """Record ``(step, scope, hour, digest, rows, run_id)``; a step that runs again replaces its record."""
    if not rows:
        return
    statement = insert(step)
    statement = statement.on_conflict_do_update(
        index_elements=["step", "scope", "hour"],
        set_={name: statement.excluded[name] for name in ("digest", "rows", "run_id")},
    )
    names = ("step", "scope", "hour", "digest", "rows", "run_id")
    connection.execute(statement, [dict(zip(names, row, strict=True)) for row in rows])


def replace_evidence(connection: sa.Connection, batch_id: str, rows: Sequence[SealedTrade]) -> None:
    """Replace the evidence of a batch by its sealed trades."""
    connection.execute(sa.delete(evidence).where(evidence.c.batch_id == batch_id))
    if rows:
        connection.execute(sa.insert(evidence), [{"batch_id": batch_id} | one._asdict() for one in rows])


def leaves_of(connection: sa.Connection, batch_id: str) -> list[str]:
    """Return the leaves of a batch by index."""
    rows = connection.execute(
        sa.select(evidence.c.leaf).where(evidence.c.batch_id == batch_id).order_by(evidence.c.leaf_index)
    )
    return [row.leaf for row in rows]


def trades_in_batch(connection: sa.Connection, batch_id: str) -> list[str]:
    """Return the ids of the trades with evidence in a batch, by leaf."""
    rows = connection.execute(
        sa.select(evidence.c.trade_id).where(evidence.c.batch_id == batch_id).order_by(evidence.c.leaf_index)
    )
    return [row.trade_id for row in rows]


def of_batch(connection: sa.Connection, batch_id: str, trade_id: str) -> SealedTrade:
    """Return the evidence of one trade in one batch; ``NotFound`` where there is none."""
    row = connection.execute(
        sa.select(*(evidence.c[name] for name in SealedTrade._fields)).where(
            evidence.c.batch_id == batch_id, evidence.c.trade_id == trade_id
        )
    ).one_or_none()
    if row is None:
        raise NotFound(f"no evidence of trade {trade_id} in batch {batch_id}")
    return SealedTrade._make(row)
