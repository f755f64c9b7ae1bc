"""What prosumers and a VPP bring to the book."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.market.auction import clear
from energy_cloud_dagster.domain.market.offers import MAX_MARGIN_PERMILLE, margin_permille, prosumer_order, vpp_orders
from energy_cloud_dagster.domain.market.orders import Order

DELIVERY = datetime(2026, 3, 2, 5, tzinfo=UTC)
MARKET = "KRW-KWH"
IMPORT, EXPORT = 180_000_000, 60_000_000


def planned(who: str, load: float, pv: float, *, dear: int = IMPORT, cheap: int = EXPORT) -> Order | None:
    return prosumer_order(
        who,
        load,
        pv,
        import_price_micro=dear,
        export_price_micro=cheap,
        placed_at=DELIVERY - timedelta(hours=1),
        market_id=MARKET,
        delivery=DELIVERY,
    )


def offered(**parts: float) -> list[Order]:
    return vpp_orders(
        "VPP-001",
        import_price_micro=IMPORT,
        export_price_micro=EXPORT,
        placed_at=DELIVERY - timedelta(hours=1),
        market_id=MARKET,
        delivery=DELIVERY,
        **parts,
    )


def test_a_surplus_is_sold_and_a_deficit_bought() -> None:
    sell, buy = planned("HOME-01", 0.4, 1.6505), planned("HOME-01", 1.25, 0.0)
    assert sell is not None
    assert buy is not None
    assert (sell.side, sell.quantity_wh) == ("sell", 1250)
    assert (buy.side, buy.quantity_wh) == ("buy", 1250)
    assert sell.order_id != buy.order_id


@pytest.mark.parametrize(("load", "pv"), [(0.5, 0.5), (0.5, 0.5004), (0.0, 0.0)])
def test_less_than_a_watt_hour_is_no_order(load: float, pv: float) -> None:
    assert planned("HOME-01", load, pv) is None


@given(
    st.text(min_size=1, max_size=8),
    st.floats(0, 50),
    st.floats(0, 50),
    st.integers(0, 10**9),
    st.integers(0, 10**9),
)
@settings(max_examples=80, deadline=None)
def test_limits_stay_within_the_outside_options(who: str, load: float, pv: float, one: int, other: int) -> None:
    made = planned(who, load, pv, dear=max(one, other), cheap=min(one, other))
    assert made == planned(who, load, pv, dear=max(one, other), cheap=min(one, other))
    if made is not None:
        assert min(one, other) <= made.price_micro <= max(one, other)


def test_margins_differ_by_participant_and_hour_and_stay_in_range() -> None:
    drawn = {margin_permille(f"HOME-{i:02}", DELIVERY + timedelta(hours=h)) for i in range(1, 11) for h in range(24)}
    assert len(drawn) > 100
    assert min(drawn) >= 0
    assert max(drawn) <= MAX_MARGIN_PERMILLE


def test_a_book_of_homes_has_a_merit_order_and_leaves_somebody_out() -> None:
    book = [planned(f"HOME-{i:02}", 1.0 if i % 2 else 0.2, 0.0 if i % 2 else 1.2) for i in range(1, 11)]
    cleared = clear([one for one in book if one is not None], MARKET, DELIVERY)
    assert len(cleared.demand) == len(cleared.supply) == 5
    assert cleared.price_micro is not None
    assert EXPORT < cleared.price_micro < IMPORT
    assert 0 < cleared.volume_wh <= 5_000


def test_a_vpp_offers_what_its_plan_leaves_over() -> None:
    made = offered(
        exported_kwh=12.0, curtailed_kwh=3.5, marginal_price=-4.0, grid_headroom_kwh=100.0, storage_headroom_kwh=7.0
    )
    assert [(one.side, one.quantity_wh, one.price_micro) for one in made] == [
        ("sell", 12_000, EXPORT),
        ("sell", 3_500, 0),
        ("sell", 100_000, IMPORT),
        ("buy", 7_000, EXPORT),
    ]
    assert len({one.order_id for one in made}) == 4
    assert offered(curtailed_kwh=1.0, marginal_price=1e6)[0].price_micro == IMPORT
    assert offered(exported_kwh=-1e-9, curtailed_kwh=0.0004) == []


def test_wrong_forecasts_and_prices_are_refused() -> None:
    with pytest.raises(InvalidInput, match="pv forecast of HOME-01 is nan"):
        planned("HOME-01", 1.0, float("nan"))
    with pytest.raises(InvalidInput, match="export energy of VPP-001 is inf"):
        offered(exported_kwh=float("inf"))
    with pytest.raises(InvalidInput, match="must lie within 0 and the import price"):
        planned("HOME-01", 1.0, 0.0, dear=5, cheap=6)
