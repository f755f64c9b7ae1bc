"""`POST /v1/energy/consumption` in arrays of 10,000 records: readings a second until they are durable and answered.

The API runs as `energy-cloud serve` does, in a process of its own, on a real PostgreSQL (fsync on) on the same cores;
the caller shares them too. The floor is COPY of the same rows into a table without an index, measured in the same run.

    python benchmarks/rest.py [--batches 30] [--batch 10000] [--callers 1] [--json] [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
from pydantic import SecretStr

from energy_cloud_dagster.adapters import accounts, database, registry
from energy_cloud_dagster.embedded.parts import child_environment
from energy_cloud_dagster.embedded.postgres import EmbeddedPostgres
from energy_cloud_dagster.sample_data.community import SEOUL_COMMUNITY
from energy_cloud_dagster.settings import Settings

PATH = "/v1/energy/consumption"
METERS = 1_000
PASSWORD = "correct horse battery"
NOW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)


def bodies(batches: int, batch: int) -> list[bytes]:
    """Return arrays of records of ``METERS`` meters; no (meter, timestamp) comes twice."""
    made = []
    for number in range(batches):
        records = []
        for index in range(number * batch, (number + 1) * batch):
            ts = NOW - timedelta(minutes=15 * (1 + index // METERS))
            stamp = ts.strftime("%Y-%m-%dT%H:%M:%SZ")
            records.append({"meterId": f"M-{index % METERS:05d}", "timestamp": stamp, "consumption": 0.1 + index % 97})
        made.append(json.dumps(records).encode())
    return made


def copy_floor(url: str, batches: int, batch: int) -> float:
    """Return how many rows/s COPY takes, ``batch`` rows a transaction, into a table without an index."""
    rows = [(n % METERS, NOW - timedelta(minutes=n), 12.345, "high", NOW, "rest") for n in range(batch)]
    columns = "series_id int, ts timestamptz, value float8, quality text, received_at timestamptz, source text"
    with psycopg.connect(url) as connection:
        connection.execute(f"create table public.floor ({columns})")
        connection.commit()
        started = time.perf_counter()
        for _ in range(batches):
            with connection.cursor().copy("copy public.floor from stdin (format binary)") as copy:
                copy.set_types(["int4", "timestamptz", "float8", "text", "timestamptz", "text"])
                for row in rows:
                    copy.write_row(row)
            connection.commit()
        took = time.perf_counter() - started
        connection.execute("drop table public.floor")
    return batches * batch / took


@contextmanager
def served(settings: Settings) -> Iterator[str]:
    """Run `energy-cloud serve` as a child and yield its address once it answers."""
    port = settings.port("api")
    argv = [sys.executable, "-m", "energy_cloud_dagster.cli", "serve", "--port", str(port)]
    child = subprocess.Popen(argv, env=os.environ | child_environment(settings), stdout=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                httpx.get(f"{address}/health/ready").raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        else:
            raise SystemExit("the API did not answer within 30 s")
        yield address
    finally:
        child.terminate()
        child.wait(30)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def post(address: str, made: Sequence[bytes], callers: int, **headers: str) -> tuple[float, list[float]]:
    """Post the bodies by several callers at once; return the seconds in all and those of each answer."""
    token = httpx.post(f"{address}/v1/auth/login", json={"username": "operator", "password": PASSWORD}).json()["token"]
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"} | headers

    def call(mine: Sequence[bytes]) -> list[float]:
        took = []
        with httpx.Client(base_url=address, headers=headers, timeout=120) as client:
            for body in mine:
                started = time.perf_counter()
                answer = client.post(PATH, content=body)
                took.append(time.perf_counter() - started)
                if answer.status_code != 201:
                    raise SystemExit(answer.text[:500])
        return took

    started = time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        took = [each for part in pool.map(call, [made[first::callers] for first in range(callers)]) for each in part]
    return time.perf_counter() - started, took


def main() -> None:
    parser = argparse.ArgumentParser(description="Readings a second over HTTP.")
    parser.add_argument("--batches", type=int, default=30, help="Arrays to post.")
    parser.add_argument("--batch", type=int, default=10_000, help="Records of each, 10,000 at most.")
    parser.add_argument("--callers", type=int, default=1, help="Callers at once.")
    parser.add_argument("--json", action="store_true", help="Print the figures as JSON at the end.")
    parser.add_argument("--quick", action="store_true", help="Five arrays.")
    given = parser.parse_args()
    batches, batch = 5 if given.quick else given.batches, given.batch
    with tempfile.TemporaryDirectory(prefix="ec-") as folder:
        home = Path(folder)
        home.chmod(0o755)
        server = EmbeddedPostgres(home / "pg")
        server.start()
        try:
            figures = measure(server, home, bodies(batches + 1, batch), given.callers)
        finally:
            server.stop()
    if given.json:
        print(json.dumps(figures))


def measure(server: EmbeddedPostgres, home: Path, made: Sequence[bytes], callers: int) -> dict[str, Any]:
    """Run the floor and the calls, print the figures and return them."""
    url = server.url()
    database.upgrade(url)
    engine = database.make_engine(url)
    with engine.begin() as connection:
        registry.seed(connection, SEOUL_COMMUNITY, NOW)
        accounts.add(connection, "operator", PASSWORD, "operator")
    batch = len(json.loads(made[0]))
    settings = Settings(_env_file=None, home=home / "api", database_url=SecretStr(url), api_port=free_port())
    floor = copy_floor(url, len(made) - 1, batch)
    with served(settings) as address:
        # The first array registers the meters and makes day partitions; it is not counted.
        post(address, made[:1], 1)
        seconds, took = post(address, made[1:], callers)
        again, _ = post(address, made[1:], callers)
    with engine.connect() as connection:
        stored = connection.exec_driver_sql("select count(*) from raw.reading").scalar_one()
    engine.dispose()
    readings = (len(made) - 1) * batch
    rate, repeated = readings / seconds, readings / again
    print(f"POST {PATH}, arrays of {batch:,} records, {callers} caller(s)")
    print(f"  COPY of the same rows          {floor:>10,.0f} rows/s")
    print(f"  stored and answered            {rate:>10,.0f} readings/s   {rate / floor:.2f} of COPY")
    print(f"  the same again, all absorbed   {repeated:>10,.0f} readings/s   {repeated / floor:.2f} of COPY")
    print(f"  an array takes {statistics.median(took) * 1e3:.0f} ms (median), {max(took) * 1e3:.0f} ms (longest)")
    print(f"  lost {readings + batch - stored}, stored twice {max(0, stored - readings - batch)}")
    return {"copy_floor": floor, "readings": rate, "of_floor": rate / floor, "repeated": repeated, "seconds": took}


if __name__ == "__main__":
    main()
