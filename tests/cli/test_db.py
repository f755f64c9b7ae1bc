from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from energy_cloud_dagster.cli.db import app
from energy_cloud_dagster.domain.errors import Conflict, InvalidInput, Misconfigured, NotFound

if TYPE_CHECKING:
    from energy_cloud_dagster.embedded.postgres import EmbeddedPostgres

RUN = CliRunner()


def test_status_upgrade_status(postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    postgres.ensure_database("ec_cli_db")
    monkeypatch.setenv("ENERGY_CLOUD_DATABASE_URL", postgres.url("ec_cli_db"))
    before = RUN.invoke(app, ["status"])
    assert before.exit_code == 1
    assert "Run `energy-cloud db upgrade`" in before.stdout
    assert RUN.invoke(app, ["upgrade"]).stdout.startswith("The database is at")
    after = json.loads(RUN.invoke(app, ["status", "--json"]).stdout)
    assert after["upToDate"]
    assert after["current"] == after["head"]
    again = json.loads(RUN.invoke(app, ["upgrade", "--json"]).stdout)
    assert again == after


def test_a_dropped_day_is_listed_and_restored(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from energy_cloud_dagster.adapters import archive, partitions, readings
    from energy_cloud_dagster.adapters.database import make_engine, upgrade
    from energy_cloud_dagster.domain.readings import ReadingRow

    postgres.ensure_database("ec_cli_archive")
    url = postgres.url("ec_cli_archive")
    upgrade(url)
    monkeypatch.setenv("ENERGY_CLOUD_DATABASE_URL", url)
    monkeypatch.setenv("ENERGY_CLOUD_HOME", str(tmp_path))
    assert RUN.invoke(app, ["archive-status"]).stdout == "0 days archived, 0 rows, 0 bytes.\n"
    engine, day = make_engine(url), date(2026, 3, 1)
    at = datetime(2026, 3, 1, 5, tzinfo=UTC)
    with engine.begin() as connection:
        readings.store(connection, [ReadingRow(1, at, 2.5, "high", at + timedelta(hours=1), "mqtt")])
    with engine.begin() as connection:
        archive.write(connection, archive.ArchiveStore.open("", tmp_path), day)
        (found,) = partitions.attached(connection)
    assert "in the database too" in RUN.invoke(app, ["archive-status"]).stdout
    assert isinstance(RUN.invoke(app, ["restore", "2026-03-01"]).exception, Conflict)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        partitions.detach(connection, found)
    with engine.begin() as connection:
        assert archive.retire(connection, found) == "dropped"
    (listed,) = json.loads(RUN.invoke(app, ["archive-status", "--json"]).stdout)
    assert (listed["day"], listed["rows"]) == ("2026-03-01", 1)
    assert "dropped 20" in RUN.invoke(app, ["archive-status"]).stdout
    said = RUN.invoke(app, ["restore", "2026-03-01", "--keep-days", "3"]).stdout
    assert said.startswith("2026-03-01 is back: 1 rows from file://")
    with engine.begin() as connection:
        assert connection.exec_driver_sql("select value from raw.reading").scalar_one() == 2.5
    engine.dispose()
    assert isinstance(RUN.invoke(app, ["restore", "2026-03-02"]).exception, NotFound)
    assert isinstance(RUN.invoke(app, ["restore", "yesterday"]).exception, InvalidInput)


def test_timescaledb_is_refused_where_the_server_lacks_it(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    from energy_cloud_dagster.adapters.database import upgrade

    postgres.ensure_database("ec_cli_timescale")
    url = postgres.url("ec_cli_timescale")
    upgrade(url)
    monkeypatch.setenv("ENERGY_CLOUD_DATABASE_URL", url)
    refused = RUN.invoke(app, ["timescale"]).exception
    assert isinstance(refused, Misconfigured)
    assert "has no TimescaleDB" in str(refused)
