from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from energy_cloud_dagster.cli.db import app

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
