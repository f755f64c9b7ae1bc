"""Settlement: energy and money are conserved, whatever is traded, planned and metered."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.market.orders import Order, Trade, make_trade
from energy_cloud_dagster.domain.settlement.batches import batch_id
from energy_cloud_dagster.domain.settlement.settle import (
    GRID,
    ImbalancePrices,
    Position,
    Settlement,
    imbalance_prices,
    settle,
)

DELIVERY = datetime(2026, 3, 2, 5, tzinfo=UTC)
MARKET = "KRW-KWH"
PRICES = ImbalancePrices(short_micro=198_000_000, long_micro=54_000_000)
PEOPLE = ("HOME-01", "HOME-02", "HOME-03", "VPP-001")


def trade(number: int, seller: str, buyer: str, quantity: int, price: int = 100_000_000) -> Trade:
    buy = Order(f"b{number}", buyer, "buy", quantity, price, DELIVERY)
    sell = Order(f"s{number}", seller, "sell", quantity, price, DELIVERY)
    return make_trade(MARKET, DELIVERY, buy, sell, quantity_wh=quantity, price=price)


def of(settlement: Settlement, participant: str) -> Position:
    return next(row for row in settlement.positions if row.participant_id == participant)


@st.composite
def settled_hours(draw: st.DrawFn) -> tuple[list[Trade], dict[str, int], dict[str, int]]:
    pairs = st.tuples(st.sampled_from((*PEOPLE, GRID)), st.sampled_from((*PEOPLE, GRID))).filter(lambda p: p[0] != p[1])
    rows = draw(st.lists(st.tuples(pairs, st.integers(1, 5_000), st.integers(0, 10**9)), max_size=8))
    trades = [trade(i, seller, buyer, q, price) for i, ((seller, buyer), q, price) in enumerate(rows)]
    energy = st.integers(-10_000, 10_000)
    metered = {one: draw(energy) for one in PEOPLE}
    return trades, draw(st.fixed_dictionaries({}, optional={"VPP-001": energy})), metered


def test_a_seller_that_delivers_half_buys_the_rest_from_the_grid() -> None:
    settlement = settle([trade(1, "HOME-01", "HOME-02", 1_000)], {}, {"HOME-01": 400, "HOME-02": -1_200}, PRICES)
    seller, buyer, grid = of(settlement, "HOME-01"), of(settlement, "HOME-02"), of(settlement, GRID)
    assert (seller.traded_wh, seller.scheduled_wh, seller.metered_wh, seller.deviation_wh) == (1_000, 1_000, 400, -600)
    assert (seller.trade_micro, seller.imbalance_micro) == (100_000_000, -118_800_000)
    assert (buyer.traded_wh, buyer.deviation_wh) == (-1_000, -200)
    assert buyer.net_micro == -100_000_000 - 39_600_000
    assert (grid.metered_wh, grid.deviation_wh, grid.net_micro) == (800, 800, 118_800_000 + 39_600_000)
    assert [(row.delivered_wh, row.shortfall_wh, row.value_micro) for row in settlement.trades] == [
        (400, 600, 100_000_000)
    ]


def test_a_surplus_earns_the_long_price() -> None:
    settlement = settle([], {}, {"HOME-01": 500}, PRICES)
    assert of(settlement, "HOME-01").net_micro == 27_000_000
    assert of(settlement, GRID).net_micro == -27_000_000
    assert settlement.trades == ()


def test_a_schedule_comes_before_trades() -> None:
    settlement = settle(
        [trade(1, "VPP-001", "HOME-02", 1_000)], {"VPP-001": 5_000}, {"VPP-001": 5_300, "HOME-02": -1_000}, PRICES
    )
    vpp = of(settlement, "VPP-001")
    assert (vpp.scheduled_wh, vpp.deviation_wh, vpp.energy_wh) == (6_000, -700, 300)
    assert (settlement.trades[0].delivered_wh, settlement.trades[0].shortfall_wh) == (300, 700)


def test_delivery_is_shared_by_largest_remainder_then_trade_id() -> None:
    sales = [trade(i, "HOME-01", "HOME-02", 1) for i in range(3)]
    settlement = settle(sales, {}, {"HOME-01": 2, "HOME-02": -3}, PRICES)
    assert [row.delivered_wh for row in settlement.trades] == [1, 1, 0]
    assert [row.trade_id for row in settlement.trades] == sorted(one.trade_id for one in sales)


def test_the_grid_always_delivers() -> None:
    settlement = settle([trade(1, GRID, "HOME-02", 1_000)], {}, {"HOME-02": -1_000}, PRICES)
    assert settlement.trades[0].delivered_wh == 1_000
    assert of(settlement, GRID).net_micro == 100_000_000


@given(settled_hours(), st.integers(0, 10**9), st.integers(0, 10**9), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_energy_and_money_are_conserved(
    hour: tuple[list[Trade], dict[str, int], dict[str, int]], one: int, other: int, random: object
) -> None:
    trades, schedule, metered = hour
    prices = imbalance_prices(max(one, other), min(one, other))
    settlement = settle(trades, schedule, metered, prices)
    rows = settlement.positions
    assert {row.participant_id for row in rows} == {*PEOPLE, GRID}
    for column in ("traded_wh", "scheduled_wh", "metered_wh", "deviation_wh", "energy_wh"):
        assert sum(getattr(row, column) for row in rows) == 0, column
    for column in ("trade_micro", "imbalance_micro", "net_micro"):
        assert sum(getattr(row, column) for row in rows) == 0, column
    for row in rows:
        assert row.deviation_wh == row.metered_wh - row.scheduled_wh
        assert row.net_micro == row.trade_micro + row.imbalance_micro
        if row.participant_id != GRID:
            assert row.energy_wh == row.metered_wh - schedule.get(row.participant_id, 0)
    by_id = {row.trade_id: row for row in settlement.trades}
    assert set(by_id) == {one.trade_id for one in trades}
    for sale in trades:
        row = by_id[sale.trade_id]
        assert row.delivered_wh + row.shortfall_wh == sale.quantity_wh
        assert min(row.delivered_wh, row.shortfall_wh) >= 0
        assert row.value_micro == sale.value_micro
    for seller in PEOPLE:
        short = max(0, -of(settlement, seller).deviation_wh)
        own = [by_id[sale.trade_id] for sale in trades if sale.seller_id == seller]
        sold = sum(row.delivered_wh + row.shortfall_wh for row in own)
        assert sum(row.shortfall_wh for row in own) == min(sold, short)
    shuffled = list(trades)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert settle(shuffled, schedule, dict(reversed(metered.items())), prices) == settlement


@given(st.integers(0, 10**11), st.integers(0, 10**11))
@settings(max_examples=60, deadline=None)
def test_deviating_never_pays(one: int, other: int) -> None:
    dear, cheap = max(one, other), min(one, other)
    prices = imbalance_prices(dear, cheap)
    assert prices.long_micro <= cheap <= dear <= prices.short_micro
    assert 0 <= prices.short_micro * 100 - dear * 110 < 100
    assert 0 <= cheap * 90 - prices.long_micro * 100 < 100


def test_what_cannot_be_settled_is_refused() -> None:
    sale = trade(1, "HOME-01", "HOME-02", 1_000)
    with pytest.raises(InvalidInput, match="no metered energy for HOME-02, VPP-001"):
        settle([sale], {"VPP-001": 1}, {"HOME-01": 0}, PRICES)
    with pytest.raises(InvalidInput, match="comes twice"):
        settle([sale, sale], {}, {"HOME-01": 0, "HOME-02": 0}, PRICES)
    with pytest.raises(InvalidInput, match="closes the books"):
        settle([], {}, {GRID: 0}, PRICES)
    with pytest.raises(InvalidInput, match="closes the books"):
        settle([], {GRID: 5}, {}, PRICES)
    with pytest.raises(InvalidInput, match="must lie within 0"):
        imbalance_prices(1, 2)


def test_batch_ids_derive_from_market_hour_and_revision() -> None:
    one = batch_id(MARKET, DELIVERY, 0)
    assert one == batch_id(MARKET, DELIVERY, 0)
    assert (one[:2], len(one)) == ("0x", 66)
    others = {
        batch_id(MARKET, DELIVERY, 1),
        batch_id("EUR-KWH", DELIVERY, 0),
        batch_id(MARKET, DELIVERY + timedelta(hours=1), 0),
    }
    assert len(others | {one}) == 4
    with pytest.raises(InvalidInput, match="negative"):
        batch_id(MARKET, DELIVERY, -1)
