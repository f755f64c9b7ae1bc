"""The outbox: publishes queued commands to devices, hears what they answer, ends what nobody answered.

At least once: a command is marked as sent after the broker acknowledged it, in the transaction that claimed it. Whoever
is killed in between leaves it queued, and it goes out again; devices act once by ``commandId``. Any number of outboxes
may run side by side.

It also keeps allocations going (``following``): their next steps, and the safe setpoints of devices that fell silent.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import sqlalchemy as sa
import structlog

from energy_cloud_dagster.adapters import commands, database, readings
from energy_cloud_dagster.adapters.device_link import DeviceLink, Heard
from energy_cloud_dagster.adapters.mqtt import Broker
from energy_cloud_dagster.adapters.notifications import Listener
from energy_cloud_dagster.adapters.readings import RejectRow
from energy_cloud_dagster.domain.commands import Ack, parse_ack
from energy_cloud_dagster.domain.errors import PartUnavailable, Rejected
from energy_cloud_dagster.domain.readings import parse_topic
from energy_cloud_dagster.services.following import DEFAULT_WATCHDOG, Following
from energy_cloud_dagster.services.processes import session_name, stop_on_signals
from energy_cloud_dagster.services.storing import Writer
from energy_cloud_dagster.settings import Settings

log = structlog.get_logger()

BATCH: Final = 100
#: Looks at the table at least this often: a NOTIFY may be lost with the connection that should have heard it.
_LOOK_SECONDS: Final = 5.0
_LEAST_PAUSE: Final = 0.05
_STOP_SECONDS: Final = 0.2
#: How long the broker gets to hand over what devices said while the outbox was away, before anything is ended.
_CATCH_UP_SECONDS: Final = 0.2
_BROKER_SECONDS: Final = 2.0
_LONGEST_KEPT: Final = 4_096


class Outbox:
    """Works on one connection to the broker until ``stop`` is set or the connection is lost."""

    def __init__(
        self,
        engine: sa.Engine,
        link: DeviceLink,
        retry: timedelta,
        *,
        stop: threading.Event | None = None,
        wake: threading.Event | None = None,
        watchdog: timedelta = DEFAULT_WATCHDOG,
        applies_plans: bool = False,
        approval_kw: float | None = None,
    ) -> None:
        self.stop = stop or threading.Event()
        self.wake = wake or threading.Event()
        self.totals: Counter[str] = Counter()
        self._link = link
        self._retry = retry
        self._writer = Writer(engine, self.stop)
        self._following = Following(self._writer, watchdog, applies_plans=applies_plans, approval_kw=approval_kw)

    def run(self) -> None:
        """Publish, hear and expire; returns on ``stop``, raises ``BrokerUnavailable`` where the connection is lost."""
        self.stop.wait(_CATCH_UP_SECONDS)
        while not self.stop.is_set():
            self.wake.clear()
            self.hear()
            expire(self._writer, self.totals)
            self.totals.update(self._following.work())
            self.send()
            if not self._link.alive:
                self.hear()
                return
            self._pause()
        self.hear()

    def hear(self) -> None:
        """Take every acknowledgement that has arrived; the broker is told after the commit."""
        while heard := self._link.take(BATCH):
            taken = self._writer.until_committed(lambda connection: self._take_all(connection, heard))
            if taken is None:
                return
            self._link.ack(heard)
            self.totals.update(taken)

    def send(self) -> None:
        """Publish all that is due."""
        while self._link.alive and not self.stop.is_set():
            if not self._writer.until_committed(self._send_batch):
                return
            self.hear()

    def _send_batch(self, connection: sa.Connection) -> int:
        # Of before the publication: what a device answers to it comes later, in the history too.
        now = _now()
        due = commands.claim(connection, now, limit=BATCH)
        if not due:
            return 0
        messages = [(each.command.topic, json.dumps(each.document, ensure_ascii=False).encode()) for each in due]
        taken = self._link.publish(messages)
        sent = [each.command for each, there in zip(due, taken, strict=True) if there]
        commands.mark_sent(connection, sent, now, self._retry)
        self.totals.update(published=len(sent))
        for each in sent:
            log.info(
                "command_published", command_id=each.command_id, device_id=each.device_id, attempt=each.attempts + 1
            )
        return len(sent)

    def _take_all(self, connection: sa.Connection, heard: list[Heard]) -> Counter[str]:
        taken: Counter[str] = Counter()
        answers: list[tuple[Heard, str, Ack]] = []
        for message in heard:
            try:
                answers.append((message, parse_topic(message.topic).device_id, parse_ack(message.payload)))
            except Rejected as reason:
                taken["rejected"] += _keep(connection, message, reason)
        # Every outbox hears every answer: locked in one order, commands cannot have two of them wait for each other.
        for message, device_id, ack in sorted(answers, key=lambda each: (each[2].command_id or "", each[1])):
            try:
                found = commands.acknowledge(connection, device_id, ack, message.received_at)
            except Rejected as reason:
                taken["rejected"] += _keep(connection, message, reason)
                continue
            log.info("command_answered", command_id=found.command_id, device_id=device_id, state=found.state)
            taken["acknowledgements"] += 1
        return taken

    def _pause(self) -> None:
        """Wait for news, for the next time that something is due, or for ``stop``."""
        due = self._writer.until_committed(commands.next_due)
        left = _LOOK_SECONDS if due is None else (due - _now()).total_seconds()
        end = time.monotonic() + min(max(left, _LEAST_PAUSE), self._following.pause_seconds, _LOOK_SECONDS)
        while not self.stop.is_set() and (left := end - time.monotonic()) > 0:
            if self.wake.wait(min(left, _STOP_SECONDS)):
                return


def _keep(connection: sa.Connection, message: Heard, reason: Rejected) -> int:
    log.warning("acknowledgement_rejected", topic=message.topic, reason=reason.reason)
    kept = message.payload[:_LONGEST_KEPT]
    row = RejectRow(message.received_at, "mqtt", message.topic, kept, reason.reason, reason.detail)
    return readings.reject(connection, [row])


def expire(writer: Writer, totals: Counter[str]) -> None:
    """End every command whose time has passed."""
    while ended := writer.until_committed(lambda connection: commands.expire(connection, _now())):
        totals.update(expired=len(ended))
        for each in ended:
            log.warning("command_expired", command_id=each.command_id, device_id=each.device_id, reason=each.reason)


def run(
    settings: Settings,
    *,
    client_id: str | None = None,
    stop: threading.Event | None = None,
    on_ready: Callable[[], None] | None = None,
) -> Counter[str]:
    """Run one outbox until SIGTERM, SIGINT or ``stop``; return its totals.

    ``client_id`` None takes the lowest number that is free under ``settings.home``. ``on_ready`` is called once
    acknowledgements are heard. Waits for a broker or database that is away (what is due expires meanwhile), raises
    ``Misconfigured`` for what only a person can mend.
    """
    stop, wake = stop or threading.Event(), threading.Event()
    totals: Counter[str] = Counter()
    password = settings.mqtt_password.get_secret_value()
    broker = Broker.of(settings.mqtt_url, settings.mqtt_username, password, settings.mqtt_ca)
    engine = database.make_engine(settings.database_url.get_secret_value(), pool_size=2)
    writer = Writer(engine, stop)
    retry = timedelta(seconds=settings.command_retry_seconds)
    watchdog = timedelta(seconds=settings.watchdog_seconds)
    with stop_on_signals(stop), session_name(settings.home, "outbox", client_id) as name:
        writer.until_committed(database.require_current)
        with Listener(engine, commands.CHANNEL, lambda _payload: wake.set()):
            while not stop.is_set():
                try:
                    with DeviceLink(broker, name, on_news=wake.set) as link:
                        log.info("outbox_ready", broker=str(broker), client_id=name)
                        if on_ready is not None:
                            on_ready()
                        outbox = Outbox(
                            engine,
                            link,
                            retry,
                            stop=stop,
                            wake=wake,
                            watchdog=watchdog,
                            applies_plans=settings.dispatch_apply,
                            approval_kw=settings.dispatch_approval_kw,
                        )
                        outbox.totals = totals
                        outbox.run()
                    if stop.is_set():
                        break
                    log.warning("broker_lost", broker=str(broker))
                except PartUnavailable as error:
                    log.warning("broker_unavailable", reason=str(error))
                expire(writer, totals)
                stop.wait(_BROKER_SECONDS)
    engine.dispose()
    log.info("outbox_stopped", **totals)
    return totals


def _now() -> datetime:
    return datetime.now(UTC)
