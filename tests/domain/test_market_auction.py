"""The call auction: its price rule against brute force, and what no book may ever break."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.market.auction import Clearing, CurveStep, clear
from energy_cloud_dagster.domain.market.orders import Order, Side, order_id
from energy_cloud_dagster.domain.units import value_micro

DELIVERY = datetime(2026, 3, 2, 5, tzinfo=UTC)
PLACED = DELIVERY - timedelta(hours=1)
MARKET = "KRW-KWH"


def order(name: str, side: Side, quantity: int, price: int, *, who: str = "", minutes: int = 0) -> Order:
    return Order(name, who or f"P-{name}", side, quantity, price, PLACED + timedelta(minutes=minutes))


@st.composite
def books(draw: st.DrawFn, *, participants: int = 6) -> list[Order]:
    rows = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["buy", "sell"]),
                st.integers(1, 40),
                st.integers(0, 12),
                st.integers(1, participants),
                st.integers(0, 2),
            ),
            max_size=12,
        )
    )
    return [
        order(f"o{i}", side, quantity, price, who=f"P{who}", minutes=minutes)
        for i, (side, quantity, price, who, minutes) in enumerate(rows)
    ]


def executable(book: list[Order], price: int) -> tuple[int, int]:
    """Demand and supply in Wh at ``price``."""
    return (
        sum(one.quantity_wh for one in book if one.side == "buy" and one.price_micro >= price),
        sum(one.quantity_wh for one in book if one.side == "sell" and one.price_micro <= price),
    )


def test_price_maximises_volume_then_evens_out_then_takes_the_middle() -> None:
    book = [order("b", "buy", 100, 200), order("s", "sell", 100, 101)]
    cleared = clear(book, MARKET, DELIVERY)
    assert (cleared.price_micro, cleared.volume_wh) == (150, 100)  # (101 + 200) // 2
    # A larger volume needs the ask at 180; then only 180 … 200 are left.
    cleared = clear([replace(book[0], quantity_wh=150), book[1], order("s2", "sell", 80, 180)], MARKET, DELIVERY)
    assert (cleared.price_micro, cleared.volume_wh) == (190, 150)
    # Both 10 and 20 execute 50 Wh; above 10 the surplus is smaller.
    cleared = clear(
        [order("b1", "buy", 50, 20), order("b2", "buy", 30, 10), order("s", "sell", 50, 5)], MARKET, DELIVERY
    )
    assert (cleared.price_micro, cleared.volume_wh) == (15, 50)


def test_price_then_time_then_id_decides_on_the_long_side() -> None:
    book = [
        order("late", "buy", 60, 100, minutes=5),
        order("b-early", "buy", 60, 100),
        order("a-early", "buy", 60, 100),
        order("eager", "buy", 10, 120, minutes=9),
        order("sell", "sell", 100, 50),
    ]
    cleared = clear(book, MARKET, DELIVERY)
    assert cleared.fills == {"eager": 10, "a-early": 60, "b-early": 30, "late": 0, "sell": 100}
    assert [trade.buy_order_id for trade in cleared.trades] == ["eager", "a-early", "b-early"]
    assert all(trade.seller_id == "P-sell" and trade.market_id == MARKET for trade in cleared.trades)


@pytest.mark.parametrize(
    "book",
    [[], [order("b", "buy", 10, 5)], [order("s", "sell", 10, 5)], [order("b", "buy", 10, 4), order("s", "sell", 9, 5)]],
)
def test_nothing_crosses(book: list[Order]) -> None:
    cleared = clear(book, MARKET, DELIVERY)
    assert (cleared.price_micro, cleared.volume_wh, cleared.trades) == (None, 0, ())
    assert cleared.fills == {one.order_id: 0 for one in book}


def test_own_crosses_leave_the_book_and_the_rest_still_trades() -> None:
    book = [
        order("own-buy", "buy", 70, 100, who="VPP"),
        order("own-sell", "sell", 50, 90, who="VPP"),
        order("other", "sell", 30, 95),
    ]
    cleared = clear(book, MARKET, DELIVERY)
    assert cleared.fills == {"own-buy": 20, "own-sell": 0, "other": 20}
    assert cleared.demand == (CurveStep(0, 20, 100),)


def test_curves_hold_every_price_level() -> None:
    book = [order("b1", "buy", 5, 9), order("b2", "buy", 6, 9), order("b3", "buy", 7, 8), order("s1", "sell", 4, 3)]
    cleared = clear(book, MARKET, DELIVERY)
    assert cleared.demand == (CurveStep(0, 11, 9), CurveStep(11, 18, 8))
    assert cleared.supply == (CurveStep(0, 4, 3),)


def test_an_id_that_comes_twice_is_refused() -> None:
    with pytest.raises(InvalidInput, match="order b is in the book twice"):
        clear([order("b", "buy", 1, 1), order("b", "buy", 2, 1)], MARKET, DELIVERY)


@given(books(participants=40))
@settings(max_examples=100, deadline=None)
def test_price_is_the_best_of_all_prices(book: list[Order]) -> None:
    book = [replace(one, participant_id=one.order_id) for one in book]
    cleared = clear(book, MARKET, DELIVERY)
    outcomes = {price: executable(book, price) for price in range(14)}
    rank = {price: (-min(pair), abs(pair[0] - pair[1])) for price, pair in outcomes.items()}
    if cleared.price_micro is None:
        assert all(min(pair) == 0 for pair in outcomes.values())
        return
    crossing = [price for price in rank if min(outcomes[price]) > 0]
    best = min(rank[price] for price in crossing)
    equal = [price for price in crossing if rank[price] == best]
    assert rank[cleared.price_micro] == best
    assert cleared.price_micro == (min(equal) + max(equal)) // 2
    assert cleared.volume_wh == -best[0]


@given(books(), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_auction_conserves_and_respects_every_limit(book: list[Order], random: object) -> None:
    cleared = clear(book, MARKET, DELIVERY)
    by_id = {one.order_id: one for one in book}
    filled: defaultdict[str, int] = defaultdict(int)
    money: defaultdict[str, int] = defaultdict(int)
    for trade in cleared.trades:
        buy, sell = by_id[trade.buy_order_id], by_id[trade.sell_order_id]
        assert trade.buyer_id != trade.seller_id
        assert (trade.buyer_id, trade.seller_id) == (buy.participant_id, sell.participant_id)
        assert sell.price_micro <= trade.price_micro == cleared.price_micro <= buy.price_micro
        assert trade.quantity_wh > 0
        assert trade.value_micro == value_micro(trade.quantity_wh, trade.price_micro)
        filled[buy.order_id] += trade.quantity_wh
        filled[sell.order_id] += trade.quantity_wh
        money[trade.seller_id] += trade.value_micro
        money[trade.buyer_id] -= trade.value_micro
    assert len({trade.trade_id for trade in cleared.trades}) == len(cleared.trades)
    assert cleared.fills == {name: filled[name] for name in by_id}
    assert all(0 <= cleared.fills[name] <= by_id[name].quantity_wh for name in by_id)
    assert sum(money.values()) == 0
    assert cleared.volume_wh == sum(trade.quantity_wh for trade in cleared.trades)
    shuffled = list(book)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert clear(shuffled, MARKET, DELIVERY) == cleared


@given(books(participants=3))
@settings(max_examples=60, deadline=None)
def test_better_priced_orders_of_others_are_never_left_behind(book: list[Order]) -> None:
    book = [replace(one, participant_id=one.order_id) for one in book]
    cleared = clear(book, MARKET, DELIVERY)
    for one in book:
        for other in book:
            sign = 1 if one.side == "buy" else -1
            if one.side == other.side and sign * one.price_micro > sign * other.price_micro:
                assert cleared.fills[other.order_id] == 0 or cleared.fills[one.order_id] == one.quantity_wh


def test_ids_derive_from_market_hour_and_orders() -> None:
    book = [order("b", "buy", 10, 9), order("s", "sell", 10, 3)]

    def trade_id(cleared: Clearing) -> str:
        return cleared.trades[0].trade_id

    one = trade_id(clear(book, MARKET, DELIVERY))
    assert one.startswith("T-")
    assert len(one) == 18
    assert one == trade_id(clear(book, MARKET, DELIVERY))
    others = {
        trade_id(clear(book, MARKET, DELIVERY + timedelta(hours=1))),
        trade_id(clear(book, "EUR-KWH", DELIVERY)),
        trade_id(clear([replace(book[0], order_id="c"), book[1]], MARKET, DELIVERY)),
    }
    assert len(others | {one}) == 4
    assert order_id(MARKET, DELIVERY, "HOME-01", "buy") != order_id(MARKET, DELIVERY, "HOME-01", "sell")
    assert order_id(MARKET, DELIVERY, "HOME-01", "buy").startswith("O-")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order_id": ""}, "needs an id"),
        ({"participant_id": ""}, "names no participant"),
        ({"side": "hold"}, "neither buy nor sell"),
        ({"quantity_wh": 0}, "outside 1"),
        ({"quantity_wh": 10**10 + 1}, "outside 1"),
        ({"quantity_wh": 1.5}, "not a whole number of Wh"),
        ({"quantity_wh": True}, "not a whole number of Wh"),
        ({"price_micro": -1}, "outside 0"),
        ({"placed_at": datetime(2026, 1, 1)}, "without offset"),  # noqa: DTZ001
    ],
)
def test_wrong_orders_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        replace(order("b", "buy", 10, 9), **change)  # type: ignore[arg-type]
