"""`energy-cloud up` on the home of a demo: ready, ticking, stopped, started again, killed."""

from __future__ import annotations

import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from rich.console import Console

from energy_cloud_dagster.cli.up import _children, _Interruption, _watch
from energy_cloud_dagster.domain.errors import Misconfigured
from energy_cloud_dagster.embedded.claims import accepts
from energy_cloud_dagster.embedded.dagster_home import write_dagster_home
from energy_cloud_dagster.embedded.supervise import Child
from energy_cloud_dagster.settings import load_settings

if TYPE_CHECKING:
    from .conftest import Demo, Home, Started

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PASSWORD = "correct horse battery"
#: A tick at every minute, that works on one hour.
BUSY = {"ENERGY_CLOUD_TICK_CRON": "* * * * *", "ENERGY_CLOUD_CATCHUP_HOURS": "1"}
SELECTOR = '(repositorySelector: {repositoryName: "__repository__", repositoryLocationName: "energy_cloud"})'


def ask(home: Home, query: str) -> Any:
    answer = httpx.post(f"http://127.0.0.1:{home.ports + 1}/graphql", json={"query": query}, timeout=60)
    found = answer.raise_for_status().json()
    assert "errors" not in found, found
    return found["data"]


def automation(home: Home) -> dict[str, str]:
    """State of every schedule and sensor, as the Dagster UI shows it."""
    found = ask(
        home,
        f"""{{
          schedulesOrError{SELECTOR} {{ ... on Schedules {{ results {{ name scheduleState {{ status }} }} }} }}
          sensorsOrError{SELECTOR} {{ ... on Sensors {{ results {{ name sensorState {{ status }} }} }} }}
        }}""",
    )
    schedules = found["schedulesOrError"]["results"]
    sensors = found["sensorsOrError"]["results"]
    return {one["name"]: one["scheduleState"]["status"] for one in schedules} | {
        one["name"]: one["sensorState"]["status"] for one in sensors
    }


def ticks(home: Home) -> dict[str, str]:
    """Status of every run that the tick has started, by the hour that it works on."""
    found = ask(home, "{ runsOrError(limit: 50) { ... on Runs { results { status jobName tags { key value } } } } }")
    hours = {}
    for run in reversed(found["runsOrError"]["results"]):
        tags = {tag["key"]: tag["value"] for tag in run["tags"]}
        if tags.get("dagster/schedule_name") == "hourly_tick":
            hours[tags["dagster/partition"]] = run["status"]
    return hours


@pytest.fixture(scope="module")
def up(demo: Demo) -> Iterator[tuple[Home, Started]]:
    """`up`, ready, on a home that has seen a demo: how people get to it, and a home with rows in every table."""
    assert demo.report["trades"] > 0
    home = replace(demo.home, measured=False)
    with home.start("up", **BUSY) as started:
        started.await_line("READY")
        yield home, started


def test_it_prints_its_addresses_and_says_ready(up: tuple[Home, Started]) -> None:
    home, started = up
    lines = started.printed.splitlines()
    assert lines[-1] == "READY"
    assert "First start: load eight weeks of history ..." in lines
    assert f"API      http://127.0.0.1:{home.ports}/docs" in lines
    assert f"Dagster  http://127.0.0.1:{home.ports + 1}" in lines
    for child in (
        "ingest",
        "outbox",
        "simulate",
        "scada",
        "serve",
        "dagster-code",
        "dagster-webserver",
        "dagster-daemon",
    ):
        assert any(line.startswith(f"✓ {child} ") for line in lines), started.printed
    assert PASSWORD not in started.printed


def test_the_api_answers(up: tuple[Home, Started]) -> None:
    home, _ = up
    with httpx.Client(base_url=f"http://127.0.0.1:{home.ports}", timeout=60) as client:
        ready = client.get("/health/ready").raise_for_status().json()
        assert ready == {"status": "ready", "parts": {"database": "up", "broker": "up", "chain": "up"}}
        credentials = {"username": "admin", "password": PASSWORD}
        assert client.post("/v1/auth/login", json=credentials).status_code == 200


def test_dagster_shows_schedules_and_sensors_running(up: tuple[Home, Started]) -> None:
    home, _ = up
    assert "<title" in httpx.get(f"http://127.0.0.1:{home.ports + 1}/", timeout=60).text
    assert automation(home) == dict.fromkeys(
        (
            "hourly_tick",
            "daily_fit",
            "data_life_daily",
            "late_readings",
            "chain_receipts",
            "failed_runs",
            "forecast_drift",
        ),
        "RUNNING",
    )


def test_another_up_on_the_same_home_is_refused(up: tuple[Home, Started]) -> None:
    home, started = up
    second = home.run("up")
    assert (second.returncode, second.stdout) == (1, "")
    assert f"in use by another energy-cloud (process {started.process.pid})" in second.stderr
    assert len(second.stderr.splitlines()) == 1


def test_other_commands_find_what_runs(up: tuple[Home, Started], demo: Demo) -> None:
    home, _ = up
    with httpx.Client(base_url=f"http://127.0.0.1:{home.ports}", timeout=60) as client:
        token = client.post("/v1/auth/login", json={"username": "admin", "password": PASSWORD}).json()["token"]
        client.headers["Authorization"] = f"Bearer {token}"
        trades = client.get("/v1/trading/history", params={"limit": 100}).json()["items"]
    settled = [one["id"] for one in trades if one["settlement"]["state"] == "confirmed"]
    verified = home.run("audit", "verify", "trade", settled[0], "--json")
    assert verified.returncode == 0, verified.stderr
    assert all(step["ok"] for step in json.loads(verified.stdout)[settled[0]])
    listed = home.run("user", "list", "--json")
    assert {one["username"] for one in json.loads(listed.stdout)} == {
        "admin", "operator", "trader", "auditor", "viewer", "SM-001"
    }  # fmt: skip


def test_killed_within_a_run_and_started_again_it_finishes_that_hour(up: tuple[Home, Started]) -> None:
    home, started = up
    started.await_true(lambda: "STARTED" in ticks(home).values(), httpx.TransportError, seconds=300, pause=0.2)
    interrupted = next(hour for hour, status in ticks(home).items() if status == "STARTED")
    assert "starting it again" not in started.printed
    started.process.send_signal(signal.SIGKILL)
    started.process.wait()
    home.await_no_process()

    with replace(home, measured=True).start("up", **BUSY) as again:
        again.await_line("READY")
        # neither history nor model a second time
        assert "First start" not in again.printed
        # the run that was cut off is not waited for: the next tick takes its hour up
        again.await_true(lambda: ticks(home).get(interrupted) == "SUCCESS", seconds=300, pause=1.0)
        assert "starting it again" not in again.printed
        assert again.interrupt(30) == 0
        assert again.printed.splitlines()[-1] == "Stopping ..."
        home.await_no_process(seconds=5)
    assert not (home.folder / "running.json").exists()
    deadline = time.monotonic() + 5
    while any(accepts(port) for port in range(home.ports, home.ports + 6)):
        assert time.monotonic() < deadline


def test_interrupted_while_it_starts_it_stops_too(make_home: Callable[[], Home]) -> None:
    home = replace(make_home(), measured=False)
    with home.start("up", ENERGY_CLOUD_ADMIN_PASSWORD="") as started:
        started.await_line("First start: load eight weeks of history ...")
        # the accounts are there, and nothing but these lines knows their passwords
        for name in ("admin", "operator", "trader", "auditor", "viewer", "SM-001"):
            assert re.search(rf"^  {name} +\S{{16,}}$", started.printed, re.MULTILINE), started.printed
        assert started.interrupt() != 0
        assert "Traceback" not in started.printed
        assert "READY" not in started.printed
        home.await_no_process(seconds=5)


class _Watched:
    """Something to hold weakly."""


def test_an_interruption_that_python_drops_is_met_at_the_next_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interruption = _Interruption()
    monkeypatch.setattr(sys, "unraisablehook", interruption.dropped)
    interruption.check()
    watched = _Watched()
    held = weakref.ref(watched, lambda _: interruption(signal.SIGINT, None))
    del watched
    assert held() is None
    assert capsys.readouterr().err == ""
    with pytest.raises(KeyboardInterrupt):
        interruption.check()


def test_a_process_that_ends_is_named_and_started_again(tmp_path: Path) -> None:
    fragile = Child("fragile", [sys.executable, "-c", "raise SystemExit('Error: out of luck')"], None, tmp_path / "log")
    console = Console(file=io.StringIO(), width=200)
    stop = threading.Event()
    watching = threading.Thread(target=_watch, args=(stop, load_settings(home=tmp_path), [fragile], console))
    fragile.start()
    watching.start()
    deadline = time.monotonic() + 60
    while fragile.log.read_text().count("out of luck") < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    stop.set()
    watching.join(60)
    assert not watching.is_alive()
    fragile.stop()
    assert isinstance(console.file, io.StringIO)
    assert "fragile ended (1): Error: out of luck (log:" in console.file.getvalue()


def test_a_taken_port_is_named_before_anything_else_is_done(demo: Demo) -> None:
    with socket.create_server(("127.0.0.1", demo.home.ports)):
        refused = demo.home.run("up")
    assert refused.returncode == 1
    assert re.fullmatch(
        rf"energy-cloud: The API cannot listen on 127\.0\.0\.1:{demo.home.ports} .*; choose another port with "
        r"ENERGY_CLOUD_API_PORT or move all with ENERGY_CLOUD_PORT_BASE\.\n",
        refused.stderr,
    )
    assert "First start" not in refused.stdout
    demo.home.await_no_process()


@pytest.mark.parametrize(
    ("offset", "says"),
    [
        (1, "The Dagster UI cannot listen on .*ENERGY_CLOUD_DAGSTER_PORT"),
        (4, "The simulated SCADA server cannot listen on .*; move all ports with ENERGY_CLOUD_PORT_BASE"),
        (5, "Dagster's code server cannot listen on .*; move all ports with ENERGY_CLOUD_PORT_BASE"),
    ],
)
def test_every_port_of_a_process_is_checked(demo: Demo, tmp_path: Path, offset: int, says: str) -> None:
    base = demo.home.ports
    settings = load_settings(home=tmp_path, port_base=base)
    write_dagster_home(tmp_path, "postgresql:///dagster")
    now = datetime(2026, 5, 5, tzinfo=UTC)
    with socket.create_server(("127.0.0.1", base + offset)), pytest.raises(Misconfigured, match=says):
        _children(settings, base + 4, "opc.tcp://127.0.0.1", now)
    first, second = _children(settings, base + 4, "opc.tcp://127.0.0.1", now)
    assert [child.name for child, _ in first] == ["ingest", "outbox", "simulate", "scada", "serve", "dagster-code"]
    assert [child.name for child, _ in second] == ["dagster-webserver", "dagster-daemon"]


def test_the_workspace_loads_where_nothing_runs(tmp_path: Path, demo: Demo) -> None:
    root = Path(__file__).parents[2]
    environment = {name: value for name, value in demo.home.environment().items() if "ENERGY_CLOUD" not in name}
    finished = subprocess.run(
        [sys.executable, "-m", "dagster", "definitions", "validate", "-w", str(root / "workspace.yaml")],
        env=environment | {"DAGSTER_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert "Validation successful for code location energy_cloud" in finished.stdout + finished.stderr
