"""What was traded, and how far its settlement is."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import Field

from energy_cloud_dagster.adapters import markets
from energy_cloud_dagster.adapters.markets import TradeRow
from energy_cloud_dagster.api.context import Shared
from energy_cloud_dagster.api.paging import Paged
from energy_cloud_dagster.api.security import Caller, Principal, needs
from energy_cloud_dagster.api.values import Document, Moment, Page
from energy_cloud_dagster.domain.intervals import HOUR
from energy_cloud_dagster.domain.units import WH_PER_KWH, decimal_string

router = APIRouter(prefix="/v1/trading", tags=["trading"])

State = Literal["pending", "intended", "sent", "confirmed", "failed"]


class Settlement(Document):
    """How far a trade's settlement is; ``pending`` before its hour was settled, the rest null then."""

    state: State
    batch_id: str | None
    revision: int | None
    transaction_hash: str | None
    block_number: int | None
    confirmed_at: datetime | None
    delivered: float | None = Field(description="kWh covered by the seller's own metered injection.")
    shortfall: float | None = Field(description="kWh bought from the grid on the seller's account.")
    value: str | None = Field(description="Settled value in the market's currency.")


class Trade(Document):
    """A trade of one delivery hour; quantity in kWh, price per kWh."""

    id: str
    market: str
    delivery_start: datetime
    delivery_end: datetime
    traded_at: datetime | None = Field(description="When the gate closed.")
    buyer: str | None = Field(description="Null where it is another participant than the caller's.")
    seller: str | None = Field(description="Null where it is another participant than the caller's.")
    quantity: float
    price: str
    value: str
    currency: str
    settlement: Settlement


@router.get("/history", summary="Trades, newest delivery first")
@needs("trading:read")
def history(
    context: Shared,
    caller: Caller,
    paging: Paged,
    market: Annotated[str | None, Query(max_length=64, description="Such as KRW-KWH.")] = None,
    start: Annotated[Moment | None, Query(alias="startDate", description="First delivery hour.")] = None,
    end: Annotated[Moment | None, Query(alias="endDate", description="Delivery hours before it.")] = None,
    as_of: Annotated[Moment | None, Query(alias="asOf", description="Answer with what was known then.")] = None,
) -> Page[Trade]:
    """Return all trades, to a trader those of its own participant, with the state of their settlement."""
    before = paging.after(datetime, str)
    if not caller.sees_all and caller.participant_id is None:
        return Page(items=[], next_cursor=None)
    with context.engine.connect() as connection:
        rows = markets.trade_history(
            connection,
            limit=paging.fetch,
            market_id=market,
            participant_id=None if caller.sees_all else caller.participant_id,
            start=start,
            end=end,
            as_of=as_of,
            before=None if before is None else (before[0], before[1]),
        )
    kept, cursor = paging.page(rows, lambda row: (row.delivery_start, row.trade_id))
    return Page(items=[_trade(row, caller) for row in kept], next_cursor=cursor)


def _trade(row: TradeRow, caller: Principal) -> Trade:
    def seen(participant_id: str) -> str | None:
        return participant_id if caller.sees_all or participant_id == caller.participant_id else None

    return Trade(
        id=row.trade_id,
        market=row.market_id,
        delivery_start=row.delivery_start,
        delivery_end=row.delivery_start + HOUR,
        traded_at=row.traded_at,
        buyer=seen(row.buyer_id),
        seller=seen(row.seller_id),
        quantity=row.quantity_wh / WH_PER_KWH,
        price=decimal_string(row.price_micro),
        value=decimal_string(row.value_micro),
        currency=row.currency,
        settlement=Settlement(
            state=row.settlement_state or "pending",
            batch_id=row.batch_id,
            revision=row.revision,
            transaction_hash=row.tx_hash,
            block_number=row.block_number,
            confirmed_at=row.confirmed_at,
            delivered=None if row.delivered_wh is None else row.delivered_wh / WH_PER_KWH,
            shortfall=None if row.shortfall_wh is None else row.shortfall_wh / WH_PER_KWH,
            value=None if row.settled_micro is None else decimal_string(row.settled_micro),
        ),
    )
