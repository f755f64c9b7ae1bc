"""Verification of one trade's evidence: what is stored, what was computed anew, and what the chain says, compared.

Pure: an adapter gathers the rows. Every step is judged on its own rows, so the first failing step names what was
changed: the auction is run again from the orders, the settlement from the auction's trades (not from the table of
trades), and the proof is checked from the document to the anchored root (not through the stored leaf).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from energy_cloud_dagster.domain.audit import evidence, merkle
from energy_cloud_dagster.domain.errors import EvidenceBroken, InvalidInput
from energy_cloud_dagster.domain.market.auction import Clearing, clear
from energy_cloud_dagster.domain.market.orders import Order, Trade
from energy_cloud_dagster.domain.settlement.settle import GRID, Settlement, imbalance_prices, settle

#: All steps, in the order in which a kilowatt-hour passed them.
VERIFIED_STEPS: Final = (*evidence.STEPS, "leaf", "proof", "root", "transaction")


@dataclass(frozen=True, slots=True)
class StoredEvidence:
    """The rows of ``audit.evidence`` and ``settlement.batch`` for one trade; hex with ``0x`` as in the tables."""

    document: Mapping[str, Any]
    leaf_index: int
    leaf: str
    proof: Sequence[str]
    batch: evidence.BatchRef
    merkle_root: str
    trades: int
    settlement_digest: str
    tx_hash: str | None
    block_number: int | None


@dataclass(frozen=True, slots=True)
class RecordedClearing:
    """The row of ``market.clearing`` and ``filled_wh`` of every row of ``market.order``, by order id."""

    price_micro: int | None
    volume_wh: int
    import_price_micro: int
    export_price_micro: int
    fills: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Recomputed:
    """What the database gives today.

    ``digests`` holds ``readings``, ``validated``, ``forecast`` and ``plan``, computed anew from their rows (absent or
    None: the rows or a salt are gone). ``orders`` are tuples with the fields of ``Order`` in their order, unchecked.
    ``trade`` is the row of ``market.trade``; ``settlement`` the rows of ``settlement.position`` and
    ``settlement.trade``; ``leaves`` the leaves of the whole batch by index.
    """

    digests: Mapping[str, str | None]
    orders: Sequence[tuple[Any, ...]]
    clearing: RecordedClearing | None
    trade: Trade | None
    schedule_wh: Mapping[str, int]
    metered_wh: Mapping[str, int]
    settlement: Settlement
    leaves: Sequence[str]
    grid_id: str = GRID


@dataclass(frozen=True, slots=True)
class OnChain:
    """What the contract and the receipt say. ``merkle_root`` is None where the contract does not know the batch.

    ``deltas`` maps participant ids to (energy in Wh, money in micro units) as booked by the transaction's events; None
    where they were not read.
    """

    merkle_root: str | None
    tx_hash: str | None
    block_number: int | None
    succeeded: bool
    deltas: Mapping[str, tuple[int, int]] | None = field(default=None)


class StepResult(NamedTuple):
    """The verdict on one step: ``expected`` is what was promised, ``actual`` what was found."""

    step: str
    ok: bool
    expected: str
    actual: str
    detail: str


def verify_trade(stored: StoredEvidence, recomputed: Recomputed, on_chain: OnChain | None) -> list[StepResult]:
    """Return the verdict on every step in ``VERIFIED_STEPS``, in that order; never raises on bad content.

    ``on_chain`` None means that the chain was not asked or did not answer: the transaction is then not proved.
    """
    case = _Case(stored, recomputed, on_chain)
    judges: dict[str, Callable[[], StepResult]] = {
        "orders": case.orders,
        "clearing": case.clearing,
        "trade": case.trade,
        "settlement": case.settlement,
        "leaf": case.leaf,
        "proof": case.proof,
        "root": case.root,
        "transaction": case.transaction,
    }
    results = []
    for step in VERIFIED_STEPS:
        try:
            results.append(judges[step]() if step in judges else case.rows(step))
        except InvalidInput as error:
            results.append(StepResult(step, ok=False, expected=case.promised(step), actual="", detail=str(error)))
    return results


def require(results: Sequence[StepResult]) -> None:
    """Raise ``EvidenceBroken`` for the first step that does not hold."""
    for result in results:
        if not result.ok:
            raise EvidenceBroken(result.step, f"{result.step}: {result.detail}")


class _Case:
    """One trade under verification."""

    def __init__(self, stored: StoredEvidence, recomputed: Recomputed, on_chain: OnChain | None) -> None:
        self.stored = stored
        self.now = recomputed
        self.chain = on_chain
        self.batch = stored.batch

    def promised(self, step: str) -> str:
        """Return the digest that the document names for ``step``, empty where it has none."""
        steps = self.stored.document.get("steps")
        return str(steps.get(step, "")) if isinstance(steps, Mapping) else ""

    def rows(self, step: str) -> StepResult:
        actual = self.now.digests.get(step)
        if actual is None:
            return _judge(step, self.promised(step), "", {"the rows or the salt that it was made from are gone": True})
        return _judge(step, self.promised(step), actual)

    def orders(self) -> StepResult:
        actual = evidence.orders_digest(self.batch.market_id, self.batch.delivery_start, self.now.orders)
        return _judge("orders", self.promised("orders"), actual)

    def clearing(self) -> StepResult:
        recorded = self.now.clearing
        if recorded is None:
            return _judge("clearing", self.promised("clearing"), "", {"the row of the clearing is gone": True})
        again = self._auction()
        actual = evidence.clearing_digest(again, recorded.import_price_micro, recorded.export_price_micro)
        faults = {
            f"recorded price {recorded.price_micro}, the auction gives {again.price_micro}": (
                recorded.price_micro != again.price_micro
            ),
            f"recorded volume {recorded.volume_wh} Wh, the auction gives {again.volume_wh} Wh": (
                recorded.volume_wh != again.volume_wh
            ),
            "the recorded fills of the orders are not the auction's": dict(recorded.fills) != again.fills,
        }
        return _judge("clearing", self.promised("clearing"), actual, faults)

    def trade(self) -> StepResult:
        if self.now.trade is None:
            return _judge("trade", self.promised("trade"), "", {"the row of the trade is gone": True})
        actual = evidence.trade_digest(self.now.trade)
        document = self.stored.document.get("trade")
        faults = {"the document speaks of another trade": evidence.as_json(self.now.trade) != document}
        return _judge("trade", self.promised("trade"), actual, faults)

    def settlement(self) -> StepResult:
        recorded = self.now.clearing
        if recorded is None:
            return _judge("settlement", self.promised("settlement"), "", {"the prices of the hour are gone": True})
        prices = imbalance_prices(recorded.import_price_micro, recorded.export_price_micro)
        again = settle(
            self._auction().trades, self.now.schedule_wh, self.now.metered_wh, prices, grid_id=self.now.grid_id
        )
        actual = evidence.settlement_digest(again)
        document = self.stored.document.get("settled")
        mine = [evidence.as_json(row) for row in again.trades]
        faults = {
            "the recorded positions and deliveries are not those that the meters give": (
                evidence.settlement_digest(self.now.settlement) != actual
            ),
            "the digest in the batch's row differs": self.stored.settlement_digest != actual,
            "the document's delivery is not among those that the meters give": document not in mine,
        }
        return _judge("settlement", self.promised("settlement"), actual, faults)

    def leaf(self) -> StepResult:
        document = self.stored.document
        faults = {
            "the document names another batch": document.get("batch") != evidence.as_json(self.batch),
            "the batch's id does not follow from its market, hour and revision": self.batch
            != evidence.make_batch(
                self.batch.market_id, self.batch.delivery_start, self.batch.revision, self.batch.known_at
            ),
            f"the format is not {evidence.FORMAT} {evidence.VERSION}": (
                (document.get("format"), document.get("version")) != (evidence.FORMAT, evidence.VERSION)
            ),
        }
        return _judge("leaf", self.stored.leaf, merkle.to_hex(evidence.leaf_hash(document)), faults)

    def proof(self) -> StepResult:
        leaf = evidence.leaf_hash(self.stored.document)
        # The chain is the anchor; without it the leaves of the batch are the next best.
        anchored = self.chain.merkle_root if self.chain else None
        anchor = merkle.from_hex(anchored) if anchored else self._root_of_leaves()
        path = [merkle.from_hex(sibling) for sibling in self.stored.proof]
        holds = merkle.verify(leaf, self.stored.leaf_index, len(self.now.leaves), path, anchor)
        return StepResult(
            "proof",
            holds,
            merkle.to_hex(anchor),
            merkle.to_hex(anchor) if holds else "",
            f"{len(path)} hashes from leaf {self.stored.leaf_index} of {len(self.now.leaves)}"
            + ("" if holds else " do not lead to the root"),
        )

    def root(self) -> StepResult:
        actual = merkle.to_hex(self._root_of_leaves())
        faults = {
            f"the batch says {self.stored.trades} trades, there are {len(self.now.leaves)} leaves": (
                self.stored.trades != len(self.now.leaves)
            )
        }
        if self.chain is not None:
            root = self.chain.merkle_root
            faults["the contract does not know the batch"] = root is None
            faults[f"the contract has anchored {root}"] = root is not None and root != actual
        return _judge("root", self.stored.merkle_root, actual, faults)

    def transaction(self) -> StepResult:
        expected = self.stored.tx_hash or ""
        if self.chain is None:
            return _judge("transaction", expected, "", {"the chain was not asked or did not answer": True})
        chain = self.chain
        faults = {
            "the batch has no transaction": not self.stored.tx_hash,
            "the transaction failed or is not known": not chain.succeeded,
            f"it lies in block {chain.block_number}, recorded is {self.stored.block_number}": (
                chain.block_number != self.stored.block_number
            ),
        }
        if chain.deltas is not None:
            owed = {row.participant_id: (row.energy_wh, row.net_micro) for row in self.now.settlement.positions}
            booked = dict(chain.deltas)
            wrong = sorted(one for one in owed | booked if owed.get(one, (0, 0)) != booked.get(one, (0, 0)))
            faults[f"it booked other amounts for {', '.join(wrong)}"] = bool(wrong)
        return _judge("transaction", expected, chain.tx_hash or "", faults)

    def _auction(self) -> Clearing:
        try:
            orders = [Order(*row) for row in self.now.orders]
        except TypeError as error:
            raise InvalidInput(f"a row of the book is no order: {error}") from error
        return clear(orders, self.batch.market_id, self.batch.delivery_start)

    def _root_of_leaves(self) -> bytes:
        return merkle.root([merkle.from_hex(leaf) for leaf in self.now.leaves])


def _judge(step: str, expected: str, actual: str, faults: Mapping[str, bool] | None = None) -> StepResult:
    """Return the verdict: ok when both texts agree and are not empty and no fault is true."""
    found = [fault for fault, present in (faults or {}).items() if present]
    if not found and expected != actual:
        found = ["what is stored no longer gives the digest that was anchored"]
    ok = not found and bool(expected)
    return StepResult(step, ok, expected, actual, "; ".join(found) or ("holds" if ok else "nothing was promised"))
