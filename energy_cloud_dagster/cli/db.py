"""`energy-cloud db`: migrations of the database, and its archive."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from energy_cloud_dagster.adapters.database import SchemaStatus

app = typer.Typer(no_args_is_help=True, help="Migrate the database, say where it stands, restore archived days.")

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


@app.command()
def archive_status(as_json: AsJson = False) -> None:
    """List the days of readings that lie in the archive, and whether they are in the database too.

    Example: energy-cloud db archive-status
    """
    from energy_cloud_dagster.adapters import archive
    from energy_cloud_dagster.adapters.database import make_engine
    from energy_cloud_dagster.cli.home_database import home_database
    from energy_cloud_dagster.settings import load_settings

    with (
        home_database(load_settings()) as settings,
        make_engine(settings.database_url.get_secret_value()).begin() as connection,
    ):
        found = archive.archived(connection)
    if as_json:
        print(json.dumps([one._asdict() for one in found], default=lambda value: value.isoformat()))
        return
    for one in found:
        where = "in the database too" if one.dropped_at is None else f"dropped {one.dropped_at:%Y-%m-%d %H:%M}"
        print(f"{one.day}  {one.rows:>12,} rows  {one.bytes:>14,} bytes  revision {one.revision}  {where}  {one.uri}")
    rows, size = sum(one.rows for one in found), sum(one.bytes for one in found)
    print(f"{len(found)} days archived, {rows:,} rows, {size:,} bytes.")


@app.command()
def restore(
    day: Annotated[str, typer.Argument(help="Day in UTC, such as 2026-03-01.")],
    keep_days: Annotated[int, typer.Option(min=0, help="Days for which retention leaves it alone.")] = 7,
) -> None:
    """Bring a day of readings back from the archive, as it was.

    Example: energy-cloud db restore 2026-03-01
    """
    from datetime import UTC, datetime, timedelta

    from energy_cloud_dagster.adapters import archive
    from energy_cloud_dagster.adapters.database import make_engine
    from energy_cloud_dagster.cli.home_database import home_database
    from energy_cloud_dagster.settings import load_settings

    wanted = archive.parse_day(day)
    with home_database(load_settings()) as settings:
        store = archive.ArchiveStore.open(settings.archive_url, settings.home)
        keep_until = datetime.now(UTC) + timedelta(days=keep_days)
        with make_engine(settings.database_url.get_secret_value()).begin() as connection:
            found = archive.restore(connection, store, wanted, keep_until=keep_until)
    print(
        f"{found.day} is back: {found.rows:,} rows from {found.uri}; retention leaves it until {keep_until:%Y-%m-%d}."
    )


@app.command()
def timescale() -> None:
    """Turn the readings into a hypertable of TimescaleDB, where the server has it; stop ingest first. Experimental.

    Example: energy-cloud db timescale
    """
    from energy_cloud_dagster.adapters import timescale as hypertable
    from energy_cloud_dagster.adapters.database import make_engine
    from energy_cloud_dagster.cli.home_database import home_database
    from energy_cloud_dagster.settings import load_settings

    with (
        home_database(load_settings()) as settings,
        make_engine(settings.database_url.get_secret_value()).begin() as connection,
    ):
        hypertable.convert(connection)
    print("raw.reading is a hypertable now.")


def _show(found: SchemaStatus, as_json: bool) -> None:
    if as_json:
        print(json.dumps({**asdict(found), "upToDate": found.up_to_date}))
    elif found.up_to_date:
        print(f"The database is at {found.current}, the newest revision.")
    else:
        missing = ", ".join(found.pending)
        print(f"The database is at {found.current or 'nothing'}; missing: {missing}. Run `energy-cloud db upgrade`.")
