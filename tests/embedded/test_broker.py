from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from energy_cloud_dagster.adapters.credentials import BrokerEntry
from energy_cloud_dagster.domain.errors import BrokerUnavailable, Misconfigured
from energy_cloud_dagster.embedded import broker as module
from energy_cloud_dagster.embedded.broker import EmbeddedBroker, find_mosquitto
from energy_cloud_dagster.embedded.claims import accepts, free_port

from .conftest import await_true

needs_mosquitto = pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")
KINDS = ["iotcore", pytest.param("mosquitto", marks=needs_mosquitto)]
HOLD = """
import sys, time
from pathlib import Path
from energy_cloud_dagster.embedded.broker import EmbeddedBroker
server = EmbeddedBroker(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
server.start()
print(server.pid, flush=True)
time.sleep(600)
"""


@contextmanager
def connected(server: EmbeddedBroker, name: str, clean: bool = True) -> Iterator[Any]:
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=name, clean_session=clean)
    client.username_pw_set(server.username, server.password)
    answered = threading.Event()
    client.on_connect = lambda *_: answered.set()
    url = urlsplit(server.url)
    client.connect(url.hostname or "", url.port or 0)
    client.loop_start()
    assert answered.wait(10)
    yield client
    client.disconnect()
    client.loop_stop()


def subscribe(client: Any, topic: str) -> None:
    done = threading.Event()
    client.on_subscribe = lambda *_: done.set()
    client.subscribe(topic, qos=1)
    assert done.wait(10)


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, folder: Path) -> Iterator[EmbeddedBroker]:
    made = EmbeddedBroker(folder / "broker", prefer=request.param)
    made.start()
    yield made
    made.stop()


def test_messages_reach_a_shared_subscription(server: EmbeddedBroker) -> None:
    heard: list[bytes] = []
    all_heard = threading.Event()

    def on_message(_client: object, _data: object, message: Any) -> None:
        heard.append(message.payload)
        if len(heard) == 100:
            all_heard.set()

    with connected(server, "worker") as worker, connected(server, "device") as device:
        worker.on_message = on_message
        subscribe(worker, "$share/ingest/energy-cloud/#")
        for number in range(100):
            device.publish("energy-cloud/seoul/meter/SM/consumption", str(number), qos=1)
        assert all_heard.wait(10)
    assert sorted(map(int, heard)) == list(range(100))


def test_the_password_is_needed_and_private(server: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    assert server._lets_us_in()
    with monkeypatch.context() as patched:
        patched.setattr(EmbeddedBroker, "password", "wrong")
        assert not server._lets_us_in()
    for path in server.folder.iterdir():
        if server.password in path.read_text(errors="replace"):
            assert path.stat().st_mode & 0o777 == 0o600
    assert server.folder.stat().st_mode & 0o777 == 0o700


def test_start_and_stop_twice_and_again_on_the_same_port(folder: Path) -> None:
    server = EmbeddedBroker(folder / "broker", free_port(), prefer="iotcore")
    for _ in range(2):
        server.start()
        pid = server.pid
        server.start()
        assert server.pid == pid is not None
        server.stop()
        server.stop()
        assert server.pid is None


def test_what_runs_is_described(server: EmbeddedBroker) -> None:
    assert server.url == f"mqtt://127.0.0.1:{server.port}"
    assert server.version[0].isdigit()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_outlives_a_killed_parent_and_the_port_is_free_at_once(folder: Path, parent, kind: Any) -> None:
    port = free_port()
    holder = parent(HOLD, folder / "broker", port, kind)
    assert int(holder.said) in holder.below
    holder.process.kill()
    holder.process.wait()
    again = EmbeddedBroker(folder / "broker", port, kind)
    again.start()  # ends what may still be about to end
    again.stop()
    holder.await_end()


@needs_mosquitto
def test_mosquitto_keeps_what_was_queued_over_a_restart(folder: Path) -> None:
    server = EmbeddedBroker(folder / "broker", prefer="mosquitto")
    server.start()
    with connected(server, "worker", clean=False) as worker:
        subscribe(worker, "energy-cloud/#")
    with connected(server, "device") as device:
        for number in range(2000):  # more than its default queue of 1,000
            sent = device.publish("energy-cloud/x", str(number), qos=1)
        sent.wait_for_publish(10)
    server.stop()
    server.start()
    heard: list[bytes] = []
    all_heard = threading.Event()

    def on_message(_client: object, _data: object, message: Any) -> None:
        heard.append(message.payload)
        if len(heard) >= 2000:
            all_heard.set()

    worker = paho.Client(CallbackAPIVersion.VERSION2, client_id="worker", clean_session=False)
    worker.username_pw_set(server.username, server.password)
    worker.on_message = on_message
    worker.connect("127.0.0.1", server.port)
    worker.loop_start()
    assert all_heard.wait(15)
    worker.disconnect()
    worker.loop_stop()
    server.stop()
    assert sorted(map(int, heard)) == list(range(2000))


def test_a_port_in_use_names_its_variable(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = EmbeddedBroker(folder / "broker", taken.getsockname()[1])
        with pytest.raises(Misconfigured, match=r"The MQTT broker cannot listen on .*ENERGY_CLOUD_MQTT_PORT"):
            server.start()
    assert server.pid is None


def test_there_is_no_port_before_one_was_chosen(folder: Path) -> None:
    with pytest.raises(BrokerUnavailable, match="start it first"):
        _ = EmbeddedBroker(folder / "broker").url


def test_a_missing_broker_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_mosquitto", lambda: None)
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    monkeypatch.setattr(module, "version", _absent)
    server = EmbeddedBroker(folder / "broker")
    assert (server.kind, server.version) == ("iotcore", "")
    with pytest.raises(Misconfigured, match=r"No MQTT broker is installed: install energy-cloud\[embedded\]"):
        server.start()
    server = EmbeddedBroker(folder / "broker", prefer="mosquitto")
    assert server.version == ""
    with pytest.raises(Misconfigured, match="mosquitto is not installed"):
        server.start()


def _absent(name: str) -> str:
    raise module.PackageNotFoundError(name)


def test_mosquitto_is_preferred_where_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_mosquitto", lambda: "/usr/sbin/mosquitto")
    assert EmbeddedBroker(folder / "broker").kind == "mosquitto"


@needs_mosquitto
def test_mosquitto_runs_as_root_in_the_folder_of_another(folder: Path) -> None:
    (folder / "broker").mkdir()
    if os.geteuid() == 0:
        os.chown(folder / "broker", 65534, 65534)
    server = EmbeddedBroker(folder / "broker", prefer="mosquitto")
    server.start()
    try:
        assert server._lets_us_in()
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("kind", "template"), [("iotcore", "_IOTCORE"), pytest.param("mosquitto", "_MOSQUITTO", marks=needs_mosquitto)]
)
def test_a_broker_that_does_not_start_is_surfaced(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, template: str
) -> None:
    monkeypatch.setattr(module, template, "nonsense")
    with pytest.raises(
        BrokerUnavailable, match=rf"The MQTT broker \({kind}\) ended at start \(exit status \d+\): .*[Ee]rror"
    ):
        EmbeddedBroker(folder / "broker", prefer=kind).start()


def answer_to(port: int, username: str, password: str, protocol: int) -> Any:
    """The broker's answer to a login."""
    answers: list[Any] = []
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="SM-1", protocol=protocol)  # type: ignore[arg-type]
    client.username_pw_set(username, password)
    client.on_connect = lambda _c, _d, _f, answer, _p: answers.append(answer)
    client.connect("127.0.0.1", port)
    client.loop_start()
    await_true(lambda: answers, 10)
    client.disconnect()
    client.loop_stop()
    return answers[0]


def test_iotcore_speaks_mqtt_5_on_a_port_of_its_own_and_knows_any_device_by_one_password(folder: Path) -> None:
    server = EmbeddedBroker(folder / "broker", prefer="iotcore", mqtt5_port=free_port(), mqtts_port=free_port())
    server.start()
    assert server.mqtts_port is None
    assert server.mqtt5_port is not None
    assert not accepts(server._mqtts_port or 0)
    for port, protocol in ((server.port, paho.MQTTv311), (server.mqtt5_port, paho.MQTTv5)):
        for user in (server.username, "device-token"):
            assert not answer_to(port, user, server.password, protocol).is_failure
    assert not server.grant([BrokerEntry("SM-1", "seoul", "x", "hash")])
    server.stop()


@pytest.mark.parametrize(
    ("kind", "option", "variable"),
    [
        ("iotcore", "mqtt5_port", "ENERGY_CLOUD_MQTT5_PORT"),
        pytest.param("mosquitto", "mqtts_port", "ENERGY_CLOUD_MQTTS_PORT", marks=needs_mosquitto),
    ],
)
def test_a_second_port_in_use_names_its_variable(folder: Path, kind: Any, option: str, variable: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = EmbeddedBroker(folder / "broker", prefer=kind, **{option: taken.getsockname()[1]})
        with pytest.raises(Misconfigured, match=rf"The MQTT broker \(.*\) cannot listen on .*{variable}"):
            server.start()
    assert server.pid is None
