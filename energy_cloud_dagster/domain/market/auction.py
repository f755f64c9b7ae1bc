"""The uniform-price call auction of one delivery hour, in exact integers.

Rules, in order:

1. A participant's own orders that cross are taken out against each other first, best prices first. At a uniform price
   buying and selling the same energy nets to nothing, so nobody loses by it, and afterwards each of its bids lies below
   each of its asks: no price executes both, hence nobody trades with itself.
2. The price executes the largest volume; among such prices it leaves the smallest surplus |demand - supply|; among
   those it is the midpoint of the lowest and the highest, rounded down to a whole micro unit.
3. The short side is filled in full. On the long side price goes first, then time, then the order id: no pro rata.
4. Trades pair the filled buys and sells in that same priority, one after the other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.market.orders import Order, Side, Trade, make_trade


@dataclass(frozen=True, slots=True)
class CurveStep:
    """One price level of a curve: ``from_wh`` to ``to_wh`` of cumulated energy at ``price_micro`` per kWh."""

    from_wh: int
    to_wh: int
    price_micro: int


@dataclass(frozen=True, slots=True)
class Clearing:
    """What the auction found. ``price_micro`` is None when nothing crossed.

    ``fills`` names every order, in Wh, zero included. ``demand`` falls and ``supply`` rises in price, both from 0 Wh.
    """

    price_micro: int | None
    volume_wh: int
    fills: dict[str, int]
    trades: tuple[Trade, ...]
    demand: tuple[CurveStep, ...]
    supply: tuple[CurveStep, ...]


def clear(orders: Iterable[Order], market_id: str, delivery: datetime) -> Clearing:
    """Clear the book of one delivery hour; the order of ``orders`` does not matter.

    Raises ``InvalidInput`` when two orders share an id.
    """
    book = sorted(orders, key=lambda order: order.order_id)
    for one, other in pairwise(book):
        if one.order_id == other.order_id:
            raise InvalidInput(f"order {one.order_id} is in the book twice")
    open_orders = _without_own_crosses(book)
    buys = _by_priority(open_orders, "buy")
    sells = _by_priority(open_orders, "sell")
    fills = {order.order_id: 0 for order in book}
    curves = {"demand": _curve(buys), "supply": _curve(sells)}
    price = _price(buys, sells)
    if price is None:
        return Clearing(None, 0, fills, (), **curves)
    takers = [order for order in buys if order.price_micro >= price]
    givers = [order for order in sells if order.price_micro <= price]
    trades = _pair(takers, givers, price, market_id, delivery)
    for trade in trades:
        fills[trade.buy_order_id] += trade.quantity_wh
        fills[trade.sell_order_id] += trade.quantity_wh
    return Clearing(price, sum(trade.quantity_wh for trade in trades), fills, trades, **curves)


def _by_priority(orders: Iterable[Order], side: Side) -> list[Order]:
    sign = -1 if side == "buy" else 1
    return sorted(
        (order for order in orders if order.side == side),
        key=lambda order: (sign * order.price_micro, order.placed_at, order.order_id),
    )


def _without_own_crosses(book: Sequence[Order]) -> list[Order]:
    """Return the book after rule 1: quantities reduced, empty orders gone."""
    by_participant: defaultdict[str, list[Order]] = defaultdict(list)
    for order in book:
        by_participant[order.participant_id].append(order)
    kept: list[Order] = []
    for own in by_participant.values():
        buys, sells = _by_priority(own, "buy"), _by_priority(own, "sell")
        while buys and sells and buys[0].price_micro >= sells[0].price_micro:
            crossed = min(buys[0].quantity_wh, sells[0].quantity_wh)
            for side in (buys, sells):
                left = side[0].quantity_wh - crossed
                side[:1] = [replace(side[0], quantity_wh=left)] if left else []
        kept += buys + sells
    return kept


def _curve(orders: Sequence[Order]) -> tuple[CurveStep, ...]:
    """Return the price levels of ``orders``, which are in priority."""
    levels: dict[int, int] = {}
    for order in orders:
        levels[order.price_micro] = levels.get(order.price_micro, 0) + order.quantity_wh
    steps, total = [], 0
    for price, quantity in levels.items():
        steps.append(CurveStep(total, total + quantity, price))
        total += quantity
    return tuple(steps)


def _price(buys: Sequence[Order], sells: Sequence[Order]) -> int | None:
    """Return the price of rule 2, or None when the best bid is below the best ask.

    Demand changes only from a bid b to b + 1 and supply only from s - 1 to an ask s, so these integers hold both ends
    of every range of prices with the same outcome. Demand - supply never rises with the price; therefore the best
    prices form one range, and its midpoint is as good as its ends.
    """
    if not buys or not sells or buys[0].price_micro < sells[0].price_micro:
        return None
    candidates = {order.price_micro + step for order in buys for step in (0, 1)}
    candidates |= {order.price_micro - step for order in sells for step in (0, 1)}
    best: tuple[int, int] | None = None
    lowest = highest = sells[0].price_micro
    supply = i = 0
    demand, j = sum(order.quantity_wh for order in buys), len(buys)
    for price in sorted(candidates):
        if not sells[0].price_micro <= price <= buys[0].price_micro:
            continue
        while i < len(sells) and sells[i].price_micro <= price:
            supply += sells[i].quantity_wh
            i += 1
        while buys[j - 1].price_micro < price:
            j -= 1
            demand -= buys[j].quantity_wh
        rank = (-min(demand, supply), abs(demand - supply))
        if best is None or rank < best:
            best, lowest = rank, price
        if rank == best:
            highest = price
    return (lowest + highest) // 2


def _pair(
    buys: Sequence[Order], sells: Sequence[Order], price: int, market_id: str, delivery: datetime
) -> tuple[Trade, ...]:
    """Pair executable orders in priority until one side is used up; no pair of orders meets twice."""
    trades: list[Trade] = []
    b = s = 0
    left_b, left_s = buys[0].quantity_wh, sells[0].quantity_wh
    while True:
        quantity = min(left_b, left_s)
        trades.append(make_trade(market_id, delivery, buys[b], sells[s], quantity_wh=quantity, price=price))
        left_b, left_s = left_b - quantity, left_s - quantity
        if not left_b:
            b += 1
            if b == len(buys):
                break
            left_b = buys[b].quantity_wh
        if not left_s:
            s += 1
            if s == len(sells):
                break
            left_s = sells[s].quantity_wh
    return tuple(trades)
