"""`energy-cloud db`: migrations of the database."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from energy_cloud_dagster.adapters.database import SchemaStatus

app = typer.Typer(no_args_is_help=True, help="Migrate the database, or say where it stands.")

AsJson = Annotated[bool, typer.Option("--json", help="Print machine-readable output.")]


@app.command()
def upgrade(as_json: AsJson = False) -> None:
    """Bring the database to the newest revision; safe to run again, and several times at once.

    Without ENERGY_CLOUD_DATABASE_URL it is the embedded one under ENERGY_CLOUD_HOME.

    Example: energy-cloud db upgrade
    """
    from energy_cloud_dagster.adapters import database
    from energy_cloud_dagster.cli.home_database import home_database
    from energy_cloud_dagster.settings import load_settings

    with home_database(load_settings()) as settings:
        url = settings.database_url.get_secret_value()
        database.upgrade(url)
        _show(database.status(url), as_json)


@app.command()
def status(as_json: AsJson = False) -> None:
    """Say which revision the database has and which are missing; exit status 1 where any is.

    Example: energy-cloud db status --json
    """
    from energy_cloud_dagster.adapters import database
    from energy_cloud_dagster.cli.home_database import home_database
    from energy_cloud_dagster.settings import load_settings

    with home_database(load_settings()) as settings:
        found = database.status(settings.database_url.get_secret_value())
    _show(found, as_json)
    if not found.up_to_date:
        raise typer.Exit(1)


def _show(found: SchemaStatus, as_json: bool) -> None:
    if as_json:
        print(json.dumps({**asdict(found), "upToDate": found.up_to_date}))
    elif found.up_to_date:
        print(f"The database is at {found.current}, the newest revision.")
    else:
        missing = ", ".join(found.pending)
        print(f"The database is at {found.current or 'nothing'}; missing: {missing}. Run `energy-cloud db upgrade`.")
