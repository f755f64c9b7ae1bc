"""Redelivery storms, clocks that jump and bursts of garbage: what was acknowledged is there exactly once."""

from __future__ import annotations

import selectors
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from energy_cloud_dagster.adapters import readings

if TYPE_CHECKING:
    from tests.faults.conftest import Ground

PUBLISH, PUBACK = 3, 4


class LossyLine:
    """A line between worker and broker that loses the worker's PUBACKs while ``loses`` is set, and breaks on ``cut``.

    To the broker it is a worker that dies after its commit and before its acknowledgement, as often as wanted.
    """

    def __init__(self, port: int) -> None:
        self.loses = True
        self.delivered = 0
        self._upstream = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self._server.getsockname()[1]}"

    def cut(self) -> None:
        """Break the connection without a word."""
        self.delivered = 0
        for pair in self._pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def close(self) -> None:
        self._closed = True
        self._server.close()
        self.cut()

    def _accept(self) -> None:
        while not self._closed:
            try:
                worker, _ = self._server.accept()
            except OSError:
                return
            broker = socket.create_connection(("127.0.0.1", self._upstream))
            self._pairs.append((worker, broker))
            threading.Thread(target=self._carry, args=(worker, broker), daemon=True).start()

    def _carry(self, worker: socket.socket, broker: socket.socket) -> None:
        pending = {worker: b"", broker: b""}
        with worker, broker, selectors.DefaultSelector() as ready, suppress(OSError):
            for end in pending:
                ready.register(end, selectors.EVENT_READ)
            while True:
                for key, _ in ready.select():
                    end = key.fileobj
                    assert isinstance(end, socket.socket)
                    chunk = end.recv(262_144)
                    if not chunk:
                        return
                    packets, pending[end] = split(pending[end] + chunk)
                    if end is broker:
                        self.delivered += sum(packet[0] >> 4 == PUBLISH for packet in packets)
                    elif self.loses:
                        packets = [packet for packet in packets if packet[0] >> 4 != PUBACK]
                    (worker if end is broker else broker).sendall(b"".join(packets))


def split(data: bytes) -> tuple[list[bytes], bytes]:
    """Return the whole MQTT packets at the head of ``data``, and the rest."""
    packets = []
    while len(data) >= 2:
        length = shift = 0
        at = 1
        while at < len(data) and data[at] & 0x80:
            length |= (data[at] & 0x7F) << shift
            shift, at = shift + 7, at + 1
        if at >= len(data):
            break
        end = at + 1 + (length | data[at] << shift)
        if end > len(data):
            break
        packets.append(data[:end])
        data = data[end:]
    return packets, data


@contextmanager
def lossy_line(ground: Ground) -> Iterator[LossyLine]:
    line = LossyLine(ground.broker.port)
    try:
        yield line
    finally:
        line.close()


def test_a_redelivery_storm_is_absorbed(ground: Ground) -> None:
    """All messages come again four times after they were stored, once to a worker that was killed in between."""
    sent = 800 if ground.broker.kind == "mosquitto" else 90  # within the broker's window: all are unacknowledged
    topic, device = ground.meter(), ground.device()
    with lossy_line(ground) as line:
        worker = ground.worker(mqtt_url=line.url)
        for number in range(sent):
            device.send(topic, ground.said(number), number)
        device.flush()
        ground.until(lambda: ground.count(topic) == sent)
        before = ground.rows(topic)
        for _ in range(3):
            line.cut()
            ground.until(lambda: line.delivered >= sent)
        worker.kill()
        line.cut()
        line.loses = False
        again = ground.worker(mqtt_url=line.url)
        ground.until(lambda: line.delivered >= sent)
        totals = again.stop()
        assert totals["duplicates"] == totals["messages"] == sent
        # now they are acknowledged: what comes next is new
        line.cut()
        last = ground.worker(mqtt_url=line.url)
        device.send(topic, ground.said(sent), sent)
        ground.until(lambda: ground.count(topic) == sent + 1)
        assert last.stop()["messages"] == line.delivered == 1
    assert before == ground.once(range(sent))
    assert ground.rows(topic) == ground.once(device.acknowledged) == ground.once(range(sent + 1))


def test_corrections_in_a_storm_end_as_they_were_sent(durable: Ground) -> None:
    """A reading and its correction come again together: the correction stays the latest.

    Not promised: that a repeated pair leaves no further revisions. A device may return to an older value, and a
    repeated first value looks like that.
    """
    topic, device = durable.meter(), durable.device()
    with lossy_line(durable) as line:
        worker = durable.worker(mqtt_url=line.url)
        for number in range(50):
            device.send(topic, durable.said(number), (number, 1))
            device.send(topic, durable.said(number, number + 0.5), (number, 2))
        device.flush()
        durable.until(lambda: durable.count(topic) == 100)
        for _ in range(2):
            line.cut()
            durable.until(lambda: line.delivered >= 100)
        line.loses = False
        line.cut()
        durable.until(lambda: line.delivered >= 100)
        worker.stop()
    rows = durable.rows(topic)
    latest = {row.number: row.value for row in rows}  # rows come by revision
    assert latest == {number: number + 0.5 for number in range(50)}
    assert [row.value for row in rows if row.revision <= 2] == [n + half for n in range(50) for half in (0.0, 0.5)]


JUMPING = """
import datetime, pathlib, sys, time
real, clock = datetime.datetime, pathlib.Path(sys.argv[2])
def offset():
    return float(clock.read_text() or 0)
class Meta(type):
    def __instancecheck__(cls, thing):
        return isinstance(thing, real)
class Jumping(real, metaclass=Meta):
    @classmethod
    def now(cls, tz=None):
        return real.now(tz) + datetime.timedelta(seconds=offset())
wall, wall_ns = time.time, time.time_ns
time.time = lambda: wall() + offset()
time.time_ns = lambda: wall_ns() + int(offset() * 1e9)
from energy_cloud_dagster.cli import app
from energy_cloud_dagster.services import ingest
for module in [each for name, each in sys.modules.items() if name.startswith("energy_cloud_dagster")]:
    if getattr(module, "datetime", None) is real:
        module.datetime = Jumping
sys.argv = ["energy-cloud", "ingest", "--name", sys.argv[1]]
app()
"""


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    """How many seconds the worker's wall clock is wrong by."""
    path = tmp_path / "clock"
    path.write_text("0")
    return path


def jump(clock: Path, seconds: float) -> None:
    fresh = clock.with_suffix(".new")
    fresh.write_text(str(seconds))
    fresh.replace(clock)


def test_the_workers_clock_jumps(either: Ground, clock: Path) -> None:
    """Wall time is only ever a reading's ``received_at``: no reading is lost, no batch waits for the clock to return.

    A clock that fell behind a device's by more than the tolerance refuses what is in truth of now; that is kept in
    ``raw.rejected`` with its bytes. After the jump a later message may have been "received" earlier than the one before
    it; the latest revision is still the one that came last.
    """
    topic, device = either.meter(), either.device()
    worker = either.worker(program=[JUMPING, "w1", str(clock)])
    ahead, behind = 90 * 86_400.0, -4 * 3_600.0
    for part, seconds in enumerate([0.0, ahead, behind, 0.0]):
        jump(clock, seconds)
        for number in range(part * 100, part * 100 + 100):
            device.send(topic, either.said(number), number)
        device.send(topic, either.said(1_000, part), ("corrected", part))
        device.flush()
        either.until(lambda part=part: either.count(topic) == (part + 1) * 101)
    jump(clock, behind)
    now = datetime.now(UTC).isoformat()
    device.send(topic, either.said(0, timestamp=now), "refused")
    device.flush()
    either.until(lambda: either.reject_count(topic.device_id) == 1)
    assert worker.stop()["rejected"] == 1
    ((reason, _, payload),) = either.rejects(topic.device_id)
    assert (reason, payload) == ("future_timestamp", either.said(0, timestamp=now))
    rows = either.rows(topic)
    assert [row for row in rows if row.number < 1_000] == either.once(range(400))
    corrected = [(row.value, row.revision) for row in rows if row.number == 1_000]
    assert corrected == [(0.0, 1), (1.0, 2), (2.0, 3), (3.0, 4)]
    began, end = either.at(1_000), either.at(1_001)
    with either.engine.connect() as connection:

        def known(as_of: datetime | None) -> list[float]:
            found = readings.rows_between(connection, began, end, as_of=as_of, device_ids=[topic.device_id])
            return [row.value for row in found]

        now_utc = datetime.now(UTC)
        assert known(None) == known(now_utc + timedelta(days=100)) == known(now_utc) == [3.0]
        # what the clock that was behind called an hour ago: then only its own reading was known
        assert known(now_utc - timedelta(hours=1)) == [2.0]
        assert known(now_utc - timedelta(hours=5)) == []


def test_a_device_whose_clock_jumps_ahead_is_refused_until_it_is_right_again(either: Ground) -> None:
    """Its readings are kept with their bytes and the reason; the ones before and after are stored."""
    topic, device = either.meter(), either.device()
    worker = either.worker()
    wrong = [either.said(n, timestamp=(datetime.now(UTC) + timedelta(days=1 + n)).isoformat()) for n in range(20)]
    for number in range(10):
        device.send(topic, either.said(number), number)
    for payload in wrong:
        device.send(topic, payload)
    for number in range(10, 20):
        device.send(topic, either.said(number), number)
    device.flush()
    either.until(lambda: either.count(topic) == 20)
    assert worker.stop()["rejected"] == 20
    assert either.rows(topic) == either.once(range(20))
    assert [(reason, payload) for reason, _, payload in either.rejects(topic.device_id)] == [
        ("future_timestamp", payload) for payload in wrong
    ]


def test_a_burst_of_garbage_holds_up_nobody(either: Ground) -> None:
    """20,000 refusals of every kind, from known and unknown devices, with good readings among them.

    Every good reading is stored and every refusal kept, and what was sent amid the burst is known before its end.
    """
    topic, noisy, quiet = either.meter(), either.device(), either.device()
    stranger = topic._replace(device_id=f"X-{topic.device_id}")
    nonsense = topic._replace(metric=" ")
    worker = either.worker()
    garbage = [
        (topic, b"{", "bad_json"),
        (topic, either.said(0, unit="kW"), "bad_unit"),
        (topic, either.said(0, quality="fine"), "bad_quality"),
        (stranger, either.said(0), "unknown_device"),
        (nonsense, either.said(0), "unknown_metric"),
    ]
    good = 100
    for number in range(20_000):
        where, payload, _ = garbage[number % len(garbage)]
        noisy.send(where, payload, ("bad", number))
        if number % 200 == 0:
            quiet.send(topic, either.said(number // 200), number // 200)
    quiet.flush()
    noisy.flush()
    either.until(lambda: either.reject_count(topic.device_id) == 20_000)
    either.until(lambda: either.count(topic) == good)
    totals = worker.stop()
    assert (totals["inserted"], totals["rejected"], totals["messages"]) == (good, 20_000, 20_000 + good)
    assert either.rows(topic) == either.once(range(good))
    kept = either.rejects(topic.device_id)
    assert Counter(reason for reason, _, _ in kept) == {reason: 4_000 for _, _, reason in garbage}
    assert Counter(payload for _, _, payload in kept) == Counter(
        garbage[number % len(garbage)][1] for number in range(20_000)
    )
    assert either.refused_after(topic, good // 2) > 0
