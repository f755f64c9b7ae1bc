"""The API as people start it: a child process, real HTTP, the embedded database."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from energy_cloud_dagster.embedded.claims import free_port

if TYPE_CHECKING:
    from energy_cloud_dagster.embedded.postgres import EmbeddedPostgres

PROGRAM = [sys.executable, "-m", "energy_cloud_dagster.cli"]
PASSWORD = "correct horse battery"


class Served:
    """A running `serve`, its address and what it printed."""

    def __init__(self, home: Path, *arguments: str, **variables: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = home.with_name(f"{home.name}-serve-{self.port}.log")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ENERGY_CLOUD_")}
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [*PROGRAM, "serve", "--port", str(self.port), *arguments],
                env=environment | {"ENERGY_CLOUD_HOME": str(home)} | variables,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def printed(self) -> str:
        return self.log.read_text()

    def live(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/live").status_code == 200
        except httpx.TransportError:
            return False

    def wait(self, *, live: bool = True) -> None:
        deadline = time.monotonic() + 60
        while self.live() is not live:
            assert not live or self.process.poll() is None, self.printed
            assert time.monotonic() < deadline, self.printed
            time.sleep(0.1)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)


@pytest.fixture(scope="module")
def served_url(postgres: EmbeddedPostgres) -> str:
    from energy_cloud_dagster.adapters.database import upgrade

    postgres.ensure_database("energy_cloud_serve")
    url = postgres.url("energy_cloud_serve")
    upgrade(url)
    return url


@pytest.fixture(scope="module")
def served(served_url: str, home: Path) -> Iterator[Served]:
    """`serve` on a migrated database of its own, whose admin password is given."""
    running = Served(home / "s", ENERGY_CLOUD_DATABASE_URL=served_url, ENERGY_CLOUD_ADMIN_PASSWORD=PASSWORD)
    try:
        running.wait()
        yield running
    finally:
        running.end()


def test_over_real_http_a_login_opens_what_was_closed(served: Served) -> None:
    with httpx.Client(base_url=served.url) as client:
        assert client.get("/v1/vpp").status_code == 401
        login = client.post("/v1/auth/login", json={"username": "admin", "password": PASSWORD})
        assert login.status_code == 200
        answer = client.get("/v1/vpp", headers={"Authorization": f"Bearer {login.json()['token']}"})
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        assert answer.json() == {"items": [], "nextCursor": None}
        assert client.get("/nowhere").headers["content-type"] == "application/problem+json"
        assert client.get("/health/ready").json()["parts"]["database"] == "up"
        assert client.get("/v1/openapi.json").status_code == 200
    assert PASSWORD not in served.printed


def test_alone_it_starts_its_database_and_stops_cleanly(home: Path) -> None:
    own = home / "alone"
    running = Served(own)
    try:
        running.wait()
        found = re.search(r"Account admin, password (\S+) \(shown this once\)", running.printed)
        assert found, running.printed
        credentials = {"username": "admin", "password": found[1]}
        assert httpx.post(f"{running.url}/v1/auth/login", json=credentials).status_code == 200
        listed = subprocess.run(
            [*PROGRAM, "user", "list"],
            env=os.environ | {"ENERGY_CLOUD_HOME": str(own)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert listed.stdout.split()[:2] == ["admin", "admin"]
        second = Served(own)
        assert second.process.wait(60) == 1
        assert "in use by another energy-cloud" in second.printed
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(30) == 0
        assert not running.live()
        assert not (own / "postgres" / "data" / "postmaster.pid").exists()
    finally:
        running.end()


def test_a_database_that_lacks_migrations_is_refused(postgres: EmbeddedPostgres, home: Path) -> None:
    postgres.ensure_database("energy_cloud_bare")
    running = Served(home / "s", ENERGY_CLOUD_DATABASE_URL=postgres.url("energy_cloud_bare"))
    assert running.process.wait(60) == 1
    assert "energy-cloud db upgrade" in running.printed


def test_a_database_that_is_down_is_waited_for(home: Path) -> None:
    url = f"postgresql://nobody@127.0.0.1:{free_port()}/none"
    running = Served(home / "s", ENERGY_CLOUD_DATABASE_URL=url)
    try:
        running.wait()
        assert httpx.get(f"{running.url}/health/ready").status_code == 503
        assert "serving all the same" in running.printed
    finally:
        running.end()


def test_a_taken_port_is_named(served_url: str, home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        other = Served(home / "s", "--port", str(port), ENERGY_CLOUD_DATABASE_URL=served_url)
        assert other.process.wait(60) == 1
    assert f"127.0.0.1:{port}" in other.printed
    assert "ENERGY_CLOUD_API_PORT" in other.printed


def test_killed_outright_it_leaves_no_worker_behind(served: Served) -> None:
    # The last test that uses the server.
    served.process.send_signal(signal.SIGKILL)
    served.process.wait(10)
    served.wait(live=False)
