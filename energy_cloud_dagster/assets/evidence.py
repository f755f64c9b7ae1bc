"""The proof of every settled trade, read back: each step recomputed from the rows, the root from the chain."""

from datetime import datetime
from typing import Any

import dagster as dg

from energy_cloud_dagster.adapters import audit, registry, settlements
from energy_cloud_dagster.adapters.evidence import save_steps
from energy_cloud_dagster.assets.report import Effort, columns, hourly_asset, result
from energy_cloud_dagster.assets.settlement import settlement_batch_hourly
from energy_cloud_dagster.domain.audit.canonical import digest
from energy_cloud_dagster.domain.intervals import rfc3339
from energy_cloud_dagster.partitions import hours_in
from energy_cloud_dagster.resources import Chain, Database
from energy_cloud_dagster.settings import load_settings


@hourly_asset(
    "8_evidence",
    {"ethereum", "python"},
    "audit.evidence",
    columns(
        batch_id="Settlement batch that anchors it",
        trade_id="The settled trade",
        leaf_index="Place of its leaf in the batch's Merkle tree",
        document="The evidence: trade, delivery, and the digest of every step that led to it",
        leaf="Hash of the document's canonical form",
        proof="Sibling hashes from the leaf to the root that the contract keeps",
    ),
    deps=[settlement_batch_hourly],
)
def trade_evidence_hourly(
    context: dg.AssetExecutionContext, database: Database, chain: Chain
) -> dg.MaterializeResult[Any]:
    """Verify every settled trade of the hour from the rows and the chain alone; a broken step fails the run by name."""
    effort = Effort()
    region = load_settings().region
    found: dict[datetime, dict[str, Any]] = {}
    for hour in hours_in(context.partition_time_window):
        with database.begin() as connection:
            market_id = registry.find_region(connection, region).market_id
            batch = settlements.batch_of_hour(connection, market_id, hour)
            if batch is None or batch.state != "confirmed":
                found[hour] = {"dagster/partition_row_count": 0, "verified": 0, "digest": digest([])}
                continue
            verdicts = audit.verify_batch(connection, batch.batch_id, chain.client(batch.contract))
            broken = {
                trade_id: next(step for step in steps if not step.ok)
                for trade_id, steps in verdicts.items()
                if not all(step.ok for step in steps)
            }
            if broken:
                trade_id, step = next(iter(broken.items()))
                raise dg.Failure(
                    f"{rfc3339(hour)}: {len(broken)} of {len(verdicts)} trades fail their proof; "
                    f"{trade_id} at step {step.step}: {step.detail}"
                )
            proved = digest({trade_id: [step.actual for step in steps[:-1]] for trade_id, steps in verdicts.items()})
            save_steps(connection, [("evidence", market_id, hour, proved, len(verdicts), context.run.run_id)])
        found[hour] = {
            "dagster/partition_row_count": len(verdicts),
            "verified": len(verdicts),
            "merkle_root": batch.merkle_root,
            "digest": proved,
        }
    return result(context, effort, found)
