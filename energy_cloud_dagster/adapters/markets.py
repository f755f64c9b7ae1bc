"""The market's books and results: ``market.order``, ``market.clearing`` and ``market.trade``."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from energy_cloud_dagster.adapters.tables import batch, clearing, market_registry, settled_trade, trade

# -- read


class TradeRow(NamedTuple):
    """A trade and how far its settlement is; energy in Wh, money in 10⁻⁶ of ``currency``.

    The settlement fields are those of the newest batch that holds the trade, None before there is one.
    """

    trade_id: str
    market_id: str
    currency: str
    delivery_start: datetime
    traded_at: datetime | None
    buyer_id: str
    seller_id: str
    quantity_wh: int
    price_micro: int
    value_micro: int
    settlement_state: str | None
    batch_id: str | None
    revision: int | None
    tx_hash: str | None
    block_number: int | None
    confirmed_at: datetime | None
    delivered_wh: int | None
    shortfall_wh: int | None
    settled_micro: int | None


def trade_history(
    connection: sa.Connection,
    *,
    limit: int,
    market_id: str | None = None,
    participant_id: str | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    as_of: datetime | None = None,
    before: tuple[datetime, str] | None = None,
) -> list[TradeRow]:
    """Return up to ``limit`` trades, newest delivery first.

    ``participant_id`` keeps those that it bought or sold in; ``start`` and ``end`` bound the delivery hour (half open);
    ``as_of`` keeps trades whose gate had closed and batches that were confirmed by then; ``before`` is the
    (delivery_start, trade_id) of the last row of the previous page.
    """
    settled = (
        sa.select(
            batch.c.state,
            batch.c.batch_id,
            batch.c.revision,
            batch.c.tx_hash,
            batch.c.block_number,
            batch.c.confirmed_at,
            settled_trade.c.delivered_wh,
            settled_trade.c.shortfall_wh,
            settled_trade.c.value_micro,
        )
        .join_from(settled_trade, batch, settled_trade.c.batch_id == batch.c.batch_id)
        .where(settled_trade.c.trade_id == trade.c.trade_id)
        .order_by(batch.c.revision.desc())
        .limit(1)
    )
    if as_of is not None:
        settled = settled.where(batch.c.confirmed_at <= as_of)
    newest = settled.lateral("settled")
    statement = (
        sa.select(
            trade.c.trade_id,
            trade.c.market_id,
            market_registry.c.currency,
            trade.c.delivery_start,
            clearing.c.gate_closure,
            trade.c.buyer_id,
            trade.c.seller_id,
            trade.c.quantity_wh,
            trade.c.price_micro,
            trade.c.value_micro,
            *newest.c,
        )
        .select_from(
            trade.join(market_registry, market_registry.c.market_id == trade.c.market_id)
            .outerjoin(
                clearing,
                sa.and_(clearing.c.market_id == trade.c.market_id, clearing.c.delivery_start == trade.c.delivery_start),
            )
            .outerjoin(newest, sa.true())
        )
        .order_by(trade.c.delivery_start.desc(), trade.c.trade_id.desc())
        .limit(limit)
    )
    if market_id is not None:
        statement = statement.where(trade.c.market_id == market_id)
    if participant_id is not None:
        statement = statement.where(sa.or_(trade.c.buyer_id == participant_id, trade.c.seller_id == participant_id))
    if start is not None:
        statement = statement.where(trade.c.delivery_start >= start)
    if end is not None:
        statement = statement.where(trade.c.delivery_start < end)
    if as_of is not None:
        statement = statement.where(clearing.c.gate_closure <= as_of)
    if before is not None:
        statement = statement.where(sa.tuple_(trade.c.delivery_start, trade.c.trade_id) < sa.tuple_(*before))
    return [TradeRow(*row) for row in connection.execute(statement)]


# -- write
