"""The evidence of settled trades: one document a trade, whose canonical form is a leaf of the batch's Merkle tree.

A document holds texts, integers and null only, so it comes back from jsonb as it went in. ``steps`` names the digest of
every step that led to the trade:

============ =========================================================================================================
readings     the raw revisions of both parties' devices, salted by subject (``subjects_digest``)
validated    the rows that passed validation and that settlement used
forecast     the forecasts behind the orders
plan         the dispatch plan behind the orders and the VPP's schedule
orders       every order in the book at gate closure
clearing     what the auction made of them: price, volume, fills, trades, and the hour's import and export price
trade        this trade
settlement   positions and delivered energy of the whole hour
============ =========================================================================================================

The first four are digests of rows that only an adapter can read; the last four are computed here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from energy_cloud_dagster.domain.audit import canonical, merkle
from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.intervals import rfc3339
from energy_cloud_dagster.domain.market.auction import Clearing
from energy_cloud_dagster.domain.market.orders import Order, Trade
from energy_cloud_dagster.domain.settlement.batches import batch_id
from energy_cloud_dagster.domain.settlement.settle import SettledTrade, Settlement

FORMAT: Final = "energy-cloud-evidence"
VERSION: Final = 1
STEPS: Final = ("readings", "validated", "forecast", "plan", "orders", "clearing", "trade", "settlement")


@dataclass(frozen=True, slots=True)
class BatchRef:
    """The settlement batch that a document belongs to; it rests on the readings received up to ``known_at``."""

    batch_id: str
    market_id: str
    delivery_start: datetime
    revision: int
    known_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class EvidenceDocument:
    """What is proved of one settled trade. ``steps`` maps each name in ``STEPS`` to 64 hex digits."""

    trade: Trade
    settled: SettledTrade
    batch: BatchRef
    steps: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the document as stored in jsonb and shown by the API: camelCase, times as RFC 3339."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "trade": as_json(self.trade),
            "settled": as_json(self.settled),
            "batch": as_json(self.batch),
            "steps": {name: self.steps[name] for name in STEPS},
        }


class SealedTrade(NamedTuple):
    """One row of evidence, as the table has it."""

    trade_id: str
    leaf_index: int
    document: dict[str, Any]
    leaf: str
    proof: list[str]


class Sealed(NamedTuple):
    """The evidence of one batch: the Merkle root to anchor (``0x`` + 64 hex) and its leaves by index."""

    batch: BatchRef
    merkle_root: str
    rows: tuple[SealedTrade, ...]


def make_batch(market_id: str, delivery: datetime, revision: int = 0, known_at: datetime | None = None) -> BatchRef:
    """Return the batch of one delivery hour; revision 0 is its first settlement."""
    return BatchRef(batch_id(market_id, delivery, revision), market_id, delivery, revision, known_at)


def subjects_digest(salted: Mapping[str, str]) -> str:
    """Return the digest over both parties' salted digests, by participant id.

    The parts are ``canonical.salted_rows_digest`` of each party's rows. A part can be kept where its salt was erased:
    the other party's rows then still verify.
    """
    return canonical.digest(salted)


def orders_digest(market_id: str, delivery: datetime, orders: Iterable[Order | tuple[Any, ...]]) -> str:
    """Return the digest of a book, in any order; a tuple has the fields of ``Order`` in their order."""
    stamp = rfc3339(delivery)
    rows = (dataclasses.astuple(order) if isinstance(order, Order) else tuple(order) for order in orders)
    return canonical.rows_digest((market_id, stamp, *row) for row in rows)


def clearing_digest(clearing: Clearing, import_price_micro: int, export_price_micro: int) -> str:
    """Return the digest of an auction's result and the outside prices of its hour (micro units per kWh)."""
    return canonical.digest(
        {
            "price": clearing.price_micro,
            "volume": clearing.volume_wh,
            "fills": clearing.fills,
            "trades": sorted(trade_digest(trade) for trade in clearing.trades),
            "importPrice": import_price_micro,
            "exportPrice": export_price_micro,
        }
    )


def trade_digest(trade: Trade) -> str:
    """Return the digest of one trade, all its fields."""
    return canonical.digest(as_json(trade))


def settlement_digest(settlement: Settlement) -> str:
    """Return the digest of an hour's positions and settled trades, in any order."""
    positions = canonical.rows_digest(dataclasses.astuple(row) for row in settlement.positions)
    trades = canonical.rows_digest(dataclasses.astuple(row) for row in settlement.trades)
    return canonical.digest([positions, trades])


def as_json(row: Trade | SettledTrade | BatchRef) -> dict[str, Any]:
    """Return a row with camelCase names and RFC 3339 times, as it stands in a document."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(row):
        head, *rest = field.name.split("_")
        value = getattr(row, field.name)
        found[head + "".join(word.capitalize() for word in rest)] = (
            rfc3339(value) if isinstance(value, datetime) else value
        )
    return found


def leaf_hash(document: EvidenceDocument | Mapping[str, Any]) -> bytes:
    """Return the leaf hash (32 bytes) of a document or of its stored JSON form."""
    content = document.to_json() if isinstance(document, EvidenceDocument) else document
    return merkle.leaf_hash(canonical.encode(content))


def build_documents(
    batch: BatchRef,
    clearing: Clearing,
    settlement: Settlement,
    *,
    import_price_micro: int,
    export_price_micro: int,
    orders: Iterable[Order],
    shared: Mapping[str, str],
    readings: Mapping[str, str],
) -> list[EvidenceDocument]:
    """Return the documents of a batch, one for each trade, by trade id.

    ``shared`` holds the digests of ``validated``, ``forecast`` and ``plan``; ``readings`` the salted digest of each
    participant's raw rows. A missing one raises ``InvalidInput``: evidence is complete or not made.
    """
    settled = {row.trade_id: row for row in settlement.trades}
    common = {
        **shared,
        "orders": orders_digest(batch.market_id, batch.delivery_start, orders),
        "clearing": clearing_digest(clearing, import_price_micro, export_price_micro),
        "settlement": settlement_digest(settlement),
    }
    documents = []
    for trade in sorted(clearing.trades, key=lambda one: one.trade_id):
        parties = sorted((trade.buyer_id, trade.seller_id))
        missing = [step for step in STEPS if step not in common and step not in ("readings", "trade")]
        missing += [f"readings of {party}" for party in parties if party not in readings]
        if trade.trade_id not in settled:
            missing.append("settled trade")
        if missing:
            raise InvalidInput(f"no evidence for trade {trade.trade_id} without {', '.join(missing)}")
        steps = common | {
            "readings": subjects_digest({party: readings[party] for party in parties}),
            "trade": trade_digest(trade),
        }
        documents.append(EvidenceDocument(trade, settled[trade.trade_id], batch, steps))
    return documents


def seal(batch: BatchRef, settlement: Settlement, documents: Sequence[EvidenceDocument]) -> Sealed:
    """Return the root and the rows of evidence of a batch; leaves are in order of trade id.

    An hour without trades has positions all the same: its tree has one leaf, which names batch and settlement.
    """
    ordered = sorted(documents, key=lambda document: document.trade.trade_id)
    leaves = [leaf_hash(document) for document in ordered] or [_statement(batch, settlement_digest(settlement))]
    paths = merkle.proofs(leaves)
    rows = tuple(
        SealedTrade(
            trade_id=document.trade.trade_id,
            leaf_index=index,
            document=document.to_json(),
            leaf=merkle.to_hex(leaves[index]),
            proof=[merkle.to_hex(sibling) for sibling in paths[index]],
        )
        for index, document in enumerate(ordered)
    )
    return Sealed(batch, merkle.to_hex(merkle.root(leaves)), rows)


def empty_batch_root(batch: BatchRef, settlement: Settlement) -> str:
    """Return the root of a batch without trades, as ``seal`` makes it."""
    return merkle.to_hex(_statement(batch, settlement_digest(settlement)))


def _statement(batch: BatchRef, digest: str) -> bytes:
    return merkle.leaf_hash(
        canonical.encode({"format": FORMAT, "version": VERSION, "batch": as_json(batch), "settlement": digest})
    )
