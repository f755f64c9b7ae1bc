"""The simulated fleet's way to the broker: MQTT 3.1.1, QoS 1, a bounded window of unacknowledged messages."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import structlog
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from energy_cloud_dagster.adapters.mqtt import Broker
from energy_cloud_dagster.domain.errors import BrokerUnavailable, Misconfigured
from energy_cloud_dagster.sample_data import community as plain
from energy_cloud_dagster.services.simulator import Message, messages

log = structlog.get_logger()

#: Messages that may be unacknowledged at once.
WINDOW: Final = 500
_CONNECT_SECONDS: Final = 10.0
_STALL_SECONDS: Final = 30.0
_REFUSED: Final = {"Bad user name or password", "Not authorized"}


@dataclass(frozen=True, slots=True)
class Published:
    """What a replay did; every published message was acknowledged by the broker."""

    messages: int
    seconds: float


class FleetClient:
    """A connection to the broker that publishes at QoS 1 and knows what was acknowledged.

    A broken connection is made again and unacknowledged messages are sent again. Use it as a context manager; one
    thread publishes. ``topics`` are subscribed to, at QoS 1, and their messages handed to ``heard`` on a thread of the
    client's own. ``ca`` is the authority of an mqtts:// broker (None: those of the system).
    """

    def __init__(
        self,
        url: str,
        username: str,
        password: str,
        *,
        window: int = WINDOW,
        stall_seconds: float = _STALL_SECONDS,
        cancelled: Callable[[], bool] = lambda: False,
        topics: Sequence[str] = (),
        heard: Callable[[str, bytes], None] = lambda _topic, _payload: None,
        ca: Path | None = None,
    ) -> None:
        self._broker = Broker.of(url, username, password, ca)
        self._stall_seconds = stall_seconds
        self._cancelled = cancelled
        self._window = window
        self._changed = threading.Condition()
        self._unacknowledged = 0
        self._acknowledged = 0
        self._answer: ReasonCode | None = None
        self._topics = topics
        self._heard = heard
        self._subscribed: list[ReasonCode] | None = None
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=f"energy-cloud-fleet-{uuid.uuid4().hex[:8]}", protocol=mqtt.MQTTv311
        )
        if username:
            self._client.username_pw_set(username, password)
        if self._broker.tls:
            self._client.tls_set(str(ca) if ca else None)
        self._client.max_inflight_messages_set(window)
        self._client.max_queued_messages_set(0)
        self._client.reconnect_delay_set(1, 10)
        self._client.on_connect = self._on_connect
        self._client.on_publish = self._on_publish
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def connect(self) -> None:
        """Connect and log in. Raises ``BrokerUnavailable``, or ``Misconfigured`` where the login was refused."""
        try:
            self._client.connect(self._broker.host, self._broker.port, keepalive=30)
        except OSError as error:
            raise BrokerUnavailable(f"the MQTT broker {self._broker} did not answer: {error}") from None
        self._client.loop_start()
        with self._changed:
            self._changed.wait_for(lambda: self._answer is not None, timeout=_CONNECT_SECONDS)
            answer = self._answer
        if answer is None or answer.is_failure:
            self._client.loop_stop()
            if answer is not None and str(answer) in _REFUSED:
                raise Misconfigured(
                    f"the MQTT broker {self._broker} refused the login: check ENERGY_CLOUD_MQTT_USERNAME and "
                    "ENERGY_CLOUD_MQTT_PASSWORD"
                )
            raise BrokerUnavailable(f"the MQTT broker {self._broker} did not accept the connection: {answer}")
        if self._topics:
            self._require_subscription()

    def close(self) -> None:
        """Disconnect; what was not acknowledged by then may be lost, so ``flush`` first."""
        self._client.disconnect()
        self._client.loop_stop()

    @property
    def acknowledged(self) -> int:
        """Return how many messages the broker has acknowledged."""
        with self._changed:
            return self._acknowledged

    def publish(self, topic: str, payload: bytes) -> None:
        """Send one message; waits while the window is full. Raises ``BrokerUnavailable`` when nothing moves."""
        self._wait(lambda: self._unacknowledged < self._window)
        with self._changed:
            self._unacknowledged += 1
        # While the connection is down paho keeps the message and sends it after the next CONNACK.
        self._client.publish(topic, payload, qos=1)

    def flush(self) -> None:
        """Wait until every message was acknowledged. Raises ``BrokerUnavailable`` when nothing moves."""
        self._wait(lambda: self._unacknowledged == 0)

    def _require_subscription(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._subscribed is not None, timeout=_CONNECT_SECONDS)
            answers = self._subscribed
        if answers is None or any(each.is_failure for each in answers):
            self.close()
            raise BrokerUnavailable(f"the MQTT broker {self._broker} refused the topics of the devices: {answers}")

    def _wait(self, ready: Callable[[], bool]) -> None:
        with self._changed:
            moved_at, seen = time.monotonic(), self._acknowledged
            while not ready():
                self._changed.wait(timeout=0.2)
                if self._acknowledged != seen:
                    moved_at, seen = time.monotonic(), self._acknowledged
                stalled = time.monotonic() - moved_at
                if self._cancelled() or stalled > self._stall_seconds:
                    raise BrokerUnavailable(
                        f"the MQTT broker {self._broker} left {self._unacknowledged} messages unacknowledged "
                        f"for {stalled:.0f} s"
                    )

    def _on_connect(
        self, client: mqtt.Client, _data: Any, _flags: mqtt.ConnectFlags, answer: ReasonCode, _properties: Any
    ) -> None:
        if self._topics and not answer.is_failure:
            client.subscribe([(topic, 1) for topic in self._topics])
        with self._changed:
            self._answer = answer
            self._changed.notify_all()

    def _on_subscribe(
        self, _client: mqtt.Client, _data: Any, _mid: int, answers: list[ReasonCode], _properties: Any
    ) -> None:
        with self._changed:
            self._subscribed = answers
            self._changed.notify_all()

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        self._heard(message.topic, bytes(message.payload))

    def _on_publish(self, _client: mqtt.Client, _data: Any, _mid: int, _answer: Any, _properties: Any) -> None:
        with self._changed:
            self._unacknowledged -= 1
            self._acknowledged += 1
            self._changed.notify_all()


def publish(
    client: FleetClient,
    due: Iterable[Message],
    *,
    simulated_receipt: bool,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Publish ``due`` and wait for every acknowledgement; return how many there were.

    ``progress`` is told how many were sent, every hundred and at the end.
    """
    sent = 0
    for message in due:
        client.publish(message.topic, message.payload(simulated_receipt=simulated_receipt))
        sent += 1
        if progress is not None and sent % 100 == 0:
            progress(sent)
    client.flush()
    if progress is not None:
        progress(sent)
    return sent


def replay_mqtt(
    url: str,
    username: str,
    password: str,
    start: datetime,
    end: datetime,
    *,
    community: plain.Community = plain.SEOUL_COMMUNITY,
    window: int = WINDOW,
    progress: Callable[[int], None] | None = None,
) -> Published:
    """Publish what the fleet's MQTT devices say about ``[start, end)``, as fast as the broker takes it.

    Messages carry their simulated ``receivedAt``. Returns after the last acknowledgement. Raises
    ``BrokerUnavailable``, or ``Misconfigured`` for a wrong URL or login.
    """
    began = time.monotonic()
    with FleetClient(url, username, password, window=window) as client:
        sent = publish(
            client,
            messages(community, start, end, frozenset({"mqtt"})),
            simulated_receipt=True,
            progress=progress,
        )
    seconds = time.monotonic() - began
    log.info("fleet_replayed", protocol="mqtt", messages=sent, seconds=round(seconds, 3))
    return Published(sent, seconds)
