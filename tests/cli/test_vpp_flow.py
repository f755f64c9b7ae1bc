"""A VPP from its creation to what its devices give, over HTTP: the real programs beside a real database and broker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from pydantic import SecretStr

from energy_cloud_dagster.cli import bringup
from energy_cloud_dagster.settings import Settings

from .conftest import PASSWORD, Home, Started

if TYPE_CHECKING:
    from energy_cloud_dagster.embedded.broker import EmbeddedBroker
    from energy_cloud_dagster.embedded.postgres import EmbeddedPostgres

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

#: What the flow allows between what was planned and what the devices give.
WITHIN_KW = 50
WATCHDOG_SECONDS = 3
PATIENCE = 120.0


@dataclass
class Platform:
    """The programs of a platform, a caller of its API, and how to start its simulated devices again."""

    client: httpx.Client
    fleet: Started
    simulate: Callable[[], Started]

    def post(self, path: str, document: Any) -> dict[str, Any]:
        answer = self.client.post(path, json=document)
        assert answer.is_success, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def get(self, path: str) -> dict[str, Any]:
        answer = self.client.get(path)
        assert answer.is_success, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def await_status(self, vpp_id: str, reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while not reached(found := self.get(f"/v1/vpp/{vpp_id}/status")):
            assert time.monotonic() < end, found
            time.sleep(0.1)
        return found


@pytest.fixture(scope="module")
def platform(make_home: Callable[[], Home], postgres: EmbeddedPostgres, broker: EmbeddedBroker) -> Iterator[Platform]:
    home = make_home()
    home.measured = False
    postgres.ensure_database("energy_cloud_flow")
    url = postgres.url("energy_cloud_flow")
    now = datetime.now(UTC)
    bringup.prepare(
        Settings(_env_file=None, home=home.folder, database_url=SecretStr(url), admin_password=SecretStr(PASSWORD)), now
    )
    variables = {
        "ENERGY_CLOUD_DATABASE_URL": url,
        "ENERGY_CLOUD_MQTT_URL": broker.url,
        "ENERGY_CLOUD_MQTT_USERNAME": broker.username,
        "ENERGY_CLOUD_MQTT_PASSWORD": broker.password,
        "ENERGY_CLOUD_MQTT_SHARED": "false",
        "ENERGY_CLOUD_SIMULATE_RESOURCES": "true",
        "ENERGY_CLOUD_WATCHDOG_SECONDS": str(WATCHDOG_SECONDS),
    }
    with ExitStack() as stack:

        def simulate() -> Started:
            return stack.enter_context(home.start("simulate", "--since", f"{now:%Y-%m-%dT%H:%M:%SZ}", **variables))

        serve, ingest, outbox = (
            stack.enter_context(home.start(name, **variables)) for name in ("serve", "ingest", "outbox")
        )
        fleet = simulate()
        client = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{home.ports}", timeout=60))
        ingest.await_true(lambda: "ingest_ready" in ingest.printed)
        outbox.await_true(lambda: "outbox_ready" in outbox.printed)
        fleet.await_true(lambda: "devices_listen" in fleet.printed)
        serve.await_true(lambda: client.get("/health/live").is_success, httpx.TransportError)
        token = client.post("/v1/auth/login", json={"username": "admin", "password": PASSWORD}).json()["token"]
        client.headers["Authorization"] = f"Bearer {token}"
        made = Platform(client, fleet, simulate)
        try:
            yield made
        finally:
            # All go before one is asked whether anything of this home is left.
            for each in (made.fleet, serve, ingest, outbox):
                if each.process.poll() is None:
                    each.interrupt()


def near(kw: float) -> Callable[[dict[str, Any]], bool]:
    return lambda status: abs(status["currentOutput"] - kw) < WITHIN_KW


def test_the_optimiser_covers_a_demand_by_the_share_of_renewables(platform: Platform) -> None:
    vpp = platform.post("/v1/vpp", {"name": "Optimiser", "capacity": 7_500, "location": {"lat": 37.5, "lng": 127.0}})
    for resource in (
        {"id": "SOLAR-001", "type": "solar", "capacity": 1_000, "costPerKWh": 0.05},
        {"id": "WIND-001", "type": "wind", "capacity": 1_500, "costPerKWh": 0.06},
        {"id": "GRID-001", "type": "grid", "capacity": 5_000, "costPerKWh": 0.12},
    ):
        platform.post(f"/v1/vpp/{vpp['id']}/resources", resource)
    result = platform.post(f"/v1/vpp/{vpp['id']}/optimize", {"demand": 2_000, "constraints": {"minRenewable": 0.7}})[
        "allocation"
    ]
    total = sum(each["output"] for each in result)
    assert total == pytest.approx(2_000)
    assert sum(each["output"] for each in result if each["type"] in {"solar", "wind"}) / total >= 0.7


def test_a_vpp_is_made_optimised_applied_and_its_devices_give_what_was_planned(platform: Platform) -> None:
    vpp = platform.post(
        "/v1/vpp", {"name": "Test VPP", "capacity": 10_000, "location": {"lat": 37.5665, "lng": 126.9780}}
    )
    assert vpp["id"]
    path = f"/v1/vpp/{vpp['id']}"
    platform.post(f"{path}/resources", {"type": "solar", "capacity": 5_000, "location": {"lat": 37.57, "lng": 126.98}})
    optimization = platform.post(f"{path}/optimize", {"demand": 8_000, "constraints": {"minRenewable": 0.8}})
    assert optimization["status"] == "completed"
    assert optimization["allocation"]
    result = platform.post(f"{path}/allocation", {"allocation": optimization["allocation"]})
    assert result["success"] is True
    status = platform.await_status(vpp["id"], near(8_000))
    assert status["setpoint"] == pytest.approx(8_000)
    status = platform.await_status(
        vpp["id"], lambda found: all(each["status"] == "following" for each in found["resources"])
    )
    assert status["status"] == "operational"
    for each in result["commands"]:
        command = platform.get(f"/v1/devices/{each['deviceId']}/commands/{each['commandId']}")
        # The fleet knew devices that were made a moment before: no command had to be repeated.
        assert (command["state"], command["attempts"]) == ("done", 1)


def test_a_silent_vpp_falls_back_and_its_devices_rest_when_they_hear_again(platform: Platform) -> None:
    vpp = platform.post("/v1/vpp", {"name": "Silent", "capacity": 2_000, "location": {"lat": 37.5, "lng": 127.0}})
    path = f"/v1/vpp/{vpp['id']}"
    platform.post(
        f"{path}/resources",
        [
            {"id": "STORE", "type": "storage", "capacity": 400, "energyCapacity": 800, "soc": 0.9},
            {"id": "WATER", "type": "hydro", "capacity": 300},
        ],
    )
    entries = [{"resourceId": "STORE", "output": 350}, {"resourceId": "WATER", "output": 200}]
    platform.post(f"{path}/allocation", {"allocation": entries})
    status = platform.await_status(vpp["id"], near(550))
    assert 0.89 < status["soc"] <= 0.9
    assert platform.fleet.interrupt() == 0
    fallen = platform.await_status(
        vpp["id"], lambda found: all(each["status"] in {"fallback", "free"} for each in found["resources"])
    )
    assert fallen["status"] == "fallback"
    # Water gives no more than its limit; the store shall rest.
    assert {each["resourceId"]: each["setpoint"] for each in fallen["resources"]} == {
        "STORE": 0, "WATER": 200, f"{vpp['id']}-GRID": None,
    }  # fmt: skip
    platform.fleet = platform.simulate()
    resting = platform.await_status(vpp["id"], near(200))
    assert {each["resourceId"]: each["output"] for each in resting["resources"]}["STORE"] == 0
    # What it had given before it went is not forgotten.
    assert resting["soc"] < 0.9
