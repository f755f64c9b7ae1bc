"""What a proof rests on, gathered from the rows as they are now: used to make evidence, and again to verify it.

Nothing here reads the platform's tables of results where the step can be computed from its inputs: metered energy comes
from the validated readings and not from the marts, the auction from the orders, the settlement from the auction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from energy_cloud_dagster.adapters import evidence, forecasts, markets, plans, registry, settlements, vpps
from energy_cloud_dagster.adapters.tables import device, reading, region, series, valid_reading
from energy_cloud_dagster.domain.audit.canonical import digest, rows_digest, salted_rows_digest
from energy_cloud_dagster.domain.audit.evidence import BatchRef, subjects_digest
from energy_cloud_dagster.domain.audit.verify import (
    OnChain,
    Recomputed,
    RecordedClearing,
    StepResult,
    StoredEvidence,
    verify_trade,
)
from energy_cloud_dagster.domain.errors import EnergyCloudError, InvalidInput, NotFound
from energy_cloud_dagster.domain.intervals import HOUR, gate_closure
from energy_cloud_dagster.domain.market.auction import clear
from energy_cloud_dagster.domain.market.orders import Order, Trade
from energy_cloud_dagster.domain.readings.energy import hour_energy_kwh, metered_wh
from energy_cloud_dagster.domain.units import to_wh

if TYPE_CHECKING:
    from energy_cloud_dagster.adapters.chain import ChainClient

#: Roles whose energy a participant injects (+1) or draws (-1).
INJECTION = {"load": -1, "pv": 1, "solar": 1, "wind": 1, "storage": 1}


class RawEvidence(NamedTuple):
    """One raw revision as it goes into a participant's digest."""

    device_id: str
    metric: str
    ts: datetime
    revision: int
    value: float
    quality: str
    received_at: datetime
    source: str


@dataclass(frozen=True, slots=True)
class Basis:
    """What the settlement of one delivery hour rests on, besides its market."""

    readings: Mapping[str, str]
    validated: str
    forecast: str
    plan: str
    schedule_total_wh: Mapping[str, int]
    metered_wh: Mapping[str, int]


def region_of_market(connection: sa.Connection, market_id: str) -> str:
    """Return the region whose metered participants trade in a market."""
    found = connection.execute(
        sa.select(region.c.region_id)
        .join_from(region, device, device.c.region_id == region.c.region_id)
        .where(region.c.market_id == market_id, device.c.participant_id.is_not(None))
        .limit(1)
    ).scalar()
    if found is None:
        raise NotFound(f"no region with metered participants trades in {market_id}")
    return str(found)


def participant_readings(
    connection: sa.Connection, region_id: str, hour: datetime, known_at: datetime
) -> dict[str, list[RawEvidence]]:
    """Return the raw revisions of the hour that were received by ``known_at``, by participant."""
    rows = connection.execute(
        sa.select(
            device.c.participant_id,
            device.c.device_id,
            series.c.metric,
            reading.c.ts,
            reading.c.revision,
            reading.c.value,
            reading.c.quality,
            reading.c.received_at,
            reading.c.source,
        )
        .join_from(reading, series, reading.c.series_id == series.c.series_id)
        .join(device, device.c.device_id == series.c.device_id)
        .where(
            device.c.region_id == region_id,
            device.c.participant_id.is_not(None),
            reading.c.ts >= hour,
            reading.c.ts < hour + HOUR,
            reading.c.received_at <= known_at,
        )
    )
    found: dict[str, list[RawEvidence]] = defaultdict(list)
    for row in rows:
        found[row.participant_id].append(RawEvidence._make(row[1:]))
    return found


def readings_digests(connection: sa.Connection, region_id: str, hour: datetime, known_at: datetime) -> dict[str, str]:
    """Return the salted digest of every participant's raw readings; those whose salt was erased are left out."""
    rows = participant_readings(connection, region_id, hour, known_at)
    return {
        one.participant_id: salted_rows_digest(one.salt, rows.get(one.participant_id, []))
        for one in registry.participants(connection, region_id)
        if one.salt is not None
    }


def validated_rows(
    connection: sa.Connection, region_id: str, hour: datetime, known_at: datetime
) -> Sequence[sa.Row[Any]]:
    """Return the region's validated rows of the hour that were received by ``known_at``, in key order."""
    return connection.execute(
        sa.select(
            valid_reading.c.series_id,
            valid_reading.c.ts,
            valid_reading.c.revision,
            valid_reading.c.value,
            valid_reading.c.quality,
            valid_reading.c.received_at,
            series.c.kind,
            series.c.role,
            device.c.participant_id,
            device.c.interval_minutes,
        )
        .join_from(valid_reading, series, valid_reading.c.series_id == series.c.series_id)
        .join(device, device.c.device_id == series.c.device_id)
        .where(
            device.c.region_id == region_id,
            valid_reading.c.ts >= hour,
            valid_reading.c.ts < hour + HOUR,
            valid_reading.c.received_at <= known_at,
        )
        .order_by(valid_reading.c.series_id, valid_reading.c.ts, valid_reading.c.revision)
    ).all()


def metered_from_readings(rows: Sequence[sa.Row[Any]]) -> dict[str, int]:
    """Return each participant's net injection in Wh from validated rows; the latest revision of an interval counts."""
    latest: dict[int, dict[datetime, float]] = defaultdict(dict)
    about: dict[int, sa.Row[Any]] = {}
    for row in rows:
        if row.participant_id is not None and row.role in INJECTION:
            latest[row.series_id][row.ts] = row.value
            about[row.series_id] = row
    total: dict[str, float] = defaultdict(float)
    for series_id, values in sorted(latest.items()):
        row = about[series_id]
        energy = hour_energy_kwh(row.kind, row.interval_minutes, [value for _, value in sorted(values.items())])
        if energy is not None:
            total[row.participant_id] += INJECTION[row.role] * energy
    return {one: metered_wh(kwh) for one, kwh in total.items()}


def scheduled_totals(connection: sa.Connection, region_id: str, delivery: datetime) -> dict[str, int]:
    """Return what each VPP planned to inject in the delivery hour (Wh), by the plan that its orders came from."""
    totals = {}
    for one in vpps.in_region(connection, region_id, deleted=True):
        steps = plans.setpoints(connection, one.vpp_id, gate_closure(delivery), delivery)
        if one.participant_id is not None and steps:
            planned = sum(step.output_kw for step in steps if step.type not in ("grid", "load"))
            totals[one.participant_id] = to_wh(round(planned, 6))
    return totals


def beyond_trades(totals: Mapping[str, int], trades: Sequence[Trade]) -> dict[str, int]:
    """Return the schedules less what was sold in the market out of them (Wh): what ``settle`` takes as schedule."""
    left = dict(totals)
    for trade in trades:
        for party, sign in ((trade.seller_id, -1), (trade.buyer_id, 1)):
            if party in left:
                left[party] += sign * trade.quantity_wh
    return left


def forecast_digest(connection: sa.Connection, region_id: str, delivery: datetime) -> str:
    """Return the digest of the forecasts that the delivery's orders and plan rest on."""
    prefixes = (f"region/{region_id}/", "site/", "resource/")
    return rows_digest(forecasts.issued(connection, gate_closure(delivery), prefixes=prefixes, ts=delivery))


def plan_digest(connection: sa.Connection, region_id: str, delivery: datetime) -> str:
    """Return the digest of the VPPs' plans in force for the delivery: problem, solution and setpoints."""
    issued_at = gate_closure(delivery)
    found = {}
    for one in vpps.in_region(connection, region_id, deleted=True):
        row = plans.plan_of(connection, one.vpp_id, issued_at)
        if row is not None:
            steps = plans.setpoints(connection, one.vpp_id, issued_at)
            found[one.vpp_id] = [row.problem, row.solution, [list(step) for step in steps]]
    return digest(found)


def basis(connection: sa.Connection, region_id: str, delivery: datetime, known_at: datetime) -> Basis:
    """Return what the settlement of a delivery rests on, computed from the rows as they are now."""
    rows = validated_rows(connection, region_id, delivery, known_at)
    return Basis(
        readings=readings_digests(connection, region_id, delivery, known_at),
        validated=rows_digest(tuple(row)[:6] for row in rows),
        forecast=forecast_digest(connection, region_id, delivery),
        plan=plan_digest(connection, region_id, delivery),
        schedule_total_wh=scheduled_totals(connection, region_id, delivery),
        metered_wh=metered_from_readings(rows),
    )


def verify_batch(
    connection: sa.Connection, batch_id: str, chain: ChainClient | None, trade_ids: Sequence[str] = ()
) -> dict[str, list[StepResult]]:
    """Verify trades of a batch (all of them by default): every step recomputed, the root read from the chain.

    ``chain`` None, or a chain that does not answer, leaves the transaction unproved. Raises ``NotFound`` for an
    unknown batch.
    """
    batch = settlements.batch_by_id(connection, batch_id)
    if batch is None:
        raise NotFound(f"no batch {batch_id}")
    ref = BatchRef(batch.batch_id, batch.market_id, batch.delivery_start, batch.revision, batch.known_at)
    region_id = region_of_market(connection, batch.market_id)
    now = basis(connection, region_id, batch.delivery_start, batch.known_at)
    book, fills = markets.book_of(connection, batch.market_id, batch.delivery_start)
    cleared = markets.clearing_of(connection, batch.market_id, batch.delivery_start)
    recorded = cleared and RecordedClearing(
        cleared.price_micro, cleared.volume_wh, cleared.import_price_micro, cleared.export_price_micro, fills
    )
    trades = {one.trade_id: one for one in markets.trades_of(connection, batch.market_id, batch.delivery_start)}
    leaves = evidence.leaves_of(connection, batch_id)
    settlement = settlements.settlement_of(connection, batch_id)
    on_chain = None if chain is None else read_chain(connection, chain, batch)
    schedule = beyond_trades(now.schedule_total_wh, _auctioned(book, batch.market_id, batch.delivery_start))
    verdicts = {}
    for trade_id in trade_ids or evidence.trades_in_batch(connection, batch_id):
        row = evidence.of_batch(connection, batch_id, trade_id)
        # what stands there now need not be what was sealed
        document = row.document if isinstance(row.document, Mapping) else {}
        traded = document.get("trade")
        parties = [traded.get(name) if isinstance(traded, Mapping) else None for name in ("buyerId", "sellerId")]
        salted = {one: now.readings[one] for one in parties if isinstance(one, str) and one in now.readings}
        recomputed = Recomputed(
            digests={
                "readings": subjects_digest(salted) if len(salted) == len(parties) else None,
                "validated": now.validated,
                "forecast": now.forecast,
                "plan": now.plan,
            },
            orders=book,
            clearing=recorded,
            trade=trades.get(trade_id),
            schedule_wh=schedule,
            metered_wh=now.metered_wh,
            settlement=settlement,
            leaves=leaves,
        )
        stored = StoredEvidence(
            document,
            row.leaf_index,
            row.leaf,
            row.proof,
            ref,
            batch.merkle_root,
            batch.trades,
            batch.digest,
            batch.tx_hash,
            batch.block_number,
        )
        verdicts[trade_id] = verify_trade(stored, recomputed, on_chain)
    return verdicts


def read_chain(connection: sa.Connection, chain: ChainClient, batch: settlements.BatchRow) -> OnChain | None:
    """Return what contract and receipt say of a batch, None where the chain does not answer."""
    accounts = {one.account: one.participant_id for one in registry.participants(connection)}
    try:
        kept = chain.read_batch(batch.batch_id)
        receipt = chain.receipt(batch.tx_hash) if batch.tx_hash else None
        booked = chain.positions(batch.tx_hash) if batch.tx_hash and receipt else ()
    except EnergyCloudError:
        return None
    return OnChain(
        merkle_root=kept.merkle_root if kept else None,
        tx_hash=receipt.tx_hash if receipt else None,
        block_number=receipt.block_number if receipt else None,
        succeeded=receipt is not None,
        deltas={accounts.get(one.account, one.account): (one.energy_wh, one.money_micro) for one in booked},
    )


def _auctioned(book: Sequence[tuple[Any, ...]], market_id: str, delivery: datetime) -> tuple[Trade, ...]:
    """Return the trades that the auction gives for the recorded book; none where the book is no book any more."""
    try:
        return clear([Order(*row) for row in book], market_id, delivery).trades
    except (InvalidInput, TypeError):
        return ()
