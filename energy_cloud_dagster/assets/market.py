"""The market of one delivery hour: offers from forecasts and plan, and the uniform-price auction at gate closure."""

from datetime import datetime
from typing import Any, Final

import dagster as dg
import sqlalchemy as sa

from energy_cloud_dagster.adapters import audit, forecasts, markets, plans, registry, vpps
from energy_cloud_dagster.adapters.evidence import save_steps
from energy_cloud_dagster.adapters.markets import ClearingRow, OutsidePrice
from energy_cloud_dagster.assets.dispatch import dispatch_plan_hourly
from energy_cloud_dagster.assets.report import (
    Effort,
    columns,
    hourly_asset,
    load_plotting,
    new_figure,
    picture,
    result,
)
from energy_cloud_dagster.assets.sites import site_forecast_hourly
from energy_cloud_dagster.domain.audit.canonical import digest
from energy_cloud_dagster.domain.audit.evidence import clearing_digest, orders_digest
from energy_cloud_dagster.domain.intervals import HOUR, delivery_cleared_by, gate_closure, rfc3339
from energy_cloud_dagster.domain.market.auction import Clearing, clear
from energy_cloud_dagster.domain.market.offers import prosumer_order, vpp_orders
from energy_cloud_dagster.domain.market.orders import Order
from energy_cloud_dagster.domain.units import MICRO, decimal_string
from energy_cloud_dagster.partitions import hours_in
from energy_cloud_dagster.resources import Database
from energy_cloud_dagster.settings import load_settings

_WH_PER_KWH: Final = 1000


@hourly_asset(
    "6_market",
    {"python"},
    "market.trade",
    columns(
        trade_id="Derived from market, hour and the two orders",
        market_id="Such as KRW-KWH",
        delivery_start="Hour of delivery: two hours after the partition",
        buyer_id="Participant that owes the money",
        seller_id="Participant that owes the energy",
        quantity_wh="Energy in Wh",
        price_micro="Uniform price, 10⁻⁶ of the currency per kWh",
        value_micro="What the buyer owes, 10⁻⁶ of the currency",
    ),
    deps=[site_forecast_hourly, dispatch_plan_hourly],
)
def market_clearing_hourly(context: dg.AssetExecutionContext, database: Database) -> dg.MaterializeResult[Any]:
    """Clear the delivery whose gate closes now: homes trade what they will have left or lack, VPPs their surplus."""
    effort = Effort()
    with effort.importing():
        load_plotting()
    region = load_settings().region
    found: dict[datetime, dict[str, Any]] = {}
    shown: tuple[datetime, Clearing] | None = None
    for hour in hours_in(context.partition_time_window):
        delivery = delivery_cleared_by(hour)
        with database.begin() as connection:
            cleared, row, orders = _clear(connection, region, delivery, context.run.run_id)
        if cleared.trades or shown is None:
            shown = (delivery, cleared)
        found[hour] = {
            "dagster/partition_row_count": len(cleared.trades),
            "delivery": rfc3339(delivery),
            "orders": len(orders),
            "volume_kwh": cleared.volume_wh / _WH_PER_KWH,
            "price_per_kwh": decimal_string(cleared.price_micro)
            if cleared.price_micro is not None
            else "nothing crossed",
            "digest": digest([orders_digest(row.market_id, delivery, orders), row.digest]),
        }
    plot = {"plot_of_last_traded_hour": _book_plot(*shown)} if shown else {}
    return result(context, effort, found, plot)


def _clear(
    connection: sa.Connection, region: str, delivery: datetime, run_id: str
) -> tuple[Clearing, ClearingRow, list[Order]]:
    """Gather the offers for the delivery, clear them, save book, result and the digests of what they rest on."""
    market_id = registry.find_region(connection, region).market_id
    now = gate_closure(delivery)
    price = markets.outside_prices(connection, market_id, delivery, delivery + HOUR, now).get(delivery)
    if price is None:
        raise dg.Failure(f"no price of {market_id} for {rfc3339(delivery)} was known at its gate {rfc3339(now)}")
    orders = [
        *_homes_orders(connection, region, price, now),
        *_vpps_orders(connection, region, price, now),
    ]
    cleared = clear(orders, market_id, delivery)
    result_digest = clearing_digest(cleared, price.import_price_micro, price.export_price_micro)
    row = ClearingRow(
        market_id,
        delivery,
        now,
        cleared.price_micro,
        cleared.volume_wh,
        price.import_price_micro,
        price.export_price_micro,
        result_digest,
    )
    markets.replace_clearing(connection, row, orders, cleared)
    save_steps(
        connection,
        [
            ("forecast", region, delivery, audit.forecast_digest(connection, region, delivery), 1, run_id),
            ("plan", region, delivery, audit.plan_digest(connection, region, delivery), 1, run_id),
            ("orders", market_id, delivery, orders_digest(market_id, delivery, orders), len(orders), run_id),
            ("clearing", market_id, delivery, result_digest, len(cleared.trades), run_id),
        ],
    )
    return cleared, row, orders


def _homes_orders(connection: sa.Connection, region: str, price: OutsidePrice, now: datetime) -> list[Order]:
    expected = {
        one.series_key: one.p50 for one in forecasts.issued(connection, now, prefixes=("site/",), ts=price.hour)
    }
    orders = []
    for home in registry.participants(connection, region):
        keys = [f"site/{home.participant_id}/{role}" for role in ("load", "pv")]
        if home.kind == "prosumer" and all(key in expected for key in keys):
            load, pv = (round(expected[key], 6) for key in keys)
            orders.append(
                prosumer_order(
                    home.participant_id,
                    load,
                    pv,
                    import_price_micro=price.import_price_micro,
                    export_price_micro=price.export_price_micro,
                    placed_at=now,
                    market_id=price.market_id,
                    delivery=price.hour,
                )
            )
    return [order for order in orders if order is not None]


def _vpps_orders(connection: sa.Connection, region: str, price: OutsidePrice, now: datetime) -> list[Order]:
    """Return what the VPPs' plans leave over: planned exports, and sun and wind that the plan curtails."""
    orders: list[Order] = []
    for one in vpps.in_region(connection, region, deleted=True):
        steps = plans.setpoints(connection, one.vpp_id, now, price.hour)
        if one.participant_id is None or not steps:
            continue
        exported = sum(max(-step.output_kw, 0.0) for step in steps if step.type == "grid")
        curtailed = sum(max(step.available_kw - step.output_kw, 0.0) for step in steps if step.available_kw is not None)
        orders += vpp_orders(
            one.participant_id,
            import_price_micro=price.import_price_micro,
            export_price_micro=price.export_price_micro,
            placed_at=now,
            market_id=price.market_id,
            delivery=price.hour,
            exported_kwh=round(exported, 6),
            curtailed_kwh=round(curtailed, 6),
            marginal_price=round(steps[0].marginal_price, 6),
        )
    return orders


def _book_plot(delivery: datetime, cleared: Clearing) -> dg.MarkdownMetadataValue:
    """Draw demand and supply of one delivery hour and the price at which they met."""
    figure = new_figure()
    axes = figure.subplots()
    for name, curve, colour in (("demand", cleared.demand, "tab:blue"), ("supply", cleared.supply, "tab:orange")):
        energy = [end for step in curve for end in (step.from_wh / _WH_PER_KWH, step.to_wh / _WH_PER_KWH)]
        price = [step.price_micro / MICRO for step in curve for _ in range(2)]
        axes.plot(energy, price, color=colour, label=name)
    if cleared.price_micro is not None:
        axes.plot(cleared.volume_wh / _WH_PER_KWH, cleared.price_micro / MICRO, "o", color="black", label="cleared")
        widest = max(step.to_wh for step in cleared.demand) / _WH_PER_KWH
        axes.set_xlim(0, 1.5 * widest)
    axes.set_xlabel(f"kWh delivered from {rfc3339(delivery)}")
    axes.set_ylabel("price per kWh")
    axes.legend(fontsize="small")
    return picture(figure)
