from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from energy_cloud_dagster.adapters import database
from energy_cloud_dagster.adapters.tables import SCHEMAS, metadata
from energy_cloud_dagster.domain.errors import DatabaseUnavailable, Misconfigured
from energy_cloud_dagster.migrations.scope import include_name

if TYPE_CHECKING:
    from energy_cloud_dagster.embedded.postgres import EmbeddedPostgres


@pytest.fixture
def fresh_url(postgres: EmbeddedPostgres, request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"ec_{abs(hash(request.node.name)) % 10**8}"
    postgres.ensure_database(name)
    yield postgres.url(name)
    admin = database.make_engine(postgres.url("postgres"))
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text(f"drop database {name} with (force)"))
    admin.dispose()


def differences(url: str) -> list[object]:
    engine = database.make_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={"include_schemas": True, "include_name": include_name, "compare_server_default": True},
        )
        found = list(compare_metadata(context, metadata))
    engine.dispose()
    return found


def test_head_equals_the_table_definitions_whatever_ingest_and_dbt_create(fresh_url: str) -> None:
    database.upgrade(fresh_url)
    engine = database.make_engine(fresh_url)
    with engine.begin() as connection:
        connection.execute(sa.text("select raw.ensure_reading_day('2026-11-22')"))
        connection.execute(sa.text("create schema marts"))
        connection.execute(sa.text("create table marts.site_hourly (kwh double precision)"))
        by_day = connection.execute(
            sa.text("select partstrat from pg_partitioned_table where partrelid = 'raw.reading'::regclass")
        ).scalar_one()
    engine.dispose()
    assert by_day in ("r", b"r")
    assert differences(fresh_url) == []


def test_a_missing_column_is_found(fresh_url: str) -> None:
    database.upgrade(fresh_url)
    engine = database.make_engine(fresh_url)
    with engine.begin() as connection:
        connection.execute(sa.text("alter table registry.region drop column grid_id"))
    engine.dispose()
    assert len(differences(fresh_url)) == 1


def test_status_before_and_after_and_upgrading_twice_changes_nothing(fresh_url: str) -> None:
    before = database.status(fresh_url)
    assert before.current is None
    assert not before.up_to_date
    assert before.pending[-1] == before.head
    database.upgrade(fresh_url)
    database.upgrade(fresh_url)
    after = database.status(fresh_url)
    assert after.current == after.head
    assert after.up_to_date


def test_concurrent_upgrades_take_turns(fresh_url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(database.upgrade, [fresh_url] * 4))
    assert database.status(fresh_url).up_to_date


def test_downgrade_leaves_nothing_behind(fresh_url: str) -> None:
    database.upgrade(fresh_url)
    engine = database.make_engine(fresh_url)
    with engine.connect() as connection:
        command.downgrade(database.alembic_config(connection), "base")
    with engine.connect() as connection:
        assert not set(SCHEMAS) & set(sa.inspect(connection).get_schema_names())
    engine.dispose()


def test_sessions_speak_utc(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        assert connection.execute(sa.text("show timezone")).scalar_one() == "UTC"


@pytest.mark.parametrize(
    ("url", "part"),
    [("", "is empty"), ("not a url", "is no URL"), ("mysql://localhost/x", "only postgresql://")],
)
def test_a_wrong_url_is_misconfigured(url: str, part: str) -> None:
    with pytest.raises(Misconfigured, match=part):
        database.make_engine(url)


def test_a_silent_server_is_named_without_its_password() -> None:
    engine = database.make_engine("postgresql://someone:secret@127.0.0.1:1/energy")
    with pytest.raises(DatabaseUnavailable, match=r"database energy at 127\.0\.0\.1:1 does not answer") as caught:
        engine.connect()
    assert "secret" not in str(caught.value)


def test_a_missing_database_is_named(postgres: EmbeddedPostgres) -> None:
    with pytest.raises(DatabaseUnavailable, match="cannot be opened"):
        database.upgrade(postgres.url("no_such_database"))


def test_driver_is_the_same_session(connection: sa.Connection) -> None:
    pid = connection.execute(sa.text("select pg_backend_pid()")).scalar_one()
    assert database.driver(connection).info.backend_pid == pid


def test_a_connection_that_died_in_the_pool_is_made_again(database_url: str, engine: sa.Engine) -> None:
    resting = database.make_engine(database_url, pool_size=1)
    pid = sa.text("select pg_backend_pid()")
    with resting.connect() as connection:
        first = connection.execute(pid).scalar_one()
    with engine.begin() as connection:
        connection.execute(sa.text("select pg_terminate_backend(:pid, 5000)"), {"pid": first})
    with resting.connect() as connection:
        assert connection.execute(pid).scalar_one() != first
    resting.dispose()
