"""Settlement batches, positions and settled trades: schema ``settlement``."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from energy_cloud_dagster.adapters.tables import batch

# -- read


class BatchRow(NamedTuple):
    """One settlement batch and the transaction that carried it; ``confirmed_at`` is the time of its block."""

    batch_id: str
    market_id: str
    delivery_start: datetime
    revision: int
    merkle_root: str
    trades: int
    digest: str
    state: str
    contract: str
    chain_id: int
    tx_hash: str | None
    block_number: int | None
    gas_used: int | None
    confirmed_at: datetime | None


def batch_by_id(connection: sa.Connection, batch_id: str) -> BatchRow | None:
    """Return a batch, None where there is none of that id."""
    row = connection.execute(
        sa.select(*(batch.c[name] for name in BatchRow._fields)).where(batch.c.batch_id == batch_id)
    ).one_or_none()
    return None if row is None else BatchRow(*row)


# -- write
