"""A replay as people start it, on a real broker and database; the live fleet is tested with `up`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner, Result

from energy_cloud_dagster.adapters import registry
from energy_cloud_dagster.adapters.database import make_engine, upgrade
from energy_cloud_dagster.cli import app
from energy_cloud_dagster.domain.errors import Misconfigured, NotFound
from energy_cloud_dagster.sample_data.community import community

if TYPE_CHECKING:
    from energy_cloud_dagster.embedded.broker import EmbeddedBroker
    from energy_cloud_dagster.embedded.postgres import EmbeddedPostgres

START = "2026-03-02T00:00:00Z"


@pytest.fixture
def reached(broker: EmbeddedBroker, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "HOME": str(tmp_path),
        "MQTT_URL": broker.url,
        "MQTT_USERNAME": broker.username,
        "MQTT_PASSWORD": broker.password,
        "DATABASE_URL": database_url,
    }.items():
        monkeypatch.setenv(f"ENERGY_CLOUD_{name}", value)


def simulate(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["simulate", *arguments])


@pytest.mark.usefixtures("reached")
def test_a_fleet_is_replayed_with_its_faults_and_says_what_it_sent() -> None:
    asked = ("--devices", "20", "--start", START, "--hours", "3", "--registers", "--seed", "4", "--json")
    whole = simulate(*asked)
    assert whole.exit_code == 0, whole.output
    said = json.loads(whole.stdout)
    assert said["messages"] == 20 * 3 * 2
    assert said["messagesPerSecond"] > 0
    twice = simulate(*asked, "--faults", "duplicate=1", "--speed-up", "max")
    assert json.loads(twice.stdout)["messages"] == 20 * 3 * 2 * 2


@pytest.mark.usefixtures("reached")
def test_the_community_is_replayed_faster_than_the_clock() -> None:
    done = simulate("--start", START, "--hours", "1", "--speed-up", "7200")
    assert done.exit_code == 0, done.output
    # Hourly meters and panels, half-hourly weather and grid, quarter-hourly battery in two metrics.
    assert f"{21 + 2 * 2 + 4 * 2} messages in " in done.stdout


@pytest.mark.usefixtures("reached")
def test_meters_are_registered_where_it_is_asked_for(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres.ensure_database("simulated")
    url = postgres.url("simulated")
    upgrade(url)
    monkeypatch.setenv("ENERGY_CLOUD_DATABASE_URL", url)
    engine = make_engine(url)
    with engine.begin() as connection:
        registry.seed(connection, community(), datetime(2026, 3, 2, tzinfo=UTC))
    done = simulate("--devices", "3", "--hours", "1", "--register", "--region", "kr-busan")
    assert done.exit_code == 0, done.output
    with engine.connect() as connection:
        known = [each.device_id for each in registry.devices(connection, "busan")]
    assert [each for each in known if each.startswith("SIM-")] == ["SIM-000001", "SIM-000002", "SIM-000003"]
    engine.dispose()
    unknown = simulate("--devices", "3", "--register", "--region", "atlantis")
    assert isinstance(unknown.exception, NotFound)


@pytest.mark.usefixtures("reached")
def test_registering_needs_a_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENERGY_CLOUD_DATABASE_URL")
    done = simulate("--devices", "3", "--register")
    assert isinstance(done.exception, Misconfigured)
    assert "ENERGY_CLOUD_DATABASE_URL" in str(done.exception)


def test_the_parts_of_a_platform_that_runs_are_found(
    broker: EmbeddedBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENERGY_CLOUD_HOME", str(tmp_path))
    monkeypatch.delenv("ENERGY_CLOUD_MQTT_URL", raising=False)
    nobody = simulate("--devices", "3")
    assert isinstance(nobody.exception, Misconfigured)
    assert "energy-cloud up" in str(nobody.exception)
    running = {"mqtt_url": broker.url, "mqtt_username": broker.username, "mqtt_password": broker.password}
    (tmp_path / "running.json").write_text(json.dumps({**running, "database_url": ""}))
    done = simulate("--devices", "3", "--hours", "1")
    assert done.exit_code == 0, done.output
    assert "3 messages" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--faults", "drop=2"), "is no share"),
        (("--speed-up", "fast"), "neither a number"),
        (("--registers",), "are about --devices"),
        (("--hours", "1", "--since", START), "live fleet"),
        (("--devices", "0"), "--devices"),
    ],
)
def test_wrong_usage_is_status_two(arguments: tuple[str, ...], reason: str) -> None:
    done = simulate(*arguments)
    assert done.exit_code == 2
    assert reason in " ".join(done.output.replace("│", "").split())
