"""The MQTT ingest worker: batches of messages to rows, one transaction each, acknowledged after the commit.

Any number of workers share the messages. A worker, broker or database that is killed at any moment loses nothing
that was acknowledged: the broker sends the rest again, and repetitions are absorbed.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Final, Literal

import psycopg
import sqlalchemy as sa
import structlog

from energy_cloud_dagster.adapters import database, readings
from energy_cloud_dagster.adapters.mqtt import SHARED_SUBSCRIPTION, Broker, Consumer, Received
from energy_cloud_dagster.adapters.readings import RejectRow
from energy_cloud_dagster.domain.errors import Misconfigured, PartUnavailable, Rejected
from energy_cloud_dagster.domain.readings import SUBSCRIPTION, ReadingRow, Rules, decode_readings
from energy_cloud_dagster.services.processes import session_name, stop_on_signals
from energy_cloud_dagster.services.routing import Routes
from energy_cloud_dagster.services.storing import Writer
from energy_cloud_dagster.settings import Settings

log = structlog.get_logger()

BATCH_MESSAGES: Final = 2_000
BATCH_SECONDS: Final = 0.025
_WAIT_SECONDS: Final = 0.5
_PROGRESS_SECONDS: Final = 10.0
_BROKER_SECONDS: Final = 2.0
_MOST_DETAILS: Final = 3


class IngestWorker:
    """Takes messages from a consumer, stores what is good, keeps what is not with its reason, then acknowledges."""

    def __init__(
        self,
        engine: sa.Engine,
        consumer: Consumer,
        rules: Rules,
        *,
        unknown_devices: Literal["reject", "register"] = "reject",
        stop: threading.Event | None = None,
    ) -> None:
        self.stop = stop or threading.Event()
        self.totals: Counter[str] = Counter()
        self._consumer = consumer
        self._rules = rules
        self._routes = Routes(rules.max_payload_bytes, register=unknown_devices == "register")
        self._writer = Writer(engine, self.stop)
        self._told_at = time.monotonic()

    def run(self) -> None:
        """Work until ``stop`` is set, then store and acknowledge what has arrived already."""
        while not self.stop.is_set():
            self._work(self._consumer.take(BATCH_MESSAGES, wait=_WAIT_SECONDS, linger=BATCH_SECONDS))
            self._tell()
        # Only those: while others publish, acknowledging brings new ones for ever.
        left = self._consumer.waiting
        while left > 0 and (batch := self._consumer.take(min(left, BATCH_MESSAGES), wait=0.0, linger=0.0)):
            left -= len(batch)
            if not self._work(batch):
                break
        self._tell(last=True)

    def _work(self, batch: list[Received]) -> bool:
        """Store a batch and acknowledge it; False when it stays unacknowledged because of a stop."""
        if not batch:
            return True
        try:
            stored = self._routed_and_stored(batch)
        except (sa.exc.DBAPIError, psycopg.Error) as error:
            if len(batch) > 1:
                # By halves, so that one message that cannot be stored costs a dozen transactions, not thousands.
                half = len(batch) // 2
                return self._work(batch[:half]) and self._work(batch[half:])
            stored = self._set_aside(batch[0], error)
        if stored is None:
            log.warning("left_unacknowledged", messages=len(batch))
            return False
        self._consumer.ack(batch)
        self.totals.update(stored, messages=len(batch))
        return True

    def _routed_and_stored(self, batch: list[Received]) -> Counter[str] | None:
        if missing := self._routes.missing(batch):
            # In a transaction of its own: only what is committed may be remembered.
            routes = self._writer.until_committed(lambda connection: self._routes.look_up(connection, missing))
            if routes is None:
                return None
            self._routes.learn(routes)
        rows, rejects = self._decoded(batch)
        if not rows and not rejects:
            return Counter()
        return self._writer.until_committed(lambda connection: _store(connection, rows, rejects))

    def _decoded(self, batch: list[Received]) -> tuple[list[ReadingRow], list[RejectRow]]:
        rows: list[ReadingRow] = []
        rejects: list[RejectRow] = []
        routes, rules = self._routes, self._rules
        for message in batch:
            info, refusal, _ = routes[message.topic]
            if info is not None:
                found = decode_readings(message.payload, info, received_at=message.received_at, rules=rules)
                rows += found.rows
                if found.rejected:
                    rejects += reject_rows(message, found.rejected, rules.max_payload_bytes)
            elif refusal is not None:
                rejects += reject_rows(message, [refusal], rules.max_payload_bytes)
        return rows, rejects

    def _set_aside(self, message: Received, error: Exception) -> Counter[str] | None:
        """Keep a message that the database itself refused; any other one would be held up by it for ever."""
        if isinstance(getattr(error, "orig", error), psycopg.ProgrammingError):
            raise Misconfigured(
                f"the database lacks what ingest needs ({_first_line(error)}); run `energy-cloud db upgrade`"
            ) from error
        reason = Rejected("not_storable", f"the database refused it: {_first_line(error)}")
        log.warning("message_set_aside", topic=message.topic, reason=reason.detail)
        rejects = reject_rows(message, [reason], self._rules.max_payload_bytes)
        return self._writer.until_committed(lambda connection: Counter(rejected=readings.reject(connection, rejects)))

    def _tell(self, *, last: bool = False) -> None:
        if last or (self.totals and time.monotonic() - self._told_at > _PROGRESS_SECONDS):
            log.info("ingest_stopped" if last else "ingest_progress", **self.totals)
            self._told_at = time.monotonic()


def _store(connection: sa.Connection, rows: list[ReadingRow], rejects: list[RejectRow]) -> Counter[str]:
    stored = readings.store(connection, rows)
    return Counter({**stored._asdict(), "rejected": readings.reject(connection, rejects)})


def reject_rows(message: Received, reasons: list[Rejected], max_bytes: int) -> Iterator[RejectRow]:
    """Yield one row for each reason code of a message, however many of its readings it struck."""
    details: dict[str, list[str]] = {}
    for each in reasons:
        details.setdefault(each.reason, []).append(each.detail)
    for reason, texts in details.items():
        more = f"; and {len(texts) - _MOST_DETAILS} more" if len(texts) > _MOST_DETAILS else ""
        detail = "; ".join(texts[:_MOST_DETAILS]) + more
        yield RejectRow(message.received_at, "mqtt", message.topic, message.payload[:max_bytes], reason, detail)


def rules_of(settings: Settings) -> Rules:
    """Return the limits that the settings give."""
    return Rules(
        future_tolerance=timedelta(seconds=settings.future_tolerance_seconds),
        late_tolerance=timedelta(days=settings.late_tolerance_days),
        max_payload_bytes=settings.max_payload_bytes,
        replay=settings.replay,
    )


def run(
    settings: Settings,
    *,
    client_id: str | None = None,
    stop: threading.Event | None = None,
    on_ready: Callable[[], None] | None = None,
) -> Counter[str]:
    """Run one worker until SIGTERM, SIGINT or ``stop``; return its totals.

    ``client_id`` None takes the lowest number that is free under ``settings.home``. ``on_ready`` is called once the
    subscription holds. Waits for a broker or database that is away, raises ``Misconfigured`` for what only a person
    can mend.
    """
    stop = stop or threading.Event()
    password = settings.mqtt_password.get_secret_value()
    broker = Broker.of(settings.mqtt_url, settings.mqtt_username, password, settings.mqtt_ca)
    topic, former = SHARED_SUBSCRIPTION, SUBSCRIPTION
    if not settings.mqtt_shared:
        topic, former = former, topic
    engine = database.make_engine(settings.database_url.get_secret_value(), pool_size=1)
    with stop_on_signals(stop), session_name(settings.home, "ingest", client_id) as name:
        Writer(engine, stop).until_committed(database.require_current)
        while not stop.is_set():
            try:
                with Consumer(broker, name, topic=topic, instead_of=former) as consumer:
                    log.info("ingest_ready", broker=str(broker), client_id=name)
                    if on_ready is not None:
                        on_ready()
                    worker = IngestWorker(
                        engine, consumer, rules_of(settings), unknown_devices=settings.unknown_devices, stop=stop
                    )
                    worker.run()
                    return worker.totals
            except PartUnavailable as error:
                log.warning("broker_unavailable", reason=str(error))
                stop.wait(_BROKER_SECONDS)
    return Counter()


def _first_line(error: Exception) -> str:
    return str(getattr(error, "orig", error)).strip().partition("\n")[0]
