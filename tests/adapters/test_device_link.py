from __future__ import annotations

import socket
import threading
import time
import uuid
from typing import TYPE_CHECKING

import pytest
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from energy_cloud_dagster.adapters.device_link import DeviceLink, Heard
from energy_cloud_dagster.adapters.mqtt import Broker
from energy_cloud_dagster.domain.errors import BrokerUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from energy_cloud_dagster.embedded.broker import EmbeddedBroker


@pytest.fixture
def place(broker: EmbeddedBroker) -> Broker:
    return Broker.of(broker.url, broker.username, broker.password)


@pytest.fixture
def device(place: Broker) -> Iterator[mqtt.Client]:
    made = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv311)
    made.username_pw_set(place.username, place.password)
    made.connect(place.host, place.port)
    made.loop_start()
    yield made
    made.disconnect()
    made.loop_stop()


def taken(link: DeviceLink, count: int) -> list[Heard]:
    heard: list[Heard] = []
    end = time.monotonic() + 10
    while len(heard) < count:
        assert time.monotonic() < end, heard
        heard += link.take(100)
        time.sleep(0.01)
    return heard


def test_what_is_not_acknowledged_comes_again_over_the_next_link(place: Broker, device: mqtt.Client) -> None:
    name, topic, news = f"link-{uuid.uuid4().hex[:8]}", f"link/{uuid.uuid4().hex}", threading.Event()
    with DeviceLink(place, name, topic=topic, on_news=news.set) as link:
        for number in range(3):
            device.publish(topic, str(number), qos=1)
        assert news.wait(10)
        first = taken(link, 3)
        link.ack(first[:1])
    assert not link.alive
    with DeviceLink(place, name, topic=topic) as link:
        again = taken(link, 2)
        link.ack(again)
    assert [message.payload for message in first] == [b"0", b"1", b"2"]
    assert [message.payload for message in again] == [b"1", b"2"]
    with DeviceLink(place, name, topic=topic) as link:
        device.publish(topic, "last", qos=1)
        assert [message.payload for message in taken(link, 1)] == [b"last"]


def test_more_than_fits_is_put_off_and_not_lost(place: Broker, device: mqtt.Client) -> None:
    name, topic = f"link-{uuid.uuid4().hex[:8]}", f"link/{uuid.uuid4().hex}"
    seen, come = [], threading.Semaphore(0)
    with DeviceLink(place, name, topic=topic, queue_size=2, on_news=come.release) as link:
        for number in range(4):
            device.publish(topic, str(number), qos=1)
        for _ in range(4):
            assert come.acquire(timeout=10)
        heard = link.take(100)
        link.ack(heard)
        seen += [message.payload for message in heard]
        assert len(seen) == 2
    with DeviceLink(place, name, topic=topic) as link:
        heard = taken(link, 2)
        link.ack(heard)
    assert sorted(seen + [message.payload for message in heard]) == [b"0", b"1", b"2", b"3"]


def test_what_could_not_be_published_is_told_and_spends_the_link(place: Broker) -> None:
    topic = f"link/{uuid.uuid4().hex}"
    with DeviceLink(place, f"link-{uuid.uuid4().hex[:8]}") as link:
        assert link.publish([(topic, b"1"), (topic, b"2")]) == [True, True]
        assert link.alive
        assert link.publish([(topic, b"3")], timeout=0) in ([True], [False])
        link.close()
        assert link.publish([(topic, b"4")]) == [False]
        assert not link.alive


def test_a_broker_that_is_not_there_is_named() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        with pytest.raises(BrokerUnavailable, match=f"127.0.0.1:{port}"):
            DeviceLink(Broker("127.0.0.1", port), "link").__enter__()
