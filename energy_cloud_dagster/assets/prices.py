"""What energy costs outside the market: the retail tariff and the day-ahead price, published ahead of delivery."""

from datetime import datetime
from typing import Any, Final

import dagster as dg

from energy_cloud_dagster.adapters import markets, registry
from energy_cloud_dagster.adapters.markets import OutsidePrice
from energy_cloud_dagster.assets.report import OWNER, Effort, columns, hourly_asset, result
from energy_cloud_dagster.domain.audit.canonical import rows_digest
from energy_cloud_dagster.domain.intervals import HOUR, hours, run_time
from energy_cloud_dagster.domain.units import KRW_PER_EUR, KRW_PER_USD, to_micro
from energy_cloud_dagster.partitions import FIRST_HOUR, hours_in
from energy_cloud_dagster.resources import Database
from energy_cloud_dagster.settings import load_settings

#: Hours that prices are known ahead: the day-ahead auction publishes the next day by the afternoon.
HOURS_AHEAD: Final = 26

price_feed = dg.AssetSpec(
    "price_feed",
    group_name="0_sources",
    owners=[OWNER],
    description="Time-of-use tariff (Fontana) and day-ahead prices (Netherlands), measured, on the sample calendar.",
    kinds={"csv"},
)


@hourly_asset(
    "1_ingest",
    {"postgres"},
    "market.price",
    columns(
        market_id="The market",
        hour="Hour that the prices hold in",
        import_price_micro="Retail tariff, 10⁻⁶ of the currency per kWh",
        export_price_micro="Feed-in price, 10⁻⁶ of the currency per kWh, between 0 and the tariff",
        published_at="When the platform knew; what was published first stands",
    ),
    deps=[price_feed],
)
def outside_prices_hourly(context: dg.AssetExecutionContext, database: Database) -> dg.MaterializeResult[Any]:
    """Import and export prices of the next 26 hours, as published at the hour's now."""
    effort = Effort()
    with effort.importing():
        sample_prices("", FIRST_HOUR, FIRST_HOUR + HOUR, FIRST_HOUR)
    region = load_settings().region
    found: dict[datetime, dict[str, Any]] = {}
    with database.begin() as connection:
        market_id = registry.find_region(connection, region).market_id
        for hour in hours_in(context.partition_time_window):
            now, first = run_time(hour), hour + HOUR
            markets.publish_prices(connection, sample_prices(market_id, first, first + HOURS_AHEAD * HOUR, now))
            known = markets.outside_prices(connection, market_id, first, first + HOURS_AHEAD * HOUR, now)
            found[hour] = {
                "dagster/partition_row_count": len(known),
                "digest": rows_digest(tuple(one) for one in known.values()),
            }
    return result(context, effort, found)


def sample_prices(market_id: str, start: datetime, end: datetime, published_at: datetime) -> list[OutsidePrice]:
    """Return the sample's prices of ``[start, end)``; constants convert them, export stays under import."""
    from energy_cloud_dagster.sample_data import series

    tariff = series("market/tariff_usd_per_kwh", start, end)
    day_ahead = series("market/day_ahead_eur_per_mwh", start, end)
    rows = []
    for hour in hours(start, end):
        usd, eur_per_mwh = _at(tariff, hour), _at(day_ahead, hour)
        import_micro = to_micro(round(usd * KRW_PER_USD, 6))
        export_micro = to_micro(round(eur_per_mwh * KRW_PER_EUR / 1000, 6))
        rows.append(OutsidePrice(market_id, hour, import_micro, min(max(export_micro, 0), import_micro), published_at))
    return rows


def _at(prices: Any, hour: datetime) -> float:
    """Return the price of an hour; the hour that summer time skipped takes the one before."""
    value = prices.asof(hour)
    return float(value) if value == value else float(prices.iloc[0])  # noqa: PLR0124 - NaN before the first
