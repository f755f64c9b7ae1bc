"""Parts of the ingest benchmark: a rig of real parts, a publisher that costs little, a prober, and counters of /proc.

The publisher speaks MQTT 3.1.1 itself (CONNECT, PUBLISH QoS 1, PUBACK): paho would take half of a core that the
broker and the worker need, and `mosquitto_pub -l -q 1` ends after 65,535 lines.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import psycopg
import sqlalchemy as sa
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from psycopg import sql
from pydantic import SecretStr

from energy_cloud_dagster.adapters import database
from energy_cloud_dagster.adapters.tables import device, market_registry, region, series
from energy_cloud_dagster.embedded.broker import EmbeddedBroker
from energy_cloud_dagster.embedded.parts import child_environment
from energy_cloud_dagster.embedded.postgres import EmbeddedPostgres
from energy_cloud_dagster.settings import Settings

PROBE = "PROBE"
PAYLOAD_BYTES = 100
#: Messages that the publisher has out without the broker's acknowledgement; ids repeat after 65,535.
WINDOW = 20_000
_TICKS = os.sysconf("SC_CLK_TCK")
_WORKER = """
import cProfile, structlog, sys
from energy_cloud_dagster.services.ingest import run
from energy_cloud_dagster.settings import load_settings
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
work = lambda: run(load_settings(), client_id="bench", on_ready=lambda: print("READY", flush=True))
cProfile.run("work()", sys.argv[1]) if len(sys.argv) > 1 else work()
"""


class Rig:
    """PostgreSQL (fsync on), mosquitto, a migrated database and ``devices`` registered meters; nothing else runs."""

    def __init__(self, devices: int) -> None:
        self.devices = devices
        self.environment: dict[str, str] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        home = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="ec-")))
        home.chmod(0o755)
        self.server = EmbeddedPostgres(home / "pg")
        self.server.start()
        self._stack.callback(self.server.stop)
        self.broker = EmbeddedBroker(home / "broker", prefer="mosquitto")
        self.broker.start()
        self._stack.callback(self.broker.stop)
        self.url = self.server.url()
        database.upgrade(self.url)
        self.engine = database.make_engine(self.url)
        self._stack.callback(self.engine.dispose)
        self._register()
        settings = Settings(
            home=home,
            database_url=SecretStr(self.url),
            mqtt_url=self.broker.url,
            mqtt_username=self.broker.username,
            mqtt_password=SecretStr(self.broker.password),
        )
        self.since = datetime.now(UTC)
        self.environment = os.environ | child_environment(settings)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _register(self) -> None:
        ids = [f"M-{number:05d}" for number in range(self.devices)]
        now = datetime.now(UTC)
        with self.engine.begin() as connection:
            connection.execute(sa.insert(market_registry).values(market_id="KRW-KWH", currency="KRW"))
            place = {"region_id": "seoul", "name": "Seoul", "timezone": "Asia/Seoul", "market_id": "KRW-KWH"}
            connection.execute(sa.insert(region).values(**place, grid_id="KR-SE-001", aliases=[]))
            common = {"region_id": "seoul", "device_type": "smart-meter", "interval_minutes": 15, "created_at": now}
            connection.execute(sa.insert(device), [{"device_id": each, **common} for each in [*ids, PROBE]])
            measured = {"metric": "power", "unit": "kW", "kind": "power"}
            connection.execute(sa.insert(series), [{"device_id": each, **measured} for each in [*ids, PROBE]])
            found = connection.execute(sa.select(series.c.series_id).where(series.c.device_id == PROBE))
            self.probe_series = int(found.scalar_one())

    @contextmanager
    def worker(self, profile: str | None = None) -> Iterator[subprocess.Popen[str]]:
        """Run one ingest worker as a child until the end of the block, then stop it as SIGTERM does."""
        argv = [sys.executable, "-c", _WORKER, *([profile] if profile else [])]
        child = subprocess.Popen(argv, env=self.environment, stdout=subprocess.PIPE, stderr=sys.stderr, text=True)
        assert child.stdout is not None
        try:
            if child.stdout.readline() != "READY\n":
                raise SystemExit("the worker did not start")
            yield child
        finally:
            child.terminate()
            child.wait(60)

    def publish(self, rate: float, *, seconds: float = 0.0, messages: int = 0) -> Publishing:
        """Start a publisher of ``rate`` messages/s over all devices, for ``seconds`` or ``messages``."""
        return Publishing(self, rate, seconds, messages)

    def forget(self, client_id: str) -> None:
        """End a durable session at the broker, so that nothing is queued for it any more."""
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id, clean_session=True, protocol=mqtt.MQTTv311)
        client.username_pw_set(self.broker.username, self.broker.password)
        client.connect("127.0.0.1", self.broker.port)
        client.disconnect()

    def rows(self) -> tuple[int, int]:
        """Return how many readings of meters came, and how many of them are revisions (there should be none)."""
        with self.engine.connect() as connection:
            found = connection.execute(
                sa.text(
                    "select count(*), count(*) filter (where revision > 1) from raw.reading"
                    " where series_id <> :probe and source = 'mqtt' and received_at >= :since"
                ),
                {"probe": self.probe_series, "since": self.since},
            ).one()
        return int(found[0]), int(found[1])

    def await_rows(self, wanted: int, seconds: float = 120.0) -> int:
        """Wait until ``wanted`` readings are stored, or no more came for a second; return how many there are."""
        end, before = time.monotonic() + seconds, -1
        while (stored := self.rows()[0]) < wanted and time.monotonic() < end:
            if stored == before:
                break
            before = stored
            time.sleep(1.0)
        return stored


class Publishing:
    """A publisher that runs in a process of its own."""

    def __init__(self, rig: Rig, rate: float, seconds: float, messages: int) -> None:
        broker = rig.broker
        options = {
            "port": broker.port,
            "username": broker.username,
            "password": broker.password,
            "devices": rig.devices,
            "rate": rate,
            "seconds": seconds,
            "messages": messages,
        }
        argv = [sys.executable, __file__, json.dumps(options)]
        self._child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        self.pid = self._child.pid

    def running(self, seconds: float) -> bool:
        """Wait for its end for ``seconds`` at most; return whether it still runs."""
        try:
            self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def result(self) -> dict[str, float]:
        """Wait for its end and return ``sent``, ``seconds`` and ``cpu`` (seconds)."""
        out, _ = self._child.communicate()
        return dict(json.loads(out))


class Prober:
    """Publishes a reading 20 times a second and measures when a second connection can select it, in seconds."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._stop = threading.Event()
        self.latencies: list[float] = []
        self.sent = 0
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv311)
        self._client.username_pw_set(rig.broker.username, rig.broker.password)
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._send, self._listen)]

    def __enter__(self) -> Self:
        self._client.connect("127.0.0.1", self._rig.broker.port)
        self._client.loop_start()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._client.disconnect()
        self._client.loop_stop()

    def percentile(self, percent: int) -> float:
        """Return a percentile in milliseconds; those that never became visible count as endless."""
        if not self.latencies:
            return float("inf")
        if percent == 50:
            return statistics.median(self.latencies) * 1000
        return statistics.quantiles(self.latencies, n=100, method="inclusive")[percent - 1] * 1000

    def _send(self) -> None:
        topic = f"energy-cloud/seoul/smart-meter/{PROBE}/power"
        while not self._stop.wait(0.05):
            said = {"timestamp": datetime.now(UTC).isoformat(), "value": 1.0, "unit": "kW", "quality": "high"}
            self._client.publish(topic, json.dumps(said), qos=1)
            self.sent += 1

    def _listen(self) -> None:
        seen = datetime.now(UTC)
        newer = "select ts from raw.reading where series_id = %s and ts > %s and ts < %s + interval '1 h' order by ts"
        with psycopg.connect(self._rig.url, autocommit=True) as connection:
            connection.execute("listen readings")
            idle = 0
            while not (self._stop.is_set() and (len(self.latencies) >= self.sent or idle > 100)):
                idle = 0 if list(connection.notifies(timeout=0.05, stop_after=1)) else idle + 1
                rows = connection.execute(newer, [self._rig.probe_series, seen, seen]).fetchall()
                now = datetime.now(UTC)
                self.latencies += [(now - row[0]).total_seconds() for row in rows]
                seen = rows[-1][0] if rows else seen


def cpu_seconds(pid: int | None) -> float:
    """Return the CPU seconds of a process and all its descendants, ended ones included."""
    total = 0.0
    for each in _tree(pid or 0):
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(int(ticks) for ticks in fields[11:15]) / _TICKS
    return total


def memory_mb(pid: int | None) -> float:
    """Return the resident megabytes of a process, without its descendants."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            yield from _tree(int(child))


def payload(now: datetime) -> tuple[bytes, bytes]:
    """Return a reading of ``PAYLOAD_BYTES`` bytes in two halves, its timestamp in between."""
    stamp = now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    head, tail = '{"timestamp": "', '", "value": {}, "unit": "kW", "quality": "high"}'
    digits = PAYLOAD_BYTES - len(head) - len(stamp) - len(tail.replace("{}", ""))
    return head.encode(), tail.replace("{}", "12.3456789012345"[:digits], 1).encode()


def publish(options: dict[str, Any]) -> None:
    """Publish at an even rate and print what was sent once the broker acknowledged all of it."""
    connection = socket.create_connection(("127.0.0.1", options["port"]))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    texts = (f"publisher-{os.getpid()}", options["username"], options["password"])
    body = b"\x00\x04MQTT\x04\xc2\x00\x00" + b"".join(struct.pack("!H", len(t)) + t.encode() for t in texts)
    connection.sendall(b"\x10" + bytes([len(body)]) + body)
    assert connection.recv(4) == b"\x20\x02\x00\x00"
    head, tail = payload(datetime.now(UTC))
    heads = []
    for number in range(options["devices"]):
        topic = f"energy-cloud/seoul/smart-meter/M-{number:05d}/power".encode()
        length = 2 + len(topic) + 2 + PAYLOAD_BYTES
        size = bytes([length & 127 | 128, length >> 7])
        heads.append(b"\x32" + size + struct.pack("!H", len(topic)) + topic)
    mids = [struct.pack("!H", mid) + head for mid in range(1, 65_536)]
    most, rate = options["messages"] or float("inf"), options["rate"]
    seconds = options["seconds"] or float("inf")
    sent = acked = 0
    imported = time.process_time()
    started = time.monotonic()
    while sent < most and (elapsed := time.monotonic() - started) < seconds:
        # One timestamp a chunk, and fewer messages than devices: no (device, timestamp) comes twice.
        due = int(min(rate * elapsed - sent, most - sent, acked // 4 + WINDOW - sent, len(heads)))
        if due > 0:
            rest = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ").encode() + tail
            chosen = range(sent, sent + due)
            connection.sendall(b"".join([heads[n % len(heads)] + mids[n % 65_535] + rest for n in chosen]))
            sent += due
        else:
            time.sleep(0.002)
        acked += _drain(connection, socket.MSG_DONTWAIT)
    took = time.monotonic() - started
    while acked // 4 < sent:
        acked += _drain(connection, 0)
    connection.sendall(b"\xe0\x00")
    print(json.dumps({"sent": sent, "seconds": took, "cpu": time.process_time() - imported}))


def _drain(connection: socket.socket, flags: int) -> int:
    """Return how many bytes of acknowledgements came, four for each message."""
    try:
        return len(connection.recv(262_144, flags))
    except BlockingIOError:
        return 0


def fill(rig: Rig, rows: int, days: int = 10) -> None:
    """Load ``rows`` readings of all meters, evenly over today and the days before; indexes are made afterwards."""
    now = datetime.now(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    each = rows // days // rig.devices
    with psycopg.connect(rig.url, autocommit=True) as connection:
        connection.execute("set maintenance_work_mem = '512MB'")
        for back in range(days):
            first = midnight - timedelta(days=back)
            step = (min(first + timedelta(days=1), now) - first) / (each + 1)
            name = first.strftime("raw.reading_%Y_%m_%d")
            bounds = [sql.Literal(first), sql.Literal(first + timedelta(days=1))]
            connection.execute(f"create table {name} (like raw.reading including defaults)")
            connection.execute(
                f"insert into {name} select id, at, 1, n, 'high', at, 'history' from"
                f" (select %s::timestamptz + n * %s as at, n from generate_series(0, {each - 1}) as n) as times"
                f" cross join generate_series({rig.probe_series - rig.devices}, {rig.probe_series - 1}) as id",
                [first, step],
            )
            connection.execute(f"alter table {name} add primary key (series_id, ts, revision)")
            connection.execute(f"create index on {name} (ts)")
            connection.execute(sql.SQL(f"alter table {name} add check (ts >= {{}} and ts < {{}})").format(*bounds))
            attach = f"alter table raw.reading attach partition {name} for values from ({{}}) to ({{}})"
            connection.execute(sql.SQL(attach).format(*bounds))
        connection.execute("vacuum (freeze, analyze) raw.reading")
        connection.execute("checkpoint")
    rig.since = datetime.now(UTC)


if __name__ == "__main__":
    publish(json.loads(sys.argv[1]))
