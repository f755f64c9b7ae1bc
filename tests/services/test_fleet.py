"""The fleet against a real broker and a real OPC UA client."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import pytest

from energy_cloud_dagster.adapters.opcua import Tag, read_tag_map
from energy_cloud_dagster.domain.errors import BrokerUnavailable, Misconfigured, PartUnavailable
from energy_cloud_dagster.sample_data.community import community
from energy_cloud_dagster.services import opcua_plant
from energy_cloud_dagster.services.fleet import FleetOptions, FleetState, live, run_live
from energy_cloud_dagster.services.mqtt_fleet import FleetClient, replay_mqtt
from energy_cloud_dagster.services.opcua_plant import PlantServer, PlantThread
from energy_cloud_dagster.services.simulator import Message, messages, received_between

if TYPE_CHECKING:
    from energy_cloud_dagster.embedded.broker import EmbeddedBroker
    from tests.services.conftest import Listen

SEOUL = community()
START = datetime(2026, 3, 2, 15, tzinfo=UTC)
HOUR = timedelta(hours=1)
MQTT, OPCUA = frozenset({"mqtt"}), frozenset({"opcua"})


def spoken(message: Message, *, replay: bool) -> tuple[str, dict[str, Any]]:
    return message.topic, json.loads(message.payload(simulated_receipt=replay))


def test_a_replay_reaches_a_subscriber_whole_and_in_order(broker: EmbeddedBroker, listen: Listen) -> None:
    expected = [spoken(message, replay=True) for message in messages(SEOUL, START, START + 6 * HOUR, MQTT)]
    told: list[int] = []
    with listen() as listener:
        done = replay_mqtt(
            broker.url, broker.username, broker.password, START, START + 6 * HOUR, window=7, progress=told.append
        )
        heard = listener.wait_for(lambda number: number >= len(expected))
    assert heard == expected
    assert done.messages == len(expected) == told[-1]


def test_a_refused_login_and_a_silent_broker_give_a_reason(broker: EmbeddedBroker, unused_port: int) -> None:
    with pytest.raises((Misconfigured, BrokerUnavailable)):
        FleetClient(broker.url, broker.username, "wrong").connect()
    with pytest.raises(BrokerUnavailable, match="did not answer"):
        FleetClient(f"mqtt://127.0.0.1:{unused_port}", "", "").connect()
    with pytest.raises(Misconfigured, match="ENERGY_CLOUD_MQTT_URL"):
        FleetClient("http://127.0.0.1", "", "")


def test_a_stalled_broker_is_noticed() -> None:
    """One that accepts the connection and then never acknowledges anything."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> socket.socket:
            connection, _ = listening.accept()
            connection.recv(1_024)
            connection.sendall(bytes([0x20, 2, 0, 0]))  # CONNACK
            return connection

        with ThreadPoolExecutor(1) as pool:
            accepted = pool.submit(accept)
            url = f"mqtt://127.0.0.1:{listening.getsockname()[1]}"
            with FleetClient(url, "", "", stall_seconds=0.3) as client, accepted.result():
                client.publish("energy-cloud/seoul/smart-meter/SM-001/consumption", b"{}")
                with pytest.raises(BrokerUnavailable, match="1 messages unacknowledged"):
                    client.flush()


@pytest.fixture
def unused_port() -> int:
    return opcua_plant._free_port("127.0.0.1")


class Scada:
    """An OPC UA client that subscribes to every tag as a bridge does."""

    def __init__(self, url: str, queue: int = 1_000) -> None:
        from asyncua import Client

        self.heard: list[tuple[str, float | None, str, datetime, datetime]] = []
        self._client = Client(url)
        self._queue = queue

    async def __aenter__(self) -> Self:
        from asyncua import ua

        await self._client.connect()
        subscription = await self._client.create_subscription(20, self)
        every = ua.DataChangeFilter(Trigger=ua.DataChangeTrigger.StatusValueTimestamp)
        for tag in read_tag_map():
            await subscription._subscribe(
                self._client.get_node(tag.node), ua.AttributeIds.Value, mfilter=every, queuesize=self._queue
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.disconnect()

    def datachange_notification(self, node: Any, value: float | None, data: Any) -> None:
        got = data.monitored_item.Value
        if got.SourceTimestamp is not None:
            heard = (node.nodeid.Identifier, value, got.StatusCode.name, got.SourceTimestamp, got.ServerTimestamp)
            self.heard.append(heard)


def tagged(message: Message) -> tuple[str, float | None, str, datetime, datetime]:
    node = {(tag.device, tag.metric): tag.node.rpartition(";s=")[2] for tag in read_tag_map()}
    status = "Good" if message.value is not None else "BadNoCommunication"
    return node[message.device_id, message.metric], message.value, status, message.ts, message.received_at


def replayed(plant: PlantThread, begin: datetime, end: datetime, queue: int = 1_000) -> list[tuple[Any, ...]]:
    """What a SCADA client hears of a replay."""

    async def listen() -> Scada:
        async with Scada(plant.url, queue) as scada:
            await asyncio.to_thread(plant.wait_until_watched)
            await asyncio.to_thread(plant.replay, begin, end)
            return scada

    # A new subscription begins with the value that a tag already has.
    return sorted(value for value in asyncio.run(listen()).heard if begin <= value[3] < end)


def test_a_plant_without_a_subscriber_says_so(plant: PlantThread) -> None:
    with pytest.raises(PartUnavailable, match="nobody subscribed"):
        plant.replay(START, START + HOUR, timeout_seconds=0.05)


@pytest.mark.parametrize(("queue", "hours"), [(1_000, 48), (1, 4)])
def test_the_plant_loses_no_value(plant: PlantThread, queue: int, hours: int) -> None:
    begin = START + 100 * HOUR * queue
    expected = sorted(tagged(message) for message in messages(SEOUL, begin, begin + hours * HOUR, OPCUA))
    assert len(expected) == 24 * hours
    assert replayed(plant, begin, begin + hours * HOUR, queue) == expected


def test_empty_readings_have_a_bad_status(plant: PlantThread) -> None:
    empty = next(m for m in messages(SEOUL, START, START + 24 * 365 * HOUR, OPCUA) if m.value is None)
    heard = replayed(plant, empty.ts, empty.ts + timedelta(minutes=10))
    assert tagged(empty) in heard
    assert "BadNoCommunication" in {value[2] for value in heard}


def test_a_taken_port_is_one_sentence(plant: PlantThread) -> None:
    port = int(plant.url.rpartition(":")[2].partition("/")[0])
    with pytest.raises(PartUnavailable, match="cannot listen"), PlantThread(port):
        pass


def test_a_tag_that_the_community_does_not_have_is_named() -> None:
    wrong_unit = (Tag("ns=2;s=A", "WT-R80711", "output", "MW"),)
    with pytest.raises(Misconfigured, match="in MW"):
        PlantServer(tags=wrong_unit)


# -- live


def options(broker: EmbeddedBroker, folder: Path, **changes: Any) -> FleetOptions:
    return FleetOptions(
        broker.url, broker.username, broker.password, folder / "fleet.json", **{"since": START, **changes}
    )


async def run_until(chosen: FleetOptions, now: datetime, protocol: Literal["mqtt", "opcua"]) -> None:
    """Run the live fleet at a standing clock until it has delivered everything of ``protocol`` that is due."""
    stop = asyncio.Event()
    task = asyncio.create_task(live(chosen, stop, clock=lambda: now))
    try:
        async with asyncio.timeout(30):
            while not task.done() and FleetState(chosen.state_file, START).delivered(protocol) < now:
                await asyncio.sleep(0.02)
    finally:
        stop.set()
    await task


def test_the_live_fleet_sends_what_fell_due_and_goes_on_after_a_restart(
    broker: EmbeddedBroker, listen: Listen, tmp_path: Path
) -> None:
    chosen = options(broker, tmp_path)
    first, second = START + 2 * HOUR, START + 5 * HOUR
    expected = [spoken(message, replay=False) for message in received_between(SEOUL, START, second, MQTT)]
    with listen() as listener:
        asyncio.run(run_until(chosen, first, "mqtt"))
        early = len(list(received_between(SEOUL, START, first, MQTT)))
        assert len(listener.wait_for(lambda number: number >= early)) == early
        asyncio.run(run_until(chosen, second, "mqtt"))
        assert listener.wait_for(lambda number: number >= len(expected)) == expected


def test_live_tags_wait_for_a_subscriber(broker: EmbeddedBroker, tmp_path: Path, unused_port: int) -> None:
    chosen = options(broker, tmp_path, plant_port=unused_port)
    now = START + HOUR

    async def play() -> Scada:
        stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
        task = asyncio.create_task(live(chosen, stop, clock=lambda: now, ready=ready.set_result))
        url = await ready
        async with asyncio.timeout(30), Scada(url) as scada:
            while FleetState(chosen.state_file, START).delivered("opcua") < now:
                await asyncio.sleep(0.02)
            stop.set()
            await task
            return scada

    heard = asyncio.run(play()).heard
    expected = [tagged(message) for message in received_between(SEOUL, START, now, OPCUA)]
    assert {value[:4] for value in heard} == {value[:4] for value in expected}
    # The wall clock, not the simulated receipt.
    assert all(abs(value[4] - datetime.now(UTC)) < timedelta(minutes=5) for value in heard)


def test_a_live_fleet_tries_a_missing_broker_again(
    tmp_path: Path, unused_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    stop_after = asyncio.Event()

    def refuse(self: FleetClient) -> None:
        tried.append("once")
        if len(tried) == 2:
            loop.call_soon_threadsafe(stop_after.set)
        raise BrokerUnavailable("no answer")

    monkeypatch.setattr("energy_cloud_dagster.services.fleet._RETRY_SECONDS", 0.01)
    monkeypatch.setattr(FleetClient, "connect", refuse)
    chosen = FleetOptions(f"mqtt://127.0.0.1:{unused_port}", "", "", tmp_path / "fleet.json", since=START)

    async def play() -> None:
        nonlocal loop
        loop = asyncio.get_running_loop()
        await live(chosen, stop_after, clock=lambda: START + HOUR)

    loop: asyncio.AbstractEventLoop
    asyncio.run(play())
    assert len(tried) >= 2


def test_a_wrong_url_ends_the_fleet_with_its_reason(tmp_path: Path, unused_port: int) -> None:
    chosen = FleetOptions("http://x", "", "", tmp_path / "fleet.json", plant_port=unused_port)
    with pytest.raises(Misconfigured, match="ENERGY_CLOUD_MQTT_URL"):
        asyncio.run(live(chosen, asyncio.Event()))


def test_a_signal_stops_the_process_cleanly(broker: EmbeddedBroker, tmp_path: Path) -> None:
    chosen = options(broker, tmp_path, since=None)
    run_live(chosen, ready=lambda _url: os.kill(os.getpid(), signal.SIGTERM))


def test_a_damaged_state_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "fleet.json"
    path.write_text('{"mqtt": "yesterday"}')
    with pytest.raises(Misconfigured, match=r"fleet\.json is no state"):
        FleetState(path, START)


def test_the_state_never_goes_back(tmp_path: Path) -> None:
    state = FleetState(tmp_path / "fleet.json", START)
    state.advance("mqtt", START + HOUR)
    state.advance("mqtt", START)
    assert FleetState(tmp_path / "fleet.json", START).delivered("mqtt") == START + HOUR
