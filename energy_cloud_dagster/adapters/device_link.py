"""The outbox's own connection to the broker: publishes to devices, hears their acknowledgements.

QoS 1 both ways, MQTT 3.1.1, messages not retained. The session lasts, so that the broker keeps acknowledgements while
the outbox is away; they are acknowledged by hand after the commit. 3.1.1 has no message expiry: a broker that holds a
command for a sleeping device delivers it late, and the device goes by its ``validUntil``.

A link is used for one connection. Once that is lost ``alive`` is false and a new link takes over, so that nothing that
waited in the client is published long after its time.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import structlog
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from energy_cloud_dagster.adapters.mqtt import Broker

log = structlog.get_logger()

ACKNOWLEDGEMENTS: Final = "energy-cloud/+/+/+/ack"
_PUBLISH_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.2
_WINDOW: Final = 200


class Heard(NamedTuple):
    """One acknowledgement of a device that waits for ours."""

    topic: str
    payload: bytes
    received_at: datetime
    mid: int
    qos: int


class DeviceLink:
    """One connection to the broker; use it as a context manager.

    ``on_news`` is called, in another thread, when a message arrives or the connection is lost.
    """

    def __init__(
        self,
        broker: Broker,
        client_id: str,
        *,
        topic: str = ACKNOWLEDGEMENTS,
        on_news: Callable[[], None] = lambda: None,
        queue_size: int = 10_000,
    ) -> None:
        self._broker = broker
        self._topic = topic
        self._on_news = on_news
        self._queue: queue.Queue[Heard] = queue.Queue(queue_size)
        self._subscribed = threading.Event()
        self._failure: str | None = None
        self._lost = False
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=False,
            protocol=mqtt.MQTTv311,
            manual_ack=True,
            reconnect_on_failure=False,
        )
        broker.prepare(self._client)
        self._client.max_inflight_messages_set(_WINDOW)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message

    def __enter__(self) -> Self:
        """Connect and subscribe; raises ``BrokerUnavailable`` or, for a refused login, ``Misconfigured``."""
        try:
            self._broker.enter(self._client, self._topic, self._subscribed, lambda: self._failure)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect; the broker keeps the session and what was not acknowledged."""
        self._client.disconnect()
        self._client.loop_stop()

    @property
    def alive(self) -> bool:
        """Whether the connection still holds."""
        return not self._lost

    def publish(self, messages: Sequence[tuple[str, bytes]], timeout: float = _PUBLISH_SECONDS) -> list[bool]:
        """Publish (topic, payload) pairs in their order; return which of them the broker acknowledged in time.

        Where one is missing the link is spent: ``alive`` is false from then on.
        """
        sent = [self._client.publish(topic, payload, qos=1) for topic, payload in messages]
        end = time.monotonic() + timeout
        for info in sent:
            while self.alive and info.rc == mqtt.MQTT_ERR_SUCCESS and not info.is_published():
                left = end - time.monotonic()
                if left <= 0:
                    break
                info.wait_for_publish(min(left, _POLL_SECONDS))
        taken = [info.rc == mqtt.MQTT_ERR_SUCCESS and info.is_published() for info in sent]
        if not all(taken):
            self._lost = True
        return taken

    def take(self, most: int) -> list[Heard]:
        """Return up to ``most`` acknowledgements that have arrived, without waiting."""
        taken: list[Heard] = []
        while len(taken) < most:
            try:
                taken.append(self._queue.get_nowait())
            except queue.Empty:
                break
        return taken

    def ack(self, messages: Sequence[Heard]) -> None:
        """Tell the broker that these are stored; over a lost connection it is not told, and sends them again."""
        for message in messages:
            self._client.ack(message.mid, message.qos)

    def _on_connect(
        self, client: mqtt.Client, _data: Any, _flags: mqtt.ConnectFlags, answer: ReasonCode, _properties: Any
    ) -> None:
        if answer.is_failure:
            self._fail(str(answer))
            return
        client.subscribe(self._topic, qos=1)

    def _on_subscribe(
        self, _client: mqtt.Client, _data: Any, _mid: int, answers: list[ReasonCode], _properties: Any
    ) -> None:
        if any(answer.is_failure for answer in answers):
            self._fail(", ".join(str(answer) for answer in answers))
        self._subscribed.set()

    def _on_disconnect(
        self, _client: mqtt.Client, _data: Any, _flags: Any, answer: ReasonCode, _properties: Any
    ) -> None:
        self._lost = True
        if not self._subscribed.is_set():
            self._fail(self._failure or f"it closed the connection ({answer})")
        self._on_news()

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ascii(message._topic)  # noqa: SLF001
        try:
            self._queue.put_nowait(Heard(topic, bytes(message.payload), datetime.now(UTC), message.mid, message.qos))
        except queue.Full:
            # Waiting here would hold up the broker's answers to what is being published. What came with QoS 1 comes
            # again over the next connection.
            log.warning("acknowledgement_put_off", topic=topic)
        self._on_news()

    def _fail(self, reason: str) -> None:
        self._failure = reason
        self._subscribed.set()
