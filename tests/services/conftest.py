"""What the services' tests share: a listener at the broker, and the simulated plant.

The plant is started once: an OPC UA server takes seconds to start, ten times as many under coverage.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Self

import pytest
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from energy_cloud_dagster.services.opcua_plant import PlantThread

if TYPE_CHECKING:
    from energy_cloud_dagster.embedded.broker import EmbeddedBroker

type Listen = Callable[[], Listener]


@pytest.fixture(scope="session")
def plant() -> Iterator[PlantThread]:
    with PlantThread() as started:
        yield started


@pytest.fixture
def listen(broker: EmbeddedBroker) -> Listen:
    """Make a listener to everything of the platform's topics, as a context manager."""
    return lambda: Listener(broker)


class Listener:
    """Everything that the broker passes on of the platform's topics."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self._changed = threading.Condition()
        self._subscribed = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._client.username_pw_set(broker.username, broker.password)
        self._client.on_message = self._hear
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        host, port = broker.url.removeprefix("mqtt://").split(":")
        self._client.connect(host, int(port))

    def __enter__(self) -> Self:
        self._client.loop_start()
        self._client.subscribe("energy-cloud/#", qos=1)
        assert self._subscribed.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _hear(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        with self._changed:
            self.heard.append((message.topic, json.loads(message.payload)))
            self._changed.notify_all()

    def wait_for(self, reached: Callable[[int], bool]) -> list[tuple[str, dict[str, Any]]]:
        with self._changed:
            assert self._changed.wait_for(lambda: reached(len(self.heard)), timeout=20), f"{len(self.heard)} heard"
            return list(self.heard)

    def say(self, topic: str, document: object) -> None:
        """Publish a document, or bytes as they are."""
        payload = document if isinstance(document, bytes) else json.dumps(document)
        self._client.publish(topic, payload, qos=1).wait_for_publish(10)

    def wait_until(
        self, reached: Callable[[list[tuple[str, dict[str, Any]]]], bool]
    ) -> list[tuple[str, dict[str, Any]]]:
        with self._changed:
            assert self._changed.wait_for(lambda: reached(self.heard), timeout=20), self.heard[-10:]
            return list(self.heard)
