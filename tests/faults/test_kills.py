"""kill -9 of each part while readings stream: every acknowledged reading is there exactly once.

What is promised where. "Acknowledged" means that the device has its PUBACK; what has none a device sends again.

=================  ==========================================  ====================================================
killed             mosquitto (durable sessions)                iotcore (sessions in memory, no shared subscriptions)
=================  ==========================================  ====================================================
worker             all, once the same worker runs again        all, once the same worker runs again
PostgreSQL         all                                         all
broker             what it acknowledged before its last save   nothing: the sessions are gone
                   (every second), what a worker had stored,
                   and, with one worker, all that comes after
broker, and the    all                                         all
device keeps what
it has not seen
=================  ==========================================  ====================================================

mosquitto answers before it saves, whatever it is told: no setting of 2.0 makes a PUBACK durable. Saving after every
change comes near, at a tenth of the rate. And it saves no shared subscriptions: after a restart it acknowledges and
drops what comes before the workers of a share are back, so one worker subscribes without a share. A device that must
not lose a reading to a killed broker keeps it until it has seen it in the platform.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from energy_cloud_dagster.domain.readings import Topic

if TYPE_CHECKING:
    from tests.faults.conftest import Device, Ground


def feed(ground: Ground, device: Device, topic: Topic, numbers: Iterable[int]) -> threading.Thread:
    """Send readings from a thread."""

    def work() -> None:
        for number in numbers:
            device.send(topic, ground.said(number), number)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def kill_postgres(ground: Ground) -> None:
    child = ground.postgres._child
    assert child is not None
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.wait(10)


def kill_broker(ground: Ground) -> None:
    child = ground.broker._child
    assert child is not None
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.wait(10)


def test_a_killed_worker_loses_and_doubles_nothing(ground: Ground) -> None:
    """Killed twice at work; what it had taken and not acknowledged comes to its successor, stored already or not."""
    topic, device = ground.meter(), ground.device()
    worker = ground.worker()
    for first in (0, 800):
        sender = feed(ground, device, topic, range(first, first + 800))
        ground.until(lambda first=first: ground.count(topic) > first + 20)
        worker.kill()
        before = ground.count(topic)
        assert before <= first + 800
        sender.join(60)
        worker = ground.worker()
    device.flush()
    assert len(device.acknowledged) == 1_600
    ground.until(lambda: ground.count(topic) >= 1_600)
    assert worker.stop()["rejected"] == 0
    assert ground.rows(topic) == ground.once(device.acknowledged)


def test_a_killed_postgresql_loses_and_doubles_nothing(ground: Ground) -> None:
    """The worker keeps what it has taken, acknowledges none of it, and goes on by itself when the database is back."""
    topic, device = ground.meter(), ground.device()
    worker = ground.worker()
    sender = feed(ground, device, topic, range(1_500))
    ground.until(lambda: ground.count(topic) > 20)
    kill_postgres(ground)
    sender.join(60)
    worker.wait_for("database_lost")
    ground.postgres.start()
    before = ground.count(topic)
    assert ground.rows(topic)[:20] == ground.once(range(20))
    device.flush()
    ground.until(lambda: ground.count(topic) >= 1_500)
    assert before < 1_500 == len(device.acknowledged)
    assert worker.stop()["rejected"] == 0
    assert ground.rows(topic) == ground.once(device.acknowledged)


def test_one_of_two_workers_is_killed(ground: Ground) -> None:
    """On a share (mosquitto) the killed worker's part waits in its session, also what is published after the kill.

    It is taken when a worker of that name runs again. Until then the survivor stores its own part. On iotcore, without
    a share, each has all, and the survivor stores everything.
    """
    topic, device = ground.meter(), ground.device()
    shared = ground.broker.kind == "mosquitto"
    killed, survivor = (ground.worker(name, shared=shared) for name in ("w1", "w2"))
    sender = feed(ground, device, topic, range(1_500))
    ground.until(lambda: ground.count(topic) > 20)
    killed.kill()
    before = ground.count(topic)
    sender.join(60)
    device.flush()
    ground.until(lambda: ground.count(topic) > before)
    again = ground.worker("w1", shared=shared)
    ground.until(lambda: ground.count(topic) >= 1_500)
    assert before < 1_500 == len(device.acknowledged)
    assert survivor.stop()["inserted"] > 0
    again.stop()
    assert ground.rows(topic) == ground.once(device.acknowledged)


def test_a_killed_mosquitto_keeps_what_it_had_saved(durable: Ground) -> None:
    """Its promise alone, without a worker's help: acknowledged and saved is there, without PUBACK is sent again.

    What it acknowledged after its last save may be lost; that part is bounded by ``autosave_interval`` and named here.
    """
    topic, device = durable.meter(), durable.device()
    durable.worker().stop()  # its session stays
    for number in range(500):
        device.send(topic, durable.said(number), number)
    device.flush()
    saved = durable.broker.folder / "mosquitto.db"
    flushed = time.time()
    durable.until(lambda: saved.exists() and saved.stat().st_mtime > flushed + 0.1)
    sender = feed(durable, device, topic, range(500, 1_000))
    kill_broker(durable)
    device.wait_disconnected()
    lost_at_most = set(device.acknowledged) - set(range(500))
    sender.join(60)
    durable.broker.start()
    device.wait_connected(2)
    device.flush()
    durable.worker()
    safe = set(range(1_000)) - lost_at_most
    durable.until(lambda: {row.number for row in durable.rows(topic)} >= safe)
    found = durable.rows(topic)
    assert found == durable.once(row.number for row in found)
    assert {row.number for row in found} - safe <= lost_at_most


def test_a_device_that_keeps_what_it_has_not_seen_loses_nothing_to_a_killed_broker(ground: Ground) -> None:
    """End to end, on either broker: the device sends again, every second, what the platform does not show yet."""
    topic, device = ground.meter(), ground.device()
    worker = ground.worker()
    sender = feed(ground, device, topic, range(1_000))
    ground.until(lambda: ground.count(topic) > 20)
    kill_broker(ground)
    before = ground.count(topic)
    sender.join(60)
    worker.wait_for("broker_lost")
    ground.broker.start()
    device.wait_connected(2)
    worker.wait_for("broker_connected_again")
    device.flush()
    for _ in range(20):
        unseen = set(range(1_000)) - {row.number for row in ground.rows(topic)}
        if not unseen:
            break
        for number in sorted(unseen):
            device.send(topic, ground.said(number), number)
        device.flush()
        time.sleep(0.5)  # the device's pace, not a wait of the test
    assert before < 1_000
    assert worker.stop()["rejected"] == 0
    assert ground.rows(topic) == ground.once(range(1_000))


def test_a_session_that_joins_a_share_leaves_its_own_subscription(durable: Ground) -> None:
    """From one worker to several and back, under the same name: each message comes once."""
    topic, device = durable.meter(), durable.device()
    for part, shared in enumerate((False, True, False)):
        worker = durable.worker(shared=shared)
        for number in range(part * 20, part * 20 + 20):
            device.send(topic, durable.said(number), number)
        device.flush()
        durable.until(lambda part=part: durable.count(topic) == part * 20 + 20)
        assert worker.stop()["messages"] == 20
    assert durable.rows(topic) == durable.once(device.acknowledged)
