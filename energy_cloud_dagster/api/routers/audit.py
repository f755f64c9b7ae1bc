"""The evidence of settled trades."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import Field

from energy_cloud_dagster.adapters import evidence, settlements
from energy_cloud_dagster.api.context import Shared
from energy_cloud_dagster.api.security import Caller, needs
from energy_cloud_dagster.api.values import Document
from energy_cloud_dagster.domain.errors import NotFound

router = APIRouter(prefix="/v1/audit", tags=["audit"])


class Batch(Document):
    """The settlement batch that holds the trade."""

    id: str
    market: str
    delivery_start: datetime
    revision: int
    merkle_root: str
    trades: int
    digest: str
    state: str


class Transaction(Document):
    """The chain's side of the batch; hash and block are null before it was sent."""

    hash: str | None
    chain_id: int
    contract: str
    block_number: int | None
    gas_used: int | None
    confirmed_at: datetime | None


class Evidence(Document):
    """What proves a trade: ``leaf`` is SHA-256 over 0x00 and the canonical document; the proof leads to the root."""

    trade_id: str
    document: dict[str, Any]
    leaf: str
    leaf_index: int
    proof: list[Any] = Field(description="Sibling hashes from the leaf up.")
    batch: Batch
    transaction: Transaction


@router.get("/trades/{id}", summary="The evidence of a trade")
@needs("audit:read")
def trade_evidence(
    context: Shared, caller: Caller, trade_id: Annotated[str, Path(alias="id", max_length=128)]
) -> Evidence:
    """Return document, proof, batch and transaction of a settled trade; a trader sees its own participant's."""
    with context.engine.connect() as connection:
        found = evidence.of_trade(connection, trade_id)
        batch = None if found is None else settlements.batch_by_id(connection, found.batch_id)
    if (
        found is None
        or batch is None
        or not (caller.sees_all or caller.participant_id in {found.buyer_id, found.seller_id})
    ):
        raise NotFound(f"there is no evidence of a trade {trade_id}")
    return Evidence(
        trade_id=found.trade_id,
        document=found.document,
        leaf=found.leaf,
        leaf_index=found.leaf_index,
        proof=found.proof,
        batch=Batch(
            id=batch.batch_id,
            market=batch.market_id,
            delivery_start=batch.delivery_start,
            revision=batch.revision,
            merkle_root=batch.merkle_root,
            trades=batch.trades,
            digest=batch.digest,
            state=batch.state,
        ),
        transaction=Transaction(
            hash=batch.tx_hash,
            chain_id=batch.chain_id,
            contract=batch.contract,
            block_number=batch.block_number,
            gas_used=batch.gas_used,
            confirmed_at=batch.confirmed_at,
        ),
    )
