"""Devices at a real mosquitto: each under its own name, let in and shut out while the others go on."""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from energy_cloud_dagster.adapters import credentials, devices, registry
from energy_cloud_dagster.adapters.credentials import BrokerEntry, hash_password
from energy_cloud_dagster.adapters.tables import rejected
from energy_cloud_dagster.embedded import broker_access
from energy_cloud_dagster.embedded.broker import EmbeddedBroker, find_mosquitto
from energy_cloud_dagster.embedded.broker_access import BrokerAccess, acl_file, password_file
from energy_cloud_dagster.embedded.claims import free_port
from energy_cloud_dagster.sample_data.community import SEOUL_COMMUNITY

from .conftest import await_true

pytestmark = pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")

PLATFORM = "energy-cloud"
TOKENS = {name: f"token of {name}" for name in ("SM-1", "SM-2", "BAT-1")}
ENTRIES = [BrokerEntry(name, "seoul", "x", hash_password(token)) for name, token in TOKENS.items()]


class Client:
    """A paho client that notes what it is told."""

    def __init__(self, port: int, user: str, password: str, **how: Any) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.acked: dict[int, Any] = {}
        self.answers: list[Any] = []
        self.subscribed = threading.Event()
        self.lost = threading.Event()
        version = how.pop("protocol", paho.MQTTv311)
        clean = {} if version == paho.MQTTv5 else {"clean_session": how.pop("clean", True)}
        tls = how.pop("tls", None)
        self.paho = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=how.pop("client_id", user), protocol=version, **clean
        )
        self.paho.username_pw_set(user, password)
        if tls is not None:
            self.paho.tls_set_context(tls)
        self.paho.on_connect = lambda _c, _d, _f, answer, _p: self.answers.append(answer)
        self.paho.on_disconnect = lambda *_: self.lost.set()
        self.paho.on_subscribe = lambda *_: self.subscribed.set()
        self.paho.on_message = lambda _c, _d, message: self.heard.append((message.topic, message.payload))
        self.paho.on_publish = lambda _c, _d, mid, answer, _p: self.acked.__setitem__(mid, answer)
        self.paho.reconnect_delay_set(1, 1)
        self.paho.connect("127.0.0.1" if tls is None else "localhost", port, **how)
        self.paho.loop_start()
        await_true(lambda: self.answers)

    @property
    def let_in(self) -> bool:
        return not self.answers[-1].is_failure

    def subscribe(self, topic: str) -> None:
        self.subscribed.clear()
        self.paho.subscribe(topic, qos=1)
        assert self.subscribed.wait(10)

    def publish(self, topic: str, payload: str = "1") -> Any:
        """Publish with QoS 1 and return the broker's answer."""
        mid = self.paho.publish(topic, payload, qos=1).mid
        await_true(lambda: mid in self.acked)
        assert not self.lost.is_set(), "it was cut off"
        return self.acked[mid]


@pytest.fixture
def clients() -> Iterator[Callable[..., Client]]:
    made: list[Client] = []

    def connect(*arguments: Any, **how: Any) -> Client:
        made.append(Client(*arguments, **how))
        return made[-1]

    yield connect
    for each in made:
        each.paho.disconnect()
        each.paho.loop_stop()


@pytest.fixture(scope="module")
def running(home: Path) -> Iterator[EmbeddedBroker]:
    server = EmbeddedBroker(home / f"access-{uuid4().hex[:6]}", prefer="mosquitto", mqtts_port=free_port())
    server.grant(ENTRIES)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def server(running: EmbeddedBroker) -> EmbeddedBroker:
    (running.folder / "acl").unlink(missing_ok=True)  # a test may have written another
    running.grant(ENTRIES)
    return running


def platform(server: EmbeddedBroker, connect: Callable[..., Client], name: str = "worker", **how: Any) -> Client:
    client = connect(server.port, server.username, server.password, client_id=name, **how)
    assert client.let_in
    return client


def test_a_device_writes_below_its_own_id_and_nowhere_else(
    server: EmbeddedBroker, clients: Callable[..., Client]
) -> None:
    worker = platform(server, clients)
    worker.subscribe("#")
    device = clients(server.port, "SM-1", TOKENS["SM-1"], protocol=paho.MQTTv5)
    own = [f"energy-cloud/seoul/smart-meter/SM-1/{metric}" for metric in ("consumption", "voltage", "ack", "status")]
    foreign = [
        "energy-cloud/seoul/smart-meter/SM-2/consumption",
        "energy-cloud/SM-1/SM-1/SM-2/SM-1",
        "energy-cloud/seoul/smart-meter/SM-2/command",
        "energy-cloud/seoul/smart-meter/SM-1/command",
        "energy-cloud/seoul/smart-meter/SM-1/config",
        "energy-cloud/seoul/smart-meter/SM-1",
        "energy-cloud/seoul/smart-meter/SM-1/a/b",
        "other/SM-1",
        "$SYS/broker/x",
    ]
    for topic in foreign:
        assert device.publish(topic).value == 0x87, topic
    for topic in own:
        assert not device.publish(topic).is_failure
    await_true(lambda: len(worker.heard) >= len(own))
    assert [topic for topic, _ in worker.heard] == own


def test_a_device_hears_its_own_commands_alone(server: EmbeddedBroker, clients: Callable[..., Client]) -> None:
    outbox = platform(server, clients, "outbox")
    device, other = (clients(server.port, name, TOKENS[name]) for name in ("BAT-1", "SM-2"))
    for client in (device, other):
        client.subscribe("energy-cloud/+/+/+/command")
        client.subscribe("energy-cloud/+/+/+/config")
        client.subscribe("#")
    for metric in ("command", "config", "soc"):
        outbox.publish(f"energy-cloud/seoul/battery/BAT-1/{metric}", metric)
    await_true(lambda: len(device.heard) >= 2)
    assert {topic.rpartition("/")[2] for topic, _ in device.heard} == {"command", "config"}
    assert other.heard == []


def test_beyond_the_most_sections_the_rules_are_patterns(
    server: EmbeddedBroker, clients: Callable[..., Client]
) -> None:
    text = acl_file(PLATFORM, ENTRIES, most_sections=2)
    assert "SM-1" not in text
    (server.folder / "acl").write_text(text)
    reloads = server.log.read_text().count("Reloading config")
    server.reload()
    await_true(lambda: server.log.read_text().count("Reloading config") > reloads)
    worker = platform(server, clients)
    worker.subscribe("energy-cloud/#")
    device = clients(server.port, "SM-1", TOKENS["SM-1"], protocol=paho.MQTTv5)
    device.subscribe("energy-cloud/+/+/SM-1/command")
    assert device.publish("energy-cloud/seoul/x/SM-2/power").value == 0x87
    assert not device.publish("energy-cloud/seoul/x/SM-1/power").is_failure
    worker.publish("energy-cloud/seoul/x/SM-1/command")
    worker.publish("energy-cloud/seoul/x/SM-2/command")
    await_true(lambda: len(worker.heard) >= 3 and device.heard)
    assert [topic for topic, _ in device.heard] == ["energy-cloud/seoul/x/SM-1/command"]


def test_a_change_cuts_off_whom_it_concerns_and_nobody_else(
    server: EmbeddedBroker, clients: Callable[..., Client]
) -> None:
    worker = platform(server, clients)
    worker.subscribe("energy-cloud/#")
    devices_ = {name: clients(server.port, name, token) for name, token in TOKENS.items()}
    rotated = BrokerEntry("SM-2", "seoul", "x", hash_password("new"))
    assert server.grant([ENTRIES[0], rotated])  # BAT-1 is revoked, SM-2's token is another, SM-1 is as before
    assert devices_["BAT-1"].lost.wait(5)
    assert devices_["SM-2"].lost.wait(5)
    for name in ("BAT-1", "SM-2"):
        await_true(lambda name=name: not devices_[name].let_in)
    assert clients(server.port, "SM-2", "new").let_in
    assert not devices_["SM-1"].publish("energy-cloud/seoul/x/SM-1/power").is_failure
    await_true(lambda: worker.heard)
    assert not devices_["SM-1"].lost.is_set()
    assert not worker.lost.is_set()
    assert not server.grant([ENTRIES[0], rotated])


def test_nothing_of_others_is_lost_while_credentials_change_all_the_time(
    server: EmbeddedBroker, clients: Callable[..., Client]
) -> None:
    worker = platform(server, clients)
    worker.subscribe("energy-cloud/#")
    device = clients(server.port, "SM-1", TOKENS["SM-1"])
    sent = 400
    for number in range(sent):
        device.paho.publish("energy-cloud/seoul/x/SM-1/power", str(number), qos=1)
        if number % 20 == 0:
            changing = BrokerEntry("BAT-1", "seoul", "x", hash_password(str(number)))
            assert server.grant([*ENTRIES[:2], changing])
    await_true(lambda: len(worker.heard) >= sent)
    assert [int(payload) for _, payload in worker.heard] == list(range(sent))
    assert not device.lost.is_set()
    assert not worker.lost.is_set()


@pytest.mark.parametrize("most_sections", [5_000, 0])
def test_a_durable_session_misses_nothing_over_restart_and_reload(
    server: EmbeddedBroker, clients: Callable[..., Client], most_sections: int
) -> None:
    """Sessions that came back from disk have no password to check: a reload must not take their messages."""

    def write_acl() -> None:
        (server.folder / "acl").write_text(acl_file(PLATFORM, ENTRIES, most_sections=most_sections))
        server.reload()

    reads = {(server.username, "worker-durable"): "energy-cloud/seoul/x/SM-1/power"}
    if not most_sections:  # a device's section is forgotten with its password: the outbox repeats the command
        reads["SM-2", "SM-2"] = "energy-cloud/seoul/x/SM-2/command"
    passwords = {server.username: server.password, **TOKENS}
    for (user, name), topic in reads.items():
        client = clients(server.port, user, passwords[user], client_id=name, clean=False)
        client.subscribe(topic)
        client.paho.disconnect()
        assert client.lost.wait(5)

    def publish(payload: str) -> None:
        outbox = platform(server, clients, f"outbox-{payload}")
        for topic in reads.values():
            outbox.publish(topic, payload)

    write_acl()
    publish("before")
    server.stop()
    server.start()
    publish("restarted")
    write_acl()
    await_true(lambda: server.log.read_text().rpartition("mosquitto version")[2].count("Reloading config") >= 1)
    publish("reloaded")
    for user, name in reads:
        client = clients(server.port, user, passwords[user], client_id=name, clean=False)
        await_true(lambda client=client: len(client.heard) >= 3)
        assert [payload for _, payload in client.heard] == [b"before", b"restarted", b"reloaded"]


def test_tls_13_and_nothing_older(server: EmbeddedBroker, clients: Callable[..., Client]) -> None:
    assert server.mqtts_port is not None
    worker = platform(server, clients)
    worker.subscribe("energy-cloud/#")
    context = ssl.create_default_context(cafile=str(server.ca))
    device = clients(server.mqtts_port, "SM-1", TOKENS["SM-1"], tls=context)
    assert device.paho.socket().version() == "TLSv1.3"  # type: ignore[union-attr]
    assert not device.publish("energy-cloud/seoul/x/SM-1/power").is_failure
    await_true(lambda: worker.heard)
    old = ssl.create_default_context(cafile=str(server.ca))
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        Client(server.mqtts_port, "SM-1", TOKENS["SM-1"], tls=old)
    with pytest.raises(ssl.SSLCertVerificationError):
        Client(server.mqtts_port, "SM-1", TOKENS["SM-1"], tls=ssl.create_default_context())


def test_over_tls_a_device_cannot_take_the_session_of_another(
    server: EmbeddedBroker, clients: Callable[..., Client]
) -> None:
    assert server.mqtts_port is not None
    context = ssl.create_default_context(cafile=str(server.ca))
    worker = platform(server, clients)
    victim = clients(server.mqtts_port, "SM-2", TOKENS["SM-2"], tls=context)
    for claimed in ("worker", "SM-2"):
        thief = clients(server.mqtts_port, "SM-1", TOKENS["SM-1"], tls=context, client_id=claimed)
        assert thief.let_in
        assert not thief.publish("energy-cloud/seoul/x/SM-1/power").is_failure
    assert not victim.publish("energy-cloud/seoul/x/SM-2/power").is_failure
    worker.publish("energy-cloud/seoul/x/SM-2/power")
    assert not victim.lost.is_set()
    assert not worker.lost.is_set()


def test_what_stands_in_the_files_is_private_and_an_id_cannot_change_it(server: EmbeddedBroker) -> None:
    for name in ("passwords", "acl", "server.key", "mosquitto.conf"):
        assert (server.folder / name).stat().st_mode & 0o777 == 0o600
    bad = [BrokerEntry(name, "r", "t", "h") for name in ("a\nuser b", "a:b", "+", "#", PLATFORM, "a b")]
    assert password_file(PLATFORM, "h", bad) == f"{PLATFORM}:h\n"
    assert "user b" not in acl_file(PLATFORM, bad)
    assert acl_file(PLATFORM, bad).count(f"user {PLATFORM}\n") == 1


def test_the_production_files_are_a_configuration_that_mosquitto_takes(
    folder: Path, server: EmbeddedBroker, clients: Callable[..., Client]
) -> None:
    written = broker_access.write_production(folder / "files", ENTRIES, "platform", hash_password("secret"))
    assert [path.name for path in written] == ["passwords", "acl", "mosquitto.conf"]
    config = written[2]
    ports = {"8883": free_port(), "1883 127.0.0.1": free_port()}
    text = config.read_text()
    for shown, port in ports.items():
        text = text.replace(f"listener {shown}", f"listener {port} 127.0.0.1")
    for name in ("server.pem", "server.key"):
        (folder / "files" / name).write_bytes((server.folder / name).read_bytes())
    config.write_text(text + f"persistence_location {folder}/\n" + ("user root\n" if os.geteuid() == 0 else ""))
    assert broker_access.write_production(folder / "files", ENTRIES[:1], "platform", hash_password("x"))[2] == config
    assert config.read_text().startswith(text)  # an edited configuration stays
    broker_access.write_production(folder / "files", ENTRIES, "platform", hash_password("secret"))
    from energy_cloud_dagster.embedded.claims import accepts
    from energy_cloud_dagster.embedded.supervise import Child

    program = find_mosquitto()
    assert program is not None
    child = Child("mosquitto", [program, "-c", config], None, folder / "m.log")
    child.start()
    try:
        child.wait_until_ready(lambda: all(accepts(port) for port in ports.values()))
        assert clients(ports["1883 127.0.0.1"], "platform", "secret").let_in
        context = ssl.create_default_context(cafile=str(server.ca))
        device = clients(ports["8883"], "SM-1", TOKENS["SM-1"], tls=context, protocol=paho.MQTTv5)
        assert device.publish("energy-cloud/seoul/x/SM-2/power").value == 0x87
        device.paho.disconnect()
    finally:
        child.stop()


# -- from the database to the broker


@pytest.fixture
def registered(engine: sa.Engine) -> Iterator[str]:
    """A device of its own in the shared database."""
    device_id = f"SM-{uuid4().hex[:8]}"
    with engine.begin() as connection:
        registry.seed(connection, SEOUL_COMMUNITY, datetime.now(UTC), demo_key="test")
        devices.add(connection, device_id, "seoul", "smart-meter", datetime.now(UTC))
    yield device_id
    with engine.begin() as connection:
        devices.remove(connection, device_id)


def test_issued_rotated_and_revoked_tokens_take_effect_within_five_seconds(
    running: EmbeddedBroker, clients: Callable[..., Client], engine: sa.Engine, database_url: str, registered: str
) -> None:
    def change(what: Callable[..., Any], *more: Any) -> Any:
        with engine.begin() as connection:
            return what(connection, registered, datetime.now(UTC), *more)

    def let_in(token: str) -> bool:
        client = Client(running.port, registered, token)
        client.paho.disconnect()
        client.paho.loop_stop()
        return client.let_in

    with BrokerAccess(database_url, running.grant) as access:
        assert access.applied.wait(10)
        worker = platform(running, clients)
        old = change(credentials.issue)
        await_true(lambda: let_in(old), 5)
        device = clients(running.port, registered, old)
        new = change(credentials.rotate, 60)
        with engine.connect() as connection:  # over HTTP both hold
            assert credentials.authenticate(connection, old, datetime.now(UTC)) == registered
        # at every moment one of the two is accepted: the new one, or else still the old one
        end = time.monotonic() + 5
        while not let_in(new):
            assert time.monotonic() < end
        assert device.lost.wait(5)
        assert not let_in(old)
        device = clients(running.port, registered, new)
        assert change(credentials.revoke) == 2
        assert device.lost.wait(5)
        assert not let_in(new)
        assert not worker.lost.is_set()


def test_a_lost_database_connection_is_made_anew_and_a_wrong_url_harms_nobody(
    running: EmbeddedBroker, engine: sa.Engine, database_url: str, registered: str
) -> None:
    seen: list[set[str]] = []

    def apply(entries: Sequence[BrokerEntry]) -> bool:
        seen.append({entry.device_id for entry in entries})
        return True

    with BrokerAccess(database_url, apply) as access:
        assert access.applied.wait(10)
        with engine.begin() as connection:
            mine = (
                "application_name = 'energy-cloud' and query like '%registry.credential%' and pid <> pg_backend_pid()"
            )
            ended = connection.execute(
                sa.text(f"select pg_terminate_backend(pid) from pg_stat_activity where {mine} and state = 'idle'")
            ).all()
        assert ended
        with engine.begin() as connection:
            credentials.issue(connection, registered, datetime.now(UTC))
        await_true(lambda: registered in seen[-1], 10)
    with BrokerAccess("mysql://nowhere/x", apply) as off:
        off._thread.join(5)
        assert not off.applied.is_set()


def test_who_publishes_under_another_s_name_is_logged_and_kept(
    folder: Path, clients: Callable[..., Client], engine: sa.Engine, database_url: str
) -> None:
    server = EmbeddedBroker(folder / "broker", prefer="mosquitto", note_refused=True)
    server.grant(ENTRIES)
    server.start()
    victim = f"SM-{uuid4().hex[:8]}"
    topic = f"energy-cloud/seoul/x/{victim}/power"
    try:
        device = clients(server.port, "SM-1", TOKENS["SM-1"], client_id="anything")
        for _ in range(5):
            device.publish(topic)
            device.publish("energy-cloud/seoul/x/SM-1/power")
        await_true(lambda: server.refused is not None and server.refused.exists() and server.refused.stat().st_size)
        # as in production: what the platform reads is the database
        with BrokerAccess(database_url, lambda _: False, refused=server.refused):
            await_true(lambda: sum(json.loads(each.payload)["messages"] for each in _kept(engine, topic)) == 5)
        rows = _kept(engine, topic)
        row = rows[0]
        assert (row.source, row.reason) == ("mqtt", "not_authorised")
        assert row.detail.startswith("SM-1 may not write here; the broker refused ")
        assert json.loads(row.payload)["client"] == "anything"
        assert _kept(engine, "energy-cloud/seoul/x/SM-1/power") == []
        log = server.log.read_text()
        assert "New client connected" in log
        assert not re.search("(Received|Sending) PUB", log)
        # the process that reads the log may end at any time: the broker goes on, and it comes back
        assert server._log_child is not None
        assert server._log_child.pid is not None
        os.kill(server._log_child.pid, signal.SIGKILL)
        server._log_child.wait(5)
        assert not device.publish("energy-cloud/seoul/x/SM-1/power").is_failure
        server.grant(ENTRIES[:1])

        def noted_again() -> bool:
            device.publish(topic)
            return server.refused is not None and server.refused.stat().st_size > 0

        await_true(noted_again)
    finally:
        server.stop()


def _kept(engine: sa.Engine, topic: str) -> Sequence[Any]:
    with engine.connect() as connection:
        return connection.execute(sa.select(rejected).where(rejected.c.topic == topic)).all()
