"""The MQTT ingest worker at grid scale: one worker, QoS 1, readings of 100 bytes, acknowledged after the commit.

PostgreSQL (fsync on), mosquitto and the publisher run beside it on the same cores. Two floors are measured first: a
bare paho receive loop that drains what the broker holds for it, and a bare COPY of the same rows (no index).
Then a sustained rate with its latency (from publication until another connection can select the reading), the knee
(rising rates, until readings are late or left behind), and on demand the memory of ten minutes (`--soak`) and the
cost on a table of 10^N rows against one of 10^6 (`--growth N`).

    python benchmarks/ingest.py [--seconds 60] [--rate 15000] [--soak] [--growth 7] [--json] [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import psycopg
from _bench import Prober, Rig, cpu_seconds, fill, memory_mb

LATE_MS = 200.0
#: Share of the offered readings that must be stored within a second of the publisher's end.
IN_TIME = 0.98
_PAHO = """
import sys, threading, time
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
port, username, password, wanted = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
client = mqtt.Client(CallbackAPIVersion.VERSION2, "floor", clean_session=False, protocol=mqtt.MQTTv311)
client.username_pw_set(username, password)
client.on_connect = lambda *_: client.subscribe("$share/floor/energy-cloud/+/+/+/+", qos=1)
subscribed, done, times = threading.Event(), threading.Event(), []
client.on_subscribe = lambda *_: subscribed.set()
def count(_client, _data, _message):
    times.append(time.perf_counter())
    if len(times) == wanted:
        done.set()
client.on_message = count
client.connect("127.0.0.1", port)
client.loop_start()
subscribed.wait()
if wanted:
    done.wait()
    print(wanted / (times[-1] - times[0]))
client.disconnect()
client.loop_stop()
"""


class Round(NamedTuple):
    """One rate: what was offered and stored, latency (ms), and CPU microseconds a reading by process."""

    offered: float
    stored: float
    sent: int
    kept: int
    revised: int
    p50: float
    p99: float
    cpu: dict[str, float]

    @property
    def holds(self) -> bool:
        """Whether this rate was kept up with."""
        return self.p99 < LATE_MS and self.stored >= IN_TIME * self.offered

    @property
    def per_core(self) -> float:
        """Readings a second for each core that was busy with them, all processes together."""
        return 1e6 / sum(self.cpu.values())


def paho_floor(rig: Rig, messages: int) -> float:
    """Return how many messages/s a bare paho loop receives: the broker holds them all when it connects."""

    def subscriber(wanted: int) -> str:
        argv = [sys.executable, "-c", _PAHO, str(rig.broker.port), rig.broker.username, rig.broker.password]
        return subprocess.run([*argv, str(wanted)], check=True, capture_output=True, text=True).stdout

    subscriber(0)  # makes the session
    rig.publish(50_000, messages=messages).result()
    rate = float(subscriber(messages))
    rig.forget("floor")
    return rate


def copy_floor(rig: Rig, rows: int, batch: int = 1_000) -> float:
    """Return how many rows/s a bare COPY takes, ``batch`` rows a transaction, into a table without an index."""
    now = datetime.now(UTC)
    made = [(n, now + timedelta(seconds=n), 12.345, "high", now, "mqtt") for n in range(batch)]
    columns = "series_id int, ts timestamptz, value float8, quality text, received_at timestamptz, source text"
    with psycopg.connect(rig.url) as connection:
        connection.execute(f"create table public.floor ({columns})")
        connection.commit()
        started = time.perf_counter()
        for _ in range(rows // batch):
            with connection.cursor().copy("copy public.floor from stdin (format binary)") as copy:
                copy.set_types(["int4", "timestamptz", "float8", "text", "timestamptz", "text"])
                for row in made:
                    copy.write_row(row)
            connection.commit()
        took = time.perf_counter() - started
        connection.execute("drop table public.floor")
    return rows / took


def offer(rig: Rig, rate: float, seconds: float, each_tick: Callable[[int], None] = lambda _: None) -> Round:
    """Publish at ``rate`` for ``seconds`` to one worker and return what became of it."""
    with rig.worker() as worker:
        before = rig.rows()[0]
        processes = {"worker": worker.pid, "broker": rig.broker.pid, "database": rig.server.pid}
        spent = {name: -cpu_seconds(pid) for name, pid in processes.items()}
        with Prober(rig) as prober:
            started = time.monotonic()
            publisher = rig.publish(rate, seconds=seconds)
            while publisher.running(5.0):
                each_tick(worker.pid)
            sent = publisher.result()
            time.sleep(max(0.0, started + seconds + 1.0 - time.monotonic()))
            spent = {name: spent[name] + cpu_seconds(pid) for name, pid in processes.items()}
            in_time = rig.rows()[0] - before
            kept = rig.await_rows(before + int(sent["sent"])) - before
    cpu = {name: seconds_spent / in_time * 1e6 for name, seconds_spent in spent.items()}
    cpu["publisher"] = sent["cpu"] / sent["sent"] * 1e6
    stored = min(in_time, sent["sent"]) / sent["seconds"]
    return Round(
        rate, stored, int(sent["sent"]), kept, rig.rows()[1], prober.percentile(50), prober.percentile(99), cpu
    )


def knee(rig: Rig, seconds: float, first: int, step: int) -> list[Round]:
    """Return rounds of rising rates up to the first that is not kept up with (tried twice)."""
    rounds: list[Round] = []
    for rate in range(first, 200_000, step):
        tried = offer(rig, rate, seconds)
        if not tried.holds:
            tried = offer(rig, rate, seconds)
        rounds.append(tried)
        say(rounds[-1])
        if not tried.holds:
            break
    return rounds


def soak(rig: Rig, rate: float, seconds: float) -> dict[str, Any]:
    """Return the worker's resident megabytes over ``seconds`` at ``rate``, the first tenth left out."""
    memory: list[float] = []
    result = offer(rig, rate, seconds, lambda pid: memory.append(memory_mb(pid)))
    steady = memory[len(memory) // 10 :]
    spread = (max(steady) - min(steady)) / 2 / (sum(steady) / len(steady))
    say(result)
    print(f"  worker's memory {min(steady):.1f} to {max(steady):.1f} MB: ± {spread:.1%}")
    return {"round": result._asdict(), "memory_mb": steady, "spread": spread}


def growth(exponent: int, devices: int, rate: float, seconds: float) -> dict[str, Any]:
    """Return what a reading costs on tables of 10^6 and 10^``exponent`` rows, each in a database of its own.

    The cost is CPU time of worker and database: a busy machine changes it least.
    """
    found: dict[str, Any] = {}
    costs = []
    for power in (6, exponent):
        with Rig(devices) as rig:
            started = time.monotonic()
            fill(rig, 10**power)
            print(f"  10^{power} rows, loaded in {time.monotonic() - started:.0f} s")
            result = offer(rig, rate, seconds)
            say(result)
        found[f"1e{power}"] = result._asdict()
        costs.append(result.cpu["worker"] + result.cpu["database"])
    found["ratio"] = costs[1] / costs[0]
    print(f"  a reading costs {found['ratio']:.2f} times as much with 10^{exponent} rows in place")
    return found


def say(result: Round) -> None:
    """Print a round on one line."""
    cpu = " ".join(f"{name} {spent:.1f}" for name, spent in result.cpu.items())
    verdict = "" if result.holds else "   NOT KEPT UP WITH"
    print(
        f"  {result.offered:7,.0f}/s offered {result.stored:7,.0f}/s stored   p50 {result.p50:4.0f} ms"
        f"  p99 {result.p99:4.0f} ms   µs CPU: {cpu}{verdict}",
        flush=True,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="The MQTT ingest worker at grid scale.")
    parser.add_argument("--seconds", type=float, default=60.0, help="How long the sustained rate is offered.")
    parser.add_argument("--rate", type=float, default=15_000, help="Readings/s of the sustained part.")
    parser.add_argument("--devices", type=int, default=1_000)
    parser.add_argument("--soak", nargs="?", type=float, const=600.0, help="Seconds at 80 %% of the knee (600).")
    parser.add_argument("--growth", type=int, metavar="N", help="Compare 10^6 rows with 10^N (8: half an hour, 25 GB).")
    parser.add_argument("--quick", action="store_true", help="A sanity run of half a minute.")
    parser.add_argument("--json", action="store_true", help="Print the figures as JSON on the last line.")
    given = parser.parse_args(arguments)
    seconds, step = (5.0, 10_000) if given.quick else (given.seconds, 2_500)
    figures: dict[str, Any] = {"cores": os.cpu_count(), "devices": given.devices}
    with Rig(given.devices) as rig:
        figures["paho_floor"] = paho = paho_floor(rig, 30_000 if given.quick else 150_000)
        figures["copy_floor"] = copied = copy_floor(rig, 50_000 if given.quick else 300_000)
        floor = min(paho, copied)
        print(f"Floors: paho receive loop {paho:,.0f} messages/s, COPY {copied:,.0f} rows/s")
        print(f"Sustained for {seconds:.0f} s")
        held = offer(rig, given.rate, seconds)
        say(held)
        print(f"  lost {held.sent - held.kept} of {held.sent:,}, stored twice {held.revised}")
        print(f"  {held.stored / floor:.2f} of the slower floor; {held.per_core:,.0f} readings/s per busy core")
        print("Rising rates")
        rounds = knee(rig, min(seconds, 15.0), 10_000, step)
        best = max((each.offered for each in rounds if each.holds), default=0.0)
        print(f"  the knee lies at {best:,.0f} readings/s: {best / floor:.2f} of the slower floor")
        figures |= {"sustained": held._asdict(), "lost": held.sent - held.kept, "per_core": held.per_core}
        figures |= {"knee": best, "rounds": [each._asdict() for each in rounds], "knee_of_floor": best / floor}
        if given.soak:
            print(f"Memory over {given.soak:.0f} s at 80 % of the knee")
            figures["soak"] = soak(rig, 0.8 * best, given.soak)
    if given.growth:
        print("Growing tables")
        figures["growth"] = growth(given.growth, given.devices, given.rate, min(seconds, 30.0))
    if given.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
