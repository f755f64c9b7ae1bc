"""Live streams as people use them: the API as it is served, real WebSockets, readings stored in a real PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import jwt
import pytest
import sqlalchemy as sa
from granian.constants import Interfaces
from granian.server.embed import Server
from pydantic import SecretStr
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from energy_cloud_dagster.adapters import accounts, commands, readings, registry, tables, vpp_registry
from energy_cloud_dagster.adapters.database import make_engine, upgrade
from energy_cloud_dagster.adapters.readings import ReadingRow
from energy_cloud_dagster.api.app import create_app
from energy_cloud_dagster.domain.commands import Ack, instruction
from energy_cloud_dagster.domain.intervals import rfc3339
from energy_cloud_dagster.embedded.claims import free_port
from energy_cloud_dagster.sample_data.community import SEOUL_COMMUNITY
from energy_cloud_dagster.settings import Settings

if TYPE_CHECKING:
    from energy_cloud_dagster.embedded.postgres import EmbeddedPostgres

pytestmark = pytest.mark.anyio

PASSWORD = "correct horse battery"
SECRET = "a secret of thirty-two characters or more"
#: The hour before this one: a VPP's state is judged by the clock, and meters count as long as they are not far behind.
T0 = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
PATIENCE = 60.0
PATH = "/v1/energy/real-time"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


class Platform:
    """A database of its own and the API that is served from it."""

    def __init__(self, server: EmbeddedPostgres, home: Path) -> None:
        self.server = server
        self.home = home
        self.url = server.url()
        self.engine = make_engine(self.url)
        self.port = 0
        self.log = home / "serve.log"
        self.tokens: dict[str, str] = {}
        with self.engine.begin() as connection:
            registry.seed(connection, SEOUL_COMMUNITY, T0, demo_key="test")
            for role in accounts.ROLES:
                participant = {"trader": "HOME-01", "viewer": "HOME-02"}.get(role)
                accounts.add(connection, role, PASSWORD, role, participant_id=participant)
            self.series = readings.series_ids(connection)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Serve from a thread of this process."""
        settings = Settings(
            _env_file=None, home=self.home, database_url=SecretStr(self.url), token_secret=SecretStr(SECRET)
        )
        self.port = free_port()
        server = Server(create_app(settings), port=self.port, interface=Interfaces.ASGI, log_enabled=False)
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=lambda: loop.run_until_complete(server.serve()))
        thread.start()
        try:
            self.await_live(thread.is_alive)
            yield
        finally:
            loop.call_soon_threadsafe(server.stop)
            thread.join(30)
            assert not thread.is_alive()
            loop.close()

    @contextlib.contextmanager
    def outside(self) -> Iterator[subprocess.Popen[bytes]]:
        """Serve as people do: in a process of its own."""
        before, self.port = self.port, free_port()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ENERGY_CLOUD_")}
        own = {
            "ENERGY_CLOUD_HOME": str(self.home),
            "ENERGY_CLOUD_DATABASE_URL": self.url,
            "ENERGY_CLOUD_TOKEN_SECRET": SECRET,
            "ENERGY_CLOUD_ADMIN_PASSWORD": PASSWORD,
        }
        with self.log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "energy_cloud_dagster.cli", "serve", "--port", str(self.port)],
                env=environment | own,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self.await_live(lambda: process.poll() is None)
            yield process
        finally:
            self.port = before
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)

    def await_live(self, alive: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while True:
            assert alive()
            assert time.monotonic() < deadline
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{self.port}/health/live").status_code == 200:
                    return
            time.sleep(0.05)

    def token(self, role: str) -> str:
        if role not in self.tokens:
            answer = httpx.post(
                f"http://127.0.0.1:{self.port}/v1/auth/login", json={"username": role, "password": PASSWORD}
            )
            self.tokens[role] = answer.json()["token"]
        return self.tokens[role]

    def forged(self, username: str, seconds: float) -> str:
        """A token as a login gives it, that lives as long as asked."""
        now = datetime.now(UTC)
        claims = {
            "iss": "energy-cloud",
            "sub": username,
            "iat": now - timedelta(hours=1),
            "exp": now + timedelta(seconds=seconds),
            "jti": "1",
            "typ": "access",
            "scopes": ["energy:read", "vpp:read"],
        }
        return jwt.encode(claims, SECRET, algorithm="HS256")

    def put(self, device: str, metric: str, value: float, ts: datetime = T0) -> None:
        series_id = self.series[device, metric].series_id
        with self.engine.begin() as connection:
            readings.store(connection, [ReadingRow(series_id, ts, value, "high", datetime.now(UTC), "mqtt")])

    @contextlib.asynccontextmanager
    async def open(self, query: str = "", **how: Any) -> AsyncIterator[Stream]:
        address = f"ws://127.0.0.1:{self.port}{PATH}{query}"
        async with connect(address, compression=None, max_queue=None, **how) as connection:
            yield Stream(connection)

    @contextlib.asynccontextmanager
    async def stream(self, role: str = "operator", *channels: str, **how: Any) -> AsyncIterator[Stream]:
        headers = {"Authorization": f"Bearer {self.token(role)}"}
        async with self.open(additional_headers=headers, **how) as stream:
            if channels:
                assert (await stream.ask("subscribe", *channels))["type"] == "ack"
            yield stream


class Stream:
    """A client's connection: answers apart from data, which waits here until it is asked for."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.data: list[dict[str, Any]] = []

    async def send(self, document: Any) -> None:
        await self.connection.send(document if isinstance(document, str | bytes) else json.dumps(document))

    async def frame(self) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE):
            frame: dict[str, Any] = json.loads(await self.connection.recv())
            return frame

    async def answer(self) -> dict[str, Any]:
        while True:
            frame = await self.frame()
            if "type" in frame:
                return frame
            self.data.append(frame)

    async def ask(self, action: str, *channels: str) -> dict[str, Any]:
        await self.send({"action": action, "channels": list(channels)})
        return await self.answer()

    async def until(self, channel: str, holds: Callable[[dict[str, Any]], bool] = lambda _: True) -> dict[str, Any]:
        """The payload of the first message of a channel that holds what is asked."""
        while True:
            frame = self.data.pop(0) if self.data else await self.frame()
            assert frame.keys() == {"channel", "timestamp", "payload"}, frame
            assert frame["timestamp"].endswith("Z")
            if frame["channel"] == channel and holds(frame["payload"]):
                payload: dict[str, Any] = frame["payload"]
                return payload

    async def closed(self) -> int | None:
        """The code that the server closes with; what comes before it is passed over."""
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await self.connection.recv()
        return self.connection.close_code


@pytest.fixture(scope="module")
def platform(home: Path) -> Iterator[Platform]:
    from energy_cloud_dagster.embedded.postgres import SERVER_SETTINGS, EmbeddedPostgres

    server = EmbeddedPostgres(home / "rt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SERVER_SETTINGS, "fsync", "off")
        server.start()
    upgrade(server.url())
    made = Platform(server, home / "rt")
    try:
        with made.inside():
            yield made
    finally:
        made.engine.dispose()
        server.stop()


# -- readings


async def test_a_stored_reading_reaches_who_listens_and_nobody_else(platform: Platform) -> None:
    async with platform.stream("operator", "consumption.seoul") as near, platform.stream() as deaf:
        platform.put("SM-H03", "consumption", 1.25)
        payload = await near.until("consumption.seoul", lambda said: said["total"] >= 1.25)
        assert payload["region"] == "seoul"
        assert payload["unit"] == "kWh"
        assert (await deaf.ask("unsubscribe", "consumption.seoul"))["type"] == "ack"
        assert deaf.data == []


async def test_totals_follow_the_latest_interval_its_corrections_and_no_older_one(platform: Platform) -> None:
    platform.put("SM-H04", "consumption", 2.0)
    async with platform.stream("operator", "consumption.real-time") as stream:
        before = await stream.until("consumption.real-time")
        for value, ts, difference in (
            (3.5, T0, 1.5),  # a correction counts by its newest revision
            (0.5, T0 + timedelta(hours=1), -3.0),  # the next interval takes the place of the last
        ):
            platform.put("SM-H04", "consumption", value, ts)
            expected = pytest.approx(before["total"] + difference)
            after = await stream.until("consumption.real-time", lambda said, total=expected: said["total"] == total)
            assert after["breakdown"]["residential"] - before["breakdown"]["residential"] == pytest.approx(difference)
            assert after["total"] == pytest.approx(sum(after["breakdown"].values()))
            assert after["total"] == pytest.approx(sum(after["regions"].values()))
            before = after
        platform.put("SM-H04", "consumption", 99.0, T0 - timedelta(hours=1))
        platform.put("SM-H05", "consumption", 0.25)
        after = await stream.until("consumption.real-time", lambda said: said["total"] != before["total"])
        assert after["total"] == pytest.approx(before["total"] + 0.25)


async def test_a_new_meter_counts_in_its_class_and_region_without_a_restart(platform: Platform) -> None:
    platform.put("SM-H08", "consumption", 1.0)
    async with platform.stream("operator", "consumption.*") as stream:
        classes = {"M-RES": "residential", "M-COM": "commercial", "M-IND": "industrial", "M-NONE": None}
        with platform.engine.begin() as connection:
            for device_id, customer_class in classes.items():
                connection.execute(
                    sa.insert(tables.device),
                    {
                        "device_id": device_id,
                        "region_id": "busan",
                        "device_type": "smart-meter",
                        "customer_class": customer_class,
                        "created_at": T0,
                    },
                )
                connection.execute(
                    sa.insert(tables.series),
                    {"device_id": device_id, "metric": "consumption", "unit": "kWh", "kind": "energy"},
                )
            platform.series.update(readings.series_ids(connection, list(classes)))
        for number, device_id in enumerate(classes):
            platform.put(device_id, "consumption", 10.0**number)
        whole = await stream.until("consumption.busan", lambda said: said["meters"] == len(classes))
        # nobody classified the last one: most meters are residential
        assert whole["breakdown"] == {"residential": 1001.0, "commercial": 10.0, "industrial": 100.0}
        assert whole["total"] == 1111.0
        # mean power: a quarter hour's energy, four times
        assert whole["power"] == 4444.0
        everywhere = await stream.until("consumption.real-time", lambda said: said["regions"].get("busan") == 1111.0)
        assert everywhere["total"] > 1111.0


async def test_generation_is_told_by_source_and_power_becomes_energy(platform: Platform) -> None:
    async with platform.stream("viewer", "generation.*") as stream:
        platform.put("PV-H07", "generation", 0.75)
        platform.put("WT-R80711", "output", 600.0)
        solar = await stream.until("generation.solar", lambda said: said["total"] >= 0.75)
        wind = await stream.until("generation.wind", lambda said: said["total"] == 100.0)
        assert (solar["type"], wind["type"]) == ("solar", "wind")
        assert (wind["power"], wind["unit"], wind["meters"]) == (600.0, "kWh", 1)
        assert wind["regions"]["seoul"] == 100.0


async def test_who_comes_later_hears_at_once_what_holds(platform: Platform) -> None:
    platform.put("SM-H06", "consumption", 4.0)
    async with platform.stream("operator", "consumption.seoul") as first:
        known = await first.until("consumption.seoul")
        async with platform.stream("operator", "consumption.seoul") as second:
            assert await second.until("consumption.seoul") == known


async def test_updates_are_coalesced_to_ten_a_second_and_the_last_one_is_told(platform: Platform) -> None:
    async with platform.stream("operator", "consumption.seoul") as stream:
        await stream.until("consumption.seoul")
        started = time.monotonic()
        for number in range(60):
            platform.put("SM-H08", "consumption", 1000.0 + number)
        last = 1059.0
        told = 0

        def counted(said: dict[str, Any]) -> bool:
            nonlocal told
            told += 1
            return bool(said["total"] >= last)

        await stream.until("consumption.seoul", counted)
        assert told <= 2 + (time.monotonic() - started) / 0.1
        platform.put("SM-H08", "consumption", 1.0)


# -- other channels


async def test_a_vpp_tells_what_its_devices_measure_and_what_they_are_asked_for(platform: Platform) -> None:
    now = datetime.now(UTC)
    hour = now.replace(minute=0, second=0, microsecond=0)
    with platform.engine.begin() as connection:
        issue = {"vpp_id": "VPP-001", "issued_at": hour - timedelta(hours=1)}
        figures = {"solver": "lp", "status": "completed", "cost": 0.0, "unmet_kwh": 0.0, "renewable_ratio": None}
        documents: dict[str, Any] = {"problem": {}, "solution": {}, "digest": "00"}
        connection.execute(sa.insert(tables.plan), {**issue, "plan_start": hour, **figures, **documents})
        for resource, kind, output in (("BAT-001", "storage", 50.0), ("SOLAR-001", "solar", 200.0)):
            for ahead in range(3):
                step = {"resource_id": resource, "ts": hour + ahead * timedelta(hours=1), "type": kind}
                connection.execute(
                    sa.insert(tables.setpoint), {**issue, **step, "output_kw": output, "marginal_price": 0.0}
                )
    async with platform.stream("viewer", "vpp.VPP-001.status") as stream:
        before = await stream.until("vpp.VPP-001.status")
        assert before.keys() == {"vppId", "currentOutput", "setpoint", "soc", "status", "lastUpdate"}
        assert before["setpoint"] == 250.0
        quarter = now.replace(minute=now.minute // 15 * 15, second=0, microsecond=0)
        platform.put("BAT-001", "soc", 0.625, quarter)
        platform.put("BAT-001", "output", -120.0, quarter)
        after = await stream.until(
            "vpp.VPP-001.status",
            lambda said: said["soc"] == 0.625 and said["currentOutput"] == pytest.approx(before["currentOutput"] - 120),
        )
        assert after["status"] == "degraded"  # the other devices are silent
        assert after["lastUpdate"] is not None
        with platform.engine.begin() as connection:
            made = commands.enqueue(
                connection,
                "BAT-001",
                instruction("setpoint", -300.0, "kW"),
                requested_by="operator",
                now=datetime.now(UTC),
                valid_until=now + timedelta(minutes=5),
            )
            commands.acknowledge(connection, "BAT-001", Ack(made.command_id, None, "accepted", None), datetime.now(UTC))
        await stream.until("vpp.VPP-001.status", lambda said: said["setpoint"] == -100.0)


async def test_a_prosumer_s_vpp_tells_nobody_else(platform: Platform) -> None:
    now = datetime.now(UTC)
    with platform.engine.begin() as connection:
        vpp_registry.create(
            connection, "Mine", 5.0, "seoul", actor="x", now=now, vpp_id="VPP-000", participant_id="HOME-02"
        )
    async with platform.stream("viewer", "vpp.*") as owner, platform.stream("trader", "vpp.*") as other:
        assert (await owner.until("vpp.VPP-000.status"))["status"] == "offline"
        # updates come in the order of their ids
        assert (await other.frame() if not other.data else other.data[0])["channel"] == "vpp.VPP-001.status"
        refused, absent = (
            await other.ask("subscribe", "vpp.VPP-000.status"),
            await other.ask("subscribe", "vpp.VPP-999.status"),
        )
        assert refused["errors"][0]["code"] == absent["errors"][0]["code"] == "unknown_channel"
        assert refused["errors"][0]["detail"] == absent["errors"][0]["detail"]
    with platform.engine.begin() as connection:
        vpp_registry.delete(connection, "VPP-000", actor="x", now=now)


async def test_a_market_tells_its_last_price(platform: Platform) -> None:
    async with platform.stream("trader", "trading.market.KRW-KWH") as stream:
        for number, price in enumerate((None, 120_500_000, None)):
            delivery = T0 + number * timedelta(hours=1)
            with platform.engine.begin() as connection:
                connection.execute(
                    sa.insert(tables.clearing),
                    {
                        "market_id": "KRW-KWH",
                        "delivery_start": delivery,
                        "gate_closure": delivery - timedelta(minutes=55),
                        "price_micro": price,
                        "volume_wh": 1_500 if price else 0,
                        "import_price_micro": 150_000_000,
                        "export_price_micro": 90_000_000,
                        "digest": "00",
                    },
                )
        assert await stream.until("trading.market.KRW-KWH") == {
            "market": "KRW-KWH",
            "currency": "KRW",
            "lastPrice": "120.5",
            "volume": 1.5,
            "deliveryStart": rfc3339(T0 + timedelta(hours=1)),
            "deliveryEnd": rfc3339(T0 + timedelta(hours=2)),
        }


async def test_commands_are_told_step_by_step_to_operators_and_owners_alone(platform: Platform) -> None:
    async with (
        platform.stream("operator", "meter.PV-H01.command") as operator,
        platform.stream("trader", "meter.*") as owner,
        platform.stream("viewer", "meter.*") as neighbour,
    ):
        now = datetime.now(UTC)
        wanted = instruction("setpoint", 2.0, "kW")
        until = now + timedelta(minutes=5)

        def transition(device: str) -> str:
            with platform.engine.begin() as connection:
                made = commands.enqueue(connection, device, wanted, requested_by="operator", now=now, valid_until=until)
            with platform.engine.begin() as connection:
                commands.acknowledge(connection, device, Ack(made.command_id, None, "accepted", None), now)
                commands.acknowledge(connection, device, Ack(made.command_id, None, "done", None), now)
            return made.command_id

        command_id = transition("PV-H01")
        for stream in (operator, owner):
            seen: list[str] = []
            while seen[-1:] != ["done"]:
                payload = await stream.until("meter.PV-H01.command")
                assert payload["deviceId"] == "PV-H01"
                assert payload["state"] == payload["transitions"][-1]["state"]
                assert payload["command"]["value"] == 2.0
                seen += [one["state"] for one in payload["transitions"] if one["commandId"] == command_id]
            assert seen == ["queued", "accepted", "done"]
        transition("PV-H02")
        await neighbour.until("meter.PV-H02.command", lambda said: said["state"] == "done")
        for stream, mine in ((neighbour, "meter.PV-H02.command"), (owner, "meter.PV-H01.command")):
            assert (await stream.ask("unsubscribe", "meter.*"))["type"] == "ack"
            assert {frame["channel"] for frame in stream.data} <= {mine}


# -- frames


async def test_every_frame_is_answered_and_no_bad_one_ends_the_connection(platform: Platform) -> None:
    async with platform.stream() as stream:
        for frame, code in (
            ("{", "bad_frame"),
            (b"\xff\xfe", "bad_frame"),
            ("", "bad_frame"),
            ([], "bad_frame"),
            ({}, "bad_frame"),
            ({"action": "subscribe"}, "bad_frame"),
            ({"action": "subscribe", "channels": "consumption.seoul"}, "bad_frame"),
            ({"action": "subscribe", "channels": [1]}, "bad_frame"),
            ({"action": "dance"}, "unknown_action"),
            ({"action": "subscribe", "channels": ["x" * 20_000]}, "frame_too_large"),
            ({"action": "subscribe", "channels": [f"consumption.{n}" for n in range(101)]}, "too_many_channels"),
            ({"action": "authenticate", "token": "nonsense"}, "unauthenticated"),
        ):
            await stream.send(frame)
            answer = await stream.answer()
            assert (answer["type"], answer["code"]) == ("error", code), frame
            assert answer["detail"]
        assert await stream.ask("subscribe", "consumption.seoul") == {
            "type": "ack",
            "action": "subscribe",
            "channels": ["consumption.seoul"],
        }
        await stream.send(json.dumps({"action": "unsubscribe", "channels": ["consumption.seoul"]}).encode())
        assert (await stream.answer())["type"] == "ack"


@pytest.mark.parametrize(
    ("role", "channel", "code"),
    [
        ("operator", "weather.seoul", "unknown_channel"),
        ("operator", "consumption", "unknown_channel"),
        ("operator", "consumption.", "unknown_channel"),
        ("operator", "consumption.atlantis", "unknown_channel"),
        ("operator", "generation.coal", "unknown_channel"),
        ("operator", "vpp.VPP-999.status", "unknown_channel"),
        ("operator", "vpp.VPP-999.*", "unknown_channel"),
        ("operator", "vpp.VPP-001", "unknown_channel"),
        ("operator", "vpp.*.status", "unknown_channel"),
        ("operator", "trading.market.EUR-KWH", "unknown_channel"),
        ("operator", "meter.NOBODY.command", "unknown_channel"),
        ("operator", "*", "unknown_channel"),
        ("viewer", "trading.market.KRW-KWH", "forbidden"),
        ("viewer", "trading.*", "forbidden"),
        # a stranger's device and one that does not exist look alike
        ("trader", "meter.PV-H02.command", "forbidden"),
        ("trader", "meter.NOBODY.command", "forbidden"),
        ("trader", "meter.SM-001.command", "forbidden"),
    ],
)
async def test_a_channel_that_cannot_be_had_is_refused_and_the_others_are_not(
    platform: Platform, role: str, channel: str, code: str
) -> None:
    async with platform.stream(role) as stream:
        answer = await stream.ask("subscribe", "generation.solar", channel)
        assert (answer["type"], answer["action"], answer["code"]) == ("error", "subscribe", code)
        assert answer["channels"] == ["generation.solar"]
        assert [one["channel"] for one in answer["errors"]] == [channel]


@pytest.mark.parametrize(
    ("role", "channels"),
    [
        ("operator", ["vpp.VPP-001.status", "vpp.VPP-001.*", "vpp.*", "meter.SM-001.command", "meter.SM-001.*"]),
        ("auditor", ["trading.market.KRW-KWH", "trading.market.*", "trading.*", "meter.PV-H02.command"]),
        ("trader", ["meter.PV-H01.command", "meter.PV-H01.*", "meter.*", "trading.*", "consumption.busan"]),
        ("viewer", ["meter.PV-H02.command", "consumption.real-time", "consumption.*", "generation.*", "vpp.*"]),
    ],
)
async def test_a_channel_that_may_be_had_is_granted(platform: Platform, role: str, channels: list[str]) -> None:
    async with platform.stream(role) as stream:
        assert await stream.ask("subscribe", *channels) == {"type": "ack", "action": "subscribe", "channels": channels}
        assert (await stream.ask("unsubscribe", *channels))["type"] == "ack"


# -- callers


async def test_a_token_comes_in_the_address_or_in_the_first_frame_too(platform: Platform) -> None:
    token = platform.token("viewer")
    async with platform.open(f"?token={token}") as stream:
        assert (await stream.ask("subscribe", "generation.solar"))["type"] == "ack"
    async with platform.open() as stream:
        early = await stream.ask("subscribe", "generation.solar")
        assert (early["type"], early["code"]) == ("error", "unauthenticated")
        await stream.send("{")
        assert (await stream.answer())["code"] == "bad_frame"
        await stream.send({"action": "authenticate", "token": token})
        answer = await stream.answer()
        assert (answer["type"], answer["action"]) == ("ack", "authenticate")
        assert datetime.fromisoformat(answer["expiresAt"]) > datetime.now(UTC)
        assert (await stream.ask("subscribe", "generation.solar"))["type"] == "ack"


@pytest.mark.parametrize("way", ["header", "query", "frame"])
async def test_a_bad_token_ends_the_connection(platform: Platform, way: str) -> None:
    bad = platform.forged("operator", -5)
    headers = {"Authorization": f"Bearer {bad}"} if way == "header" else None
    async with platform.open(f"?token={bad}" if way == "query" else "", additional_headers=headers) as stream:
        if way == "frame":
            await stream.send({"action": "authenticate", "token": bad})
        answer = await stream.answer()
        assert (answer["type"], answer["code"]) == ("error", "unauthenticated")
        assert await stream.closed() == 4401


async def test_a_role_that_reads_nothing_hears_nothing(platform: Platform) -> None:
    async with platform.stream("device") as stream:
        assert (await stream.answer())["code"] == "forbidden"
        assert await stream.closed() == 4403


async def test_an_expired_token_ends_the_connection_unless_it_is_renewed(platform: Platform) -> None:
    async with (
        platform.open(f"?token={platform.forged('operator', 1.5)}") as brief,
        platform.open(f"?token={platform.forged('operator', 1.5)}") as renewed,
    ):
        await renewed.send({"action": "authenticate", "token": platform.forged("operator", 600)})
        assert (await renewed.answer())["type"] == "ack"
        await renewed.send({"action": "authenticate", "token": platform.forged("viewer", 600)})
        assert (await renewed.answer())["code"] == "forbidden"
        assert await brief.closed() == 4401
        assert (await renewed.ask("subscribe", "vpp.*"))["type"] == "ack"


async def test_a_closed_account_s_connection_ends_within_seconds(platform: Platform) -> None:
    with platform.engine.begin() as connection:
        for name in ("leaver", "mover"):
            accounts.add(connection, name, PASSWORD, "viewer", participant_id="HOME-02")
    async with platform.stream("leaver", "generation.*") as leaver, platform.stream("mover", "generation.*") as mover:
        with platform.engine.begin() as connection:
            accounts.set_disabled(connection, "leaver")
            connection.execute(
                sa.update(tables.account).where(tables.account.c.username == "mover").values(participant_id="HOME-01")
            )
        assert await leaver.closed() == 4401
        assert await mover.closed() == 4401
    # and it cannot come back with the token that it still has
    async with platform.stream("leaver") as again:
        assert await again.closed() == 4401


# -- trouble


async def test_a_client_that_takes_nothing_is_let_go_and_the_others_go_on(platform: Platform) -> None:
    with platform.outside() as process:
        await _starve(platform)
        # and it stops promptly while clients listen
        async with platform.stream("operator", "consumption.*") as stream:
            process.send_signal(signal.SIGINT)
            await stream.closed()
            await asyncio.to_thread(process.wait, 10)
    assert "Traceback" not in platform.log.read_text()


async def _starve(platform: Platform) -> None:
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    narrow.setblocking(False)
    await asyncio.get_running_loop().sock_connect(narrow, ("127.0.0.1", platform.port))
    reader, writer = await asyncio.open_connection(sock=narrow, limit=1024)
    async with platform.stream("operator", "consumption.seoul") as quick:
        request = (
            f"GET {PATH}?token={platform.token('viewer')} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        writer.write(request.encode())
        assert b"101" in await reader.readline()
        # Each of these frames is answered at length; none of the answers is read.
        frame = _masked(json.dumps({"action": "subscribe", "channels": [f"generation.{n}" * 4 for n in range(100)]}))
        shed = re.compile(r"stream_ended.*account=viewer.*code=1013")
        async with asyncio.timeout(60):
            number = 0
            while not shed.search(_plain(platform.log)):
                if writer.transport.get_write_buffer_size() < 100_000:
                    writer.write(frame)
                number += 1
                if number % 100 == 0:
                    platform.put("SM-H09", "consumption", float(number))
                    await quick.until("consumption.seoul")
                await asyncio.sleep(0.001)
        platform.put("SM-H09", "consumption", 0.5)
        await quick.until("consumption.seoul")
    writer.close()


async def test_streams_go_on_after_the_database_was_away(platform: Platform) -> None:
    platform.put("SM-H09", "consumption", 1.0)
    async with platform.stream("operator", "consumption.seoul") as stream:
        before = await stream.until("consumption.seoul")
        platform.server.stop()
        refused = await stream.ask("subscribe", "vpp.VPP-001.status")
        assert (refused["type"], refused["code"]) == ("error", "unavailable")
        platform.server.start()
        platform.engine.dispose()
        # Nobody listened when this was told: it is found all the same.
        platform.put("SM-H10", "consumption", 7.0)
        after = await stream.until("consumption.seoul", lambda said: said["total"] != before["total"])
        assert after["total"] == pytest.approx(before["total"] + 7.0)
        platform.put("SM-H10", "consumption", 8.0)
        await stream.until("consumption.seoul", lambda said: said["total"] == pytest.approx(before["total"] + 8.0))
        assert (await stream.ask("subscribe", "vpp.VPP-001.status"))["type"] == "ack"


async def test_no_other_path_takes_websockets(platform: Platform) -> None:
    with pytest.raises(InvalidStatus):
        async with connect(f"ws://127.0.0.1:{platform.port}/v1/energy/nowhere"):
            pass


def _masked(text: str) -> bytes:
    """A client's text frame; the mask is all zeros."""
    data = text.encode()
    assert 126 <= len(data) < 65_536
    return bytes([0x81, 0x80 | 126]) + len(data).to_bytes(2, "big") + bytes(4) + data


def _plain(log: Path) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", log.read_text())
