"""What a demo has settled, read over HTTP from `serve` on the same home."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from energy_cloud_dagster.cli.demo import FIRST_DELIVERY
from energy_cloud_dagster.domain.audit import evidence, merkle
from energy_cloud_dagster.domain.intervals import HOUR, rfc3339

if TYPE_CHECKING:
    from .conftest import Demo, Started

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def api(demo: Demo) -> Iterator[httpx.Client]:
    assert demo.report["trades"] > 0
    with (
        demo.home.start("serve", ENERGY_CLOUD_REPLAY="1") as started,
        httpx.Client(base_url=f"http://127.0.0.1:{demo.home.ports}", timeout=30) as client,
    ):
        await_live(started, client)
        credentials = {"username": "admin", "password": PASSWORD}
        token = client.post("/v1/auth/login", json=credentials).raise_for_status().json()["token"]
        client.headers["Authorization"] = f"Bearer {token}"
        yield client
        assert started.interrupt() == 0
        demo.home.await_no_process()


def await_live(started: Started, client: httpx.Client) -> None:
    started.await_true(lambda: client.get("/health/live").status_code == 200, httpx.TransportError)


@pytest.fixture
def window(demo: Demo) -> dict[str, str]:
    end = FIRST_DELIVERY + demo.report["hours"] * HOUR
    return {"startDate": rfc3339(FIRST_DELIVERY), "endDate": rfc3339(end)}


def get(api: httpx.Client, path: str, **parameters: str) -> Any:
    return api.get(path, params=parameters).raise_for_status().json()


def test_the_home_is_ready(api: httpx.Client) -> None:
    found = get(api, "/health/ready")
    assert found["status"] == "ready"
    assert found["parts"]["database"] == "up"


def test_the_region_consumed_what_its_homes_did(api: httpx.Client, window: dict[str, str]) -> None:
    document = get(api, "/v1/energy/consumption", region="seoul", aggregation="hourly", **window)
    homes = [
        get(api, "/v1/energy/consumption", meterId=f"SM-H{home:02}", aggregation="hourly", **window)["items"]
        for home in range(1, 11)
    ]
    assert [len(items) for items in homes] == [2] * 10
    total = sum(item["consumption"] for items in homes for item in items)
    consumed = document["energyData"]["consumption"]
    assert consumed["total"] == pytest.approx(total, abs=1e-6)
    assert [one["total"] for one in document["intervals"]] == pytest.approx(
        [sum(items[hour]["consumption"] for items in homes) for hour in range(2)], abs=1e-6
    )
    assert document["energyData"]["generation"]["sources"]["wind"] > 0
    assert document["metadata"]["confidence"] == 1


def test_the_last_forecast_follows_the_last_delivery(api: httpx.Client, window: dict[str, str]) -> None:
    question = {"location": "seoul", "horizon": 6, "asOf": rfc3339(FIRST_DELIVERY + 3 * HOUR)}
    found = api.post("/v1/energy/forecast", json=question).raise_for_status().json()
    assert found["rung"] == "champion"
    assert found["accuracy"]["mase"] < found["accuracy"]["baseline"]["mase"]
    points = found["points"]
    assert points[0]["timestamp"] == window["endDate"]
    assert len(points) == 6
    for point in points:
        assert 0 < point["p10"] <= point["p50"] <= point["p90"]


def test_the_vpp_has_its_resources_and_plan(api: httpx.Client) -> None:
    listed = get(api, "/v1/vpp")["items"]
    found = get(api, "/v1/vpp/VPP-001")
    assert listed == [found]
    assert [one["id"] for one in found["resources"]] == ["BAT-001", "GRID-001", "SOLAR-001", "WIND-001", "WIND-002"]
    assert found["aggregatedOutput"] == pytest.approx(sum(one["current"] or 0 for one in found["resources"]))
    assert found["plan"]["status"] == "completed"


def test_every_delivered_trade_is_settled_and_has_evidence(
    api: httpx.Client, window: dict[str, str], demo: Demo
) -> None:
    trades = get(api, "/v1/trading/history", limit="100", **window)["items"]
    assert len(trades) == demo.report["trades"]
    assert sum(trade["quantity"] for trade in trades) == pytest.approx(demo.report["volume_kwh"])
    for trade in trades:
        settlement = trade["settlement"]
        assert settlement["state"] == "confirmed"
        assert settlement["delivered"] + settlement["shortfall"] == pytest.approx(trade["quantity"])
        found = get(api, f"/v1/audit/trades/{trade['id']}")
        assert found["transaction"]["hash"] == settlement["transactionHash"]
        # a reader without this platform can check the same: leaf from document, proof from leaf to root
        leaf = evidence.leaf_hash(found["document"])
        assert merkle.to_hex(leaf) == found["leaf"]
        path = [merkle.from_hex(one) for one in found["proof"]]
        root = merkle.from_hex(found["batch"]["merkleRoot"])
        assert merkle.verify(leaf, found["leafIndex"], found["batch"]["trades"], path, root)


def test_what_is_cleared_but_not_delivered_is_pending(api: httpx.Client, window: dict[str, str]) -> None:
    later = rfc3339(FIRST_DELIVERY + timedelta(days=2))
    ahead = get(api, "/v1/trading/history", limit="100", startDate=window["endDate"], endDate=later)["items"]
    assert {trade["settlement"]["state"] for trade in ahead} <= {"pending"}
