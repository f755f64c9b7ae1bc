"""The real application on a database of its own: what is written here moves no newest reading of other tests."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
import sqlalchemy as sa

from energy_cloud_dagster.adapters import accounts, registry
from energy_cloud_dagster.adapters.database import make_engine, upgrade
from energy_cloud_dagster.api.app import create_app
from energy_cloud_dagster.sample_data.community import SEOUL_COMMUNITY
from energy_cloud_dagster.settings import Settings
from tests.api.conftest import HOUR, PASSWORD, Client

if TYPE_CHECKING:
    from fastapi import FastAPI

    from energy_cloud_dagster.embedded.postgres import EmbeddedPostgres

PATH = "/v1/energy/consumption"
#: The hour before last, so that no test comes near the limits of time.
NOW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - 2 * HOUR


def stamp(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


@pytest.fixture(scope="session")
def api_url(postgres: EmbeddedPostgres) -> str:
    postgres.ensure_database("energy_cloud_ingest")
    url = postgres.url("energy_cloud_ingest")
    upgrade(url)
    return url


@pytest.fixture(scope="session")
def api_engine(api_url: str) -> Iterator[sa.Engine]:
    engine = make_engine(api_url)
    with engine.begin() as connection:
        registry.seed(connection, SEOUL_COMMUNITY, NOW, demo_key="test")
        for role in accounts.ROLES:
            accounts.add(connection, role, PASSWORD, role)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def app(api_url: str, api_engine: sa.Engine, home: Path) -> FastAPI:
    return create_app(Settings(_env_file=None, home=home / "ingest", database_url=api_url))


@pytest.fixture(scope="session")
def anyone(app: FastAPI) -> Client:
    return Client(app)


@pytest.fixture(scope="session")
def operator(anyone: Client) -> Client:
    return anyone.as_("operator")


@pytest.fixture
def meter() -> str:
    """The id of a meter that no other test knows."""
    return f"SM-{uuid4().hex[:12]}"
