"""What `demo` and `up` share: the registered community, its history, children and their environment."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from pydantic import SecretStr

from energy_cloud_dagster.adapters import accounts, registry
from energy_cloud_dagster.adapters.database import make_engine
from energy_cloud_dagster.cli import bringup
from energy_cloud_dagster.settings import Settings, load_settings

if TYPE_CHECKING:
    from energy_cloud_dagster.embedded.postgres import EmbeddedPostgres

START = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def settings(postgres: EmbeddedPostgres, home: Path) -> Settings:
    postgres.ensure_database("energy_cloud_bringup")
    return load_settings(home=home / "b", database_url=SecretStr(postgres.url("energy_cloud_bringup")))


def test_preparing_is_safe_to_repeat_and_gives_each_role_s_password_once(settings: Settings) -> None:
    first = bringup.prepare(settings, START)
    assert all(len(password) >= 16 for password in first.values())
    assert len(set(first.values())) == len(first)
    assert bringup.prepare(settings, START + timedelta(days=1)) == {}
    engine = make_engine(settings.database_url.get_secret_value(), pool_size=1)
    with engine.begin() as connection:
        found = [accounts.authenticate(connection, name, password) for name, password in first.items()]
        assert {one.role for one in found if one is not None} == set(accounts.ROLES)
        for name, _, participant in bringup.SAMPLE_ACCOUNTS:
            kept = accounts.find(connection, name)
            assert kept is not None
            assert kept.participant_id == participant
        assert registry.device_by_id(connection, "SM-001").device_id == "SM-001"
    engine.dispose()


def test_a_given_admin_password_is_not_repeated(postgres: EmbeddedPostgres, home: Path) -> None:
    postgres.ensure_database("energy_cloud_given")
    url = SecretStr(postgres.url("energy_cloud_given"))
    given = load_settings(home=home / "g", database_url=url, admin_password=SecretStr("given by hand"))
    assert bringup.prepare(given, START).keys() == {name for name, _, _ in bringup.SAMPLE_ACCOUNTS}


def test_history_is_stored_once_and_known_when_it_would_have_been(settings: Settings) -> None:
    bringup.prepare(settings, START)
    days: list[int] = []
    end = START + timedelta(days=8)
    stored = bringup.load_history(settings, START, end, days.append)
    assert days == [7, 14]
    assert bringup.load_history(settings, START, end, days.append) == 0
    with psycopg.connect(settings.database_url.get_secret_value()) as connection:
        row = connection.execute(
            """select count(*), min(ts), max(ts), min(received_at - ts), array_agg(distinct source)
               from raw.reading where ts >= %s""",
            [START],
        ).fetchone()
    assert row is not None
    rows, earliest, latest, soonest, sources = row
    assert rows == stored
    assert (earliest, latest) == (START, end - timedelta(minutes=10))
    assert soonest > timedelta(0)
    assert sources == ["history"]


def test_readiness_is_logged_whatever_level_was_asked_for(settings: Settings) -> None:
    quiet = bringup.command("ingest", settings.model_copy(update={"log_level": "error"}))
    assert quiet.env is not None
    assert quiet.env["ENERGY_CLOUD_LOG_LEVEL"] == "info"
    assert quiet.argv[-3:] == ["-m", "energy_cloud_dagster.cli", "ingest"]
    chatty = bringup.command("scada", settings.model_copy(update={"log_level": "debug"}), ENERGY_CLOUD_OPCUA_URL="x")
    assert chatty.env is not None
    assert (chatty.env["ENERGY_CLOUD_LOG_LEVEL"], chatty.env["ENERGY_CLOUD_OPCUA_URL"]) == ("debug", "x")


def test_ports_without_a_variable_follow_the_base() -> None:
    moved, stayed = load_settings(port_base=21000), load_settings()
    assert (bringup.plant_port(moved), bringup.code_port(moved)) == (21004, 21005)
    assert (bringup.plant_port(stayed), bringup.code_port(stayed)) == (4840, 4266)
