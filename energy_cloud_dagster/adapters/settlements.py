"""Settlement batches, positions and settled trades: schema ``settlement``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from energy_cloud_dagster.adapters.tables import batch, position, settled_trade
from energy_cloud_dagster.domain.settlement.settle import Position, SettledTrade, Settlement

# -- read


class BatchRow(NamedTuple):
    """One settlement batch and the transaction that carried it; ``confirmed_at`` is the time of its block."""

    batch_id: str
    market_id: str
    delivery_start: datetime
    revision: int
    known_at: datetime
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
    return None if row is None else BatchRow._make(row)


# -- write


def record_intent(connection: sa.Connection, row: BatchRow, settlement: Settlement, accounts: dict[str, str]) -> None:
    """Record what is about to be sent: the batch as ``intended``, its positions and settled trades.

    A batch that was already sent or confirmed keeps its transaction; the same rows are written again.
    """
    statement = insert(batch)
    kept = {"batch_id", "state", "tx_hash", "block_number", "gas_used", "confirmed_at"}
    statement = statement.on_conflict_do_update(
        index_elements=["batch_id"],
        set_={column.name: column for column in statement.excluded if column.name not in kept},
    )
    connection.execute(statement, row._asdict())
    for table in (position, settled_trade):
        connection.execute(sa.delete(table).where(table.c.batch_id == row.batch_id))
    connection.execute(
        sa.insert(position),
        [
            {"batch_id": row.batch_id, "account": accounts[one.participant_id]}
            | {name: getattr(one, name) for name in Position.__dataclass_fields__}
            for one in settlement.positions
        ],
    )
    if settlement.trades:
        connection.execute(
            sa.insert(settled_trade),
            [
                {"batch_id": row.batch_id} | {name: getattr(one, name) for name in SettledTrade.__dataclass_fields__}
                for one in settlement.trades
            ],
        )


def record_contract(connection: sa.Connection, batch_id: str, contract: str, chain_id: int) -> None:
    """Record where a batch is settled; an intent is recorded before any node was asked."""
    connection.execute(
        sa.update(batch).where(batch.c.batch_id == batch_id).values(contract=contract, chain_id=chain_id)
    )


def record_sent(connection: sa.Connection, batch_id: str, tx_hash: str) -> None:
    """Record the transaction before it is sent, so that a crash can be reconciled by its receipt."""
    connection.execute(sa.update(batch).where(batch.c.batch_id == batch_id).values(state="sent", tx_hash=tx_hash))


def record_receipt(
    connection: sa.Connection, batch_id: str, tx_hash: str, block_number: int, gas_used: int, confirmed_at: datetime
) -> None:
    """Record that the batch is on the chain."""
    connection.execute(
        sa.update(batch)
        .where(batch.c.batch_id == batch_id)
        .values(
            state="confirmed",
            tx_hash=tx_hash,
            block_number=block_number,
            gas_used=gas_used,
            confirmed_at=confirmed_at,
        )
    )


def batch_of_hour(connection: sa.Connection, market_id: str, delivery: datetime, revision: int = 0) -> BatchRow | None:
    """Return the batch of one delivery hour, None where it is not settled."""
    row = connection.execute(
        sa.select(*(batch.c[name] for name in BatchRow._fields)).where(
            batch.c.market_id == market_id, batch.c.delivery_start == delivery, batch.c.revision == revision
        )
    ).one_or_none()
    return None if row is None else BatchRow._make(row)


def unconfirmed(connection: sa.Connection) -> Sequence[BatchRow]:
    """Return the batches that were intended or sent and have no receipt yet, oldest delivery first."""
    rows = connection.execute(
        sa.select(*(batch.c[name] for name in BatchRow._fields))
        .where(batch.c.state.in_(("intended", "sent")))
        .order_by(batch.c.delivery_start)
    )
    return [BatchRow._make(row) for row in rows]


def settlement_of(connection: sa.Connection, batch_id: str) -> Settlement:
    """Return the recorded positions and settled trades of a batch, sorted by id."""
    positions = connection.execute(
        sa.select(*(position.c[name] for name in Position.__dataclass_fields__))
        .where(position.c.batch_id == batch_id)
        .order_by(position.c.participant_id)
    )
    trades = connection.execute(
        sa.select(*(settled_trade.c[name] for name in SettledTrade.__dataclass_fields__))
        .where(settled_trade.c.batch_id == batch_id)
        .order_by(settled_trade.c.trade_id)
    )
    return Settlement(
        tuple(sorted((Position(**row._asdict()) for row in positions), key=lambda one: one.participant_id)),
        tuple(sorted((SettledTrade(**row._asdict()) for row in trades), key=lambda one: one.trade_id)),
    )
