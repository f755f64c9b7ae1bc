"""Audit steps and the evidence of every settled trade: schema ``audit``."""

from __future__ import annotations

from typing import Any, NamedTuple

import sqlalchemy as sa

from energy_cloud_dagster.adapters.tables import batch, evidence, trade

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
    return None if row is None else EvidenceRow(*row)


# -- write
