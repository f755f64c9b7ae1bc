"""Commands on their way: a real broker of either kind, a real database, devices that speak MQTT."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from pydantic import SecretStr

from energy_cloud_dagster.adapters import commands, credentials, database, registry
from energy_cloud_dagster.adapters.commands import Command
from energy_cloud_dagster.adapters.device_link import DeviceLink
from energy_cloud_dagster.adapters.mqtt import Broker
from energy_cloud_dagster.adapters.tables import command, market_registry, region, rejected
from energy_cloud_dagster.domain.commands import instruction, is_signed
from energy_cloud_dagster.domain.errors import BrokerUnavailable, Misconfigured
from energy_cloud_dagster.domain.readings import Topic
from energy_cloud_dagster.embedded.broker import EmbeddedBroker, find_mosquitto
from energy_cloud_dagster.embedded.claims import free_port
from energy_cloud_dagster.embedded.parts import child_environment
from energy_cloud_dagster.services.outbox import run
from energy_cloud_dagster.settings import Settings

if TYPE_CHECKING:
    from energy_cloud_dagster.embedded.postgres import EmbeddedPostgres

RETRY = 0.3
#: Runs an outbox that is killed at the worst moment: the broker has the message, the database knows nothing of it.
_KILLED = """
import os, signal, structlog, sys
from energy_cloud_dagster.adapters import commands
from energy_cloud_dagster.services.outbox import run
from energy_cloud_dagster.settings import load_settings
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
commands.mark_sent = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
run(load_settings(), client_id=sys.argv[1], on_ready=lambda: print("READY", flush=True))
"""


class Device:
    """A device with a lasting session: keeps what it received, answers as ``answers`` say, acts once a command."""

    def __init__(self, bench: Bench, topic: Topic, answers: Callable[[dict[str, Any]], list[dict[str, Any]]]) -> None:
        self.device_id = topic.device_id
        self.received: list[dict[str, Any]] = []
        self.flags: set[tuple[int, bool]] = set()
        self._ack_topic = str(topic._replace(metric="ack"))
        self._answers = answers
        self._news = threading.Condition()
        self._subscribed = threading.Event()
        self._filters = [(str(topic._replace(metric=kind)), 1) for kind in ("command", "config")]
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=topic.device_id, clean_session=False, protocol=mqtt.MQTTv311
        )
        self._client.username_pw_set(bench.broker.username, bench.broker.password)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe(self._filters)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._on_message
        self._client.connect(bench.broker.host, bench.broker.port)
        self._client.loop_start()
        assert self._subscribed.wait(10)

    def _on_message(self, client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        document = json.loads(message.payload)
        with self._news:
            first = document not in self.received
            self.received.append(document)
            self.flags.add((message.qos, message.retain))
            self._news.notify_all()
        if first:
            for answer in self._answers(document):
                client.publish(self._ack_topic, json.dumps(answer), qos=1)

    def wait(self, count: int, seconds: float = 20) -> list[dict[str, Any]]:
        with self._news:
            assert self._news.wait_for(lambda: len(self.received) >= count, seconds), self.received
            return list(self.received)

    def say(self, answer: object, topic: str = "") -> None:
        payload = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self._client.publish(topic or self._ack_topic, payload, qos=1).wait_for_publish(10)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Bench:
    """A database with one region, a broker, and outboxes over both."""

    def __init__(self, engine: sa.Engine, url: str, server: EmbeddedBroker, region_id: str, home: Path) -> None:
        self.engine, self.server, self.region_id = engine, server, region_id
        self.broker = Broker.of(server.url, server.username, server.password)
        self.client_id = f"outbox-{uuid.uuid4().hex[:8]}"
        self.devices: list[Device] = []
        self.settings = Settings(
            _env_file=None,
            home=home / f"outbox-{region_id}",
            database_url=SecretStr(url),
            mqtt_url=server.url,
            mqtt_username=server.username,
            mqtt_password=SecretStr(server.password),
            command_retry_seconds=RETRY,
        )

    def topic(self) -> Topic:
        made = Topic(self.region_id, "battery", f"B-{uuid.uuid4().hex[:8]}", "soc")
        with self.engine.begin() as connection:
            registry.register_device(connection, made, "1", datetime.now(UTC))
        return made

    def device(self, *states: str, **more: Any) -> Device:
        def answers(document: dict[str, Any]) -> list[dict[str, Any]]:
            which = {key: document[key] for key in ("commandId", "version") if key in document}
            return [which | {"state": state} | more for state in states]

        made = Device(self, self.topic(), answers)
        self.devices.append(made)
        return made

    def command(self, device_id: str, power: float = 40.0, seconds: float = 60.0) -> Command:
        now = datetime.now(UTC)
        with self.engine.begin() as connection:
            return commands.enqueue(
                connection,
                device_id,
                instruction("setpoint", power, "kW"),
                requested_by="operator",
                now=now,
                valid_until=now + timedelta(seconds=seconds),
            )

    def now(self, queued: Command) -> Command:
        with self.engine.connect() as connection:
            return commands.get(connection, queued.device_id, queued.command_id)

    def until(self, queued: Command, state: str, seconds: float = 20) -> Command:
        until(lambda: self.now(queued).state == state, seconds)
        return self.now(queued)

    def story(self, queued: Command) -> list[tuple[str, str, str]]:
        with self.engine.connect() as connection:
            return [(each.state, each.actor, each.detail) for each in commands.history(connection, queued.command_id)]

    def moments(self, queued: Command) -> list[datetime]:
        with self.engine.connect() as connection:
            return [each.at for each in commands.history(connection, queued.command_id)]

    def rejects(self, device_id: str) -> list[tuple[str, bytes]]:
        with self.engine.connect() as connection:
            rows = connection.execute(
                sa.select(rejected.c.reason, rejected.c.payload)
                .where(rejected.c.topic.contains(device_id))
                .order_by(rejected.c.rejected_id)
            )
            return [tuple(row) for row in rows]

    @contextmanager
    def outbox(self, **changes: Any) -> Iterator[threading.Event]:
        stop, ready = threading.Event(), threading.Event()
        name = changes.pop("client_id", self.client_id)
        thread = threading.Thread(
            target=run,
            args=(self.settings.model_copy(update=changes),),
            kwargs={"client_id": name, "stop": stop, "on_ready": ready.set},
        )
        thread.start()
        try:
            assert ready.wait(20)
            yield stop
        finally:
            stop.set()
            thread.join(20)
            assert not thread.is_alive()


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    """Ask the database until it says so: the outbox is a process, which gives no event here."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)


@pytest.fixture(scope="module", params=["mosquitto", "iotcore"])
def server(request: pytest.FixtureRequest, home: Path) -> Iterator[EmbeddedBroker]:
    if request.param == "mosquitto" and find_mosquitto() is None:
        pytest.skip("mosquitto is not installed (apt-get install mosquitto)")
    made = EmbeddedBroker(home / f"out-{request.param}", port=free_port(), prefer=request.param)
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def bench(postgres: EmbeddedPostgres, server: EmbeddedBroker, home: Path) -> Iterator[Bench]:
    name = f"ec_outbox_{server.kind}"
    postgres.ensure_database(name)
    url = postgres.url(name)
    database.upgrade(url)
    engine = database.make_engine(url)
    region_id = f"r{uuid.uuid4().hex[:8]}"
    with engine.begin() as connection:
        connection.execute(sa.insert(market_registry).values(market_id="T", currency="KRW"))
        connection.execute(
            sa.insert(region).values(region_id=region_id, name="Test", timezone="UTC", market_id="T", grid_id="T")
        )
    made = Bench(engine, url, server, region_id, home)
    yield made
    engine.dispose()


@pytest.fixture(autouse=True)
def _devices_leave(bench: Bench) -> Iterator[None]:
    yield
    for device in bench.devices:
        device.close()
    bench.devices.clear()
    with bench.engine.begin() as connection:  # what a test left open is not the next one's
        connection.execute(sa.update(command).values(state="done"))


def test_a_command_is_published_accepted_and_done_and_every_step_is_kept(bench: Bench) -> None:
    device = bench.device("accepted", "done")
    with bench.outbox():
        queued = bench.command(device.device_id)
        done = bench.until(queued, "done")
    assert device.received == [
        {
            "commandId": queued.command_id,
            "type": "setpoint",
            "value": 40.0,
            "unit": "kW",
            "validUntil": queued.payload["validUntil"],
        }
    ]
    assert device.flags == {(1, False)}
    assert (done.attempts, done.next_attempt_at, done.reason) == (1, None, None)
    assert bench.story(queued) == [
        ("queued", "operator", ""),
        ("sent", "outbox", ""),
        ("accepted", device.device_id, ""),
        ("done", device.device_id, ""),
    ]
    assert bench.moments(queued) == sorted(bench.moments(queued))


def test_a_device_may_refuse_and_is_asked_no_more(bench: Bench) -> None:
    device = bench.device("rejected", reason="the battery is empty")
    with bench.outbox():
        refused = bench.until(bench.command(device.device_id), "rejected")
    assert refused.reason == "the battery is empty"
    assert refused.next_attempt_at is None


def test_a_silent_device_is_asked_again_until_the_time_is_up_and_its_late_answer_changes_nothing(bench: Bench) -> None:
    device = bench.device()
    with bench.outbox():
        queued = bench.command(device.device_id, seconds=1.2)
        expired = bench.until(queued, "expired")
        assert expired.reason == "no device acknowledged it"
        assert expired.attempts >= 2
        received = device.wait(expired.attempts)
        assert {document["commandId"] for document in received} == {queued.command_id}
        device.say({"commandId": queued.command_id, "state": "done"})
        until(lambda: len(bench.story(queued)) > 3)
    assert bench.now(queued).state == "expired"
    assert bench.story(queued)[-2:] == [
        ("expired", "outbox", "no device acknowledged it"),
        ("expired", device.device_id, "ignored: done while expired"),
    ]
    assert len(device.received) == expired.attempts


def test_a_device_that_accepts_and_never_finishes_expires_with_another_reason(bench: Bench) -> None:
    device = bench.device("accepted")
    with bench.outbox():
        expired = bench.until(bench.command(device.device_id, seconds=1), "expired")
    assert expired.reason == "accepted but not done in time"
    assert expired.attempts == 1


def test_answers_that_come_twice_count_once(bench: Bench) -> None:
    device = bench.device("accepted", "accepted", "done", "done")
    with bench.outbox():
        queued = bench.command(device.device_id)
        until(lambda: len(bench.story(queued)) == 6)
    assert [state for state, _, _ in bench.story(queued)] == ["queued", "sent", "accepted", "accepted", "done", "done"]
    assert [detail for _, _, detail in bench.story(queued) if detail] == [
        "ignored: accepted while accepted",
        "ignored: done while done",
    ]


def test_only_the_commanded_device_may_answer_and_what_is_wrong_is_kept_with_its_reason(bench: Bench) -> None:
    device, other = bench.device(), bench.device()
    with bench.outbox(command_retry_seconds=60):
        queued = bench.command(device.device_id)
        device.wait(1)
        answer = {"commandId": queued.command_id, "state": "done"}
        other.say(answer)
        other.say(b"done!")
        other.say({"commandId": str(uuid.uuid4()), "state": "done"})
        other.say({"version": 1, "state": "done"})
        until(lambda: len(bench.rejects(other.device_id)) == 4)
        assert bench.now(queued).state == "sent"
        device.say(answer)
        bench.until(queued, "done")
    kept = {payload: reason for reason, payload in bench.rejects(other.device_id)}
    assert kept[json.dumps(answer).encode()] == "not_its_command"
    assert kept[b"done!"] == "bad_ack"
    assert sorted(kept.values()) == ["bad_ack", "not_its_command", "unknown_command", "unknown_command"]


def test_a_configuration_is_signed_for_its_device_and_answered_by_its_version(bench: Bench) -> None:
    device, now = bench.device("accepted", "done"), datetime.now(UTC)
    with bench.engine.begin() as connection:
        token = credentials.issue(connection, device.device_id, now)
    with bench.outbox():
        for version in (1, 2):
            with bench.engine.begin() as connection:
                queued = commands.enqueue_config(
                    connection,
                    device.device_id,
                    {"maxExport": 4.5, "mode": "eco"},
                    requested_by="operator",
                    now=now + timedelta(seconds=version),
                    valid_until=now + timedelta(minutes=5),
                )
            assert queued.version == version
            bench.until(queued, "done")
    assert [set(document) for document in device.received] == [{"version", "settings", "signature"}] * 2
    assert [document["version"] for document in device.received] == [1, 2]
    assert all(is_signed(document, token.split("_")[1], token) for document in device.received)


def test_an_older_setpoint_is_not_repeated_once_a_newer_one_was_sent(bench: Bench) -> None:
    device = bench.device()
    with bench.outbox():
        older = bench.command(device.device_id, 10)
        device.wait(1)
        newer = bench.command(device.device_id, 20)
        until(lambda: bench.now(newer).attempts >= 3)
        values = [document["value"] for document in device.wait(4)]
        device.say({"commandId": older.command_id, "state": "accepted"})  # it may answer all the same
        bench.until(older, "accepted")
    assert values.index(20.0) > 0
    assert set(values[values.index(20.0) :]) == {20.0}


def test_an_outbox_killed_after_publishing_sends_again_and_the_device_acts_once(bench: Bench) -> None:
    device = bench.device("accepted", "done")
    environment = child_environment(bench.settings)
    child = subprocess.Popen(
        [sys.executable, "-c", _KILLED, bench.client_id], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "READY\n"
    queued = bench.command(device.device_id)
    assert child.wait(20) == -signal.SIGKILL
    device.wait(1)
    assert bench.now(queued).state == "queued"
    with bench.outbox():
        bench.until(queued, "done")
    assert bench.now(queued).attempts <= 1
    assert {document["commandId"] for document in device.received} == {queued.command_id}
    assert [state for state, actor, detail in bench.story(queued) if not detail][-1] == "done"


def test_what_a_device_says_while_the_outbox_is_away_is_heard_when_it_returns(bench: Bench) -> None:
    device = bench.device()
    with bench.outbox(command_retry_seconds=60):
        queued = bench.command(device.device_id, seconds=1.5)
        device.wait(1)
        bench.until(queued, "sent")
    device.say({"commandId": queued.command_id, "state": "accepted"})
    device.say({"commandId": queued.command_id, "state": "done"})
    until(lambda: datetime.now(UTC) > queued.valid_until)
    with bench.outbox():
        until(lambda: bench.now(queued).state in {"done", "expired"})
    assert bench.now(queued).state == "done"


def test_two_outboxes_side_by_side_publish_each_command_once_and_in_order(bench: Bench) -> None:
    devices = [bench.device("done") for _ in range(4)]
    slow = {"command_retry_seconds": 60}
    with bench.outbox(**slow), bench.outbox(client_id=f"{bench.client_id}-2", **slow):
        queued = [bench.command(device.device_id, power) for power in range(8) for device in devices]
        until(lambda: all(bench.now(each).state == "done" for each in queued))
    for device in devices:
        assert [document["value"] for document in device.received] == [float(power) for power in range(8)]
    assert {bench.now(each).attempts for each in queued} == {1}


def test_a_broker_that_comes_back_gets_what_was_queued_meanwhile_and_time_runs_on_without_it(bench: Bench) -> None:
    device = bench.device("done")
    with bench.outbox():
        assert bench.server.pid is not None
        os.kill(bench.server.pid, signal.SIGKILL)
        bench.server.stop()
        short, long = bench.command(device.device_id, seconds=1), bench.command(device.device_id)
        assert bench.until(short, "expired").reason == "it could not be published in time"
        bench.server.start()
        bench.until(long, "done", 40)


def test_a_refused_login_is_a_matter_for_a_person_where_the_broker_says_so(bench: Bench) -> None:
    wrong = replace(bench.broker, password="wrong")
    told = bench.server.kind == "mosquitto"  # iotcore only hangs up
    with pytest.raises(Misconfigured if told else BrokerUnavailable, match="MQTT_PASSWORD" if told else "closed"):
        DeviceLink(wrong, f"{bench.client_id}-x").__enter__()
