from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from energy_cloud_dagster.adapters import mqtt as adapter
from energy_cloud_dagster.adapters.mqtt import Broker, Consumer, Received
from energy_cloud_dagster.adapters.mqtt_bulk import Frame
from energy_cloud_dagster.embedded.broker import EmbeddedBroker, find_mosquitto
from energy_cloud_dagster.embedded.claims import free_port
from energy_cloud_dagster.services.mqtt_fleet import FleetClient


@pytest.fixture(scope="module")
def mosquitto(home: Path) -> Iterator[EmbeddedBroker]:
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    server = EmbeddedBroker(home / "mosquitto", prefer="mosquitto", mqtts_port=free_port())
    server.start()
    yield server
    server.stop()


def consumer_of(server: EmbeddedBroker, client_id: str, topic: str) -> Consumer:
    return Consumer(Broker.of(server.url, server.username, server.password), client_id, topic=topic)


def publish(server: EmbeddedBroker, protocol: int, topic: str, *payloads: bytes, qos: int = 1) -> None:
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=protocol)  # type: ignore[arg-type]
    client.username_pw_set(server.username, server.password)
    connected = threading.Event()
    client.on_connect = lambda *_: connected.set()
    client.connect("127.0.0.1", server.port)
    client.loop_start()
    assert connected.wait(10)
    for info in [client.publish(topic, payload, qos=qos) for payload in payloads]:
        info.wait_for_publish(10)
    client.disconnect()
    client.loop_stop()


def take(consumer: Consumer, count: int) -> list[Received]:
    taken: list[Received] = []
    while len(taken) < count and (more := consumer.take(count - len(taken), wait=5.0, linger=0.01)):
        taken += more
    return taken


@pytest.mark.parametrize("protocol", [mqtt.MQTTv311, mqtt.MQTTv5])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_devices_of_either_version_are_heard(mosquitto: EmbeddedBroker, protocol: int, qos: int) -> None:
    name = uuid.uuid4().hex[:8]
    topic = f"energy-cloud/seoul/smart-meter/{name}/consumption"
    payloads = [b"%d" % number for number in range(300)]
    with consumer_of(mosquitto, name, f"$share/{name}/{topic}") as consumer:
        publish(mosquitto, protocol, topic, *payloads, qos=qos)
        taken = take(consumer, 300)
        assert [message.payload for message in taken] == payloads
        assert {message.topic for message in taken} == {topic}
        assert consumer.ack(taken) == (300 if qos else 0)
        # A packet that is answered comes after the acknowledgements: now the broker has seen them.
        consumer._subscribed.clear()
        consumer._client.subscribe(f"$share/{name}/{topic}", qos=1)
        assert consumer._subscribed.wait(5)
    with consumer_of(mosquitto, name, f"$share/{name}/{topic}") as consumer:
        assert consumer.take(1, wait=0.2, linger=0.0) == []


def test_a_broker_may_be_reached_over_tls(mosquitto: EmbeddedBroker) -> None:
    topic = "energy-cloud/seoul/smart-meter/M-3/consumption"
    # More than one record of TLS holds, so that bytes wait where select does not see them.
    payloads = [b"%d" % number * 1_000 for number in range(100)]
    broker = Broker.of(
        f"mqtts://127.0.0.1:{mosquitto.mqtts_port}", mosquitto.username, mosquitto.password, mosquitto.ca
    )
    with Consumer(broker, "tls", topic=topic) as consumer:
        publish(mosquitto, mqtt.MQTTv311, topic, *payloads)
        taken = take(consumer, 100)
        assert [message.payload for message in taken] == payloads
        assert consumer.ack(taken) == 100
    # There a user name is the client id: one client of it at a time.
    with FleetClient(
        f"mqtts://127.0.0.1:{mosquitto.mqtts_port}", mosquitto.username, mosquitto.password, ca=mosquitto.ca
    ) as fleet:
        fleet.publish(topic, b"1")
        fleet.flush()
        assert fleet.acknowledged == 1


def test_what_waits_for_its_acknowledgement_outlives_the_broker(home: Path) -> None:
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    server = EmbeddedBroker(home / "mosquitto-again", prefer="mosquitto")
    server.start()
    topic = "energy-cloud/seoul/smart-meter/M-1/consumption"
    try:
        with consumer_of(server, "again", topic) as consumer:
            publish(server, mqtt.MQTTv311, topic, b"1", b"2", b"3")
            first = take(consumer, 3)
            assert consumer.ack(first[:1]) == 1
            # comes back on the same connection: the broker has read the acknowledgement that went before it
            consumer._client.publish(topic, b"after", qos=0)
            assert [message.payload for message in take(consumer, 1)] == [b"after"]
            port = server.port
            server.stop()
            server = EmbeddedBroker(home / "mosquitto-again", port, prefer="mosquitto")
            server.start()
            again = take(consumer, 2)
            assert [message.payload for message in again] == [b"2", b"3"]
            assert consumer.ack(first[1:]) == 0
            assert consumer.ack(again) == 2
    finally:
        server.stop()


def test_large_messages_end_a_batch_and_stop_the_reading(
    mosquitto: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "QUEUE_BYTES", 300_000)
    monkeypatch.setattr(adapter, "BATCH_BYTES", 150_000)
    topic = "energy-cloud/seoul/smart-meter/M-2/consumption"
    payloads = [bytes([number]) * 100_000 for number in range(12)]
    with consumer_of(mosquitto, "large", topic) as consumer:
        publish(mosquitto, mqtt.MQTTv311, topic, *payloads)
        batches = [consumer.take(100, wait=5.0, linger=0.05) for _ in range(6)]
        assert [len(batch) for batch in batches] == [2] * 6
        assert [message.payload for batch in batches for message in batch] == payloads
        assert consumer.ack([message for batch in batches for message in batch]) == 12


def test_topics_are_kept_for_the_next_message_but_not_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "_MOST_NAMES", 2)
    consumer = Consumer(Broker("127.0.0.1", 1), "never")
    topics = [b"a", b"b", b"a", b"c", b"\xff", b"x" * 1_000]
    consumer._on_frames([Frame(topic, b"", 1) for topic in topics])
    taken = [message.topic for message in consumer.take(10, wait=0.0, linger=0.0)]
    assert taken == ["a", "b", "a", "c", r"b'\xff'", "x" * 1_000]
    assert len(consumer._names) <= 2
