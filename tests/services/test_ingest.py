from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from pydantic import SecretStr

from energy_cloud_dagster.adapters import database, readings, registry
from energy_cloud_dagster.adapters.mqtt import Broker, Consumer
from energy_cloud_dagster.adapters.tables import market_registry, reading, region, rejected, series
from energy_cloud_dagster.domain.errors import BrokerUnavailable, Misconfigured, Rejected
from energy_cloud_dagster.domain.readings import Rules, Topic
from energy_cloud_dagster.embedded.parts import child_environment
from energy_cloud_dagster.services.ingest import IngestWorker, reject_rows, run
from energy_cloud_dagster.services.routing import UNKNOWN_SECONDS
from energy_cloud_dagster.settings import Settings

if TYPE_CHECKING:
    from energy_cloud_dagster.embedded.broker import EmbeddedBroker
    from energy_cloud_dagster.embedded.postgres import EmbeddedPostgres

START = datetime(2033, 1, 1, tzinfo=UTC)
RULES = Rules(replay=True, max_payload_bytes=4_096)
_SERVE = """
import structlog, sys
from energy_cloud_dagster.services.ingest import run
from energy_cloud_dagster.settings import load_settings
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
run(load_settings(), client_id=sys.argv[1], on_ready=lambda: print("READY", flush=True))
"""


class Bench:
    """A database and a region of their own, a publisher, and questions to ask."""

    def __init__(self, engine: sa.Engine, url: str, broker: EmbeddedBroker, region_id: str) -> None:
        self.engine, self.url, self.region_id = engine, url, region_id
        self.broker = Broker.of(broker.url, broker.username, broker.password)
        self.client_id = f"test-{uuid.uuid4().hex[:8]}"
        self.shared = f"$share/{region_id}/energy-cloud/{region_id}/+/+/+"
        self._publisher = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv311)
        self._publisher.username_pw_set(broker.username, broker.password)
        self._publisher.max_queued_messages_set(0)
        self._publisher.connect(self.broker.host, self.broker.port)
        self._publisher.loop_start()

    def close(self) -> None:
        self._publisher.disconnect()
        self._publisher.loop_stop()

    def meter(self, device_id: str = "") -> Topic:
        topic = Topic(self.region_id, "smart-meter", device_id or f"M-{uuid.uuid4().hex[:8]}", "consumption")
        with self.engine.begin() as connection:
            registry.register_device(connection, topic, "kWh", START)
        return topic

    def publish(self, topic: Topic | str, *payloads: object) -> None:
        infos = [
            self._publisher.publish(str(topic), item if isinstance(item, bytes) else json.dumps(item).encode(), qos=1)
            for item in payloads
        ]
        for info in infos:
            info.wait_for_publish(20)

    def values(self, topic: Topic) -> list[float]:
        with self.engine.connect() as connection:
            return list(
                connection.execute(
                    sa.select(reading.c.value)
                    .join(series, series.c.series_id == reading.c.series_id)
                    .where(series.c.device_id == topic.device_id)
                    .order_by(reading.c.ts, reading.c.revision)
                ).scalars()
            )

    def rejects(self, topic: Topic | str) -> list[tuple[str, str, bytes]]:
        with self.engine.connect() as connection:
            found = connection.execute(
                sa.select(rejected.c.reason, rejected.c.detail, rejected.c.payload)
                .where(rejected.c.topic == str(topic))
                .order_by(rejected.c.rejected_id)
            )
            return [tuple(row) for row in found]

    def consumer(self, client_id: str = "") -> Consumer:
        return Consumer(self.broker, client_id or self.client_id, topic=self.shared)

    @contextmanager
    def worker(self, **options: object) -> Iterator[IngestWorker]:
        with self.consumer() as consumer:
            worker = IngestWorker(self.engine, consumer, RULES, **options)  # type: ignore[arg-type]
            thread = threading.Thread(target=worker.run)
            thread.start()
            try:
                yield worker
            finally:
                worker.stop.set()
                thread.join(20)
                assert not thread.is_alive()


@pytest.fixture(scope="module")
def bench(postgres: EmbeddedPostgres, broker: EmbeddedBroker) -> Iterator[Bench]:
    postgres.ensure_database("ec_ingest")
    url = postgres.url("ec_ingest")
    database.upgrade(url)
    engine = database.make_engine(url)
    region_id = f"r{uuid.uuid4().hex[:8]}"
    with engine.begin() as connection:
        connection.execute(sa.insert(market_registry).values(market_id="T", currency="KRW"))
        connection.execute(
            sa.insert(region).values(
                region_id=region_id, name="Test", timezone="UTC", market_id="T", grid_id="T", aliases=[f"{region_id}-b"]
            )
        )
    made = Bench(engine, url, broker, region_id)
    yield made
    made.close()
    engine.dispose()


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    """Ask the database until it says so: there is no event across processes."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def said(hour: int, value: object, **more: object) -> dict[str, object]:
    ts = START + timedelta(hours=hour)
    received = (ts + timedelta(hours=1)).isoformat()
    return {
        "timestamp": ts.isoformat(),
        "value": value,
        "unit": "kWh",
        "quality": "high",
        "receivedAt": received,
    } | more


def test_messages_become_rows_and_garbage_is_kept_with_its_reason(bench: Bench) -> None:
    topic = bench.meter()
    stranger = topic._replace(device_id=f"X-{uuid.uuid4().hex[:8]}")
    with bench.worker() as worker:
        bench.publish(topic, said(0, 1.0), said(0, 1.0), [said(1, "2.5"), said(2, 3000, unit="Wh")])
        bench.publish(topic, b"\xff", b"x" * 5_000, said(3, "NaN"), said(4, 1, unit="kW"))
        bench.publish(topic, [said(5, 5.0), *(said(hour, 1, quality="odd") for hour in range(10, 15))])
        bench.publish(stranger, said(0, 1.0))
        bench.publish(topic._replace(metric="ack"), {"commandId": "1"})
        until(lambda: worker.totals["messages"] == 10)
    assert bench.values(topic) == [1.0, 2.5, 3.0, 5.0]
    kept = bench.rejects(topic)
    assert [reason for reason, _, _ in kept] == ["bad_json", "too_large", "not_finite", "bad_unit", "bad_quality"]
    assert len(kept[1][2]) == 4_096
    assert kept[4][1].startswith("reading 1: quality 'odd'")
    assert kept[4][1].endswith("; and 2 more")
    assert [(reason, "register it first" in detail) for reason, detail, _ in bench.rejects(stranger)] == [
        ("unknown_device", True)
    ]
    assert worker.totals["duplicates"] == 1
    assert worker.totals["rejected"] == 6


def test_a_burst_of_rejects_asks_the_registry_no_more_often_than_good_traffic(bench: Bench) -> None:
    topic, stranger = bench.meter(), bench.meter()._replace(device_id=f"X-{uuid.uuid4().hex[:8]}")
    asked: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "registry.device" in statement:
            asked.append(statement)

    sa.event.listen(bench.engine, "before_cursor_execute", note)
    started = time.monotonic()
    try:
        with bench.worker() as worker:
            for hour in range(20):
                bench.publish(stranger, *[said(hour, 1.0)] * 40)
                bench.publish(topic, b"{", said(hour, float(hour)))
            until(lambda: worker.totals["messages"] == 20 * 42)
    finally:
        sa.event.remove(bench.engine, "before_cursor_execute", note)
    assert bench.values(topic) == [float(hour) for hour in range(20)]
    assert [reason for reason, _, _ in bench.rejects(topic)] == ["bad_json"] * 20
    assert [reason for reason, _, _ in bench.rejects(stranger)] == ["unknown_device"] * 800
    assert len(asked) <= 2 + (time.monotonic() - started) / UNKNOWN_SECONDS


def test_a_device_registered_while_the_worker_runs_is_known_at_once(bench: Bench) -> None:
    known = bench.meter()
    with bench.worker() as worker:
        bench.publish(known, said(0, 1.0))
        until(lambda: worker.totals["messages"] == 1)
        fresh = bench.meter()
        bench.publish(fresh, said(0, 2.0))
        until(lambda: worker.totals["messages"] == 2)
    assert bench.values(fresh) == [2.0]


def test_unknown_devices_may_be_registered_as_unverified(bench: Bench) -> None:
    topic = Topic(bench.region_id, "solar-panel", f"SP-{uuid.uuid4().hex[:8]}", "generation")
    with bench.worker(unknown_devices="register") as worker:
        bench.publish(topic, said(0, 1500, unit="W"), b"{", [], said(1, 2.0, unit="furlong"), said(2, 2.0, unit="kW"))
        until(lambda: worker.totals["messages"] == 5)
    assert bench.values(topic) == [1.5, 2.0]
    assert [reason for reason, _, _ in bench.rejects(topic)] == ["bad_json", "bad_payload", "bad_unit"]
    with bench.engine.connect() as connection:
        assert not registry.device_by_id(connection, topic.device_id).verified


def test_the_first_message_of_a_stranger_must_be_good_to_register_it(bench: Bench) -> None:
    topic = Topic(bench.region_id, "solar-panel", f"SP-{uuid.uuid4().hex[:8]}", "generation")
    with bench.worker(unknown_devices="register") as worker:
        bench.publish(topic, b"{", [{"value": 1}])
        until(lambda: worker.totals["messages"] == 2)
    assert {reason for reason, _, _ in bench.rejects(topic)} == {"unknown_device"}


def test_what_was_not_acknowledged_comes_again(bench: Bench) -> None:
    topic = bench.meter()
    with bench.consumer() as consumer:
        bench.publish(topic, *(said(hour, float(hour)) for hour in range(5)))
        taken: list[object] = []
        until(lambda: len(taken) == 5 or bool(taken.extend(consumer.take(5, wait=1.0, linger=0.2))))
    with bench.worker() as worker:
        until(lambda: worker.totals["messages"] == 5)
    assert bench.values(topic) == [0.0, 1.0, 2.0, 3.0, 4.0]
    with bench.consumer() as consumer:
        assert consumer.take(1, wait=0.3, linger=0.0) == []


def test_messages_of_an_earlier_connection_are_not_acknowledged(bench: Bench) -> None:
    topic = bench.meter()
    with bench.consumer() as consumer:
        bench.publish(topic, said(0, 1.0))
        (message,) = consumer.take(1, wait=5.0, linger=0.0)
        assert consumer.ack([message._replace(connection=message.connection - 1)]) == 0
        assert consumer.ack([message]) == 1


def test_a_killed_worker_loses_nothing_and_doubles_nothing(bench: Bench, home: Path, broker: EmbeddedBroker) -> None:
    # By its other name, which the sessions of the other tests here do not subscribe to.
    topic = bench.meter()._replace(region=f"{bench.region_id}-b")
    given = Settings(
        home=home / "ingest",
        database_url=SecretStr(bench.url),
        mqtt_url=broker.url,
        mqtt_username=broker.username,
        mqtt_password=SecretStr(broker.password),
        replay=True,
    )
    environment = os.environ | child_environment(given)
    client_id = f"killed-{uuid.uuid4().hex[:8]}"

    def start() -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-c", _SERVE, client_id],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "READY\n"
        return child

    hours = 1_500
    first = start()
    sender = threading.Thread(target=bench.publish, args=(topic, *(said(hour, float(hour)) for hour in range(hours))))
    sender.start()
    until(lambda: len(bench.values(topic)) > 20)
    first.kill()
    first.wait()
    second = start()
    sender.join(60)
    until(lambda: len(bench.values(topic)) == hours)
    second.send_signal(signal.SIGTERM)
    assert second.wait(20) == 0
    assert bench.values(topic) == [float(hour) for hour in range(hours)]


def test_a_database_that_is_away_is_waited_for(bench: Bench, postgres: EmbeddedPostgres) -> None:
    topic = bench.meter()
    admin = database.make_engine(postgres.url("postgres")).execution_options(isolation_level="AUTOCOMMIT")

    def allow(yes: bool) -> None:
        with admin.connect() as connection:
            connection.execute(sa.text(f"alter database ec_ingest allow_connections {yes}"))
            if not yes:
                connection.execute(
                    sa.text("select pg_terminate_backend(pid) from pg_stat_activity where datname = 'ec_ingest'")
                )

    with bench.worker() as worker:
        bench.publish(topic, said(0, 1.0))
        until(lambda: worker.totals["messages"] == 1)
        allow(False)
        try:
            bench.publish(topic, said(1, 2.0))
            waiting = worker._consumer
            until(lambda: waiting.waiting == 0)
            assert worker.totals["messages"] == 1
        finally:
            allow(True)
        until(lambda: worker.totals["messages"] == 2)
    assert bench.values(topic) == [1.0, 2.0]
    allow(False)
    with bench.worker() as worker:
        bench.publish(topic, said(2, 3.0))
    allow(True)
    assert worker.totals["messages"] == 0
    with bench.worker() as worker:
        until(lambda: worker.totals["messages"] == 1)
    assert bench.values(topic) == [1.0, 2.0, 3.0]
    admin.dispose()


def test_a_message_that_the_database_refuses_is_set_aside_alone(bench: Bench) -> None:
    good, full = bench.meter(), bench.meter()
    with bench.engine.begin() as connection:
        info = readings.series_ids(connection, [full.device_id])[full.device_id, "consumption"]
        readings.ensure_days(connection, [START.date()])
        row = {"series_id": info.series_id, "ts": START, "value": 0.0, "quality": "high", "received_at": START}
        numbers = [{**row, "source": "mqtt", "revision": revision} for revision in (1, 32_767)]
        connection.execute(sa.insert(reading), numbers)
    with bench.consumer() as consumer:
        bench.publish(full, said(0, 1.0))
        bench.publish(good, said(0, 1.0))
        worker = IngestWorker(bench.engine, consumer, RULES)
        worker.stop.set()
        until(lambda: consumer.waiting == 2)
        worker.run()
    assert bench.values(good) == [1.0]
    ((reason, detail, _),) = bench.rejects(full)
    assert reason == "not_storable"
    assert "smallint" in detail


def test_a_database_without_its_tables_is_said_so(
    bench: Bench, postgres: EmbeddedPostgres, broker: EmbeddedBroker, home: Path
) -> None:
    postgres.ensure_database("ec_empty")
    given = Settings(home=home / "empty", mqtt_url=broker.url, database_url=SecretStr(postgres.url("ec_empty")))
    with pytest.raises(Misconfigured, match="energy-cloud db upgrade"):
        run(given, client_id="never")
    bench.publish(bench.meter(), said(0, 1.0))
    empty = database.make_engine(postgres.url("ec_empty"))
    with bench.consumer() as consumer:
        worker = IngestWorker(empty, consumer, RULES)
        with pytest.raises(Misconfigured, match="energy-cloud db upgrade"):
            worker.run()
    empty.dispose()
    with bench.worker() as second:
        until(lambda: second.totals["messages"] >= 1)


def test_run_waits_for_a_broker_until_it_is_stopped(bench: Bench, home: Path) -> None:
    stop = threading.Event()
    given = Settings(
        home=home / "ingest", mqtt_url=f"mqtt://127.0.0.1:{closed_port()}", database_url=SecretStr(bench.url)
    )
    timer = threading.Timer(0.5, stop.set)
    timer.start()
    assert run(given, stop=stop) == {}
    timer.join()


def test_run_is_ready_once_subscribed(bench: Bench, broker: EmbeddedBroker, home: Path) -> None:
    stop = threading.Event()
    given = Settings(
        home=home / "ingest",
        mqtt_url=broker.url,
        mqtt_username=broker.username,
        mqtt_password=SecretStr(broker.password),
        database_url=SecretStr(bench.url),
    )
    totals = run(given, client_id=f"ready-{uuid.uuid4().hex[:8]}", stop=stop, on_ready=stop.set)
    assert totals["inserted"] == 0


def test_a_broker_that_is_not_there_or_refuses_us_is_said_so(broker: EmbeddedBroker) -> None:
    with pytest.raises(BrokerUnavailable, match="does not answer"), Consumer(Broker("127.0.0.1", closed_port()), "x"):
        pass
    with socket.create_server(("127.0.0.1", 0)) as server:
        rude = Broker("127.0.0.1", server.getsockname()[1])

        def hang_up() -> None:
            server.accept()[0].close()

        closer = threading.Thread(target=hang_up)
        closer.start()
        with pytest.raises(BrokerUnavailable, match="closed the connection"), Consumer(rude, "x"):
            pass
        closer.join()
    wrong = Broker.of(broker.url, "nobody", "wrong")
    with pytest.raises((BrokerUnavailable, Misconfigured), match="MQTT broker"), Consumer(wrong, "x"):
        pass


@pytest.mark.parametrize("url", ["", "http://x", "mqtt://", "mqtt://host:port"])
def test_a_wrong_broker_url_is_misconfigured(url: str) -> None:
    with pytest.raises(Misconfigured, match="ENERGY_CLOUD_MQTT_URL"):
        Broker.of(url)


def test_broker_urls() -> None:
    assert str(Broker.of("mqtts://b.example")) == "mqtts://b.example:8883"
    assert str(Broker.of("mqtt://b.example")) == "mqtt://b.example:1883"


def test_rejects_of_a_message_are_grouped_by_reason(bench: Bench) -> None:
    with bench.consumer() as consumer:
        topic = bench.meter()
        bench.publish(topic, b"abc")
        (message,) = consumer.take(1, wait=5.0, linger=0.0)
        consumer.ack([message])
    rows = list(reject_rows(message, [Rejected("a", "1"), Rejected("b", "2"), Rejected("a", "3")], 2))
    assert [(row.reason, row.detail, row.payload) for row in rows] == [("a", "1; 3", b"ab"), ("b", "2", b"ab")]
