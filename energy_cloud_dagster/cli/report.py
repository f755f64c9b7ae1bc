"""The demo's report: what came in, what was planned, what was traded and settled, and whether it can be proved."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from energy_cloud_dagster.domain.intervals import HOUR, hours, rfc3339, run_time
from energy_cloud_dagster.domain.units import MICRO, decimal_string

if TYPE_CHECKING:
    import sqlalchemy as sa

    from energy_cloud_dagster.embedded.parts import RunningPart
    from energy_cloud_dagster.settings import Settings


_MONEY_COLUMNS: Final = 4


def banner(console: Console, running: Sequence[RunningPart]) -> None:
    """Say which parts run and that they are for one machine."""
    for part in running:
        console.print(f"  [dim]{part.part:9}[/] {part.kind} {part.version} [dim]{part.url}[/]", soft_wrap=True)
    if running:
        plain = any(part.kind == "iotcore" for part in running)
        broker = "the broker has one credential and forgets its sessions, " if plain else ""
        console.print(
            f"  [dim]Embedded parts are for one machine and development: {broker}the chain is a private one.[/]",
            soft_wrap=True,
        )


def credentials(console: Console, passwords: Mapping[str, str] | None) -> None:
    """Say generated passwords: as soon as they hold, for who is stopped before the end, and again at the end."""
    if not passwords:
        return
    width = max(len(name) for name in passwords)
    console.print("Accounts and their passwords, which are kept nowhere")
    for name, password in passwords.items():
        console.print(f"  [bold]{name:<{width}}[/]  [bold]{password}[/]", soft_wrap=True)


def gather(settings: Settings, start: datetime, end: datetime) -> dict[str, Any]:
    """Return the figures of the deliveries ``[start, end)``, read from the database."""
    from energy_cloud_dagster.adapters import markets, readings, registry, settlements, validation
    from energy_cloud_dagster.adapters.database import make_engine
    from energy_cloud_dagster.domain.audit.canonical import digest

    engine = make_engine(settings.database_url.get_secret_value(), pool_size=1)
    try:
        with engine.begin() as connection:
            region = registry.find_region(connection, settings.region)
            market_id = region.market_id
            cleared = [markets.clearing_of(connection, market_id, hour) for hour in hours(start, end)]
            batches = [settlements.batch_of_hour(connection, market_id, hour) for hour in hours(start, end)]
            census = validation.census(connection, region.region_id, start - 2 * HOUR, end)
            positions: Counter[str] = Counter()
            for batch in batches:
                if batch is not None:
                    for one in settlements.settlement_of(connection, batch.batch_id).positions:
                        positions[one.participant_id] += one.net_micro
            plan_digests, costs, unmet = _plans(connection, region.region_id, start, end)
            return {
                "hours": len(cleared),
                "market": market_id,
                "rejects": readings.rejects_by_reason(connection),
                "rows_validated": sum(one.rows_valid for one in census),
                "rows_quarantined": sum(one.rows_quarantined for one in census),
                "incomplete_hours": [rfc3339(one.hour) for one in census if not one.complete],
                "forecast": _forecast(connection, region.region_id, start, end),
                "plan": {"cost_first_hour_sum": round(sum(costs), 2), "unmet_kwh": round(sum(unmet), 3)},
                "trades": sum(batch.trades for batch in batches if batch),
                "volume_kwh": sum(one.volume_wh for one in cleared if one) / 1000,
                "prices": [one.price_micro / MICRO for one in cleared if one and one.price_micro is not None],
                "settled_hours": sum(batch is not None and batch.state == "confirmed" for batch in batches),
                "gas": sum(batch.gas_used or 0 for batch in batches if batch),
                "net": {name: decimal_string(amount) for name, amount in sorted(positions.items())},
                "digests": {
                    "readings": digest([one.digest for one in census]),
                    "plans": digest(plan_digests),
                    "trades": digest([one.digest for one in cleared if one]),
                    "roots": digest([batch.merkle_root for batch in batches if batch]),
                },
            }
    finally:
        engine.dispose()


def _plans(
    connection: sa.Connection, region_id: str, start: datetime, end: datetime
) -> tuple[list[str], list[float], list[float]]:
    """Return the plans' digests, the cost of each plan's first hour, and what stayed unmet."""
    from energy_cloud_dagster.adapters import markets, plans, registry, vpps

    market_id = registry.find_region(connection, region_id).market_id
    digests, costs, unmet = [], [], []
    for hour in hours(start - 2 * HOUR, end):
        for one in vpps.in_region(connection, region_id):
            row = plans.plan_of(connection, one.vpp_id, run_time(hour))
            if row is None:
                continue
            digests.append(row.digest)
            unmet.append(row.unmet_kwh)
            first = row.plan_start
            price = markets.outside_prices(connection, market_id, first, first + HOUR, row.issued_at)[first]
            grid = sum(
                step.output_kw
                for step in plans.setpoints(connection, one.vpp_id, row.issued_at, first)
                if step.type == "grid"
            )
            costs.append(grid * (price.import_price_micro if grid > 0 else price.export_price_micro) / MICRO)
    return digests, costs, unmet


def _forecast(connection: sa.Connection, region_id: str, start: datetime, end: datetime) -> dict[str, dict[str, float]]:
    """Return the error of the hour-ahead forecasts of the region's load against what was measured, by model.

    ``published`` is what the next stages used, hour by hour.
    """
    from energy_cloud_dagster.adapters import forecasts, marts

    actual = {
        row.hour: row.energy_kwh
        for row in marts.history(connection, region_id, ("region_load",), start, end, run_time(end) + HOUR)
        if row.energy_kwh
    }
    errors: dict[str, list[float]] = {}
    inside: Counter[str] = Counter()
    key = f"region/{region_id}/load"
    for hour in hours(start, end):
        if hour not in actual:
            continue
        for point in forecasts.issued(
            connection, run_time(hour - 2 * HOUR), prefixes=(key,), ts=hour, chosen_only=False
        ):
            for name in (point.model, "published") if point.chosen else (point.model,):
                errors.setdefault(name, []).append(abs(point.p50 - actual[hour]) / actual[hour] * 100)
                inside[name] += point.p10 <= actual[hour] <= point.p90
    return {
        name: {"mape": round(sum(found) / len(found), 2), "coverage": round(inside[name] / len(found), 2)}
        for name, found in errors.items()
    }


def audit(settings: Settings, start: datetime, end: datetime) -> dict[str, Any]:
    """Verify every settled trade of the deliveries ``[start, end)``; return how many hold, and what does not."""
    from energy_cloud_dagster.adapters import audit as gathered
    from energy_cloud_dagster.adapters import registry, settlements
    from energy_cloud_dagster.adapters.chain import ChainClient
    from energy_cloud_dagster.adapters.database import make_engine

    engine = make_engine(settings.database_url.get_secret_value(), pool_size=1)
    verified, broken = 0, []
    try:
        with engine.begin() as connection:
            market_id = registry.find_region(connection, settings.region).market_id
            for hour in hours(start, end):
                batch = settlements.batch_of_hour(connection, market_id, hour)
                if batch is None:
                    continue
                chain = ChainClient(
                    settings.chain_rpc_url, settings.chain_private_key.get_secret_value(), batch.contract
                )
                for trade_id, steps in gathered.verify_batch(connection, batch.batch_id, chain).items():
                    failed = next((step for step in steps if not step.ok), None)
                    if failed is None:
                        verified += 1
                    else:
                        broken.append({"trade": trade_id, "step": failed.step, "detail": failed.detail})
    finally:
        engine.dispose()
    return {"verified": verified, "broken": broken}


def as_json(found: dict[str, Any]) -> str:
    """Return the report for programs."""
    return json.dumps({name: value for name, value in found.items() if name != "passwords"}, indent=2)


def show(console: Console, found: dict[str, Any]) -> None:
    """Print the report for people."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, value in _lines(found):
        table.add_row(name, value)
    console.print(Panel(table, title=f"{found['hours']} hours, from meter to chain", expand=False))
    _show_money(console, found)
    _show_time(console, found)
    credentials(console, found.get("passwords"))


def _lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    replayed, audited, prices = found["replayed"], found["audit"], found["prices"]
    forecast = "\n".join(
        f"{name}: MAPE {one['mape']} % two hours ahead, {100 * one['coverage']:.0f} % within its 80 % band"
        for name, one in sorted(
            found["forecast"].items(), key=lambda item: (item[0] != "published", item[1]["mape"], item[0])
        )
    )
    rejects = ", ".join(f"{count} {reason}" for reason, count in found["rejects"].items()) or "none"
    verdict = (
        f"[green]{audited['verified']} of {audited['verified']} trades proved, from the meters to the chain[/]"
        if not audited["broken"]
        else f"[red]{len(audited['broken'])} trades fail: {audited['broken'][0]}[/]"
    )
    came = f"{replayed['mqtt']:,} over MQTT, {replayed['opcua']:,} over OPC UA"
    plan, volume = found["plan"], f"{found['trades']} trades, {found['volume_kwh']:,.1f} kWh"
    held = f"quarantined: {found['rows_quarantined']}   incomplete hours: {len(found['incomplete_hours'])}"
    cost = f"{plan['cost_first_hour_sum']:,.0f} KRW for the grid over the planned hours"
    spread = f" at {min(prices):.0f} to {max(prices):.0f} KRW/kWh" if prices else ""
    return [
        ("Readings", f"{came}, {found['history_rows']:,} new of history"),
        ("Rejected", f"{rejects}   {held}"),
        ("Load forecast", forecast),
        ("Dispatch", f"{cost}, {plan['unmet_kwh']} kWh unmet"),
        ("Market", volume + spread),
        ("Settlement", f"{found['settled_hours']} transactions, {found['gas']:,} gas"),
        ("Audit", verdict),
        ("Digests", "   ".join(f"{name} {value[:12]}" for name, value in found["digests"].items())),
    ]


def _show_money(console: Console, found: dict[str, Any]) -> None:
    table = Table(
        title="Net of trades and imbalance, KRW (what was earned; all together give zero)",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
        show_header=False,
    )
    for _ in range(_MONEY_COLUMNS):
        table.add_column()
        table.add_column(justify="right")
    cells = [(name, f"{float(amount):,.0f}") for name, amount in found["net"].items()]
    for first in range(0, len(cells), _MONEY_COLUMNS):
        table.add_row(*(cell for pair in cells[first : first + _MONEY_COLUMNS] for cell in pair))
    console.print(table)


def _show_time(console: Console, found: dict[str, Any]) -> None:
    table = Table(title="Time", title_justify="left", box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for stage, seconds in found["seconds"].items():
        table.add_row(stage, f"{seconds:.1f} s")
    slowest = sorted(found["efforts"].items(), key=lambda item: -item[1].get("work_seconds", 0))[:4]
    table.add_row(
        "  of the pipeline: " + ", ".join(f"{name} {one.get('work_seconds', 0):.1f} s" for name, one in slowest), ""
    )
    console.print(table)
