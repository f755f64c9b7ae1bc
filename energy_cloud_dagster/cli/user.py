"""`energy-cloud user`: the accounts of people and programs."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import sqlalchemy as sa

    from energy_cloud_dagster.adapters.accounts import Account

app = typer.Typer(no_args_is_help=True, help="Add, list and disable accounts.")

AsJson = Annotated[bool, typer.Option("--json", help="Print machine-readable output.")]
Name = Annotated[str, typer.Argument(help="Name of the account.")]


@app.command()
def add(
    username: Name,
    role: Annotated[str, typer.Option(help="admin, operator, trader, auditor, device or viewer.")] = "viewer",
    participant: Annotated[str | None, typer.Option(help="Whose meters, trades and evidence it sees.")] = None,
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password from a line.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make an account. Without --password-stdin a password is generated and printed once.

    Example: energy-cloud user add ann --role trader --participant HOME-01
    """
    from energy_cloud_dagster.adapters import accounts

    given = sys.stdin.readline().rstrip("\r\n") if password_stdin else None
    password = secrets.token_urlsafe(18) if given is None else given
    with _database() as connection:
        made = accounts.add(connection, username, password, role, participant_id=participant)
    if as_json:
        _print(_document(made) | ({"password": password} if given is None else {}))
    else:
        shown = f", password {password} (shown this once)" if given is None else ""
        typer.echo(f"Account {made.username}, role {made.role}{shown}")


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List all accounts.

    Example: energy-cloud user list --json
    """
    from energy_cloud_dagster.adapters import accounts

    with _database() as connection:
        found = accounts.everyone(connection)
    if as_json:
        _print([_document(account) for account in found])
        return
    for account in found:
        state = "disabled" if account.disabled else "active"
        typer.echo(f"{account.username:<24} {account.role:<9} {account.participant_id or '-':<16} {state}")


@app.command()
def disable(
    username: Name,
    undo: Annotated[bool, typer.Option("--undo", help="Open it again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Close an account: its logins fail, and its tokens are refused within a second.

    Example: energy-cloud user disable ann
    """
    from energy_cloud_dagster.adapters import accounts

    with _database() as connection:
        changed = accounts.set_disabled(connection, username, disabled=not undo)
    if as_json:
        _print(_document(changed))
    else:
        typer.echo(f"Account {changed.username} is {'open again' if undo else 'disabled'}")


@contextmanager
def _database() -> Iterator[sa.Connection]:
    """Yield a connection whose work is committed at the end."""
    from energy_cloud_dagster.adapters.database import make_engine
    from energy_cloud_dagster.cli.home_database import home_database
    from energy_cloud_dagster.settings import load_settings

    with home_database(load_settings()) as settings:
        engine = make_engine(settings.database_url.get_secret_value(), pool_size=1)
        try:
            with engine.begin() as connection:
                yield connection
        finally:
            engine.dispose()


def _document(account: Account) -> dict[str, Any]:
    from energy_cloud_dagster.domain.intervals import rfc3339

    return {
        "username": account.username,
        "role": account.role,
        "participantId": account.participant_id,
        "disabled": account.disabled,
        "createdAt": rfc3339(account.created_at),
    }


def _print(document: Any) -> None:
    typer.echo(json.dumps(document, indent=2))
