"""Orders and trades of one delivery hour, and the ids that derive from what they are.

Energy is integer Wh, prices are integer micro units per kWh. Ids are derived, not drawn, so that the same input gives
the same rows on every run.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, get_args

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.intervals import rfc3339
from energy_cloud_dagster.domain.units import value_micro

Side = Literal["buy", "sell"]

#: Largest order (10 GWh) and price (100,000 per kWh); their product still fits the 64-bit columns.
MAX_QUANTITY_WH: Final = 10**10
MAX_PRICE_MICRO: Final = 10**11
_ID_DIGITS: Final = 16


@dataclass(frozen=True, slots=True)
class Order:
    """A limit order for one delivery hour.

    ``quantity_wh`` is positive on both sides; ``price_micro`` is the limit per kWh: the most that a buyer pays, the
    least that a seller takes. ``placed_at`` gives time priority. Wrong values raise ``InvalidInput``.
    """

    order_id: str
    participant_id: str
    side: Side
    quantity_wh: int
    price_micro: int
    placed_at: datetime

    def __post_init__(self) -> None:
        if not self.order_id:
            raise InvalidInput("an order needs an id", pointer="/orderId")
        if not self.participant_id:
            raise InvalidInput(f"order {self.order_id} names no participant", pointer="/participantId")
        if self.side not in get_args(Side):
            raise InvalidInput(f"side {self.side!r} is neither buy nor sell", pointer="/side")
        _check_integer("quantity", self.quantity_wh, 1, MAX_QUANTITY_WH, "Wh")
        _check_integer("price", self.price_micro, 0, MAX_PRICE_MICRO, "micro units per kWh")
        if self.placed_at.tzinfo is None:
            raise InvalidInput(f"order {self.order_id} was placed at a time without offset", pointer="/placedAt")


@dataclass(frozen=True, slots=True)
class Trade:
    """Energy that ``seller_id`` owes ``buyer_id`` in one delivery hour, and what the buyer owes for it.

    ``value_micro`` is the one number that both sides book.
    """

    trade_id: str
    market_id: str
    delivery_start: datetime
    buy_order_id: str
    sell_order_id: str
    buyer_id: str
    seller_id: str
    quantity_wh: int
    price_micro: int
    value_micro: int


def make_trade(market_id: str, delivery: datetime, buy: Order, sell: Order, *, quantity_wh: int, price: int) -> Trade:
    """Return the trade of ``quantity_wh`` between two orders at ``price`` (micro units per kWh)."""
    return Trade(
        trade_id=derive_id("T-", "trade", market_id, rfc3339(delivery), buy.order_id, sell.order_id),
        market_id=market_id,
        delivery_start=delivery,
        buy_order_id=buy.order_id,
        sell_order_id=sell.order_id,
        buyer_id=buy.participant_id,
        seller_id=sell.participant_id,
        quantity_wh=quantity_wh,
        price_micro=price,
        value_micro=value_micro(quantity_wh, price),
    )


def order_id(market_id: str, delivery: datetime, participant_id: str, side: Side, label: str = "") -> str:
    """Return the id of a planned order; ``label`` tells a participant's orders on one side apart."""
    return derive_id("O-", "order", market_id, rfc3339(delivery), participant_id, side, label)


def derive_id(prefix: str, *parts: str) -> str:
    """Return ``prefix`` and 16 hex digits of ``sha256_hex``."""
    return prefix + sha256_hex(*parts)[:_ID_DIGITS]


def sha256_hex(*parts: str) -> str:
    """Return the SHA-256 of ``parts`` as a JSON array (so that no two lists share their text), 64 hex digits."""
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()


def _check_integer(name: str, value: int, least: int, most: int, unit: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidInput(f"{name} {value!r} is not a whole number of {unit}", pointer=f"/{name}")
    if not least <= value <= most:
        raise InvalidInput(f"{name} {value} is outside {least} … {most} {unit}", pointer=f"/{name}")
