"""Accounts from the command line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner, Result

from energy_cloud_dagster.adapters import accounts
from energy_cloud_dagster.cli.user import app
from energy_cloud_dagster.domain.errors import EnergyCloudError

if TYPE_CHECKING:
    from collections.abc import Callable

    import sqlalchemy as sa

    from energy_cloud_dagster.embedded.postgres import EmbeddedPostgres


@pytest.fixture(scope="module")
def users_engine(postgres: EmbeddedPostgres) -> sa.Engine:
    from energy_cloud_dagster.adapters.database import make_engine, upgrade

    postgres.ensure_database("energy_cloud_users")
    url = postgres.url("energy_cloud_users")
    upgrade(url)
    return make_engine(url)


@pytest.fixture
def run(users_engine: sa.Engine) -> Callable[..., Result]:
    url = users_engine.url.render_as_string(hide_password=False)

    def invoke(*arguments: str, given: str | None = None) -> Result:
        return CliRunner().invoke(app, arguments, input=given, env={"ENERGY_CLOUD_DATABASE_URL": url})

    return invoke


def test_an_account_is_added_listed_disabled_and_opened_again(
    run: Callable[..., Result], users_engine: sa.Engine
) -> None:
    added = run("add", "ann", "--role", "operator", "--json")
    assert added.exit_code == 0
    document = json.loads(added.stdout)
    assert (document["username"], document["role"], document["disabled"]) == ("ann", "operator", False)
    with users_engine.connect() as connection:
        assert accounts.authenticate(connection, "ann", document["password"]) is not None
    listed = json.loads(run("list", "--json").stdout)
    assert {key: value for key, value in document.items() if key != "password"} in listed
    assert json.loads(run("disable", "ann", "--json").stdout)["disabled"] is True
    assert "disabled" in run("list").stdout
    assert run("disable", "ann", "--undo").stdout == "Account ann is open again\n"
    assert run("disable", "ann").stdout == "Account ann is disabled\n"


def test_a_password_from_standard_input_is_not_printed(run: Callable[..., Result], users_engine: sa.Engine) -> None:
    added = run("add", "bob", "--password-stdin", given="correct horse battery\n")
    assert added.stdout == "Account bob, role viewer\n"
    with users_engine.connect() as connection:
        assert accounts.authenticate(connection, "bob", "correct horse battery") is not None
    assert "shown this once" in run("add", "cid").stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("add", "dan", "--role", "king"), "king is no role"),
        (("add", "dan", "--participant", "HOME-99"), "no participant HOME-99"),
        (("add", "dan", "--password-stdin"), "a password has"),
        (("disable", "nobody"), "no account named nobody"),
    ],
)
def test_a_fault_is_one_sentence(run: Callable[..., Result], arguments: tuple[str, ...], sentence: str) -> None:
    failed = run(*arguments, given="\n")
    assert isinstance(failed.exception, EnergyCloudError)
    assert sentence in str(failed.exception)
