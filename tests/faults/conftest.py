"""Parts that may be killed: PostgreSQL and brokers of their own, workers as processes, a device that counts PUBACKs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest
import sqlalchemy as sa
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion
from pydantic import SecretStr

from energy_cloud_dagster.adapters import database, readings, registry
from energy_cloud_dagster.adapters.tables import market_registry, reading, region, rejected, series
from energy_cloud_dagster.domain.errors import DatabaseUnavailable
from energy_cloud_dagster.domain.readings import Topic
from energy_cloud_dagster.embedded.broker import EmbeddedBroker, find_mosquitto
from energy_cloud_dagster.embedded.claims import free_port
from energy_cloud_dagster.embedded.parts import child_environment
from energy_cloud_dagster.embedded.postgres import EmbeddedPostgres
from energy_cloud_dagster.settings import Settings

REGION = "faults"
#: Reading ``n`` of a meter is named by this moment and n seconds: yesterday, so that no clock here is in its way.
FIRST = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
PATIENCE_SECONDS = 30.0


class Row(NamedTuple):
    """One row of raw.reading: which reading it is, its value, its revision."""

    number: int
    value: float
    revision: int


class Worker:
    """A worker as a process of its own; ``said`` holds its log events."""

    def __init__(self, environment: dict[str, str], *how: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *how], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self.said: list[dict[str, Any]] = []
        self.raw: list[str] = []
        self._heard = threading.Condition()
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def wait_for(self, event: str) -> dict[str, Any]:
        """Return the first log line of that event once it was said."""
        with self._heard:
            self._heard.wait_for(lambda: self._find(event) or not self._reader.is_alive(), PATIENCE_SECONDS)
            found = self._find(event)
            assert found, f"no {event}; the worker said: {self.raw[-20:]}"
            return found

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()
        self._reader.join(PATIENCE_SECONDS)

    def stop(self) -> dict[str, Any]:
        """Stop it politely and return its totals."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE_SECONDS) == 0, self.raw[-20:]
        self._reader.join(PATIENCE_SECONDS)
        return self.wait_for("ingest_stopped")

    def _find(self, event: str) -> dict[str, Any] | None:
        return next((line for line in self.said if line.get("event") == event), None)

    def _listen(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                with self._heard:
                    self.raw.append(line)
                    with contextlib.suppress(json.JSONDecodeError):
                        self.said.append(json.loads(line))
                    self._heard.notify_all()
        with self._heard:
            self._heard.notify_all()


class Device:
    """A meter at QoS 1: it keeps what has no PUBACK and sends it again, and knows when each PUBACK came."""

    def __init__(self, host: str, port: int, username: str, password: str) -> None:
        self.acknowledged: dict[object, float] = {}
        self._waiting: dict[int, object] = {}
        self._early: dict[int, float] = {}
        self._changed = threading.Condition()
        self._connections = self._disconnections = 0
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv311)
        self._client.username_pw_set(username, password)
        self._client.max_queued_messages_set(0)
        self._client.max_inflight_messages_set(100)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_publish = self._on_publish
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.connect(host, port)
        self._client.loop_start()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def send(self, topic: Topic | str, payload: bytes, key: object = None) -> None:
        """Publish one message; ``key`` is what ``acknowledged`` calls it."""
        mid = self._client.publish(str(topic), payload, qos=1).mid
        with self._changed:
            if mid in self._early:
                self.acknowledged[key] = self._early.pop(mid)
            else:
                self._waiting[mid] = key

    def flush(self) -> None:
        """Wait until everything sent so far has its PUBACK."""
        with self._changed:
            assert self._changed.wait_for(lambda: not self._waiting, PATIENCE_SECONDS), "no PUBACK came"

    def wait_connected(self, times: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._connections >= times, PATIENCE_SECONDS), "no connection"

    def wait_disconnected(self, times: int = 1) -> None:
        """Wait until the connection broke; every PUBACK that was under way has been read by then."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._disconnections >= times, PATIENCE_SECONDS), "still connected"

    def _on_connect(self, *_: object) -> None:
        with self._changed:
            self._connections += 1
            self._changed.notify_all()

    def _on_disconnect(self, *_: object) -> None:
        with self._changed:
            self._disconnections += 1
            self._changed.notify_all()

    def _on_publish(self, _client: object, _data: object, mid: int, *_: object) -> None:
        with self._changed:
            if mid in self._waiting:
                self.acknowledged[self._waiting.pop(mid)] = time.monotonic()
            else:  # it came before publish() told its number
                self._early[mid] = time.monotonic()
            self._changed.notify_all()


class Ground:
    """A database, a broker, workers and devices; everything of it may be killed and started again."""

    def __init__(self, postgres: EmbeddedPostgres, broker: EmbeddedBroker, url: str, home: Path) -> None:
        self.postgres, self.broker, self.url, self.home = postgres, broker, url, home
        self.engine = database.make_engine(url)
        self._stack = ExitStack()
        self._stack.callback(self.engine.dispose)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def environment(self, mqtt_url: str | None = None, *, shared: bool = False, **changes: object) -> dict[str, str]:
        given = Settings(
            home=self.home,
            database_url=SecretStr(self.url),
            mqtt_url=mqtt_url or self.broker.url,
            mqtt_username=self.broker.username,
            mqtt_password=SecretStr(self.broker.password),
            mqtt_shared=shared,
            log_format="json",
            log_level="info",
            **changes,  # type: ignore[arg-type]
        )
        return os.environ | child_environment(given)

    def worker(
        self, name: str = "w1", *, program: Sequence[str] = (), mqtt_url: str | None = None, **changes: object
    ) -> Worker:
        """Start a worker, or ``python -c`` of a program that is one, and wait until its subscription holds."""
        usual = ["-m", "energy_cloud_dagster.cli", "ingest", "--name", name]
        made = Worker(self.environment(mqtt_url, **changes), *(["-c", *program] if program else usual))
        self._stack.callback(made.kill)
        made.wait_for("ingest_ready")
        return made

    def device(self) -> Device:
        made = Device("127.0.0.1", self.broker.port, self.broker.username, self.broker.password)
        self._stack.callback(made.close)
        made.wait_connected(1)
        return made

    def meter(self) -> Topic:
        """Register a meter of kWh."""
        topic = Topic(REGION, "smart-meter", f"M-{uuid.uuid4().hex[:8]}", "consumption")
        with self.engine.begin() as connection:
            registry.register_device(connection, topic, "kWh", FIRST)
        return topic

    @staticmethod
    def until(true: Callable[[], object]) -> None:
        """Ask until it is so: there is no event across processes."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not true():
            assert time.monotonic() < end, f"it did not happen in {PATIENCE_SECONDS:.0f} s"
            time.sleep(0.02)

    @staticmethod
    def at(number: int) -> datetime:
        """Return the moment that names reading ``number``."""
        return FIRST + timedelta(seconds=number)

    @classmethod
    def said(cls, number: int, value: float | None = None, **changes: object) -> bytes:
        """Return reading ``number`` as a device sends it; its value is its number unless given."""
        fields = {
            "timestamp": cls.at(number).isoformat(),
            "value": float(number) if value is None else value,
            "unit": "kWh",
        }
        return json.dumps(fields | changes).encode()

    @staticmethod
    def once(numbers: Iterable[int]) -> list[Row]:
        """Return what the database holds when each of these readings is there exactly once."""
        return [Row(number, float(number), 1) for number in sorted(numbers)]

    def rows(self, topic: Topic) -> list[Row]:
        """Every revision of every reading of the meter, by reading and revision."""
        with self.engine.connect() as connection:
            found = connection.execute(
                sa.select(reading.c.ts, reading.c.value, reading.c.revision)
                .join(series, series.c.series_id == reading.c.series_id)
                .where(series.c.device_id == topic.device_id, series.c.metric == topic.metric)
                .order_by(reading.c.ts, reading.c.revision)
            )
            return [Row(round((ts - FIRST).total_seconds()), value, revision) for ts, value, revision in found]

    def count(self, topic: Topic) -> int:
        """How many rows the meter has; 0 while the database is away."""
        statement = (
            sa.select(sa.func.count())
            .select_from(reading)
            .join(series, series.c.series_id == reading.c.series_id)
            .where(series.c.device_id == topic.device_id)
        )
        with contextlib.suppress(DatabaseUnavailable), self.engine.connect() as connection:
            return int(connection.execute(statement).scalar_one())
        return 0

    def reject_count(self, device_id: str) -> int:
        """How many messages were refused on topics that name ``device_id``."""
        statement = sa.select(sa.func.count()).where(rejected.c.topic.contains(device_id, autoescape=True))
        with self.engine.connect() as connection:
            return int(connection.execute(statement).scalar_one())

    def last_reject(self) -> int:
        """The number of the newest refused message."""
        with self.engine.connect() as connection:
            return connection.execute(sa.select(sa.func.max(rejected.c.rejected_id))).scalar_one() or 0

    def refused_since(self, last: int) -> list[tuple[str, bytes, str]]:
        """(topic, bytes, reason) of every message that was refused after that one."""
        columns = rejected.c.topic, rejected.c.payload, rejected.c.reason
        with self.engine.connect() as connection:
            found = connection.execute(sa.select(*columns).where(rejected.c.rejected_id > last))
            return [(topic, bytes(payload), reason) for topic, payload, reason in found]

    def known(self, topic: Topic) -> list[readings.KnownReading]:
        """The latest revision of every reading of the series, by time."""
        began, end = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
        with self.engine.connect() as connection:
            return readings.rows_between(connection, began, end, device_ids=[topic.device_id], metrics=[topic.metric])

    def refused_after(self, topic: Topic, number: int) -> int:
        """How many messages on the meter's topics were refused that had arrived after its reading ``number``."""
        arrived = (
            sa.select(reading.c.received_at)
            .join(series, series.c.series_id == reading.c.series_id)
            .where(series.c.device_id == topic.device_id, reading.c.ts == self.at(number))
        )
        statement = sa.select(sa.func.count()).where(
            rejected.c.topic.contains(topic.device_id, autoescape=True),
            rejected.c.received_at > arrived.scalar_subquery(),
        )
        with self.engine.connect() as connection:
            return int(connection.execute(statement).scalar_one())

    def rejects(self, device_id: str) -> list[tuple[str, str, bytes]]:
        """(reason, detail, bytes) of what was refused on topics that name ``device_id``, in order of arrival."""
        with self.engine.connect() as connection:
            found = connection.execute(
                sa.select(rejected.c.reason, rejected.c.detail, rejected.c.payload)
                .where(rejected.c.topic.contains(device_id, autoescape=True))
                .order_by(rejected.c.rejected_id)
            )
            return [(reason, detail, bytes(payload)) for reason, detail, payload in found]


@pytest.fixture(scope="session")
def own_postgres(home: Path) -> Iterator[EmbeddedPostgres]:
    """As it is in production, journal on disk and all; tests kill it."""
    server = EmbeddedPostgres(home / "fpg")
    server.start()
    server.ensure_database("ec_faults")
    database.upgrade(server.url("ec_faults"))
    engine = database.make_engine(server.url("ec_faults"))
    with engine.begin() as connection:
        connection.execute(sa.insert(market_registry).values(market_id="F", currency="KRW"))
        connection.execute(
            sa.insert(region).values(
                region_id=REGION, name="Faults", timezone="UTC", market_id="F", grid_id="F", aliases=[]
            )
        )
    engine.dispose()
    yield server
    server.stop()


needs_mosquitto = pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")
KINDS = ["iotcore", pytest.param("mosquitto", marks=needs_mosquitto)]


@pytest.fixture
def on(own_postgres: EmbeddedPostgres, home: Path) -> Iterator[Callable[[str], Ground]]:
    """Make the ground of one test with a broker of that kind: a fresh one, for sessions outlive their tests."""
    with ExitStack() as stack:

        def make(kind: Any) -> Ground:
            own_postgres.start()
            folder = home / f"b{uuid.uuid4().hex[:6]}"
            broker = EmbeddedBroker(folder, free_port(), kind)
            broker.start()
            stack.callback(broker.stop)
            return stack.enter_context(Ground(own_postgres, broker, own_postgres.url("ec_faults"), folder / "home"))

        yield make


@pytest.fixture(params=KINDS)
def ground(request: pytest.FixtureRequest, on: Callable[[str], Ground]) -> Ground:
    """The ground with either broker, for what must hold on both."""
    return on(request.param)


@pytest.fixture
def either(on: Callable[[str], Ground]) -> Ground:
    """The ground with one broker, the better one that is installed, for what has nothing to do with the broker."""
    return on("mosquitto" if find_mosquitto() else "iotcore")


@pytest.fixture
def durable(on: Callable[[str], Ground]) -> Ground:
    """The ground with the broker that keeps sessions over its own restarts."""
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    return on("mosquitto")
