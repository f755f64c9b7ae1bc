"""`energy-cloud serve`: the API alone."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from energy_cloud_dagster.domain.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from energy_cloud_dagster.settings import Settings

_TARGET = "energy_cloud_dagster.api.app:from_environment"


def serve(
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port; by default ENERGY_CLOUD_API_PORT.")] = None,
    host: Annotated[str | None, typer.Option(help="Address; by default ENERGY_CLOUD_BIND_HOST.")] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that answer.")] = 1,
) -> None:
    """Serve the HTTP API until Ctrl-C.

    It reads the database of ENERGY_CLOUD_DATABASE_URL; without one, the embedded database under ENERGY_CLOUD_HOME is
    started for as long as the API runs.

    Example: energy-cloud serve --port 8000
    """
    from energy_cloud_dagster.cli import logs
    from energy_cloud_dagster.cli.home_database import home_database, require_migrated
    from energy_cloud_dagster.settings import load_settings

    given = {"api_port": port, "bind_host": host}
    settings = load_settings(**{name: value for name, value in given.items() if value is not None})
    logs.configure(settings)
    if settings.database_url.get_secret_value():
        try:
            require_migrated(settings.database_url.get_secret_value())
        except DatabaseUnavailable as error:
            # The API may start before its database; /health/ready says when both are there.
            typer.echo(f"energy-cloud: {error}; serving all the same", err=True)
    with home_database(settings, share=False) as filled:
        _run(filled, workers)


def _bootstrap(settings: Settings) -> None:
    from energy_cloud_dagster.adapters import accounts, database

    engine = database.make_engine(settings.database_url.get_secret_value(), pool_size=1)
    try:
        with engine.begin() as connection:
            generated = accounts.bootstrap_admin(connection, settings.admin_password.get_secret_value())
    except DatabaseUnavailable:
        return
    finally:
        engine.dispose()
    if generated is not None:
        typer.echo(f"Account admin, password {generated} (shown this once)")


def _run(settings: Settings, workers: int) -> None:
    from granian import Granian
    from granian.constants import Interfaces
    from granian.log import LogLevels

    from energy_cloud_dagster.api.security import signing_secret
    from energy_cloud_dagster.embedded.claims import require_free_port
    from energy_cloud_dagster.embedded.parts import child_environment

    port = settings.port("api")
    require_free_port("The API", port, "ENERGY_CLOUD_API_PORT")
    _bootstrap(settings)
    # Each worker is a process of its own and builds the application from its environment.
    os.environ.update(child_environment(settings))
    signing_secret(settings)
    typer.echo(f"API http://{settings.bind_host}:{port}/docs")
    server = Granian(
        _TARGET,
        address=settings.bind_host,
        port=port,
        interface=Interfaces.ASGI,
        workers=workers,
        factory=True,
        log_level=LogLevels.warning,
        workers_kill_timeout=10,
    )
    server.serve()
