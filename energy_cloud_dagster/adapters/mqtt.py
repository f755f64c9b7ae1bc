"""Receive MQTT messages so that none is lost: QoS 1, acknowledged by hand after the commit, a session that lasts.

MQTT 3.1.1, which paho runs faster than 5. The broker's in-flight window (and the bounded queue here) is the
back-pressure: what is not acknowledged stops the flow.
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, NamedTuple, Self
from urllib.parse import urlsplit

import structlog
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from energy_cloud_dagster.domain.errors import BrokerUnavailable, Misconfigured
from energy_cloud_dagster.domain.readings import SUBSCRIPTION

log = structlog.get_logger()

#: Workers of this group share the messages of all devices.
SHARED_SUBSCRIPTION: Final = f"$share/ingest/{SUBSCRIPTION}"
_KEEPALIVE_SECONDS: Final = 30
_CONNECT_SECONDS: Final = 10.0
_REFUSED_LOGIN: Final = {"Bad user name or password", "Not authorized"}


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker listens and who we are to it."""

    host: str
    port: int
    tls: bool = False
    username: str = ""
    password: str = ""

    @classmethod
    def of(cls, url: str, username: str = "", password: str = "") -> Self:
        """Read ``mqtt://host:port`` or ``mqtts://host:port``; anything else is ``Misconfigured``."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise Misconfigured(f"ENERGY_CLOUD_MQTT_URL {url!r} is no URL; write mqtt://host:1883") from None
        if parts.scheme not in {"mqtt", "mqtts"} or not parts.hostname:
            raise Misconfigured(f"ENERGY_CLOUD_MQTT_URL {url!r} is not mqtt://host:port or mqtts://host:port")
        tls = parts.scheme == "mqtts"
        return cls(parts.hostname, port or (8883 if tls else 1883), tls, username, password)

    def __str__(self) -> str:
        return f"{'mqtts' if self.tls else 'mqtt'}://{self.host}:{self.port}"


class Received(NamedTuple):
    """One message that waits for its acknowledgement; ``connection`` counts the connections of this client."""

    topic: str
    payload: bytes
    received_at: datetime
    mid: int
    qos: int
    connection: int


class Consumer:
    """A durable subscription to the messages of all devices; use it as a context manager.

    ``client_id`` names the session: the broker keeps what it has not acknowledged, over restarts of the process (and
    over its own, where the broker is durable). Two clients of one id push each other out.
    """

    def __init__(
        self, broker: Broker, client_id: str, *, topic: str = SHARED_SUBSCRIPTION, queue_size: int = 20_000
    ) -> None:
        self._broker = broker
        self._topic = topic
        self._queue: queue.Queue[Received] = queue.Queue(queue_size)
        self._lock = threading.Lock()
        self._connection = 0
        self._subscribed = threading.Event()
        self._failure: str | None = None
        self._closing = False
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=False,
            protocol=mqtt.MQTTv311,
            manual_ack=True,
        )
        if broker.username:
            self._client.username_pw_set(broker.username, broker.password)
        if broker.tls:
            self._client.tls_set()
        self._client.reconnect_delay_set(1, 30)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message

    def __enter__(self) -> Self:
        """Connect and subscribe; raises ``BrokerUnavailable`` or, for a refused login, ``Misconfigured``."""
        try:
            self._client.connect(self._broker.host, self._broker.port, _KEEPALIVE_SECONDS)
        except OSError as error:
            raise BrokerUnavailable(
                f"the MQTT broker {self._broker} does not answer ({error}); start it or correct ENERGY_CLOUD_MQTT_URL"
            ) from None
        self._client.loop_start()
        ready = self._subscribed.wait(_CONNECT_SECONDS)
        if not ready or self._failure is not None:
            self.close()
            if self._failure in _REFUSED_LOGIN:
                raise Misconfigured(
                    f"the MQTT broker {self._broker} refused the login; correct ENERGY_CLOUD_MQTT_USERNAME and "
                    "ENERGY_CLOUD_MQTT_PASSWORD"
                )
            raise BrokerUnavailable(
                f"the MQTT broker {self._broker} did not take the subscription to {self._topic}: "
                f"{self._failure or 'no answer'}"
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect; the broker keeps the session and what was not acknowledged."""
        self._closing = True
        self._client.disconnect()
        self._client.loop_stop()

    def take(self, most: int, *, wait: float, linger: float) -> list[Received]:
        """Return up to ``most`` messages: waits ``wait`` seconds for the first, then ``linger`` for more."""
        try:
            taken = [self._queue.get(timeout=wait)]
        except queue.Empty:
            return []
        until = time.monotonic() + linger
        while len(taken) < most:
            left = until - time.monotonic()
            try:
                # A window that is full sends nothing more: a short silence ends the batch before ``linger`` does.
                taken.append(self._queue.get(timeout=min(left, linger / 5)) if left > 0 else self._queue.get_nowait())
            except queue.Empty:
                break
        return taken

    def ack(self, messages: list[Received]) -> int:
        """Acknowledge messages and return how many.

        Those of an earlier connection are left out: the broker sends them again, and their numbers may by now be
        those of messages that are not stored yet.
        """
        acknowledged = 0
        with self._lock:
            for message in messages:
                if message.connection == self._connection:
                    self._client.ack(message.mid, message.qos)
                    acknowledged += 1
        return acknowledged

    @property
    def waiting(self) -> int:
        """Return how many received messages nobody has taken yet."""
        return self._queue.qsize()

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
            return
        if self._connection:
            log.info("broker_connected_again", broker=str(self._broker))
        self._subscribed.set()

    def _on_disconnect(
        self, _client: mqtt.Client, _data: Any, _flags: Any, answer: ReasonCode, _properties: Any
    ) -> None:
        with self._lock:
            self._connection += 1
        if self._closing:
            return
        if not self._subscribed.is_set():
            self._fail(f"it closed the connection ({answer})")
        elif self._failure is None:
            log.warning("broker_lost", broker=str(self._broker), reason=str(answer))

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ascii(message._topic)  # noqa: SLF001
        received = Received(
            topic, bytes(message.payload), datetime.now(UTC), message.mid, message.qos, self._connection
        )
        while not self._closing:
            try:
                self._queue.put(received, timeout=0.5)
            except queue.Full:
                continue
            return

    def _fail(self, reason: str) -> None:
        first = not self._subscribed.is_set()
        self._failure = reason if first else None
        self._subscribed.set()
        if not first:
            log.error("broker_refused", broker=str(self._broker), reason=reason)
