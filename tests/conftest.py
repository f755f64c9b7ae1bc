"""Real parts, started once for the whole run: a PostgreSQL, a broker and a chain under a short temporary home."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import sqlalchemy as sa

    from energy_cloud_dagster.embedded.broker import EmbeddedBroker
    from energy_cloud_dagster.embedded.chain import EmbeddedChain
    from energy_cloud_dagster.embedded.postgres import EmbeddedPostgres


#: Set where every part is installed: a test that is skipped all the same has lost its reason, and fails.
NO_SKIPS = os.environ.get("ENERGY_CLOUD_TEST_NO_SKIPS") == "1"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _not_skipped((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _not_skipped((yield))


def _not_skipped[Report: (pytest.TestReport, pytest.CollectReport)](report: Report) -> Report:
    if NO_SKIPS and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{reason}; ENERGY_CLOUD_TEST_NO_SKIPS=1 allows no skips"
    return report


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """A short path: the PostgreSQL socket below it must stay under 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="ec-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(home: Path) -> Iterator[EmbeddedPostgres]:
    from energy_cloud_dagster.embedded.postgres import EmbeddedPostgres

    server = EmbeddedPostgres(home / "pg")
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def database_url(postgres: EmbeddedPostgres) -> str:
    """A migrated database, the same for the whole run; tests that write either roll back or use ids of their own."""
    from energy_cloud_dagster.adapters.database import upgrade

    postgres.ensure_database("energy_cloud_test")
    url = postgres.url("energy_cloud_test")
    upgrade(url)
    return url


@pytest.fixture(scope="session")
def engine(database_url: str) -> Iterator[sa.Engine]:
    from energy_cloud_dagster.adapters.database import make_engine

    made = make_engine(database_url)
    yield made
    made.dispose()


@pytest.fixture
def connection(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection whose work vanishes: one outer transaction, rolled back."""
    with engine.connect() as opened:
        transaction = opened.begin()
        yield opened
        transaction.rollback()


@pytest.fixture(scope="session")
def broker(home: Path) -> Iterator[EmbeddedBroker]:
    from energy_cloud_dagster.embedded.broker import EmbeddedBroker

    server = EmbeddedBroker(home / "broker")
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def chain(home: Path) -> Iterator[EmbeddedChain]:
    from energy_cloud_dagster.embedded.chain import EmbeddedChain

    node = EmbeddedChain(home / "chain")
    node.start()
    yield node
    node.stop()


@pytest.fixture(scope="session", params=["eth-tester", "anvil"])
def each_chain(request: pytest.FixtureRequest, home: Path) -> Iterator[EmbeddedChain]:
    """A chain of either kind, for what must hold on both."""
    from energy_cloud_dagster.embedded.chain import EmbeddedChain, anvil_binary

    if request.param == "anvil" and anvil_binary() is None:
        pytest.skip("anvil is not on PATH (npm install -g @foundry-rs/anvil)")
    node = EmbeddedChain(home / f"chain-{request.param}", prefer=request.param)
    node.start()
    yield node
    node.stop()
