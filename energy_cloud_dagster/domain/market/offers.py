"""What prosumers and a VPP offer for one delivery hour.

The limits are a bidding heuristic, not an equilibrium. Whoever does not trade buys at the import price (the retail
tariff) and sells at the export price (the feed-in price): its outside option. A prosumer claims a share of the spread
between the two as its margin: a buyer bids the import price less the share, a seller asks the export price plus the
share. The share stands for what a household is after and is drawn by a hash from the participant and the hour, so that
the book has a merit order and yet every run gives the same book.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Final

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.intervals import rfc3339
from energy_cloud_dagster.domain.market.orders import Order, Side, order_id, sha256_hex
from energy_cloud_dagster.domain.units import to_micro, to_wh

#: Largest margin, in thousandths of the spread. Above 500 a bid may lie below an ask, so that prices decide who trades.
MAX_MARGIN_PERMILLE: Final = 600


def margin_permille(participant_id: str, delivery: datetime) -> int:
    """Return the share of the spread that a participant claims in an hour, 0 … ``MAX_MARGIN_PERMILLE``."""
    drawn = int(sha256_hex("margin", participant_id, rfc3339(delivery))[:16], 16)
    return drawn % (MAX_MARGIN_PERMILLE + 1)


def prosumer_order(
    participant_id: str,
    load_kwh_forecast: float,
    pv_kwh_forecast: float,
    *,
    import_price_micro: int,
    export_price_micro: int,
    placed_at: datetime,
    market_id: str,
    delivery: datetime,
) -> Order | None:
    """Return the order that sells a forecast surplus or buys a forecast deficit, None when it is under 1 Wh.

    Forecasts are kWh of the hour, prices micro units per kWh with import ≥ export ≥ 0.
    """
    _check_prices(import_price_micro, export_price_micro)
    for name, forecast in (("load", load_kwh_forecast), ("pv", pv_kwh_forecast)):
        if not math.isfinite(forecast):
            raise InvalidInput(f"the {name} forecast of {participant_id} is {forecast}, not a number of kWh")
    surplus_wh = to_wh(pv_kwh_forecast) - to_wh(load_kwh_forecast)
    if not surplus_wh:
        return None
    margin = (import_price_micro - export_price_micro) * margin_permille(participant_id, delivery) // 1000
    side: Side = "sell" if surplus_wh > 0 else "buy"
    return Order(
        order_id=order_id(market_id, delivery, participant_id, side),
        participant_id=participant_id,
        side=side,
        quantity_wh=abs(surplus_wh),
        price_micro=export_price_micro + margin if side == "sell" else import_price_micro - margin,
        placed_at=placed_at,
    )


def vpp_orders(
    participant_id: str,
    *,
    import_price_micro: int,
    export_price_micro: int,
    placed_at: datetime,
    market_id: str,
    delivery: datetime,
    exported_kwh: float = 0.0,
    curtailed_kwh: float = 0.0,
    marginal_price: float = 0.0,
    grid_headroom_kwh: float = 0.0,
    storage_headroom_kwh: float = 0.0,
) -> list[Order]:
    """Return what a VPP offers beyond its plan for the delivery step; parts under 1 Wh are left out.

    It sells planned exports at the export price, curtailed renewable energy at the plan's ``marginal_price`` (currency
    per kWh, held within 0 … import price), and what its grid tie can still import at the import price; it buys what its
    storage can still take at the export price. All energies are kWh of the hour.
    """
    _check_prices(import_price_micro, export_price_micro)
    marginal_micro = min(max(to_micro(marginal_price), 0), import_price_micro)
    offers: tuple[tuple[str, Side, float, int], ...] = (
        ("export", "sell", exported_kwh, export_price_micro),
        ("curtailed", "sell", curtailed_kwh, marginal_micro),
        ("grid", "sell", grid_headroom_kwh, import_price_micro),
        ("storage", "buy", storage_headroom_kwh, export_price_micro),
    )
    orders = []
    for label, side, energy_kwh, price in offers:
        if not math.isfinite(energy_kwh):
            raise InvalidInput(f"the {label} energy of {participant_id} is {energy_kwh}, not a number of kWh")
        # A solver leaves residues such as -1e-9; they are no energy.
        quantity_wh = to_wh(energy_kwh)
        if quantity_wh > 0:
            own = order_id(market_id, delivery, participant_id, side, label)
            orders.append(Order(own, participant_id, side, quantity_wh, price, placed_at))
    return orders


def _check_prices(import_price_micro: int, export_price_micro: int) -> None:
    if not 0 <= export_price_micro <= import_price_micro:
        raise InvalidInput(
            f"the export price {export_price_micro} must lie within 0 and the import price {import_price_micro}"
        )
