"""VPPs, trades and evidence over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from energy_cloud_dagster.adapters import accounts
from energy_cloud_dagster.api.app import create_app
from energy_cloud_dagster.domain import documents

from .conftest import BATCH, PASSWORD, ROOT, TRADES, TX, Client

if TYPE_CHECKING:
    import sqlalchemy as sa

    from energy_cloud_dagster.settings import Settings


def test_a_vpp_is_the_document_of_the_standard_with_measured_states(viewer: Client) -> None:
    answer = viewer.get("/v1/vpp/VPP-001", asOf="2026-03-02T15:30:00Z")
    assert answer.status_code == 200
    document = answer.json()
    assert documents.validate(document, "vpp") == []
    resources = {resource["id"]: resource for resource in document.pop("resources")}
    assert document == {
        "vppId": "VPP-001",
        "id": "VPP-001",
        "name": "Seoul sample VPP",
        "capacity": 5200.0,
        "unit": "kW",
        "region": "seoul",
        "participantId": "VPP-001",
        "location": {"lat": 37.5665, "lng": 126.978},
        "aggregatedOutput": 100.0 + 600.0 - 40.0,
        "status": "degraded",
        "lastUpdate": "2026-03-02T15:00:05Z",
        "plan": {
            "issuedAt": "2026-03-02T15:00:00Z",
            "planStart": "2026-03-02T15:00:00Z",
            "solver": "lp",
            "status": "completed",
            "cost": 12.5,
            "unmetEnergy": 0.0,
            "renewableRatio": 0.75,
        },
    }
    assert resources["SOLAR-001"]["current"] == 100.0
    assert resources["WIND-001"]["current"] == 600.0
    assert resources["WIND-002"] == {
        "id": "WIND-002",
        "type": "wind",
        "capacity": 2050.0,
        "current": None,
        "deviceId": "WT-R80721",
    }
    battery = resources["BAT-001"]
    assert (battery["current"], battery["soc"], battery["efficiency"], battery["energyCapacity"]) == (
        -40,
        0.73,
        0.9,
        1000,
    )
    assert "deviceId" not in resources["GRID-001"]


def test_an_earlier_as_of_knows_less(viewer: Client) -> None:
    document = viewer.get("/v1/vpp/VPP-001", asOf="2026-03-02T14:30:00Z").json()
    assert document["plan"]["cost"] == 10.0
    assert document["lastUpdate"] < "2026-03-02T14:30:00Z"
    nothing = viewer.get("/v1/vpp/VPP-001", asOf="2026-01-01T00:00:00Z").json()
    assert (nothing["status"], nothing["lastUpdate"], nothing["plan"], nothing["aggregatedOutput"]) == (
        "offline",
        None,
        None,
        0.0,
    )


def test_states_older_than_two_hours_make_a_vpp_offline_unless_a_replay_says_what_time_it_is(
    viewer: Client, api_settings: Settings
) -> None:
    assert viewer.get("/v1/vpp/VPP-001", asOf="2026-03-03T15:00:00Z").json()["status"] == "offline"
    replay = Client(create_app(api_settings.model_copy(update={"replay": True}))).as_("viewer")
    assert replay.get("/v1/vpp/VPP-001").json()["status"] == "degraded"


def test_all_vpps_are_listed(viewer: Client) -> None:
    page = viewer.get("/v1/vpp").json()
    assert [item["vppId"] for item in page["items"]] == ["VPP-001"]
    assert page["nextCursor"] is None
    assert viewer.get("/v1/vpp", cursor="WyJWUFAtMDAxIl0").json()["items"] == []
    assert viewer.get("/v1/vpp", cursor="WzFd").status_code == 422


@pytest.mark.parametrize("path", ["/v1/vpp/VPP-404", "/v1/audit/trades/T-404", "/v1/nowhere", "/v1/vpp/"])
def test_what_does_not_exist_is_a_404_problem(operator: Client, path: str) -> None:
    answer = operator.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json().keys() == {"type", "title", "status", "detail"}


def test_a_method_that_a_route_lacks_is_a_405_problem(operator: Client) -> None:
    answer = operator("PATCH", "/v1/vpp")
    assert (answer.status_code, answer.json()["title"]) == (405, "Method Not Allowed")
    assert answer.headers["allow"] == "GET"


def test_trades_come_newest_first_with_the_state_of_their_settlement(operator: Client) -> None:
    items = operator.get("/v1/trading/history").json()["items"]
    assert [item["id"] for item in items] == [f"T-{number}" for number in reversed(range(TRADES))]
    assert items[-1] == {
        "id": "T-0",
        "market": "KRW-KWH",
        "deliveryStart": "2026-03-01T15:00:00Z",
        "deliveryEnd": "2026-03-01T16:00:00Z",
        "tradedAt": "2026-03-01T14:05:00Z",
        "buyer": "HOME-01",
        "seller": "VPP-001",
        "quantity": 1.5,
        "price": "120.5",
        "value": "180.75",
        "currency": "KRW",
        "settlement": {
            "state": "confirmed",
            "batchId": BATCH,
            "revision": 1,
            "transactionHash": TX,
            "blockNumber": 7,
            "confirmedAt": "2026-03-01T16:06:00Z",
            "delivered": 1.2,
            "shortfall": 0.3,
            "value": "180.75",
        },
    }
    assert items[0]["settlement"]["state"] == "pending"
    assert items[0]["settlement"]["batchId"] is None


def test_trades_are_paged_by_what_was_seen(operator: Client) -> None:
    seen, cursor = [], None
    while True:
        page = operator.get("/v1/trading/history", limit=2, **({"cursor": cursor} if cursor else {})).json()
        seen += [item["id"] for item in page["items"]]
        cursor = page["nextCursor"]
        if cursor is None:
            break
    assert seen == [f"T-{number}" for number in reversed(range(TRADES))]


def test_trades_are_bounded_by_market_delivery_and_knowledge(operator: Client) -> None:
    def ids(**query: str) -> list[str]:
        return [item["id"] for item in operator.get("/v1/trading/history", **query).json()["items"]]

    assert ids(market="EUR-KWH") == []
    assert ids(startDate="2026-03-01T16:00:00Z", endDate="2026-03-01T18:00:00Z") == ["T-2", "T-1"]
    assert ids(asOf="2026-03-01T15:30:00Z") == ["T-1", "T-0"]
    early = operator.get("/v1/trading/history", asOf="2026-03-01T15:30:00Z").json()["items"]
    assert early[-1]["settlement"]["state"] == "pending"


def test_a_trader_sees_its_own_trades_and_no_counterparty(trader: Client, anyone: Client) -> None:
    items = trader.get("/v1/trading/history").json()["items"]
    assert [item["id"] for item in items] == ["T-4", "T-2", "T-0"]
    assert {(item["buyer"], item["seller"]) for item in items} == {("HOME-01", None)}
    assert len(anyone.as_("auditor").get("/v1/trading/history").json()["items"]) == TRADES


def test_a_trader_of_no_participant_sees_no_trade(anyone: Client, api_engine: sa.Engine) -> None:
    with api_engine.begin() as connection:
        accounts.add(connection, "newcomer", PASSWORD, "trader")
    newcomer = anyone.as_("newcomer")
    assert newcomer.get("/v1/trading/history").json() == {"items": [], "nextCursor": None}
    assert newcomer.get("/v1/audit/trades/T-0").status_code == 404


def test_the_evidence_of_a_trade_names_proof_batch_and_transaction(trader: Client) -> None:
    answer = trader.get("/v1/audit/trades/T-0")
    assert answer.status_code == 200
    assert answer.json() == {
        "tradeId": "T-0",
        "document": {"trade": {"id": "T-0"}},
        "leaf": "0x" + "22" * 32,
        "leafIndex": 0,
        "proof": ["0x" + "33" * 32],
        "batch": {
            "id": BATCH,
            "market": "KRW-KWH",
            "deliveryStart": "2026-03-01T15:00:00Z",
            "revision": 1,
            "merkleRoot": ROOT,
            "trades": 1,
            "digest": "00",
            "state": "confirmed",
        },
        "transaction": {
            "hash": TX,
            "chainId": 31337,
            "contract": "0x" + "11" * 20,
            "blockNumber": 7,
            "gasUsed": 123_456,
            "confirmedAt": "2026-03-01T16:06:00Z",
        },
    }


def test_a_trade_without_evidence_is_unknown(operator: Client) -> None:
    assert operator.get("/v1/audit/trades/T-1").status_code == 404
