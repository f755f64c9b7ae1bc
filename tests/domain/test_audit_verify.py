"""The whole proof of one hour, and which step speaks up when one thing is changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import astuple, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from energy_cloud_dagster.domain.audit import evidence, merkle
from energy_cloud_dagster.domain.audit.canonical import rows_digest, salted_rows_digest
from energy_cloud_dagster.domain.audit.verify import (
    VERIFIED_STEPS,
    OnChain,
    Recomputed,
    RecordedClearing,
    StepResult,
    StoredEvidence,
    require,
    verify_trade,
)
from energy_cloud_dagster.domain.errors import EvidenceBroken, InvalidInput
from energy_cloud_dagster.domain.market.auction import Clearing, clear
from energy_cloud_dagster.domain.market.offers import prosumer_order, vpp_orders
from energy_cloud_dagster.domain.market.orders import Order
from energy_cloud_dagster.domain.settlement.settle import Settlement, imbalance_prices, settle

MARKET = "KRW-KWH"
DELIVERY = datetime(2026, 3, 2, 5, tzinfo=UTC)
GATE = DELIVERY - timedelta(minutes=55)
IMPORT, EXPORT = 180_000_000, 60_000_000
HOMES = [f"HOME-{i:02}" for i in range(1, 7)]
SALTS = {one: bytes([i]) * 16 for i, one in enumerate([*HOMES, "VPP-001"])}
#: Net injection of the hour in kWh: forecast at the gate, and measured.
FORECAST = {"HOME-01": -1.2, "HOME-02": 0.9, "HOME-03": -0.7, "HOME-04": 1.4, "HOME-05": -2.0, "HOME-06": 0.3}
METERED_WH = {
    "HOME-01": -1_100, "HOME-02": 850, "HOME-03": -900, "HOME-04": 1_500,
    "HOME-05": -1_950, "HOME-06": -50, "VPP-001": 30_800,
}  # fmt: skip
SCHEDULE_WH = {"VPP-001": 30_000}


@dataclass
class Hour:
    orders: list[Order]
    clearing: Clearing
    settlement: Settlement
    batch: evidence.BatchRef
    sealed: evidence.Sealed
    digests: dict[str, dict[str, str]]
    """By trade id: what an adapter would compute anew from the rows."""


def readings_of(participant: str, value: float = 0.25) -> list[tuple[Any, ...]]:
    return [(f"SM-{participant}", "consumption", DELIVERY, 1, value, "high", DELIVERY + timedelta(hours=1), "mqtt")]


@pytest.fixture(scope="module")
def hour() -> Hour:
    prices = {"import_price_micro": IMPORT, "export_price_micro": EXPORT}
    where = {"placed_at": GATE, "market_id": MARKET, "delivery": DELIVERY}
    planned = [prosumer_order(one, max(0, -net), max(0, net), **prices, **where) for one, net in FORECAST.items()]
    orders = [one for one in planned if one is not None]
    orders += vpp_orders("VPP-001", **prices, **where, exported_kwh=1.0, grid_headroom_kwh=50.0)
    clearing = clear(orders, MARKET, DELIVERY)
    settlement = settle(clearing.trades, SCHEDULE_WH, METERED_WH, imbalance_prices(IMPORT, EXPORT))
    batch = evidence.make_batch(MARKET, DELIVERY)
    shared = {
        "validated": rows_digest([(1, DELIVERY, 1, 0.25)]),
        "forecast": rows_digest([("site/HOME-01/load", GATE, DELIVERY, 1.2)]),
        "plan": rows_digest([("VPP-001", GATE, 30.0)]),
    }
    salted = {one: salted_rows_digest(SALTS[one], readings_of(one)) for one in METERED_WH}
    documents = evidence.build_documents(
        batch, clearing, settlement, **prices, orders=orders, shared=shared, readings=salted
    )
    sealed = evidence.seal(batch, settlement, documents)
    digests = {
        trade.trade_id: shared
        | {"readings": evidence.subjects_digest({one: salted[one] for one in (trade.buyer_id, trade.seller_id)})}
        for trade in clearing.trades
    }
    return Hour(orders, clearing, settlement, batch, sealed, digests)


def gathered(hour: Hour, index: int = 0) -> tuple[StoredEvidence, Recomputed, OnChain]:
    """What an adapter would hand over for the trade at leaf ``index``."""
    row = hour.sealed.rows[index]
    stored = StoredEvidence(
        document=deepcopy(row.document),
        leaf_index=row.leaf_index,
        leaf=row.leaf,
        proof=list(row.proof),
        batch=hour.batch,
        merkle_root=hour.sealed.merkle_root,
        trades=len(hour.sealed.rows),
        settlement_digest=evidence.settlement_digest(hour.settlement),
        tx_hash="0x" + "ab" * 32,
        block_number=7,
    )
    now = Recomputed(
        digests=dict(hour.digests[row.trade_id]),
        orders=[astuple(one) for one in hour.orders],
        clearing=RecordedClearing(
            hour.clearing.price_micro, hour.clearing.volume_wh, IMPORT, EXPORT, dict(hour.clearing.fills)
        ),
        trade=next(one for one in hour.clearing.trades if one.trade_id == row.trade_id),
        schedule_wh=SCHEDULE_WH,
        metered_wh=METERED_WH,
        settlement=hour.settlement,
        leaves=[one.leaf for one in hour.sealed.rows],
    )
    deltas = {one.participant_id: (one.energy_wh, one.net_micro) for one in hour.settlement.positions}
    return stored, now, OnChain(hour.sealed.merkle_root, "0x" + "ab" * 32, 7, succeeded=True, deltas=deltas)


def failed(results: list[StepResult]) -> list[str]:
    assert [one.step for one in results] == list(VERIFIED_STEPS)
    return [one.step for one in results if not one.ok]


def test_every_trade_of_the_hour_is_proved(hour: Hour) -> None:
    assert len(hour.sealed.rows) >= 4
    for index in range(len(hour.sealed.rows)):
        results = verify_trade(*gathered(hour, index))
        assert failed(results) == [], results
        require(results)


Change = Callable[[StoredEvidence, Recomputed, OnChain], tuple[StoredEvidence, Recomputed, OnChain | None]]


def _document(stored: StoredEvidence, path: tuple[str, ...], value: object) -> StoredEvidence:
    document: dict[str, Any] = deepcopy(dict(stored.document))
    place = document
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return replace(stored, document=document)


def _first(rows: tuple[Any, ...], **change: Any) -> tuple[Any, ...]:
    return (replace(rows[0], **change), *rows[1:])


def _flip(text: str) -> str:
    return text[:-1] + ("0" if text[-1] != "0" else "1")


CHANGES: dict[str, tuple[str, Change]] = {
    "a reading": (
        "readings",
        lambda s, r, c: (s, replace(r, digests={**r.digests, "readings": rows_digest([(1,)])}), c),
    ),
    "an erased salt": ("readings", lambda s, r, c: (s, replace(r, digests={**r.digests, "readings": None}), c)),
    "a validated row": ("validated", lambda s, r, c: (s, replace(r, digests={**r.digests, "validated": "0" * 64}), c)),
    "a forecast": ("forecast", lambda s, r, c: (s, replace(r, digests={**r.digests, "forecast": "0" * 64}), c)),
    "a plan": ("plan", lambda s, r, c: (s, replace(r, digests={**r.digests, "plan": "0" * 64}), c)),
    "an order": (
        "orders",
        lambda s, r, c: (
            s,
            replace(r, orders=[(*r.orders[0][:4], r.orders[0][4] + 1, r.orders[0][5]), *r.orders[1:]]),
            c,
        ),
    ),
    "an impossible order": (
        "orders",
        lambda s, r, c: (s, replace(r, orders=[(*r.orders[0][:3], 0, *r.orders[0][4:]), *r.orders[1:]]), c),
    ),
    "a row that is no order": ("orders", lambda s, r, c: (s, replace(r, orders=[("x",), *r.orders]), c)),
    "the clearing price": ("clearing", lambda s, r, c: (s, replace(r, clearing=replace(r.clearing, price_micro=1)), c)),
    "the volume": ("clearing", lambda s, r, c: (s, replace(r, clearing=replace(r.clearing, volume_wh=1)), c)),
    "a fill": ("clearing", lambda s, r, c: (s, replace(r, clearing=replace(r.clearing, fills={})), c)),
    "the tariff": (
        "clearing",
        lambda s, r, c: (s, replace(r, clearing=replace(r.clearing, import_price_micro=IMPORT + 1)), c),
    ),
    "no clearing": ("clearing", lambda s, r, c: (s, replace(r, clearing=None), c)),
    "the trade's row": (
        "trade",
        lambda s, r, c: (s, replace(r, trade=replace(r.trade, quantity_wh=r.trade.quantity_wh + 1)), c),
    ),
    "no trade": ("trade", lambda s, r, c: (s, replace(r, trade=None), c)),
    "the document's trade": ("trade", lambda s, r, c: (_document(s, ("trade", "buyerId"), "HOME-99"), r, c)),
    "a meter": ("settlement", lambda s, r, c: (s, replace(r, metered_wh={**r.metered_wh, "HOME-01": 0}), c)),
    "no meter": ("settlement", lambda s, r, c: (s, replace(r, metered_wh={}), c)),
    "a position": (
        "settlement",
        lambda s, r, c: (
            s,
            replace(r, settlement=replace(r.settlement, positions=_first(r.settlement.positions, scheduled_wh=5))),
            c,
        ),
    ),
    "a settled trade": (
        "settlement",
        lambda s, r, c: (
            s,
            replace(r, settlement=replace(r.settlement, trades=_first(r.settlement.trades, delivered_wh=-5))),
            c,
        ),
    ),
    "the batch's digest": ("settlement", lambda s, r, c: (replace(s, settlement_digest="0" * 64), r, c)),
    "the document's delivery": ("settlement", lambda s, r, c: (_document(s, ("settled", "deliveredWh"), 1), r, c)),
    "a digest in the document": ("plan", lambda s, r, c: (_document(s, ("steps", "plan"), "0" * 64), r, c)),
    "no digests at all": ("readings", lambda s, r, c: (_document(s, ("steps",), None), r, c)),
    "a word in the document": ("leaf", lambda s, r, c: (_document(s, ("note",), "x"), r, c)),
    "the document's batch": ("leaf", lambda s, r, c: (_document(s, ("batch", "revision"), 1), r, c)),
    "the document's version": ("leaf", lambda s, r, c: (_document(s, ("version",), 2), r, c)),
    "a number that has no form": ("leaf", lambda s, r, c: (_document(s, ("note",), float("nan")), r, c)),
    "the stored leaf": ("leaf", lambda s, r, c: (replace(s, leaf=_flip(s.leaf)), r, c)),
    "the batch's id": ("leaf", lambda s, r, c: (replace(s, batch=replace(s.batch, batch_id="0x" + "0" * 64)), r, c)),
    "a proof": ("proof", lambda s, r, c: (replace(s, proof=[_flip(s.proof[0]), *s.proof[1:]]), r, c)),
    "the case of a proof": ("proof", lambda s, r, c: (replace(s, proof=[s.proof[0].upper(), *s.proof[1:]]), r, c)),
    "the index": ("proof", lambda s, r, c: (replace(s, leaf_index=1), r, c)),
    "the stored root": ("root", lambda s, r, c: (replace(s, merkle_root=_flip(s.merkle_root)), r, c)),
    "another trade's leaf": ("root", lambda s, r, c: (s, replace(r, leaves=[*r.leaves[:-1], _flip(r.leaves[-1])]), c)),
    "the number of trades": ("root", lambda s, r, c: (replace(s, trades=99), r, c)),
    "a batch that is not on the chain": ("root", lambda s, r, c: (s, r, replace(c, merkle_root=None))),
    "another root on the chain": ("proof", lambda s, r, c: (s, r, replace(c, merkle_root="0x" + "1" * 64))),
    "another transaction": ("transaction", lambda s, r, c: (s, r, replace(c, tx_hash="0x" + "cd" * 32))),
    "a failed transaction": ("transaction", lambda s, r, c: (s, r, replace(c, succeeded=False))),
    "no transaction": ("transaction", lambda s, r, c: (replace(s, tx_hash=None), r, replace(c, tx_hash=None))),
    "another block": ("transaction", lambda s, r, c: (replace(s, block_number=8), r, c)),
    "other amounts": ("transaction", lambda s, r, c: (s, r, replace(c, deltas={**c.deltas, "HOME-01": (0, 0)}))),
    "no chain": ("transaction", lambda s, r, _c: (s, r, None)),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_the_first_failing_step_names_the_change(hour: Hour, name: str) -> None:
    step, change = CHANGES[name]
    results = verify_trade(*change(*gathered(hour)))
    assert failed(results)[0] == step, results
    verdict = next(one for one in results if one.step == step)
    assert verdict.detail not in {"", "holds"}
    with pytest.raises(EvidenceBroken, match=step) as broken:
        require(results)
    assert broken.value.step == step


@pytest.mark.parametrize(
    "name", ["a reading", "the trade's row", "a proof", "the stored leaf", "the stored root", "other amounts"]
)
def test_a_change_of_one_row_fails_its_own_step_only(hour: Hour, name: str) -> None:
    step, change = CHANGES[name]
    assert failed(verify_trade(*change(*gathered(hour)))) == [step]


def test_without_deltas_and_after_a_round_trip_of_the_document_it_still_holds(hour: Hour) -> None:
    stored, now, chain = gathered(hour)
    shuffled = replace(now, orders=list(reversed(now.orders)))
    backwards = replace(stored, document=json.loads(json.dumps(dict(reversed(stored.document.items())))))
    assert failed(verify_trade(backwards, shuffled, replace(chain, deltas=None))) == []


def test_a_document_is_complete_or_not_made(hour: Hour) -> None:
    arguments: dict[str, Any] = {"import_price_micro": IMPORT, "export_price_micro": EXPORT, "orders": hour.orders}
    nothing = Settlement(hour.settlement.positions, ())
    with pytest.raises(InvalidInput, match=r"without validated, plan, readings of .*, settled trade"):
        evidence.build_documents(
            hour.batch, hour.clearing, nothing, **arguments, shared={"forecast": "0" * 64}, readings={}
        )


def test_an_hour_without_trades_is_anchored_too(hour: Hour) -> None:
    quiet = settle([], SCHEDULE_WH, METERED_WH, imbalance_prices(IMPORT, EXPORT))
    sealed = evidence.seal(hour.batch, quiet, [])
    assert sealed.rows == ()
    assert sealed.merkle_root == evidence.empty_batch_root(hour.batch, quiet)
    assert len(merkle.from_hex(sealed.merkle_root)) == 32
    other = settle([], SCHEDULE_WH, {**METERED_WH, "HOME-01": 0}, imbalance_prices(IMPORT, EXPORT))
    assert evidence.empty_batch_root(hour.batch, other) != sealed.merkle_root


def test_readings_are_salted_by_subject() -> None:
    same = readings_of("HOME-01")
    one = evidence.subjects_digest({"HOME-01": salted_rows_digest(SALTS["HOME-01"], same)})
    assert one != evidence.subjects_digest({"HOME-01": salted_rows_digest(SALTS["HOME-02"], same)})
    changed = readings_of("HOME-01", 0.25000000000000006)
    assert one != evidence.subjects_digest({"HOME-01": salted_rows_digest(SALTS["HOME-01"], changed)})
