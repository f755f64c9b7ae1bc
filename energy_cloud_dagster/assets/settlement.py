"""Money moves: trades of the delivery hour against what the meters say, in one transaction that anchors evidence."""

from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import dagster as dg
import sqlalchemy as sa

from energy_cloud_dagster.adapters import audit, markets, marts, registry, settlements, validation
from energy_cloud_dagster.adapters.evidence import replace_evidence, save_steps
from energy_cloud_dagster.adapters.settlements import BatchRow
from energy_cloud_dagster.assets.market import market_clearing_hourly
from energy_cloud_dagster.assets.report import Effort, columns, hourly_asset, result
from energy_cloud_dagster.domain.audit.canonical import digest
from energy_cloud_dagster.domain.audit.evidence import Sealed, build_documents, make_batch, seal, settlement_digest
from energy_cloud_dagster.domain.errors import ChainUnavailable, EnergyCloudError
from energy_cloud_dagster.domain.intervals import GATE_LEAD_HOURS, HOUR, rfc3339
from energy_cloud_dagster.domain.market.auction import clear
from energy_cloud_dagster.domain.market.orders import Order
from energy_cloud_dagster.domain.readings.energy import metered_wh
from energy_cloud_dagster.domain.settlement.settle import Settlement, imbalance_prices, settle
from energy_cloud_dagster.domain.units import decimal_string
from energy_cloud_dagster.partitions import hours_in, offset
from energy_cloud_dagster.quality.rules import CONNECTION_WH
from energy_cloud_dagster.resources import Chain, Database
from energy_cloud_dagster.settings import load_settings

if TYPE_CHECKING:
    from energy_cloud_dagster.adapters.chain import ChainClient

_REVISION = 0


class Prepared(NamedTuple):
    """A batch that is ready to be sent."""

    row: BatchRow
    settlement: Settlement
    sealed: Sealed
    accounts: dict[str, str]


class Held(NamedTuple):
    """Why an hour is not settled now; it is tried again when its cause is gone."""

    reason: str


@hourly_asset(
    "7_settlement",
    {"ethereum", "python"},
    "settlement.position",
    columns(
        batch_id="Derived from market, hour and revision; the contract takes it once",
        participant_id="Participant, the grid among them",
        account="Its account on the chain",
        traded_wh="Sold positive, bought negative",
        scheduled_wh="Net injection that it owed the grid",
        metered_wh="Measured net injection",
        deviation_wh="metered - scheduled, priced at the imbalance price",
        trade_micro="Earned in trades, 10⁻⁶ of the currency",
        imbalance_micro="Earned by deviating, 10⁻⁶ of the currency",
        net_micro="Sum of both; all participants together give zero",
    ),
    deps=[
        "fct_participant__hourly",
        dg.AssetDep(market_clearing_hourly, partition_mapping=offset(GATE_LEAD_HOURS)),
    ],
)
def settlement_batch_hourly(
    context: dg.AssetExecutionContext, database: Database, chain: Chain
) -> dg.MaterializeResult[Any]:
    """Settle the delivery hour on metered energy: positions, evidence, and one transaction that anchors its root."""
    effort = Effort()
    with effort.importing():
        client = chain.client()
        with suppress(ChainUnavailable):  # the intent is recorded first, so that it is taken up when the node answers
            context.log.debug("settling on chain %s", client.chain_id)
    region = load_settings().region
    found: dict[datetime, dict[str, Any]] = {}
    for hour in hours_in(context.partition_time_window):
        with database.begin() as connection:
            prepared = _prepare(connection, region, hour, context.run.run_id)
        if isinstance(prepared, Held):
            context.log.warning("%s is not settled: %s", rfc3339(hour), prepared.reason)
            found[hour] = {"held": prepared.reason, "dagster/partition_row_count": 0, "digest": digest(prepared.reason)}
            continue
        try:
            row = send(database, client, prepared)
        except EnergyCloudError as error:
            raise dg.Failure(f"{rfc3339(hour)}: {error}", allow_retries=error.retryable) from error
        found[hour] = _described(prepared, row)
    return result(context, effort, found)


def send(database: Database, client: "ChainClient", prepared: Prepared) -> BatchRow:
    """Bring a prepared batch onto the chain once, whatever happened before, and return it with its receipt.

    The transaction's hash is committed before it is sent: after a crash its receipt is looked up, nothing goes twice.
    """
    from energy_cloud_dagster.adapters.chain_types import Position, SettlementBatch

    batch = SettlementBatch(
        prepared.row.batch_id,
        prepared.row.market_id,
        prepared.row.delivery_start,
        prepared.row.revision,
        prepared.row.merkle_root,
        tuple(
            Position(prepared.accounts[one.participant_id], one.energy_wh, one.net_micro)
            for one in prepared.settlement.positions
        ),
    )
    contract = client.ensure_contract(prepared.row.contract)
    with database.begin() as connection:
        settlements.record_contract(connection, batch.batch_id, contract, client.chain_id)
    receipt = client.find(batch)
    if receipt is None:
        signed = client.prepare(batch)
        with database.begin() as connection:
            settlements.record_sent(connection, batch.batch_id, signed.tx_hash)
        client.send(signed)
        receipt = client.wait(signed.tx_hash)
    with database.begin() as connection:
        settlements.record_receipt(
            connection, batch.batch_id, receipt.tx_hash, receipt.block_number, receipt.gas_used, receipt.block_time
        )
        row = settlements.batch_by_id(connection, batch.batch_id)
    if row is None:
        raise dg.Failure(f"batch {batch.batch_id} vanished from the database while it was settled")
    return row


def _prepare(connection: sa.Connection, region: str, hour: datetime, run_id: str) -> Prepared | Held:
    """Compute the batch of a delivery hour and record the intent to send it, or say why it is held."""
    market_id = registry.find_region(connection, region).market_id
    cleared = markets.clearing_of(connection, market_id, hour)
    if cleared is None:
        return Held("no market was held for this delivery")
    census = validation.census(connection, region, hour, hour + HOUR)
    if not census or census[0].known_at is None:
        return Held("its readings have not been validated")
    participants = registry.participants(connection, region)
    metered = {one.participant_id: one for one in marts.participants(connection, region, hour, hour + HOUR)}
    missing = [
        one.participant_id
        for one in participants
        if one.kind != "grid" and not (one.participant_id in metered and metered[one.participant_id].complete)
    ]
    if missing:
        return Held(f"no complete metering of {', '.join(missing)}")
    beyond = [
        one.participant_id
        for one in participants
        if one.kind != "grid"
        and abs(metered_wh(metered[one.participant_id].net_injection_kwh)) > CONNECTION_WH[one.kind]
    ]
    if beyond:
        return Held(f"metered beyond the connection of {', '.join(beyond)}")
    known_at = census[0].known_at
    earlier = settlements.batch_of_hour(connection, market_id, hour, _REVISION)
    if earlier is not None and earlier.state != "intended":
        # what was settled stands on what was known then; later readings are for a later revision
        known_at = earlier.known_at
    basis = audit.basis(connection, region, hour, known_at)
    rows, _ = markets.book_of(connection, market_id, hour)
    orders = [Order(*row) for row in rows]
    auction = clear(orders, market_id, hour)
    schedule = audit.beyond_trades(basis.schedule_total_wh, auction.trades)
    delivered = {one: metered_wh(row.net_injection_kwh) for one, row in metered.items()}
    if known_at == census[0].known_at and delivered != basis.metered_wh:
        differing = sorted(one for one in delivered if delivered[one] != basis.metered_wh.get(one))
        return Held(f"marts and readings disagree about {', '.join(differing)}; rebuild the marts of this hour")
    prices = {
        "import_price_micro": cleared.import_price_micro,
        "export_price_micro": cleared.export_price_micro,
    }
    settlement = settle(auction.trades, schedule, basis.metered_wh, imbalance_prices(**prices))
    batch = make_batch(market_id, hour, _REVISION, known_at)
    shared = {"validated": basis.validated, "forecast": basis.forecast, "plan": basis.plan}
    documents = build_documents(
        batch, auction, settlement, **prices, orders=orders, shared=shared, readings=basis.readings
    )
    sealed = seal(batch, settlement, documents)
    row = BatchRow(
        batch.batch_id,
        market_id,
        hour,
        batch.revision,
        known_at,
        sealed.merkle_root,
        len(sealed.rows),
        settlement_digest(settlement),
        "intended",
        earlier.contract if earlier else "",
        earlier.chain_id if earlier else 0,
        None,
        None,
        None,
        None,
    )
    if earlier is not None and earlier.state == "confirmed" and earlier.merkle_root != row.merkle_root:
        return Held("it is settled, and its rows have changed since: a correction needs a revision of its own")
    accounts = {one.participant_id: one.account for one in participants}
    settlements.record_intent(connection, row, settlement, accounts)
    replace_evidence(connection, row.batch_id, sealed.rows)
    save_steps(connection, [("settlement", market_id, hour, row.digest, len(settlement.positions), run_id)])
    return Prepared(row, settlement, sealed, accounts)


def _described(prepared: Prepared, row: BatchRow) -> dict[str, Any]:
    positions = prepared.settlement.positions
    lines = ["| participant | traded Wh | metered Wh | deviation Wh | net |", "|---|---:|---:|---:|---:|"]
    lines += [
        f"| {one.participant_id} | {one.traded_wh} | {one.metered_wh} | {one.deviation_wh} "
        f"| {decimal_string(one.net_micro)} |"
        for one in positions
    ]
    return {
        "dagster/partition_row_count": len(positions),
        "trades": row.trades,
        "delivered_kwh": sum(one.delivered_wh for one in prepared.settlement.trades) / 1000,
        "shortfall_kwh": sum(one.shortfall_wh for one in prepared.settlement.trades) / 1000,
        "merkle_root": row.merkle_root,
        "transaction": row.tx_hash or "",
        "block": row.block_number or 0,
        "gas_used": row.gas_used or 0,
        "positions": dg.MetadataValue.md("\n".join(lines)),
        "digest": digest([row.merkle_root, row.digest]),
    }
