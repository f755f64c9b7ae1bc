"""Live streams: from the start of a store to the message at each of N subscribers of one region's channel.

The API runs as `energy-cloud serve` does, on a real PostgreSQL; publisher, database, API and all subscribers share the
cores. Readings of ``--meters`` meters are stored ``--rate`` times a second, so that updates are coalesced to ten a
second. An update is dated by the earliest store that it holds and no message before it held, found by its total: the
readings add up to a counter. The floor is a bare fan-out of the same bytes, ten times a second, by a server of the same
kind that does nothing else.

    python benchmarks/stream.py [--subscribers 1000] [--seconds 20] [--rate 50] [--meters 1000] [--json] [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa
from pydantic import SecretStr
from websockets.asyncio.client import ClientConnection, connect

from energy_cloud_dagster.adapters import accounts, database, readings, registry
from energy_cloud_dagster.adapters.readings import ReadingRow
from energy_cloud_dagster.adapters.tables import device, series
from energy_cloud_dagster.embedded.claims import free_port
from energy_cloud_dagster.embedded.parts import child_environment
from energy_cloud_dagster.embedded.postgres import EmbeddedPostgres
from energy_cloud_dagster.sample_data.community import SEOUL_COMMUNITY
from energy_cloud_dagster.settings import Settings

PASSWORD = "correct horse battery"
CHANNEL = "consumption.busan"
NOW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
#: Least a reading adds to the total: messages say six digits after the point.
UNIT = 0.001
FLOOR_TEXT = json.dumps(
    {"channel": CHANNEL, "timestamp": "2026-01-01T00:00:00Z", "payload": {"total": 0, "p": "x" * 170}}
)

#: What a subscriber process reports: (arrival, total) of every message of each of its subscribers.
Arrivals = list[list[tuple[float, float]]]


# -- the floor: the same kind of server, that only fans out

FLOOR_APP = f"""
import asyncio, json, time
from fastapi import FastAPI, WebSocket
app, clients = FastAPI(), set()
TEXT = {FLOOR_TEXT!r}
async def fan():
    while True:
        await asyncio.sleep(0.1)
        text = TEXT.replace('"total": 0', f'"total": {{time.time()}}')
        for queue in clients:
            queue.put_nowait(text)
@app.websocket("/v1/energy/real-time")
async def listen(ws: WebSocket):
    await ws.accept()
    if not clients:
        app.state.fan = asyncio.create_task(fan())
    queue = asyncio.Queue()
    clients.add(queue)
    try:
        while True:
            await ws.send({{"type": "websocket.send", "text": await queue.get()}})
    finally:
        clients.discard(queue)
"""
FLOOR_SERVER = """
import sys
from granian import Granian
from granian.constants import Interfaces
from granian.log import LogLevels
Granian("floor_app:app", port=int(sys.argv[1]), interface=Interfaces.ASGI, log_level=LogLevels.warning).serve()
"""


@contextmanager
def floor_server(folder: Path) -> Iterator[str]:
    (folder / "floor_app.py").write_text(FLOOR_APP)
    (folder / "floor_server.py").write_text("if __name__ == '__main__':\n" + _indented(FLOOR_SERVER))
    port = free_port()
    argv = [sys.executable, "floor_server.py", str(port)]
    with _running(subprocess.Popen(argv, cwd=folder), f"http://127.0.0.1:{port}/docs"):
        yield f"ws://127.0.0.1:{port}/v1/energy/real-time"


# -- the platform


@contextmanager
def platform(folder: Path, meters: int) -> Iterator[tuple[str, sa.Engine, list[int]]]:
    """Run PostgreSQL (fsync on) and the API with ``meters`` meters in one region; yield address and series."""
    server = EmbeddedPostgres(folder / "pg")
    server.start()
    url = server.url()
    database.upgrade(url)
    engine = database.make_engine(url, pool_size=2)
    with engine.begin() as connection:
        registry.seed(connection, SEOUL_COMMUNITY, NOW, demo_key="benchmark")
        accounts.add(connection, "viewer", PASSWORD, "viewer")
        names = [f"M-{number:06}" for number in range(meters)]
        common = {"region_id": "busan", "device_type": "smart-meter", "customer_class": "residential"}
        connection.execute(sa.insert(device), [common | {"device_id": name, "created_at": NOW} for name in names])
        kind = {"metric": "consumption", "unit": "kWh", "kind": "energy"}
        connection.execute(sa.insert(series), [kind | {"device_id": name} for name in names])
        known = readings.series_ids(connection)
        ids = [known[name, "consumption"].series_id for name in names]
    settings = Settings(_env_file=None, home=folder / "h", database_url=SecretStr(url), log_level="warning")
    port = free_port()
    argv = [sys.executable, "-m", "energy_cloud_dagster.cli", "serve", "--port", str(port)]
    environment = os.environ | child_environment(settings) | {"ENERGY_CLOUD_ADMIN_PASSWORD": PASSWORD}
    child = subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL)
    try:
        with _running(child, f"http://127.0.0.1:{port}/health/live"):
            login = {"username": "viewer", "password": PASSWORD}
            token = httpx.post(f"http://127.0.0.1:{port}/v1/auth/login", json=login).json()["token"]
            yield f"ws://127.0.0.1:{port}/v1/energy/real-time?token={token}", engine, ids
    finally:
        engine.dispose()
        server.stop()


def publish(
    engine: sa.Engine, ids: list[int], seconds: float, rate: float
) -> tuple[list[tuple[float, float]], list[float]]:
    """Store one reading ``rate`` times a second; return (time before, total that it makes) and how long each took."""
    base = [ReadingRow(one, NOW, 0.0, "high", datetime.now(UTC), "mqtt") for one in ids]
    with engine.begin() as connection:
        readings.store(connection, base)
    told, took, values, started = [], [], [0] * len(ids), time.perf_counter()
    number = 0
    while (elapsed := time.perf_counter() - started) < seconds:
        pause = number / rate - elapsed
        if pause > 0:
            time.sleep(pause)
        place = number % len(ids)
        values[place] += 1
        number += 1
        row = ReadingRow(ids[place], NOW, values[place] * UNIT, "high", datetime.now(UTC), "mqtt")
        at = time.time()
        with engine.begin() as connection:
            readings.store(connection, [row])
        took.append(time.time() - at)
        told.append((at, round(number * UNIT, 6)))
    return told, took


# -- subscribers


def subscriber_process(address: str, count: int, pipe: Connection) -> None:
    """Hold ``count`` subscribers; say when all are in, listen until told to stop, report what came."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    pipe.send(asyncio.run(_subscribe(address, count, pipe)))


async def _subscribe(address: str, count: int, pipe: Connection) -> Arrivals:
    arrivals: Arrivals = [[] for _ in range(count)]
    async with contextlib.AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(_listening(address)) for _ in range(count)]
        tasks = [asyncio.create_task(_note(one, kept)) for one, kept in zip(sockets, arrivals, strict=True)]
        pipe.send("ready")
        await asyncio.to_thread(pipe.recv)
        for task in tasks:
            task.cancel()
        for one in sockets:
            one.transport.abort()
    return arrivals


@contextlib.asynccontextmanager
async def _listening(address: str) -> AsyncIterator[ClientConnection]:
    async with connect(address, compression=None, ping_interval=None, max_queue=None, close_timeout=1) as one:
        await one.send(json.dumps({"action": "subscribe", "channels": [CHANNEL]}))
        yield one


async def _note(one: ClientConnection, kept: list[tuple[float, float]]) -> None:
    async for text in one:
        at = time.time()
        found = str(text).partition('"total":')[2]
        if found:
            kept.append((at, float(found.partition(",")[0])))


def listen(address: str, subscribers: int, processes: int, work: Callable[[], Any]) -> tuple[Any, Arrivals]:
    """Do ``work`` while ``subscribers`` listen; return its result and what each of them heard."""
    context = multiprocessing.get_context("spawn")
    pipes, children = [], []
    for number in range(processes):
        here, there = context.Pipe()
        share = subscribers // processes + (number < subscribers % processes)
        child = context.Process(target=subscriber_process, args=(address, share, there))
        child.start()
        pipes.append(here)
        children.append(child)
    for pipe in pipes:
        pipe.recv()
    done = work()
    time.sleep(1.0)
    for pipe in pipes:
        pipe.send("stop")
    heard = [one for pipe in pipes for one in pipe.recv()]
    for child in children:
        child.join()
    return done, heard


def delays(told: list[tuple[float, float]], arrivals: Arrivals) -> list[float]:
    """Return, of every message of every subscriber, the seconds since the earliest store that was new in it."""
    found = []
    for heard in arrivals:
        place = 0
        for at, total in heard:
            if place < len(told) and told[place][1] <= total + UNIT / 2:
                found.append(at - told[place][0])
                while place < len(told) and told[place][1] <= total + UNIT / 2:
                    place += 1
    return found


# -- the run


def measure(subscribers: int, seconds: float, rate: float, meters: int, processes: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="ec-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with floor_server(folder) as address:
            begun, heard = listen(address, subscribers, processes, lambda: (time.time(), time.sleep(seconds))[0])
            floor = [at - sent for one in heard for at, sent in one if sent >= begun]
        with platform(folder, meters) as (address, engine, ids):
            (told, took), heard = listen(address, subscribers, processes, lambda: publish(engine, ids, seconds, rate))
            found = delays(told, heard)
    last = told[-1][1]
    return {
        "subscribers": subscribers,
        "seconds": seconds,
        "stores": len(told),
        "messages": sum(len(one) for one in heard),
        "updatesPerSecond": statistics.median(len(one) for one in heard) / seconds,
        "complete": sum(bool(one) and math.isclose(one[-1][1], last, abs_tol=UNIT / 2) for one in heard),
        "p50": _percentile(found, 50),
        "p99": _percentile(found, 99),
        "max": max(found),
        "storeP50": _percentile(took, 50),
        "storeP99": _percentile(took, 99),
        "floorP50": _percentile(floor, 50),
        "floorP99": _percentile(floor, 99),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Latency from store to subscriber.")
    parser.add_argument("--subscribers", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=50.0, help="Stores a second.")
    parser.add_argument("--meters", type=int, default=1_000)
    parser.add_argument("--processes", type=int, default=2, help="Processes that hold the subscribers.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="200 subscribers, 5 seconds.")
    given = parser.parse_args()
    if given.quick:
        given.subscribers, given.seconds = 200, 5.0
    found = measure(given.subscribers, given.seconds, given.rate, given.meters, given.processes)
    if given.json:
        print(json.dumps(found, indent=2))
        return
    print(f"Live streams, {found['subscribers']} subscribers of one channel, {given.rate:.0f} stores/s")
    print(f"  updates a second            {found['updatesPerSecond']:7.1f}   ({found['messages']:,} messages in all)")
    print(f"  heard the last store        {found['complete']:7d}   of {found['subscribers']}")
    print(f"  store to subscriber, p50    {1e3 * found['p50']:7.1f} ms")
    print(f"  store to subscriber, p99    {1e3 * found['p99']:7.1f} ms   (at most 100 ms of it wait for the tick)")
    print(
        f"  of which the store          {1e3 * found['storeP50']:7.1f} / {1e3 * found['storeP99']:.1f} ms (p50 / p99)"
    )
    print(f"  bare fan-out, p50 / p99     {1e3 * found['floorP50']:7.1f} / {1e3 * found['floorP99']:.1f} ms")
    print(f"  p99 / floor's p99           {found['p99'] / found['floorP99']:7.1f}")


def _percentile(found: list[float], percent: int) -> float:
    return statistics.quantiles(found, n=100, method="inclusive")[percent - 1]


@contextmanager
def _running(child: subprocess.Popen[bytes], probe: str) -> Iterator[None]:
    """Wait until ``probe`` answers; end the child afterwards."""
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(probe).status_code == 200:
                    break
            if child.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the server did not start")
            time.sleep(0.1)
        yield
    finally:
        child.terminate()
        child.wait(30)


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.strip().splitlines())


if __name__ == "__main__":
    main()
