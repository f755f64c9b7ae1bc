"""The market's books and results: ``market.order``, ``market.clearing`` and ``market.trade``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from energy_cloud_dagster.adapters.tables import batch, clearing, market_registry, order, price, settled_trade, trade
from energy_cloud_dagster.domain import intervals
from energy_cloud_dagster.domain.market.auction import Clearing
from energy_cloud_dagster.domain.market.orders import Order, Trade

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
    ``as_of`` keeps trades whose gate had closed and batches whose hour was worked on by then, with readings known by
    then; ``before`` is the (delivery_start, trade_id) of the last row of the previous page.
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
        settled = settled.where(
            batch.c.known_at <= as_of, batch.c.delivery_start <= as_of - intervals.HOUR - intervals.SETTLING_TIME
        )
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
    return [TradeRow._make(row) for row in connection.execute(statement)]


# -- write


class OutsidePrice(NamedTuple):
    """What energy costs outside the market in one hour, micro units per kWh; import >= export >= 0."""

    market_id: str
    hour: datetime
    import_price_micro: int
    export_price_micro: int
    published_at: datetime


class ClearingRow(NamedTuple):
    """One row of ``market.clearing``."""

    market_id: str
    delivery_start: datetime
    gate_closure: datetime
    price_micro: int | None
    volume_wh: int
    import_price_micro: int
    export_price_micro: int
    digest: str


def publish_prices(connection: sa.Connection, rows: Sequence[OutsidePrice]) -> None:
    """Record prices; what was published first for an hour stands, in whatever order it is recorded."""
    statement = insert(price)
    names = ("import_price_micro", "export_price_micro", "published_at")
    statement = statement.on_conflict_do_update(
        index_elements=["market_id", "hour"],
        set_={name: statement.excluded[name] for name in names},
        where=price.c.published_at > statement.excluded.published_at,
    )
    if rows:
        connection.execute(statement, [row._asdict() for row in rows])


def outside_prices(
    connection: sa.Connection, market_id: str, start: datetime, end: datetime, as_of: datetime
) -> dict[datetime, OutsidePrice]:
    """Return the prices of the hours ``[start, end)`` that were published by ``as_of``, by hour."""
    statement = (
        sa.select(*(price.c[name] for name in OutsidePrice._fields))
        .where(price.c.market_id == market_id, price.c.hour >= start, price.c.hour < end, price.c.published_at <= as_of)
        .order_by(price.c.hour)
    )
    return {row.hour: OutsidePrice._make(row) for row in connection.execute(statement)}


def replace_clearing(connection: sa.Connection, row: ClearingRow, orders: Iterable[Order], result: Clearing) -> None:
    """Replace book, clearing and trades of one delivery hour."""
    for table in (trade, order, clearing):
        connection.execute(
            sa.delete(table).where(table.c.market_id == row.market_id, table.c.delivery_start == row.delivery_start)
        )
    connection.execute(sa.insert(clearing), row._asdict())
    placed = [
        {
            "order_id": one.order_id,
            "market_id": row.market_id,
            "delivery_start": row.delivery_start,
            "participant_id": one.participant_id,
            "side": one.side,
            "quantity_wh": one.quantity_wh,
            "price_micro": one.price_micro,
            "filled_wh": result.fills[one.order_id],
            "placed_at": one.placed_at,
        }
        for one in orders
    ]
    if placed:
        connection.execute(sa.insert(order), placed)
    if result.trades:
        names = Trade.__dataclass_fields__
        connection.execute(sa.insert(trade), [{name: getattr(one, name) for name in names} for one in result.trades])


def clearing_of(connection: sa.Connection, market_id: str, delivery: datetime) -> ClearingRow | None:
    """Return the clearing of one delivery hour, None where its gate has not been worked on."""
    row = connection.execute(
        sa.select(*(clearing.c[name] for name in ClearingRow._fields)).where(
            clearing.c.market_id == market_id, clearing.c.delivery_start == delivery
        )
    ).one_or_none()
    return None if row is None else ClearingRow._make(row)


def book_of(
    connection: sa.Connection, market_id: str, delivery: datetime
) -> tuple[list[tuple[Any, ...]], dict[str, int]]:
    """Return the orders of one delivery hour as tuples in the field order of ``Order``, and what each was filled."""
    rows = connection.execute(
        sa.select(*(order.c[name] for name in Order.__dataclass_fields__), order.c.filled_wh)
        .where(order.c.market_id == market_id, order.c.delivery_start == delivery)
        .order_by(order.c.order_id)
    ).all()
    return [tuple(row)[:-1] for row in rows], {row.order_id: row.filled_wh for row in rows}


def trades_of(connection: sa.Connection, market_id: str, delivery: datetime) -> list[Trade]:
    """Return the trades of one delivery hour, by id."""
    rows = connection.execute(
        sa.select(*(trade.c[name] for name in Trade.__dataclass_fields__))
        .where(trade.c.market_id == market_id, trade.c.delivery_start == delivery)
        .order_by(trade.c.trade_id)
    )
    return [Trade(**row._asdict()) for row in rows]
