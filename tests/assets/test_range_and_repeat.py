"""The same hours give the same rows, digests and roots: as a range, hour by hour, and again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from energy_cloud_dagster.adapters import settlements
from energy_cloud_dagster.partitions import hour_key

if TYPE_CHECKING:
    from tests.conftest import Pipeline

MARKET = "KRW-KWH"
#: Every table that the hourly run writes, with the columns that tell of a run and not of an hour.
TABLES = {
    "validated.reading": "",
    "validated.hour": "",
    "marts.fct_series__hourly": "",
    "marts.fct_region__hourly": "",
    "marts.fct_participant__hourly": "",
    "forecast.point": "",
    "dispatch.plan": "materialized_at,run_id",
    "dispatch.setpoint": "",
    "dispatch.actual": "",
    "market.price": "",
    'market."order"': "",
    "market.clearing": "",
    "market.trade": "",
    "settlement.batch": "",
    "settlement.position": "",
    "settlement.trade": "",
    "audit.step": "run_id",
    "audit.evidence": "",
}


def rows(pipeline: Pipeline) -> dict[str, list[str]]:
    """Return every table as sorted JSON lines."""
    found = {}
    with pipeline.begin() as connection:
        for table, without in TABLES.items():
            line = f"(to_jsonb(t) - '{{{without}}}'::text[])::text"
            found[table] = list(connection.execute(sa.text(f"select {line} from {table} t order by 1")).scalars())
    return found


def roots(pipeline: Pipeline) -> dict[str, tuple[str, str | None]]:
    with pipeline.begin() as connection:
        batches = [settlements.batch_of_hour(connection, MARKET, hour) for hour in pipeline.settled]
    return {hour_key(one.delivery_start): (one.merkle_root, one.tx_hash) for one in batches if one}


def test_every_hour_settles_and_the_market_is_alive(pipeline: Pipeline) -> None:
    with pipeline.begin() as connection:
        batches = [settlements.batch_of_hour(connection, MARKET, hour) for hour in pipeline.settled]
        before = [settlements.batch_of_hour(connection, MARKET, hour) for hour in pipeline.hours[:2]]
    assert [one.state for one in batches if one] == ["confirmed"] * len(pipeline.settled)
    trades = [one.trades for one in batches if one]
    assert max(trades) >= 5
    assert 0 in trades, "an hour without trades settles too"
    assert before == [None, None], "nobody cleared the first two deliveries"


def test_hour_by_hour_gives_the_digests_rows_and_roots_of_the_range(altered: Pipeline) -> None:
    expected, expected_rows, expected_roots = altered.digests(altered.range_run), rows(altered), roots(altered)
    nonce = _transactions(altered)
    altered.restore("pipeline_before")

    one, two, *_, last = altered.hours
    single = altered.digests(
        altered.run(one, two), *(altered.run(hour) for hour in altered.hours[2:4]), altered.run(altered.hours[4], last)
    )

    after = rows(altered)
    differing = {
        table: sorted(set(after[table]) ^ set(expected_rows[table]))[:4]
        for table in TABLES
        if after[table] != expected_rows[table]
    }
    assert differing == {}
    assert single == expected
    assert {partition for _, partition in expected} == {hour_key(hour) for hour in altered.hours}
    assert roots(altered) == expected_roots
    assert _transactions(altered) == nonce, "the contract had these batches already"


def test_the_same_hours_again_change_nothing_and_send_nothing(altered: Pipeline) -> None:
    digests, before, nonce = altered.digests(altered.range_run), rows(altered), _transactions(altered)

    again = altered.run(altered.first, altered.last)

    assert altered.digests(again) == digests
    assert rows(altered) == before
    assert _transactions(altered) == nonce


def _transactions(pipeline: Pipeline) -> int:
    """Return how many transactions the settlement account has sent."""
    from energy_cloud_dagster.resources import Chain

    client = Chain().client()
    with client.reaching():
        return int(client.web3.eth.get_transaction_count(client.account))
