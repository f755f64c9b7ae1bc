"""The hub and its connections in one process: who gets in, what waits, and what goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from fastapi import WebSocket
from fastapi.routing import APIWebSocketRoute, iter_route_contexts

from energy_cloud_dagster.adapters import readings, registry, streams
from energy_cloud_dagster.adapters.database import make_engine, upgrade
from energy_cloud_dagster.adapters.readings import ReadingRow
from energy_cloud_dagster.adapters.streams import Window
from energy_cloud_dagster.api import channels, stream, subscriber
from energy_cloud_dagster.api.app import create_app
from energy_cloud_dagster.api.feeds import FlowFeed, News
from energy_cloud_dagster.api.routers import real_time
from energy_cloud_dagster.api.security import SCOPES, Principal, access_of, is_public
from energy_cloud_dagster.api.stream import Hub
from energy_cloud_dagster.api.subscriber import MOST_WAITING, STALL_SECONDS, Subscriber
from energy_cloud_dagster.sample_data.community import SEOUL_COMMUNITY

if TYPE_CHECKING:
    from fastapi import FastAPI

    from energy_cloud_dagster.embedded.postgres import EmbeddedPostgres
    from energy_cloud_dagster.settings import Settings

    from .conftest import Client

pytestmark = pytest.mark.anyio
PATH = "/v1/energy/real-time"
T0 = datetime(2026, 5, 1, 3, tzinfo=UTC)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Call:
    """A WebSocket client of an ASGI application, without a server between them."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(10):
            return await self.sent.get()

    async def say(self, document: dict[str, Any]) -> dict[str, Any]:
        await self.inbox.put({"type": "websocket.receive", "text": json.dumps(document)})
        answer: dict[str, Any] = json.loads((await self.next())["text"])
        return answer


@contextlib.asynccontextmanager
async def call(app: FastAPI, path: str = PATH, query: str = "") -> AsyncIterator[Call]:
    made = Call()
    scope = {
        "type": "websocket",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [],
        "subprotocols": [],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "state": {},
    }
    await made.inbox.put({"type": "websocket.connect"})
    task = asyncio.create_task(app(scope, made.inbox.get, made.sent.put))  # type: ignore[arg-type]
    try:
        yield made
        await made.inbox.put({"type": "websocket.disconnect", "code": 1000})
        async with asyncio.timeout(10):
            await task
    finally:
        task.cancel()


# -- who gets in


def websockets(app: FastAPI) -> dict[str, Any]:
    found = {}
    for context in iter_route_contexts(app.routes):
        if isinstance(context.original_route, APIWebSocketRoute):
            found[context.path_format or context.original_route.path] = context.original_route.endpoint
    return found


async def test_every_websocket_names_a_scope_of_some_role_and_is_closed_without_a_token(app: FastAPI) -> None:
    assert list(websockets(app)) == [PATH]
    for path, endpoint in websockets(app).items():
        assert access_of(endpoint) in SCOPES["admin"]
        assert not is_public(endpoint)
        async with call(app, path, "token=nonsense") as client:
            assert (await client.next())["type"] == "websocket.accept"
            assert json.loads((await client.next())["text"])["code"] == "unauthenticated"
            closed = await client.next()
            assert (closed["type"], closed["code"]) == ("websocket.close", 4401)


async def test_a_websocket_that_names_no_scope_stays_closed(api_settings: Settings) -> None:
    app = create_app(api_settings)

    @app.websocket("/v1/forgotten")
    async def forgotten(websocket: WebSocket) -> None:
        await websocket.accept()

    async with call(app, "/v1/forgotten") as client:
        closed = await client.next()
        assert closed["type"] == "websocket.close"  # before it was accepted: 403


async def test_who_says_nothing_is_not_waited_for(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_time, "GRACE_SECONDS", 0.05)
    async with call(app) as client:
        assert (await client.next())["type"] == "websocket.accept"
        closed = await client.next()
        assert (closed["type"], closed["code"]) == ("websocket.close", 4401)


async def test_without_a_database_a_caller_is_asked_to_come_again(api_settings: Settings, operator: Client) -> None:
    token = operator._headers["Authorization"].split()[1]
    url = "postgresql://nobody@127.0.0.1:9/nothing"
    app = create_app(api_settings.model_copy(update={"database_url": type(api_settings.database_url)(url)}))
    async with call(app, query=f"token={token}") as client:
        assert (await client.next())["type"] == "websocket.accept"
        assert json.loads((await client.next())["text"])["code"] == "unavailable"
        assert (await client.next())["code"] == 1013


async def test_a_fault_of_ours_ends_one_connection(
    app: FastAPI, operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(*_: object) -> None:
        raise RuntimeError("a fault")

    token = operator._headers["Authorization"].split()[1]
    async with call(app, query=f"token={token}") as client:
        assert (await client.next())["type"] == "websocket.accept"
        assert (await client.say({"action": "subscribe", "channels": ["vpp.*"]}))["type"] == "ack"
        monkeypatch.setattr(channels, "check", faulty)
        await client.inbox.put({"type": "websocket.receive", "text": '{"action":"subscribe","channels":["vpp.*"]}'})
        assert (await client.next())["type"] == "websocket.close"
    assert not app.state.streams._listeners


# -- what waits

OPERATOR = Principal("operator", "operator", None, SCOPES["operator"], "1")


def make_subscriber(send: Any = None) -> tuple[Subscriber, list[str]]:
    said: list[str] = []

    async def keep(text: str) -> None:
        said.append(text)

    return Subscriber(send or keep, OPERATOR, datetime.now(UTC) + timedelta(hours=1)), said


async def test_of_a_channel_only_the_newest_state_waits() -> None:
    one, said = make_subscriber()
    for number in range(3 * MOST_WAITING):
        one.offer(f"a{number}", channel="a")
    one.offer("answer")
    one.offer("b", channel="b")
    delivering = asyncio.create_task(one.deliver())
    while len(said) < 3:
        await asyncio.sleep(0)
    delivering.cancel()
    assert said == [f"a{3 * MOST_WAITING - 1}", "answer", "b"]
    assert not one.ended.done()


async def test_more_than_the_limit_ends_the_connection_and_keeps_nothing() -> None:
    one, _ = make_subscriber()
    for number in range(MOST_WAITING):
        one.offer(str(number))
    assert not one.ended.done()
    one.offer("one too many")
    assert one.ended.result()[0] == 1013
    one.offer("later")
    one.end(4401, "too late to be the reason")
    assert one.ended.result()[0] == 1013
    assert len(one._waiting) <= 1


async def test_a_connection_that_takes_nothing_is_seen_by_its_clock() -> None:
    never = asyncio.Event()

    async def stuck(_: str) -> None:
        await never.wait()

    one, _ = make_subscriber(stuck)
    clock = asyncio.get_running_loop().time
    one.check(clock() + 2 * STALL_SECONDS, datetime.now(UTC))
    assert not one.ended.done()  # nothing was to be sent
    one.offer("something")
    delivering = asyncio.create_task(one.deliver())
    await asyncio.sleep(0)
    one.check(clock() + STALL_SECONDS / 2, datetime.now(UTC))
    assert not one.ended.done()
    one.check(clock() + 2 * STALL_SECONDS, datetime.now(UTC))
    assert one.ended.result()[0] == subscriber.TRY_AGAIN_LATER
    delivering.cancel()


# -- what is told


@pytest.fixture(scope="module")
def hub_url(postgres: EmbeddedPostgres) -> str:
    postgres.ensure_database("energy_cloud_hub")
    url = postgres.url("energy_cloud_hub")
    upgrade(url)
    engine = make_engine(url, pool_size=1)
    with engine.begin() as connection:
        registry.seed(connection, SEOUL_COMMUNITY, T0, demo_key="test")
    engine.dispose()
    return url


@contextlib.asynccontextmanager
async def hub_of(url: str) -> AsyncIterator[tuple[Hub, sa.Engine]]:
    engine = make_engine(url)
    hub = Hub(engine, url)
    async with hub.running():
        yield hub, engine
    engine.dispose()


def put(engine: sa.Engine, value: float, ts: datetime = T0) -> None:
    with engine.begin() as connection:
        known = readings.series_ids(connection)
        series_id = known["SM-H01", "consumption"].series_id
        readings.store(connection, [ReadingRow(series_id, ts, value, "high", datetime.now(UTC), "mqtt")])


@contextlib.asynccontextmanager
async def hearing(hub: Hub, *names: str) -> AsyncIterator[asyncio.Queue[dict[str, Any]]]:
    heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def send(text: str) -> None:
        await heard.put(json.loads(text))

    one, _ = make_subscriber(send)
    hub.join(one)
    hub.subscribe(one, names)
    delivering = asyncio.create_task(one.deliver())
    try:
        yield heard
    finally:
        hub.leave(one)
        delivering.cancel()


async def total(heard: asyncio.Queue[dict[str, Any]], expected: float) -> None:
    async with asyncio.timeout(20):
        while (await heard.get())["payload"]["total"] != expected:
            pass


async def test_news_that_nobody_can_read_or_count_is_looked_up(hub_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with hub_of(hub_url) as (hub, engine), hearing(hub, "consumption.seoul") as heard:
        await asyncio.to_thread(put, engine, 1.0)
        await total(heard, 1.0)
        for payload in (
            "{",
            "[]",
            '{"from": "yesterday"}',
            '{"rows": 3}',
            '{"from": "2026-05-01", "to": "2026-05-01T00:00Z"}',
        ):
            with engine.begin() as connection:
                connection.execute(sa.select(sa.func.pg_notify("readings", payload)))
        await asyncio.to_thread(put, engine, 2.0)
        await total(heard, 2.0)
        monkeypatch.setattr(stream, "_MOST_ROWS", 1)
        await asyncio.to_thread(put, engine, 3.0)
        await total(heard, 3.0)


async def test_a_fault_of_a_feed_is_outlived(hub_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    update = FlowFeed.update
    failed = asyncio.Event()
    loop = asyncio.get_running_loop()

    def faulty(self: FlowFeed, connection: sa.Connection, news: News) -> Any:
        loop.call_soon_threadsafe(failed.set)
        monkeypatch.setattr(FlowFeed, "update", update)
        raise RuntimeError("a fault")

    async with hub_of(hub_url) as (hub, engine), hearing(hub, "consumption.seoul") as heard:
        await asyncio.to_thread(put, engine, 4.0)
        await total(heard, 4.0)
        monkeypatch.setattr(FlowFeed, "update", faulty)
        await asyncio.to_thread(put, engine, 5.0)
        async with asyncio.timeout(20):
            await failed.wait()
        await total(heard, 5.0)


async def test_totals_are_read_anew_now_and_then(hub_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with hub_of(hub_url) as (hub, engine), hearing(hub, "consumption.*") as heard:
        await asyncio.to_thread(put, engine, 6.0)
        await total(heard, 6.0)
        monkeypatch.setattr(FlowFeed, "_SETTLE_SECONDS", 0.0)
        await asyncio.to_thread(put, engine, 7.0)
        await total(heard, 7.0)
        # What changes without a word, such as who lives where, is seen after a while.
        monkeypatch.setattr(FlowFeed, "_RELOAD_SECONDS", 0.0)
        with engine.begin() as connection:
            connection.execute(sa.text("update registry.device set region_id = 'busan' where device_id = 'SM-H01'"))
        async with asyncio.timeout(20):
            while (await heard.get())["channel"] != "consumption.busan":
                pass
        with engine.begin() as connection:
            connection.execute(sa.text("update registry.device set region_id = 'seoul' where device_id = 'SM-H01'"))


def test_windows_join_to_what_holds_both_and_an_unknown_bound_stays_unknown() -> None:
    hour = timedelta(hours=1)
    one = Window(T0, T0 + hour, T0 + 2 * hour, T0 + 3 * hour)
    other = Window(T0 - hour, T0, T0 + hour, T0 + 2 * hour)
    assert one.around(other) == other.around(one) == Window(T0 - hour, T0 + hour, T0 + hour, T0 + 3 * hour)
    assert one.around(Window(T0, T0, None, None)) == Window(T0, T0 + hour, None, None)


def test_what_is_new_is_found_by_receipt_and_by_interval(hub_url: str) -> None:
    engine = make_engine(hub_url, pool_size=1)
    with engine.connect() as connection, connection.begin() as transaction:
        series_id = readings.series_ids(connection)["SM-H02", "consumption"].series_id
        received = datetime.now(UTC) + timedelta(days=1)
        rows = [ReadingRow(series_id, T0 + timedelta(hours=n), n, "high", received, "mqtt") for n in range(4)]
        readings.store(connection, rows)
        whole = Window(T0, T0 + timedelta(hours=3), received, received)
        later = T0 + timedelta(hours=2)

        def found(window: Window, not_before: datetime | None = None, limit: int = 1_000) -> list[float]:
            return sorted(
                one.value
                for one in streams.fresh(connection, window, not_before, limit=limit)
                if one.series_id == series_id
            )

        assert found(whole) == [0, 1, 2, 3]
        assert found(whole._replace(received_first=None)) == [0, 1, 2, 3]
        assert found(whole._replace(received_first=received + timedelta(microseconds=1))) == []
        assert found(whole, later) == [2, 3]
        assert len(streams.fresh(connection, whole, None, limit=3)) == 3
        assert [one.value for one in streams.latest(connection, [series_id], T0)] == [3]
        assert streams.latest(connection, [series_id], T0 + timedelta(hours=4)) == []
        transaction.rollback()
    engine.dispose()
