"""Real parts, started once for the whole run: a PostgreSQL, a broker and a chain under a short temporary home."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from energy_cloud_dagster.domain.intervals import HOUR

if TYPE_CHECKING:
    import dagster as dg
    import sqlalchemy as sa

    from energy_cloud_dagster.embedded.broker import EmbeddedBroker
    from energy_cloud_dagster.embedded.chain import EmbeddedChain
    from energy_cloud_dagster.embedded.postgres import EmbeddedPostgres
    from energy_cloud_dagster.settings import Settings


# What lands is judged on the same examples every time; elsewhere each run draws new ones.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")

#: Set where every part is installed: a test that is skipped all the same has lost its reason, and fails.
NO_SKIPS = os.environ.get("ENERGY_CLOUD_TEST_NO_SKIPS") == "1"


#: What shares a costly fixture of the session, by folder or file; the longest first.
TOGETHER = {
    **dict.fromkeys(("cli",), "cli"),
    **dict.fromkeys(("assets", "checks", "dbt", "sensors", "resources"), "pipeline"),
    **dict.fromkeys(("test_audit_verify_batch.py", "test_energy_buckets.py"), "pipeline"),
    **dict.fromkeys(("api",), "api"),
}
LONGEST_FIRST = ["cli", "pipeline", "api"]


def group_of(nodeid: str) -> str:
    """Return what runs in one worker: a group of files, or a file of its own."""
    file = nodeid.partition("::")[0]
    return next((TOGETHER[part] for part in file.split("/") if part in TOGETHER), file)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {group: place for place, group in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(group_of(item.nodeid), len(places)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand out groups; the marks of pytest-xdist that would do so go unnoticed under pytest 9.2."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return Groups(config, log)


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
    """One server for the whole run; what it holds is thrown away, so it need not reach the disk."""
    from energy_cloud_dagster.embedded.postgres import SERVER_SETTINGS, EmbeddedPostgres

    server = EmbeddedPostgres(home / "pg")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SERVER_SETTINGS, "fsync", "off")
        patch.setitem(SERVER_SETTINGS, "full_page_writes", "off")
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


@dataclass
class Pipeline:
    """The whole orchestration plane in a home of its own: three weeks of history, a fitted model, six hours run."""

    settings: Settings
    server: EmbeddedPostgres
    chain: EmbeddedChain
    instance: dg.DagsterInstance
    dagster_home: str
    #: First and last partition of the run; the first two settle nothing, for nobody cleared their deliveries.
    first: datetime
    last: datetime
    range_run: str = ""

    @property
    def settled(self) -> list[datetime]:
        """The deliveries that the run settled."""
        return [hour for hour in self.hours if hour >= self.first + 2 * HOUR]

    @property
    def hours(self) -> list[datetime]:
        return [self.first + index * HOUR for index in range(int((self.last - self.first) / HOUR) + 1)]

    @property
    def variables(self) -> dict[str, str]:
        from energy_cloud_dagster.embedded.parts import child_environment

        return {
            **child_environment(self.settings),
            "DAGSTER_HOME": self.dagster_home,
            "DAGSTER_DISABLE_TELEMETRY": "yes",
        }

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """Open a transaction on the platform's database as assets do."""
        from energy_cloud_dagster.resources import Database

        with Database(url=self.settings.database_url.get_secret_value()).begin() as connection:
            yield connection

    def run(self, first: datetime, last: datetime | None = None) -> str:
        from energy_cloud_dagster.cli.pipeline import run_hours

        return run_hours(self.instance, first, last or first)

    def job(self, name: str, hour: datetime, **how: object) -> dg.ExecuteInProcessResult:
        """Run a job for one hour in this process and return its result, whether it succeeded or not."""
        from energy_cloud_dagster.definitions import defs
        from energy_cloud_dagster.partitions import hour_key

        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        return defs.resolve_job_def(name).execute_in_process(
            instance=self.instance, raise_on_error=False, partition_key=hour_key(hour), run_config=quiet, **how
        )

    def asked_by(self, sensor: dg.SensorDefinition) -> list[dg.RunRequest] | str:
        """Evaluate a sensor; return the runs that it asks for, or why it asks for none."""
        import dagster as dg

        from energy_cloud_dagster.definitions import defs
        from energy_cloud_dagster.resources import Database

        with dg.build_sensor_context(
            instance=self.instance, definitions=defs, resources={"database": Database()}
        ) as context:
            found = sensor.evaluate_tick(context)
        return list(found.run_requests or ()) or str(found.skip_message)

    def digests(self, *run_ids: str) -> dict[tuple[str, str], str]:
        """Return the digest of every asset and partition that the runs materialised; a view's is its data version."""
        import dagster as dg

        found = {}
        for run_id in run_ids:
            records = self.instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
            for record in records.records:
                made = record.asset_materialization
                assert made is not None
                value = made.metadata.get("digest")
                digest = str(value.value) if value else (made.tags or {})["dagster/data_version"]
                found[made.asset_key.to_user_string(), str(made.partition)] = digest
        return found

    def checks(self, run_id: str) -> dict[str, dg.AssetCheckEvaluation]:
        """Return the evaluations of a run's checks, by name."""
        import dagster as dg

        records = self.instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records
        found = [record.event_log_entry.asset_check_evaluation for record in records]
        return {one.check_name: one for one in found if one is not None}

    def keep(self, name: str) -> None:
        """Keep the database as it is now under ``name``."""
        self._copy("pipeline", name)

    def restore(self, name: str) -> None:
        """Bring the database back to what was kept; its name stays, for dbt's parsed project holds it."""
        self._copy(name, "pipeline")

    def _copy(self, source: str, target: str) -> None:
        import psycopg

        from energy_cloud_dagster.resources import database

        database._engine.cache_clear()
        with psycopg.connect(self.server.url("postgres"), autocommit=True) as connection:
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname in (%s, %s)", [source, target]
            )
            connection.execute(f"drop database if exists {target} with (force)")
            connection.execute(f"create database {target} template {source}")


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def finished_pipeline(home: Path, postgres: EmbeddedPostgres) -> Iterator[Pipeline]:
    from pydantic import SecretStr

    from energy_cloud_dagster.cli import bringup
    from energy_cloud_dagster.embedded.chain import EmbeddedChain
    from energy_cloud_dagster.embedded.dagster_home import write_dagster_home
    from energy_cloud_dagster.settings import Settings

    folder = home / "p"
    for name in ("pipeline", "pipeline_dagster"):
        postgres.ensure_database(name)
    chain = EmbeddedChain(folder / "chain")
    with ExitStack() as stack:
        stack.callback(chain.stop)
        chain.start()
        settings = Settings(
            home=folder,
            database_url=SecretStr(postgres.url("pipeline")),
            dagster_database_url=SecretStr(postgres.url("pipeline_dagster")),
            chain_rpc_url=chain.rpc_url,
            chain_private_key=SecretStr(chain.private_key),
            replay=True,
        )
        dagster_home = str(write_dagster_home(folder, postgres.url("pipeline_dagster")))
        first = datetime(2026, 4, 6, 7, tzinfo=UTC)  # four in the afternoon in Seoul
        made = Pipeline(settings, postgres, chain, None, dagster_home, first, first + 5 * HOUR)  # type: ignore[arg-type]
        with _environment(made.variables):
            from energy_cloud_dagster.cli import pipeline

            made.instance = stack.enter_context(pipeline.instance())
            start = first - timedelta(weeks=3)
            bringup.prepare(settings, start)
            bringup.load_history(settings, start, first + 8 * HOUR, lambda _: None)
            pipeline.validate_history(start, first)
            pipeline.fit_day(made.instance, (first - timedelta(days=1)).replace(hour=0))
            made.keep("pipeline_before")
            made.range_run = made.run(made.first, made.last)
            made.keep("pipeline_after")
        yield made


@pytest.fixture
def pipeline(finished_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """The pipeline after its run, for tests that only read; its settings are those of the process meanwhile."""
    for name, value in finished_pipeline.variables.items():
        monkeypatch.setenv(name, value)
    return finished_pipeline


@pytest.fixture
def altered(pipeline: Pipeline) -> Iterator[Pipeline]:
    """The same for tests that write: the database is brought back afterwards. The chain keeps what it was sent."""
    yield pipeline
    pipeline.restore("pipeline_after")
