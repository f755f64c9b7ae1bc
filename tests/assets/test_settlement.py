"""Money is conserved, and a batch reaches the chain once, wherever the settlement was interrupted."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from energy_cloud_dagster.adapters import registry, settlements
from energy_cloud_dagster.adapters.settlements import BatchRow
from energy_cloud_dagster.domain.errors import ChainUnavailable
from energy_cloud_dagster.partitions import hour_key

if TYPE_CHECKING:
    import dagster as dg

    from energy_cloud_dagster.adapters.chain import ChainClient
    from energy_cloud_dagster.assets.settlement import Prepared
    from tests.conftest import Pipeline

MARKET = "KRW-KWH"
SUMS = ("traded_wh", "scheduled_wh", "metered_wh", "deviation_wh", "trade_micro", "imbalance_micro", "net_micro")


def batch(pipeline: Pipeline, hour: datetime) -> BatchRow:
    with pipeline.begin() as connection:
        found = settlements.batch_of_hour(connection, MARKET, hour)
    assert found is not None
    return found


def client(contract: str = "") -> ChainClient:
    from energy_cloud_dagster.resources import Chain

    return Chain().client(contract)


def sent(chain: ChainClient) -> int:
    """Return how many transactions the settlement account has sent."""
    with chain.reaching():
        return int(chain.web3.eth.get_transaction_count(chain.account))


def test_every_column_of_the_positions_sums_to_zero(pipeline: Pipeline) -> None:
    with pipeline.begin() as connection:
        columns = ", ".join(f"sum({name})" for name in SUMS)
        rows = connection.execute(
            sa.text(f"select count(*), sum(abs(net_micro)), {columns} from settlement.position group by batch_id")
        ).all()
        batches = connection.execute(sa.text("select count(*) from settlement.batch")).scalar_one()
    assert len(rows) == batches == len(pipeline.settled)
    for participants, moved, *sums in rows:
        assert participants == 12
        assert moved > 0
        assert sums == [0] * len(SUMS)


def test_the_contract_holds_the_sum_of_all_positions(pipeline: Pipeline) -> None:
    energy: Counter[str] = Counter()
    money: Counter[str] = Counter()
    with pipeline.begin() as connection:
        accounts = {one.participant_id: one.account for one in registry.participants(connection, "seoul")}
        contracts = set()
        for hour in pipeline.settled:
            row = settlements.batch_of_hour(connection, MARKET, hour)
            assert row is not None
            contracts.add(row.contract)
            for one in settlements.settlement_of(connection, row.batch_id).positions:
                energy[one.participant_id] += one.energy_wh
                money[one.participant_id] += one.net_micro
    assert len(contracts) == 1
    chain = client(contracts.pop())
    held = {one: chain.balances(account) for one, account in accounts.items()}
    assert {one: (balance.energy_wh, balance.money_micro) for one, balance in held.items()} == {
        one: (energy[one], money[one]) for one in accounts
    }
    assert sum(energy.values()) == sum(money.values()) == 0
    assert any(money.values())


def test_traded_energy_is_delivered_or_a_shortfall(pipeline: Pipeline) -> None:
    with pipeline.begin() as connection:
        wrong = connection.execute(
            sa.text(
                "select count(*) filter (where s.delivered_wh + s.shortfall_wh <> t.quantity_wh"
                " or s.delivered_wh < 0 or s.shortfall_wh < 0 or s.value_micro <> t.value_micro), count(*)"
                " from settlement.trade s join market.trade t using (trade_id)"
            )
        ).one()
    assert wrong[0] == 0
    assert wrong[1] >= 10


# -- interrupted


@pytest.fixture
def unsettled(altered: Pipeline, monkeypatch: pytest.MonkeyPatch) -> tuple[Pipeline, datetime, str]:
    """The last delivery as if nobody had settled it, a contract that has not seen it, and the root it must give."""
    hour = altered.settled[-1]
    root = batch(altered, hour).merkle_root
    monkeypatch.setenv("ENERGY_CLOUD_CHAIN_CONTRACT", client().deploy())
    with altered.begin() as connection:
        which = {"batch": batch(altered, hour).batch_id}
        for table in ("audit.evidence", "settlement.trade", "settlement.position", "settlement.batch"):
            connection.execute(sa.text(f"delete from {table} where batch_id = :batch"), which)
    return altered, hour, root


def prepare(pipeline: Pipeline, hour: datetime) -> Prepared:
    from energy_cloud_dagster.assets.settlement import Prepared, _prepare

    with pipeline.begin() as connection:
        prepared = _prepare(connection, "seoul", hour, "a run that died")
    assert isinstance(prepared, Prepared)
    return prepared


def requests(pipeline: Pipeline) -> list[dg.RunRequest]:
    """Return what the sensor for receipts asks for."""
    from energy_cloud_dagster.sensors.automation import chain_receipts

    asked = pipeline.asked_by(chain_receipts)
    return [] if asked == "every batch has its receipt" else list(asked)


def settle_again(pipeline: Pipeline, hour: datetime) -> BatchRow:
    """Do what the sensor asks for, and return the batch."""
    asked = requests(pipeline)
    assert [one.partition_key for one in asked] == [hour_key(hour)]
    assert pipeline.job("settlement_retry", hour).success
    assert requests(pipeline) == []
    return batch(pipeline, hour)


def test_an_intent_that_was_never_sent_is_sent_once(unsettled: tuple[Pipeline, datetime, str]) -> None:
    pipeline, hour, root = unsettled
    before = sent(client())
    prepare(pipeline, hour)
    assert batch(pipeline, hour).state == "intended"

    settled = settle_again(pipeline, hour)

    assert (settled.state, settled.merkle_root) == ("confirmed", root)
    assert sent(client()) == before + 1
    assert pipeline.job("settlement_retry", hour).success
    assert sent(client()) == before + 1


def test_what_was_sent_but_not_recorded_is_found(unsettled: tuple[Pipeline, datetime, str]) -> None:
    from energy_cloud_dagster.assets import settlement
    from energy_cloud_dagster.resources import Database

    pipeline, hour, root = unsettled
    before = sent(client())
    prepared = prepare(pipeline, hour)
    with pytest.MonkeyPatch.context() as patch:

        def die(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(settlement.settlements, "record_receipt", die)
        with pytest.raises(KeyboardInterrupt):
            settlement.send(Database(), client(), prepared)
    crashed = batch(pipeline, hour)
    assert (crashed.state, crashed.block_number) == ("sent", None)
    assert sent(client()) == before + 1

    settled = settle_again(pipeline, hour)

    assert (settled.state, settled.merkle_root, settled.tx_hash) == ("confirmed", root, crashed.tx_hash)
    assert settled.block_number
    assert sent(client()) == before + 1


def test_what_was_recorded_as_sent_but_was_not_is_sent(unsettled: tuple[Pipeline, datetime, str]) -> None:
    pipeline, hour, root = unsettled
    before = sent(client())
    prepared = prepare(pipeline, hour)
    with pipeline.begin() as connection:
        settlements.record_sent(connection, prepared.row.batch_id, "0x" + 64 * "a")

    settled = settle_again(pipeline, hour)

    assert (settled.state, settled.merkle_root) == ("confirmed", root)
    assert settled.tx_hash != "0x" + 64 * "a"
    assert sent(client()) == before + 1


def test_without_its_chain_an_hour_is_intended_and_taken_up_again(unsettled: tuple[Pipeline, datetime, str]) -> None:
    pipeline, hour, root = unsettled
    before = sent(client())
    pipeline.chain.stop()
    try:
        failed = pipeline.job("settlement_retry", hour)
        assert not failed.success
        failure = next(event for event in failed.all_events if event.is_step_failure)
        data = failure.step_failure_data
        assert "does not answer" in str(data.user_failure_data.description)
        assert data.error is not None
        assert ChainUnavailable.__name__ in str(data.error)
        assert batch(pipeline, hour).state == "intended"
        assert [one.partition_key for one in requests(pipeline)] == [hour_key(hour)]
    finally:
        pipeline.chain.start()

    settled = settle_again(pipeline, hour)

    assert (settled.state, settled.merkle_root) == ("confirmed", root)
    assert sent(client()) == before + 1


def test_what_is_settled_is_not_overwritten(unsettled: tuple[Pipeline, datetime, str]) -> None:
    """Rows that were changed after the settlement: the hour is held, and keeps its batch and its root."""
    pipeline, hour, root = unsettled
    prepare(pipeline, hour)
    settle_again(pipeline, hour)
    with pipeline.begin() as connection:
        connection.execute(
            sa.text('update market."order" set price_micro = price_micro + 1 where delivery_start = :hour'),
            {"hour": hour},
        )

    from energy_cloud_dagster.assets.settlement import Held, _prepare

    with pipeline.begin() as connection:
        held = _prepare(connection, "seoul", hour, "again")
    assert isinstance(held, Held)
    assert "revision of its own" in held.reason
    assert batch(pipeline, hour).merkle_root == root


def test_a_contract_that_refuses_is_a_failure_that_retries_do_not_mend(
    unsettled: tuple[Pipeline, datetime, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, hour, _ = unsettled
    monkeypatch.setenv("ENERGY_CLOUD_CHAIN_CONTRACT", "0x" + 40 * "1")
    failed = pipeline.job("settlement_retry", hour)
    failure = next(event for event in failed.all_events if event.is_step_failure)
    description = str(failure.step_failure_data.user_failure_data.description)
    assert "ENERGY_CLOUD_CHAIN_CONTRACT" in description
    assert failure.step_failure_data.user_failure_data.label == "intentional-failure"


def test_an_hour_whose_marts_and_readings_disagree_is_held(unsettled: tuple[Pipeline, datetime, str]) -> None:
    from energy_cloud_dagster.assets.settlement import Held, _prepare

    pipeline, hour, _ = unsettled
    with pipeline.begin() as connection:
        connection.execute(
            sa.text(
                "update marts.fct_participant__hourly set net_injection_kwh = net_injection_kwh + 0.001"
                " where hour_utc = :hour and participant_id = 'HOME-07'"
            ),
            {"hour": hour},
        )
        held = _prepare(connection, "seoul", hour, "test")
    assert isinstance(held, Held)
    assert "disagree about HOME-07" in held.reason


def test_a_proof_that_breaks_fails_the_run_by_the_name_of_its_step(altered: Pipeline) -> None:
    import dagster as dg

    hour = altered.settled[-1]
    with altered.begin() as connection:
        connection.execute(
            sa.text("update audit.evidence set proof = jsonb_set(proof, '{0}', to_jsonb('0x' || repeat('ab', 32)))")
        )
    ran = altered.job("settlement_retry", hour, asset_selection=[dg.AssetKey("trade_evidence_hourly")])
    failure = next(event for event in ran.all_events if event.is_step_failure)
    description = str(failure.step_failure_data.user_failure_data.description)
    assert "trades fail their proof" in description
    assert "at step proof" in description
