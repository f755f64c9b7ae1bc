"""Receive MQTT messages so that none is lost: QoS 1, acknowledged by hand after the commit, a session that lasts.

MQTT 3.1.1, which paho runs faster than 5; devices may speak either. The broker's in-flight window (and the bounded
queue here) is the back-pressure: what is not acknowledged stops the flow.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self
from urllib.parse import urlsplit

import structlog
from paho.mqtt import client as mqtt
from paho.mqtt.reasoncodes import ReasonCode

from energy_cloud_dagster.adapters.mqtt_bulk import BulkClient, Frame
from energy_cloud_dagster.domain.errors import BrokerUnavailable, Misconfigured
from energy_cloud_dagster.domain.readings import SUBSCRIPTION

log = structlog.get_logger()

#: Workers of this group share the messages of all devices.
SHARED_SUBSCRIPTION: Final = f"$share/ingest/{SUBSCRIPTION}"
#: Payload bytes after which nothing more is read, and after which a batch ends.
QUEUE_BYTES: Final = 67_108_864
BATCH_BYTES: Final = 8_388_608
_KEEPALIVE_SECONDS: Final = 30
_CONNECT_SECONDS: Final = 10.0
_REFUSED_LOGIN: Final = {"Bad user name or password", "Not authorized"}
#: As many messages may be a broker's whole window: when they are followed by silence, waiting for more is in vain.
_WINDOW: Final = 100
#: Share of the linger after which silence is silence.
_SILENCE: Final = 0.2
_MOST_NAMES: Final = 100_000
_LONGEST_NAME: Final = 512


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker listens and who we are to it; ``ca`` (PEM) vouches for it, None: those of the system."""

    host: str
    port: int
    tls: bool = False
    username: str = ""
    password: str = ""
    ca: Path | None = None

    @classmethod
    def of(cls, url: str, username: str = "", password: str = "", ca: Path | None = None) -> Self:
        """Read ``mqtt://host:port`` or ``mqtts://host:port``; anything else is ``Misconfigured``."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise Misconfigured(f"ENERGY_CLOUD_MQTT_URL {url!r} is no URL; write mqtt://host:1883") from None
        if parts.scheme not in {"mqtt", "mqtts"} or not parts.hostname:
            raise Misconfigured(f"ENERGY_CLOUD_MQTT_URL {url!r} is not mqtt://host:port or mqtts://host:port")
        tls = parts.scheme == "mqtts"
        return cls(parts.hostname, port or (8883 if tls else 1883), tls, username, password, ca)

    def prepare(self, client: mqtt.Client) -> None:
        """Give ``client`` our login and, for mqtts://, the authority to trust."""
        if self.username:
            client.username_pw_set(self.username, self.password)
        if self.tls:
            client.tls_set(str(self.ca) if self.ca else None)

    def enter(
        self, client: mqtt.Client, topic: str, subscribed: threading.Event, failure: Callable[[], str | None]
    ) -> None:
        """Connect ``client`` and wait until its callbacks have ``subscribed`` to ``topic`` or know a ``failure``.

        Raises ``BrokerUnavailable`` or, for a refused login, ``Misconfigured``; the client's loop may run then.
        """
        try:
            client.connect(self.host, self.port, _KEEPALIVE_SECONDS)
        except OSError as error:
            raise BrokerUnavailable(
                f"the MQTT broker {self} does not answer ({error}); start it or correct ENERGY_CLOUD_MQTT_URL"
            ) from None
        client.loop_start()
        if subscribed.wait(_CONNECT_SECONDS) and failure() is None:
            return
        if failure() in _REFUSED_LOGIN:
            raise Misconfigured(
                f"the MQTT broker {self} refused the login; correct ENERGY_CLOUD_MQTT_USERNAME and "
                "ENERGY_CLOUD_MQTT_PASSWORD"
            )
        raise BrokerUnavailable(
            f"the MQTT broker {self} did not take the subscription to {topic}: {failure() or 'no answer'}"
        )

    def __str__(self) -> str:
        return f"{'mqtts' if self.tls else 'mqtt'}://{self.host}:{self.port}"


class Received(NamedTuple):
    """One message that waits for its acknowledgement; ``connection`` counts the connections of this client.

    ``mid`` is 0 for a message of QoS 0, which nobody acknowledges.
    """

    topic: str
    payload: bytes
    received_at: datetime
    mid: int
    connection: int


class Consumer:
    """A durable subscription to the messages of all devices; use it as a context manager.

    ``client_id`` names the session: the broker keeps what it has not acknowledged, over restarts of the process (and
    over its own, where the broker is durable). Two clients of one id push each other out.
    """

    def __init__(
        self,
        broker: Broker,
        client_id: str,
        *,
        topic: str = SHARED_SUBSCRIPTION,
        instead_of: str = "",
        queue_size: int = 20_000,
    ) -> None:
        """Subscribe to ``topic``; ``instead_of`` is given up where an earlier session still holds it."""
        self._broker = broker
        self._topic = topic
        self._instead_of = instead_of
        self._queue: deque[Received] = deque()
        self._bytes = 0
        self._arrival = threading.Condition()
        self._names: dict[bytes, str] = {}
        self._lock = threading.Lock()
        self._connection = 0
        self._subscribed = threading.Event()
        self._failure: str | None = None
        self._closing = False
        self._client = BulkClient(
            client_id, self._on_frames, lambda: len(self._queue) < queue_size and self._bytes < QUEUE_BYTES
        )
        broker.prepare(self._client)
        self._client.reconnect_delay_set(1, 30)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_subscribe = self._on_subscribe

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
        self._closing = True
        self._client.disconnect()
        self._client.loop_stop()

    def take(self, most: int, *, wait: float, linger: float) -> list[Received]:
        """Return up to ``most`` messages: waits ``wait`` seconds for the first, then ``linger`` for more.

        Large messages end it sooner, so that a batch takes bounded memory.
        """
        with self._arrival:
            if not self._arrival.wait_for(lambda: self._queue, wait):
                return []
        until = time.monotonic() + linger
        while (have := len(self._queue)) < most and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, linger * _SILENCE))
            if have == len(self._queue) >= _WINDOW:
                break
        taken: list[Received] = []
        room = BATCH_BYTES
        with self._arrival:
            while self._queue and len(taken) < most and room > 0:
                taken.append(self._queue.popleft())
                room -= len(taken[-1].payload)
            self._bytes -= BATCH_BYTES - room
        return taken

    def ack(self, messages: list[Received]) -> int:
        """Acknowledge messages and return how many.

        Those of an earlier connection are left out: the broker sends them again, and their numbers may by now be
        those of messages that are not stored yet.
        """
        with self._lock:
            mids = [message.mid for message in messages if message.connection == self._connection and message.mid]
            if mids:
                self._client.ack_all(mids)
        return len(mids)

    @property
    def waiting(self) -> int:
        """Return how many received messages nobody has taken yet."""
        return len(self._queue)

    def _on_connect(
        self, client: mqtt.Client, _data: Any, flags: mqtt.ConnectFlags, answer: ReasonCode, _properties: Any
    ) -> None:
        if answer.is_failure:
            self._fail(str(answer))
            return
        # In this order: what comes in between comes twice and is absorbed, in the other it would be dropped.
        client.subscribe(self._topic, qos=1)
        if flags.session_present and self._instead_of:
            client.unsubscribe(self._instead_of)

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

    def _on_frames(self, frames: list[Frame]) -> None:
        names, connection, received_at = self._names, self._connection, datetime.now(UTC)
        received = [
            Received(names.get(topic) or self._name(topic), payload, received_at, mid, connection)
            for topic, payload, mid in frames
        ]
        # A broker that first repeats what was not acknowledged may answer the subscription only after that.
        self._subscribed.set()
        with self._arrival:
            self._queue.extend(received)
            self._bytes += sum([len(frame.payload) for frame in frames])
            self._arrival.notify()

    def _name(self, topic: bytes) -> str:
        try:
            name = topic.decode()
        except UnicodeDecodeError:
            name = ascii(topic)
        if len(topic) <= _LONGEST_NAME:
            if len(self._names) >= _MOST_NAMES:
                self._names.clear()
            self._names[topic] = name
        return name

    def _fail(self, reason: str) -> None:
        first = not self._subscribed.is_set()
        self._failure = reason if first else None
        self._subscribed.set()
        if not first:
            log.error("broker_refused", broker=str(self._broker), reason=reason)
