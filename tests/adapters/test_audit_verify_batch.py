"""One byte changed anywhere on the way from meter to chain, and the proof names the step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from energy_cloud_dagster.adapters import audit, settlements
from energy_cloud_dagster.domain.audit.verify import VERIFIED_STEPS
from energy_cloud_dagster.domain.errors import NotFound

if TYPE_CHECKING:
    from energy_cloud_dagster.adapters.chain import ChainClient
    from energy_cloud_dagster.adapters.settlements import BatchRow
    from tests.conftest import Pipeline

_METER = """(select s.series_id from registry.series s join registry.device d using (device_id)
    where d.participant_id = :buyer and s.role = 'load')"""
_OWN = "batch_id = :batch and trade_id = :trade"
_BID = "delivery_start = :delivery and participant_id = :buyer"
_PLANNED = "issued_at = :gate and ts = :delivery"
#: What is changed (a statement over :batch, :trade, :buyer, :delivery and :gate), and the first step that must fail.
CHANGES = {
    "a raw reading": (
        f"update raw.reading set value = value + 0.001 where ts = :delivery and series_id = {_METER}",
        "readings",
    ),
    "when a raw reading arrived": (
        f"""update raw.reading set received_at = received_at - interval '1 second'
            where ts = :delivery and series_id = {_METER}""",
        "readings",
    ),
    "the salt of a participant": (
        "update registry.participant set salt = null where participant_id = :buyer",
        "readings",
    ),
    "a validated reading": (
        f"update validated.reading set quality = 'medium' where ts = :delivery and series_id = {_METER}",
        "validated",
    ),
    "a forecast point": (
        f"update forecast.point set p50 = p50 + 0.001 where series_key = 'site/' || :buyer || '/load' and {_PLANNED}",
        "forecast",
    ),
    "a setpoint": (
        f"update dispatch.setpoint set output_kw = output_kw + 0.001 where type = 'wind' and {_PLANNED}",
        "plan",
    ),
    "a plan's problem": (
        "update dispatch.plan set problem = jsonb_set(problem, '{stepMinutes}', '61') where issued_at = :gate",
        "plan",
    ),
    "an order's price": (f'update market."order" set price_micro = price_micro + 1 where {_BID}', "orders"),
    "an order's fill": (f'update market."order" set filled_wh = filled_wh - 1 where {_BID}', "clearing"),
    "the clearing price": (
        "update market.clearing set price_micro = price_micro + 1 where delivery_start = :delivery",
        "clearing",
    ),
    "no clearing": ("delete from market.clearing where delivery_start = :delivery", "clearing"),
    "a trade": ("update market.trade set quantity_wh = quantity_wh + 1 where trade_id = :trade", "trade"),
    "no trade": ("delete from market.trade where trade_id = :trade", "trade"),
    "a position": (
        "update settlement.position set net_micro = net_micro + 1 where batch_id = :batch and participant_id = :buyer",
        "settlement",
    ),
    "a delivery": (f"update settlement.trade set delivered_wh = delivered_wh - 1 where {_OWN}", "settlement"),
    "a document": (
        f"update audit.evidence set document = jsonb_set(document, '{{version}}', '2') where {_OWN}",
        "leaf",
    ),
    "a leaf": (f"update audit.evidence set leaf = overlay(leaf placing 'ff' from 10) where {_OWN}", "leaf"),
    "a proof": (
        f"update audit.evidence set proof = jsonb_set(proof, '{{0}}', to_jsonb('0x' || repeat('ab', 32))) where {_OWN}",
        "proof",
    ),
    "the root": ("update settlement.batch set merkle_root = overlay(merkle_root placing 'ff' from 10)", "root"),
    "the transaction": ("update settlement.batch set block_number = block_number + 1", "transaction"),
}


@pytest.fixture
def busy(pipeline: Pipeline) -> Iterator[tuple[sa.Connection, BatchRow, ChainClient]]:
    """A connection that is rolled back, the batch of the delivery with most trades, and the chain that holds it."""
    from energy_cloud_dagster.resources import Chain, Database
    from energy_cloud_dagster.resources.database import _engine

    with _engine(Database().resolved_url).connect() as connection, connection.begin() as transaction:
        batches = [settlements.batch_of_hour(connection, "KRW-KWH", hour) for hour in pipeline.settled]
        batch = max((one for one in batches if one), key=lambda one: one.trades)
        yield connection, batch, Chain().client(batch.contract)
        transaction.rollback()


def _trade(connection: sa.Connection, batch: BatchRow) -> dict[str, Any]:
    from energy_cloud_dagster.domain.intervals import gate_closure

    row = connection.execute(
        sa.text(
            "select trade_id, buyer_id from market.trade where delivery_start = :hour and buyer_id like 'HOME%' limit 1"
        ),
        {"hour": batch.delivery_start},
    ).one()
    return {
        "batch": batch.batch_id,
        "trade": row.trade_id,
        "buyer": row.buyer_id,
        "delivery": batch.delivery_start,
        "gate": gate_closure(batch.delivery_start),
    }


def test_every_trade_holds(busy: tuple[sa.Connection, BatchRow, ChainClient]) -> None:
    connection, batch, chain = busy
    verdicts = audit.verify_batch(connection, batch.batch_id, chain)
    assert len(verdicts) == batch.trades
    for steps in verdicts.values():
        assert tuple(step.step for step in steps) == VERIFIED_STEPS
        assert [step for step in steps if not step.ok] == []


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_byte_fails_at_its_step(what: str, busy: tuple[sa.Connection, BatchRow, ChainClient]) -> None:
    connection, batch, chain = busy
    about = _trade(connection, batch)
    statement, expected = CHANGES[what]
    named = {name: value for name, value in about.items() if f":{name}" in statement}
    changed = connection.execute(sa.text(statement), named)
    assert changed.rowcount >= 1

    steps = audit.verify_batch(connection, batch.batch_id, chain, [about["trade"]])[about["trade"]]

    first = next((step for step in steps if not step.ok), None)
    assert first is not None, f"{what} was changed and nothing noticed"
    assert first.step == expected
    assert first.detail


def test_without_a_chain_only_the_transaction_is_unproved(busy: tuple[sa.Connection, BatchRow, ChainClient]) -> None:
    from energy_cloud_dagster.adapters.chain import ChainClient

    connection, batch, chain = busy
    trade = _trade(connection, batch)["trade"]
    nobody = ChainClient("http://127.0.0.1:9", chain._key, batch.contract)
    for asked in (None, nobody):
        steps = audit.verify_batch(connection, batch.batch_id, asked, [trade])[trade]
        assert [step.step for step in steps if not step.ok] == ["transaction"]


def test_an_unknown_batch_is_not_found(busy: tuple[sa.Connection, BatchRow, ChainClient]) -> None:
    connection, _, chain = busy
    with pytest.raises(NotFound, match="0xdead"):
        audit.verify_batch(connection, "0xdead", chain)
